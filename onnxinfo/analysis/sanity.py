"""Examine what a model receives, and what it makes of it, before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..archive.sanity import Alternative, SanityCard
from ..config import InputConfig
from ..errors import OnnxinfoError
from ..graph.model import Model
from ..graph.own_scaling import own_scaling
from ..inputs.deviation import evenly_spread
from ..inputs.preprocess import Preprocessing
from ..inputs.sample_sets import SampleSet
from ..inputs.samples import Samples
from .alternatives import is_much_better, trials, tried
from .scorer import Scorer
from .suspicions import Received, suspicions

#: Maximum number of samples that an analysis tries alternatives on.
TRIED_SAMPLES = 64
_BLOCK = 32
# An accuracy is near chance within this many standard errors, if it is told from halfway to 1 by as many.
_TELLING = 2.0

Array = npt.NDArray[Any]
#: Opens the samples with a layout and a limit.
Reopen = Callable[[str, int], SampleSet]


@dataclass(frozen=True)
class _Predictions:
    """Predictions for all samples, and their labels as positions among the classes where there are some."""

    scorer: Scorer
    classes: int
    predicted: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64] | None
    usable: npt.NDArray[np.bool_]


def examine(
    model: Model,
    samples: SampleSet,
    chosen: InputConfig,
    reopened: Reopen,
    *,
    name: str = "",
    most: int = TRIED_SAMPLES,
    memory: int | None = None,
) -> SanityCard:
    """Examine samples and a model's predictions for them.

    Parameters
    ----------
    model
        A model as opened for an analysis.
    samples
        Samples of all graph inputs.
    chosen
        Settings that they were opened with.
    reopened
        Opens the samples with a layout and a limit.
    name
        Graph input to describe; default: the first that holds images, else the first.
    most
        Maximum number of samples that alternatives are tried on.
    memory
        Limit of the activations in bytes; None: 512 MiB.

    Returns
    -------
    SanityCard
        The findings. Whatever cannot be found out is a note, not an error.
    """
    name = name if name in samples.inputs else _described(samples)
    main, notes = samples.inputs[name], list[str]()
    received = _received(model, main, name)
    predictions = _predictions(model, samples, main, notes, memory)
    warnings = list(suspicions(received))
    found: dict[str, Any] = {}
    if predictions is not None:
        found = {
            "classes": predictions.classes,
            "predicted": predictions.predicted,
            "probability": predictions.probability,
        }
        if predictions.labels is not None:
            found |= _judged(predictions, warnings)
            if main.is_image:
                found |= _compared(predictions, samples, name, chosen, reopened, most)
            better = found.get("better")
            if better is not None:
                warnings.insert(0, _advice(better, found))
    return SanityCard(
        input=name,
        samples=len(samples),
        preprocessing=chosen_by(main.preprocessing, chosen, main),
        minimum=received.minimum,
        mean=received.mean,
        maximum=received.maximum,
        warnings=tuple(warnings),
        notes=tuple(notes),
        **found,
    )


def chosen_by(preprocessing: Preprocessing, chosen: InputConfig, main: Samples) -> dict[str, str]:
    """Return each step of a preprocessing in words, with who chose it."""
    if main.dtype.kind != "f":
        return {"values as stored": "the model takes no floats"}
    preset = f"preset {chosen.preset}" if chosen.preset else "assumed"
    steps = {f"scale {preprocessing.scale:.6g}": "given" if chosen.scale is not None else preset}
    for step in ("mean", "std"):
        numbers = getattr(preprocessing, step)
        shown = "none" if numbers is None else ", ".join(f"{number:g}" for number in numbers)
        steps[f"{step} {shown}"] = "given" if getattr(chosen, step) is not None else preset
    if preprocessing.resize is not None:
        steps[f"resize {preprocessing.resize}"] = "given" if chosen.resize is not None else "assumed"
        layout = "given" if chosen.layout != "auto" else "inferred from the model"
        steps[f"axes {', '.join(main.layout)}"] = layout
    return steps


def _described(samples: SampleSet) -> str:
    images = [name for name, each in samples.inputs.items() if each.is_image]
    return next(iter(images or samples.inputs))


def _received(model: Model, main: Samples, name: str) -> Received:
    """Measure what the model receives."""
    smallest, largest, total, count = math.inf, -math.inf, 0.0, 0
    if main.dtype.kind != "U":
        for start in range(0, len(main), _BLOCK):
            values = main.batch(range(start, min(start + _BLOCK, len(main))))
            if values.size:
                smallest, largest = min(smallest, float(values.min())), max(largest, float(values.max()))
                total, count = total + float(values.sum(dtype=np.float64)), count + values.size
    some = main.batch(evenly_spread(len(main), _BLOCK)) if main.is_image else None
    numbers = (smallest, total / count, largest) if count else (math.nan,) * 3
    return Received(*numbers, main, own_scaling(model.flow, name), some)


def _predictions(
    model: Model, samples: SampleSet, main: Samples, notes: list[str], memory: int | None
) -> _Predictions | None:
    try:
        scorer = Scorer(model, memory)
        scores = scorer.scores(samples, range(len(samples)))
    except OnnxinfoError as error:
        notes.append(f"no predictions: {error}")
        return None
    predicted, probability = scorer.predict(scores)
    classes = scores.shape[1]
    labels = main.labels
    if labels is not None and main.classes and len(main.classes) != classes:
        text = f"{len(main.classes)} labels are words and the model has {classes} classes"
        notes.append(f"no accuracy: {text}, so it is unknown which class a label stands for")
        labels = None
    usable = np.zeros(len(samples), bool) if labels is None else (labels >= 0) & (labels < classes)
    return _Predictions(scorer, classes, predicted, probability, labels, usable)


def _judged(found: _Predictions, warnings: list[str]) -> dict[str, Any]:
    """Return the accuracy, with warnings about the labels and about chance."""
    assert found.labels is not None
    classes, count = found.classes, int(found.usable.sum())
    if outside := len(found.labels) - count:
        first = " (labels seem to be counted from 1)" if found.labels.min() == 1 else ""
        warnings.append(
            f"{outside} of {len(found.labels)} labels are not among the model's classes 0..{classes - 1}{first}: "
            f"give labels that match the model's classes"
        )
    if not count:
        return {}
    correct = (found.predicted == found.labels)[found.usable]
    accuracy = float(correct.mean())
    chance, halfway = 1 / classes, (1 + 1 / classes) / 2
    low, high = (_TELLING * math.sqrt(share * (1 - share) / count) for share in (chance, halfway))
    if accuracy <= chance + low and accuracy < halfway - high:
        warnings.append(
            f"accuracy {accuracy:.3g} is near chance ({chance:.3g} for {classes} classes): check preprocessing, "
            f"layout and labels"
        )
    return {"labeled": count, "accuracy": accuracy}


def _compared(
    found: _Predictions,
    samples: SampleSet,
    name: str,
    chosen: InputConfig,
    reopened: Reopen,
    most: int,
) -> dict[str, Any]:
    """Try other presets, scales and layouts, unless all samples are classified correctly."""
    samples, predicted = _enlarged(found, samples, name, chosen, reopened, most)
    known = samples.inputs[name].labels
    assert known is not None
    positions = np.nonzero((known >= 0) & (known < found.classes))[0]
    if not len(positions):
        return {}
    some = positions[evenly_spread(len(positions), most)].tolist()
    labels = known[some]
    before = predicted[some] == labels
    more = {"tried": len(some), "accuracy_tried": float(before.mean())}
    if before.all():
        return more
    outcomes = []
    same = len(samples)
    for trial in trials(samples, samples.inputs[name], name, lambda layout: reopened(layout, same)):
        try:
            predicted, _ = found.scorer.predict(found.scorer.scores(trial.samples, some))
        except OnnxinfoError:
            continue
        outcomes.append((tried(trial.options, trial.remedy, predicted, labels), predicted == labels))
    outcomes.sort(key=lambda outcome: -outcome[0].accuracy)
    better = next((each for each, after in outcomes[:1] if is_much_better(before, after)), None)
    return {**more, "alternatives": tuple(each for each, _ in outcomes), "better": better}


def _enlarged(
    found: _Predictions, samples: SampleSet, name: str, chosen: InputConfig, reopened: Reopen, most: int
) -> tuple[SampleSet, Array]:
    """Return samples to try alternatives on, and their predicted classes: more than the analyzed ones if these are few.

    Differences between presets take dozens of samples to be seen.
    """
    available = samples.inputs[name].available
    if len(samples) >= min(most, available) or chosen.limit is None:
        return samples, found.predicted
    try:
        more = reopened(chosen.layout, most)
        return more, found.scorer.predict(found.scorer.scores(more, range(len(more))))[0]
    except OnnxinfoError:
        return samples, found.predicted


def _advice(better: Alternative, compared: Mapping[str, Any]) -> str:
    tried_on, accuracy = compared["tried"], compared["accuracy_tried"]
    margin = 1 / math.sqrt(tried_on)
    similar = [each for each in compared["alternatives"][1:] if each.accuracy > better.accuracy - margin]
    if similar:
        listed = ", ".join(f"{each} ({each.accuracy:.2f})" for each in similar)
        also = f"; similar: {listed}; prefer the one that the model was trained with"
    else:
        also = ""
    if better.remedy:
        remedy = better.remedy
    elif better.options:
        given = better.options.items()
        remedy = " and ".join(f"{key}={value!r}" if isinstance(value, str) else f"{key}=..." for key, value in given)
        remedy = f"give {remedy}"
    else:
        remedy = "leave out preset, scale, mean and std"
    found = f"accuracy is {accuracy:.2f}, and would be {better.accuracy:.2f} with {better}"
    return f"{found} (on {tried_on} samples): {remedy}{also}"
