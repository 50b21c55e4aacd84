"""Run every torchvision architecture through export, check and the SID of two layers.

Each builder gets random weights and a small input, is exported by both of PyTorch's exporters, run by ONNX Runtime,
checked as by ``onnxinfo check``, and analyzed at two layers. Each builder runs in a process of its own with limits on
time and memory; builders in the results file are not run again. Needs torchvision and onnxscript::

    python benchmarks/architectures.py --results architectures.jsonl
    python benchmarks/architectures.py --results architectures.jsonl --table docs/architectures.md
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import resource
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from onnxinfo.models.studies.script import as_script

GROUPS = ("classification", "segmentation", "detection", "video", "quantization")
EXPORTERS = ("torchscript", "dynamo")
STAGES = ("build", "export", "onnxruntime", "check", "sid", "done")
# Maximum wall time, as a multiple of the CPU time limit.
_PATIENCE = 20
PRELOADED = [
    "torch.onnx",
    "torchvision",
    "onnxscript",
    "onnxruntime",
    "onnxinfo.workflows.check",
    "onnxinfo.workflows.analyze",
]
# Input shapes by prefix of the builder's name; the first match counts.
SHAPES = {
    "inception_v3|quantized_inception_v3": (1, 3, 96, 96),
    "maxvit_t|alexnet|vgg": (1, 3, 224, 224),
    "vit_h_14": (1, 3, 56, 56),
    "ssd300": (1, 3, 300, 300),
    "ssdlite320": (1, 3, 320, 320),
    "s3d|mvit": (1, 3, 16, 224, 224),
    "mc3|r2plus1d|r3d|swin3d": (1, 3, 4, 64, 64),
    "": (1, 3, 64, 64),
}
# Product of parameters and input values above which a network takes more than minutes.
LARGE = 10**11
DETECTION_SIZE = {"min_size": 64, "max_size": 64}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "vit_h_14": {"image_size": 56},
    "vit_": {"image_size": 64},
    "inception_v3|googlenet|quantized_googlenet|quantized_inception_v3": {"init_weights": False, "aux_logits": False},
    "ssd": {},
    "fasterrcnn|maskrcnn|keypointrcnn|retinanet|fcos": DETECTION_SIZE,
}


def builders() -> dict[str, str]:
    """Group of each builder by name, small networks first."""
    from torchvision import models

    modules = {group: getattr(models, group, models) for group in GROUPS}
    groups = {name: group for group, module in modules.items() for name in models.list_models(module=module)}
    sizes = {name: _size(name) for name in groups}
    return {name: groups[name] for name in sorted(groups, key=lambda name: sizes[name])}


def _size(name: str) -> int:
    from torchvision import models

    weights = models.get_model_weights(name)
    return max((int(weight.meta["num_params"]) for weight in weights), default=0)


def _of(table: dict[str, Any], name: str) -> Any:
    return next((value for pattern, value in table.items() if re.match(pattern, name)), {})


def build(name: str, group: str) -> tuple[Any, Any]:
    """Return a builder's network in inference mode, with one input tensor and tensor outputs, and an input for it."""
    import torch
    from torchvision import models

    torch.manual_seed(0)
    arguments = dict(_of(ARGUMENTS, name))
    if group in ("segmentation", "detection"):
        arguments["weights_backbone"] = None
    if group == "quantization":
        arguments["quantize"] = True
    network = models.get_model(name, weights=None, **arguments).eval()

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: torch.Tensor) -> Any:
            if group == "detection":
                return tuple(self.network([image[0]])[0].values())
            result = self.network(image)
            return result["out"] if group == "segmentation" else result

    return Wrapped().eval(), torch.rand(_of(SHAPES, name))


def export(network: Any, x: Any, exporter: str, file: Path) -> None:
    """Write an ONNX file with the exporter's defaults."""
    import torch

    dynamo = exporter == "dynamo"
    # As a str: given a Path, the older exporter does not store weights in files beside it.
    program = torch.onnx.export(network, (x,), None if dynamo else str(file), input_names=["image"], dynamo=dynamo)
    if dynamo:
        assert program is not None
        program.save(file, external_data=sum(p.numel() for p in network.parameters()) > 4e8)


class Record:
    """Result of one builder with one exporter, stage by stage."""

    def __init__(self, name: str, group: str, exporter: str) -> None:
        self.found: dict[str, Any] = {
            "builder": name,
            "group": group,
            "exporter": exporter,
            "stage": "build",
            "seconds": {},
        }

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.found["stage"] = name
        began = time.monotonic()
        yield
        self.found["seconds"][name] = round(time.monotonic() - began, 1)


