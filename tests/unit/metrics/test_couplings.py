"""Couplings remove noise from gradients, and nothing else."""

import itertools
import math

import pytest
import torch

from onnxinfo.metrics import couplings
from onnxinfo.metrics.couplings import Couplings, LessNoise, products_kept
from onnxinfo.metrics.halves import HalfSums

SAMPLES, PRODUCTS, ALONG = 2, 24, 5
SHAPES = [(3, 6, 7), (9,), (2, 5, 6, 7), (3,), (5, 2, 6), (1, 8)]


def made(shape, seed=0):
    stream = torch.Generator().manual_seed(seed)
    units = math.prod(shape)
    random, along = (
        torch.randn(count, SAMPLES, units, generator=stream, dtype=torch.float64) for count in (PRODUCTS, ALONG)
    )
    return Couplings.of([random[:10], random[10:]], [along], shape), random, along


def distances(shape):
    """Largest distance of two units along a long axis, (n, n)."""
    places = torch.tensor([*itertools.product(*map(range, shape))])
    apart = (places[:, None] - places).abs() * torch.tensor([size > couplings.SHORT_AXIS for size in shape])
    return apart.amax(-1)


def matrices(shape, random, along):
    """The matrix M of each group, (groups, S, n, n)."""
    whole, other = (torch.einsum("psi,psj->sij", each, each) / len(each) for each in (random, along))
    apart = distances(shape)
    reach = couplings.REACH if any(size > couplings.SHORT_AXIS for size in shape) else 0
    return torch.stack([*(whole * (apart == ring) for ring in range(reach + 1)), whole, other])


@pytest.mark.parametrize("shape", SHAPES)
def test_effects_are_those_of_the_groups_of_pairs(shape):
    model, random, along = made(shape)
    expected = matrices(shape, random, along)
    delta = torch.randn(4, SAMPLES, math.prod(shape), dtype=torch.float64)
    found = delta.new_empty(4, SAMPLES, model.groups, delta.shape[2])
    model.effects(delta, found)
    torch.testing.assert_close(found, 2 * delta[:, :, None] * torch.einsum("gsij,dsj->dsgi", expected, delta))
    torch.testing.assert_close(model.means, expected.diagonal(dim1=2, dim2=3).transpose(0, 1))


def test_a_subset_of_the_samples_has_the_same_effects():
    model, *_ = made((3, 6, 7))
    delta = torch.randn(4, SAMPLES, 126, dtype=torch.float64)
    whole, part = (delta.new_empty(4, count, model.groups, 126) for count in (SAMPLES, 1))
    model.effects(delta, whole)
    model.at(torch.tensor([1])).effects(delta[:, 1:], part)
    torch.testing.assert_close(part, whole[:, 1:])


def gradients(model, sigma, draws, jacobian, curved, seed):
    """Gradients of |J d|^2 with an additional term that the couplings do not know, and the noise."""
    stream = torch.Generator().manual_seed(seed)
    delta = sigma * torch.randn(draws, *sigma.shape, generator=stream, dtype=torch.float64)
    linear = torch.einsum("smi,smj,dsj->dsi", jacobian, jacobian, delta)
    return 2 * delta * (linear + curved * delta.square() * delta), delta


def linear_layer(shape, seed=1):
    """A random layer whose outputs see neighbors only, and couplings from products with random signs."""
    stream = torch.Generator().manual_seed(seed)
    units = math.prod(shape)
    apart = distances(shape)
    jacobian = torch.randn(SAMPLES, units, units, generator=stream, dtype=torch.float64) * (apart <= 1)
    signs = torch.randint(0, 2, (PRODUCTS, SAMPLES, units), generator=stream).double() * 2 - 1
    products = torch.einsum("psm,smi->psi", signs, jacobian)
    return jacobian, Couplings.of([products], [products[:4]], shape)


def test_the_expectation_stays_the_same_and_the_variance_falls():
    jacobian, model = linear_layer((3, 6, 7))
    sigma = torch.rand(SAMPLES, 126, dtype=torch.float64) + 0.5
    less, plain, draws = LessNoise(model, sigma), HalfSums(sigma), 2000
    values, delta = gradients(model, sigma, draws, jacobian, 0.3, seed=2)
    less.add(values[:700], delta[:700])
    less.add(values[700:], delta[700:])
    plain.add(values)
    truth = 2 * (sigma.square() * jacobian.square().sum(1) + 0.3 * 3 * sigma**4)
    errors = [(each.means().mean - truth).square().mean() for each in (less, plain)]
    assert errors[0] < 0.5 * errors[1]
    spread = values.std(0) / math.sqrt(draws)
    assert ((less.means().mean - truth).abs() < 4 * spread).all()


