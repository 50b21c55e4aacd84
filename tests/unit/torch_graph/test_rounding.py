"""Rounding of quantized networks: few passes over memory, and the gradients that every solver needs."""

import warnings

import numpy as np
import pytest
import torch
from graphs import constant, model, value
from onnx import TensorProto, helper
from torch.utils._python_dispatch import TorchDispatchMode

from onnxinfo import convert
from onnxinfo.torch_graph.operators.quantized import DequantizeLinear, DynamicQuantizeLinear, QuantizeLinear
from onnxinfo.torch_graph.operators.rounding import straight_through

INT8, STEP, ZERO = 3, torch.tensor(0.1), torch.tensor(-28, dtype=torch.int8)
CHANNELS = torch.tensor([0.1, 0.2, 0.05]), torch.tensor([-28, 3, 0], dtype=torch.int8)
X = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0)) * 8


class Counter(TorchDispatchMode):
    """Counts the operators that read or write a whole tensor."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        moved = isinstance(result, torch.Tensor) and result.numel() == X.numel()
        self.count += moved and not func.is_view and "detach" not in str(func)
        return result


def pair(x, scale=STEP, zero=ZERO):
    return DequantizeLinear(QuantizeLinear(x, scale, zero, output_dtype=INT8), scale, zero)


def dynamic(x):
    return DequantizeLinear(*DynamicQuantizeLinear(x))


@pytest.mark.parametrize(("rounding", "forward", "backward"), [(pair, 6, 3), (dynamic, 6, 2)])
def test_rounding_takes_few_passes(rounding, forward, backward):
    x = X.clone().requires_grad_()
    with Counter() as there:
        y = rounding(x)
    v = torch.ones_like(y)
    with Counter() as back:
        torch.autograd.grad(y, x, v)
    assert there.count <= forward
    assert back.count <= backward


@pytest.mark.parametrize("parameters", [(STEP, ZERO), CHANNELS], ids=["whole", "channels"])
def test_gradients_of_rounding(parameters):
    """One inside the range and zero outside, also sample by sample, and for the gradient's own gradient."""
    scale, zero = (p.double() if p.is_floating_point() else p for p in parameters)
    x = X.double().requires_grad_()
    y = pair(x, scale, zero)
    step, start = (each.reshape(-1, 1) if each.dim() else each for each in (scale, zero.double()))
    steps = x.detach() / step + start
    inside = ((steps > -128) & (steps < 127)).double()
    assert 0 < inside.mean() < 1
    v = torch.randn_like(y).requires_grad_()
    (gradient,) = torch.autograd.grad(y, x, v, create_graph=True)
    torch.testing.assert_close(gradient, inside * v, rtol=1e-12, atol=1e-12)
    (again,) = torch.autograd.grad(gradient.sum(), v)
    torch.testing.assert_close(again, inside, rtol=1e-12, atol=1e-12)
    each = torch.func.vmap(torch.func.grad(lambda one: pair(one[None], scale, zero).sum()))(x.detach())
    torch.testing.assert_close(each, inside, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("parameters", [(STEP, ZERO), CHANNELS, "converted"], ids=["whole", "channels", "converted"])
def test_tangents_of_rounding(parameters):
    """Forward mode has the derivatives of backward mode, also for several tangents at once."""
    module = converted_pair()
    function = (lambda x: module(x)[0]) if parameters == "converted" else (lambda x: pair(x, *parameters))
    tangents = torch.randn(2, *X.shape, generator=torch.Generator().manual_seed(1))
    x = X.clone().requires_grad_()
    (inside,) = torch.autograd.grad(function(x).sum(), x)
    assert 0 < inside.mean() < 1
    found = torch.func.vmap(lambda tangent: torch.func.jvp(function, (X,), (tangent,))[1])(tangents)
    torch.testing.assert_close(found, inside * tangents)


def test_tangents_of_a_straight_through_estimator():
    tangent = torch.ones_like(X)
    assert torch.func.jvp(lambda x: straight_through(x.round(), x), (X,), (tangent,))[1].equal(tangent)


def converted_pair(outputs=("y",), scale=0.1, zero=-28):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    constants = [constant("s", scale, np.float32), constant("z", zero, np.int8)]
    types = {"q": TensorProto.INT8, "y": TensorProto.FLOAT}
    values = [value(name, None, types[name]) for name in outputs]
    return convert(model(nodes, [value("x", X.shape)], values, constants))


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_pair_is_converted_together(shape):
    x, v = X.clone().requires_grad_(), torch.ones_like(X)
    module = converted_pair(scale=np.full(shape, 0.1), zero=np.full(shape, -28))
    with Counter() as there:
        (y,) = module(x)
    with Counter() as back:
        (gradient,) = torch.autograd.grad(y, x, v)
    assert (there.count, back.count) == (4, 1)
    exact = X.clone().requires_grad_()
    expected = pair(exact)
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
    torch.testing.assert_close(gradient, *torch.autograd.grad(expected, exact, v))
    with warnings.catch_warnings():
        # Torch warns of operators that it maps in a loop.
        warnings.simplefilter("error")
        each = torch.func.vmap(lambda one: converted_pair()(one[None])[0][0])(X)
    torch.testing.assert_close(each, y.detach())


NO_PAIRS = {
    "another scale": {"back": "other"},
    "negative scale": {"scale": -0.1},
    "half precision": {"attributes": {"output_dtype": TensorProto.FLOAT16}},
    "four bits": {"type": TensorProto.INT4},
}


@pytest.mark.parametrize("kind", NO_PAIRS)
def test_roundings_that_are_no_pair(kind):
    """Two nodes that do not restore what was rounded, or not in the way that a pair is converted."""
    case = {"scale": 0.1, "back": "s", "type": TensorProto.INT8, "attributes": {}} | NO_PAIRS[kind]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", case["back"], "z"], ["y"], **case["attributes"]),
    ]
    zero = helper.make_tensor("z", case["type"], [], [0])
    constants = [constant("s", case["scale"], np.float32), constant("other", 0.3, np.float32), zero]
    outputs = [value("y", None, case["attributes"].get("output_dtype", TensorProto.FLOAT))]
    x = X.clone().requires_grad_()
    (y,) = convert(model(nodes, [value("x", X.shape)], outputs, constants, opset=23))(x)
    limits = (-8, 7) if case["type"] == TensorProto.INT4 else (-128, 127)
    steps = X / case["scale"]
    expected = steps.round().clamp(*limits) * (0.3 if case["back"] == "other" else case["scale"])
    type = torch.float16 if case["attributes"] else torch.float32
    torch.testing.assert_close(y.detach(), expected.to(type))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    inside = (steps > limits[0]) & (steps < limits[1])
    torch.testing.assert_close(gradient != 0, inside)


