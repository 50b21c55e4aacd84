"""The smallest perturbations that move an image to each other class, among images within the range of pixels.

The targeted attack DDN (Rony et al. 2019) runs twice: from the attacked image, and from the better of its result and a
known image of the class, if there is one, moved toward the attacked image until it barely stays in the class. So each
class that the network assigns to any known image is reached.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .common import Array

#: Steps of each run; relative change of the radius in each, and its growth until the class is reached; step size
#: relative to the radius at first, and at the end.
STEPS, CHANGE, GROWTH, RATE, LEAST = 70, 0.05, 0.15, 0.5, 0.02
#: Radius at first, and halvings of the part of a perturbation that is needed.
RADIUS, HALVINGS = 0.5, 12

Scores = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Known:
    """Images (N, ...), and the class that the network assigns to each, (N,)."""

    images: Array
    classes: Array

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest value of each channel."""
        axes = (0, *range(2, self.images.ndim))
        low, high = (torch.from_numpy(f(axis=axes, keepdims=True)) for f in (self.images.min, self.images.max))
        return low, high

    def nearest(self, x: Array, wanted: int) -> Array | None:
        """Return the image of a class that is nearest to image x, or None if there is none."""
        found = self.images[self.classes == wanted]
        if not len(found):
            return None
        distances = ((found - x) ** 2).reshape(len(found), -1).sum(1)
        nearest: Array = found[distances.argmin()]
        return nearest


def distances(scores: Scores, x: Array, known: Known, targets: list[int]) -> Array:
    """Return the L2 norms of the smallest perturbations found that move image x to the targets; infinite if none."""
    starts = [known.nearest(x, target) for target in targets]
    there = torch.tensor([start is not None for start in starts])
    start = torch.from_numpy(np.stack([x if each is None else each for each in starts]))
    origin = torch.from_numpy(x).expand(start.shape)
    wanted = torch.tensor(targets)
    best = toward(scores, origin, start, wanted)
    best, there = descend(scores, origin, wanted, origin, best, there, known.bounds)
    best, there = descend(scores, origin, wanted, best, best, there, known.bounds)
    norms = norm(toward(scores, origin, best, wanted) - origin)
    found: Array = torch.where(there, norms, torch.inf).double().numpy()
    return found


def norm(x: Tensor) -> Tensor:
    """L2 norm of each sample."""
    found: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return found


def _each(factors: Tensor, like: Tensor) -> Tensor:
    return factors.reshape(-1, *(1 for _ in like.shape[1:]))


def toward(scores: Scores, origin: Tensor, end: Tensor, wanted: Tensor) -> Tensor:
    """Move images of the wanted classes toward others by bisection, as far as they stay in their classes."""
    least, enough = torch.zeros(len(end)), torch.ones(len(end))
    for _ in range(HALVINGS):
        middle = (least + enough) / 2
        with torch.no_grad():
            hit = scores(origin + _each(middle, end) * (end - origin)).argmax(1) == wanted
        least, enough = torch.where(hit, least, middle), torch.where(hit, middle, enough)
    return origin + _each(enough, end) * (end - origin)


def descend(
    scores: Scores,
    origin: Tensor,
    wanted: Tensor,
    start: Tensor,
    best: Tensor,
    there: Tensor,
    bounds: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """Search for the nearest images of the wanted classes, and tell whether any was found.

    Parameters
    ----------
    scores
        Scores (N, classes) of images (N, ...).
    origin, wanted
        Images, and the class that each is to be moved to.
    start
        Where the search starts.
    best, there
        Images to improve on, and whether they are of the wanted classes.
    bounds
        Smallest and largest values of pixels.
    """
    least = torch.where(there, norm(best - origin), torch.inf)
    shift = start - origin
    radius = torch.where(norm(shift) > 0, norm(shift), RADIUS)
    for step in range(STEPS):
        point = (origin + shift).requires_grad_(True)
        found = scores(point)
        own = found.gather(1, wanted[:, None])[:, 0]
        others = found.scatter(1, wanted[:, None], -torch.inf).amax(1)
        (slope,) = torch.autograd.grad((others - own).sum(), point)
        hit = (own > others).detach()
        size = norm(shift)
        nearer = hit & (size < least)
        best = torch.where(_each(nearer, best), point.detach(), best)
        least = torch.where(nearer, size, least)
        growth = torch.where(least.isfinite(), CHANGE, GROWTH)
        radius = torch.where(hit, torch.minimum(radius, size) * (1 - CHANGE), radius * (1 + growth))
        rate = LEAST + (RATE - LEAST) * (1 + np.cos(np.pi * step / STEPS)) / 2
        shift = shift - _each(rate * radius / norm(slope).clamp_min(1e-12), slope) * slope
        shift = shift * _each(radius / norm(shift).clamp_min(1e-12), shift)
        shift = torch.minimum(torch.maximum(origin + shift, bounds[0]), bounds[1]) - origin
    return best, least.isfinite()
