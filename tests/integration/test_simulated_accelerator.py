"""Analyses on a simulated accelerator: the CPU's numbers, no mixed devices, and nothing read back within a pass.

The device belongs to a whole process, in which torch behaves differently from then on: each test has its own process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from processes import call_apart

import onnxinfo
from onnxinfo.models import path

DIGITS, TOKENS = "digits.npz:images", "text.npz:tokens"
#: Reads by the host from one pass of the solver to the next: whether to go on, and with which samples.
MOST_READS = 40
#: Reads of an analysis of one block besides: batching strategy, batch size, budget, values for the archive.
AROUND = 40
#: Largest difference of any stored number with fused recurrences; H itself differs by about 1e-5.
RECURRENT = 0.005
TRAINING = {
    **{"decoder_inputs": f"{path('digits.npz')}:images", "decoder_limit": 8, "decoder_width": 4, "decoder_steps": 2},
    "sigma_max": 0.01,
}


def _numbers(output: Path, model: str, inputs: str, metric: str, **options: Any) -> dict[str, np.ndarray[Any, Any]]:
    network = model if Path(model).is_absolute() else path(model)
    layers = [layer.name for layer in onnxinfo.select_layers(onnxinfo.list_layers(network))]
    file, _, key = inputs.partition(":")
    samples, common = f"{path(file)}:{key}", {"limit": 2, **options}
    if metric == "robustness":
        labels = f"{path(file)}:labels"
        return {"robustness": np.array(onnxinfo.robustness(network, samples, output, labels=labels, **common).value)}
    if metric == "coherency":
        changes = onnxinfo.coherency(network, samples, output, metrics=["sid"], layers=layers[:2], **common).changes
        return {"coherency": np.array([(change.before, change.after) for change in changes])}
    layer = layers[-2] if metric == "cam" else layers[min(1, len(layers) - 1)]
    onnxinfo.analyze(network, samples, output, metrics=[metric], layers=[layer], run="run", **common)
    with onnxinfo.open(output) as archive:
        return dict(archive["run"].values(metric))


def _attack(on_cpu: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Make the attack of the toolbox, which knows no devices but CPUs and NVIDIA's."""
    from simulated_accelerator import DEVICE

    attack, classifier = on_cpu(*arguments, **options)
    classifier._device = DEVICE
    classifier.model.to(DEVICE)
    return attack, classifier


def _compare(
    folder: Path, *arguments: Any, options: dict[str, Any] | None = None, tolerance: float = 0.0
) -> Counter[str]:
    """Compare an analysis on the accelerator with one on the CPU; count operators, what is read, and passes.

    The count of reads under "from pass to pass" is the largest number between two passes of the solver.
    """
    from simulated_accelerator import analyses_on_it

    from onnxinfo.metrics import problem

    torch.set_num_threads(1)
    given = options or {}
    expected = _numbers(folder / "cpu.h5", *arguments, device="cpu", **given)
    before, marks = problem.measure, []
    with analyses_on_it() as accelerator, pytest.MonkeyPatch.context() as patched:
        if "robustness" in arguments:
            from onnxinfo.analysis import attack

            patched.setattr(attack, "carlini_wagner", partial(_attack, attack.carlini_wagner))
        patched.setattr(problem, "measure", lambda *all_: (marks.append(accelerator.reads.total()), before(*all_))[1])
        found = _numbers(folder / "device.h5", *arguments, **given)
    assert found.keys() == expected.keys()
    for name, numbers in expected.items():
        if tolerance and numbers.dtype.kind == "f":
            np.testing.assert_allclose(found[name], numbers, rtol=0, atol=tolerance, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], numbers, err_msg=name)
    steps = {"from pass to pass": max((b - a for a, b in pairwise(marks)), default=0)}
    return Counter(dict(accelerator.operators) | dict(accelerator.reads) | steps)


def test_sid(tmp_path: Path) -> None:
    counts = call_apart(_compare, tmp_path, "digits-cnn.onnx", DIGITS, "sid")
    assert counts["aten.convolution.default"] > 10
    assert counts["pass"] == 0
    assert counts["between"] <= MOST_READS + AROUND


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        ("keras-digits-cnn.onnx", DIGITS),
        ("keras-digits-gru.onnx", DIGITS),
        ("keras-text-transformer.onnx", TOKENS),
        ("torch-text-transformer.onnx", TOKENS),
    ],
)
def test_sid_of_networks_with_shape_arithmetic(model: str, inputs: str, tmp_path: Path) -> None:
    counts = call_apart(_compare, tmp_path, model, inputs, "sid")
    assert counts["pass"] == 0
    assert counts["from pass to pass"] <= MOST_READS


