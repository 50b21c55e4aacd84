"""Check that runs measure the same quantity, so that they may be shown side by side."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from ..archive.format import TOGETHER
from ..archive.means import limited_by_rounding, sound_alpha
from ..config import as_setting
from ..errors import UsageError
from ..text import alpha_name, printable
from .run_values import RunValues
from .run_view import RunView
from .selection import Selection
from .wording import rounded_up

logger = logging.getLogger(__name__)

FLOAT, QUANTIZED = "float", "quantised"
#: Settings that may differ: the quantity stays the same with other noise, another solver or another network.
_FREE = frozenset(
    {"model_sha256", "samples_sha256", "seed", "solver", "noise_precision", "perturbed", "forward_layers"}
)
#: Metrics whose definition has a budget; their values are logarithms of noise in units of the input.
WITH_BUDGET = frozenset({"sid", "ru", "concentration"})
#: Metrics whose values do not refer to the input's standard deviation.
FREE_OF_UNITS = frozenset({"gradient", "gradcam", "cam", "sensitivity", "cka", "vinfo", "probe"})
#: Settings of the noise, and metrics that are known not to depend on it.
_OF_NOISE = frozenset({"alpha", "normalizer", "budget", "tie", "cap"})
_FREE_OF_NOISE = FREE_OF_UNITS | {"robustness"}
#: Metrics of values in the network, whichever input would get noise.
_FREE_OF_INPUT = frozenset({"sensitivity", "cka", "vinfo", "probe"})
#: Metrics about the samples' labels.
_OF_LABELS = frozenset({"vinfo", "probe"})
_QUANTIZED_OPERATORS = ("QLinear", "QGemm", "ConvInteger", "MatMulInteger")


def check_precision(runs: Sequence[RunValues]) -> None:
    """Refuse to show runs of different precision side by side if the budget is below rounding.

    In that case the value measures the sensitivity of rounding instead of what the layer discards, and the quantized
    network would seem to discard less. Every view of several runs calls this.

    Parameters
    ----------
    runs
        Runs, of one or several metrics.

    Raises
    ------
    UsageError
        Two runs have different precision (float, or quantized in one format or another), and one of them has cells
        marked ``resolution``.
    """
    for one, two in combinations(runs, 2):
        classes = precision_class(one), precision_class(two)
        limited = [(each, int(limited_by_rounding(each.values).sum())) for each in (one, two)]
        worst, cells = max(limited, key=lambda found: found[1])
        if classes[0] == classes[1] or not cells:
            continue
        raise UsageError(
            f"runs '{one.name}' ({classes[0]}) and '{two.name}' ({classes[1]}) cannot be laid side by side: "
            f"{cells} cells of '{worst.name}' lie below the network's own rounding{_alpha(worst)}; "
            f"analyze both with {_advice((one, two))}, or the quantized one without its rounding (dequantize)"
        )


def check_comparable(runs: Sequence[RunValues]) -> None:
    """Refuse to lay runs side by side that measure different quantities. Every view of several runs calls this.

    Runs that differ in another setting, such as the preprocessing, are shown with a caution; see :func:`caution_of`.

    Parameters
    ----------
    runs
        Runs of one metric.

    Raises
    ------
    UsageError
        The runs differ in precision, see :func:`check_precision`, or in what a layer's budget is relative to.
    """
    check_precision(runs)
    for one, two in combinations(runs, 2):
        names = {row.name for row in two.layers}
        shared = [(row.name, row.name) for row in one.layers if row.name in names]
        # Runs that share no layer are laid side by side as a whole; one without any finished layer has none to compare.
        first = [(a.name, b.name) for a, b in zip(one.layers[:1], two.layers[:1], strict=False)]
        for layer, other in shared or first:
            check_normalizer(one, layer, two, other)


@dataclass(frozen=True)
class Measured:
    """What the numbers of a run depend on.

    Attributes
    ----------
    name
        Name of the run.
    recipe
        Its settings.
    unit
        Standard deviation of the input, the unit of sigma.
    metrics
        Names of its metrics.
    samples, labels
        Names of its samples, and their labels, empty without.
    """

    name: str
    recipe: Mapping[str, Any]
    unit: npt.NDArray[np.float64]
    metrics: frozenset[str]
    samples: tuple[str, ...] = ()
    labels: tuple[str | int, ...] = ()

    @classmethod
    def of(cls, view: RunView, title: str = "") -> Measured:
        """Read it from the view of a run; the title is shown instead of its name."""
        names = frozenset(metric.name for metric in view.run.metrics)
        samples, labels = tuple(view.sample_names), tuple(view.labels or ())
        return cls(title or printable(view.name), dict(view.run.recipe), view.run.unit, names, samples, labels)

    @property
    def is_named_by_alpha(self) -> bool:
        """Whether the name says the run's alpha, like that of a run of a sweep."""
        alpha = self.recipe.get("alpha")
        return isinstance(alpha, int | float) and alpha_name(alpha) in self.name.split()


