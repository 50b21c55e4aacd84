"""Cells of the networks of several training seeds: means over layers, differences between networks, and their errors.

A table of cells has a row for each seed, network, layer and image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas

from .two_level import TwoLevel, two_level


def cells(found: pandas.DataFrame, network: str, layers: Sequence[str] = ()) -> pandas.DataFrame:
    """Return the mean over layers for each seed and image: value, stderr, and whether all are proven.

    An image without a value in one of the layers has none.
    """
    chosen = found[found.network == network]
    chosen = chosen[chosen.layer.isin(layers)] if layers else chosen
    by_image = chosen.assign(square=chosen.stderr**2).groupby(["seed", "image"])
    table = pandas.DataFrame({"value": by_image.value.mean(), "proven": by_image.converged.all()})
    table["stderr"] = by_image.square.sum() ** 0.5 / by_image.size()
    table.loc[by_image.value.count() < by_image.size(), "value"] = math.nan
    return table


def difference(first: pandas.DataFrame, second: pandas.DataFrame) -> pandas.DataFrame:
    """Return second minus first, image by image; proven if both are."""
    return pandas.DataFrame(
        {
            "value": second.value - first.value,
            "stderr": np.hypot(first.stderr, second.stderr),
            "proven": first.proven & second.proven,
        }
    )


def over_seeds(table: pandas.DataFrame) -> TwoLevel:
    """Return the mean over the seeds of a table of images."""
    by_seed = [each for _, each in table.groupby("seed")]
    return two_level([each.value for each in by_seed], [each.stderr for each in by_seed])


def unproven(table: pandas.DataFrame) -> str:
    """Return how many of the values are unproven."""
    there = table.value.notna()
    return f"{int((there & ~table.proven).sum())} of {int(there.sum())}"


def unproven_fraction(table: pandas.DataFrame) -> float:
    """Return which fraction of the values is unproven."""
    return float((~table.proven[table.value.notna()]).mean())


def layers_of(found: pandas.DataFrame, network: str) -> list[str]:
    """Return a network's layers, in order."""
    return [*dict.fromkeys(found[found.network == network].layer)]


def rise(found: pandas.DataFrame, network: str) -> float:
    """Return a network's rise of SID from its first layer to its last."""
    layers = layers_of(found, network)
    return over_seeds(difference(*(cells(found, network, (layers[i],)) for i in (0, -1)))).mean


def with_error(found: TwoLevel, form: str) -> str:
    """Return a mean and its standard error over seeds as text."""
    return f"{found.mean:{form}} ± {found.over_seeds:.3f}"
