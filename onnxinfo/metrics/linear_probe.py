"""Linear probes: how well a cross-validated linear classifier predicts labels from features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .cka import centered, gram_matrix, largest_magnitude

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

#: Maximum number of folds of the cross-validation; fewer if a class has fewer samples.
FOLDS = 5
#: Strengths of the penalty, from the strongest; a classifier of the bias alone precedes them.
PENALTIES = tuple(10.0**power for power in range(1, -8, -1))
#: Fewest samples of each class: one to predict, and of those that train, one to choose the penalty.
FEWEST = 3
#: Of a training fold's samples of each class, one in this many chooses the penalty; at least one, so more of few.
ONE_IN = 4
#: Other parts choose it in turn, until so many samples have.
ENOUGH = 50
#: Part of the largest eigenvalue below which one is rounding.
_RANK = 1e-10


@dataclass(frozen=True)
class Predicted:
    """Predictions for samples by classifiers that were trained without them.

    Attributes
    ----------
    information
        ``log q(y|x) - log q(y)`` of each sample's label y in nats, where q(y) is the label's frequency in the same
        training samples, (n,).
    correct
        Whether the label is the most probable one, (n,).
    """

    information: Floats
    correct: npt.NDArray[np.bool_]


def stratified_folds(labels: Integers, folds: int, seed: int) -> Integers:
    """Return a fold for each sample, so that each class is spread evenly over the folds.

    Parameters
    ----------
    labels
        Labels, (n,).
    folds
        Number of folds, at most the number of samples of the smallest class.
    seed
        Seed of the order of samples.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    found = np.zeros(len(labels), dtype=np.int64)
    start = 0
    for label in np.unique(labels):
        members = order[labels[order] == label]
        found[members] = (start + np.arange(len(members))) % folds
        start += len(members)
    return found


def coordinates(features: npt.NDArray[np.floating]) -> Floats:
    """Return standardized features in at most as many coordinates as there are samples.

    Each entry is divided by its standard deviation over all samples, so that its units make no difference; entries that
    do not vary are 0. No label is used. A penalized linear classifier is a combination of its training samples, so that
    it sees features only through their inner products, and fewer coordinates with the same ones do not change it.

    Parameters
    ----------
    features
        Features, (n, d).
    """
    if features.shape[1] < len(features):
        return centered(features, largest_magnitude(features), standardized=True)
    values, vectors = np.linalg.eigh(gram_matrix(features, standardized=True))
    kept = values > _RANK * max(float(values[-1]), 0.0)
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]))


def predict_held_out(features: Floats, labels: Integers, folds: Integers) -> Predicted:
    """Predict the label of each sample by a linear classifier that was trained on the other folds.

    The classifier is a multinomial logistic regression with a quadratic penalty, of a strength that is cross-validated
    within the training samples; if none predicts these better than the frequencies of the labels do, it is these.

    Parameters
    ----------
    features
        Features, (n, d).
    labels
        Labels from 0 on, (n,); at least two of the samples of each are outside of any fold.
    folds
        Fold of each sample, (n,).
    """
    information, correct = np.zeros(len(labels)), np.zeros(len(labels), dtype=bool)
    for fold in np.unique(folds):
        train, test = folds != fold, folds == fold
        shifted = features - features[train].mean(0)
        scale = np.sqrt((shifted[train] ** 2).sum(1).mean())
        scaled = shifted / (scale if scale > 0 else 1.0)
        known, frequencies = labels[train], _log_frequencies(labels[train], labels.max() + 1)
        penalty = _best_penalty(scaled[train], known)
        logs = np.broadcast_to(frequencies, (int(test.sum()), len(frequencies)))
        if penalty is not None:
            logs = _log_probabilities(scaled[test], _fitted(scaled[train], known, penalty))
        information[test] = logs[np.arange(len(logs)), labels[test]] - frequencies[labels[test]]
        correct[test] = logs.argmax(1) == labels[test]
    return Predicted(information, correct)


def _log_frequencies(labels: Integers, classes: int) -> Floats:
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.bincount(labels, minlength=classes) / len(labels)))


def _best_penalty(features: Floats, labels: Integers) -> float | None:
    """Return the penalty that predicts held-out training samples best; None if the frequencies alone do."""
    parts = min(ONE_IN, int(np.bincount(labels).min()))
    part = stratified_folds(labels, parts, seed=0)
    # The frequencies alone come first.
    losses, held = np.zeros(1 + len(PENALTIES)), 0
    for each in range(parts):
        if held < ENOUGH:
            losses += _held_out_losses(features, labels, part == each)
            held += int((part == each).sum())
    best = int(losses.argmin())
    return PENALTIES[best - 1] if best else None


def _held_out_losses(features: Floats, labels: Integers, held: npt.NDArray[np.bool_]) -> Floats:
    """Return the loss of held-out samples, summed, under the others' frequencies and for each penalty."""
    chosen = np.arange(int(held.sum())), labels[held]
    frequencies = _log_frequencies(labels[~held], int(labels.max()) + 1)
    losses = [-float(frequencies[labels[held]].sum())]
    weights: Floats | None = None
    for penalty in PENALTIES:
        weights = _fitted(features[~held], labels[~held], penalty, weights)
        losses.append(-float(_log_probabilities(features[held], weights)[chosen].sum()))
    return np.array(losses)


def _fitted(features: Floats, labels: Integers, penalty: float, start: Floats | None = None) -> Floats:
    """Fit a multinomial logistic regression; return weights and, in the last row, biases, (d + 1, classes)."""
    from scipy.optimize import minimize

    classes = int(labels.max()) + 1
    shape = features.shape[1] + 1, classes
    wanted = np.eye(classes)[labels]
    if start is None:
        start = np.zeros(shape)
        start[-1] = _log_frequencies(labels, classes)

    def loss(flat: Floats) -> tuple[float, Floats]:
        weights = flat.reshape(shape)
        logs = _log_probabilities(features, weights)
        error = (np.exp(logs) - wanted) / len(labels)
        gradient = np.vstack([features.T @ error + penalty * weights[:-1], error.sum(0)])
        value = -float(logs[np.arange(len(labels)), labels].mean()) + penalty / 2 * float((weights[:-1] ** 2).sum())
        return value, gradient.ravel()

    found = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 300, "gtol": 1e-6})
    return np.asarray(found.x.reshape(shape))


def _log_probabilities(features: Floats, weights: Floats) -> Floats:
    from scipy.special import log_softmax

    return np.asarray(log_softmax(features @ weights[:-1] + weights[-1], axis=1))
