"""Supported versions of operators and of the file format: verified, or refused in one line."""

from __future__ import annotations

import re
from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

import onnxinfo
from onnxinfo import ModelError, analyze, check_model, load
from onnxinfo.cli import cli
from onnxinfo.graph.model import OLDEST_FORMAT
from onnxinfo.graph.reference import means_the_same
from onnxinfo.graph.reference_engine import ReferenceEngine
from onnxinfo.graph.versions import is_too_new, lower, newest_format, newest_opset
from onnxinfo.torch_graph.runtime import Session

NEWEST = onnx.defs.onnx_opset_version()
OPSETS = (1, 2, 5, 6, 7, 13, NEWEST)
FORMATS = range(OLDEST_FORMAT, onnx.IR_VERSION + 1)
RUNTIME, REFERENCE = "ONNX Runtime", "ONNX's reference evaluator"
DOCS = Path(__file__).parents[2] / "docs" / "conversion.md"


def model(operator: str, opset: int, ir_version: int = OLDEST_FORMAT) -> onnx.ModelProto:
    """A layer with one operator; its weights are graph inputs too, as the oldest formats require."""
    shape, weights, attributes = ["N", 4], [], {}
    if operator == "Conv":
        shape, weights, attributes = ["N", 2, 5, 5], [graphs.weight("w", 3, 2, 3, 3)], {"kernel_shape": [3, 3]}
    if operator == "Gemm":
        weights = [graphs.weight("w", 4, 3), graphs.weight("b", 3)]
        attributes = {"broadcast": 1} if opset < 7 else {}
    node = helper.make_node(operator, ["x", *(w.name for w in weights)], ["y"], **attributes)
    inputs = [graphs.value("x", shape), *(graphs.value(w.name, w.dims) for w in weights)]
    proto = graphs.model([node], inputs, [graphs.value("y", None)], weights, opset=opset)
    proto.ir_version = ir_version
    return proto


def verified_against(proto: onnx.ModelProto, folder: Path) -> str:
    """Check and analyze; return the reference that was compared with."""
    checked = check_model(proto)
    assert checked.error is None
    shape = (2, 2, 5, 5) if proto.graph.node[0].op_type == "Conv" else (2, 4)
    samples = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    analyze(proto, samples, folder / "a.h5")
    with onnxinfo.open(folder / "a.h5") as archive:
        (run,) = archive.values()
        assert np.isfinite(run.values("sid")["value"]).all()
        assert run.provenance["verified_against"] == checked.witness
    return checked.witness


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("operator", ["Relu", "Conv"])
def test_every_opset(operator: str, opset: int, tmp_path: Path) -> None:
    expected = REFERENCE if operator == "Relu" and opset < 6 else RUNTIME
    assert verified_against(model(operator, opset), tmp_path) == expected


@pytest.mark.parametrize(("opset", "witness"), [(6, REFERENCE), (7, RUNTIME), (13, RUNTIME), (NEWEST, RUNTIME)])
def test_gemm(opset: int, witness: str, tmp_path: Path) -> None:
    assert verified_against(model("Gemm", opset), tmp_path) == witness


@pytest.mark.parametrize("opset", [1, 5])
def test_what_neither_witness_has_is_refused_in_one_line(opset: int) -> None:
    with pytest.raises(ModelError) as refused:
        check_model(model("Gemm", opset))
    said = str(refused.value)
    assert said.isprintable()
    assert "ONNX Runtime refuses the model" in said
    assert f"the reference evaluator does not have ai.onnx.Gemm of opset {opset}" in said


@pytest.mark.parametrize("ir_version", FORMATS)
def test_every_format(ir_version: int) -> None:
    checked = check_model(model("Relu", 13, ir_version))
    assert (checked.error, checked.witness, checked.ir_version) == (None, RUNTIME, ir_version)


@pytest.mark.parametrize("ir_version", [0, 1, 2, onnx.IR_VERSION + 1])
def test_other_formats_are_refused(ir_version: int) -> None:
    with pytest.raises(
        ModelError, match=f"IR version {ir_version}, supported are {OLDEST_FORMAT} to {onnx.IR_VERSION}"
    ):
        load(model("Relu", 13, ir_version))


def test_the_documents_promise_these_versions() -> None:
    text = " ".join(DOCS.read_text().lower().split())
    assert f"opsets 1 to {NEWEST}" in text
    assert f"versions {OLDEST_FORMAT} to {onnx.IR_VERSION} of the file format" in text


def test_the_witness_changes_no_model() -> None:
    proto = load(model("Relu", NEWEST, onnx.IR_VERSION)).proto
    before = proto.SerializeToString(deterministic=True)
    Session(onnxinfo.load(proto))
    assert proto.SerializeToString(deterministic=True) == before


def test_versions_are_not_lowered_where_they_are_needed() -> None:
    newer = [s for s in onnx.defs.get_all_schemas() if not s.domain and s.since_version > newest_opset()]
    if not newer:
        pytest.skip("ONNX Runtime has all operators of this onnx")
    proto = graphs.model([helper.make_node(newer[0].name, ["x"], ["y"])], [], [], opset=NEWEST)
    lower(proto)
    assert is_too_new(proto)
    assert proto.opset_import[0].version == NEWEST


@pytest.mark.skipif(newest_format() >= 14, reason="ONNX Runtime reads the format that has these types")
def test_formats_are_not_lowered_for_their_types() -> None:
    proto = graphs.relu_model()
    proto.ir_version = 14
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT6E2M3
    lower(proto)
    assert proto.ir_version == 14


OLD = [
    (helper.make_node("Add", ["x", "b"], ["y"], axis=1, broadcast=1), 6, False),
    (helper.make_node("Add", ["x", "x"], ["y"]), 6, True),
    (helper.make_node("Relu", ["x"], ["y"], consumed_inputs=[0]), 1, True),
    (helper.make_node("Softmax", ["x"], ["y"], axis=1), 12, False),
    (helper.make_node("Softmax", ["x"], ["y"], axis=1), 13, True),
    (helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2]), 22, True),
]


@pytest.mark.parametrize(("node", "opset", "same"), OLD, ids=lambda value: getattr(value, "op_type", str(value)))
def test_the_reference_evaluator_is_a_witness_of_what_it_implements(
    node: onnx.NodeProto, opset: int, same: bool
) -> None:
    assert means_the_same(node, opset) == same
    inputs = [graphs.value(name, [2, 3, 3] if name == "x" else [3]) for name in dict.fromkeys(node.input)]
    proto = graphs.model([node], inputs, [graphs.value("y", None)], opset=opset)
    if same:
        feeds = {
            value.name: np.ones([d.dim_value for d in value.type.tensor_type.shape.dim], np.float32) for value in inputs
        }
        (result,) = ReferenceEngine(proto).run(feeds)
        assert result.dtype == np.float32
    else:
        with pytest.raises(NotImplementedError, match="does not have"):
            ReferenceEngine(proto)


def test_the_reference_evaluator_is_given_no_control_flow() -> None:
    with pytest.raises(NotImplementedError, match="control flow"):
        ReferenceEngine(graphs.branch_model())


def test_check_says_who_the_witness_was(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(model("Relu", 5).SerializeToString())
    said = CliRunner().invoke(cli, ["check", str(tmp_path / "m.onnx")]).output
    assert re.search(r"compared: +1 tensors with ONNX's reference evaluator", said)
    said = CliRunner().invoke(cli, ["check", str(tmp_path / "m.onnx"), "--format", "json"]).output
    assert '"witness": "ONNX\'s reference evaluator"' in said
