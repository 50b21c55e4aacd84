"""Does every architecture of torchvision come through, from its exporter to two layers' SID?

Each builder gets random weights and a small input, is exported by both of PyTorch's exporters, run by ONNX Runtime,
checked as ``onnxinfo check`` does, and analyzed at two layers. A builder is a process of its own with limits of time
and memory; what is in the results file is not run again. Needs torchvision and onnxscript::

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

GROUPS = ("classification", "segmentation", "detection", "video", "quantization")
EXPORTERS = ("torchscript", "dynamo")
STAGES = ("build", "export", "onnxruntime", "check", "sid", "done")
# Waiting time, in units of the limit of processor time.
_PATIENCE = 20
PRELOADED = [
    "torch.onnx",
    "torchvision",
    "onnxscript",
    "onnxruntime",
    "onnxinfo.workflows.check",
    "onnxinfo.workflows.analyze",
]
# Shapes of inputs, by the beginning of the builder's name; the first that fits counts.
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
# Parameters times input values from which a network takes more than minutes.
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
    """Group by name of every builder, small networks first."""
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
    """A builder's network in inference mode, with one tensor in and tensors out, and an input for it."""
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
    """Write an ONNX file as the exporter does by default."""
    import torch

    dynamo = exporter == "dynamo"
    # Given as text: of a Path, the older exporter does not know that it may put weights beside it.
    program = torch.onnx.export(network, (x,), None if dynamo else str(file), input_names=["image"], dynamo=dynamo)
    if dynamo:
        assert program is not None
        program.save(file, external_data=sum(p.numel() for p in network.parameters()) > 4e8)


class Record:
    """What became of one builder through one exporter, stage by stage."""

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
    """A layer of the middle and a late one, among the blocks with parameters; early ones of what takes long.

    Left out are layers whose shape depends on values, and those that random weights made constant.
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
    """Run what the results do not have yet, each in a process of its own."""
    done = {(r["builder"], r["exporter"]) for r in read(results)}
    # Processes are forked from one that has imported what takes long.
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
        # A process that waits for nothing but the processor is given its time; one that sleeps is not waited for.
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
    """Read the records of a results file; of several for one builder and exporter the last counts."""
    if not results.exists():
        return []
    records = [json.loads(line) for line in results.read_text().splitlines()]
    return list({(r["builder"], r["exporter"]): r for r in records}.values())


def page(records: list[dict[str, Any]]) -> str:
    """The documentation page of a sweep's results."""
    ran = [r for r in records if STAGES.index(r["stage"]) > STAGES.index("onnxruntime")]
    done = [r for r in ran if r["stage"] == "done"]
    missing = len(builders()) * len(EXPORTERS) - len(records)
    share = f"{len(done)} of the {len(ran)} ({len(done) / max(1, len(ran)):.1%})"
    lines = [
        "# Architectures",
        "",
        "Every model builder of torchvision with random weights and a small input, exported by both of PyTorch's",
        "exporters, loaded by ONNX Runtime, checked tensor by tensor (`onnxinfo check`) and analyzed at two layers. Of",
        f"{len(records)} exports ONNX Runtime runs {len(ran)}; {share} come through to the SID.",
        "",
        *(
            [f"**The sweep is not finished: {missing} exports are missing, and the share says nothing of them.**", ""]
            if missing
            else []
        ),
        "A difference above its tolerance is that of quantized values a step apart, or of detections that score alike",
        "in another order, where every node by itself agrees ([conversion](conversion.md)). Cells that did not",
        "converge are those the certificate marks, most quantized layers among them: their steps are wider than the",
        "noise that SID asks for. What fails at export fails in PyTorch's exporter.",
        "",
        "This page is written by `python benchmarks/architectures.py --table docs/architectures.md`.",
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
    remarks = [f"served otherwise: {', '.join(record['others'])}"] if record.get("others") else []
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
    parser.add_argument("--seconds", type=int, default=600, help="processor time of one builder through one exporter")
    parser.add_argument("--memory", type=int, default=24, metavar="GIB", help="limit of its address space")
    parser.add_argument("--exporter", choices=EXPORTERS, action="append", help="only this exporter (repeatable)")
    parser.add_argument("--table", type=Path, help="write the page of the results there instead of running")
    arguments = parser.parse_args()
    if arguments.table:
        arguments.table.write_text(page(read(arguments.results)), encoding="utf-8")
        return
    exporters = arguments.exporter or EXPORTERS
    sweep(arguments.results, arguments.only, exporters, arguments.seconds, arguments.memory)


if __name__ == "__main__":
    main()
