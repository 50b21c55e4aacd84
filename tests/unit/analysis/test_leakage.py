"""The bound on reconstructions against closed forms, and the accuracy under noise against evaluations of the model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from graphs import constant, model, node, residual_net, value

import onnxinfo
from onnxinfo import UsageError
from onnxinfo.analysis.accuracy import Accuracy
from onnxinfo.cli import cli
from onnxinfo.graph.model import load
from onnxinfo.graph.splits import is_split
from onnxinfo.metrics.input_provider import open_samples_of
from onnxinfo.models import path

CNN, IMAGES, LABELS = path("digits-cnn.onnx"), f"{path('digits.npz')}:images", f"{path('digits.npz')}:labels"
UNITS = 6


def linear(matrix: np.ndarray) -> onnx.ModelProto:
    """``y = x W^T``."""
    return model(
        [node("MatMul", "x w", "y")],
        [value("x", ("N", matrix.shape[1]))],
        [value("y", ("N", matrix.shape[0]))],
        [constant("w", matrix.T, np.float32)],
    )


def table(scale: float = 1.0, count: int = 64) -> np.ndarray:
    """Samples whose columns have mean 0 and a standard deviation that grows from column to column."""
    x = np.random.default_rng(0).normal(size=(count, UNITS))
    x = (x - x.mean(0)) / x.std(0)
    return (scale * x * np.arange(1, UNITS + 1)).astype(np.float32)


def rotation() -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(1).normal(size=(UNITS, UNITS)))[0]


@pytest.mark.parametrize("matrix", [np.eye(UNITS), rotation()], ids=["identity", "orthogonal"])
def test_the_bound_of_a_layer_that_keeps_lengths_is_the_noise(matrix: np.ndarray) -> None:
    unit = np.arange(1, UNITS + 1)
    found = onnxinfo.leakage(linear(matrix / unit), table(), mse=0.25, accuracy=False).to_dataframe().iloc[0]
    assert (found.trace, found.noise) == (pytest.approx(UNITS, rel=1e-5), pytest.approx(0.5, rel=1e-5))
    assert found.bound == found.lowest == pytest.approx(0.25, rel=1e-5)
    assert found.noise_std == pytest.approx(0.5, rel=1e-5)
    assert not found.narrow


@pytest.mark.parametrize("rows", [UNITS, 9])
def test_the_best_unbiased_estimator_of_a_linear_layer_stays_above_the_bound(rows: int) -> None:
    matrix = np.random.default_rng(2).normal(size=(rows, UNITS))
    found = onnxinfo.leakage(linear(matrix), table(), mse=0.1, accuracy=False).to_dataframe().iloc[0]
    scaled = matrix * np.arange(1, UNITS + 1)
    assert found.noise == pytest.approx(math.sqrt(0.1 * np.square(scaled).sum() / UNITS), rel=1e-5)
    noise = np.random.default_rng(3).normal(size=(20_000, rows)) * found.noise
    errors = noise @ np.linalg.pinv(scaled).T
    assert np.square(errors).mean() > found.bound


def test_a_rotation_attains_the_bound() -> None:
    matrix = rotation() / np.arange(1, UNITS + 1)
    found = onnxinfo.leakage(linear(matrix), table(), noise=0.7, accuracy=False).to_dataframe().iloc[0]
    noise = np.random.default_rng(3).normal(size=(20_000, UNITS)) * found.noise
    errors = noise @ np.linalg.inv(matrix).T / np.arange(1, UNITS + 1)
    assert np.square(errors).mean() == pytest.approx(found.bound, rel=0.02)


def test_the_bound_does_not_depend_on_the_units_of_the_input() -> None:
    matrix = np.random.default_rng(2).normal(size=(4, UNITS))
    one, other = (
        onnxinfo.leakage(linear(matrix * scale), table(1 / scale), accuracy=False).to_dataframe().iloc[0]
        for scale in (1.0, 1e3)
    )
    assert one.noise == pytest.approx(other.noise, rel=1e-5)
    assert one.narrow
    assert one.bound == pytest.approx(0.1)


def test_psnr_counts_in_ranges() -> None:
    x = table()
    span = np.ptp(x, axis=0)
    found = onnxinfo.leakage(linear(np.eye(UNITS)), x, psnr=20, accuracy=False)
    row = found.to_dataframe().iloc[0]
    assert (found.unit, found.wanted) == ("range", pytest.approx(0.01))
    assert (row.psnr, row.bound) == (pytest.approx(20), pytest.approx(0.01))
    assert row.noise == pytest.approx(0.1 * math.sqrt(np.mean(span.astype(float) ** 2)), rel=1e-5)


@pytest.mark.parametrize("wanted", [{"mse": 0.1}, {"psnr": 20}, {"noise": 0.5}])
@pytest.mark.parametrize("given", [{}, {"mean": [0.0], "std": [1.0]}, {"mean": [0.0], "std": [0.01]}])
def test_constant_columns_are_left_out(wanted: dict[str, float], given: dict[str, Any]) -> None:
    """Whatever the preprocessing divides by, the result is that of the other columns alone."""
    matrix = np.random.default_rng(2).normal(size=(9, UNITS))
    x, scale = table(), given.get("std", [1.0])[0]
    x[:, [2, 4]] = 0
    some = [0, 1, 3, 5]
    given = {name: values * UNITS for name, values in given.items()}
    found = onnxinfo.leakage(linear(scale * matrix), x, accuracy=False, **wanted, **given)
    alone = onnxinfo.leakage(linear(matrix[:, some]), x[:, some], accuracy=False, **wanted)
    assert (found.input_units, found.constant, found.to_dict()["constant"], alone.constant) == (4, 2, 2, 0)
    assert found.guess == pytest.approx(alone.guess, rel=1e-5)
    for name in ("trace", "std", "noise", "bound", "lowest"):
        assert found.table()[name] == pytest.approx(alone.table()[name], rel=1e-4), name


def test_constant_columns_are_no_part_of_an_attack() -> None:
    stream = np.random.default_rng(0)
    training, held_out = (stream.normal(size=(count, UNITS)).astype(np.float32) for count in (64, 32))
    held_out[:, 1:] = 5
    options = {"decoder_width": 2, "decoder_steps": 1, "decoder_batch": 32, "std": [1.0] * UNITS, "mean": [0.0] * UNITS}
    options |= {"accuracy": False, "attack": True, "decoder_inputs": training}
    row = onnxinfo.leakage(linear(np.eye(UNITS)), held_out, **options).to_dataframe().iloc[0]
    # After one step, the decoder is near the mean of the training samples, and far from the constants.
    assert row.attack < 4


def test_samples_whose_counted_units_are_constant_have_no_bound() -> None:
    x, mask = table(), np.ones((64, UNITS), bool)
    x[:, 2], mask[0] = 1, False
    mask[0, 2] = True
    found = onnxinfo.leakage(linear(np.eye(UNITS)), x, unit_mask=mask, mse=0.25, accuracy=False)
    units = np.square(np.delete(x[1:], 2, 1).std(0, dtype=float))
    assert found.bounds("y")[0] == math.inf
    assert found.guess == pytest.approx(1, rel=1e-5)
    assert found.table()["noise"] == [pytest.approx(math.sqrt(0.25 * units.mean()), rel=1e-5)]


def test_the_command_tells_how_many_units_are_constant(tmp_path: Path) -> None:
    x = table()
    x[:, 2] = 1
    np.save(tmp_path / "x.npy", x)
    onnx.save(linear(np.eye(UNITS)), tmp_path / "m.onnx")
    line = ["leakage", str(tmp_path / "m.onnx"), "--inputs", str(tmp_path / "x.npy"), "--no-accuracy"]
    result = CliRunner().invoke(cli, line)
    assert "64 samples, 5 input units, without 1 of constant channels." in result.stdout
    result = CliRunner().invoke(cli, [*line, "--limit", "1", "--std", "1"])
    assert "is constant over the only sample; give others" in str(result.exception)


def test_traces_are_those_of_dense_jacobians() -> None:
    x = torch.from_numpy(open_samples_of(onnxinfo.load(CNN), IMAGES, limit=4).feeds(range(4))["image"]).double()
    found = onnxinfo.leakage(CNN, IMAGES, layers=["relu_2", "logits"], limit=4, accuracy=False)
    traces = found.to_dataframe().set_index("tensor").trace
    graph = onnxinfo.convert(CNN, ["relu_2", "logits"]).double()
    for i, name in enumerate(["relu_2", "logits"]):
        dense = [torch.func.jacrev(lambda image, i=i: graph(image[None])[i])(each).square().sum() for each in x]
        expected = float(torch.stack(dense).mean()) * float(x.var(correction=0))
        assert traces[name] == pytest.approx(expected, rel=1e-4)


def test_the_accuracy_is_that_of_the_network_with_the_noise() -> None:
    count = 50
    found = onnxinfo.leakage(CNN, IMAGES, labels=LABELS, layers=["relu_4"], noise=6, limit=count)
    row = found.to_dataframe().iloc[0]
    samples = open_samples_of(onnxinfo.load(CNN), IMAGES, limit=count, labels=LABELS)
    labels = torch.from_numpy(samples.inputs["image"].labels)
    x = torch.from_numpy(samples.feeds(range(count))["image"])
    feature, clean = onnxinfo.convert(CNN, ["relu_4", "logits"])(x)
    after = onnxinfo.convert(onnxinfo.extract(CNN, ["relu_4"], ["logits"]))
    many = feature.repeat(32, *[1] * (feature.dim() - 1))
    noise = torch.randn(many.shape, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        right = after(many + row.noise * noise)[0].argmax(1) == labels.repeat(32)
    assert found.accuracy == float((clean.argmax(1) == labels).double().mean())
    assert row.noise == pytest.approx(6 * row["std"])
    assert row["std"] == pytest.approx(float(feature.detach().double().std(correction=0)), rel=1e-5)
    assert row.accuracy < found.accuracy - 0.1
    assert row.accuracy == pytest.approx(float(right.double().mean()), abs=0.05)
    assert row.accuracy_low < float(right.double().mean()) < row.accuracy_high


def test_the_accuracy_does_not_depend_on_the_other_tensors() -> None:
    """At one seed, the noise on a tensor is the same whatever else is measured."""
    options: dict[str, Any] = {"labels": LABELS, "noise": 6.0, "limit": 20}
    alone = onnxinfo.leakage(CNN, IMAGES, layers="relu_6", **options).to_dataframe().set_index("tensor")
    among = onnxinfo.leakage(CNN, IMAGES, layers=["relu_1", "relu_6"], **options).to_dataframe().set_index("tensor")
    assert 0 < alone.accuracy["relu_6"] < 1
    assert among.accuracy["relu_6"] == alone.accuracy["relu_6"]


def test_noise_that_is_negligible_leaves_the_accuracy() -> None:
    found = onnxinfo.leakage(CNN, IMAGES, labels=LABELS, mse=1e-9, limit=32)
    assert [*found.to_dataframe().accuracy] == [found.accuracy] * len(found.to_dataframe())


@pytest.mark.parametrize("draws", [1, 4])
@pytest.mark.parametrize(
    ("count", "chances", "weights"),
    [(16, (0.98, 0), (0.9, 0.1)), (32, (0.97, 0), (0.9, 0.1)), (8, (0.95, 0.2), (0.9, 0.1)), (60, (1, 0), (0.7, 0.3))],
)
def test_intervals_cover_the_accuracy(
    count: int, chances: tuple[float, ...], weights: tuple[float, ...], draws: int
) -> None:
    """Samples have chances of their own, some always fail, and draws of noise share a sample."""
    stream, covered = np.random.default_rng(0), []
    for _ in range(1000):
        found = Accuracy.of(stream.binomial(draws, stream.choice(chances, count, p=weights)) / draws)
        covered.append(found.low <= np.dot(chances, weights) <= found.high)
    assert np.mean(covered) > 0.94


def test_intervals_rise_with_the_accuracy() -> None:
    correct = np.zeros(3)
    found = []
    for sample in (0, 1, 2):
        for draws in range(1, 5):
            correct[sample] = draws / 4
            found.append(Accuracy.of(correct))
    for ends in ([each.low for each in found], [each.value for each in found], [each.high for each in found[:-1]]):
        assert np.all(np.diff(ends) > 0)
    assert found[-1].high == 1


def test_splits_are_where_nothing_passes_by() -> None:
    flow = load(residual_net()).flow
    names = ["stem.bn", "stem", "a", "b.conv", "sum", "block", "shape", "logits"]
    assert [name for name in names if is_split(flow, name, ["x"], ["logits"])] == [
        *("stem.bn", "stem", "sum", "block", "logits")
    ]
    x = np.random.default_rng(0).normal(size=(4, 3, 6, 6)).astype(np.float32)
    listed = onnxinfo.leakage(residual_net(), x, accuracy=False).table()
    assert (listed["tensor"], {*listed["mark"]}) == (["stem", "block", "logits"], {""})
    named = onnxinfo.leakage(residual_net(), x, layers=["a"], labels=[0, 1, 2, 3]).table()
    assert (named["mark"], math.isfinite(named["accuracy"][0])) == (["bypassed"], True)


def test_a_dead_tensor_needs_no_noise() -> None:
    dead = model(
        [node("Mul", "x zero", "d"), node("Add", "d one", "y")],
        [value("x")],
        [value("y")],
        [constant("zero", np.zeros(4), np.float32), constant("one", np.arange(4), np.float32)],
    )
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    found = onnxinfo.leakage(dead, x, layers=["y"], labels=[3] * 8)
    row = found.to_dataframe().iloc[0]
    assert (row.noise, row.bound, row.mark, row.accuracy) == (0, math.inf, "dead", 1)
    assert found.to_dict()["tensors"][0]["bound"] is None


@pytest.mark.parametrize("given", [{}, {"mean": [0.3], "std": [0.05]}, {"preset": "imagenet"}])
@pytest.mark.parametrize("count", [20, 300])
def test_the_unit_is_the_variance_of_the_samples_themselves(given: dict[str, Any], count: int) -> None:
    """Also where the preprocessing divides by the deviation of other samples, and of more samples than SID's unit."""
    channels = 3 if "preset" in given else 1
    images = np.random.default_rng(0).integers(0, 256, (count, 4, 4, channels), np.uint8)
    images[: count // 7] //= 8
    keep = model([node("Identity", "x", "y")], [value("x", ("N", channels, 4, 4))], [value("y", None)])
    x = open_samples_of(load(keep), images, **given).feeds(range(count))["x"].astype(np.float64)
    errors = [np.square(x - x.mean((0, 2, 3), keepdims=True)) / x.var((0, 2, 3), keepdims=True)]
    assert np.mean(errors) == pytest.approx(1)
    for wanted, unit in (({"mse": 0.25}, x.var((0, 2, 3))), ({"psnr": 20}, np.ptp(x, (0, 2, 3)) ** 2)):
        found = onnxinfo.leakage(keep, images, accuracy=False, **given, **wanted)
        row = found.to_dataframe().iloc[0]
        assert found.guess == found.to_dict()["guess"] == pytest.approx(np.mean(x.var((0, 2, 3)) / unit), rel=1e-5)
        assert row.trace == pytest.approx(16 * unit.sum(), rel=1e-5)
        assert row.noise**2 == pytest.approx(row.bound * unit.mean(), rel=1e-5)
    for bound in (0.999, 1.0):
        if bound < 1:
            onnxinfo.leakage(keep, images, accuracy=False, mse=bound, **given)
        else:
            with pytest.raises(UsageError, match="guessing each channel's mean has 1 without"):
                onnxinfo.leakage(keep, images, accuracy=False, mse=bound, **given)


def test_samples_that_are_constant_are_refused() -> None:
    with pytest.raises(onnxinfo.InputError, match="constant over all 8 samples"):
        onnxinfo.leakage(linear(np.eye(UNITS)), np.ones((8, UNITS), np.float32), std=[1.0] * UNITS, accuracy=False)


def test_inputs_that_are_joined_have_the_variance_of_their_own_channels() -> None:
    images = model(
        [node("Flatten", "x", "f"), node("Concat", "f z", "y", axis=1)],
        [value("x", ("N", 2, 3, 3)), value("z", ("N", 3))],
        [value("y", None)],
    )
    stream = np.random.default_rng(0)
    x = stream.normal(size=(20, 2, 3, 3)) * np.reshape([1, 5], (2, 1, 1)) + stream.normal(size=(2, 3, 3))
    z = stream.normal(size=(20, 3)) * [1, 10, 100]
    given = {"x": x.astype(np.float32), "z": z.astype(np.float32)}
    for wanted, spread in (({"mse": 0.25}, np.std), ({"psnr": 20}, np.ptp)):
        units = [*np.repeat(np.square(spread(x, axis=(0, 2, 3))), 9), *np.square(spread(z, axis=0))]
        found = onnxinfo.leakage(images, given, accuracy=False, layers=["y"], **wanted).to_dataframe()
        assert found.trace[0] == pytest.approx(sum(units), rel=1e-5)


def test_units_that_are_not_counted_are_not_hidden() -> None:
    mask = np.ones((64, UNITS), bool)
    mask[:, 0] = False
    matrix = np.diag(1 / np.arange(1, UNITS + 1))
    found = onnxinfo.leakage(linear(matrix), table(), unit_mask=mask, mse=0.25, accuracy=False)
    assert found.input_units == UNITS - 1
    assert found.to_dataframe().noise[0] == pytest.approx(0.5, rel=1e-5)


def test_ranges_are_those_of_counted_units() -> None:
    x, mask = table(), np.ones((64, UNITS), bool)
    mask[:32, 1] = False
    x[:32, 1] *= 100
    squares = np.square([np.ptp(x[mask[:, i], i]) for i in range(UNITS)])
    leaks = onnxinfo.leakage(linear(np.eye(UNITS)), x, unit_mask=mask, psnr=20, accuracy=False)
    found, mean = leaks.to_dataframe(), np.average(x, 0, mask)
    assert leaks.guess == pytest.approx(
        (mask * np.square(x - mean) / squares).sum(1).dot(1 / mask.sum(1)) / 64, rel=1e-5
    )
    information = (mask * squares).sum(1) / mask.sum(1)
    assert found.noise[0] == pytest.approx(0.1 * math.sqrt(information.mean()), rel=1e-5)


def test_integers_carry_no_noise() -> None:
    nodes = [
        node("QuantizeLinear", "x step zero", "q"),
        node("QLinearMatMul", "q step zero w step zero step zero", "h"),
        node("DequantizeLinear", "h step zero", "y"),
    ]
    constants = [
        constant("step", 0.1, np.float32),
        constant("zero", 0, np.int8),
        constant("w", np.eye(4) * 10, np.int8),
    ]
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    quantized = model(nodes, [value("x")], [value("y")], constants)
    found = onnxinfo.leakage(quantized, x, layers=["h", "y"], accuracy=False).to_dataframe().set_index("tensor")
    assert (found.mark["h"], found.mark["y"]) == ("integer", "")
    assert math.isnan(found.noise["h"])
    assert found.trace["y"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "accuracy is of labeled samples; give labels=... or accuracy=False"),
        ({"mse": 0.1, "psnr": 20}, "mse=0.1 and psnr=20: give one of them"),
        ({"mse": 0}, "above 0 expected"),
        ({"noise": float("nan")}, "above 0 expected"),
        ({"psnr": float("inf")}, "a number expected"),
        ({"psnr": -1e5}, "a number from -130 to 130 expected"),
        ({"psnr": 150}, "a number from -130 to 130 expected"),
        ({"mse": 1e-30}, "mse=1e-30: at least 1e-13 expected; the rounding of floats is larger"),
        ({"noise": 1e-9}, "noise=1e-09: at least 1e-06 expected; the rounding of floats is larger"),
        ({"mse": 1}, "guessing each channel's mean has 1 "),
        ({"psnr": 3, "accuracy": False}, "guessing each channel's mean has 0.1"),
        ({"labels": [10] * 50}, "not classes of the target, 0 to 9"),
        ({"layers": ["nothing"], "labels": LABELS}, "nothing"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(onnxinfo.OnnxinfoError, match=message) as error:
        onnxinfo.leakage(CNN, IMAGES, limit=4, **options)
    assert "\n" not in str(error.value)


def test_accuracy_is_of_classifiers() -> None:
    regression = model([node("ReduceSum", "x", "y", keepdims=0)], [value("x", ("N", UNITS))], [value("y", None)])
    with pytest.raises(UsageError, match="has no class scores; give accuracy=False"):
        onnxinfo.leakage(regression, table(), labels=[0] * 64)


@pytest.mark.parametrize("format", ["table", "markdown", "json", "csv"])
def test_the_assumption_is_where_the_number_is(format: str) -> None:
    line = ["leakage", str(CNN), "--inputs", IMAGES, "--limit", "4", "--no-accuracy", "--format", format]
    result = CliRunner().invoke(cli, line)
    assert result.exit_code == 0, result.output
    assert "Trained decoders are biased and can beat it" in " ".join(result.stdout.split())
    if format == "json":
        assert [each["bound"] for each in json.loads(result.stdout)] == [pytest.approx(0.1)] * 5


def test_a_decoder_attacks_samples_that_it_has_not_seen() -> None:
    """The layer keeps all units; a linear estimator with prior has ``1 - 1 / (1 + s^2)`` of the variance as error."""
    stream = np.random.default_rng(0)
    training, held_out = (stream.normal(size=(count, UNITS)).astype(np.float32) for count in (1024, 256))
    options = {"decoder_width": 8, "decoder_steps": 150, "decoder_batch": 64, "decoder_learning_rate": 0.01}
    found = onnxinfo.leakage(
        linear(rotation()), held_out, mse=0.5, accuracy=False, attack=True, decoder_inputs=training, **options
    )
    row = found.to_dataframe().iloc[0]
    assert row.bound == pytest.approx(0.5)
    assert row.attack == pytest.approx(0.5 / 1.5, abs=0.06)
    assert 0 < row.attack_stderr < 0.05
    assert row.attack_over_bound == pytest.approx(row.attack / 0.5)
    assert 0 < row.attack_steps <= 150


def test_decoders_are_trained_longer_until_their_errors_stop_falling(caplog: pytest.LogCaptureFixture) -> None:
    stream = np.random.default_rng(0)
    training, held_out = (stream.normal(size=(count, UNITS)).astype(np.float32) for count in (1024, 256))
    options = {"decoder_width": 8, "decoder_steps": 10, "decoder_batch": 64, "decoder_learning_rate": 0.01}
    options |= {"mse": 0.5, "accuracy": False, "attack": True, "decoder_inputs": training}

    def attacked(doublings: int) -> Any:
        return onnxinfo.leakage(linear(rotation()), held_out, doublings=doublings, **options).to_dataframe().iloc[0]

    once, twice, often = attacked(0), attacked(1), attacked(7)
    assert (once.attack_converged, twice.attack_converged, often.attack_converged) == (None, False, True)
    warned = [message for message in caplog.messages if "still fall" in message]
    assert warned == ["errors of decoders still fall at 20 steps, at 'y'; double the steps more often"]
    assert twice.attack < once.attack - once.attack_stderr
    assert often.attack == pytest.approx(0.5 / 1.5, abs=0.06)
    # Of 10 steps doubled, those with which the better decoder was trained.
    assert 20 < often.attack_steps <= 10 * 2**7


@pytest.mark.parametrize(
    ("options", "message"),
    [({"doublings": 2}, "without attack=True"), ({"attack": True, "doublings": -1}, "an integer of at least 0")],
)
def test_doublings_need_an_attack(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        onnxinfo.leakage(linear(rotation()), table(), accuracy=False, **options)


def test_samples_that_the_attack_was_trained_on_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """By content: at other places, and as float64 instead of float32."""
    training = table(count=64)
    others = training[:8] + 1
    options = {"accuracy": False, "attack": True, "decoder_width": 2, "decoder_steps": 1, "decoder_batch": 32}
    for samples, seen in ((others, 0), (np.concatenate([others, training[[9, 3, 3]]]).astype(np.float64), 3)):
        found = onnxinfo.leakage(linear(rotation()), samples, decoder_inputs=training, **options)
        assert (found.seen, found.to_dict()["seen"]) == (seen, seen)
        warned = [message for message in caplog.messages if "training samples of the attack" in message]
        assert len(warned) == bool(seen)
    assert warned[0].startswith("3 of 11 samples")


def test_an_attack_needs_samples_of_its_own() -> None:
    for more, message in [
        ({}, "give them by decoder_inputs=..."),
        ({"decoder_inputs": table()}, "are the analyzed samples"),
        ({"decoder_inputs": table(count=3)}, "3 samples are too few"),
    ]:
        with pytest.raises(onnxinfo.OnnxinfoError, match=message):
            onnxinfo.leakage(linear(rotation()), table(), accuracy=False, attack=True, **more)


@pytest.mark.parametrize("accuracy", [True, False])
def test_the_figure_shows_what_was_measured(accuracy: bool, tmp_path: Path) -> None:
    found = onnxinfo.leakage(CNN, IMAGES, labels=LABELS if accuracy else None, accuracy=accuracy, limit=8)
    figure = found.plot(tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert len(figure.axes) == 2 + accuracy
    assert "yardstick" in text
    assert ("accuracy without noise" in text) == accuracy
    assert all(name in text for name in ("relu_2", "logits", "lowest bound of a sample", "guessing the mean"))
    with pytest.raises(UsageError, match="cannot draw"):
        found.plot(tmp_path / "a.txt")
