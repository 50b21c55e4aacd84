"""The unit of noise: per channel, wherever the channels of the analysis input are."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from graphs import constant, model, node, value, weight
from onnx import TensorProto

import onnxinfo
from onnxinfo import load
from onnxinfo.cli import cli
from onnxinfo.graph.channels import tensor_axes
from onnxinfo.inputs.deviation import deviation
from onnxinfo.metrics.input_provider import InputProvider, open_samples_of

ALPHA, ENTROPY = 1.5e-4, 0.5 * np.log(2 * np.pi * np.e)
IMAGE = ("channel", "y", "x")


def feeds(proto: onnx.ModelProto, samples: Any, perturb: str) -> InputProvider:
    loaded = load(proto)
    return InputProvider(loaded, open_samples_of(loaded, samples), perturb)


def bytes_image(seed: int = 0, count: int = 5) -> Any:
    """Images whose three channels have very different deviations."""
    rng = np.random.default_rng(seed)
    mean, spread = np.array([120, 60, 180]), np.array([20, 45, 9])
    values = rng.normal(mean[:, None, None], spread[:, None, None], (count, 3, 10, 10))
    return np.clip(values, 0, 255).round().astype(np.uint8)


def scaled_in_graph(kernel: onnx.TensorProto) -> onnx.ModelProto:
    """8-bit images, whose scaling is part of the graph, and a convolution."""
    nodes = [
        node("Cast", "image", "xf", to=TensorProto.FLOAT),
        node("Mul", "xf k", "xs"),
        node("Conv", "xs w", "y", pads=[1, 1, 1, 1]),
    ]
    inputs = [value("image", ("N", 3, 10, 10), TensorProto.UINT8)]
    return model(nodes, inputs, [value("y", ("N", 4, 10, 10))], [constant("k", 1 / 255, np.float32), kernel])


def equal_shares(norms: Any) -> float:
    """Mean H of a linear layer with these squared column norms and no unit at the cap."""
    scales = np.sqrt(ALPHA * norms.sum() / norms.size / norms)
    assert scales.max() < 1
    return float(np.log(scales).mean() + ENTROPY)


@pytest.mark.parametrize("seed", range(3))
def test_an_image_of_bytes_has_a_unit_per_channel(tmp_path: Path, seed: int) -> None:
    kernel, images = weight("w", 4, 3, 3, 3, seed=seed), bytes_image(seed)
    deviation = images.astype(float).std((0, 2, 3))
    result = onnxinfo.analyze(
        scaled_in_graph(kernel), images, tmp_path / "run.h5", layers=["y"], normalize_by="sample", seed=seed
    )
    squares = np.square(onnx.numpy_helper.to_array(kernel).astype(float)).sum(0)
    norms = np.zeros((3, 10, 10))
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            # Where the kernel's entry at this offset overlaps the image.
            rows, columns = (slice(max(0, d), 10 + min(0, d)) for d in (dy, dx))
            norms[:, rows, columns] += squares[:, 1 + dy, 1 + dx, None, None]
    norms *= np.square(deviation / 255)[:, None, None]
    with onnxinfo.open(result.archive) as archive:
        run = archive[result.run]
        assert run.axes == IMAGE
        assert run.unit.ravel() == pytest.approx(deviation)
        assert (run.recipe["unit_axis"], run.recipe["perturbed"]) == ("channel", "xf")
        assert "Conv node '/y' takes it" in run.provenance["axes_known_by"]
        assert run.table("sample")["value"] == pytest.approx([equal_shares(norms)] * 5, abs=0.01)


def test_a_tensor_inside_has_the_channels_of_its_convolution(tmp_path: Path) -> None:
    """Noise on the output of a convolution: one unit per channel, however different the channels are."""
    scale = np.array([1, 30, 0.5, 5], np.float32)
    nodes = [node("Conv", "x w", "c"), node("Mul", "c scale", "h"), node("Conv", "h v", "y")]
    initializers = [
        weight("w", 4, 3, 1, 1),
        constant("scale", scale[:, None, None], np.float32),
        weight("v", 2, 4, 1, 1),
    ]
    proto = model(nodes, [value("x", ("N", 3, 5, 7))], [value("y", ("N", 2, 5, 7))], initializers)
    images = np.random.default_rng(0).standard_normal((6, 3, 5, 7)).astype(np.float32)
    result = onnxinfo.analyze(proto, images, tmp_path / "run.h5", layers=["y"], input_tensor="h", normalize_by="sample")
    w, v = (onnx.numpy_helper.to_array(t)[:, :, 0, 0].astype(float) for t in (initializers[0], initializers[2]))
    inner = np.einsum("oc,ncyx->noyx", scale[:, None] * w, images)
    deviation = inner.std((0, 2, 3))
    norms = (np.square(v).sum(0) * deviation**2)[:, None, None] * np.ones((5, 7))
    with onnxinfo.open(result.archive) as archive:
        run = archive[result.run]
        assert run.unit.ravel() == pytest.approx(deviation, rel=1e-4)
        assert run.table("sample")["value"] == pytest.approx([equal_shares(norms)] * 6, abs=0.01)


def described(text: str, tensor: str, layouts: dict[str, tuple[str, ...]] | None = None) -> tuple[Any, ...]:
    """Names, channel and evidence of a tensor of a model in ONNX's textual syntax."""
    loaded = load(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17, "com.microsoft": 1]> {text}'))
    shapes = {
        v.name: len(v.type.tensor_type.shape.dim) for v in (*loaded.proto.graph.value_info, *loaded.proto.graph.output)
    }
    found = tensor_axes(loaded, tensor, shapes[tensor] - 1, layouts or {})
    return found.names, found.channel, found.evidence


