"""Judge a comparison of runs against thresholds: which differences lie beyond them, and beyond their errors."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal, Unpack

import numpy as np
import numpy.typing as npt

from .. import __version__
from ..archive.format import TOGETHER
from ..archive.means import Cells, select_cells, unproven
from ..arguments import Names, names_of
from ..errors import UsageError
from ..text import no_such, printable
from .canvas import Canvas
from .compare import Match, Row, Side, check_sides, differences, each_input, matched, read_sides
from .drawn import Drawn
from .fractions import fraction_interval
from .gate_figure import draw_verdict
from .reading_runs import metric_label
from .run_view import match_layers
from .selection import Paths, Selected, Selection

logger = logging.getLogger(__name__)

#: Quantities beside the metrics: fraction of samples that are classified as labeled, and fraction of unproven cells.
ACCURACY, UNPROVEN = "accuracy", "unproven"
FAILED: Final = "failed"
PASSED: Final = "passed"
UNDECIDED: Final = "undecided"
INCOMPLETE: Final = "incomplete"
Status = Literal["failed", "passed", "undecided", "incomplete"]

_CONDITION = re.compile(
    r"\s*(?P<quantity>[^:<>]+?)\s*(?::(?P<layers>.+?))?\s*(?P<beyond>[<>])\s*"
    r"(?P<threshold>[+-]\s*(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*"
)
_FORM = "expected QUANTITY:LAYERS>+NUMBER or QUANTITY:LAYERS<-NUMBER, such as 'sid:relu_18>+0.05' or 'accuracy<-0.01'"


@dataclass(frozen=True)
class Condition:
    """A condition on a difference, other run minus first run, under which a comparison fails.

    Attributes
    ----------
    text
        As written, such as ``sid:relu_18>+0.05``.
    quantity
        A metric, ``accuracy`` or ``unproven``.
    layers
        A name or pattern of layers; empty: all.
    beyond
        ``>``, larger differences fail; ``<``, smaller ones do.
    threshold
        The largest, or smallest, difference that does not fail.
    """

    text: str
    quantity: str
    layers: str
    beyond: Literal["<", ">"]
    threshold: float

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read a condition.

        Raises
        ------
        UsageError
            The text is not a condition.
        """
        found = _CONDITION.fullmatch(text)
        if found is None:
            signed = re.search(r"[<>]=?\s*[\d.]", text)
            why = "the threshold is a difference and needs a sign; " if signed else ""
            raise UsageError(f"fail_if={text!r}: {why}{_FORM}")
        if found["quantity"] == ACCURACY and found["layers"]:
            raise UsageError(f"fail_if={text!r}: accuracy is of the network, not of a layer; leave out ':LAYERS'")
        beyond: Any = found["beyond"]
        threshold = float(found["threshold"].replace(" ", ""))
        if not math.isfinite(threshold):
            raise UsageError(f"fail_if={text!r}: the threshold is too large for a float; {_FORM}")
        return cls(text.strip(), found["quantity"], found["layers"] or "", beyond, threshold)

    def judge(self, low: float, high: float) -> Status:
        """Judge a confidence interval: failed beyond the threshold as a whole, undecided if it contains it."""
        if not (math.isfinite(low) and math.isfinite(high)):
            return UNDECIDED
        bad, good = (low > self.threshold, high <= self.threshold)
        if self.beyond == "<":
            bad, good = (high < self.threshold, low >= self.threshold)
        return FAILED if bad else PASSED if good else UNDECIDED


@dataclass(frozen=True)
class Outcome:
    """Outcome of one condition for one layer.

    Attributes
    ----------
    condition
        As written.
    quantity, layer
        What was compared: a metric, ``unproven (METRIC)`` or ``accuracy``, which has no layer.
    run, other
        Names of the runs.
    difference, low, high
        Mean of other minus run, with its confidence interval; NaN where unknown.
    threshold
        See :class:`Condition`.
    n
        Number of samples.
    status
        ``failed``: the whole interval lies beyond the threshold; ``passed``: no part of it does; ``undecided``: a part
        does, or the interval is unknown; ``incomplete``: it did not fail, and a run has unfinished samples there, lacks
        the layer, or has no value for samples of which the other run has one.
    unfinished
        Number of the layer's unfinished samples, in the run that has more of them.
    lost
        Number of samples that have a value in one run only; see ``n_lost`` of :func:`onnxinfo.compare`.
    input
        Name of the perturbed input that it is about; empty for all together.
    """

    condition: str
    quantity: str
    layer: str
    run: str
    other: str
    difference: float
    low: float
    high: float
    threshold: float
    n: int
    status: Status
    unfinished: int = 0
    lost: int = 0
    input: str = ""


