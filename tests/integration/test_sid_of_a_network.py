"""SID of a trained network: against the reference solver, in blocks, and after rescaling."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxinfo
from onnxinfo.models import path


@pytest.fixture(scope="module")
def digits():
    data = np.load(path("digits.npz"))
    return str(path("digits-cnn.onnx")), data["images"]


def digits_sid(digits, folder, name="run", model=None, count=4, layers=("relu_4", "logits"), **options):
    """Results for a middle block and the output of the digits network."""
    source, images = digits
    onnxinfo.analyze(
        model or source,
        images[:count],
        folder / "out.h5",
        run=name,
        normalize_by="sample",
        layers=layers,
        **options,
    )
    with onnxinfo.open(folder / "out.h5") as archive:
        return archive[name].values("sid")


@pytest.fixture(scope="module")
def plain(digits, tmp_path_factory):
    return digits_sid(digits, tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize(
    ("count", "layers"), [(2, ["relu_4"]), pytest.param(12, ["relu_4", "logits"], marks=pytest.mark.slow)]
)
def test_the_solver_is_not_below_the_paper_s_optimizer(count, layers, tmp_path, digits):
    fast = digits_sid(digits, tmp_path, "fast", count=count, layers=layers)
    slow = digits_sid(digits, tmp_path, "reference", count=count, layers=layers, solver="reference")
    assert (fast["value"].mean(1) >= slow["value"].mean(1) - 0.01).all()
    assert np.abs(fast["ratio"].mean(1) - 1).max() < 0.02 + 2 * fast["ratio_stderr"].max()


def test_same_seed_same_result_other_chunks_nearly_so(tmp_path, digits, plain):
    again = digits_sid(digits, tmp_path, "again")
    chunked = digits_sid(digits, tmp_path, "chunked", memory_limit="2M")
    assert (plain["value"] == again["value"]).all()
    assert (plain["value"] != chunked["value"]).any()
    assert np.abs(plain["value"].mean(1) - chunked["value"].mean(1)).max() < 0.02


def test_rescaled_neighbors_discard_the_same(tmp_path, digits, plain):
    model = onnx.load(digits[0])
    weights = {i.name: i for i in model.graph.initializer}
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    first, second = convs[1], convs[2]
    for name, factor in [(n, 0.25) for n in first.input[1:]] + [(second.input[1], 4.0)]:
        weights[name].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights[name]) * np.float32(factor), name))
    rescaled = digits_sid(digits, tmp_path, "rescaled", model=model)
    assert np.abs(plain["value"].mean(1) - rescaled["value"].mean(1)).max() < 0.01
