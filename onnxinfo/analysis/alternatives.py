"""Try other presets, scales and layouts of images against the labels."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..archive.sanity import Alternative
from ..errors import OnnxinfoError
from ..inputs.preprocess import PRESETS, Preprocessing, choose
from ..inputs.sample_sets import SampleSet
from ..inputs.samples import Samples

#: Scales and offsets that networks are trained with, other than those of presets.
_BYTES: tuple[Mapping[str, Any], ...] = ({"scale": 1.0},)
_FLOATS: tuple[Mapping[str, Any], ...] = ({"scale": 1 / 255}, {"scale": 255.0})
_CENTERED: Mapping[str, Any] = {"mean": 0.5, "std": 0.5}
_TRANSPOSED = "transpose height and width of the images"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Trial:
    """Samples in another form.

    Attributes
    ----------
    options
        Settings that lead there, by flat name.
    samples
        The samples.
    remedy
        What to do if no setting leads there.
    """

    options: Mapping[str, Any]
    samples: SampleSet
    remedy: str = ""


def trials(samples: SampleSet, main: Samples, name: str, reopened: Callable[[str], SampleSet]) -> Iterator[Trial]:
    """Yield the samples with other presets, scales and layouts.

    Parameters
    ----------
    samples
        Samples of all graph inputs.
    main, name
        The images whose form varies, and the name of their graph input.
    reopened
        Opens the samples with a layout.
    """
    for options, preprocessing in _preprocessings(main):
        changed = copy.copy(main)
        changed.preprocessing = preprocessing
        yield Trial(options, _with(samples, name, changed))
    if main.shape[main.layout.index("y")] == main.shape[main.layout.index("x")]:
        yield Trial({}, _with(samples, name, _Transposed(main)), _TRANSPOSED)
    layout = "NHWC" if main.layout[0] == "channel" else "NCHW"
    try:
        other = reopened(layout)
    except OnnxinfoError:
        return
    if len(other) == len(samples) and other.inputs[name].layout != main.layout:
        yield Trial({"layout": layout}, other)


def tried(options: Mapping[str, Any], remedy: str, predicted: Array, labels: Array) -> Alternative:
    """Return the accuracy of a trial."""
    return Alternative(options, float((predicted == labels).mean()), remedy)


def is_much_better(before: Array, after: Array) -> bool:
    """Whether so many more samples are correct that it is no coincidence.

    Parameters
    ----------
    before, after
        Whether each sample is classified correctly, (n,) of bool.
    """
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    return bool(gained - lost >= max(2 * np.sqrt(gained + lost), 0.1 * len(before), 3))


def _preprocessings(main: Samples) -> Iterator[tuple[Mapping[str, Any], Preprocessing]]:
    stored, own = main.stored, main.preprocessing
    channels = main.shape[main.layout.index("channel")]
    named: list[Mapping[str, Any]] = [{}, *({"preset": name} for name in PRESETS), _CENTERED]
    # Floats may be stored in 0..255, and so may networks expect them.
    scaled = [*_BYTES] if stored == np.uint8 else [{**each, **scale} for scale in _FLOATS for each in named]
    seen = {_values(own)}
    for options in (*named, *scaled):
        try:
            chosen = choose(stored, image=True, channels=channels, **options)
        except OnnxinfoError:
            continue
        if _values(chosen) not in seen:
            seen.add(_values(chosen))
            values = {name: getattr(chosen, name) for name in ("preset", "scale", "mean", "std")}
            yield options, dataclasses.replace(own, **values)


def _values(preprocessing: Preprocessing) -> tuple[Any, ...]:
    return preprocessing.scale, preprocessing.mean, preprocessing.std


def _with(samples: SampleSet, name: str, changed: Samples) -> SampleSet:
    return SampleSet({**samples.inputs, name: changed})


class _Transposed(Samples):
    """Images with height and width exchanged."""

    def __init__(self, images: Samples) -> None:
        self.__dict__.update(vars(images))

    def batch(self, indices: Sequence[int]) -> Array:
        """Return preprocessed samples, transposed."""
        y, x = (1 + self.layout.index(axis) for axis in ("y", "x"))
        return np.ascontiguousarray(np.swapaxes(super().batch(indices), y, x))
