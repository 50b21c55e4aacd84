"""Default layers at the end of a network: scores, not the probabilities computed from them."""

import graphs
import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxinfo import list_layers
from onnxinfo.graph.scores import score_tensor


def defaults(nodes, constants=(), *, outputs=("y",)):
    integers = {"label": TensorProto.INT64}
    values = [helper.make_tensor_value_info(name, integers.get(name, TensorProto.FLOAT), None) for name in outputs]
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


def residual(*summed):
    """A block of two products whose input is added to its result, and a head."""
    nodes = [
        PRODUCT,
        helper.make_node("Relu", ["z"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["b"]),
        *summed,
        helper.make_node("Relu", ["sum"], ["s"]),
        helper.make_node("MatMul", ["s", "w"], ["y"]),
    ]
    axes = [graphs.constant(f"axis {axis}", [axis]) for axis in (-1, 0, 1, 2)]
    return defaults(nodes, [*axes, graphs.constant("sizes", [0, 1, 4])])


def stacked(concat, reduce, unsqueeze, *, of=("r", "b"), keep=0):
    return [
        *(helper.make_node("Unsqueeze", [name, f"axis {unsqueeze}"], [f"{name}1"]) for name in of),
        helper.make_node("Concat", [f"{name}1" for name in of], ["stack"], axis=concat),
        helper.make_node("ReduceSum", ["stack", f"axis {reduce}"], ["sum"], keepdims=keep),
    ]


STACKED = {
    "last": stacked(-1, 2, 2),
    "first": stacked(0, 0, 0),
    "middle": stacked(1, 1, 1),
    "kept": [*stacked(1, 1, 1, keep=1)[:-1],
             helper.make_node("ReduceSum", ["stack", "axis 1"], ["kept"]),
             helper.make_node("Squeeze", ["kept", "axis 1"], ["sum"])],
    "reshaped": [helper.make_node("Reshape", ["r", "sizes"], ["r1"]),
                 helper.make_node("Reshape", ["b", "sizes"], ["b1"]),
                 *stacked(1, 1, 1)[2:]],
}  # fmt: skip


@pytest.mark.parametrize("kind", STACKED)
def test_a_residual_sum_may_be_written_as_a_stack(kind):
    expected = ["r", "s", "y"]
    assert residual(helper.make_node("Add", ["r", "b"], ["sum"])) == expected
    assert residual(*STACKED[kind]) == expected


def test_functions_of_one_value_are_stacked_within_its_block():
    tanh = helper.make_node("Tanh", ["b"], ["t"])
    stack = stacked(1, 1, 1, of=("b", "t"))
    assert residual(tanh, *stack) == residual(tanh, helper.make_node("Add", ["b", "t"], ["sum"])) == ["r", "s", "y"]


def test_a_stack_that_something_else_reads_is_no_residual_sum():
    max_of = helper.make_node("ReduceMax", ["stack", "axis 1"], ["top"], keepdims=0)
    both = helper.make_node("Mul", ["total", "top"], ["sum"])
    nodes = stacked(1, 1, 1)[:-1]
    reduced = helper.make_node("ReduceSum", ["stack", "axis 1"], ["total"], keepdims=0)
    assert "b" in residual(*nodes, reduced, max_of, both)


@pytest.mark.parametrize("reduce", [0, 2])
def test_a_sum_over_another_axis_than_that_of_a_stack_is_no_residual_sum(reduce):
    assert "b" in residual(*stacked(1, reduce, 1))


TAILS = {
    "squeezed": ([helper.make_node("Softmax", ["z"], ["p"]), helper.make_node("Squeeze", ["p"], ["y"])], "y"),
    "label": ([helper.make_node("Softmax", ["z"], ["p"]), helper.make_node("ArgMax", ["p"], ["label"])], "label"),
    "label and probabilities": (
        [helper.make_node("Softmax", ["z"], ["y"]), helper.make_node("ArgMax", ["y"], ["label"])],
        "y label",
    ),
    "largest probability": (
        [helper.make_node("Softmax", ["z"], ["p"]), helper.make_node("ReduceMax", ["p"], ["y"])],
        "y",
    ),
    "best classes": (
        [helper.make_node("Softmax", ["z"], ["p"]), helper.make_node("TopK", ["p", "k"], ["y", "label"])],
        "y label",
    ),
    "both classes": (
        [
            helper.make_node("Sigmoid", ["z"], ["p"]),
            helper.make_node("Sub", ["one", "p"], ["q"]),
            helper.make_node("Concat", ["q", "p"], ["y"], axis=1),
        ],
        "y",
    ),
    "threshold": (
        [
            helper.make_node("Sigmoid", ["z"], ["p"]),
            helper.make_node("Greater", ["p", "one"], ["above"]),
            helper.make_node("Cast", ["above"], ["label"], to=TensorProto.INT64),
        ],
        "label",
    ),
    "temperature": (
        [
            helper.make_node("Div", ["z", "one"], ["warm"]),
            helper.make_node("Softmax", ["warm"], ["y"]),
        ],
        "y",
    ),
}


@pytest.mark.parametrize("kind", TAILS)
def test_scores_before_everything_that_is_computed_from_probabilities(kind):
    nodes, outputs = TAILS[kind]
    constants = [graphs.constant("k", [2]), graphs.constant("one", 1, np.float32)]
    expected = "warm" if kind == "temperature" else "z"
    assert defaults([PRODUCT, *nodes], constants, outputs=outputs.split()) == [expected]


ML = "ai.onnx.ml"
LINEAR = {"coefficients": [1.0] * 16, "intercepts": [0.0] * 4, "classlabels_ints": [0, 1, 2, 3]}
CLASSIFIER = helper.make_node("LinearClassifier", ["x"], ["label", "p"], domain=ML, **LINEAR)
WITH_MAPS = {
    "network": (
        [
            PRODUCT,
            helper.make_node("Softmax", ["z"], ["p"]),
            helper.make_node("ArgMax", ["p"], ["label"], axis=1),
        ],
        ["z"],
    ),
    "linear": ([CLASSIFIER], ["p"]),
    "normalized": (
        [
            helper.make_node("LinearClassifier", ["x"], ["label", "raw"], domain=ML, **LINEAR),
            helper.make_node("Normalizer", ["raw"], ["p"], domain=ML, norm="L1"),
        ],
        ["p"],
    ),
    "scaled": (
        [
            helper.make_node("Scaler", ["x"], ["scaled"], domain=ML, scale=[1.0], offset=[0.0]),
            helper.make_node("LinearClassifier", ["scaled"], ["label", "p"], domain=ML, **LINEAR),
        ],
        ["p"],
    ),
}


@pytest.mark.parametrize("kind", WITH_MAPS)
def test_classifiers_with_labels_and_maps(kind):
    """As exported from scikit-learn: labels, and a sequence of maps from label to probability."""
    nodes, expected = WITH_MAPS[kind]
    nodes = [*nodes, helper.make_node("ZipMap", ["p"], ["maps"], domain=ML, classlabels_int64s=[0, 1, 2, 3])]
    maps = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, None),
        helper.make_value_info("maps", helper.make_sequence_type_proto(maps)),
    ]
    inputs, imports = [graphs.value("x", ("N", 4))], [helper.make_opsetid(ML, 3)]
    proto = graphs.model(nodes, inputs, outputs, [graphs.weight("w", 4, 4)], imports=imports)
    assert [layer.name for layer in list_layers(proto) if layer.default] == expected


