"""Corresponding samples of several graph inputs: ``ids=a.npz:ids,mask=a.npz:mask``."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, UsageError
from ..text import printable
from .arrays import format_of, split_key
from .axes import DeclaredShape, Layout, Target, describe
from .formats import Reading
from .objects import is_frame
from .opening import Spec, open_samples
from .rows import check_file
from .samples import Samples
from .table_rows import open_frame_all

_VALUE_OPTIONS = frozenset({"preset", "scale", "mean", "std"})
_READING_OPTIONS = ("tokenizer", "rate", "fit_length", "labels")
_IMAGE_OPTIONS = frozenset({"boxes", "box_scale", "size", "resize"})


@dataclass(frozen=True)
class SampleSet:
    """Samples of several graph inputs, matched by position.

    Attributes
    ----------
    inputs
        Samples by graph input, in the model's order.
    """

    inputs: dict[str, Samples]

    def __len__(self) -> int:
        return len(self.first)

    @property
    def first(self) -> Samples:
        """The first input's samples."""
        return next(iter(self.inputs.values()))

    @property
    def unreadable(self) -> list[tuple[str, str]]:
        """Name and reason of every sample that was left out."""
        return [each for samples in self.inputs.values() for each in samples.unreadable]

    @property
    def order(self) -> str:
        """Remark on the samples' order; empty if it is the one that was given."""
        return next((samples.order for samples in self.inputs.values() if samples.order), "")

    def feeds(self, indices: Sequence[int]) -> dict[str, npt.NDArray[Any]]:
        """Return a batch of every input; see :meth:`~onnxinfo.samples.Samples.batch`."""
        return {name: samples.batch(indices) for name, samples in self.inputs.items()}

    def make_anonymous(self) -> None:
        """Drop the names of all inputs' samples; see :meth:`~onnxinfo.samples.Samples.make_anonymous`."""
        for samples in self.inputs.values():
            samples.make_anonymous()

    def digest(self) -> str:
        """Return a SHA-256 over the digests of all inputs."""
        return _joined({name: samples.digest() for name, samples in self.inputs.items()})

    def digest_of(self, indices: Sequence[int]) -> str:
        """Return the digest that the samples at some positions would have by themselves."""
        return _joined({name: samples.digest_of(indices) for name, samples in self.inputs.items()})


def _joined(digests: Mapping[str, str]) -> str:
    return hashlib.sha256("\0".join(f"{name}\0{own}" for name, own in digests.items()).encode()).hexdigest()


def parse_inputs(spec: str, names: Sequence[str] = ()) -> dict[str, str]:
    r"""Split ``ids=a.npz:ids,mask=a.npz:mask`` into one specification per graph input.

    A name starts the text or follows a comma, and ends with an equals sign. Names other than the model's may not
    contain a slash, a backslash or a colon, so that ``runs/lr=0.1/x.npz`` and ``C:\lr=1\x.npy`` are paths. A text that
    exists as a file or folder is always taken as such.

    Parameters
    ----------
    spec
        Specification as given on the command line.
    names
        The model's graph inputs.

    Returns
    -------
    dict
        Specification by graph input; under ``""`` if no input was named.

    Raises
    ------
    UsageError
        A name is not one of the model's, is repeated, or has no specification.

    Examples
    --------
    >>> parse_inputs("ids=a.npz:ids,mask=a.npz:mask")
    {'ids': 'a.npz:ids', 'mask': 'a.npz:mask'}
    """
    alternatives = [re.escape(name) for name in sorted(names, key=len, reverse=True)] + [r"[^=,:/\\]+?"]
    heads = list(re.finditer(rf"(?:^|,)\s*({'|'.join(alternatives)})\s*=", spec))
    if not heads or heads[0].start() != 0 or os.path.exists(spec):
        return {"": spec}
    ends = [*(head.start() for head in heads[1:]), len(spec)]
    parsed: dict[str, str] = {}
    for head, end in zip(heads, ends, strict=True):
        name, value = head[1], spec[head.end() : end].strip()
        if names and name not in names:
            raise UsageError(f"the model has no input {printable(name)}; expected {_listing(names)}")
        if name in parsed or not value:
            times = "twice" if name in parsed else "without samples"
            raise UsageError(f"input {printable(name)} is given {times}; expected {printable(name)}=SPEC once")
        parsed[name] = value
    return parsed


