"""Sensitivity against dense Jacobians, and noise scales against the effect of noise."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
import torch
from graphs import constant, model, node, quantized, residual_net, value, weight

import onnxinfo
from onnxinfo import UsageError
from onnxinfo.config import Config, configure
from onnxinfo.graph.scores import score_tensor
from onnxinfo.metrics import noisy_effects
from onnxinfo.metrics.input_provider import open_samples_of
from onnxinfo.metrics.noisy_effects import PRECISE, LinearTarget
from onnxinfo.metrics.sensitivity import Divergence, Squared, multiplied_jacobians, squared_jacobians
from onnxinfo.metrics.taps import TappedNetwork
from onnxinfo.metrics.tolerance import Draws, OnGrid, Order, Quadratic, Sweep, meet
from onnxinfo.models import path
from onnxinfo.workflows.sensitivity import open_sensitivity

CNN, IMAGES = path("digits-cnn.onnx"), f"{path('digits.npz')}:images"


def as_fed(count: int) -> np.ndarray:
    """Images as the model receives them."""
    return open_samples_of(onnxinfo.load(CNN), IMAGES, limit=count).feeds(range(count))["image"]


def dense(tensor: str, x: np.ndarray) -> torch.Tensor:
    """Squared Jacobians of the logits by a tensor in float64, (samples, *shape)."""
    extracted = onnxinfo.extract(CNN, [tensor], ["logits"])
    names = [each.name for each in extracted.proto.graph.input]
    after = onnxinfo.convert(extracted).double()
    values = onnxinfo.convert(CNN, [tensor])(torch.from_numpy(x))[0].double()
    found = []
    for one, image in zip(values, torch.from_numpy(x).double(), strict=True):
        given = {"image": image[None], tensor: one[None]}

        def logits(value: torch.Tensor, given: dict[str, torch.Tensor] = given) -> torch.Tensor:
            return after(*((given | {tensor: value[None]})[name] for name in names))[0][0]

        jacobian = torch.func.jacrev(logits)(one)
        found.append(jacobian.square().sum(0))
    return torch.stack(found)


@pytest.mark.parametrize("tensor", ["relu", "relu_3", "relu_6"])
def test_squared_jacobians_are_those_of_dense_ones(tensor: str) -> None:
    expected = dense(tensor, as_fed(6))
    found = onnxinfo.sensitivity(CNN, IMAGES, limit=6)
    row = found.to_dataframe().set_index("tensor").loc[tensor]
    assert row.trace == pytest.approx(float(expected.flatten(1).sum(1).mean()), rel=1e-5)
    units = expected.mean(0).numpy()
    np.testing.assert_allclose(found.units(tensor), units, rtol=1e-4, atol=1e-5 * units.max())
    channels = units.sum((1, 2)) if units.ndim == 3 else units
    np.testing.assert_allclose(found.channels(tensor), channels, rtol=1e-5)


def test_probes_agree_with_exact_jacobians_within_their_error() -> None:
    wide = model(
        [node("Gemm", "x a", "h"), node("Relu", "h", "r"), node("Gemm", "r b", "y")],
        [value("x", ("N", 8))],
        [value("y", ("N", 200))],
        [weight("a", 8, 8), weight("b", 8, 200)],
    )
    x = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    row = onnxinfo.sensitivity(wide, x, layers=["r"], probes=256).to_dataframe().iloc[0]
    b = onnx.numpy_helper.to_array(wide.graph.initializer[1]).astype(np.float64)
    assert 0 < row.trace_stderr < 0.1 * row.trace
    assert abs(row.trace - (b**2).sum()) < 4 * row.trace_stderr
    assert (row.std, row.units, row.op) == (pytest.approx(row.std), 8, "Relu")


def effect_of_noise(tensor: str, scale: float, count: int, draws: int = 1024) -> tuple[float, float]:
    """Divergence and squared change of the logits under noise, by evaluations of the model from the tensor on."""
    x = as_fed(count)
    values, clean = onnxinfo.convert(CNN, [tensor, "logits"])(torch.from_numpy(x))
    after = onnxinfo.convert(onnxinfo.extract(CNN, [tensor], ["logits"]))
    many = values.repeat(draws, *[1] * (values.dim() - 1))
    noise = torch.randn(many.shape, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        moved = after(many + scale * noise)[0].double()
    clean = clean.detach().double().repeat(draws, 1)
    p = clean.log_softmax(1)
    divergence = (p.exp() * (p - moved.log_softmax(1))).sum(1).mean()
    return float(divergence), float((moved - clean).square().sum(1).mean())


def test_noise_of_the_tolerance_has_the_wanted_divergence() -> None:
    found = onnxinfo.sensitivity(CNN, IMAGES, layers=["relu_6"], change="kl:1", limit=8)
    for row in found.to_dataframe().itertuples():
        assert effect_of_noise(row.tensor, row.tolerance, 8, 16_384)[0] == pytest.approx(1, rel=0.05)
        assert abs(row.achieved - 1) < 0.05


def test_a_measured_tolerance_has_the_wanted_change_where_the_predicted_one_has_not() -> None:
    options = {"layers": ["relu"], "change": "absolute:40", "limit": 8}
    predicted, measured = (
        onnxinfo.sensitivity(CNN, IMAGES, measure=measure, **options).to_dataframe().iloc[0]
        for measure in (False, True)
    )
    assert effect_of_noise("relu", measured.tolerance, 8)[1] == pytest.approx(40, rel=0.05)
    assert abs(effect_of_noise("relu", predicted.tolerance, 8)[1] / 40 - 1) > 0.1
    assert predicted.tolerance == pytest.approx(measured.predicted, rel=1e-6)
    assert predicted.tolerance == pytest.approx(math.sqrt(40 / predicted.trace))


def test_samples_that_influence_each_other_have_jacobians_of_their_own() -> None:
    """Each row is multiplied by the batch's largest value, which is its own only in evaluations one by one."""
    mixing = model(
        [
            node("Gemm", "x w", "h"),
            node("Tanh", "h", "t"),
            node("ReduceMax", "t", "top", keepdims=0),
            node("Mul", "t top", "y"),
        ],
        [value("x")],
        [value("y", None)],
        [weight("w", 4, 4)],
    )
    x = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)
    found = onnxinfo.sensitivity(mixing, x, layers=["t"]).to_dataframe().trace[0]
    alone = []
    for t in np.tanh(x @ onnx.numpy_helper.to_array(mixing.graph.initializer[0])):
        jacobian = torch.func.jacrev(lambda value: value * value.max())(torch.tensor(t, dtype=torch.float64))
        alone.append(float(jacobian.square().sum()))
    assert found == pytest.approx(np.mean(alone), rel=1e-5)