def test_features_that_only_decide_something_inside_are_no_layers():
    """Labels are outputs; a threshold that chooses between two values is not the end of anything."""
    nodes = [
        PRODUCT,
        helper.make_node("Abs", ["z"], ["size"]),
        helper.make_node("Greater", ["size", "one"], ["large"]),
        helper.make_node("Where", ["large", "x", "z"], ["y"]),
        helper.make_node("ArgMax", ["y"], ["label"]),
    ]
    assert defaults(nodes, [graphs.constant("one", 1, np.float32)], outputs=("label",)) == ["z", "y"]


def label_as_floats(operator):
    """A label as scikit-learn's exporter writes it: a float that is cast to an integer at the end."""
    return [
        helper.make_node(operator, ["z"], ["chosen"]),
        helper.make_node("Cast", ["chosen"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["number", "column"], ["rows"]),
        helper.make_node("Cast", ["rows"], ["label"], to=TensorProto.INT64),
    ]


@pytest.mark.parametrize("operator", ["ArgMax", "ArgMin", "Sign"])
@pytest.mark.parametrize("alone", [True, False])
def test_a_label_is_no_layer_even_as_a_float(operator, alone):
    proto = [PRODUCT, helper.make_node("CumSum", ["z", "one"], ["y"]), *label_as_floats(operator)]
    constants = [graphs.constant("column", [-1, 1]), graphs.constant("one", 1)]
    assert defaults(proto, constants, outputs=("label",) if alone else ("label", "y")) == ["z"] + ["y"] * (not alone)


def test_log_likelihoods_of_naive_bayes():
    """The probabilities are their softmax, written as an exponential after subtracting the logarithm of the sum."""
    nodes = [
        helper.make_node("Abs", ["x"], ["likelihoods"]),
        helper.make_node("ReduceLogSumExp", ["likelihoods", "axis"], ["total"], keepdims=0),
        helper.make_node("Reshape", ["total", "column"], ["totals"]),
        helper.make_node("Sub", ["likelihoods", "totals"], ["logs"]),
        helper.make_node("Exp", ["logs"], ["y"]),
    ]
    column = [graphs.constant("column", [-1, 1]), graphs.constant("axis", [1])]
    assert defaults(nodes, column) == ["likelihoods"]
    another = [helper.make_node("ReduceLogSumExp", ["x", "axis"], ["total"], keepdims=0)]
    assert defaults([nodes[0], *another, *nodes[2:]], column) == ["y"]


def test_sigmoids_that_are_divided_by_their_sum():
    """One class against the others, as scikit-learn's exporter writes it; a mask avoids a division by zero."""
    make = helper.make_node
    nodes = [
        *(PRODUCT, make("Add", ["z", "one"], ["scores"]), make("Mul", ["scores", "minus"], ["negative"])),
        *(make("Exp", ["negative"], ["e"]), make("Add", ["e", "one"], ["more"]), make("Reciprocal", ["more"], ["p"])),
        *(make("ReduceSum", ["p", "axis"], ["sum"]), make("Cast", ["sum"], ["any"], to=TensorProto.BOOL)),
        *(make("Not", ["any"], ["none"]), make("Cast", ["none"], ["mask"], to=TensorProto.FLOAT)),
        *(make("Add", ["p", "mask"], ["masked"]), make("Add", ["sum", "mask"], ["sums"])),
        make("Div", ["masked", "sums"], ["y"]),
    ]
    constants = [graphs.constant(name, value, np.float32) for name, value in (("one", 1), ("minus", -1))]
    assert defaults(nodes, [*constants, graphs.constant("axis", [1])]) == ["scores"]


def test_attention_over_steps_at_the_end_is_no_head():
    """Weights that multiply other values are part of the network, and so is their product."""
    nodes = [
        PRODUCT,
        helper.make_node("Sigmoid", ["z"], ["gate"]),
        helper.make_node("Mul", ["gate", "x"], ["y"]),
    ]
    assert defaults(nodes) == ["gate", "y"]


def test_the_logarithm_of_probabilities_does_not_saturate():
    nodes = [PRODUCT, helper.make_node("Softmax", ["z"], ["p"]), helper.make_node("Log", ["p"], ["y"])]
    assert defaults(nodes) == ["z", "y"]


def elementary_softmax(scores, *, shifted):
    nodes = [
        helper.make_node("ReduceMax", [scores], ["most"], keepdims=1),
        helper.make_node("Sub", [scores, "most"], ["s"]),
    ]
    return [
        *(nodes if shifted else []),
        helper.make_node("Exp", ["s" if shifted else scores], ["e"]),
        helper.make_node("ReduceSum", ["e"], ["total"], keepdims=1),
        helper.make_node("Div", ["e", "total"], ["y"]),
    ]


ELEMENTARY = {
    "softmax": elementary_softmax("z", shifted=True),
    "softmax without shift": elementary_softmax("z", shifted=False),
    "sigmoid": [
        helper.make_node("Neg", ["z"], ["n"]), helper.make_node("Exp", ["n"], ["e"]),
        helper.make_node("Add", ["e", "one"], ["f"]), helper.make_node("Div", ["one", "f"], ["y"]),
    ],
    "sigmoid by reciprocal": [
        helper.make_node("Neg", ["z"], ["n"]), helper.make_node("Exp", ["n"], ["e"]),
        helper.make_node("Add", ["one", "e"], ["f"]), helper.make_node("Reciprocal", ["f"], ["y"]),
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", ELEMENTARY)
def test_scores_before_probabilities_in_elementary_operators(kind):
    """Exporters of JAX and TensorFlow write softmax and sigmoid so."""
    one = graphs.constant("one", 1, np.float32)
    assert defaults([PRODUCT, *ELEMENTARY[kind]], [one]) == ["z"]


def test_a_quotient_of_two_layers_is_no_probability():
    nodes = [
        PRODUCT,
        helper.make_node("MatMul", ["x", "w"], ["other"]),
        helper.make_node("Exp", ["other"], ["e"]),
        helper.make_node("Div", ["z", "e"], ["y"]),
    ]
    assert defaults(nodes) == ["z", "e", "y"]


@pytest.mark.parametrize("operator", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("outputs", ["y", "y h", "h"])
def test_a_recurrence_is_one_layer(operator, outputs):
    """Its final states are no layers of their own, if its states at all steps are used; else the first of them is."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[operator]
    names = [name if name in outputs.split() else "" for name in ("y", "h")] + (["c"] if operator == "LSTM" else [])
    weights = [graphs.weight("wx", 1, gates * 4, 4), graphs.weight("wh", 1, gates * 4, 4)]
    nodes = [
        helper.make_node("Unsqueeze", ["x", "zero"], ["steps"]),
        helper.make_node(operator, ["steps", "wx", "wh"], names, hidden_size=4),
        *(helper.make_node("MatMul", [name, "w"], [f"from_{name}"]) for name in names if name),
    ]
    used = [name for name in names if name]
    found = defaults(nodes, [*weights, graphs.constant("zero", [0])], outputs=[f"from_{name}" for name in used])
    assert found == [used[0], *(f"from_{name}" for name in used)]


def test_an_output_in_another_layout_is_the_layer():
    nodes = [
        PRODUCT,
        helper.make_node("Relu", ["z"], ["r"]),
        helper.make_node("Reshape", ["r", "shape"], ["y"]),
        helper.make_node("MatMul", ["r", "w"], ["further"]),
    ]
    assert defaults(nodes, [graphs.constant("shape", [0, 2, 2])], outputs=("y", "further")) == ["y", "further"]


@pytest.mark.parametrize("summary", ["GlobalAveragePool", "ReduceMean"])
def test_a_gate_belongs_to_the_block_that_it_multiplies(summary):
    """Squeeze and excitation: a small network of a block's means scales the block's channels."""
    image = helper.make_node("Reshape", ["x", "sizes"], ["image"])
    axes = {} if summary == "GlobalAveragePool" else {"axes": [2, 3]}
    nodes = [
        image,
        helper.make_node("Conv", ["image", "k"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node(summary, ["r"], ["mean"], **axes),
        helper.make_node("Conv", ["mean", "down"], ["d"]),
        helper.make_node("Relu", ["d"], ["dr"]),
        helper.make_node("Conv", ["dr", "up"], ["u"]),
        helper.make_node("Sigmoid", ["u"], ["gate"]),
        helper.make_node("Mul", ["r", "gate"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "up"], ["y"]),
    ]
    kernels = [graphs.weight("k", 4, 1, 1, 1), graphs.weight("down", 2, 4, 1, 1), graphs.weight("up", 4, 2, 1, 1)]
    last = helper.make_node("Conv", ["scaled", "down"], ["y"])
    constants = [*kernels, graphs.constant("sizes", [-1, 1, 2, 2])]
    proto = graphs.model(
        [*nodes[:-1], last], [graphs.value("x", ("N", 4))], [graphs.value("y", None)], constants, opset=13
    )
    found = {layer.name: layer.parameters for layer in list_layers(proto) if layer.default}
    assert found == {"scaled": 4 + 8 + 8, "y": 8}


def test_a_head_on_the_means_of_a_block_is_no_gate():
    nodes = [
        helper.make_node("Reshape", ["x", "sizes"], ["image"]),
        helper.make_node("Conv", ["image", "k"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["mean"]),
        helper.make_node("Conv", ["mean", "head"], ["y"]),
        helper.make_node("Conv", ["c", "head"], ["map"]),
    ]
    constants = [
        graphs.weight("k", 4, 1, 1, 1),
        graphs.weight("head", 2, 4, 1, 1),
        graphs.constant("sizes", [-1, 1, 2, 2]),
    ]
    assert sorted(defaults(nodes, constants, outputs=("y", "map"))) == ["c", "map", "y"]


def test_weights_of_an_attention_belong_to_it():
    nodes = [
        *(helper.make_node("MatMul", ["x", name], [f"x{name}"]) for name in ("q", "k", "v")),
        helper.make_node("Transpose", ["xk"], ["kt"], perm=[1, 0]),
        helper.make_node("MatMul", ["xq", "kt"], ["similar"]),
        helper.make_node("Softmax", ["similar"], ["weights"]),
        helper.make_node("MatMul", ["weights", "xv"], ["context"]),
        helper.make_node("MatMul", ["context", "w"], ["y"]),
    ]
    matrices = [graphs.weight(name, 4, 4) for name in ("q", "k", "v")]
    assert defaults(nodes, matrices) == ["xq", "xk", "xv", "context", "y"]


def test_a_matrix_that_the_graph_computes_is_no_layer():
    """A Fourier transform by a matrix of cosines; weights that are graph inputs or stored are layers."""
    nodes = [
        helper.make_node("Range", ["start", "limit", "step"], ["steps"]),
        helper.make_node("Reshape", ["steps", "square"], ["angles"]),
        helper.make_node("Cos", ["angles"], ["cosines"]),
        helper.make_node("MatMul", ["x", "cosines"], ["spectrum"]),
        helper.make_node("MatMul", ["spectrum", "w"], ["y"]),
    ]
    numbers = [graphs.constant(name, number, np.float32) for name, number in (("start", 0), ("limit", 16), ("step", 1))]
    assert defaults(nodes, [*numbers, graphs.constant("square", [4, 4])]) == ["y"]
