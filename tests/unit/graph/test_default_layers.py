"""Default layers at the end of a network: scores, not the probabilities computed from them."""

import graphs
import pytest
from onnx import TensorProto, helper

from onnxinfo import list_layers
from onnxinfo.graph.scores import score_tensor


def defaults(nodes, constants=(), *, outputs=("y",)):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    proto = graphs.model(nodes, [graphs.value("x", ("N", 4))], values, [graphs.weight("w", 4, 4), *constants])
    return [layer.name for layer in list_layers(proto) if layer.default]


PRODUCT = helper.make_node("MatMul", ["x", "w"], ["z"])


@pytest.mark.parametrize("operator", ["Softmax", "Sigmoid", "HardSigmoid"])
def test_scores_are_the_last_layer(operator):
    assert defaults([PRODUCT, helper.make_node(operator, ["z"], ["y"])]) == ["z"]


def test_also_where_the_probabilities_are_laid_out_anew():
    nodes = [
        PRODUCT,
        helper.make_node("Identity", ["z"], ["same"]),
        helper.make_node("Softmax", ["same"], ["p"]),
        helper.make_node("Reshape", ["p", "shape"], ["y"]),
    ]
    assert defaults(nodes, [graphs.constant("shape", [0, 2, 2])]) == ["z"]


def test_log_probabilities_do_not_saturate():
    assert defaults([PRODUCT, helper.make_node("LogSoftmax", ["z"], ["y"])]) == ["z", "y"]


def test_a_sigmoid_inside_is_the_end_of_its_block():
    nodes = [PRODUCT, helper.make_node("Sigmoid", ["z"], ["s"]), helper.make_node("MatMul", ["s", "w"], ["y"])]
    assert defaults(nodes) == ["s", "y"]


def test_probabilities_without_a_layer_before_them_are_a_layer():
    assert defaults([helper.make_node("Softmax", ["x"], ["y"])]) == ["y"]


def test_each_of_several_heads():
    nodes = [
        PRODUCT,
        helper.make_node("Softmax", ["z"], ["y"]),
        helper.make_node("MatMul", ["x", "w"], ["boxes"]),
    ]
    assert sorted(defaults(nodes, outputs=("y", "boxes"))) == ["boxes", "z"]


def test_the_tensor_behind_a_list_of_maps():
    """Exported classifiers of scikit-learn return one map from labels to probabilities per sample."""
    trees = helper.make_node(
        "TreeEnsembleClassifier", ["x"], ["label", "probabilities"], domain="ai.onnx.ml", class_ids=[0, 1],
        class_nodeids=[1, 2], class_treeids=[0, 0], class_weights=[1.0, 1.0], classlabels_int64s=[0, 1],
        nodes_treeids=[0] * 3, nodes_nodeids=[0, 1, 2], nodes_featureids=[0] * 3, nodes_values=[0.5, 0.0, 0.0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_truenodeids=[1, 0, 0], nodes_falsenodeids=[2, 0, 0],
    )  # fmt: skip
    maps = helper.make_node("ZipMap", ["probabilities"], ["maps"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    listed = helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    )
    outputs = [graphs.value("label", ("N",), TensorProto.INT64), helper.make_value_info("maps", listed)]
    imports = [helper.make_opsetid("ai.onnx.ml", 3)]
    proto = graphs.model([trees, maps], [graphs.value("x")], outputs, imports=imports, opset=17)
    assert [layer.name for layer in list_layers(proto) if layer.default] == ["probabilities"]
    assert score_tensor(proto) == "probabilities"


def test_sums_without_a_matrix_operator_are_no_layers():
    """Exported SVMs and AdaBoost add up the votes of their parts."""
    votes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Sign", ["x"], ["b"])]
    nodes = [*votes, helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("CumSum", ["sum", "axis"], ["y"])]
    axis = graphs.constant("axis", 1)
    assert defaults(nodes, [axis]) == ["y"]
    product = helper.make_node("MatMul", ["x", "w"], ["a"])
    assert defaults([product, *nodes[1:]], [axis]) == ["sum", "y"]