@dataclass(frozen=True)
class Verdict(Drawn):
    """Result of :func:`onnxinfo.gate`.

    :meth:`plot` draws the differences with their intervals beside the thresholds, a panel for each quantity.

    Attributes
    ----------
    outcomes
        One per condition, layer and other run.
    confidence
        Confidence that no condition fails by chance, shared by all outcomes.
    missing
        Layers of the first run that a condition is about and another run does not have.

    Examples
    --------
    >>> verdict = onnxinfo.gate(["result.h5", "pruned.h5"], ["sid:logits>+10"])
    >>> verdict.passed, verdict.outcomes[0].status
    (True, 'passed')
    """

    outcomes: tuple[Outcome, ...]
    confidence: float
    missing: tuple[str, ...] = ()
    _labels: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def passed(self) -> bool:
        """Whether no condition failed or is incomplete."""
        return not any(outcome.status in (FAILED, INCOMPLETE) for outcome in self.outcomes)

    @property
    def incomplete(self) -> bool:
        """Whether no condition failed, and one is incomplete."""
        found = {outcome.status for outcome in self.outcomes}
        return INCOMPLETE in found and FAILED not in found

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-compatible values; NaN is None."""
        rows = [
            {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
            for row in map(asdict, self.outcomes)
        ]
        known = (FAILED, PASSED, UNDECIDED, INCOMPLETE)
        counts = {status: sum(row["status"] == status for row in rows) for status in known}
        return {
            "passed": self.passed,
            "counts": counts,
            "confidence": self.confidence,
            "missing_layers": list(self.missing),
            "outcomes": rows,
            "onnxinfo": __version__,
        }

    def _draw(self, canvas: Canvas) -> None:
        rows = [asdict(each) | {"beyond": Condition.parse(each.condition).beyond} for each in self.outcomes]
        note = f"bars: intervals at a confidence of {self.confidence:g}, shared by all comparisons"
        draw_verdict(canvas, rows, labels=self._labels, title=str(self), note=note)

    def __str__(self) -> str:
        """Say what failed, or that nothing did."""
        failed = [outcome for outcome in self.outcomes if outcome.status == FAILED]
        undecided = sum(outcome.status == UNDECIDED for outcome in self.outcomes)
        if self.incomplete:
            return self._what_is_incomplete()
        if not failed:
            return f"no condition failed ({undecided} of {len(self.outcomes)} undecided)"
        worst = max(failed, key=lambda each: abs(each.difference - each.threshold))
        where = f" at layer '{worst.layer}'" if worst.layer else ""
        interval = f"{worst.difference:+.3g}, interval {worst.low:+.3g} to {worst.high:+.3g}"
        of = f"{len(failed)} of {len(self.outcomes)} comparisons failed"
        return printable(f"{of}; '{worst.condition}'{where}: {interval}")

    def _what_is_incomplete(self) -> str:
        found = [outcome for outcome in self.outcomes if outcome.status == INCOMPLETE]
        worst = max(found, key=lambda each: (each.unfinished, each.lost))
        where = f" at layer '{worst.layer}'" if worst.layer else ""
        of = f"{len(found)} of {len(self.outcomes)} comparisons are incomplete"
        advice = "judge what both runs have with incomplete=True"
        if worst.unfinished:
            why = f"{worst.unfinished} samples are unfinished"
            advice = "finish the analysis" + ("" if worst.quantity in TOGETHER else f", or {advice}")
        elif worst.lost:
            why = f"{worst.lost} samples have a value in one run only"
        else:
            why, advice = f"run '{worst.other}' has no value", f"analyze the layer, or {advice}"
        return printable(f"{of}; '{worst.condition}'{where}: {why}; {advice}")


def gate(
    path: Paths,
    fail_if: Names,
    *,
    by: Match = "layer",
    unpaired: bool = False,
    confidence: float = 0.95,
    incomplete: bool = False,
    **selected: Unpack[Selected],
) -> Verdict:
    """Judge whether runs differ from the first one by more than given thresholds, beyond their errors.

    A condition fails only if the whole confidence interval lies beyond its threshold. The confidence is shared by all
    comparisons (Bonferroni), so that runs that do not differ beyond their thresholds fail by chance in at most
    ``1 - confidence`` of the cases, however many layers are compared.

    Intervals of metrics are those of :func:`onnxinfo.compare`. Those of fractions are differences of Clopper and
    Pearson's exact limits, which hold for few samples and at any confidence: if paired, of the fractions of samples
    that gain and lose the event, otherwise of the fractions of both runs.

    Parameters
    ----------
    path
        An archive, or several.
    fail_if
        One or several conditions on the difference, other run minus first run: ``sid:relu_18>+0.05`` fails if the SID
        of layer relu_18 rises by more than 0.05 nats, ``sid:relu_*<-0.1`` if it falls by more than 0.1 in a layer that
        matches; any metric, and patterns of :func:`onnxinfo.select_layers`, without layers all of them.
        ``unproven:logits>+0.1`` is about the fraction of unproven cells, ``accuracy<-0.01`` about the fraction of
        samples classified as labeled.
    by, unpaired, confidence, **selected
        See :func:`onnxinfo.compare`.
    incomplete
        Judge runs by the samples that have a value in both, and leave out layers that only one has. By default a
        condition about others that does not fail is incomplete. Metrics of all samples together, such as ``cka``, are
        incomplete in any case.

    Returns
    -------
    Verdict
        The outcomes; :attr:`Verdict.passed` if none failed and all are complete.

    Raises
    ------
    UsageError
        A condition cannot be read, its metric or layer does not exist or has no value in either run, accuracy is asked
        for without labels, or the runs are not comparable.
    ArchiveError
        An archive cannot be read.

    Examples
    --------
    >>> verdict = onnxinfo.gate(["result.h5", "pruned.h5"], ["sid:logits>+0.5", "unproven>+0.5"])
    >>> sorted({outcome.quantity for outcome in verdict.outcomes})
    ['sid', 'unproven (sid)']
    """
    selection = Selection.of(path, **selected)
    conditions = [Condition.parse(text) for text in names_of(fail_if, "fail_if")]
    if not conditions:
        raise UsageError(f"fail_if has no condition; {_FORM}")
    if not 0 < confidence < 1:
        raise UsageError(f"confidence={confidence}: a number between 0 and 1 expected, such as 0.95")
    pairs = _pairs(selection, conditions, unpaired)
    # The number of comparisons sets the confidence of each.
    count = sum(len(rows) for _, rows, _ in _measured(conditions, pairs, by, confidence))
    each = 1 - (1 - confidence) / max(count, 1)
    outcomes: list[Outcome] = []
    missing: dict[str, None] = {}
    for condition, rows, absent in _measured(conditions, pairs, by, each):
        outcomes += [_outcome(condition, row, incomplete) for row in rows]
        outcomes += [] if incomplete else [_not_there(condition, row) for row in absent if row["must"]]
        missing |= dict.fromkeys(row["layer"] for row in absent)
    if missing:
        logger.warning("conditions do not cover layers that only one run has: %s", printable(", ".join(missing)))
    sides = [side for pair in pairs for side in (pair.first, pair.other)]
    labels = {name: metric_label(found.metric) for side in sides for name, found in side.metrics.items()}
    return Verdict(tuple(outcomes), confidence, tuple(missing), labels)


@dataclass(frozen=True)
class _Pair:
    """Two runs to compare, in one input's values or in those of all together."""

    first: Side
    other: Side
    paired: bool
    input: str = ""

    @property
    def named(self) -> Row:
        return {"run": self.first.title, "other": self.other.title, "input": self.input}