def test_dead_and_skipping_tensors() -> None:
    dead = model(
        [node("Gemm", "x w", "h"), node("Relu", "h", "r"), node("Mul", "r zero", "d"), node("Add", "d x", "y")],
        [value("x")],
        [value("y")],
        [weight("w", 4, 4), onnx.numpy_helper.from_array(np.zeros(4, np.float32), "zero")],
    )
    x = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    table = onnxinfo.sensitivity(dead, x, layers=["r", "d"]).to_dataframe().set_index("tensor")
    assert (table.mark["r"], table.trace["r"], table.mark["d"], table.trace["d"]) == ("dead", 0, "", 4)
    assert math.isnan(table.tolerance["r"])


def assert_least_is_accepted(given: object, x: object, change: str, **options: object) -> float:
    """A change is refused, and the one that the message names is not; return its amount."""
    with pytest.raises(UsageError, match=r"below what .* rounding") as error:
        onnxinfo.sensitivity(given, x, change=change, **options)
    (least,) = re.findall(r"give at least '(\w+:[^']+)'", str(error.value))
    onnxinfo.sensitivity(given, x, change=least, **options)
    return float(least.partition(":")[2])


@pytest.mark.parametrize("measure", [False, True])
def test_the_rounding_of_the_targets_floats_is_a_floor(measure: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four numbers between 1024 and 2048, whose steps are 2^-13 in float32, with a variance of 1 over the samples."""
    x = np.array([[1100.0] * 4, [1102.0] * 4], np.float32)
    shifted = model(
        [node("Identity", "x", "t"), node("Add", "t zero", "y")],
        [value("x")],
        [value("y")],
        [onnx.numpy_helper.from_array(np.zeros(4, np.float32), "zero")],
    )
    options = {"layers": ["t"], "target": "y"}
    floor = 4 * 2.0**-26 / 12
    monkeypatch.setattr("onnxinfo.workflows.sensitivity.measure_sensitivity", None)
    for kind, unit in (("absolute", 1), ("relative", 4)):
        with pytest.raises(UsageError, match="rounding of 'y' to its floats"):
            onnxinfo.sensitivity(shifted, x, change=f"{kind}:{0.9 * floor / unit}", measure=measure, **options)
    monkeypatch.undo()
    for kind, unit in (("absolute", 1), ("relative", 4)):
        least = assert_least_is_accepted(shifted, x, f"{kind}:1e-30", **options)
        assert floor / unit <= least <= 1.12 * floor / unit


def test_recommendations_do_not_depend_on_a_change() -> None:
    """Of scores around 1e8, whose rounding is more than 1: no change is asked for."""
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    large = model(
        [node("MatMul", "x w", "h"), node("Relu", "h", "r"), node("Add", "r far", "y")],
        [value("x")],
        [value("y")],
        [weight("w", 4, 4), onnx.numpy_helper.from_array(np.full(4, 1e8, np.float32), "far")],
    )
    assert onnxinfo.recommend_bits(large, x, mean_bits=4, layers=["r"], target="y").tensors


def test_rounding_is_a_floor() -> None:
    x = np.random.default_rng(0).normal(size=(8, 32)).astype(np.float32)
    with pytest.raises(UsageError, match="below what the model's own rounding causes"):
        onnxinfo.sensitivity(quantized(0.5), x, layers=["h"], change="relative:1e-7")
    assert_least_is_accepted(quantized(0.5), x, "relative:1e-7", layers=["h"])
    table = onnxinfo.sensitivity(quantized(0.001), x, layers=["h"], change="relative:0.01").to_dataframe()
    assert [*table.mark] == [""]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"change": "kl:0.01", "target": "relu"}, "needs class scores, and 'relu' has none; give target='logits'"),
        ({"change": "kl:nan"}, "positive number"),
        ({"change": "much"}, "positive number"),
        ({"change": 0}, "positive number"),
        ({"probes": 1}, "at least 2"),
        ({"target": "relu*"}, "matches 7 layers"),
        ({"target": "nothing"}, "nothing"),
        ({"layers": ["relu_6"], "target": "relu_1"}, "'relu_6' does not lead to the target 'relu_1'"),
        ({"limit": 1}, "variance over samples"),
    ],
)
def test_what_cannot_be_measured_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        onnxinfo.sensitivity(CNN, IMAGES, **{"limit": 2, **options})
    assert "\n" not in str(error.value)


def test_regressions_have_no_divergence() -> None:
    with pytest.raises(UsageError, match="is no classifier"):
        onnxinfo.sensitivity(path("sklearn-diabetes-mlp.onnx"), f"{path('diabetes.npz')}:x_test", change="kl:0.01")


def test_models_without_gradients_are_refused() -> None:
    flat = model([node("Sign", "x", "s"), node("Gemm", "s w", "y")], [value("x")], [value("y")], [weight("w", 4, 4)])
    with pytest.raises(onnxinfo.ConversionError, match="no gradient"):
        onnxinfo.sensitivity(flat, np.eye(4, dtype=np.float32))


def test_residual_sums_count_both_branches() -> None:
    proto = residual_net()
    x = np.random.default_rng(0).normal(
        size=(3, *[d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim[1:]])
    )
    table = onnxinfo.sensitivity(proto, x.astype(np.float32)).to_dataframe()
    assert (table.trace > 0).all()


def test_the_search_ends_where_no_noise_has_the_effect() -> None:
    def saturates(orders: Sequence[Order]) -> list[Draws]:
        return [Draws([0.5 * math.tanh(order.scale)] * len(order.draws), [0.0] * len(order.draws)) for order in orders]

    linear = Quadratic(1.0)
    assert math.isnan(meet(saturates, [linear], [1.0], 0.9)[0].scale)
    assert math.isnan(meet(saturates, [None], [math.nan], 0.1)[0].scale)
    assert math.tanh(meet(saturates, [linear], [1.0], 0.1)[0].scale) == pytest.approx(0.2, rel=0.02)


def noisy(exponent: float, seed: int, log: list[tuple[float, int]]) -> Sweep:
    """A sweep whose effects and controls share most of their noise: the effect is twice ``scale^exponent``."""
    stream = np.random.default_rng(seed)

    def sweep(orders: Sequence[Order]) -> list[Draws]:
        found = []
        for order in orders:
            shared, own = stream.normal(1, 0.3, len(order.draws)), stream.normal(0, 0.05, len(order.draws))
            log.append((order.scale, len(order.draws)))
            effects = 2 * order.scale**exponent * (shared + own)
            found.append(Draws([*effects], [*(order.scale**2 * shared)]))
        return found

    return sweep


@pytest.mark.parametrize("exponent", [1.2, 2.0, 2.5])
def test_a_control_of_known_mean_saves_most_draws(exponent: float) -> None:
    curve = OnGrid(lambda scale: (scale**2, 0.0))
    errors, reported, draws = [], [], []
    for seed in range(100):
        log: list[tuple[float, int]] = []
        (found,) = meet(noisy(exponent, seed, log), [curve], [0.2], 0.01)
        errors.append(2 * found.scale**exponent / 0.01 - 1)
        reported.append((found.achieved - 1 - errors[-1]) / found.stderr)
        draws.append(sum(count for _, count in log))
        assert abs(found.achieved - 1) < 0.05
    assert np.mean(np.abs(errors) < 0.05) > 0.95
    assert np.abs(reported).mean() < 1.5
    assert np.median(draws) < 50


def test_a_scale_whose_first_draws_lie_close_together_by_chance_is_not_accepted_for_that() -> None:
    """The first scale is 9 % off, and its first 8 draws agree that it is not."""
    stream = np.random.default_rng(0)

    def sweep(orders: Sequence[Order]) -> list[Draws]:
        found = []
        for order in orders:
            effects = 1.09 * order.scale**2 * stream.normal(1, 0.05, len(order.draws))
            lucky = np.array(order.draws) < 8
            found.append(Draws([*np.where(lucky, order.scale**2, effects)], [0.0] * len(effects)))
        return found

    (met,) = meet(sweep, [Quadratic(1.0)], [0.1], 0.01)
    assert 1.09 * met.scale**2 == pytest.approx(0.01, rel=0.05)


def test_without_a_control_the_effect_is_met_too() -> None:
    log: list[tuple[float, int]] = []
    (found,) = meet(noisy(2.0, 0, log), [Quadratic(1.0)], [0.2], 0.01)
    assert 2 * found.scale**2 == pytest.approx(0.01, rel=0.05)
    assert found.stderr <= 0.018


def test_a_control_of_uncertain_mean_does_not_keep_the_search_from_its_end() -> None:
    errors, reported = [], []
    for seed in range(40):
        wrong = 1 + 0.03 * np.random.default_rng([1, seed]).normal()
        curve = OnGrid(lambda scale, wrong=wrong: (wrong * scale**2, 0.03 * scale**2))  # type: ignore[misc]
        (found,) = meet(noisy(2.0, seed, []), [curve], [0.2], 0.01)
        errors.append(2 * found.scale**2 / 0.01 - 1)
        reported.append((found.achieved - 1 - errors[-1]) / found.stderr)
        assert abs(found.achieved - 1) < 0.05
        assert found.stderr <= 0.018
    assert np.abs(errors).mean() < 0.03
    assert 0.6 < np.square(reported).mean() ** 0.5 < 1.4


def test_the_mean_effect_of_a_linear_target_is_known_well_where_rare_deviations_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    half = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.tensor([[8.0, 0.0, 0.0], [0.0, 9.0, 0.0]], dtype=torch.float64)

    def mean() -> tuple[float, float]:
        return LinearTarget(Divergence(), target, half @ half.mT, torch.Generator().manual_seed(1)).mean(1.0)

    found, stderr = mean()
    monkeypatch.setattr(noisy_effects, "MOST_PORTIONS", 1)
    rough, its_stderr = mean()
    assert stderr <= PRECISE * found
    assert its_stderr > PRECISE * rough
    assert found == pytest.approx(rough, abs=4 * its_stderr)


@pytest.mark.parametrize("power", [10, 16])
def test_steep_effects_that_saturate_are_met_far_from_the_predicted_scale(power: int) -> None:
    """As noise on the keys of attention: the divergence grows with a high power of the scale, up to a limit."""
    ends = []
    for seed in range(20):
        stream = np.random.default_rng(seed)

        def sweep(orders: Sequence[Order], stream: np.random.Generator = stream) -> list[Draws]:
            found = []
            for order in orders:
                effects = 0.01 * (order.scale / 2.2) ** power * stream.lognormal(-0.5, 1, len(order.draws))
                found.append(Draws([*(effects / (1 + effects))], [0.0] * len(order.draws)))
            return found

        (found,) = meet(sweep, [Quadratic(0.01 / 24**2)], [24.0], 0.01)
        ends.append(found.scale)
    assert np.array(ends) == pytest.approx(2.2, rel=0.02)


def test_a_curve_of_the_wrong_slope_does_not_make_the_search_oscillate() -> None:
    """The control explains nothing, and its curve is steeper than the effect, as for values of attention."""
    ends = []
    for seed in range(60):
        stream = np.random.default_rng(seed)

        def sweep(orders: Sequence[Order], stream: np.random.Generator = stream) -> list[Draws]:
            found = []
            for order in orders:
                scale, count = order.scale / 5.6, len(order.draws)
                effects, controls = stream.normal(1, 0.17, count), stream.normal(1, 0.2, count)
                mean = 0.33 * scale**2.9 / (1 + 0.1 * scale**2.9)
                found.append(Draws([*(mean * effects)], [*(0.005 * scale**5.5 * controls)]))
            return found

        curve = OnGrid(lambda scale: (0.005 * (scale / 5.6) ** 5.5, 0.00005))
        (found,) = meet(sweep, [curve], [86.0], 0.3)
        ends.append(found.scale)
    assert np.array(ends) == pytest.approx(5.6, rel=0.04)


def classifier_with(*tail: onnx.NodeProto, outputs: str = "p") -> onnx.ModelProto:
    """Four features and scores of three classes, ``logits``, followed by some nodes."""
    numbers = {"shape": np.array([-1, 3]), "low": np.float32(1e-7), "high": np.float32(1), "axes": np.array([1])}
    numbers |= {"step": np.float32(1 / 255), "zero": np.uint8(0)}
    return model(
        [node("Gemm", "x w", "h"), node("Relu", "h", "r"), node("Gemm", "r v", "logits"), *tail],
        [value("x")],
        [value(name, ("N", 4 if name == "embedding" else 3)) for name in outputs.split()],
        [weight("w", 4, 4), weight("v", 4, 3), *(constant(name, v, v.dtype) for name, v in numbers.items())],
    )


SOFTMAX = node("Softmax", "logits", "s", axis=1)
TAILS = {
    "Softmax": classifier_with(node("Softmax", "logits", "p", axis=1)),
    "Reshape": classifier_with(SOFTMAX, node("Reshape", "s shape", "p")),
    "Clip": classifier_with(SOFTMAX, node("Clip", "s low high", "p")),
    "quantized": classifier_with(
        SOFTMAX, node("QuantizeLinear", "s step zero", "q"), node("DequantizeLinear", "q step zero", "p")
    ),
    "elementary": classifier_with(
        node("Exp", "logits", "e"), node("ReduceSum", "e axes", "total", keepdims=1), node("Div", "e total", "p")
    ),
    "another output": classifier_with(
        node("Softmax", "logits", "p", axis=1), node("Identity", "r", "embedding"), outputs="embedding p"
    ),
    "another output, and probabilities of another shape": classifier_with(
        *(SOFTMAX, node("Unsqueeze", "s axes", "p"), node("Identity", "r", "embedding")), outputs="embedding p"
    ),
}
TAILS["another output, and probabilities of another shape"].graph.output[1].CopyFrom(value("p", ("N", 1, 3)))


@pytest.mark.parametrize("given", TAILS.values(), ids=TAILS)
def test_divergence_is_of_the_probabilities_whatever_stands_after_their_softmax(given: onnx.ModelProto) -> None:
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    options = {"change": "kl:0.01", "layers": ["r", "logits"]}
    expected = onnxinfo.sensitivity(TAILS["Softmax"], x, **options).to_dataframe()
    found = onnxinfo.sensitivity(given, x, **options).to_dataframe()
    assert found.trace.tolist() == pytest.approx(expected.trace.tolist(), rel=1e-5)
    assert found.tolerance.tolist() == pytest.approx(expected.tolerance.tolist(), rel=0.1)


@pytest.mark.parametrize("given", TAILS.values(), ids=TAILS)
def test_scores_are_found_before_their_softmax(given: onnx.ModelProto) -> None:
    assert score_tensor(given) == ("p" if given is TAILS["elementary"] else "logits")


def test_the_scores_of_a_second_softmax_may_be_named() -> None:
    given = classifier_with(
        *(SOFTMAX, node("Identity", "s", "p"), node("Gemm", "r v", "other"), node("Softmax", "other", "p2", axis=1)),
        outputs="p p2",
    )
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    found = [
        onnxinfo.sensitivity(given, x, change="kl:0.01", layers=["r"], target=name) for name in ("logits", "other")
    ]
    first, other = (each.to_dataframe().tolerance.tolist() for each in found)
    assert other == pytest.approx(first, rel=0.1)
    with pytest.raises(UsageError, match="needs class scores, and 'r' has none"):
        onnxinfo.sensitivity(given, x, change="kl:0.01", layers=["h"], target="r")


def test_divergence_of_probabilities_taken_for_scores_is_refused() -> None:
    """No operator of the graph shows that its output is a softmax."""
    hidden = classifier_with(
        *(node("Exp", "logits", "e"), node("MatMul", "e ones", "total")),
        *(node("Reciprocal", "total", "one_over"), node("Mul", "e one_over", "p")),
    )
    hidden.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((3, 3), np.float32), "ones"))
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    with pytest.raises(UsageError, match="needs class scores, and 'p' has probabilities"):
        onnxinfo.sensitivity(hidden, x, change="kl:0.01", target="p")


def test_a_rounded_target_has_the_rounding_of_the_float_network() -> None:
    rounded = classifier_with(
        *(node("QuantizeLinear", "logits step zero", "q"), node("DequantizeLinear", "q step zero", "d")),
        node("Softmax", "d", "p", axis=1),
    )
    x = np.abs(np.random.default_rng(1).normal(size=(3, 4))).astype(np.float32)
    table = onnxinfo.sensitivity(rounded, x, change="relative:0.5").to_dataframe()
    assert table.tensor.iloc[-1] == "d"


def test_effects_of_a_linear_target_are_those_of_normal_deviations() -> None:
    stream = torch.Generator().manual_seed(0)
    target = 3 * torch.randn(5, 4, generator=stream, dtype=torch.float64)
    half = torch.randn(5, 4, 3, generator=stream, dtype=torch.float64)
    products = half @ half.mT
    squared = LinearTarget(Squared(), target, products, torch.Generator().manual_seed(1))
    trace = products.diagonal(dim1=1, dim2=2).sum(1).mean()
    assert squared.mean(0.3)[0] == pytest.approx(0.09 * float(trace), rel=1e-9)
    divergence = LinearTarget(Divergence(), target, products, torch.Generator().manual_seed(1))
    moves = (half @ torch.randn(20_000, 5, 3, 1, generator=stream, dtype=torch.float64))[..., 0]
    effects = torch.stack([Divergence().measure(target, target + 2 * move) for move in moves])
    mean, stderr = divergence.mean(2)
    assert abs(mean - float(effects.mean())) < 4 * math.hypot(stderr, float(effects.mean(1).std()) / math.sqrt(20_000))
    assert stderr < 0.01 * mean
    assert divergence.by_sample(2).numpy() == pytest.approx(effects.mean(0).numpy(), rel=0.06)


def test_products_of_jacobians_predict_the_same_as_backward_passes() -> None:
    config = configure(Config(), {"limit": 3, "change": "kl:0.01"})
    opened = open_sensitivity(CNN, IMAGES, config)
    network = TappedNetwork(opened.job.network, len(opened.job.layers) - 1)
    given = (network, *opened.job.inputs([0, 1, 2]), Divergence())
    one, other = multiplied_jacobians(*given), squared_jacobians(*given, 8, torch.Generator())
    for name in ("trace", "effect", "mean", "square", "low", "high", "target"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-4, atol=1e-6)
    for a, b in zip(one.units, other.units, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_layer_that_is_a_scalar_has_one_unit() -> None:
    """A model of batch size 1 that averages over all axes."""
    given = model(
        [
            *(node("MatMul", "x w", "h"), node("Relu", "h", "r"), node("ReduceMean", "r", "m", keepdims=0)),
            *(node("Add", "r m", "s"), node("MatMul", "s v", "y")),
        ],
        [value("x", (1, 4))],
        [value("y", (1, 3))],
        [weight("w", 4, 4), v := weight("v", 4, 3)],
    )
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    found = onnxinfo.sensitivity(given, x, layers=["*"])
    expected = np.square(onnx.numpy_helper.to_array(v).sum(0)).sum()
    assert found.units("m") == pytest.approx(expected, rel=1e-5)
    assert found.units("m").shape == ()
    assert found.channels("m").shape == (1,)
