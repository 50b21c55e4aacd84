"""Analyses on a simulated accelerator: the CPU's numbers, no mixed devices, and nothing read back within a pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from simulated_accelerator import DEVICE, Accelerator, analyses_on_it

import onnxinfo
from onnxinfo.models import path


def _numbers(output: Path, model: str, inputs: str, metric: str, **options: Any) -> dict[str, np.ndarray[Any, Any]]:
    layers = [layer.name for layer in onnxinfo.select_layers(onnxinfo.list_layers(path(model)))]
    file, _, key = inputs.partition(":")
    common = {"metrics": [metric], "layers": [layers[1]], "limit": 2, "run": "run"}
    onnxinfo.analyze(path(model), f"{path(file)}:{key}", output, **common | options)
    with onnxinfo.open(output) as archive:
        return dict(archive["run"].values(metric))


def _compare(folder: Path, *arguments: str, **options: Any) -> Accelerator:
    """Analyze on the CPU and on the accelerator, and compare all numbers bit by bit."""
    expected = _numbers(folder / "cpu.h5", *arguments, device="cpu", **options)
    with analyses_on_it() as accelerator:
        found = _numbers(folder / "device.h5", *arguments, **options)
    assert found.keys() == expected.keys()
    for name, numbers in expected.items():
        np.testing.assert_array_equal(found[name], numbers, err_msg=name)
    return accelerator


def test_sid(tmp_path: Path) -> None:
    accelerator = _compare(tmp_path, "digits-cnn.onnx", "digits.npz:images", "sid")
    assert accelerator.operators["aten.convolution.default"] > 10
    assert accelerator.reads["pass"] == 0


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
    assert _compare(tmp_path, model, inputs, "sid").reads["pass"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["gradient", "gradcam"])
def test_baselines(metric: str, tmp_path: Path) -> None:
    assert _compare(tmp_path, "digits-cnn.onnx", "digits.npz:images", metric).reads["pass"] == 0


@pytest.fixture(name="mixing")
def _mixing() -> Callable[[], Any]:
    return lambda: torch.ones(3) + torch.ones(3, device=DEVICE)


def test_the_device_refuses_to_mix(mixing: Callable[[], Any]) -> None:
    with Accelerator(), pytest.raises(RuntimeError, match="on the same device"):
        mixing()


def test_the_device_counts_what_is_read() -> None:
    with Accelerator() as accelerator:
        x = torch.arange(3.0, device=DEVICE)
        assert x.sum().item() == 3
        assert x.cpu().tolist() == [0, 1, 2]
        assert not x.to(torch.float64).requires_grad
    assert accelerator.reads == {"between": 2}


def test_a_read_within_a_pass_is_told_apart() -> None:
    class Reading(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x.sum().item()

    root = torch.nn.Module()
    root.add_module("reading", Reading())
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_module("reading", (x,)))
    with Accelerator() as accelerator:
        torch.fx.GraphModule(root, graph)(torch.ones(3, device=DEVICE))
    assert accelerator.reads == {"pass": 1}
