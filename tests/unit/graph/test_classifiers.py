"""Scores of classifiers of ai.onnx.ml are tensors of their own; what the model computes stays the same."""

import graphs
import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxinfo import list_layers, load
from onnxinfo.graph.engine import Engine
from onnxinfo.graph.scores import score_tensor

ML = "ai.onnx.ml"
X = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)


def linear(transform, classes=3, **attributes):
    weights = np.random.default_rng(1).normal(size=(classes, 4)).ravel().tolist()
    return helper.make_node(
        "LinearClassifier", ["x"], ["label", "p"], domain=ML, post_transform=transform, coefficients=weights,
        intercepts=[0.1 * i for i in range(classes)], classlabels_ints=list(range(max(classes, 2))), **attributes,
    )  # fmt: skip


def trees(transform, ids, weights, classes):
    """One stump for each class; its leaves have a weight and its negative, or twice the weight."""
    count = len(ids)
    return helper.make_node(
        "TreeEnsembleClassifier", ["x"], ["label", "p"], domain=ML, post_transform=transform,
        nodes_treeids=np.repeat(range(count), 3).tolist(), nodes_nodeids=[0, 1, 2] * count,
        nodes_featureids=[f for i in range(count) for f in (i, 0, 0)], nodes_values=[0.1, 0.0, 0.0] * count,
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"] * count, nodes_truenodeids=[1, 0, 0] * count,
        nodes_falsenodeids=[2, 0, 0] * count, class_treeids=np.repeat(range(count), 2).tolist(),
        class_nodeids=[1, 2] * count, class_ids=np.repeat(ids, 2).tolist(), class_weights=weights,
        classlabels_int64s=list(range(classes)),
    )  # fmt: skip


def built(node, *more):
    outputs = [graphs.value("label", ("N",), TensorProto.INT64), graphs.value("p", ("N", None))]
    imports = [helper.make_opsetid(ML, 3)]
    return graphs.model([*more, node], [graphs.value("x", ("N", 4))], outputs, imports=imports, opset=17)


MIXED, POSITIVE = [0.4, -0.7] * 3, [0.4, 0.1] * 3
SEPARATE = {
    "linear, softmax": linear("SOFTMAX"),
    "linear, sigmoid": linear("LOGISTIC"),
    "linear, two classes": linear("LOGISTIC", 2),
    "trees, softmax": trees("SOFTMAX", [0, 1, 2], MIXED, 3),
    "trees, sigmoid": trees("LOGISTIC", [0, 1, 2], POSITIVE, 3),
    "trees, the score of one of two classes": trees("LOGISTIC", [0, 0, 0], MIXED, 2),
}
WHOLE = {
    "no transform": linear("NONE"),
    "zeros stay zeros": linear("SOFTMAX_ZERO"),
    "the score of one of two classes": linear("LOGISTIC", 1),
    "trees, the probability of one of two classes": trees("LOGISTIC", [0, 0, 0], POSITIVE, 2),
    "trees, softmax of one score": trees("SOFTMAX", [0, 0, 0], MIXED, 2),
}


def outputs(proto):
    return Engine(proto).run({"x": X})


@pytest.mark.parametrize("kind", SEPARATE)
def test_scores_are_separate_and_the_default_layer(kind):
    proto = built(SEPARATE[kind])
    model = load(proto)
    labels, probabilities = outputs(proto)
    again, same = outputs(model.proto)
    assert (again == labels).all()
    assert same == pytest.approx(probabilities, abs=2e-7)
    assert [layer.name for layer in list_layers(model) if layer.default] == ["p_scores"]
    assert score_tensor(model) == "p_scores"
    assert load(model.proto).proto == model.proto


@pytest.mark.parametrize("kind", WHOLE)
def test_others_stay(kind):
    proto = built(WHOLE[kind])
    model = load(proto)
    assert [node.op_type for node in model.proto.graph.node] == [WHOLE[kind].op_type]
    assert [layer.name for layer in list_layers(model) if layer.default] == ["p"]
    for one, other in zip(outputs(proto), outputs(model.proto), strict=True):
        assert (one == other).all()


def test_names_that_exist_are_not_taken():
    model = load(built(linear("SOFTMAX"), helper.make_node("Abs", ["x"], ["p_scores"])))
    assert model.proto.graph.node[1].output[1] == "p_scores_"


def test_models_without_main_operators_import_them():
    proto = built(linear("SOFTMAX"))
    del proto.opset_import[:]
    proto.opset_import.append(helper.make_opsetid(ML, 3))
    assert outputs(load(proto).proto)[1].sum(1) == pytest.approx(np.ones(50), abs=1e-6)
