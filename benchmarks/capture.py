"""Measure which converted models PyTorch can capture and transform, and say why the others cannot be.

Every model is converted, exported by ``torch.export`` (also with a free batch size, where it takes any), run on a fake
CUDA device, compiled as one graph and compared with ONNX Runtime, and transformed by vmap, jvp and double backward.
Models in the results file are not tried again; ``--table`` writes the page of results instead::

    python benchmarks/capture.py --results capture.jsonl
    python benchmarks/capture.py --results capture.jsonl --part torchvision --only "^(resnet18|vit_b_16)$"
    python benchmarks/capture.py --results capture.jsonl --table docs/capture.md
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from capture_cases import Build, Case, conformance_cases, contrib, repeated, torchvision_networks, zoo
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from onnxinfo.models.studies.script import as_script

#: Largest difference between a compiled model and ONNX Runtime, relative to the largest value.
TOLERANCE = 1e-4


def exported(case: Case) -> None:
    """Export the model for the inputs' shapes."""
    program = torch.export.export(case.module, case.inputs, strict=False)
    _same(program.module()(*case.inputs), case.module(*case.inputs))


def exported_for_any_batch(case: Case) -> None:
    """Export the model with a free batch size, and run it at another one."""
    batch = torch.export.Dim("batch", min=2, max=4096)
    shapes = tuple({0: batch * len(x) if len(x) > 1 else batch} if each else None for x, each in _paired(case))
    two, three = (repeated(case.inputs, case.free, times) for times in (2, 3))
    program = torch.export.export(case.module, two, dynamic_shapes=shapes, strict=False)
    _same(program.module()(*three), case.module(*three))


def _paired(case: Case) -> Iterator[tuple[Tensor, bool]]:
    return zip(case.inputs, case.free, strict=True)


def on_fake_cuda(case: Case) -> None:
    """Run the model on tensors without data that say they are on a CUDA device: nothing can be read back."""
    module = copy.deepcopy(case.module)
    with FakeTensorMode():
        for each in module.modules():
            for held in (each._parameters, each._buffers):
                held.update({name: _faked(value) for name, value in held.items() if value is not None})
        outputs = module(*(_faked(x) for x in case.inputs))
    elsewhere = [y.device for y in outputs if isinstance(y, Tensor) and y.device.type != "cuda"]
    if case.inputs and elsewhere:
        raise ValueError(f"an output is on {elsewhere[0]}")


