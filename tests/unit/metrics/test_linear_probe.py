"""Linear probes and V-information: features that tell everything, nothing, and what a Gaussian tells."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from onnxinfo.metrics.linear_probe import coordinates, predict_held_out, stratified_folds


def predicted(features, labels, folds=5, seed=0):
    return predict_held_out(coordinates(features), labels, stratified_folds(labels, folds, seed))


def labels(n, classes, seed=0):
    return np.random.default_rng(seed).permutation(np.arange(n) % classes)


def test_constant_features_tell_nothing():
    found = predicted(np.ones((40, 7)), labels(40, 4))
    np.testing.assert_array_equal(found.information, 0.0)


@pytest.mark.parametrize("classes", [2, 5])
def test_the_label_itself_tells_its_entropy(classes):
    y = labels(200, classes)
    found = predicted(np.eye(classes)[y], y)
    assert found.information.mean() == pytest.approx(np.log(classes), abs=0.01)
    assert found.correct.all()


@pytest.mark.parametrize("d", [5, 400])
def test_noise_tells_nothing(d):
    x = np.random.default_rng(1).standard_normal((200, d))
    found = predicted(x, labels(200, 4))
    assert found.information.mean() <= 0.01
    assert found.information.mean() > -0.15
    assert found.correct.mean() == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 200))


def test_two_gaussians_tell_what_the_true_classifier_does():
    """The best classifier of two Gaussians of equal variance is logistic."""
    y = labels(3000, 2)
    x = np.random.default_rng(2).standard_normal((3000, 3)) + np.array([1.0, 0, 0]) * y[:, None]
    right = expit((2 * y - 1) * (x[:, 0] - 0.5))
    found = predicted(x, y)
    assert found.information.mean() == pytest.approx(np.log(right).mean() + np.log(2), abs=0.005)
    assert found.correct.mean() == pytest.approx((right > 0.5).mean(), abs=0.01)


def test_coordinates_are_a_rotation_of_the_features():
    x = np.random.default_rng(3).standard_normal((20, 500))
    seen = coordinates(x)
    assert seen.shape == (20, 19)
    standardized = (x - x.mean(0)) / x.std(0)
    np.testing.assert_allclose(seen @ seen.T, standardized @ standardized.T, atol=1e-8)


def test_the_same_predictions_from_many_and_from_few_coordinates():
    """A layer that repeats each entry, and thus has more entries than samples, tells the same."""
    y = labels(60, 3)
    x = np.random.default_rng(4).standard_normal((60, 10)) + y[:, None]
    few, many = predicted(x, y), predicted(np.repeat(x, 10, axis=1), y)
    np.testing.assert_allclose(many.information, few.information, atol=1e-3)


def test_no_sample_trains_its_own_classifier():
    """One feature for each sample tells the label of that sample alone."""
    found = predicted(np.eye(60), labels(60, 3))
    assert found.information.mean() <= 1e-12
    assert found.correct.mean() < 0.6


@pytest.mark.parametrize(("counts", "folds"), [((7, 5, 12), 5), ((2, 9), 2), ((3, 3, 3, 3), 3)])
def test_every_class_is_in_every_fold(counts, folds):
    y = np.repeat(np.arange(len(counts)), counts)
    found = stratified_folds(y, folds, seed=0)
    sizes = np.bincount(found)
    assert sizes.max() - sizes.min() <= 1
    for label in range(len(counts)):
        assert {*found[y == label]} == {*range(folds)}


@pytest.mark.parametrize("of_each", [3, 4, 5])
def test_few_samples_of_each_class_choose_the_penalty(of_each):
    """Classes that are far apart are told apart by one sample of each."""
    y = np.tile(np.arange(10), of_each)
    x = 10 * np.eye(10)[y] + np.random.default_rng(5).standard_normal((len(y), 10))
    found = predicted(x, y, min(5, of_each))
    assert found.information.mean() > 0.9 * np.log(10)
    assert found.correct.all()


@pytest.mark.parametrize("d", [5, 200])
def test_units_make_no_difference(d):
    y = labels(90, 3)
    x = np.random.default_rng(6).standard_normal((90, d)) + 2 * y[:, None] * (np.arange(d) % 5 < 2)
    units = 10.0 ** np.random.default_rng(7).integers(-3, 4, d)
    own, other = predicted(x, y), predicted(x * units - 3 * units, y)
    assert own.information.mean() > 0.1
    np.testing.assert_allclose(other.information, own.information, atol=1e-2)


def test_a_small_entry_that_tells_all_beside_large_ones_of_noise():
    y = labels(100, 2)
    x = np.random.default_rng(8).standard_normal((100, 5)) * 1e3
    x[:, 0] = 2 * y - 1 + 0.1 * np.random.default_rng(9).standard_normal(100)
    found = predicted(x.astype(np.float32), y)
    assert found.information.mean() == pytest.approx(np.log(2), abs=0.02)
    assert found.correct.all()


@pytest.mark.parametrize("d", [4, 100])
def test_rounding_tells_nothing(d):
    """Entries that are constant up to rounding, which here reveals the label, and one that varies."""
    y = labels(60, 2)
    x = np.full((60, d), 3.7, dtype=np.float32)
    x[:, 1:] = np.nextafter(x[:, 1:], np.where(y == 1, np.inf, 0)[:, None].astype(np.float32))
    x[:, 0] = np.random.default_rng(10).standard_normal(60)
    assert predicted(x, y).information.mean() < 0.02
