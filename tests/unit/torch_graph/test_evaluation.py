"""Layers that ONNX Runtime evaluates in batches of any size, whatever batch size the model declares."""

import numpy as np
import onnx
import pytest
import torch
from graphs import constant, model, node, value

from onnxinfo import load
from onnxinfo.metrics.network import Network
from onnxinfo.torch_graph.evaluation import with_evaluations
from onnxinfo.torch_graph.reach import convert_reached
from onnxinfo.torch_graph.runtime import Session

X = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
ROWS = torch.arange(7)


def steps(batch, before=(), initializers=(), source="x"):
    """Steps of the input, after other nodes."""
    nodes = [*before, node("Greater", f"{source} zero", "b"), node("Cast", "b", "y", to=onnx.TensorProto.FLOAT)]
    given = [constant("zero", 0.1, np.float32), *initializers]
    return model(nodes, [value("x", (batch, 4))], [value("y", (batch, None))], given)


def reshaped(batch, target):
    """A target shape that was computed from the batch size when the model was exported."""
    return steps(batch, [node("Reshape", "x shape", "r")], [constant("shape", target)], "r")


def centered(batch):
    """The samples of a batch influence each other."""
    return steps(batch, [node("ReduceMean", "x axes", "m"), node("Sub", "x m", "r")], [constant("axes", [0])], "r")


def summed():
    """Adds up the samples of a batch of one."""
    return steps(1, [node("ReduceSum", "x axes", "r")], [constant("axes", [0])], "r")


def network(proto, batch, converted=()):
    loaded = load(proto)
    module = convert_reached(loaded, "x", list(converted)) if converted else None
    graph, _ = with_evaluations(module, [], loaded, "x", [*converted, "y"], ["y"])
    net = Network(graph, batch=batch)
    net.select_batching(torch.from_numpy(X[:2]), ROWS[:2])
    return net


def alone(proto, batch):
    session = Session(proto)
    return np.stack([session.run({"x": np.repeat(row[None], batch, axis=0)})["y"].reshape(batch, -1)[0] for row in X])


@pytest.mark.parametrize(
    ("proto", "batch", "mode"),
    [
        (steps(1), 1, "batch"),
        (steps(3), 3, "batch"),
        (reshaped(1, [1, 2, 2]), 1, "batch"),
        (reshaped(1, [1, 2, -1]), 1, "batch"),
        (reshaped(3, [3, -1, 1]), 3, "batch"),
        (centered(1), 1, "one by one in ONNX Runtime"),
        (summed(), 1, "one by one in ONNX Runtime"),
        (reshaped(1, [4]), 1, "one by one in ONNX Runtime"),
        (reshaped(2, [2, 1, 2, 2]), 2, "batch"),
        (reshaped(2, [4, 2]), 2, "one by one in ONNX Runtime"),
    ],
)
def test_inputs_are_evaluated_together_where_that_gives_the_same(proto, batch, mode):
    net = network(proto, batch)
    assert net.mode == mode
    (found,) = net(torch.from_numpy(X), ROWS)
    assert np.array_equal(found.numpy(), alone(proto, batch))


def test_a_shape_that_does_not_hold_the_batch_size_is_kept():
    """Only the target of the reshape begins with the batch size."""
    nodes = [node("Reshape", "w shape", "v"), node("Add", "x v", "r")]
    given = [constant("w", np.ones((4, 1)), np.float32), constant("shape", [1, -1])]
    assert network(steps(1, nodes, given, "r"), 1).mode == "batch"


def test_evaluated_layers_have_their_own_strategy():
    """The converted layer has a batch of one in a reshape, which a batch of evaluations does not need to know."""
    proto = reshaped(1, [1, 2, 2])
    net = network(proto, 1, ["r"])
    assert net.mode == "vmap; evaluated layers: batch"
    both = net(torch.from_numpy(X), ROWS)
    assert np.array_equal(both[0].numpy(), X)
    assert np.array_equal(both[1].numpy(), alone(proto, 1))
    assert (net.part([0]).mode, net.part([1]).mode) == ("vmap", "batch")
    # As in a worker, which is told the strategy.
    other = Network(net.module, batch=1)
    other.set_batching(net.mode, net.axes)
    assert np.array_equal(other(torch.from_numpy(X), ROWS)[1].numpy(), alone(proto, 1))