def _pairs(selection: Selection, conditions: Sequence[Condition], unpaired: bool) -> list[_Pair]:
    """Return the first run with each other one, for each of the inputs that are compared one by one."""
    quantities = {condition.quantity for condition in conditions}
    metrics = None if UNPROVEN in quantities else quantities
    pairs = []
    chosen = [condition for condition in conditions if condition.quantity in TOGETHER]
    if chosen and (selection.samples or selection.labels):
        what = chosen[0].quantity
        raise UsageError(
            f"fail_if={chosen[0].text!r}: {what} is of all of a run's samples together; leave out samples=... and "
            f"labels=..."
        )
    for name, part in each_input(selection):
        first, *others = read_sides(part)
        pairs += [_Pair(first, other, check_sides(first, other, unpaired, metrics), name) for other in others]
    return pairs


def _not_there(condition: Condition, row: Row) -> Outcome:
    unknown = dict.fromkeys(("difference", "low", "high"), math.nan)
    return replace(_outcome(condition, {**row, **unknown, "n": 0, "n_lost": 0}, True), status=INCOMPLETE)


def _outcome(condition: Condition, row: Row, incomplete: bool) -> Outcome:
    judged = condition.judge(row["low"], row["high"])
    whole = incomplete or judged == FAILED or not (row["unfinished"] or row["n_lost"])
    if row["metric"] in TOGETHER:
        # Of some samples, it is another quantity.
        whole = not row["unfinished"]
    return Outcome(
        condition=condition.text,
        quantity=row["metric"],
        layer=row["layer"],
        run=row["run"],
        other=row["other"],
        difference=row["difference"],
        low=row["low"],
        high=row["high"],
        threshold=condition.threshold,
        n=row["n"],
        status=judged if whole else INCOMPLETE,
        unfinished=row["unfinished"],
        lost=row["n_lost"],
        input=row["input"],
    )


