"""Layers that no gradient reaches: solved by evaluations alone, marked, and never compared with others."""

import math
import shutil
from statistics import NormalDist

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from graphs import constant, model, node, value, weight
from onnx import TensorProto, helper

import onnxinfo
from onnxinfo.archive.format import mark_code
from onnxinfo.cli import cli
from onnxinfo.graph.thresholds import thresholds_of
from onnxinfo.metrics import forward
from onnxinfo.views.comparable import split_apart
from onnxinfo.views.reading_runs import run_values
from onnxinfo.views.run_view import RunView

C = 0.5 * math.log(2 * math.pi * math.e)
X = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
UNIT = {"mean": [0.0], "std": [1.0]}
ML = helper.make_opsetid("ai.onnx.ml", 3)


def step(units=5, distance=0.3, height=2.0):
    nodes = [
        node("MatMul", "x e", "h"),
        node("Greater", "h t", "g"),
        node("Cast", "g", "c", to=TensorProto.FLOAT),
        node("Mul", "c height", "y"),
    ]
    given = [
        constant("e", np.eye(units, 1), np.float32),
        constant("t", distance, np.float32),
        constant("height", height, np.float32),
    ]
    return model(nodes, [value("x", ("N", units))], [value("y", ("N", 1))], given)


def stumps(thresholds=(0.3, -0.6), heights=(3.0, 1.0), units=5, scaled=False):
    """A tree ensemble of one stump for each of the first units."""
    tree = {
        "treeids": [],
        "nodeids": [],
        "featureids": [],
        "values": [],
        "modes": [],
        "truenodeids": [],
        "falsenodeids": [],
    }
    for number, threshold in enumerate(thresholds):
        for name, values in zip(
            tree,
            (
                [number] * 3, [0, 1, 2], [number, 0, 0], [threshold, 0.0, 0.0], ["BRANCH_LEQ", "LEAF", "LEAF"],
                [1, 0, 0], [2, 0, 0],
            ),
            strict=True,
        ):  # fmt: skip
            tree[name] += values
    ensemble = helper.make_node(
        "TreeEnsembleRegressor", ["scaled" if scaled else "x"], ["y"], domain="ai.onnx.ml", n_targets=2,
        target_treeids=[0, 1], target_nodeids=[2, 2], target_ids=[0, 1], target_weights=list(heights),
        **{f"nodes_{name}": values for name, values in tree.items()},
    )  # fmt: skip
    before = [
        helper.make_node("Scaler", ["x"], ["scaled"], domain="ai.onnx.ml", offset=[1.0] * units, scale=[2.0] * units)
    ]
    nodes = [*(before if scaled else []), ensemble]
    return model(nodes, [value("x", ("N", units))], [value("y", ("N", 2))], imports=[ML], opset=17)


def mixed():
    """One layer with a gradient, and one that only steps."""
    nodes = [
        node("Gemm", "x w", "h"),
        node("Greater", "h zero", "b"),
        node("Cast", "b", "f", to=TensorProto.FLOAT),
        node("MatMul", "f v", "y"),
    ]
    given = [weight("w", 4, 6), weight("v", 6, 3), constant("zero", 0.1, np.float32)]
    return model(nodes, [value("x")], [value("y", ("N", 3))], given)


def run_of(proto, x, folder, name="run", **options):
    result = onnxinfo.analyze(proto, x, folder / "out.h5", run=name, threads=1, **UNIT, **options)
    with onnxinfo.open(result.archive) as archive:
        run = archive[name]
        return run.values("sid"), run.recipe, run.normalizer("sid")


@pytest.mark.parametrize("solver", ["auto", "forward"])
def test_a_step_is_solved_without_being_asked_for(tmp_path, solver):
    values, recipe, _ = run_of(step(), np.zeros((1, 5), np.float32), tmp_path, budget=0.02, layers=["y"], solver=solver)
    sigma = -0.3 / NormalDist().inv_cdf(0.02 / 4)
    assert values["value"][0, 0] == pytest.approx(math.log(sigma) / 5 + C, abs=0.003)
    assert values["converged"].all()
    assert (recipe["solver"], recipe["normalizer"], recipe["budget"]) == ("forward", "absolute", 0.02)