def caution_of(
    selection: Selection, metrics: Collection[str] = (), free: Collection[str] = (), *, runs_are_named: bool = True
) -> str:
    """Return in words what is wrong with the numbers of runs as they are shown, also as a warning; empty if nothing is.

    That is that runs are not comparable, or that a metric of all samples together is shown of some. Every view shows
    this: figures, tables and reports. Runs that differ in alpha alone and whose names say so, such as those of a sweep,
    need no caution where they are named.

    Parameters
    ----------
    selection
        The runs.
    metrics
        The metrics that are shown; none: all that two runs share.
    free
        Settings that may differ.
    runs_are_named
        Whether each value is shown with the name of its run.
    """
    cautions = [*cautions_of_parts(selection, metrics), *_of_pairs(selection, metrics, free, runs_are_named)]
    return "; ".join(cautions)


def cautions_of_parts(selection: Selection, metrics: Collection[str]) -> list[str]:
    """Say that a metric of all samples together is shown of some, also as a warning; see :func:`caution_of`."""
    titles, found = selection.titles(), []
    for view, source in selection.views():
        for name in sorted(TOGETHER.intersection(metrics or TOGETHER, (each.name for each in view.metrics))):
            done = view.run.shape[1] - view.lacking(name)
            if view.run.shape[1] > (least := int(done[done > 0].min(initial=view.run.shape[1]))):
                text = together_caution(name, titles[source, view.name], view.run.shape[1], f"{least} of them")
                logger.warning("%s", text)
                found.append(text)
    return found


def tell_unfinished(selection: Selection, metrics: Collection[str] = ()) -> None:
    """Warn of samples that are not finished, and are left out of means and comparisons.

    Parameters
    ----------
    selection
        The runs.
    metrics
        The metrics that are shown; none: all.
    """
    titles = selection.titles()
    for view, source in selection.views():
        lacking = {each.name: int((~view.values(each.name)["done"]).sum()) for each in view.metrics}
        found = [f"{count} of {name}" for name, count in lacking.items() if count and (not metrics or name in metrics)]
        if found:
            title = titles[source, view.name]
            logger.warning("run '%s' is unfinished, and its lacking cells are left out: %s", title, ", ".join(found))


def together_caution(metric: str, run: str, samples: int, shown: str) -> str:
    """Say that a metric of all samples of a run together is shown of some."""
    return (
        f"caution, {metric} of run '{run}' is of all its {samples} samples together, and shown of {shown}: this is no "
        f"{metric} of these, nor a reliable estimate of the whole"
    )


def _of_pairs(
    selection: Selection, metrics: Collection[str], free: Collection[str], runs_are_named: bool
) -> Iterator[str]:
    """Say that two runs are not comparable, and why."""
    titles = selection.titles()
    found = [Measured.of(view, titles[source, view.name]) for view, source in selection.views()]
    for one, two in combinations(found, 2):
        shared = one.metrics & two.metrics
        shown = shared & {*metrics} if metrics else shared
        told = ["alpha"] if runs_are_named and one.is_named_by_alpha and two.is_named_by_alpha else []
        if shown and (difference := incomparable(one, two, shown, [*free, *told])):
            text = f"caution, runs '{one.name}' and '{two.name}' are not comparable: {difference}"
            logger.warning("%s; values may differ for this reason alone", text)
            yield text
            return


def incomparable(one: Measured, two: Measured, metrics: Collection[str], free: Collection[str] = ()) -> str:
    """Return in words why numbers of two runs are not comparable; empty if they are.

    Parameters
    ----------
    one, two
        The runs.
    metrics
        The metrics that are compared; settings of others may differ.
    free
        Settings that may differ, too.
    """
    return (
        differing_recipe(one, two, metrics, free)
        or differing_labels(one, two, metrics)
        or differing_unit(one, two, metrics)
    )