def _measured(
    conditions: Sequence[Condition], pairs: Sequence[_Pair], by: Match, confidence: float
) -> Iterator[tuple[Condition, list[Row], list[Row]]]:
    """Yield for each condition and pair of runs the rows that it judges, and rows of layers that the other run lacks.

    These ``must`` be there if the condition names layers, or if they are unfinished.
    """
    for condition in conditions:
        for pair in pairs:
            if condition.quantity == ACCURACY:
                yield condition, [_accuracy(condition, pair, confidence)], []
                continue
            rows, absent = [], []
            for metric, wanted in _wanted(condition, pair).items():
                found = {row["layer"]: row for row in _rows(condition, metric, pair, by, confidence)}
                rows += [found[name] for name in wanted if name in found]
                absent += [_absent(condition, metric, pair, name) for name in wanted if name not in found]
            _check_rows(condition, pair, rows, absent)
            yield condition, rows, absent


def _check_rows(condition: Condition, pair: _Pair, rows: Sequence[Row], absent: Sequence[Row]) -> None:
    """Refuse a condition that cannot be decided, however the analysis goes on."""
    if any(row["n"] or row["n_lost"] or row["unfinished"] for row in rows) or any(row["unfinished"] for row in absent):
        return
    refused = f"fail_if={condition.text!r}:"
    if rows:
        named = ", ".join(repr(row["layer"]) for row in rows[:3])
        raise UsageError(f"{refused} neither run has a value of {condition.quantity} of {named}; judge other layers")
    raise UsageError(
        f"{refused} run '{pair.other.title}' has nothing to compare with "
        f"{', '.join(repr(row['layer']) for row in absent[:3])} of run '{pair.first.title}'"
    )


def _wanted(condition: Condition, pair: _Pair) -> dict[str, list[str]]:
    """Return the metrics that a condition is about, each with the names of the first run's layers."""
    layers = {metric: _layers_of(metric, pair.first) for metric in _metrics(condition, pair)}
    known = [row for row in pair.first.layers if any(row.name in names for names in layers.values())]
    patterns = [condition.layers] if condition.layers else []
    chosen = [known[position].name for position in match_layers(known, patterns)]
    return {metric: [name for name in chosen if name in names] for metric, names in layers.items()}


def _metrics(condition: Condition, pair: _Pair) -> list[str]:
    """Return the metrics of both runs that a condition is about."""
    # Metrics of which nothing is finished have unfinished samples only.
    one, two = (dict.fromkeys((*side.metrics, *side.unfinished)) for side in (pair.first, pair.other))
    if condition.quantity == UNPROVEN:
        return [metric for metric in one if metric in two]
    for known, side in ((one, pair.first), (two, pair.other)):
        if condition.quantity not in known:
            why = no_such("metric", condition.quantity, [*known, UNPROVEN, ACCURACY], f"run '{side.title}'")
            if condition.quantity in side.measured.metrics:
                why = f"{condition.quantity} has no values of single inputs; leave out input=..."
            raise UsageError(f"fail_if={condition.text!r}: {why}")
    return [condition.quantity]


def _layers_of(metric: str, side: Side) -> set[str]:
    """Return the names of layers for which a run has, or is to have, values of a metric."""
    finished = side.metrics[metric].layers if metric in side.metrics else ()
    return {*(row.name for row in finished), *side.unfinished.get(metric, ())}


