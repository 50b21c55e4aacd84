"""How many samples a difference needs: from the spread of paired differences, with the uncertainty of that spread."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any, Unpack

from ..archive.fractions import limits
from ..archive.means import Pairs, pair_up, select_cells
from ..errors import UsageError
from ..text import listed
from .comparable import cautions_of_parts, check_normalizer, incomparable, same_samples, tell_unfinished
from .compare import FRACTIONS, Row, Side, matched, read_sides
from .reading_runs import run_values
from .run_values import RunValues
from .run_view import match_layers
from .selection import Paths, Selected, Selection

logger = logging.getLogger(__name__)

#: Standard errors that a difference must exceed.
STANDARD_ERRORS = 2.0
#: Fewest samples whose spread says something.
FEWEST = 3
#: Largest number of samples that is told apart from larger ones.
MOST = 10**15


def power(
    path: Paths,
    difference: float | None = None,
    *,
    against: str | None = None,
    chance: float = 0.5,
    confidence: float = 0.95,
    **selected: Unpack[Selected],
) -> list[Row]:
    """Estimate how many samples a difference needs to exceed two standard errors.

    Differences are paired over the samples: between two layers of a run, or between two runs in the same layer. Their
    standard deviation s over the samples, Monte Carlo errors included, gives the standard error of a mean over n
    samples, ``s / sqrt(n)``.

    Parameters
    ----------
    path
        An archive, or several. If one run is selected, layers are compared, else the first run with each other one.
    difference
        The difference that is to be shown, in the metric's unit; None: only what the present samples show.
    against
        Of one run: name or pattern of the layer that all others are compared with. Default: each layer with the one
        before it.
    chance
        Probability with which a mean over the needed samples exceeds two standard errors if the true difference is the
        wanted one: half of the time if the wanted difference is two standard errors itself.
    confidence
        Confidence level of the range of the number of samples.
    **selected
        What is compared, see :func:`onnxinfo.query`.

    Returns
    -------
    list of dict
        metric, layer, and other_layer, or run and other; value, the present mean difference (other minus first), and
        stderr, its standard error; spread, the standard deviation s, or if no sample of a fraction such as ``probe``
        differs, its largest value that this allows; n, the present number of samples; shown, the smallest difference
        that these show; with a wanted difference also needed, the number of samples (10^15 stands
        for that and more), low and high, its range, and enough, whether n reaches it; and n_unproven, the number of
        pairs with an unproven value. In the layers' order.

    Raises
    ------
    UsageError
        There are fewer than 3 samples, the runs have different samples or are not comparable, or an argument is out of
        range.
    ArchiveError
        An archive cannot be read.

    Examples
    --------
    >>> run = onnxinfo.analyze("digits-cnn.onnx", "digits.npz:images", "new.h5", layers=["relu", "logits"], limit=3)
    >>> rows = onnxinfo.power(run, 0.05, against="logits", metrics=["sid"])
    >>> [(row["layer"], row["other_layer"], row["needed"] >= 3) for row in rows]
    [('logits', 'relu', True)]
    """
    _check(difference, chance, confidence)
    selection = Selection.of(path, **selected)
    pairs = _pairs(selection, against)
    tell_unfinished(selection)
    cautions_of_parts(selection, {names["metric"] for names, _ in pairs})
    return [_row(names, found, difference, chance, confidence) for names, found in pairs]


def samples_needed(spread: float, difference: float, chance: float = 0.5) -> int:
    """Return the number of samples whose mean exceeds two standard errors with some probability, ``MOST`` at most.

    Parameters
    ----------
    spread
        Standard deviation over samples of the paired difference.
    difference
        The true difference.
    chance
        The probability.

    Raises
    ------
    UsageError
        The difference is not a number above 0.
    """
    _check_difference(difference)
    ratio = _errors(chance) * spread / difference
    # Products overflow to infinity, and powers fail.
    count = ratio * ratio * (1 - 1e-12)
    return max(FEWEST, math.ceil(count)) if count < MOST else MOST


def fraction_spread_range(pairs: Pairs, confidence: float = 0.95) -> tuple[float, float]:
    """Return the confidence interval of the standard deviation of differences that are -1, 0 or 1.

    It follows from the limits of the fraction of samples that differ.
    """
    # The mean of squares is that fraction, and the variance is less by the square of the mean.
    square = (pairs.stderr**2 * (pairs.n - 1)) + pairs.difference**2
    shares = limits(round(square * pairs.n), pairs.n, (1 - confidence) / 2)
    least, largest = (math.sqrt(max(share - pairs.difference**2, 0.0)) for share in shares)
    return least, largest


def spread_range(spread: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the confidence interval of a standard deviation that was estimated from n normal values."""
    # Imported here because most code that reads archives does not need it.
    from scipy.special import gammainccinv, gammaincinv

    tail, freedom = (1 - confidence) / 2, n - 1
    # Quantiles of chi-square by the size of the tail above or below, which is exact for the smallest.
    largest, least = (2 * float(quantile(freedom / 2, tail)) for quantile in (gammainccinv, gammaincinv))
    return spread * math.sqrt(freedom / largest), spread * math.sqrt(freedom / least)