def test_steps_that_one_noise_sample_in_a_thousand_crosses(tmp_path):
    """As in a single tree, of which every leaf is pure."""
    values, *_ = run_of(step(height=1.0), np.zeros((1, 5), np.float32), tmp_path, budget=0.0013, layers=["y"])
    sigma = -0.3 / NormalDist().inv_cdf(0.0013)
    assert values["converged"].all()
    assert values["value"][0, 0] == pytest.approx(math.log(sigma) / 5 + C, abs=0.005)


def test_a_range_is_narrowed_until_the_constraint_is_met(tmp_path, monkeypatch):
    monkeypatch.setattr(forward, "ADJUSTMENTS", 1)
    values, *_ = run_of(stumps(), np.zeros((1, 5), np.float32), tmp_path, budget=0.05)
    assert values["converged"].all()
    assert values["ratio"][0, 0] == pytest.approx(1, abs=0.1)


def test_trees_are_integrated_exactly(tmp_path):
    budget = 0.05
    found = []
    for second in np.linspace(0.05, 1, 4000):
        rest = budget - NormalDist().cdf(-0.6 / second)
        if rest > 0:
            found.append(math.log(-0.3 / NormalDist().inv_cdf(rest / 9)) + math.log(second))
    values, *_ = run_of(stumps(), np.zeros((1, 5), np.float32), tmp_path, budget=budget)
    assert values["converged"].all()
    assert values["value"][0, 0] == pytest.approx(max(found) / 5 + C, abs=0.004)


def test_samples_on_a_threshold_are_marked_with_the_budget_that_suffices(tmp_path, caplog):
    """LightGBM tells zeros from the rest at 1e-35, which noise of any size crosses half of the time."""
    proto = stumps(thresholds=(1e-35, -0.6), heights=(3.0, 1.0))
    x = np.zeros((2, 5), np.float32)
    x[1, 0] = 2
    values, *_ = run_of(proto, x, tmp_path, budget=0.5)
    assert values["mark"][0].tolist() == [mark_code("resolution"), mark_code("saturated")]
    assert values["converged"][0].tolist() == [0, 1]
    assert np.isnan(values["value"][0, 0])
    # The jump of 3 deviates by 4.5, which is to be at most half of the budget.
    assert values["resolution_alpha"][0, 0] == pytest.approx(9, rel=0.1)
    assert "1 of 1 samples of 'y' are limited by steps" in caplog.text
    assert not onnxinfo.validate(tmp_path / "out.h5").violations
    values, *_ = run_of(proto, x, tmp_path, "enough", budget=9.5)
    assert values["converged"].all()


@pytest.mark.parametrize("scaled", [False, True])
def test_thresholds_are_those_of_the_input(scaled):
    found = thresholds_of(stumps(scaled=scaled), "x", "y")
    expected = [[1.15], [0.7], [], [], []] if scaled else [[0.3], [-0.6], [], [], []]
    assert [each.tolist() for each in found] == [pytest.approx(each) for each in expected]
    # The model itself jumps there.
    session = onnxinfo.expose(stumps(scaled=scaled), ["y"])
    assert session.proto.graph.node[-1].op_type == "TreeEnsembleRegressor"
    assert thresholds_of(step(), "x", "y") is None