def _rows(condition: Condition, metric: str, pair: _Pair, by: Match, confidence: float) -> list[Row]:
    first, other = pair.first, pair.other
    if metric not in first.metrics or metric not in other.metrics:
        return []
    if condition.quantity == UNPROVEN:
        rows = [*_unproven(pair, metric, by, confidence)]
    else:
        rows = differences(first, other, metric, by, pair.paired, confidence)
    left = _left if by == "layer" else _left_of_all
    return [row | {"input": pair.input, "unfinished": left(first, other, metric, row["layer"])} for row in rows]


def _left(first: Side, other: Side, metric: str, layer: str) -> int:
    return max(side.unfinished.get(metric, {}).get(layer, 0) for side in (first, other))


def _left_of_all(first: Side, other: Side, metric: str, layer: str) -> int:
    """Number of unfinished samples of any layer: which layer is matched by depth depends on all of them."""
    return max((count for side in (first, other) for count in side.unfinished.get(metric, {}).values()), default=0)


def _absent(condition: Condition, metric: str, pair: _Pair, layer: str) -> Row:
    """Return a row about a layer that cannot be compared."""
    left = _left(pair.first, pair.other, metric, layer)
    quantity = f"{UNPROVEN} ({metric})" if condition.quantity == UNPROVEN else metric
    return {"metric": quantity, "layer": layer, "unfinished": left, "must": bool(condition.layers or left)} | pair.named


def _accuracy(condition: Condition, pair: _Pair, confidence: float) -> Row:
    for side in (pair.first, pair.other):
        if side.correct is None:
            raise UsageError(
                f"fail_if={condition.text!r}: run '{side.title}' has no accuracy, which needs "
                f"onnxinfo.analyze(labels=...)"
            )
    if pair.paired and pair.first.measured.labels != pair.other.measured.labels:
        raise UsageError(
            f"fail_if={condition.text!r}: the labels of runs '{pair.first.title}' and '{pair.other.title}' differ; "
            f"analyze both with the same"
        )
    return accuracy_row(pair.first, pair.other, pair.paired, confidence) | pair.named | {"unfinished": 0}


def accuracy_row(first: Side, other: Side, paired: bool, confidence: float) -> Row:
    """Return the difference in accuracy of two runs with labels, and its interval, as a row without a layer."""
    assert first.correct is not None
    assert other.correct is not None
    row = _fraction_row("", first.correct, other.correct, paired, confidence)
    lost = _lost(first.correct, other.correct, paired)
    return row | {"metric": ACCURACY, "run": first.title, "other": other.title, "n_lost": lost}


def _lost(one: npt.NDArray[np.float64], two: npt.NDArray[np.float64], paired: bool) -> int:
    """Number of samples whose labels are classes of one run's model only; if unpaired, how many more are of neither."""
    missing = np.isnan(one), np.isnan(two)
    return int((missing[0] ^ missing[1]).sum() if paired else abs(missing[0].sum() - missing[1].sum()))


def _unproven(pair: _Pair, metric: str, by: Match, confidence: float) -> Iterator[Row]:
    one, two = pair.first.metrics[metric], pair.other.metrics[metric]
    for i, j in matched(one, two, by):
        events = _events(select_cells(one.values, i)), _events(select_cells(two.values, j))
        row = _fraction_row(one.layers[i].name, *events, pair.paired, confidence)
        yield row | pair.named | {"metric": f"{UNPROVEN} ({metric})"}


def _events(cells: Cells) -> npt.NDArray[np.float64]:
    """Tell which samples of a layer are unproven: 1, 0, or NaN if unfinished."""
    return np.where(cells["done"], unproven(cells) | ~np.isfinite(cells["value"]), np.nan)


def _fraction_row(
    layer: str, one: npt.NDArray[np.float64], two: npt.NDArray[np.float64], paired: bool, confidence: float
) -> Row:
    """Return the difference of two fractions, from 1, 0, or NaN where unknown for each sample."""
    there = np.isfinite(one), np.isfinite(two)
    if paired:
        there = (there[0] & there[1],) * 2
    counts = [int(each.sum()) for each in there]
    means = [float(each[use].mean()) if use.any() else math.nan for each, use in zip((one, two), there, strict=True)]
    low, high = fraction_interval(one, two, paired, confidence)
    row = {"layer": layer, "value": means[0], "other_value": means[1], "difference": means[1] - means[0]}
    return row | {"low": low, "high": high, "n": min(counts), "n_lost": 0}
