"""Complete feeds, one set of all graph inputs per sample, for models without a batch axis."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, UsageError
from ..text import printable, quoted
from .arrays import open_array
from .numpy_files import array_names

Array = npt.NDArray[Any]


def is_feeds(inputs: Any) -> bool:
    """Whether inputs are complete feeds: a list of mappings, or a folder or glob that contains only .npz files."""
    if isinstance(inputs, str | os.PathLike):
        return bool(_files(os.fspath(inputs)))
    several = isinstance(inputs, Sequence) and not isinstance(inputs, bytes)
    return several and len(inputs) > 0 and all(isinstance(each, Mapping) for each in inputs)


def stacked_feeds(inputs: Any, names: Sequence[str]) -> tuple[dict[str, Array], list[str]]:
    """Read complete feeds and stack them.

    Parameters
    ----------
    inputs
        Complete feeds; see :func:`is_feeds`.
    names
        Names of the model's graph inputs.

    Returns
    -------
    tuple
        Arrays by graph input, (feeds, *shape), and the names of the feeds.

    Raises
    ------
    InputError
        A feed lacks an input, or feeds differ in shape or element type.
    UsageError
        A feed has an array that is not an input of the model.
    """
    if isinstance(inputs, str | os.PathLike):
        files = _files(os.fspath(inputs))
        labels, feeds = [file.name for file in files], [_read(file) for file in files]
    else:
        feeds = [{name: np.asarray(value) for name, value in feed.items()} for feed in inputs]
        labels = [f"input[{index}]" for index in range(len(feeds))]
    expected = ", ".join(map(printable, names))
    for label, feed in zip(labels, feeds, strict=True):
        if missing := [name for name in names if name not in feed]:
            raise InputError(
                f"{printable(label)} has no array {quoted(missing[0])}; expected one for each of {expected}"
            )
        if unknown := [name for name in feed if name not in names]:
            raise UsageError(f"{printable(label)} has an array {quoted(unknown[0])}, and the model takes {expected}")
        for name in names:
            first, own = feeds[0][name], feed[name]
            if (own.shape, own.dtype) != (first.shape, first.dtype):
                raise InputError(
                    f"{quoted(name)} is {first.dtype} of shape {first.shape} in {printable(labels[0])} and {own.dtype} "
                    f"of shape {own.shape} in {printable(label)}; give feeds of one shape, one run for each shape"
                )
    return {name: np.stack([feed[name] for feed in feeds]) for name in names}, labels


def _files(spec: str) -> list[Path]:
    """Sorted .npz files of a folder or glob; empty if it contains any other file."""
    if os.path.isdir(spec):
        found = sorted(path for path in Path(spec).iterdir() if path.is_file() and not path.name.startswith("."))
    elif glob.has_magic(spec) and not os.path.exists(spec):
        found = sorted(map(Path, glob.glob(spec)))
    else:
        return []
    return found if all(path.suffix.lower() == ".npz" for path in found) else []


def _read(file: Path) -> dict[str, Array]:
    feed = {}
    for name in array_names(file):
        rows = open_array(f"{file}:{name}")
        feed[name] = rows.read(range(len(rows)))
    return feed
