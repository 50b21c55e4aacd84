"""Small models with known SID in closed form, without any solver."""

import math

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxinfo
from onnxinfo.archive.format import mark_code

ALPHA, C = 1.5e-4, 0.5 * math.log(2 * math.pi * math.e)
SEEDS = [*range(2), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 10))]
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def normal(stream, *shape, scale=1.0):
    return (stream.normal(size=shape) * scale).astype(np.float32)


def model_of(nodes, units, outputs, initializers):
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, [output], **attributes) for kind, inputs, output, attributes in nodes],
        "known",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", units])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", outputs])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in initializers.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def shared_equally(norms, budget):
    """Mean H where sum_i norms_i sigma_i^2 = budget; what exceeds the cap of 1 goes to the other units."""
    free = norms > 0
    while True:
        square = np.ones_like(norms)
        square[free] = (budget - norms[~free].sum()) / (free.sum() * norms[free])
        over = free & (square > 1)
        if not over.any():
            return 0.5 * np.log(square).mean() + C
        free &= ~over


def linear(weight):
    norms = np.square(weight.astype(float)).sum(0)
    return shared_equally(norms, ALPHA * norms.sum())


def sigmoid(value):
    return 0.5 + 0.5 * np.tanh(value / 2)


def one_sigmoid(center, weight):
    """Rank one: E (s(a + tau z) - s(a))^2 = alpha s'(a)^2 |w|^2 gives tau, by quadrature and bisection."""
    slope = sigmoid(center) * (1 - sigmoid(center))
    target = ALPHA * slope**2 * np.square(weight).sum()
    low, high = -20.0, 4.0
    for _ in range(100):
        middle = (low + high) / 2
        moved = (WEIGHTS * (sigmoid(center + math.exp(middle) * NODES) - sigmoid(center)) ** 2).sum()
        low, high = (low, middle) if moved > target else (middle, high)
    return shared_equally(np.square(weight), math.exp(2 * low))


def sid(folder, model, x, **options):
    result = onnxinfo.analyze(
        model, x, folder / "out.h5", layers=["y"], normalize_by="sample", mean=[0.0], std=[1.0], **options
    )
    with onnxinfo.open(result.archive) as archive:
        return {name: numbers[0] for name, numbers in archive[result.run].values("sid").items()}


def demand(values, expected):
    assert values["converged"].all()
    tolerance = np.maximum(0.01, np.minimum(3 * values["stderr"], 0.03))
    assert (np.abs(values["value"] - expected) <= tolerance).all(), values["value"] - expected
    limit = np.maximum(0.04, np.minimum(3 * values["ratio_stderr"], 0.1))
    assert (np.abs(values["ratio"] - 1) <= limit).all(), values["ratio"]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_wide_affine_layer(tmp_path, seed):
    stream = np.random.default_rng(seed)
    units, outputs = 48 + seed, 4700 + 500 * (seed % 5)
    weight = normal(stream, units, outputs) * np.exp(normal(stream, units, 1))
    model = model_of([("MatMul", ["x", "W"], "y", {})], units, outputs, {"W": weight})
    demand(sid(tmp_path, model, normal(stream, 4, units), seed=seed), linear(weight.T))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_ratio_of_a_linear_layer_is_precise(tmp_path, seed):
    """It is not adjusted to noise, so that three standard errors must still be near one."""
    stream = np.random.default_rng(seed)
    weight = normal(stream, 40, 300)
    model = model_of([("MatMul", ["x", "W"], "y", {})], 40, 300, {"W": weight})
    values = sid(tmp_path, model, normal(stream, 6, 40), seed=seed)
    demand(values, linear(weight.T))
    assert values["ratio_stderr"].max() <= 0.013
    assert (np.abs(values["ratio"] - 1) <= 3.5 * values["ratio_stderr"]).all()


@pytest.mark.parametrize("outputs", [265, 700])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_ratio_of_a_linear_layer_of_few_units_is_exact(tmp_path, outputs, seed):
    """Noise moves it in no more directions than it has units, all of which the control variate knows."""
    stream = np.random.default_rng(65)
    weight = normal(stream, 24, outputs)
    model = model_of([("MatMul", ["x", "W"], "y", {})], 24, outputs, {"W": weight})
    values = sid(tmp_path, model, normal(stream, 6, 24), seed=seed)
    demand(values, linear(weight.T))
    assert np.abs(values["ratio"] - 1).max() < 1e-4
    assert values["ratio_stderr"].max() < 1e-4