def same_samples(one: Measured, two: Measured) -> bool:
    """Return whether two runs have the same samples, which can be paired."""
    digests = [each.recipe.get("samples_sha256") for each in (one, two)]
    return bool(digests[0] == digests[1] and one.samples == two.samples)


def differing_labels(one: Measured, two: Measured, metrics: Collection[str]) -> str:
    """Return in words that labels of two runs answer other questions; empty if not, or if no metric has them.

    The same samples must have the same labels; different samples may have different ones, but not of other classes
    altogether.
    """
    concerned = sorted(_OF_LABELS.intersection(metrics))
    if not concerned or one.labels == two.labels:
        return ""
    about = f", which {' and '.join(concerned)} {_are(concerned)} about"
    if same_samples(one, two):
        return f"the same samples have other labels{about}"
    return f"their labels have no class in common{about}" if {*one.labels}.isdisjoint(two.labels) else ""


def _are(names: Collection[str]) -> str:
    return "is" if len(names) == 1 else "are"


def differing_recipe(one: Measured, two: Measured, metrics: Collection[str], free: Collection[str] = ()) -> str:
    """Return in words how the settings of two runs differ; empty if they do not. See :func:`incomparable`."""
    inputs = [each.recipe.get("perturbed") for each in (one, two)]
    concerns = not _FREE_OF_INPUT.issuperset(metrics)
    if concerns and inputs[0] != inputs[1] and any(isinstance(each, list) for each in inputs):
        names = [", ".join(map(str, each)) if isinstance(each, list) else str(each) for each in inputs]
        return f"noise was added to {printable(names[0])} in one and to {printable(names[1])} in the other"
    kept = [{key: value for key, value in each.recipe.items() if key not in free} for each in (one, two)]
    return differing_setting(kept[0], kept[1], metrics)


def differing_unit(one: Measured, two: Measured, metrics: Collection[str]) -> str:
    """Return in words that the inputs of two runs have different units; empty if not, or if no metric has them."""
    alike = one.unit.size == two.unit.size and np.allclose(one.unit.ravel(), two.unit.ravel(), rtol=1e-3)
    if alike or FREE_OF_UNITS.issuperset(metrics):
        return ""
    return "their inputs have different units (standard deviations)"


def unit_shift(one: Measured, two: Measured, metric: str) -> float:
    """Return by how much the values of a metric differ at most because the runs' inputs have different units.

    In nats, and to first order, for metrics with a budget. If the units change by the factors r_i, log sigma moves by
    at most the range of log r_i, 0 included: where the budget is relative to the network's own deviation, a common
    factor cancels; where it is absolute, log sigma moves by -log r_i. Infinite for inputs of other sizes.
    """
    if metric not in WITH_BUDGET:
        return 0.0
    if one.unit.size != two.unit.size:
        return math.inf
    change = np.log(two.unit.ravel() / one.unit.ravel())
    return float(max(change.max(), 0.0) - min(change.min(), 0.0))


def differing_setting(one: Mapping[str, Any], two: Mapping[str, Any], metrics: Collection[str]) -> str:
    """Return the first setting that two recipes give different values, in words; empty if there is none.

    Parameters
    ----------
    one, two
        Recipes of two runs.
    metrics
        Metrics that are compared; settings of others may differ.
    """
    keys = {key for key in one.keys() & two.keys() if _metric_of(key) in (None, *metrics)} - _FREE
    keys -= _OF_NOISE if _FREE_OF_NOISE.issuperset(metrics) else frozenset()
    # Where normalizers differ, alphas differ because of that.
    for key in sorted(keys, key=lambda each: (each != "normalizer", each)):
        if one[key] != two[key]:
            if isinstance(one[key], Mapping) and isinstance(two[key], Mapping):
                return f"{as_setting(key, '')[0]} differs: {_differing_part(one[key], two[key])}"
            (name, first), (_, second) = (as_setting(key, each[key]) for each in (one, two))
            return f"{name} is {printable(str(first))} in one and {printable(str(second))} in the other"
    return ""


