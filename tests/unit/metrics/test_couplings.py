"""Couplings remove noise from gradients, and nothing else."""

import itertools
import math

import pytest
import torch

from onnxinfo.metrics import couplings
from onnxinfo.metrics.couplings import CoupledSums, Couplings, less_noise, products_kept

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


def summed(model, sigma, values, delta):
    """Sums over noise samples that come in two batches of odd sizes."""
    sums, cut = CoupledSums(model, sigma), len(values) // 3
    for some in (slice(0, cut), slice(cut, None)):
        sums.add(values[some], delta[some])
    return sums


def estimated(model, sigma, values, delta):
    """Four estimates, as in a pass: the noise samples of each half of the values alternate."""
    half = len(values) // 2
    return torch.stack(
        less_noise([summed(model, sigma, values[some], delta[some]) for some in (slice(half), slice(half, None))])
    )


def test_the_expectation_stays_the_same_and_the_variance_falls():
    jacobian, model = linear_layer((3, 6, 7))
    sigma, draws = torch.rand(SAMPLES, 126, dtype=torch.float64) + 0.5, 2000
    values, delta = gradients(model, sigma, draws, jacobian, 0.3, seed=2)
    found = estimated(model, sigma, values, delta).mean(0)
    truth = 2 * (sigma.square() * jacobian.square().sum(1) + 0.3 * 3 * sigma**4)
    errors = [(each - truth).square().mean() for each in (found, values.mean(0))]
    assert errors[0] < 0.5 * errors[1]
    spread = values.std(0) / math.sqrt(draws)
    assert ((found - truth).abs() < 4 * spread).all()


@pytest.mark.parametrize("curved", [0.0, 1.0])
def test_few_draws_have_no_bias_nor_have_the_products_of_their_parts(curved):
    """Weights that are fitted to eight noise samples at one sample make neither the mean nor the gap too large."""
    jacobian, model = linear_layer((9,))
    model, jacobian = model.at(torch.tensor([0])), jacobian[:1]
    sigma = torch.rand(1, 9, dtype=torch.float64) + 0.5
    truth = 2 * (sigma.square() * jacobian.square().sum(1) + curved * 3 * sigma**4)
    parts = torch.stack(
        [estimated(model, sigma, *gradients(model, sigma, 8, jacobian, curved, seed)) for seed in range(4000)]
    )
    errors = ((parts - truth) / truth.mean())[:, :, 0]
    mean = errors.mean(1)
    assert (mean.mean(0).abs() < 4 * mean.std(0) / math.sqrt(len(mean))).all()
    products = torch.einsum("kpn,kqn->kpq", errors, errors) / errors.shape[2]
    for p, q in itertools.combinations(range(4), 2):
        product = products[:, p, q]
        assert abs(product.mean()) < 4 * product.std() / math.sqrt(len(product)), (p, q)


def test_each_half_has_the_weights_of_the_next():
    jacobian, model = linear_layer((9,))
    sigma = torch.ones(SAMPLES, 9, dtype=torch.float64)
    values, delta = gradients(model, sigma, 8, jacobian, 0.0, seed=3)
    found = estimated(model, sigma, values, delta)
    for changed in range(4):
        other = values.clone()
        # The noise samples of a half.
        other[4 * (changed // 2) + changed % 2 : 4 * (changed // 2) + 4 : 2] *= torch.linspace(0.5, 3, 9).double()
        different = [not torch.equal(*pair) for pair in zip(found, estimated(model, sigma, other, delta), strict=True)]
        assert different == [half in (changed, (changed - 1) % 4) for half in range(4)]


@pytest.mark.parametrize("value", [0.0, math.inf, math.nan])
def test_gradients_that_couplings_do_not_explain_stay_as_they_are(value):
    """One sample is explained; the other is zero or not a number, and does not change the first."""
    jacobian, model = linear_layer((3, 6, 7))
    sigma = torch.ones(SAMPLES, 126, dtype=torch.float64)
    values, delta = gradients(model, sigma, 8, jacobian, 0.0, seed=4)
    values[:, 1] = value
    mean = estimated(model, sigma, values, delta).mean(0)
    assert mean[0].isfinite().all()
    torch.testing.assert_close(mean[1], values[:, 1].mean(0), equal_nan=True)
    alone = estimated(model.at(torch.tensor([0])), sigma[:1], values[:, :1], delta[:, :1]).mean(0)
    torch.testing.assert_close(mean[:1], alone)


@pytest.mark.parametrize("value", [math.inf, math.nan, 1e200])
def test_products_that_are_not_finite_leave_their_sample_without_couplings(value):
    jacobian, model = linear_layer((3, 6, 7))
    sigma = torch.ones(SAMPLES, 126, dtype=torch.float64)
    values, delta = gradients(model, sigma, 8, jacobian, 0.0, seed=4)
    model.random[1, 0, 5] = value
    found = estimated(model, sigma, values, delta)
    plain = torch.stack([part[i::2].mean(0) for part in (values[:4], values[4:]) for i in range(2)])
    torch.testing.assert_close(found[:, 1], plain[:, 1])
    assert found.isfinite().all()
    assert not torch.allclose(found[:, 0], plain[:, 0])


def test_a_sample_that_the_common_weights_mislead_does_without():
    jacobian, model = linear_layer((3, 6, 7))
    sigma = torch.ones(SAMPLES, 126, dtype=torch.float64)
    values, delta = gradients(model, sigma, 8, jacobian, 0.0, seed=5)
    values[:, 1] = -values[:, 1] + 40 * torch.randn(8, 126, dtype=torch.float64)
    weights = [couplings._weights(powers) for _, powers in summed(model, sigma, values, delta).halves]
    assert all((each[0] != 0).any() and (each[1] == 0).all() for each in weights)


@pytest.mark.parametrize(
    ("probes", "samples", "units", "entries", "kept"),
    [
        (8, 1, 2**10, 99, 8),
        (8, 2**8, 2**10, 99, 2),
        (8, 2**9, 2**10, 99, 0),
        (1, 1, 2**10, 99, 0),
        (2, 1, 2**10, 99, 2),
        (8, 1, 2**16 - 1, 99, 8),
        (8, 1, 2**16, 99, 0),
        (8, 1, 2**10, 17, 8),
        (8, 1, 2**10, 16, 0),
    ],
)
def test_products_are_kept_where_they_are_worth_it_and_memory_suffices(probes, samples, units, entries, kept):
    assert products_kept(8, probes, torch.empty(samples, units), entries) == kept


def test_many_neighbors_take_memory_too():
    """A position with 4 channels and 3^4 neighbors has 324 dot products for each unit."""
    assert products_kept(8, 8, torch.empty(9, 4, 5, 5, 5, 5), 99) == 5
    assert products_kept(8, 8, torch.empty(10, 4, 5, 5, 5, 5), 99) == 0


def test_without_products_there_are_no_couplings():
    assert Couplings.of([], [], (3, 6, 7)) is None