def test_few_draws_have_no_bias():
    """The mean of many estimates from four noise samples each is right within its error."""
    jacobian, model = linear_layer((9,))
    sigma = torch.rand(SAMPLES, 9, dtype=torch.float64) + 0.5
    truth = 2 * sigma.square() * jacobian.square().sum(1)
    estimates = []
    for seed in range(3000):
        less = LessNoise(model, sigma)
        less.add(*gradients(model, sigma, 4, jacobian, 0.0, seed))
        estimates.append(less.means().mean)
    found = torch.stack(estimates)
    error = found.std(0) / math.sqrt(len(found))
    assert ((found.mean(0) - truth).abs() < 4 * error).all()


def test_each_half_has_the_weights_of_the_other():
    jacobian, model = linear_layer((9,))
    sigma = torch.ones(SAMPLES, 9, dtype=torch.float64)
    values, delta = gradients(model, sigma, 4, jacobian, 0.0, seed=3)
    other = values.clone()
    other[1::2] *= torch.linspace(0.5, 3, 9, dtype=torch.float64)
    found = []
    for each in (values, other):
        less = LessNoise(model, sigma)
        less.add(each, delta)
        found.append((less.means(), couplings._weights(less._powers.both[1])))
    (first, weights), (second, others) = found
    effects = less._sums.both[0]
    assert not torch.allclose(weights, others)
    for means, weight in ((first, weights), (second, others)):
        expected = effects[:, 0] - torch.einsum("sg,sgn->sn", weight, effects[:, 1:])
        torch.testing.assert_close(means.first, expected)


@pytest.mark.parametrize("value", [0.0, math.inf, math.nan])
def test_gradients_that_couplings_do_not_explain_stay_as_they_are(value):
    """One sample is explained; the other is random, zero or not a number, and does not change the first."""
    jacobian, model = linear_layer((3, 6, 7))
    sigma = torch.ones(SAMPLES, 126, dtype=torch.float64)
    values, delta = gradients(model, sigma, 8, jacobian, 0.0, seed=4)
    values[:, 1] = value
    less = LessNoise(model, sigma)
    less.add(values, delta)
    mean = less.means().mean
    assert mean[0].isfinite().all()
    torch.testing.assert_close(mean[1], values[:, 1].mean(0), equal_nan=True)
    alone = LessNoise(model.at(torch.tensor([0])), sigma[:1])
    alone.add(values[:, :1], delta[:, :1])
    torch.testing.assert_close(mean[:1], alone.means().mean)


def test_a_sample_that_the_common_weights_mislead_does_without():
    jacobian, model = linear_layer((3, 6, 7))
    sigma = torch.ones(SAMPLES, 126, dtype=torch.float64)
    values, delta = gradients(model, sigma, 8, jacobian, 0.0, seed=5)
    values[:, 1] = -values[:, 1] + 40 * torch.randn(8, 126, dtype=torch.float64)
    less = LessNoise(model, sigma)
    less.add(values, delta)
    weights = [couplings._weights(power) for power in less._powers.both]
    assert all((each[0] != 0).any() and (each[1] == 0).all() for each in weights)


@pytest.mark.parametrize(
    ("probes", "samples", "units", "kept"),
    [
        (8, 1, 2**10, 8),
        (8, 2**8, 2**10, 4),
        (8, 2**9, 2**10, 2),
        (8, 2**10, 2**10, 0),
        (1, 1, 2**10, 0),
        (2, 1, 2**10, 2),
        (8, 1, 2**16 - 1, 8),
        (8, 1, 2**16, 0),
    ],
)
def test_products_are_kept_as_far_as_memory_suffices_and_units_are_few(probes, samples, units, kept):
    assert products_kept(8, probes, torch.empty(samples, units)) == kept


def test_without_products_there_are_no_couplings():
    assert Couplings.of([], [], (3, 6, 7)) is None