def _differing_part(one: Mapping[str, Any], two: Mapping[str, Any]) -> str:
    """Return the first entry of a setting, such as a step of the preprocessing, that differs, in words."""
    key = next(name for name in [*one, *two] if one.get(name) != two.get(name))
    first, second = ("none" if each.get(key) is None else printable(str(each[key])) for each in (one, two))
    return f"{printable(key)} is {first} in one and {second} in the other"


def _metric_of(key: str) -> str | None:
    """Return the metric that a recipe entry concerns; None if it concerns all."""
    if "foreground" in key:
        return "concentration"
    return next((metric for metric in ("ru", "sensitivity", "cka", "vinfo") if key.startswith(f"{metric}_")), None)


def check_normalizer(one: RunValues, layer: str, two: RunValues, other: str) -> None:
    """Refuse to compare a layer of one run with one of another run if their budgets are relative to different things.

    Raises
    ------
    UsageError
        They are: the values are about different amounts of noise.
    """
    found = normalizer_of(one, layer), normalizer_of(two, other)
    if found[0] != found[1] and all(found):
        raise UsageError(
            f"layer '{printable(layer)}' of run '{one.name}' and '{printable(other)}' of '{two.name}' cannot be "
            f"compared: the budget of one is relative to {found[0]}, that of the other to {found[1]}; analyze both "
            f"with the same normalize_by or budget, such as normalize_by='feature'"
        )


def precision_class(run: RunValues) -> str:
    """Return whether a run is of a ``float`` or a ``quantised`` network, and the quantization format.

    Taken from its provenance (``precision`` and ``quantisation``); for older runs inferred from their layers'
    operators, else from whether rounding limits their cells.
    """
    recorded = run.provenance.get("precision")
    if isinstance(recorded, str):
        quantization = run.provenance.get("quantisation")
        return printable(f"{recorded}, {quantization}" if quantization else recorded)
    quantized = any(row.op.startswith(_QUANTIZED_OPERATORS) for row in run.layers)
    return QUANTIZED if quantized or limited_by_rounding(run.values).any() else FLOAT


_RELATIVE_TO = {
    "dataset": "D averaged over the samples",
    "image": "each sample's D",
    "feature": "the feature's variance",
    "absolute": "nothing (absolute)",
}


def normalizer_of(run: RunValues, layer: str) -> str:
    """Return in words what the budget of a run's layer is relative to; empty for a metric without a budget."""
    if run.metric.name not in WITH_BUDGET:
        return ""
    word = "feature" if is_apart(run, layer) else run.recipe.get("normalizer")
    return _RELATIVE_TO.get(word, printable(str(word))) if isinstance(word, str) else ""


def is_apart(run: RunValues, layer: str) -> bool:
    """Return whether a layer's budget is relative to the feature's variance although that of the run is not.

    No gradient reaches such layers, see ``forward_layers`` in docs/format.md. If the run's budget is itself relative to
    that variance, or absolute, they share it.
    """
    apart = run.recipe.get("forward_layers")
    alike = run.recipe.get("normalizer") in ("feature", "absolute")
    return isinstance(apart, list | tuple) and layer in apart and run.metric.name in WITH_BUDGET and not alike


def split_apart(run: RunValues) -> list[RunValues]:
    """Split a run into one or two runs, separating layers whose budget has a different normalizer."""
    apart = np.array([is_apart(run, row.name) for row in run.layers], dtype=bool)
    if not apart.any():
        return [run]
    parts = []
    for chosen, name in ((~apart, run.name), (apart, f"{run.name}, without gradients")):
        layers = tuple(row for row, there in zip(run.layers, chosen, strict=True) if there)
        values = {key: numbers[chosen] for key, numbers in run.values.items()}
        recipe = run.recipe if name == run.name else run.recipe | {"normalizer": "feature"}
        parts.append(dataclasses.replace(run, name=name, layers=layers, values=values, recipe=recipe))
    return [part for part in parts if part.layers]


def _alpha(run: RunValues) -> str:
    alpha = run.recipe.get("alpha")
    return f" at alpha {alpha:g}" if isinstance(alpha, int | float) else ""


def _advice(runs: Sequence[RunValues]) -> str:
    """Return advice on alpha: the smallest that is sound for all cells of all runs, if recorded."""
    found = [sound_alpha(run.values) for run in runs]
    largest = max((alpha for alpha in found if not math.isnan(alpha)), default=math.nan)
    return f"an alpha of at least {rounded_up(largest)}" if math.isfinite(largest) else "a larger alpha"
