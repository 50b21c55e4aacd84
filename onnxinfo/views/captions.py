"""Captions of samples: their names, and their classes in words."""

from __future__ import annotations

import numpy as np

from ..text import printable, shorten
from .run_view import RunView


def sample_captions(view: RunView, size: int = 16) -> list[list[str]]:
    """Return a few short lines on each sample of a view: its name, its class, and the predicted class if it is another.

    Parameters
    ----------
    view
        The view.
    size
        Largest number of characters of a line.
    """
    names = [shorten(printable(name), size) for name in view.sample_names]
    lines = zip(names, _label_lines(view), _prediction_lines(view), strict=True)
    return [[shorten(line, size) for line in each if line] for each in lines]


def _label_lines(view: RunView) -> list[str]:
    if view.labels is None:
        return [""] * view.shape[1]
    texts = [printable(label) for label in view.labels]
    return [f"class {text}" if _is_number(text) else text for text in texts]


def _prediction_lines(view: RunView) -> list[str]:
    """Name the predicted class of the samples that are not classified as labeled, or that have no label."""
    predicted = view.run.predicted
    if predicted is None:
        return [""] * view.shape[1]
    correct = view.run.correct
    if view.labels is not None and correct is None:
        # Which class a label stands for is not known, so a prediction could not be compared with it.
        return [""] * view.shape[1]
    words = _class_words(view)
    lines = []
    for at in view.sample_positions:
        number = int(predicted[at])
        is_shown = number >= 0 and (correct is None or correct[at] == 0)
        lines.append(f"seen as {words.get(number, f'class {number}')}" if is_shown else "")
    return lines


def _class_words(view: RunView) -> dict[int, str]:
    """Return the classes' names, if the labels are words: their alphabetical order is that of the classes."""
    labels = np.asarray(view.run.labels) if view.run.labels is not None else np.zeros(0)
    if labels.dtype.kind in "iufb":
        return {}
    return {number: printable(word) for number, word in enumerate(np.unique(labels))}


def _is_number(text: str) -> bool:
    return text.lstrip("-").isdigit()