@pytest.mark.slow
@pytest.mark.parametrize("model", ["torch-digits-lstm.onnx", "keras-digits-lstm.onnx"])
def test_sid_of_fused_recurrences(model: str, tmp_path: Path) -> None:
    """Accelerators compute the steps of an LSTM by other kernels, which round differently."""
    compare = partial(_compare, tolerance=RECURRENT)
    counts = call_apart(compare, tmp_path, model, DIGITS, "sid")
    assert counts["aten._thnn_fused_lstm_cell.default"] > 10
    assert counts["pass"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"normalize_by": "feature"}, {"solver": "reference", "limit": 1}])
def test_other_solvers_and_budgets(options: dict[str, Any], tmp_path: Path) -> None:
    compare = partial(_compare, options=options)
    assert call_apart(compare, tmp_path, "digits-cnn.onnx", DIGITS, "sid")["pass"] == 0


@pytest.mark.slow
def test_evaluations(tmp_path: Path) -> None:
    """ONNX Runtime takes its inputs from the CPU: once for each evaluation."""
    compare = partial(_compare, options={"solver": "forward"})
    assert call_apart(compare, tmp_path, "digits-cnn.onnx", DIGITS, "sid")["pass"] > 0


@pytest.mark.slow
def test_trees(tmp_path: Path) -> None:
    """Their integrals between thresholds are exact, and made of evaluations."""
    tree = {
        **{"nodes_treeids": [0] * 3, "nodes_nodeids": [0, 1, 2], "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"]},
        **{"nodes_featureids": [0] * 3, "nodes_values": [0.02, 0.0, 0.0], "nodes_truenodeids": [1, 0, 0]},
        **{"nodes_falsenodeids": [2, 0, 0], "target_treeids": [0], "target_nodeids": [2], "target_ids": [0]},
        **{"target_weights": [1.0], "n_targets": 1},
    }
    stump = helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", **tree)
    ends = [graphs.value("x", ("N", 10))], [graphs.value("y", ("N", 1))]
    file = tmp_path / "stump.onnx"
    onnx.save(graphs.model([stump], *ends, imports=[helper.make_opsetid("ai.onnx.ml", 3)], opset=17), file)
    options = {"budget": 0.02, "solver": "forward"}
    compare = partial(_compare, options=options)
    assert call_apart(compare, tmp_path, str(file), "diabetes.npz:features", "sid")["pass"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["gradient", "gradcam", "cam", "coherency", "robustness", "concentration", "ru"])
def test_other_metrics(metric: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"ru": TRAINING, "robustness": {"limit": 1}}.get(metric, {})
    if metric == "concentration":
        masks = np.zeros((50, 8, 8), np.uint8)
        masks[:, 2:6, 2:6] = 1
        np.save(tmp_path / "masks.npy", masks)
        options = {"foreground": str(tmp_path / "masks.npy")}
    counts = call_apart(partial(_compare, options=options), tmp_path, "digits-cnn.onnx", DIGITS, metric)
    assert counts["pass"] == 0


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


def _waits_of(bundled: dict[str, str]) -> dict[str, dict[str, int]]:
    """Count the reads and blocking uploads of a forward and a backward pass of bundled models."""
    from simulated_accelerator import DEVICE, Accelerator

    found = {}
    for model, inputs in bundled.items():
        file, _, key = inputs.partition(":")
        module, given = onnxinfo.convert(path(model)), torch.from_numpy(np.load(path(file))[key][:2])
        shape = [dim.dim_value for dim in onnx.load(path(model)).graph.input[0].type.tensor_type.shape.dim]
        with Accelerator() as accelerator:
            module.to(DEVICE)
            x = (given.float() if key != "tokens" else given).reshape(2, *shape[1:]).to(DEVICE)
            x = x.requires_grad_() if x.is_floating_point() else x
            accelerator.reads.clear()
            for out in module(x):
                if isinstance(out, torch.Tensor) and out.requires_grad:
                    torch.autograd.grad(out.sum(), x)
        found[model] = dict(accelerator.reads)
    return found


def test_a_pass_waits_for_nothing() -> None:
    bundled = {
        **dict.fromkeys(["digits-cnn.onnx", "jax-digits-cnn.onnx", "keras-digits-gru.onnx"], DIGITS),
        **dict.fromkeys(["paddle-digits-cnn.onnx", "torch-digits-lstm.onnx", "keras-digits-lstm.onnx"], DIGITS),
        **dict.fromkeys(["keras-text-transformer.onnx", "torch-text-transformer.onnx"], TOKENS),
        "sklearn-diabetes-mlp.onnx": "diabetes.npz:features",
        "sklearn-wine-mlp.onnx": "wine.npz:features",
    }
    assert call_apart(_waits_of, bundled) == {model: {} for model in bundled}


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
