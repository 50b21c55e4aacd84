"""Column norms and D of several layers at once: unbiased, independent of other layers, with and without tangents."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from onnxinfo.metrics import linearization
from onnxinfo.metrics.linearization import linearize
from onnxinfo.metrics.network import Network
from onnxinfo.metrics.tangents import Responses

UNITS, SAMPLES = 600, 3
ROWS = torch.arange(SAMPLES)


class Deep(torch.nn.Module):
    """Two layers with more than 128 outputs; the second has few directions, so that its D takes many products."""

    def __init__(self):
        super().__init__()
        random = torch.Generator().manual_seed(0)
        first = torch.randn(200, UNITS, generator=random)
        second = torch.randn(200, 4, generator=random) @ torch.randn(4, 200, generator=random)
        self.first = torch.nn.Parameter(first, requires_grad=False)
        self.second = torch.nn.Parameter(second, requires_grad=False)

    def forward(self, x):
        first = torch.relu(x @ self.first.T)
        return first, torch.relu(first @ self.second.T)


class Once(torch.autograd.Function):
    """The identity, whose gradient has no derivative."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient


class DeepOnce(Deep):
    def forward(self, x):
        return super().forward(once(x))


def once(x):
    return Once.apply(x)


torch.fx.wrap("once")


@pytest.fixture
def network():
    return Network(torch.fx.symbolic_trace(Deep()))


@pytest.fixture
def x():
    return torch.randn(SAMPLES, UNITS, generator=torch.Generator().manual_seed(1))


def linearized(network, x, **options):
    return linearize(network, x, torch.ones(UNITS), ROWS, torch.Generator().manual_seed(2), **options)


def exact(x):
    """``||J||_F^2`` of both layers, each (S,)."""
    deep = Deep()
    first, second = deep(x)
    jacobian = (first > 0)[:, :, None] * deep.first
    jacobians = jacobian, (second > 0)[:, :, None] * (deep.second @ jacobian)
    return [each.square().sum((1, 2)) for each in jacobians]


def demand_exact(found, x):
    for layer, true in zip(found, exact(x), strict=True):
        assert ((layer.normalizer - true).abs() <= 4 * layer.normalizer_stderr).all()
        torch.testing.assert_close(layer.column_norms.sum(1), layer.normalizer)


def count_products(monkeypatch):
    """Numbers of vector-Jacobian products of each call from now on."""
    counted, product = [], linearization._product

    def counting(feature, leaf, u):
        counted.append(len(u))
        return product(feature, leaf, u)

    monkeypatch.setattr(linearization, "_product", counting)
    return counted


def test_one_pass_with_a_tangent_serves_all_layers(monkeypatch, network, x):
    counted = count_products(monkeypatch)
    found = linearized(network, x)
    demand_exact(found, x)
    assert [layer.probes for layer in found] == [16, 128]
    # The second layer's D takes 112 more products, all of them with tangents.
    assert sum(counted) == 2 * 16 * SAMPLES


def test_a_layer_does_not_depend_on_the_others(network, x):
    together, alone = linearized(network, x)[1], linearized(network.part([1]), x)[0]
    assert together.probes == alone.probes
    torch.testing.assert_close(together.normalizer, alone.normalizer)
    torch.testing.assert_close(together.column_norms, alone.column_norms)


def test_gradients_without_a_derivative(monkeypatch, x):
    counted = count_products(monkeypatch)
    found = linearized(Network(torch.fx.symbolic_trace(DeepOnce())), x)
    demand_exact(found, x)
    assert sum(counted) > 128 * SAMPLES


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_memory_for_few_inputs(network, x, batch):
    demand_exact(linearized(network, x, division=linearization.Division(batch)), x)


class Convolutions(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.plain = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.strided = torch.nn.Conv2d(8, 8, 3, stride=2)
        self.grouped = torch.nn.Conv2d(8, 8, 3, groups=4, padding=1)
        self.upward = torch.nn.ConvTranspose2d(8, 4, 2, stride=2)

    def forward(self, x):
        first = torch.relu(self.plain(x))
        second = torch.tanh(self.grouped(self.strided(first)))
        return first, second, self.upward(second)


def test_responses_of_convolutions():
    """They equal forward derivatives; kernels as large as the image, for derivatives of weights, are left out."""
    module, x, v = Convolutions(), torch.randn(2, 3, 9, 9), torch.randn(2, 2, 3, 9, 9)
    network = Network(torch.fx.symbolic_trace(module))
    found = Responses(network, x, torch.arange(2), 2)(v)
    expected = [torch.func.jvp(module, (x,), (each,))[1] for each in v]
    for layer, parts in zip(found, zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(layer, torch.stack(parts).flatten(2), atol=1e-5, rtol=1e-4)


def test_weights_get_no_derivatives():
    convolve = torch.ops.aten.convolution.default
    computed = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if func is convolve and result.device.type != "meta":
                computed.append(args[1].shape[-1])
            return result

    network = Network(torch.fx.symbolic_trace(Convolutions()))
    responses = Responses(network, torch.randn(2, 3, 9, 9), torch.arange(2), 1)
    with Watch():
        responses(torch.randn(1, 2, 3, 9, 9))
    assert max(computed) <= 3