def test_integers_of_a_pair_remain_available():
    integers, floats = converted_pair(("q", "y"))(X)
    torch.testing.assert_close(floats, (integers + 28) * STEP)


def clipping(low=-1.0, high=6.0):
    nodes = [helper.make_node("Clip", ["x", "low", "high"], ["y"])]
    limits = [constant("low", low, np.float32), constant("high", high, np.float32)]
    return convert(model(nodes, [value("x", (4, 3, 5))], [value("y", None)], limits))


def test_constant_limits_take_few_passes():
    x = X.clone().requires_grad_()
    module, v = clipping(), torch.ones_like(X)
    with Counter() as there:
        (y,) = module(x)
    with Counter() as back:
        (gradient,) = torch.autograd.grad(y, x, v)
    assert (there.count, back.count) == (1, 1)
    torch.testing.assert_close(y.detach(), X.clamp(-1, 6))
    torch.testing.assert_close(gradient, ((X > -1) & (X < 6)).float())


def test_limits_that_exclude_each_other():
    """ONNX returns the upper limit."""
    assert (clipping(3.0, -2.0)(X)[0] == -2).all()


def test_samples_with_a_scale_each():
    each = torch.func.vmap(dynamic)(X)
    torch.testing.assert_close(each, torch.stack([dynamic(x) for x in X]))


def test_operands_are_not_overwritten():
    """A constant without a zero point is multiplied by the scale, not changed."""
    stored = torch.tensor([1.0, 2.0])
    for zero in (None, torch.tensor(0, dtype=torch.int8)):
        assert DequantizeLinear(stored, STEP, zero).tolist() == pytest.approx([0.1, 0.2])
        assert stored.tolist() == [1, 2]
