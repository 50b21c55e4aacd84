"""Waveforms are told from rows of a table: their entries share one unit."""

import numpy as np
import pytest
from graphs import constant, model, node, value, weight
from onnx import TensorProto

from onnxinfo import load
from onnxinfo.graph import series
from onnxinfo.graph.channels import declared_axes, input_layout
from onnxinfo.metrics.input_provider import open_samples_of

TAPS = weight("taps", 3, 1, 4)
ONE = constant("one", [1])
FACTOR, FACTORS = constant("factor", 0.5, np.float32), constant("factors", np.ones(32), np.float32)


def network(*nodes, name="x", size=32, constants=()):
    used = {name for each in nodes for name in each.input}
    weights = [each for each in (TAPS, ONE, FACTOR, FACTORS, weight("w", 32, 3), *constants) if each.name in used]
    return load(model(nodes, [value(name, ("batch", size))], [value("y", None)], weights))


def sliding(source="x"):
    return node("Unsqueeze", f"{source} one", "rows"), node("Conv", "rows taps", "y")


WAVEFORMS = {
    "convolution": network(*sliding()),
    "convolution after padding and scaling": network(
        node("Mul", "x factor", "m"), node("Pad", "m pads", "p"), *sliding("p"),
        constants=[constant("pads", [0, 4, 0, 4])],
    ),
    "convolution over images of one row": network(
        node("Reshape", "x sizes", "rows"), node("Conv", "rows taps4", "y"),
        constants=[constant("sizes", [-1, 1, 1, 32]), weight("taps4", 3, 1, 1, 4)],
    ),
    "frames": network(
        node("Reshape", "x sizes", "frames"), node("Transpose", "frames", "turned", perm=[0, 2, 1]),
        node("Conv", "turned product", "y"),
        constants=[constant("sizes", [-1, 4, 8]), weight("product", 3, 8, 1)],
    ),
    "named axis": network(node("ReduceMax", "x", "y"), size="num_samples"),
    "named input": network(node("MatMul", "waveform w", "y"), name="waveform"),
    "Fourier transform": network(
        node("Unsqueeze", "x two", "one_sided"), node("DFT", "one_sided", "y"),
        constants=[constant("two", [2])],
    ),
}  # fmt: skip
TABLES = {
    "matrix product": network(node("MatMul", "x w", "y")),
    "columns with factors of their own": network(node("Mul", "x factors", "m"), *sliding("m")),
    "matrix product written as a convolution": network(
        node("Reshape", "x sizes", "row"), node("Conv", "row product", "y"),
        constants=[constant("sizes", [-1, 32, 1]), weight("product", 3, 32, 1)],
    ),
    "a free number of columns": network(node("ReduceSum", "x", "y"), size="columns"),
    "both": network(*sliding(), node("MatMul", "x w", "z")),
    "flattened images": network(
        node("Reshape", "x sizes", "image"), node("Conv", "image square", "y"),
        constants=[constant("sizes", [-1, 1, 4, 8]), weight("square", 3, 1, 2, 2)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WAVEFORMS)
def test_a_waveform_has_one_unit(kind):
    loaded = WAVEFORMS[kind]
    (name,) = (each.name for each in loaded.proto.graph.input)
    assert input_layout(loaded.flow, name) == "series"
    (axes,) = declared_axes(loaded, [name])
    assert (axes.names, axes.channel) == (("time",), None)
    samples = open_samples_of(loaded, np.random.default_rng(0).normal(size=(1, 32)).astype(np.float32))
    assert np.ptp(samples.inputs[name].unit_over(None)) == 0


@pytest.mark.parametrize("kind", TABLES)
def test_columns_of_a_table_have_units_of_their_own(kind):
    loaded = TABLES[kind]
    assert input_layout(loaded.flow, "x") == "auto"
    assert declared_axes(loaded, ["x"])[0].names == ("feature",)


def test_ids_are_no_series():
    nodes = [node("Gather", "table x", "y")]
    ids = value("x", ("batch", "seq_len"), TensorProto.INT64)
    loaded = load(model(nodes, [ids], [value("y", None)], [weight("table", 5, 2)]))
    assert input_layout(loaded.flow, "x") == "auto"


def test_a_node_with_many_operands_is_examined_once(monkeypatch):
    examined = []
    treats_alike = series._treats_alike
    monkeypatch.setattr(series, "_treats_alike", lambda flow, n: examined.append(n.op_type) or treats_alike(flow, n))
    names = [f"v{i}" for i in range(20)]
    nodes = [*(node("Relu", "x", name) for name in names), node("Sum", " ".join(names), "y")]
    # Without a window anywhere, no path is followed.
    nodes.append(node("MaxPool", "image", "pooled", kernel_shape=[2]))
    inputs, outputs = ("x", ("N", 32)), ("y", ("N", 32))
    image, pooled = ("image", ("N", 1, 8)), ("pooled", ("N", 1, 7))
    loaded = load(model(nodes, [value(*inputs), value(*image)], [value(*outputs), value(*pooled)]))
    assert not series.is_series(loaded.flow, "x", 32)
    assert examined.count("Sum") == 1
    assert examined.count("Relu") == 20