def trial(record: Record, folder: Path) -> None:
    """Take one builder through all stages; an exception ends it in the stage that the record names."""
    import onnxinfo
    from onnxinfo.torch_graph.runtime import Session

    name, group, exporter = (record.found[key] for key in ("builder", "group", "exporter"))
    file = folder / f"{exporter}.onnx"
    with record.stage("build"):
        network, x = build(name, group)
    with record.stage("export"):
        export(network, x, exporter, file)
    del network
    with record.stage("onnxruntime"):
        model = onnxinfo.load(file)
        Session(model, threads=1).run({"image": x.numpy()})
    record.found["opset"] = next(o.version for o in model.proto.opset_import if o.domain in ("", "ai.onnx"))
    record.found["nodes"] = len(model.proto.graph.node)
    samples = np.concatenate([x.numpy(), np.random.default_rng(0).random(x.shape, np.float32)])
    with record.stage("check"):
        check = onnxinfo.check_model(model, samples)
        record.found |= {"parameters": check.parameters, "compared": check.compared}
        if check.error is not None:
            raise onnxinfo.VerificationError(check.error)
        assert check.largest is not None
        record.found |= {"difference": check.largest.relative, "tolerance": check.largest.tolerance}
        record.found["others"] = sorted(
            {f"{u.operator}: {u.server}" for u in check.operators if u.server != "onnxinfo"}
        )
    with record.stage("sid"):
        layers = _two(model, samples)
        result = onnxinfo.analyze(model, samples, folder / f"{exporter}.h5", layers=layers, limit=1, device="cpu")
        with onnxinfo.open(result.archive) as archive:
            table = archive[result.run].table("sample")
        record.found["sid"] = dict(zip(map(str, table["layer"]), map(float, table["value"]), strict=True))
        record.found["converged"] = bool(all(table["converged"]))
        if not np.isfinite(list(record.found["sid"].values())).all():
            raise onnxinfo.VerificationError("the SID is not finite")
    record.found["stage"] = "done"