@pytest.mark.parametrize("seed", SEEDS)
def test_one_probability(tmp_path, seed):
    stream = np.random.default_rng(seed)
    weight, x = normal(stream, 30 + seed, 1, scale=0.4), normal(stream, 8, 30 + seed)
    nodes = [("MatMul", ["x", "w"], "a", {}), ("Sigmoid", ["a"], "y", {})]
    expected = [one_sigmoid(a, weight[:, 0].astype(float)) for a in (x @ weight)[:, 0].astype(float)]
    demand(sid(tmp_path, model_of(nodes, 30 + seed, 1, {"w": weight}), x, seed=seed), expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_two_probabilities(tmp_path, seed):
    stream = np.random.default_rng(seed)
    weight, x = normal(stream, 30 + seed, 2, scale=0.3), normal(stream, 8, 30 + seed)
    nodes = [("MatMul", ["x", "V"], "a", {}), ("Softmax", ["a"], "y", {"axis": -1})]
    apart = (weight[:, 0] - weight[:, 1]).astype(float)
    expected = [one_sigmoid(a, apart) for a in x.astype(float) @ apart]
    demand(sid(tmp_path, model_of(nodes, 30 + seed, 2, {"V": weight}), x, seed=seed), expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_probability_s_logit_far_in_the_tail(tmp_path, seed):
    """With few outputs, the deviation is random; a linear layer's ratio is known all the same."""
    stream = np.random.default_rng(seed)
    weight, x = normal(stream, 30 + seed, 1, scale=0.4), normal(stream, 8, 30 + seed)
    nodes = [("MatMul", ["x", "w"], "a", {}), ("Sub", ["a", "far"], "y", {}), ("Sigmoid", ["y"], "p", {})]
    model = model_of(nodes, 30 + seed, 1, {"w": weight, "far": np.float32(17)})
    values = sid(tmp_path, model, x, seed=seed)
    demand(values, linear(weight.T))
    assert np.abs(values["ratio"] - 1).max() < 0.001


@pytest.mark.parametrize("seed", SEEDS)
def test_samples_that_take_different_branches(tmp_path, seed):
    stream = np.random.default_rng(seed)
    units, outputs = 24, 200 + seed
    one, other = normal(stream, units, outputs) * np.exp(normal(stream, units, 1)), normal(stream, units, outputs)
    x = normal(stream, 6, units, scale=0.1) + np.where(np.arange(6) % 2, 1, -1)[:, None].astype(np.float32)
    nodes = [
        ("ReduceMean", ["x"], "mean", {"axes": [1], "keepdims": 1}),
        ("Greater", ["mean", "zero"], "above", {}),
        ("MatMul", ["x", "A"], "a", {}),
        ("MatMul", ["x", "B"], "b", {}),
        ("Where", ["above", "a", "b"], "y", {}),
    ]
    model = model_of(nodes, units, outputs, {"A": one, "B": other, "zero": np.float32(0)})
    expected = [linear((one if i % 2 else other).T) for i in range(6)]
    demand(sid(tmp_path, model, x, seed=seed), expected)


@pytest.mark.parametrize("height", [10, *(pytest.param(height, marks=pytest.mark.slow) for height in (2, 100))])
def test_rare_jumps_are_not_taken_for_known(tmp_path, height):
    stream = np.random.default_rng(0)
    nodes = [
        ("MatMul", ["x", "W"], "h", {}),
        ("Greater", ["h", "zero"], "above", {}),
        ("Cast", ["above"], "step", {"to": TensorProto.FLOAT}),
        ("Mul", ["step", "height"], "jump", {}),
        ("Add", ["h", "jump"], "y", {}),
    ]
    given = {"W": normal(stream, 64, 64, scale=0.125), "zero": np.float32(0), "height": np.float32(height)}
    values = sid(tmp_path, model_of(nodes, 64, 64, given), normal(stream, 40, 64))
    kept = values["converged"]
    assert kept.mean() < 0.5
    assert (np.abs(values["ratio"][kept] - 1) <= 0.1).all()
    assert (values["ratio_stderr"][kept] <= 0.05).all()


def test_a_unit_that_is_dead_at_the_sample_has_no_value(tmp_path):
    nodes = [("MatMul", ["x", "W"], "h", {}), ("Sub", ["h", "far"], "moved", {}), ("Relu", ["moved"], "y", {})]
    given = {"W": np.eye(4, dtype=np.float32), "far": np.float32(0.5)}
    x = np.array([[0, 0, 0, 0], [1, 1, 1, 1]], np.float32)
    values = sid(tmp_path, model_of(nodes, 4, 4, given), x)
    assert np.isnan(values["value"][0])
    assert not values["converged"][0]
    assert values["mark"][0] == mark_code("dead")
    assert np.isfinite(values["value"][1])
    assert not any(np.isinf(numbers).any() for numbers in values.values())


def test_a_layer_whose_budget_is_too_small_for_floats_has_no_value(tmp_path):
    """Its changes are not zero, but their squares are."""
    x = np.zeros((1, 4), np.float32)
    values = sid(tmp_path, model_of([("MatMul", ["x", "W"], "y", {})], 4, 4, {"W": 1e-25 * np.eye(4, dtype="f4")}), x)
    assert values["mark"][0] == mark_code("dead")
    assert not values["converged"][0]


def test_all_units_at_the_cap_are_exact(tmp_path):
    nodes = [("Clip", ["x", "low", "high"], "held", {}), ("Mul", ["held", "zero"], "y", {})]
    given = {"low": np.float32(-1), "high": np.float32(1), "zero": np.float32(0)}
    values = sid(tmp_path, model_of(nodes, 5, 5, given), np.zeros((2, 5), np.float32))
    assert values["converged"].all()
    assert (values["stderr"] == 0).all()
    assert values["value"] == pytest.approx([C, C], abs=1e-5)
