"""Shared parts of the benchmarks: command-line arguments, the machine's name, and a timer for functions."""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import onnxinfo
from onnxinfo.analysis.job import Job, prepare
from onnxinfo.config import SidConfig
from onnxinfo.graph.perturbed import perturbed_tensors
from onnxinfo.metrics.budget import device_of, fit
from onnxinfo.metrics.input_provider import InputProvider, open_samples_of
from onnxinfo.torch_graph.precision import to_float32


def analysis_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with model, samples, layers and device, as in ``onnxinfo analyze``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--inputs", required=True)
    parser.add_argument("--preset")
    parser.add_argument("--layers", nargs="*", default=[], help="patterns; default: the default layers")
    parser.add_argument("--device", default="auto")
    return parser


def add_views(commands: Any, tables: Callable[[Path], str], draw: Callable[[argparse.Namespace], None]) -> None:
    """Add the commands ``show`` and ``draw`` of a study to its subparsers.

    Parameters
    ----------
    commands
        What ``add_subparsers`` returned.
    tables, draw
        Makes the tables from a file of results; draws a picture, given ``results`` and ``picture``.
    """
    showing = commands.add_parser("show")
    showing.add_argument("results", type=Path)
    showing.set_defaults(do=lambda chosen: print(tables(chosen.results), end=""))
    drawing = commands.add_parser("draw")
    drawing.add_argument("results", type=Path)
    drawing.add_argument("picture", type=Path)
    drawing.set_defaults(do=draw)


def machine(device: str = "auto") -> str:
    """Return the hardware (a GPU's name, or a CPU's with the number of torch threads) and torch's version."""
    used = device_of(device)
    threads = f"{platform.machine()}, {torch.get_num_threads()} threads"
    return f"{torch.cuda.get_device_name(used) if used.type == 'cuda' else threads}, torch {torch.__version__}"


def prepared(
    model: str, inputs: str, layers: Sequence[str], *, preset: str | None = None, samples: int, device: str
) -> Job:
    """Return network and samples, prepared as by an analysis."""
    loaded = to_float32(model)
    chosen = onnxinfo.select_layers(onnxinfo.list_layers(loaded), layers)
    provider = InputProvider(
        loaded, open_samples_of(loaded, inputs, preset=preset, limit=samples), perturbed_tensors(loaded)[0]
    )
    job = prepare(provider, chosen, SidConfig(), device_of(device))
    job.batch_size = fit(job.network, *job.inputs([0]), memory=None)
    return job


def timed(spent: dict[str, float], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that its run time is added up under a name."""

    def wrapped(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - began

    return wrapped
