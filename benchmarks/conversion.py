"""Cost of conversion: the converted graph's speed relative to the original module's, and the conversion time.

Forward and backward passes of torchvision networks at batch size 8, with one thread; original and converted module
take turns, and medians are compared. All times are the process's CPU time, which other processes hardly disturb. Needs
torchvision and onnxscript::

    python benchmarks/conversion.py
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from onnxinfo.models.studies.script import as_script

NETWORKS = ("resnet50", "vgg16", "vit_b_16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, action="append", help="only this network (repeatable)")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="side length of the images")
    parser.add_argument("--dynamo", action="store_true", help="export with torch.export instead of TorchScript")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print("| network | original, s | converted, s | ratio | conversion, s |")
    print("| --- | --- | --- | --- | --- |")
    for name in arguments.network or NETWORKS:
        original, file = exported(name, arguments.size, arguments.batch, arguments.dynamo)
        module, seconds = converted(file)
        x = torch.rand(arguments.batch, 3, arguments.size, arguments.size)
        assert torch.allclose(original(x), module(x)[0], rtol=1e-3, atol=1e-4)
        times = interleaved([original, module], x, arguments.repetitions)
        before, after = (statistics.median(each) for each in times)
        # Adjacent measurements saw the machine in the same state.
        ratio = statistics.median(b / a for a, b in zip(*times, strict=True))
        print(f"| {name} | {before:.3f} | {after:.3f} | {ratio:.3f} | {seconds:.2f} |", flush=True)


def exported(name: str, size: int, batch: int, dynamo: bool) -> tuple[nn.Module, Path]:
    """Return a network with random weights in inference mode, and its ONNX file."""
    from torchvision import models

    torch.manual_seed(0)
    arguments = {"image_size": size} if name.startswith("vit") else {}
    original = models.get_model(name, weights=None, **arguments).eval()
    file = Path(tempfile.mkdtemp()) / f"{name}.onnx"
    x = torch.rand(batch, 3, size, size)
    torch.onnx.export(original, (x,), file, dynamo=dynamo, external_data=False)
    return original.requires_grad_(False), file


def converted(file: Path) -> tuple[nn.Module, float]:
    """Return the converted graph, and the CPU time from reading the file to the graph, median of three."""
    import onnxinfo

    onnxinfo.convert(file)
    seconds = []
    for _ in range(3):
        began = time.process_time()
        module = onnxinfo.convert(file)
        seconds.append(time.process_time() - began)
    return module.eval().requires_grad_(False), statistics.median(seconds)


def step(module: nn.Module, x: torch.Tensor) -> None:
    """Run one forward and backward pass to the input, as metrics do."""
    leaf = x.clone().requires_grad_()
    result: Any = module(leaf)
    (result[0] if isinstance(result, tuple) else result).sum().backward()


def interleaved(modules: Sequence[nn.Module], x: torch.Tensor, repetitions: int) -> list[list[float]]:
    """CPU seconds of each module's steps, taken by turns, after a warm-up turn."""
    times: list[list[float]] = [[] for _ in modules]
    for repetition in range(repetitions + 1):
        order = range(len(modules)) if repetition % 2 else reversed(range(len(modules)))
        for i in order:
            began = time.process_time()
            step(modules[i], x)
            if repetition:
                times[i].append(time.process_time() - began)
    return times


if __name__ == "__main__":
    as_script(main)