def _two(model: Any, samples: np.ndarray[Any, Any]) -> list[str]:
    """Choose a middle and a late layer among the blocks with parameters; early ones for slow networks.

    Layers with value-dependent shapes, and those that random weights made constant, are skipped.
    """
    from onnxinfo import expose, list_layers
    from onnxinfo.torch_graph.runtime import Session

    layers = [layer for layer in list_layers(model) if layer.default and layer.parameters]
    layers = [layer for layer in layers if layer.shape and all(isinstance(size, int) for size in layer.shape)] or layers
    session = Session(expose(model, [layer.name for layer in layers]), threads=1)
    one, other = (session.run({"image": x[None]}) for x in samples)
    alive = [layer.name for layer in layers if not np.array_equal(one[layer.name], other[layer.name])]
    work = sum(layer.parameters for layer in layers) * samples[0].size
    middle, late = (len(alive) // 8, len(alive) // 4) if work > LARGE else (len(alive) // 2, len(alive) - 1)
    return list(dict.fromkeys([alive[middle], alive[late]]))


def one(sender: Any, name: str, group: str, exporter: str, seconds: int, gibibytes: int) -> None:
    """Take one builder through one exporter, in this process, and send its record."""
    import torch

    resource.setrlimit(resource.RLIMIT_AS, (gibibytes << 30, gibibytes << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    record = Record(name, group, exporter)
    with tempfile.TemporaryDirectory() as folder:
        try:
            trial(record, Path(folder))
        except Exception as error:
            text = re.sub(r"\x1b\[\d*m", "", " ".join(str(error).split()))
            record.found |= {"error": type(error).__name__, "reason": text[:400]}
    sender.send(record.found)


def sweep(results: Path, only: str, exporters: Sequence[str], seconds: int, gibibytes: int) -> None:
    """Run what is missing from the results, each in a process of its own."""
    done = {(r["builder"], r["exporter"]) for r in read(results)}
    # Processes are forked from one that has already imported the slow packages.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    for exporter in exporters:
        for name, group in builders().items():
            if (name, exporter) in done or not re.search(only, name):
                continue
            found = _isolated(context, (name, group, exporter), seconds, gibibytes)
            with results.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(name, exporter, found["stage"], found.get("reason", "")[:200], found["seconds"], flush=True)


def _isolated(context: Any, case: tuple[str, str, str], seconds: int, gibibytes: int) -> dict[str, Any]:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=one, args=(sender, *case, seconds, gibibytes))
    process.start()
    sender.close()
    found: dict[str, Any] = Record(*case).found
    try:
        # A process that is computing gets its full time; one that sleeps is not waited for.
        if receiver.poll(_PATIENCE * seconds):
            found = receiver.recv()
        else:
            found |= {"error": "Timeout", "reason": f"did not end in {_PATIENCE * seconds} s"}
            process.kill()
    except EOFError:
        process.join()
        late = process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL)
        found |= {"error": "Timeout" if late else "Crash", "reason": f"ended by exit code {process.exitcode}"}
    process.join()
    return found


def read(results: Path) -> list[dict[str, Any]]:
    """Read the records of a results file; for duplicates, the last record counts."""
    if not results.exists():
        return []
    records = [json.loads(line) for line in results.read_text().splitlines()]
    return list({(r["builder"], r["exporter"]): r for r in records}.values())


def page(records: list[dict[str, Any]], commit: str) -> str:
    """Return the documentation page of a sweep's results, which were measured at a commit."""
    ran = [r for r in records if STAGES.index(r["stage"]) > STAGES.index("onnxruntime")]
    done = [r for r in ran if r["stage"] == "done"]
    missing = len(builders()) * len(EXPORTERS) - len(records)
    share = f"{len(done)} of the {len(ran)} ({len(done) / max(1, len(ran)):.1%})"
    lines = [
        "# Architectures",
        "",
        "Every model builder of torchvision with random weights and a small input, exported by both of PyTorch's",
        "exporters, loaded by ONNX Runtime, verified tensor by tensor (`onnxinfo check`) and analyzed at two layers.",
        f"ONNX Runtime runs {len(ran)} of {len(records)} exports; {share} reach the last stage, SID.",
        "",
        *(
            [f"**The sweep is incomplete: {missing} exports are missing and not included in the share.**", ""]
            if missing
            else []
        ),
        "Where a difference exceeds its tolerance, every node by itself still agrees ([conversion](conversion.md)):",
        "quantized values are one step apart, or detections of nearly equal score are in another order. Cells marked",
        "as not converged include most quantized layers, whose steps are wider than the noise of SID. Failures at",
        "export are failures of PyTorch's exporter.",
        "",
        f"SID is of one input of random pixels, seed 0; library at commit {commit}. This page is written by",
        "`python benchmarks/architectures.py --table docs/architectures.md --commit COMMIT`.",
        "",
        "| builder | exporter | opset | nodes | parameters | difference / tolerance | SID of two layers | remark |",
        "| --- | --- | ---: | ---: | ---: | --- | --- | --- |",
    ]
    group = ""
    for record in sorted(records, key=lambda r: (GROUPS.index(r["group"]), r["builder"], r["exporter"])):
        if record["group"] != group:
            group = record["group"]
            lines.append(f"| **{group}** | | | | | | | |")
        lines.append(_row(record))
    return "\n".join(lines) + "\n"


def _row(record: dict[str, Any]) -> str:
    difference = f"{record['difference']:.1e} / {record['tolerance']:.1e}" if "difference" in record else ""
    values = " ".join(f"{value:.2f}" for value in record.get("sid", {}).values())
    remarks = [f"other backends: {', '.join(record['others'])}"] if record.get("others") else []
    if record["stage"] == "done":
        remarks += [] if record.get("converged", True) else ["not converged"]
    else:
        reason = re.split(r"(?<=[.!]) |ONNX symbolic|This is step", record.get("reason", ""))[0]
        remarks.append(f"fails at {record['stage']}: {reason[:160]}")
    cells = [record["builder"], record["exporter"], record.get("opset", ""), record.get("nodes", "")]
    cells += [f"{record['parameters']:,}" if "parameters" in record else "", difference, values, "; ".join(remarks)]
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("architectures.jsonl"))
    parser.add_argument("--only", default="", metavar="REGEX", help="only builders whose name matches")
    parser.add_argument("--seconds", type=int, default=600, help="CPU time limit per builder and exporter")
    parser.add_argument("--commit", default="unknown", help="with --table: what the results were measured at")
    parser.add_argument("--memory", type=int, default=24, metavar="GIB", help="address space limit")
    parser.add_argument("--exporter", choices=EXPORTERS, action="append", help="only this exporter (repeatable)")
    parser.add_argument("--table", type=Path, help="write the page of results to this file instead of running")
    arguments = parser.parse_args()
    if arguments.table:
        arguments.table.write_text(page(read(arguments.results), arguments.commit), encoding="utf-8")
        return
    exporters = arguments.exporter or EXPORTERS
    sweep(arguments.results, arguments.only, exporters, arguments.seconds, arguments.memory)


if __name__ == "__main__":
    as_script(main)