def _faked(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    fake = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")
    return nn.Parameter(fake, value.requires_grad) if isinstance(value, nn.Parameter) else fake


def compiled(case: Case, backend: str = "aot_eager") -> None:
    """Compile the model as one graph, and compare it with ONNX Runtime."""
    torch._dynamo.reset()
    with torch.no_grad():
        found = torch.compile(case.module, fullgraph=True, backend=backend)(*case.inputs)
    for ours, theirs in zip(found, case.expected, strict=True):
        largest = theirs.double().abs().nan_to_num(0, 0, 0).max().item() if theirs.numel() else 0.0
        torch.testing.assert_close(
            ours.double(), theirs.double(), rtol=0, atol=TOLERANCE * max(largest, 1e-30), equal_nan=True
        )


def vectorized(case: Case) -> None:
    """Run the model under vmap over a new axis of its float inputs."""
    axes = tuple(0 if _is_float(x) else None for x in case.inputs)
    stacked = tuple(torch.stack([x, x]) if _is_float(x) else x for x in case.inputs)
    if any(axis == 0 for axis in axes) and _float_outputs(case.module)(*case.inputs):
        torch.func.vmap(_float_outputs(case.module), in_dims=axes, randomness="different")(*stacked)


def with_tangents(case: Case) -> None:
    """Compute a Jacobian-vector product in forward mode."""
    floats = [i for i, x in enumerate(case.inputs) if _is_float(x)]
    if floats and _float_outputs(case.module)(*case.inputs):
        given = tuple(case.inputs[i] for i in floats)
        torch.func.jvp(_of_floats(case, floats), given, tuple(torch.ones_like(x) for x in given))


def differentiated_twice(case: Case) -> None:
    """Differentiate the squared norm of a gradient."""
    floats = [i for i, x in enumerate(case.inputs) if _is_float(x)]
    leaves = [case.inputs[i].detach().clone().requires_grad_() for i in floats]
    outputs = [y for y in _of_floats(case, floats)(*leaves) if y.requires_grad] if leaves else []
    if not outputs:
        return
    total = sum(y.double().square().sum() for y in outputs)
    gradients = torch.autograd.grad(total, leaves, create_graph=True, allow_unused=True)
    twice = [g.double().square().sum() for g in gradients if g is not None and g.requires_grad]
    if twice:
        torch.autograd.grad(sum(twice), leaves, allow_unused=True)


#: What is tried with each model.
WAYS: dict[str, Callable[[Case], None]] = {
    "export": exported,
    "export, free batch": exported_for_any_batch,
    "fake CUDA": on_fake_cuda,
    "compile": compiled,
    "vmap": vectorized,
    "jvp": with_tangents,
    "double backward": differentiated_twice,
}
#: Parts of the corpus, and their names on the page.
PARTS: dict[str, tuple[str, Callable[[], Iterator[tuple[str, Build]]]]] = {
    "zoo": ("bundled networks", zoo),
    "conformance": ("ONNX's test cases", conformance_cases),
    "contrib": ("ONNX Runtime's operators", contrib),
    "torchvision": ("torchvision's networks", torchvision_networks),
}


def _is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def _float_outputs(module: fx.GraphModule) -> Callable[..., tuple[Any, ...]]:
    return lambda *inputs: tuple(y for y in module(*inputs) if _is_float(y))


def _of_floats(case: Case, positions: Sequence[int]) -> Callable[..., tuple[Any, ...]]:
    """The model as a function of its float inputs."""

    def function(*floats: Tensor) -> tuple[Any, ...]:
        inputs = list(case.inputs)
        for i, x in zip(positions, floats, strict=True):
            inputs[i] = x
        return _float_outputs(case.module)(*inputs)

    return function


def _same(found: Sequence[Any], expected: Sequence[Any]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True)


def attempt(case: Case, way: str) -> str:
    """Return the reason why a model does not pass, in one line; empty if it does."""
    try:
        WAYS[way](case)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return ""


def record_of(part: str, name: str, build: Build, ways: Sequence[str]) -> dict[str, Any] | None:
    """Try a model in every way that applies; None if it does not belong to the corpus."""
    case = build()
    if case is None:
        return None
    used = [way for way in ways if way != "export, free batch" or any(case.free)]
    reasons = {way: attempt(case, way)[:300] for way in used}
    reads = [f"{operator.removeprefix('ai.onnx.')} reads values" for operator in case.reads if any(reasons.values())]
    return {"part": part, "name": name, "ways": reasons, "reads": reads}


def read(results: Path) -> list[dict[str, Any]]:
    """Read the records of a results file; for duplicates, the last record counts."""
    lines = results.read_text().splitlines() if results.exists() else []
    return list({(r["part"], r["name"]): r for r in map(json.loads, lines)}.values())


def sweep(results: Path, part: str, only: str, ways: Sequence[str], share: tuple[int, int], seconds: float) -> None:
    """Try what is missing from the results, for about as long as allowed."""
    done = {(r["part"], r["name"]) for r in read(results)}
    began = time.monotonic()
    for position, (name, build) in enumerate(PARTS[part][1]()):
        if (part, name) in done or not re.search(only, name) or position % share[1] != share[0]:
            continue
        if time.monotonic() - began > seconds:
            return
        record = record_of(part, name, build, ways) or {"part": part, "name": name, "ways": {}, "reads": []}
        with results.open("a") as file:
            file.write(json.dumps(record) + "\n")
        for way, reason in record["ways"].items():
            if reason:
                print(f"{way}: {name}: {reason}", flush=True)


def counts(records: Sequence[Mapping[str, Any]], way: str) -> tuple[int, int]:
    """Return how many models pass in a way, and how many it applies to."""
    reasons = [r["ways"][way] for r in records if way in r["ways"]]
    return reasons.count(""), len(reasons)


def page(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the documentation page of a sweep's results."""
    lines = [
        "# Export, compilation and transformations",
        "",
        "Converted models tried by `python benchmarks/capture.py`: of each kind, how many pass, and how many the way",
        "applies to.",
        "",
        "| way | " + " | ".join(PARTS[part][0] for part in _parts(records)) + " | share |",
        "| --- |" + " ---: |" * (len(_parts(records)) + 1),
    ]
    for way in WAYS:
        cells = [counts([r for r in records if r["part"] == part], way) for part in _parts(records)]
        passed, total = map(sum, zip(*cells, strict=True))
        shown = [f"{some} of {every}" if every else "" for some, every in cells]
        lines.append(f"| {way} | " + " | ".join([*shown, f"{passed / max(total, 1):.1%}"]) + " |")
    lines += ["", *_left(records), *_EXPLAINED, "", "| reason | ways | models |", "| --- | --- | --- |"]
    alike: dict[str, tuple[list[str], list[str]]] = {}
    for r in sorted(records, key=lambda r: str(r["name"])):
        for way, reason in r["ways"].items():
            if reason:
                ways, names = alike.setdefault(_shortened(r["reads"], reason), ([], []))
                ways.append(way)
                names.append(f"`{r['name']}`")
    for reason, (ways, names) in sorted(alike.items()):
        lines.append(f"| {reason} | {'; '.join(dict.fromkeys(ways))} | {', '.join(dict.fromkeys(names))} |")
    return "\n".join(lines) + "\n"


def _left(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say how many of ONNX's test cases have not been tried yet."""
    total = sum(1 for _ in conformance_cases())
    tried = sum(r["part"] == "conformance" for r in records)
    if tried >= total:
        return []
    return [f"{tried:,} of ONNX's {total:,} test cases have been tried, in an order without system.", ""]


def _parts(records: Sequence[Mapping[str, Any]]) -> list[str]:
    return [part for part in PARTS if any(r["part"] == part for r in records)]


def _shortened(reads: Sequence[str], reason: str) -> str:
    """Shorten a reason: the operator, and the first sentence; a node that reads values needs no other reason."""
    if reads:
        return "; ".join(reads)
    short = re.sub(r"^ConversionError: node '.*?': operator \S+?\.(\w+) \(opset \d+\) cannot run: ", r"\1: ", reason)
    short = re.split(r"(?<=[.!?]) |; | While executing|, they cannot| Explanation", short)[0]
    for pattern, meaning in _MEANINGS.items():
        if re.search(pattern, short):
            return meaning
    return short[:140].replace("|", "\\|").replace("<", "&lt;")


#: What messages of PyTorch mean, where they do not say it.
_MEANINGS = {
    "Constraints violated": "the size of the first axis decides the number of steps, as where a recurrence is unrolled",
    "Guard failed": "the exporter guards against a size that divides a constant shape in another way",
    "unhashable type: non-nested SymInt": "Resize: the first axis itself is resized, to a constant size",
    "Found no NVIDIA driver": "GridSample: PyTorch asks NVIDIA's driver, which a fake device does not have",
    "an output is on cpu": "an output is a number or a constant that belongs to no device",
    "double backwards on deform_conv2d": "DeformConv: torchvision's kernel has no second derivative",
}
_EXPLAINED = [
    "- **export**: `torch.export.export(strict=False)`; the program computes what the module computes.",
    "- **export, free batch**: the same with the size of the first axis left open, for models that take any number of",
    "  samples; exported with two samples, or twice the test case, and run with three.",
    "- **fake CUDA**: the model runs under `FakeTensorMode` on a CUDA device without data: nothing is read back.",
    '- **compile**: `torch.compile(fullgraph=True, backend="aot_eager")`; values within 1e-4 of the largest of ONNX',
    "  Runtime's; for ONNX's test cases, of the converted model's, which agrees with the stored values.",
    "- **vmap**, **jvp**, **double backward**: over, and with respect to, all float inputs.",
    "",
    "Test cases that need the fallback, or whose inputs or outputs are not tensors (sequences, strings), are left out.",
    "Inputs that decide shapes are constants, as in networks.",
    "",
    "## What does not pass",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("capture.jsonl"))
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part of the corpus (repeatable)")
    parser.add_argument("--only", default="", metavar="REGEX", help="only models whose name matches")
    parser.add_argument("--way", choices=WAYS, action="append", help="only this way (repeatable)")
    parser.add_argument("--share", default="0/1", metavar="I/N", help="only every N-th model, from the I-th on")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after about this time")
    parser.add_argument("--table", type=Path, help="write the page of results to this file instead")
    arguments = parser.parse_args()
    if arguments.table:
        arguments.table.write_text(page(read(arguments.results)), encoding="utf-8")
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    first, step = map(int, arguments.share.split("/"))
    for part in arguments.part or PARTS:
        sweep(arguments.results, part, arguments.only, arguments.way or list(WAYS), (first, step), arguments.seconds)


if __name__ == "__main__":
    as_script(main)
