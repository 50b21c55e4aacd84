"""The sanity card: what the model receives, and what it makes of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from ..text import printable, quoted

#: Attribute of a run that holds the card.
ATTRIBUTE = "sanity"
_CLASSES_SHOWN = 5


@dataclass(frozen=True)
class Alternative:
    """Accuracy with another preprocessing or layout.

    Attributes
    ----------
    options
        Settings, by flat name, such as ``{"preset": "imagenet"}``.
    accuracy
        Fraction of the tried samples that are classified as labeled.
    remedy
        What to do if no setting leads there; else empty.
    """

    options: Mapping[str, Any]
    accuracy: float
    remedy: str = ""

    def __str__(self) -> str:
        named = ", ".join(f"{name} {_plain(value)}" for name, value in self.options.items())
        return self.remedy or named or "the default preprocessing"


@dataclass(frozen=True)
class SanityCard:
    """What a model receives, and what it makes of it.

    Attributes
    ----------
    input
        Name of the graph input that the numbers are about.
    samples
        Number of samples.
    preprocessing
        Each step in words, such as ``scale 0.00392157``, and who chose it: ``preset imagenet``, ``given`` or
        ``assumed``.
    minimum, mean, maximum
        Of the model's input, after preprocessing; NaN for text.
    classes
        Number of classes; 0 if the model is not a classifier.
    labeled
        Number of samples with a label that is one of the classes.
    accuracy
        Fraction of these that are classified as labeled; NaN without labels.
    tried
        Number of samples that alternatives were tried on.
    accuracy_tried
        Accuracy on these.
    alternatives
        Other presets, scales and layouts, the most accurate first.
    better
        The first alternative if it does much better; else None.
    warnings
        What is probably wrong, in plain words.
    notes
        What is not known, such as why there are no predictions.
    obstacle
        Why an analysis of these samples fails, as :func:`onnxinfo.doctor` found out; empty if nothing is known.
    predicted, probability
        Predicted class of each sample and its probability; -1 and NaN where the scores are not finite; None if the
        model is not a classifier.

    Examples
    --------
    >>> card = onnxinfo.doctor("digits-cnn.onnx", "digits.npz:images", labels="digits.npz:labels")
    >>> card.accuracy, card.maximum, card.warnings
    (1.0, 1.0, ())
    """

    input: str
    samples: int
    preprocessing: Mapping[str, str]
    minimum: float = math.nan
    mean: float = math.nan
    maximum: float = math.nan
    classes: int = 0
    labeled: int = 0
    accuracy: float = math.nan
    tried: int = 0
    accuracy_tried: float = math.nan
    alternatives: tuple[Alternative, ...] = ()
    better: Alternative | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    obstacle: str = ""
    predicted: npt.NDArray[np.int64] | None = None
    probability: npt.NDArray[np.float64] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything except the samples' predictions as JSON-compatible values; NaN is None."""
        found: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name in ("predicted", "probability"):
                continue
            if each.name == "alternatives":
                value = [_entry(alternative) for alternative in value]
            elif each.name == "better":
                value = None if value is None else _entry(value)
            elif isinstance(value, tuple):
                value = list(value)
            elif isinstance(value, float) and not math.isfinite(value):
                value = None
            found[each.name] = dict(value) if isinstance(value, Mapping) else value
        return found

    def lines(self) -> list[str]:
        """Return the card as lines of text; warnings come last."""
        steps = "; ".join(f"{printable(step)} ({printable(who)})" for step, who in self.preprocessing.items())
        found = [f"preprocessing: {steps or 'none'}"]
        if math.isfinite(self.mean):
            spread = f"minimum {self.minimum:.4g}, mean {self.mean:.4g}, maximum {self.maximum:.4g}"
            found.append(f"model input {quoted(self.input)}: {spread}")
        if self.predicted is not None:
            found.append(f"predictions: {self._predictions()}")
        if math.isfinite(self.accuracy):
            found.append(f"accuracy: {self.accuracy:.3g} on {self.labeled} labeled samples of {self.classes} classes")
        found += [f"note: {printable(note)}" for note in self.notes]
        return found + self.warning_lines()

    def warning_lines(self) -> list[str]:
        """Return the warnings as lines of text."""
        return [f"WARNING: {printable(warning)}" for warning in self.warnings]

    def _predictions(self) -> str:
        assert self.predicted is not None
        assert self.probability is not None
        if self.samples <= _CLASSES_SHOWN:
            pairs = zip(self.predicted.tolist(), self.probability.tolist(), strict=True)
            return ", ".join(_class(number) + (f" ({share:.2f})" if number >= 0 else "") for number, share in pairs)
        common = Counter(self.predicted.tolist()).most_common(_CLASSES_SHOWN)
        counts = ", ".join(f"{_class(number)}: {count}" for number, count in common)
        finite = self.probability[np.isfinite(self.probability)]
        mean = f"; mean probability {finite.mean():.2f}" if len(finite) else ""
        return f"{counts}{', ...' if len(set(self.predicted.tolist())) > len(common) else ''}{mean}"


