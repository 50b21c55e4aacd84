"""Float inputs that hold ids: noise is added to what they look up."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxinfo
from onnxinfo.errors import UsageError

WORDS, WIDTH = 9, 4


def values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


IDS = np.random.default_rng(0).integers(0, WORDS, (3, 5))
CASTS = {
    "cast": [("Cast", ["x"], ["ids"], {"to": TensorProto.INT32})],
    "turned": [("Transpose", ["x"], ["t"], {"perm": [1, 0]}), ("Transpose", ["t"], ["u"], {"perm": [1, 0]}),
               ("Cast", ["u"], ["ids"], {"to": TensorProto.INT64})],
    "rounded": [("Round", ["x"], ["r"], {}), ("Cast", ["r"], ["ids"], {"to": TensorProto.INT64})],
    "clipped": [("Clip", ["x", "low", "high"], ["r"], {}), ("Cast", ["r"], ["ids"], {"to": TensorProto.INT64})],
    "masked": [("Cast", ["x"], ["ids"], {"to": TensorProto.INT64}), ("Greater", ["x", "low"], ["real"], {})],
}  # fmt: skip


def text_model(how, *, element=TensorProto.FLOAT):
    make = helper.make_node
    nodes = [make(op, inputs, outputs, **more) for op, inputs, outputs, more in CASTS[how]]
    nodes += [make("Gather", ["table", "ids"], ["embedded"])]
    at = "embedded"
    if how == "masked":
        nodes += [
            make("Cast", ["real"], ["weight"], to=TensorProto.FLOAT),
            make("Unsqueeze", ["weight", "last"], ["w"]),
        ]
        nodes += [make("Mul", ["embedded", "w"], ["kept"])]
        at = "kept"
    nodes += [make("MatMul", [at, "weights"], ["hidden"]), make("Tanh", ["hidden"], ["state"])]
    nodes += [make("ReduceMean", ["state"], ["scores"], axes=[1], keepdims=0)]
    constants = {
        "table": values(WORDS, WIDTH), "weights": values(WIDTH, 6, seed=1), "low": np.float32(0),
        "high": np.float32(WORDS - 1), "last": np.array([2]),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", element, ["batch", 5])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("how", CASTS)
def test_noise_is_added_to_the_embedding(how, tmp_path):
    result = onnxinfo.analyze(text_model(how), IDS, tmp_path / "a.h5", layers=["scores"])
    with onnxinfo.open(result.archive) as archive:
        run = archive[result.run]
        assert run.recipe["perturbed"] == "embedded"
        assert run.shape[:2] == (1, 3)
        assert run.values("sid")["converged"].all()


@pytest.mark.parametrize("element", [TensorProto.FLOAT, TensorProto.INT64])
def test_one_hot_vectors_look_up_too(element, tmp_path):
    """The product of one-hot vectors and a table is what Gather gives."""
    proto = text_model("cast", element=element)
    (lookup,) = [i for i, n in enumerate(proto.graph.node) if n.op_type == "Gather"]
    proto.graph.node[lookup].CopyFrom(helper.make_node("MatMul", ["vectors", "table"], ["embedded"]))
    proto.graph.node.insert(lookup, helper.make_node("OneHot", ["ids", "depth", "pair"], ["vectors"]))
    for name, array in (("depth", np.array(WORDS, np.int32)), ("pair", np.float32([0, 1]))):
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    ids = IDS if element == TensorProto.INT64 else IDS.astype(np.float32)
    found = []
    for number, each in enumerate((proto, text_model("cast", element=element))):
        result = onnxinfo.analyze(each, ids, tmp_path / "a.h5", layers=["scores"], run=str(number))
        with onnxinfo.open(result.archive) as archive:
            assert archive[result.run].recipe["perturbed"] == "embedded"
            found.append(archive[result.run].values("sid")["value"])
    np.testing.assert_allclose(*found, atol=1e-3)


@pytest.mark.parametrize("how", CASTS)
def test_generated_ids_are_rows_of_the_table(how):
    found = onnxinfo.check_model(text_model(how))
    assert found.error is None
    assert found.perturbed == "embedded"
    assert found.reached


def with_sum(op):
    """The input is also used as what it is."""
    proto = text_model("cast")
    proto.graph.node.append(helper.make_node(op, ["x"], ["other"]))
    proto.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, None))
    return proto


@pytest.mark.parametrize("op", ["Tanh", "Identity"])
def test_an_input_that_anything_computes_with_holds_no_ids(op):
    assert onnxinfo.perturbed_tensors(with_sum(op)) == ["x"]


def test_a_named_tensor_is_taken(tmp_path):
    assert onnxinfo.perturbed_tensors(text_model("cast"), "state") == ["state"]
    with pytest.raises(UsageError):
        onnxinfo.perturbed_tensors(text_model("cast"), "ids")


def test_tokens_come_before_their_types_that_one_hot_vectors_look_up():
    """As in BERT of TensorFlow, whose types of tokens are an earlier input."""
    make = helper.make_node
    nodes = [
        make("OneHot", ["types", "depth", "pair"], ["vectors"]),
        make("MatMul", ["vectors", "table of types"], ["of types"]),
        make("Gather", ["table", "tokens"], ["of tokens"]),
        make("Add", ["of types", "of tokens"], ["sum"]),
        make("Tanh", ["sum"], ["y"]),
    ]
    constants = {
        "depth": np.array(2), "pair": np.float32([0, 1]), "table of types": values(2, WIDTH),
        "table": values(WORDS, WIDTH),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", 5]) for name in ("types", "tokens")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    assert onnxinfo.perturbed_tensors(proto) == ["of tokens"]
