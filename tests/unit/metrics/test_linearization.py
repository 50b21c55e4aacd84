"""Column norms and D of several layers at once: unbiased, independent of other layers, with and without tangents."""

import pytest
import torch

from onnxinfo.metrics import linearization
from onnxinfo.metrics.linearization import linearize
from onnxinfo.metrics.network import Network

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
    demand_exact(linearized(network, x, batch=batch), x)