def test_thresholds_of_columns_that_are_moved():
    """Columns may come in parts, in another order and each scaled by itself."""
    proto = stumps(units=5)
    proto.graph.node[0].input[0] = "joined"
    scaler = helper.make_node("Scaler", ["b"], ["scaled"], domain="ai.onnx.ml", offset=[1.0, 0.0], scale=[2.0, 4.0])
    split = helper.make_node("Split", ["x", "sizes"], ["a", "b"], axis=1)
    join = helper.make_node("Concat", ["scaled", "a"], ["joined"], axis=1)
    tree = proto.graph.node.pop()
    proto.graph.node.extend([split, scaler, join, tree])
    proto.graph.initializer.append(constant("sizes", [3, 2]))
    # Feature 0 of the trees is column 3, and feature 1 column 4.
    found = thresholds_of(proto, "x", "y")
    assert [each.tolist() for each in found] == [[], [], [], [pytest.approx(1.15)], [pytest.approx(-0.15)]]
    proto.graph.node.insert(0, helper.make_node("Identity", ["other"], ["moved"]))
    proto.graph.input.append(value("other", ("N", 1)))
    proto.graph.node[3].input.append("moved")
    assert thresholds_of(proto, "x", "y") is None


def compared(*nodes, **given):
    """A product after comparisons of columns with constants; the layer is y."""
    ends = [*nodes, node("Cast", "b", "f", to=TensorProto.FLOAT), node("ReduceSum", "f", "y", keepdims=1)]
    constants = [constant(name, each, np.int64 if name == "places" else np.float32) for name, each in given.items()]
    return model(ends, [value("x", ("N", 3))], [value("y", (None, None))], constants, imports=[ML], opset=17)