def open_inputs(
    specs: Spec | Mapping[str, Spec],
    declared: Mapping[str, tuple[DeclaredShape, npt.DTypeLike]],
    layouts: Mapping[str, Layout] = MappingProxyType({}),
    **options: Any,
) -> SampleSet:
    """Open the samples of every graph input.

    Parameters
    ----------
    specs
        One specification by graph input, or text for :func:`parse_inputs`, or one for the model's only input.
    declared
        Shape of one sample (without batch axis) and element type by graph input, in the model's order.
    layouts
        Layout of the model by graph input; default: see :func:`.inputs.axes.axis_names`.
    **options
        Options of :func:`onnxinfo.open_samples`. Preset, scale, mean and std apply to float inputs only; boxes, size
        and resize to images only.

    Returns
    -------
    SampleSet
        The same samples for each input.

    Raises
    ------
    InputError
        The inputs have different numbers of samples, or some samples of one input are unusable.
    UsageError
        An input has no specification, or is not one of the model's.
    """
    by_name = _by_input(_opened_together(specs, declared, options), list(declared))
    opened = {}
    for name, (shape, dtype) in declared.items():
        layout = layouts.get(name, "auto")
        fitting = _applicable(options, describe(shape, dtype, layout))
        opened[name] = open_samples(by_name[name], shape=shape, dtype=dtype, name=name, layout=layout, **fitting)
    for (one, samples), (other, others) in pairwise(opened.items()):
        if samples.available != others.available or not np.array_equal(samples.positions, others.positions):
            raise InputError(
                f"inputs {printable(one)} and {printable(other)} have {samples.available} and {others.available} "
                f"samples, {len(samples)} and {len(others)} of them used; expected the same of each, or, if the model "
                f"takes one sample at a time, a folder of NPZ files or a list of dicts, each with all inputs"
            )
    return SampleSet(opened)


def _opened_together(
    specs: Spec | Mapping[str, Spec],
    declared: Mapping[str, tuple[DeclaredShape, npt.DTypeLike]],
    options: Mapping[str, Any],
) -> Spec | Mapping[str, Spec]:
    """Open a file that has the samples of all graph inputs, such as a table with a column for each of them."""
    if len(declared) < 2:
        return specs
    reading = Reading(**{name: options[name] for name in _READING_OPTIONS if name in options})
    if is_frame(specs):
        return open_frame_all(specs, declared, reading)
    if not isinstance(specs, str | os.PathLike):
        return specs
    spec = parse_inputs(os.fspath(specs), list(declared)).get("")
    split = None if spec is None else split_key(spec)
    found = None if split is None else format_of(split[0])
    if split is None or found is None or found.open_all is None:
        return specs
    path, _, key = split
    check_file(path)
    return found.open_all(path, key, declared, reading)


def _by_input(specs: Spec | Mapping[str, Spec], names: list[str]) -> dict[str, Spec]:
    by_name: dict[str, Spec]
    if isinstance(specs, Mapping):
        by_name = dict(specs)
    else:
        by_name = {**parse_inputs(specs, names)} if isinstance(specs, str) else {"": specs}
    if "" in by_name and len(names) == 1:
        by_name = {names[0]: by_name[""]}
    if unknown := [name for name in by_name if name and name not in names]:
        raise UsageError(f"the model has no input {printable(unknown[0])}; expected {_listing(names)}")
    if missing := [name for name in names if name not in by_name]:
        raise UsageError(
            f"no samples for input {printable(missing[0])}; give inputs='NAME=SPEC,...' for each of {_listing(names)}, "
            f"or, for a state or a setting, a constant value: set='{printable(missing[0])}=0'"
        )
    return by_name


def _listing(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names))


def _applicable(options: Mapping[str, Any], target: Target) -> dict[str, Any]:
    dropped = (frozenset() if target.dtype.kind == "f" else _VALUE_OPTIONS) | (
        frozenset() if target.is_image else _IMAGE_OPTIONS
    )
    return {name: value for name, value in options.items() if name not in dropped}
