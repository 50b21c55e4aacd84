"""A run in sentences, computed from its numbers by the rules in :mod:`onnxinfo.views.sentences`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from ..archive.reading import Run
from ..archive.summary import Summary
from ..arguments import Names
from ..text import printable
from .run_view import RunView
from .selection import Paths, Selection
from .sentences.certainty import certificates, one_sample, unfinished, unreliable
from .sentences.discarding import floor, ignored_units, largest_step, until_where, where_most
from .sentences.facts import Facts
from .sentences.places import columns, image_edges, objects
from .sentences.samples import accuracy, agreement, extremes, misclassified

Rule = Callable[[Facts], Iterator[str]]
#: In the order of the sentences.
RULES: tuple[Rule, ...] = (
    unfinished,
    accuracy,
    unreliable,
    where_most,
    until_where,
    largest_step,
    floor,
    ignored_units,
    image_edges,
    columns,
    objects,
    misclassified,
    extremes,
    agreement,
    certificates,
    one_sample,
)


def summary(path: Paths, run: Names | None = None, *, layers: Names = (), exclude: Names = ()) -> Summary:
    """Say in sentences what the numbers of a run show.

    Each sentence follows from the numbers by a fixed rule and states them. Differences are claimed only beyond their
    95 % confidence interval over the samples, widened for the number of layers among which they were found. Layers in
    which at least half of the cells are unproven or without a value are left out of comparisons, and named.

    Parameters
    ----------
    path
        An archive, a result or a run.
    run
        Name of the run; necessary if the archive has several.
    layers, exclude
        Patterns of :func:`onnxinfo.select_layers`; by default all layers of the run.

    Returns
    -------
    Summary
        The sentences.

    Raises
    ------
    UsageError
        There is no such run or layer, or there are several runs.
    ArchiveError
        The archive cannot be read.

    Examples
    --------
    >>> print(onnxinfo.summary("result.h5"))
    Run digits-cnn: sid of 2 layers on 2 samples.
    ...
    All 4 cells of sid are proven; means of layers are at most ... nats too low.
    """
    selection = Selection.of(path, run=() if run is None else run, layers=layers, exclude=exclude)
    with selection.only_view("a summary is of one run") as view:
        return summarize(view)


def summarize(run: Run | RunView) -> Summary:
    """Return the summary of an open run, or of a part of one."""
    view = RunView(run) if isinstance(run, Run) else run
    return Summary(view.name, [_opening(view), *tell(view)])


def tell(view: RunView, without: Collection[Rule] = ()) -> list[str]:
    """Return the sentences of all rules, except those of some rules."""
    facts = Facts(view)
    return [text for rule in RULES if rule not in without for text in rule(facts)]


def _opening(view: RunView) -> str:
    layers, samples = view.shape
    metrics = ", ".join(metric.name for metric in view.metrics) or "no metric"
    return (
        f"Run {printable(view.name)}: {metrics} of {layers} layer{'s'[: layers != 1]} "
        f"on {samples} sample{'s'[: samples != 1]}."
    )