EXTRACT = helper.make_node("ArrayFeatureExtractor", ["x", "places"], ["c"], domain="ai.onnx.ml")
BINARY = helper.make_node("Binarizer", ["x"], ["f"], domain="ai.onnx.ml", threshold=0.5)
COMPARED = {
    "each column": (compared(node("Greater", "x t", "b"), t=[[1, 2, 3]]), [[1], [2], [3]]),
    "all columns": (compared(node("LessOrEqual", "t x", "b"), t=2), [[2], [2], [2]]),
    "several bins": (compared(EXTRACT, node("Less", "c t", "b"), places=[1], t=[0, 1, 2]), [[], [0, 1, 2], []]),
    "gathered": (
        compared(node("Gather", "x places", "c", axis=1), node("Less", "c t", "b"), places=[2, 0], t=[4, 5]),
        [[5], [], [4]],
    ),
    "scaled": (
        compared(
            *(node("Sub", "x m", "a"), node("Div", "a s", "d"), node("Mul", "d k", "e"), node("Add", "k e", "c")),
            *(node("GreaterOrEqual", "c t", "b"),), m=[1, 1, 2], s=2, k=-3, t=0,
        ),
        [[-1], [-1], [0]],
    ),
    "beside zeros": (
        compared(*(node("Mul", "x z", "o"), node("Less", "x t", "l"), node("Less", "o t", "m"), node("Or", "l m", "b")),
                 z=0, t=1),
        [[1]] * 3,
    ),
    "squares": (compared(node("Mul", "x x", "c"), node("Less", "c t", "b"), t=1), None),
    "also as it is": (
        compared(*(node("Less", "x t", "l"), node("Cast", "l", "g", to=TensorProto.FLOAT), node("Mul", "g x", "h")),
                 *(node("Less", "h t", "b"),), t=1),
        None,
    ),
    "the same number": (compared(node("Equal", "x t", "b"), t=1), None),
    "rows": (compared(node("Less", "x t", "b"), t=[[1, 1, 1], [2, 2, 2]]), None),
    "one divided by it": (compared(node("Div", "t x", "c"), node("Less", "c t", "b"), t=1), None),
    "a shape": (
        compared(
            *(node("Greater", "x t", "l"), node("Shape", "x", "s"), node("Expand", "none s", "n")),
            *(node("Cast", "n", "k", to=TensorProto.BOOL), node("Or", "l k", "b")), t=1, none=[0],
        ),
        [[1]] * 3,
    ),
    "a missing column": (compared(EXTRACT, node("Less", "c t", "b"), places=[3], t=1), None),
    "a row": (compared(node("Gather", "x places", "c", axis=0), node("Less", "c t", "b"), places=[0], t=1), None),
    "each row by itself": (compared(node("Mul", "x k", "c"), node("Less", "c t", "b"), k=[[1], [2], [4]], t=1), None),
    "repeated": (compared(EXTRACT, node("Mul", "c k", "d"), node("Less", "d t", "b"), places=[1], k=[1, 2], t=1), None),
    "whole numbers": (
        compared(node("Cast", "x", "i", to=TensorProto.INT64), node("Less", "i places", "b"), places=[1]), None
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", COMPARED)
def test_thresholds_of_comparisons(kind):
    proto, expected = COMPARED[kind]
    found = thresholds_of(proto, "x", "y")
    assert found is None if expected is None else [each.tolist() for each in found] == expected
    # A layer that only moves columns is not constant.
    if expected is not None and kind == "scaled":
        assert thresholds_of(proto, "x", "c") is None


def test_binarized_columns():
    proto = compared(BINARY)
    del proto.graph.node[1]
    found = thresholds_of(proto, "x", "y")
    assert [each.tolist() for each in found] == [[0.5]] * 3


def test_comparisons_are_integrated_exactly(tmp_path):
    """As for stumps; without thresholds the gap would be larger."""
    nodes = [node("Greater", "x t", "b"), node("Cast", "b", "f", to=TensorProto.FLOAT), node("MatMul", "f w", "y")]
    given = [constant("t", [[0.3, -0.6, 9]], np.float32), constant("w", [[3], [1], [1]], np.float32)]
    proto = model(nodes, [value("x", ("N", 3))], [value("y", ("N", 1))], given)
    values, *_ = run_of(proto, np.zeros((1, 3), np.float32), tmp_path, budget=0.05, layers=["y"])
    assert values["converged"].all()
    twice = [run_of(stumps(units=3), np.zeros((1, 3), np.float32), tmp_path, "stumps", budget=0.05)[0]]
    assert values["value"][0, 0] == pytest.approx(twice[0]["value"][0, 0], abs=0.02)


def test_the_budget_is_a_hundredth_of_the_variance(tmp_path, caplog):
    proto = stumps(thresholds=(0.3, -0.6), units=4)
    values, recipe, normalizer = run_of(proto, X[:3], tmp_path)
    y = np.stack([3.0 * (X[:3, 0] > 0.3), 1.0 * (X[:3, 1] > -0.6)], 1)
    assert normalizer == pytest.approx([y.var(0).sum()])
    assert (recipe["solver"], recipe["normalizer"], recipe["alpha"]) == ("forward", "feature", 0.01)
    assert "1 of 1 layers are solved without gradients, budget: 0.01 of the feature's variance" in caplog.text
    assert (values["probes"] > 0).all()


def test_one_sample_has_no_variance(tmp_path):
    with pytest.raises(onnxinfo.UsageError, match=r"has variance 0 over 1 sample.*budget=\.\.\."):
        run_of(step(4), X[:1], tmp_path, layers=["y"])


def test_a_budget_beyond_the_cap_says_so(tmp_path):
    values, *_ = run_of(step(4), X[:2], tmp_path, layers=["y"], budget=4.5)
    assert values["converged"].all()
    assert (values["mark"] == mark_code("saturated")).all()
    assert (values["capped"] == 1).all()
    assert values["value"] == pytest.approx(np.full((1, 2), C))


def test_layers_without_a_gradient_are_marked_and_drawn_apart(tmp_path, caplog):
    values, recipe, normalizer = run_of(mixed(), X, tmp_path, limit=3)
    assert recipe["forward_layers"] == ["y"]
    assert (recipe["normalizer"], recipe["solver"], recipe["alpha"]) == ("dataset", "auto", 1.5e-4)
    assert "no gradient reaches layer 'y'" in caplog.text
    hidden = X[:3] @ np.random.default_rng([0, *b"w"]).standard_normal((4, 6)).astype(np.float32) * 0.5 > 0.1
    y = hidden @ (np.random.default_rng([0, *b"v"]).standard_normal((6, 3)) * 0.5)
    assert normalizer[1] == pytest.approx(y.var(0).sum(), rel=1e-4)
    with onnxinfo.open(tmp_path / "out.h5") as archive:
        found = run_values(RunView(archive["run"]), "sid")
    parts = split_apart(found)
    assert [(part.name, [row.name for row in part.layers]) for part in parts] == [
        ("run", ["h"]),
        ("run, without gradients", ["y"]),
    ]
    onnxinfo.plot(tmp_path / "out.h5", "curve", tmp_path / "curve.svg")
    assert "without gradients" in (tmp_path / "curve.svg").read_text()
    alone, *_ = run_of(mixed(), X, tmp_path, name="alone", limit=3, layers=["h"])
    assert alone["value"][0] == pytest.approx(values["value"][0], abs=0.003)


def test_with_feature_everywhere_nothing_is_drawn_apart(tmp_path):
    values, recipe, normalizer = run_of(mixed(), X, tmp_path, limit=3, normalize_by="feature")
    assert (recipe["forward_layers"], recipe["normalizer"], recipe["alpha"]) == (["y"], "feature", 0.01)
    hidden = X[:3] @ np.random.default_rng([0, *b"w"]).standard_normal((4, 6)).astype(np.float32) * 0.5
    assert normalizer[0] == pytest.approx(hidden.var(0).sum(), rel=1e-4)
    assert values["converged"].all()
    with onnxinfo.open(tmp_path / "out.h5") as archive:
        found = run_values(RunView(archive["run"]), "sid")
    assert [[row.name for row in part.layers] for part in split_apart(found)] == [["h", "y"]]
    onnxinfo.plot(tmp_path / "out.h5", "curve", tmp_path / "curve.svg")
    assert "without gradients" not in (tmp_path / "curve.svg").read_text()


@pytest.fixture
def rough(monkeypatch):
    """Let the solver search once, for tests of what is done with its numbers."""
    monkeypatch.setattr(forward, "STAGES", forward.STAGES[:1])
    monkeypatch.setattr(forward, "MOST_SEARCHES", 1)
    monkeypatch.setattr(forward, "CERTIFIED_STDERR", 0.1)


@pytest.fixture(scope="module")
def mixed_run(tmp_path_factory):
    """A run of two samples with the name auto."""
    folder = tmp_path_factory.mktemp("mixed")
    return folder / "out.h5", run_of(mixed(), X, folder, name="auto", limit=2)[0]


@pytest.mark.usefixtures("quick_workers")
def test_a_mixed_run_is_the_same_with_several_workers(tmp_path, mixed_run):
    one = mixed_run[1]
    two, recipe, _ = run_of(mixed(), X, tmp_path, name="two", limit=2, workers=2)
    assert recipe["forward_layers"] == ["y"]
    for name, numbers in one.items():
        assert np.array_equal(two[name], numbers, equal_nan=numbers.dtype.kind == "f"), name


@pytest.mark.usefixtures("rough")
def test_results_of_another_normalizer_are_not_compared(tmp_path, mixed_run):
    shutil.copy(mixed_run[0], tmp_path)
    run_of(mixed(), X, tmp_path, name="absolute", limit=2, budget=0.1)
    run_of(mixed(), X, tmp_path, name="again", limit=2, seed=1)
    with pytest.raises(onnxinfo.UsageError, match="normalize_by is"):
        onnxinfo.compare(tmp_path / "out.h5", run=["auto", "absolute"])
    rows = onnxinfo.compare(tmp_path / "out.h5", run=["auto", "again"])
    assert {row["layer"] for row in rows} == {"h", "y"}
    # By depth, a layer with a gradient would meet one without.
    run_of(mixed(), X, tmp_path, name="first", limit=2, layers=["h"])
    run_of(mixed(), X, tmp_path, name="last", limit=2, layers=["y"], solver="forward")
    with pytest.raises(onnxinfo.UsageError, match="normalize_by is dataset in one and feature in the other"):
        onnxinfo.compare(tmp_path / "out.h5", run=["first", "last"], by="depth")


@pytest.mark.parametrize("metric", ["ru", "gradient"])
def test_metrics_that_need_gradients_are_refused_in_one_line(tmp_path, metric):
    with pytest.raises(onnxinfo.UsageError) as raised:
        run_of(mixed(), X, tmp_path, solver="forward", metrics=[metric], layers=["h"])
    assert (
        str(raised.value)
        == f"metric '{metric}' needs gradients, and solver 'forward' takes none: leave out one of them"
    )
    with pytest.raises(onnxinfo.OnnxinfoError, match="no gradient reaches layer 'y'") as raised:
        run_of(mixed(), X, tmp_path, metrics=["ru"], layers=["y"])
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("rough")
def test_too_many_scales_are_refused_or_left_out(tmp_path, caplog):
    nodes = [
        node("Relu", "x", "h"),
        node("Greater", "h zero", "b"),
        node("Cast", "b", "f", to=TensorProto.FLOAT),
        node("GlobalAveragePool", "f", "y"),
    ]
    sizes = ("N", 3, 20, 20)
    proto = model(nodes, [value("x", sizes)], [value("y", ("N", 3, 1, 1))], [constant("zero", 0.1, np.float32)])
    x = np.random.default_rng(0).normal(size=(3, 3, 20, 20)).astype(np.float32)
    with pytest.raises(
        onnxinfo.ConversionError, match=r"the input has 1200: let units share them, .*share_sigma='grid:8'"
    ):
        run_of(proto, x, tmp_path, layers=["y"])
    run_of(proto, x, tmp_path, layers=["h"], limit=2, name="reached")
    assert "left out" not in caplog.text
    values, *_ = run_of(proto, x, tmp_path, layers=["y"], share_sigma="grid:2", limit=2, name="shared")
    assert np.isfinite(values["value"]).all()


def test_gradients_and_evaluations_agree_on_a_network(tmp_path):
    nodes = [node("Gemm", "x w", "h"), node("Tanh", "h", "t"), node("Gemm", "t v", "y")]
    proto = model(
        nodes, [value("x", ("N", 30))], [value("y", ("N", 3))], [weight("w", 30, 12, scale=0.2), weight("v", 12, 3)]
    )
    x = np.random.default_rng(1).normal(size=(4, 30)).astype(np.float32)
    options = {"layers": ["y"], "normalize_by": "feature", "sigma_max": 3}
    by_gradient, *_ = run_of(proto, x, tmp_path, **options)
    found, *_ = run_of(proto, x, tmp_path, name="forward", solver="forward", **options)
    assert by_gradient["converged"].all()
    assert found["converged"].all()
    assert abs(found["value"] - by_gradient["value"]).max() < 0.01
    onnxinfo.compare(tmp_path / "out.h5", run=["run", "forward"])


def test_from_the_command_line(tmp_path):
    onnx.save(step(4), tmp_path / "step.onnx")
    np.savez(tmp_path / "x.npz", x=X[:3])
    line = ["analyze", str(tmp_path / "step.onnx"), "--inputs", f"{tmp_path / 'x.npz'}:x", "-o", str(tmp_path / "o.h5")]
    result = CliRunner().invoke(cli, ["-q", *line, "--layers", "y", "--solver", "forward", "--budget", "0.4/unit"])
    assert result.exit_code == 0, result.output
    with onnxinfo.open(tmp_path / "o.h5") as archive:
        assert archive["step"].recipe["budget"] == "0.4/unit"