IMAGES = "agraph (uint8[N, 3, 8, 8] image) => (float[N, Y] y) {{ x = Cast <to = 1>(image) {} }}"
ROWS = "agraph (uint8[N, 8, 8, 3] image) => (float[N, Y] y) {{ x = Cast <to = 1>(image) {} }}"
COUNTS = "agraph (int64[N, T, 6] a, float[6, 6] w) => (float[N, T, 6] y) {{ x = Cast <to = 1>(a) {} }}"
TOKENS = (
    "agraph (int64[N, T] ids, float[9, 6] table, float[6, 6] w) => (float[N, T, 6] y) {{ x = Gather(table, ids) {} }}"
)


@pytest.mark.parametrize(
    ("text", "names", "channel", "evidence"),
    [
        # An operator decides, even after others that keep or transpose the axes.
        (IMAGES.format("p = AveragePool <kernel_shape = [2, 2]>(x) y = Flatten(p)"), IMAGE, 0, "AveragePool node"),
        (
            ROWS.format("t = Transpose <perm = [0, 3, 1, 2]>(x) r = Relu(t) p = GlobalAveragePool(r) y = Flatten(p)"),
            ("y", "x", "channel"),
            2,
            "GlobalAveragePool node",
        ),
        (COUNTS.format("y = MatMul(x, w)"), ("position", "embedding"), 1, "MatMul node"),
        # Samples decide if no operator does.
        (IMAGES.format("r = Sqrt(x) y = Flatten(r)"), IMAGE, 0, "samples of 'image'"),
        (ROWS.format("r = Sqrt(x) y = Flatten(r)"), ("y", "x", "channel"), 2, "samples of 'image'"),
        # The operator that computes the tensor.
        (TOKENS.format("y = Relu(x)"), ("position", "embedding"), 1, "Gather node"),
    ],
)
def test_what_tells_the_channels(text: str, names: tuple[str, ...], channel: int, evidence: str) -> None:
    layout = ("y", "x", "channel") if "8, 8, 3" in text else IMAGE
    found = described(text, "x", {"image": layout, "ids": ("position",)})
    assert found[:2] == (names, channel)
    assert evidence in found[2]


def test_axes_are_followed_through_a_transposition_to_the_samples() -> None:
    text = ROWS.format("t = Transpose <perm = [0, 3, 1, 2]>(x) r = Sqrt(t) y = Flatten(r)")
    assert described(text, "r", {"image": ("y", "x", "channel")})[:2] == (IMAGE, 0)


def test_the_nearest_operator_counts() -> None:
    """A matrix product far behind a convolution says nothing about the convolution's output."""
    text = """
        agraph (float[N, 3, 8, 8] image, float[4, 3, 1, 1] k, float[8, 5] w) => (float[N, 4, 8, 5] y)
        { c = Conv(image, k) r = Relu(c) s = Sigmoid(r) y = MatMul(s, w) }
    """
    assert described(text, "r")[:2] == (IMAGE, 0)
    assert described(text, "s")[:2] == (("y", "x", "channel"), 2)


