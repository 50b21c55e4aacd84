"""Analyses on a simulated accelerator: the CPU's numbers, no mixed devices, and nothing read back within a pass.

The device belongs to a whole process, in which torch behaves differently from then on: each test has its own process.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import call_apart

import onnxinfo
from onnxinfo.models import path


def _numbers(output: Path, model: str, inputs: str, metric: str, **options: Any) -> dict[str, np.ndarray[Any, Any]]:
    layers = [layer.name for layer in onnxinfo.select_layers(onnxinfo.list_layers(path(model)))]
    file, _, key = inputs.partition(":")
    common = {"metrics": [metric], "layers": [layers[1]], "limit": 2, "run": "run"}
    onnxinfo.analyze(path(model), f"{path(file)}:{key}", output, **common | options)
    with onnxinfo.open(output) as archive:
        return dict(archive["run"].values(metric))


def _compare(folder: Path, *arguments: str) -> tuple[Counter[str], Counter[str]]:
    """Compare an analysis on the accelerator with one on the CPU, bit by bit; count operators and what is read."""
    from simulated_accelerator import analyses_on_it

    torch.set_num_threads(1)
    expected = _numbers(folder / "cpu.h5", *arguments, device="cpu")
    with analyses_on_it() as accelerator:
        found = _numbers(folder / "device.h5", *arguments)
    assert found.keys() == expected.keys()
    for name, numbers in expected.items():
        np.testing.assert_array_equal(found[name], numbers, err_msg=name)
    return Counter(accelerator.operators), Counter(accelerator.reads)


def test_sid(tmp_path: Path) -> None:
    operators, reads = call_apart(_compare, tmp_path, "digits-cnn.onnx", "digits.npz:images", "sid")
    assert operators["aten.convolution.default"] > 10
    assert reads["pass"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        ("keras-digits-cnn.onnx", "digits.npz:images"),
        ("keras-text-transformer.onnx", "text.npz:tokens"),
        ("torch-text-transformer.onnx", "text.npz:tokens"),
    ],
)
def test_sid_of_networks_with_shape_arithmetic(model: str, inputs: str, tmp_path: Path) -> None:
    _, reads = call_apart(_compare, tmp_path, model, inputs, "sid")
    assert reads["pass"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["gradient", "gradcam"])
def test_baselines(metric: str, tmp_path: Path) -> None:
    _, reads = call_apart(_compare, tmp_path, "digits-cnn.onnx", "digits.npz:images", metric)
    assert reads["pass"] == 0


def _mixed() -> None:
    from simulated_accelerator import DEVICE, Accelerator

    with Accelerator():
        torch.ones(3) + torch.ones(3, device=DEVICE)


def test_the_device_refuses_to_mix() -> None:
    with pytest.raises(RuntimeError, match="on the same device"):
        call_apart(_mixed)


def _read() -> dict[str, int]:
    from simulated_accelerator import DEVICE, Accelerator

    with Accelerator() as accelerator:
        x = torch.arange(3.0, device=DEVICE)
        assert x.sum().item() == 3
        assert x.cpu().tolist() == [0, 1, 2]
        assert not x.to(torch.float64).requires_grad
    return dict(accelerator.reads)


def test_the_device_counts_what_is_read() -> None:
    assert call_apart(_read) == {"between": 2}


class _Reading(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x.sum().item()


def _read_within_a_pass() -> dict[str, int]:
    from simulated_accelerator import DEVICE, Accelerator

    root = torch.nn.Module()
    root.add_module("reading", _Reading())
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_module("reading", (x,)))
    with Accelerator() as accelerator:
        torch.fx.GraphModule(root, graph)(torch.ones(3, device=DEVICE))
    return dict(accelerator.reads)


def test_a_read_within_a_pass_is_told_apart() -> None:
    assert call_apart(_read_within_a_pass) == {"pass": 1}
