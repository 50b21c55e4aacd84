"""Means over training seeds and images: their errors, and the numbers of each that an effect needs.

Each seed has a network of its own, measured on images of its own. The variance of a mean over S seeds of M images is
``sd_seed^2 / S + sd_image^2 / (S M)``: more images alone do not lower the first part.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxinfo.archive.means import mean_and_stderr
from onnxinfo.views.power import STANDARD_ERRORS, samples_needed, spread_range

SEEN, UNDECIDED = "seen", "cannot be decided"
REFUTED, OPPOSITE = "refuted at this size", "refuted at this size: the opposite is seen"
#: Images of a single network below which nothing is said about others: their spread is not known.
LEAST_IMAGES = 3
TOO_FEW = f"not judged: fewer than {LEAST_IMAGES} images"
#: Two-sided level of the interval of Student's t within which a direction that is seen is called weak.
LEVEL = 0.95


@dataclass(frozen=True)
class TwoLevel:
    """A mean over training seeds, and what it varies by.

    Attributes
    ----------
    mean
        Mean of the seeds' means.
    over_seeds
        Standard error from the spread of these means, which contains that of the images; NaN for one seed.
    over_images
        Standard error from the spread of the images within each seed alone.
    sd_seed, sd_image
        Standard deviation between training seeds, the images' part taken off and at least 0 (NaN for one seed), and
        between images of one seed, Monte Carlo errors included.
    seeds, images
        Number of seeds, and of images with a value of all seeds together.
    """

    mean: float
    over_seeds: float
    over_images: float
    sd_seed: float
    sd_image: float
    seeds: int
    images: int

    @property
    def stderr(self) -> float:
        """The larger of the two standard errors; that of one seed's images says nothing about other seeds."""
        return math.nan if math.isnan(self.over_seeds) else max(self.over_seeds, self.over_images)


def two_level(values: Sequence[npt.ArrayLike], errors: Sequence[npt.ArrayLike]) -> TwoLevel:
    """Estimate a mean over seeds of means over images.

    Parameters
    ----------
    values, errors
        For each seed the images' values, NaN if there is none, and their Monte Carlo errors. Seeds without a value are
        left out.
    """
    found = [mean_and_stderr(*each) for each in zip(values, errors, strict=True)]
    means, stderrs, numbers = (np.array(each, float) for each in zip(*found, strict=True))
    there = numbers > 0
    # The spread over images is unknown of seeds with one image, and shows in the spread over seeds.
    means, squares, numbers = means[there], np.nan_to_num(stderrs[there]) ** 2, numbers[there]
    mean, between, seeds = mean_and_stderr(means)
    within = squares.sum() / seeds**2
    return TwoLevel(
        mean=float(mean),
        over_seeds=float(between),
        over_images=math.sqrt(within),
        sd_seed=math.sqrt(max(0.0, seeds * (between**2 - within))) if seeds > 1 else math.nan,
        sd_image=math.sqrt(float((squares * numbers).mean())),
        seeds=int(seeds),
        images=int(numbers.sum()),
    )


def seeds_needed(found: TwoLevel, difference: float, images: int) -> tuple[int, int, int]:
    """Return the number of seeds, of so many images each, whose mean differs from 0 by two standard errors.

    Parameters
    ----------
    found
        What the mean varies by.
    difference
        The true mean.
    images
        Number of images of each seed.

    Returns
    -------
    tuple of int
        The number, and its 95 % range: the seeds' spread is an estimate from few seeds.
    """
    spread = math.hypot(found.sd_seed, found.sd_image / math.sqrt(images))
    low, high = (samples_needed(each, difference) for each in spread_range(spread, found.seeds))
    return samples_needed(spread, difference), low, high


def images_needed(found: TwoLevel, difference: float, seeds: int) -> float:
    """Return the number of images of each of so many seeds, infinite if these seeds are too few for any number."""
    left = (difference / STANDARD_ERRORS) ** 2 - found.sd_seed**2 / seeds
    return math.ceil(found.sd_image**2 / (seeds * left) * (1 - 1e-12)) if left > 0 else math.inf


def judge_direction(mean: float, stderr: float, effect: float) -> str:
    """Say whether a mean above 0 is seen; it is refuted if half of the effect is two standard errors above the mean."""
    if mean > STANDARD_ERRORS * stderr:
        return SEEN
    if mean < -STANDARD_ERRORS * stderr:
        return OPPOSITE
    return REFUTED if mean + STANDARD_ERRORS * stderr < effect / 2 else UNDECIDED


def judge_similarity(mean: float, stderr: float, effect: float) -> str:
    """Say whether a mean is closer to 0 than the effect, by two standard errors."""
    if abs(mean) + STANDARD_ERRORS * stderr < effect:
        return SEEN
    return REFUTED if abs(mean) - STANDARD_ERRORS * stderr > effect else UNDECIDED


def is_weak(found: TwoLevel) -> bool:
    """Whether the 95 % interval of Student's t over the seeds contains 0, though two standard errors do not."""
    from scipy.special import stdtrit

    limit = float(stdtrit(found.seeds - 1, (1 + LEVEL) / 2))
    return abs(found.mean) <= limit * found.over_seeds


def with_strength(verdict: str, found: TwoLevel) -> str:
    """Return a verdict on a direction, called weak where it is."""
    return f"{verdict}, weakly" if verdict in (SEEN, OPPOSITE) and is_weak(found) else verdict


def direction_margin(mean: float, effect: float) -> float:
    """Return the largest two standard errors with which :func:`judge_direction` is not undecided."""
    return max(mean, effect / 2 - mean)


def similarity_margin(mean: float, effect: float) -> float:
    """Return the largest two standard errors with which :func:`judge_similarity` is not undecided."""
    return abs(effect - abs(mean))


def wanting(needed: int, here: int, stderr: float, margin: float, what: str = "") -> str:
    """Return what an undecided claim lacks, as text.

    Parameters
    ----------
    needed
        Number of seeds or images that would show half of the effect. If there are so many already, the mean lies close
        to a border of the verdicts, and the number that decides is given, if the mean stays what it is.
    here
        The number of seeds or images that there are.
    stderr
        Standard error of the mean over these.
    margin
        See :func:`direction_margin` and :func:`similarity_margin`.
    what
        What is counted.
    """
    if needed > here:
        return f" here, would need {needed}{what}"
    more = samples_needed(stderr * math.sqrt(here), max(margin, sys.float_info.min))
    return f" here, close to the border: would need {more}{what}"