def test_the_rank_decides_last() -> None:
    text = "agraph (int64[N, 4, 5] a) => (float[N, 4, 5] y) { x = Cast <to = 1>(a) y = Sqrt(x) }"
    assert described(text, "x") == (("position", "embedding"), 1, "convention for 2 axes")


def test_a_channel_that_never_varies_has_the_unit_of_the_others(caplog: pytest.LogCaptureFixture) -> None:
    images = bytes_image()
    images[:, 1] = 77
    deviation = images.astype(float).std((0, 2, 3))
    with caplog.at_level(logging.INFO, "onnxinfo"):
        unit = feeds(scaled_in_graph(weight("w", 4, 3, 3, 3)), images, "xf").unit()
    pooled = np.sqrt((deviation[0] ** 2 + deviation[2] ** 2) / 2)
    assert unit.ravel() == pytest.approx([deviation[0], pooled, deviation[2]])
    assert "1 of 3 channels of 'xf' are constant" in caplog.text


def test_layers_tell_what_is_perturbed_and_in_which_unit(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(scaled_in_graph(weight("w", 4, 3, 3, 3)), path)
    result = CliRunner().invoke(cli, ["layers", str(path)], catch_exceptions=False)
    assert "analysis input: 'xf' (channel, y, x), one unit per channel (Conv node '/y' takes it)" in result.stderr
    assert "analysis input" not in result.stdout
    assert CliRunner().invoke(cli, ["-q", "layers", str(path)]).stderr == ""


def test_a_float_input_has_its_channels_where_its_operators_have_them() -> None:
    """By sizes alone, the shorter axis would be the channels."""
    samples = np.random.default_rng(0).standard_normal((9, 5, 8)).astype(np.float32)
    dense = [node("MatMul", "x w", "y")]
    proto = model(dense, [value("x", ("N", 5, 8))], [value("y", ("N", 5, 2))], [weight("w", 8, 2)])
    found = feeds(proto, samples, "x")
    assert found.axes() == ("time", "channel")
    assert found.described.evidence == "MatMul node '/y' takes it"
    assert found.unit() == pytest.approx(samples.std((0, 1))[None], rel=1e-5)
    filters = [node("Conv", "x w", "y")]
    proto = model(filters, [value("x", ("N", 8, 5))], [value("y", ("N", 2, 5))], [weight("w", 2, 8, 1)])
    found = feeds(proto, samples.transpose(0, 2, 1), "x")
    assert found.axes() == ("channel", "time")
    assert found.unit() == pytest.approx(samples.std((0, 1))[:, None], rel=1e-5)


@pytest.mark.parametrize("perturb", ["x", "inside"])
def test_values_that_do_not_count_leave_the_unit_as_it_is(perturb: str) -> None:
    """The analysis input may be a graph input or computed from one."""
    samples = np.random.default_rng(0).standard_normal((3, 5, 4)).astype(np.float32)
    counted = np.broadcast_to(np.arange(5)[:, None] < np.array([5, 2, 3])[:, None, None], samples.shape)
    dense = [node("Identity", "x", "inside"), node("MatMul", "inside w", "y")]
    proto = model(dense, [value("x", ("N", 5, 4))], [value("y", ("N", 5, 2))], [weight("w", 4, 2)])
    found = feeds(proto, np.where(counted, samples, 99).astype(np.float32), perturb)
    found.counted = counted
    assert found.unit() == pytest.approx(samples[counted].reshape(-1, 4).std(0)[None], rel=1e-5)


def test_what_counts_of_a_channel_may_be_constant_or_nothing() -> None:
    samples = np.array([[[7.0, 0.1, 1.0], [5.0, 0.3, 2.0]], [[6.0, 0.1, 3.0], [8.0, 0.1, 4.0]]])
    counted = np.ones(samples.shape, bool)
    counted[:, :, 0] = counted[0, :, 1] = False
    assert deviation(samples, 1, counted)[:2].tolist() == [0.0, 0.0]
    assert deviation(samples, 1, counted)[2] == pytest.approx(samples[:, :, 2].std())
