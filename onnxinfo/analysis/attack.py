"""Carlini and Wagner's attack on a network, from the Adversarial Robustness Toolbox (an optional dependency)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from art.attacks.evasion import CarliniL2Method
from art.estimators.classification import PyTorchClassifier
from torch import nn

#: Initial value in the search for the attack's constant, and learning rate.
CONSTANT, RATE = 10.0, 0.05

Array = npt.NDArray[Any]


class Classifier(PyTorchClassifier):  # type: ignore[misc]
    """A classifier with independent samples, so that one backward pass serves all of them.

    The toolbox's own class makes one pass over all samples for each requested class.
    """

    def class_gradient(self, x: Array, label: Array, **_: Any) -> Array:
        """Gradients of one score per sample, (N, 1, ...).

        Parameters
        ----------
        x
            Samples, (N, ...).
        label
            Class whose score is differentiated, (N,).
        """
        inputs = torch.from_numpy(x.astype(np.float32)).to(self.device).requires_grad_(True)
        scores = self.model(inputs).gather(1, torch.from_numpy(label).to(self.device)[:, None])
        (gradient,) = torch.autograd.grad(scores.sum(), inputs)
        found: Array = gradient[:, None].cpu().numpy()
        return found


def carlini_wagner(
    network: nn.Module,
    shape: tuple[int, ...],
    classes: int,
    *,
    bounds: tuple[float, float],
    search_steps: int,
    iterations: int,
    batch: int,
    cuda: bool,
) -> tuple[Any, Classifier]:
    """Return the targeted L2 attack on a network, and the classifier that it attacks.

    Parameters
    ----------
    network
        Scores (N, classes) of samples (N, *shape).
    shape, classes
        Shape of one sample, and number of scores.
    bounds
        Range of perturbed samples; the attack cannot move values at its ends.
    search_steps, iterations
        Steps of the search for the attack's constant, and iterations per step.
    batch, cuda
        Batch size, and whether the network is on a GPU.
    """
    classifier = Classifier(
        model=network,
        loss=nn.CrossEntropyLoss(),
        input_shape=shape,
        nb_classes=classes,
        clip_values=bounds,
        device_type="gpu" if cuda else "cpu",
    )
    attack = CarliniL2Method(
        classifier,
        targeted=True,
        binary_search_steps=search_steps,
        max_iter=iterations,
        initial_const=CONSTANT,
        learning_rate=RATE,
        batch_size=batch,
        verbose=False,
    )
    return attack, classifier
