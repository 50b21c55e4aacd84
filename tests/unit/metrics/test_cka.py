"""Debiased CKA: closed forms, and the brute-force definition of its estimator and jackknife."""

from __future__ import annotations

import numpy as np
import pytest

from onnxinfo.metrics.cka import cka_pseudovalues, gram_matrix


def features(n, d, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d))


def cka(first, second):
    return float(cka_pseudovalues(gram_matrix(first), gram_matrix(second)).mean())


def hsic(one, two):
    """Song et al. (2012), equation 5."""
    n, ones = len(one), np.ones(len(one))
    first, second = one - np.diag(np.diag(one)), two - np.diag(np.diag(two))
    products = np.trace(first @ second) + (ones @ first @ ones) * (ones @ second @ ones) / ((n - 1) * (n - 2))
    return (products - 2 / (n - 2) * (ones @ first @ second @ ones)) / (n * (n - 3))


def direct(one, two):
    return hsic(one, two) / np.sqrt(hsic(one, one) * hsic(two, two))


@pytest.mark.parametrize("n", [5, 8, 20])
def test_the_estimator_and_its_jackknife_by_definition(n):
    x = features(n, 6)
    one, two = gram_matrix(x), gram_matrix(np.hstack([x[:, :2], features(n, 3, seed=1)]))
    without = [direct(np.delete(np.delete(one, i, 0), i, 1), np.delete(np.delete(two, i, 0), i, 1)) for i in range(n)]
    expected = n * direct(one, two) - (n - 1) * np.array(without)
    np.testing.assert_allclose(cka_pseudovalues(one, two), expected, rtol=1e-9)


def test_rotations_and_scales_make_no_difference():
    x = features(30, 6)
    rotation, _ = np.linalg.qr(features(6, 6, seed=1))
    np.testing.assert_allclose(cka_pseudovalues(gram_matrix(x), gram_matrix(-3 * x @ rotation + 5)), 1.0, atol=1e-9)


@pytest.mark.parametrize("d", [2, 300])
def test_independent_features_have_none(d):
    """Without debiasing, 300 features of 50 samples would have 0.86."""
    found = [cka(features(50, d, seed), features(50, d, seed + 1000)) for seed in range(40)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(40)
    assert abs(np.mean(found)) < 0.02


def test_a_shared_part_has_its_share_of_the_variance():
    """With x = (a, b) and y = a of equal variances: HSIC(x, y) is |a|^4, and that of x with itself twice as much."""
    a, b = features(3000, 8), features(3000, 8, seed=1)
    assert cka(np.hstack([a, b]), a) == pytest.approx(np.sqrt(1 / 2), abs=0.02)


def test_the_standard_error_is_that_over_draws():
    draws = []
    for seed in range(200):
        a, b = features(40, 4, seed), features(40, 4, seed + 1000)
        values = cka_pseudovalues(gram_matrix(a), gram_matrix(a + b))
        draws.append((values.mean(), values.std(ddof=1) / np.sqrt(40)))
    means, errors = np.array(draws).T
    assert np.sqrt((errors**2).mean()) == pytest.approx(means.std(ddof=1), rel=0.25)


@pytest.mark.filterwarnings("error")
def test_constant_features_have_no_value():
    assert np.isnan(cka_pseudovalues(gram_matrix(np.ones((6, 3))), gram_matrix(features(6, 3)))).all()


@pytest.mark.parametrize("n", [10, 50])
@pytest.mark.parametrize("active", [1, 2])
@pytest.mark.parametrize("d", [1, 9])
def test_no_value_without_distances_that_remain_if_a_sample_is_left_out(n, active, d):
    """Jackknife pseudovalues are 0/0 if at most two samples differ from the others."""
    x = np.zeros((n, d), dtype=np.float32)
    x[[3, 5][:active]] = features(active, d, seed=2) + 1
    for one, two in ((x, features(n, 4)), (features(n, 4), x)):
        assert np.isnan(cka_pseudovalues(gram_matrix(one), gram_matrix(two))).all()


def test_no_value_for_two_samples_that_are_orthogonal():
    """HSIC of the layer with itself is 0, and its rounding must not be divided by."""
    x = np.zeros((40, 16), dtype=np.float32)
    x[3, :8], x[5, 8:] = np.abs(features(2, 8, seed=3))
    assert np.isnan(cka_pseudovalues(gram_matrix(x), gram_matrix(features(40, 4)))).all()


def test_three_samples_that_differ_have_a_value():
    x = np.zeros((40, 9), dtype=np.float32)
    x[[3, 5, 7]] = features(3, 9, seed=4) + 1
    assert np.isfinite(cka_pseudovalues(gram_matrix(x), gram_matrix(features(40, 4)))).all()


def test_entries_that_vary_by_rounding_alone_do_not_count():
    x = np.full((40, 9), 0.7, dtype=np.float32)
    x = np.nextafter(x, np.where(features(40, 9) > 0, 1, 0).astype(np.float32))
    assert not gram_matrix(x).any()


def test_the_gram_matrix_is_summed_in_parts():
    x = features(6, 50).astype(np.float32)
    centered = x.astype(np.float64) - x.astype(np.float64).mean(0)
    np.testing.assert_allclose(gram_matrix(x, at_once=7), centered @ centered.T, atol=1e-12)