def _class(number: int) -> str:
    """Name a predicted class; -1 stands for scores that are not finite."""
    return f"class {number}" if number >= 0 else "no class (scores not finite)"


def card_of(
    stored: Any, predicted: npt.NDArray[np.int64] | None, probability: npt.NDArray[np.float64] | None
) -> SanityCard | None:
    """Read a card from an archive's attribute, whose contents are untrusted; None if there is none."""
    if not isinstance(stored, Mapping):
        return None
    steps = stored.get("preprocessing")
    better = stored.get("better")
    numbers: dict[str, Any] = {name: _number(stored.get(name)) for name in _NUMBERS}
    numbers |= {name: _count(stored.get(name)) for name in _COUNTS}
    return SanityCard(
        input=str(stored.get("input", "")),
        preprocessing={str(k): str(v) for k, v in steps.items()} if isinstance(steps, Mapping) else {},
        **numbers,
        alternatives=tuple(_alternative(each) for each in _list(stored.get("alternatives"))),
        better=_alternative(better) if isinstance(better, Mapping) else None,
        warnings=tuple(map(str, _list(stored.get("warnings")))),
        notes=tuple(map(str, _list(stored.get("notes")))),
        predicted=predicted,
        probability=probability,
    )


_COUNTS = ("samples", "classes", "labeled", "tried")
_NUMBERS = ("minimum", "mean", "maximum", "accuracy", "accuracy_tried")


def _entry(alternative: Alternative) -> dict[str, Any]:
    return {
        "options": dict(alternative.options),
        "accuracy": alternative.accuracy,
        "remedy": alternative.remedy,
    }


def _alternative(stored: Any) -> Alternative:
    given = stored if isinstance(stored, Mapping) else {}
    options = given.get("options")
    return Alternative(
        dict(options) if isinstance(options, Mapping) else {},
        _number(given.get("accuracy")),
        str(given.get("remedy") or ""),
    )


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return ",".join(f"{each:g}" for each in value) if isinstance(value, list | tuple) else str(value)


def correct_predictions(
    labels: npt.NDArray[Any] | Sequence[Any], predicted: npt.NDArray[np.int64], classes: int
) -> npt.NDArray[np.float64]:
    """Tell which samples are classified as labeled: 1, 0, or NaN if the label is not a class.

    Parameters
    ----------
    labels
        Numbers of classes, or words, whose alphabetical order is that of the classes.
    predicted
        Predicted class of each sample.
    classes
        Number of classes.
    """
    given = np.asarray(labels)
    numbers = given if given.dtype.kind in "iu" else np.unique(given, return_inverse=True)[1]
    usable = (numbers >= 0) & (numbers < classes)
    return np.where(usable, (numbers == predicted).astype(np.float64), np.nan)
