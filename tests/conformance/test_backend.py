"""All of ONNX's own backend cases, run through the converted graph."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
import torch
from conformance import ENGINES, Run, WholeRunner, tally

from onnxinfo import backend
from onnxinfo.errors import ModelError, UsageError

# Cases that do not pass, by regular expression, with the reason.
EXCLUDED = {
    r"test_bernoulli": "random operators are refused: they draw other numbers in every engine",
    r"test_training_dropout(_default)?(_mask)?_cpu": "dropout in training mode is refused: it draws random numbers",
    # See test_rounding: these two are right.
    r"test_dft_inverse(_opset19)?_cpu": "expects numpy's rounding error (2e-7) where the value is zero",
    r"test_attention_4d_causal_fp16_expanded": "float16: two of 192 elements differ in their last two bits",
    r"test_gradient_of_add": "training operators are out of scope; refused",
}

_suite = WholeRunner(backend, __name__)
for _pattern in EXCLUDED:
    _suite.exclude(_pattern)
# Real models would have to be downloaded.
_cases = {name: case for name, case in _suite.test_cases.items() if name != "OnnxBackendRealModelTest"}
for _case in _cases.values():
    for _name in [name for name in vars(_case) if name.endswith("_cuda")]:
        if torch.cuda.is_available():
            setattr(_case, _name, pytest.mark.gpu(getattr(_case, _name)))
        else:
            # Reported as skipped, they would be half of all tests.
            delattr(_case, _name)
globals().update(_cases)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "passes"), [("onnxinfo", 1_940), ("onnxinfo with fallback", 2_000)])
def test_conformance(engine: str, passes: int) -> None:
    result = tally(ENGINES[engine])
    assert len(result.passes) >= passes
    assert list(result.wrong) == []
    assert len(result.rounding) <= 3
    for reason in result.refuses.values():
        assert re.search(r"operator [\w.]+ \(opset \d+\)", reason)


@pytest.mark.parametrize(
    "name", ["test_dft_inverse", "test_dft_inverse_opset19", "test_attention_4d_causal_fp16_expanded"]
)
def test_rounding(name: str) -> None:
    """Where stored outputs have rounding errors, ours are within tolerance of the value in higher precision."""
    assert list(tally(ENGINES["onnxinfo"], f"^{name}_cpu$").rounding) == [name]


def test_wrong_results_are_told_from_rounding() -> None:
    def off(model: onnx.ModelProto) -> Run:
        run = ENGINES["onnxinfo"](model)
        return lambda inputs: [result + np.float32(1e-3) for result in run(inputs)]

    assert list(tally(off, "^test_dft_inverse_cpu$").wrong) == ["test_dft_inverse"]


def _double(name: str = "double") -> onnx.ModelProto:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "y"], ["z"])],
        name,
        [value("x", onnx.TensorProto.FLOAT, [None]), value("y", onnx.TensorProto.FLOAT, [None])],
        [value("z", onnx.TensorProto.FLOAT, [None])],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)


def test_inputs_by_name_or_position() -> None:
    x, y = np.float32([1, 2]), np.float32([3, 5])
    prepared = backend.prepare(_double())
    assert prepared.run([x, y]).z.tolist() == [4, 7]
    assert prepared.run({"y": y, "x": x})["z"].tolist() == [4, 7]
    assert backend.run_model(_double(), (x, y))[0].dtype == np.float32


def test_wrong_inputs_are_refused() -> None:
    prepared = backend.prepare(_double())
    with pytest.raises(UsageError, match="1 inputs given; the model takes 2"):
        prepared.run([np.zeros(2, np.float32)])
    with pytest.raises(UsageError, match=r"\['x', 'z'\] given; the model takes \['x', 'y'\]"):
        prepared.run({"x": np.zeros(2), "z": np.zeros(2)})


def test_run_node() -> None:
    node = onnx.helper.make_node("Softmax", ["x"], ["y"], axis=-1)
    (y,) = backend.run_node(node, [np.zeros((2, 4), np.float32)])
    assert np.allclose(y, 0.25)


def test_invalid_model_is_refused() -> None:
    model = _double()
    del model.graph.input[1]
    with pytest.raises(ModelError):
        backend.prepare(model)


def test_devices() -> None:
    import torch

    assert backend.supports_device("CPU")
    assert backend.supports_device("CUDA") == torch.cuda.is_available()