def _errors(chance: float) -> float:
    """Return the number of standard errors that the true difference must be."""
    from scipy.special import ndtri

    return STANDARD_ERRORS + float(ndtri(chance))


def _check_difference(difference: float) -> None:
    if not (math.isfinite(difference) and difference > 0):
        raise UsageError(f"difference={difference:g}: a number above 0 expected, in the metric's unit")


def _check(difference: float | None, chance: float, confidence: float) -> None:
    if difference is not None:
        _check_difference(difference)
    for name, value, least in (("chance", chance, 0.5), ("confidence", confidence, 0.0)):
        if not (least <= value < 1 and value > 0):
            raise UsageError(
                f"{name}={value:g}: a number from {least:g} to below 1 expected, such as {least or 0.95:g}"
            )


def _pairs(selection: Selection, against: str | None) -> list[tuple[Row, Pairs]]:
    count = sum(1 for _ in selection.views())
    if count == 1:
        with selection.only_view("power compares layers of one run") as view:
            _check_samples(view.name, view.shape[1])
            runs = [run_values(view, metric.name) for metric in view.metrics]
        found = [each for values in runs for each in _between_layers(values, against)]
    elif against is not None:
        raise UsageError("against=... compares layers of one run, and there are several; name one with run=...")
    else:
        found = [*_between_runs(selection)]
    usable = [(names, pairs) for names, pairs in found if pairs.n >= FEWEST]
    if left := [f"{names['metric']} of {names['layer']}" for names, pairs in found if pairs.n < FEWEST]:
        logger.warning("left out, for lack of %d samples with values: %s", FEWEST, listed(left))
    if not usable:
        raise UsageError("there is nothing to compare: two layers or runs are needed that share 3 samples with values")
    return usable


def _check_samples(run: str, samples: int) -> None:
    if samples < FEWEST:
        raise UsageError(
            f"run '{run}' has {samples} {'sample' if samples == 1 else 'samples'}, from which no spread can be "
            f"estimated; analyze at least {FEWEST}"
        )


def _between_layers(run: RunValues, against: str | None) -> Iterator[tuple[Row, Pairs]]:
    places = range(len(run.layers))
    pairs = [(i, i + 1) for i in places[:-1]]
    if against is not None:
        fixed = match_layers(run.layers, [against])
        if len(fixed) > 1:
            raise UsageError(f"against={against!r} matches {len(fixed)} layers; name one")
        pairs = [(fixed[0], i) for i in places if i != fixed[0]]
    for i, j in pairs:
        one, two = run.layers[i].name, run.layers[j].name
        check_normalizer(run, one, run, two)
        found = pair_up(select_cells(run.values, i), select_cells(run.values, j))
        yield {"metric": run.metric.name, "layer": one, "other_layer": two}, found


def _between_runs(selection: Selection) -> Iterator[tuple[Row, Pairs]]:
    first, *others = read_sides(selection)
    for other in others:
        _check_sides(first, other)
        for name in [each for each in first.metrics if each in other.metrics]:
            one, two = first.metrics[name], other.metrics[name]
            for i, j in matched(one, two, "layer"):
                layer = one.layers[i].name
                check_normalizer(one, layer, two, layer)
                found = pair_up(select_cells(one.values, i), select_cells(two.values, j))
                yield {"metric": name, "layer": layer, "run": first.title, "other": other.title}, found


def _check_sides(first: Side, other: Side) -> None:
    pair = f"runs '{first.title}' and '{other.title}'"
    if not same_samples(first.measured, other.measured):
        raise UsageError(
            f"{pair} have different samples, and differences are paired over them; analyze both on the same"
        )
    if found := incomparable(first.measured, other.measured, first.metrics.keys() & other.metrics.keys()):
        raise UsageError(f"{pair} cannot be compared: {found}; analyze both alike")
    _check_samples(first.title, len(first.measured.samples))


def _row(names: Row, pairs: Pairs, wanted: float | None, chance: float, confidence: float) -> Row:
    spread = pairs.stderr * math.sqrt(pairs.n)
    spreads = spread_range(spread, pairs.n, confidence)
    if names["metric"] in FRACTIONS:
        spreads = fraction_spread_range(pairs, confidence)
        spread = spread or spreads[1]
    row: dict[str, Any] = {
        **names,
        "value": pairs.difference,
        "stderr": pairs.stderr,
        "spread": spread,
        "n": pairs.n,
        "shown": _errors(chance) * spread / math.sqrt(pairs.n),
    }
    if wanted is not None:
        needed = samples_needed(spread, wanted, chance)
        low, high = (samples_needed(each, wanted, chance) for each in spreads)
        row |= {"needed": needed, "low": low, "high": high, "enough": pairs.n >= needed}
    return row | {"n_unproven": pairs.n_unproven}
