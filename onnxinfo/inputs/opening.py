"""Open samples for a model's input: folders and globs of images, ``.npz:key``, ``.npy``, ``.h5:/dataset`` or arrays."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, UsageError
from .arrays import names_array, open_array, open_folder, split_key
from .axes import DeclaredShape, Layout, Target, channel_axis, describe, fits, shape_text
from .formats import Purpose, Reading
from .geometry import Resize
from .images import find_images, list_images
from .labels import LabelSpec
from .numpy_files import check_key
from .objects import as_pictures, is_frame, plain
from .preprocess import Preprocessing, choose
from .rows import MemoryRows, Rows, check_file
from .samples import Samples
from .selection import BoxSpec, Opened, Selection, open_files, open_rows
from .table_rows import open_frame

__all__ = ["Samples", "Spec", "open_samples"]

Spec = str | os.PathLike[str] | npt.NDArray[Any] | Sequence[Any] | Rows
#: Maximum side length, in pixels, for ``size``.
MAX_SIDE = 16_384


def open_samples(
    spec: Spec,
    *,
    shape: DeclaredShape,
    dtype: npt.DTypeLike = np.float32,
    name: str = "",
    preset: str | None = None,
    scale: float | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    layout: Layout = "auto",
    size: int | tuple[int, int] | None = None,
    resize: Resize | None = None,
    limit: int | None = None,
    shuffle: bool = False,
    seed: int = 0,
    labels: LabelSpec | None = None,
    boxes: BoxSpec | None = None,
    box_scale: float = 1.5,
    tokenizer: str | os.PathLike[str] | None = None,
    rate: int | None = None,
    fit_length: str = "none",
) -> Samples:
    """Open the samples of one graph input.

    Image files are decoded once here, to detect unreadable ones before work begins, and again when they are needed;
    arrays of types other than 8 bits are read once to detect values that the model cannot take. Arrays stay in their
    files, except for a compressed ``.npz``, whose chosen rows are kept in memory.

    Parameters
    ----------
    spec
        A folder of images (with subfolders, sorted by name), a glob pattern, an image, a sequence of image paths,
        ``.npz:key``, ``.npy``, ``.h5:/dataset`` (or ``.hdf5``), or an array with the samples as first axis. Images in
        arrays may have channels first or last, or no channel axis if the model takes one channel. A table: ``.csv`` or
        ``.parquet`` with a column per feature, ``.csv:NAME,NAME`` for some of them, or a DataFrame of pandas or polars.
        Pictures of PIL, a torch tensor, a torch Dataset or DataLoader, whose items are samples or pairs of sample and
        label; a DataLoader that only batches or shuffles its dataset
        is read in the dataset's order. A folder, a glob pattern or a
        sequence of recordings, ``.wav`` or ``.flac``. Texts: ``.txt`` with one per line, or ``.csv:column``.
    shape
        Shape of one sample as declared by the model, without batch axis; a str or None is a dynamic size.
    dtype
        Element type of the model's input; ``object`` for text.
    name
        Of the model's input.
    preset
        ``imagenet``, ``cifar10`` or ``unit``, see :data:`onnxinfo.preprocess.PRESETS`.
    scale, mean, std
        The model gets ``(x * scale - mean) / std``; each overrides the preset's. By default, 8-bit images are scaled by
        1/255 and all other data are unchanged.
    layout
        Layout of the model: ``NCHW``, ``NHWC``, or ``auto`` (see :func:`onnxinfo.inputs.axes.axis_names`).
    size
        Height and width for dynamic sizes of the model; default: the common size of all images.
    resize
        ``crop`` (resize to cover, then center crop), ``squash``, ``none``, or the length of the shorter side before
        the center crop (256 for many ImageNet models). Default: ``crop`` for files and 8-bit arrays; ``none`` for other
        arrays, which are assumed to be preprocessed.
    limit, shuffle, seed
        Take at most ``limit`` samples: the first, or with ``shuffle`` a random subset by ``seed``, in source order.
    labels
        See :func:`onnxinfo.inputs.labels.open_labels`; default: class folders, if there are at least two.
    boxes
        Crop each image to its box, enlarged by ``box_scale``. Samples without a box (not finite, or no matching name)
        are left out.
    box_scale
        Enlargement of the box; 1.5 in the paper.
    tokenizer
        JSON file of a tokenizer, which turns texts into token ids.
    rate
        Sampling rate that recordings must have, in Hz.
    fit_length
        ``pad``, ``cut`` or ``both``: what is done with texts and recordings of another length than the model takes.

    Returns
    -------
    Samples
        The samples; at least one.

    Raises
    ------
    InputError
        The samples cannot be read or do not fit the model.
    UsageError
        An option does not apply to this model.

    Examples
    --------
    >>> samples = onnxinfo.open_samples(np.zeros((5, 8, 8), np.uint8), shape=(1, 8, 8), limit=2)
    >>> samples.names, samples.batch([0, 1]).shape
    (['input[0]', 'input[1]'], (2, 1, 8, 8))
    """
    target = describe(shape, dtype, layout)
    if limit is not None and limit < 1:
        raise UsageError(f"limit {limit} leaves no samples; expected at least 1")
    if seed < 0:
        raise UsageError(f"seed {seed} is negative; expected 0 or more")
    if not target.is_image and not (size is None and resize is None and boxes is None):
        raise UsageError(f"size, resize and boxes are for images; the model takes {shape_text(target.shape)}")
    purpose = Purpose(name, target.shape, target.dtype, Reading(tokenizer, rate, fit_length, labels))
    spec = plain(spec)
    rows = _as_rows(spec, purpose, target)
    if rows is not None and rows.axes is not None:
        target = replace(target, names=rows.axes)
    opened = _open(rows, spec, target, Selection(limit, shuffle, seed), labels, boxes)
    values = _values_preprocessing(opened, target, preset, scale, mean, std)
    if not target.is_image:
        samples = Samples(opened, target, values, opened.sample_shape)
    else:
        output = _output_size(opened, target, size)
        extent = {"channel": opened.channels, "y": output[0], "x": output[1]}
        placed = _place(values, opened, output, resize, box_scale)
        samples = Samples(opened, target, placed, tuple(extent[name] for name in target.names))
    samples.check()
    samples.order = "" if rows is None else rows.order
    return samples


def check_present(spec: str) -> None:
    """Raise, before anything is read, if a specification of samples names a missing file or array.

    Text that may name graph inputs is left to :func:`.sample_sets.parse_inputs`, which knows them.

    Raises
    ------
    InputError
        The file or folder does not exist, or an ``.npz`` file does not have the array.
    """
    if "=" in spec or os.path.exists(spec) or glob.has_magic(spec):
        return
    if split_key(spec):
        check_array(spec)
    else:
        find_images(spec)


def check_array(spec: str) -> None:
    """Raise, before anything is read, if a specification such as ``data.npz:key`` names a missing file or array.

    Raises
    ------
    InputError
        The file does not exist, or an ``.npz`` file does not have the array.
    """
    split = split_key(spec)
    if split is None:
        return
    path, kind, key = split
    check_file(path)
    if kind == "npz" and key is not None:
        check_key(path, key)


def _open(
    rows: Rows | None,
    spec: Spec,
    target: Target,
    selection: Selection,
    labels: LabelSpec | None,
    boxes: BoxSpec | None,
) -> Opened:
    if rows is not None:
        return open_rows(rows, target, selection, labels, boxes)
    assert not isinstance(spec, Rows)
    files = as_pictures(spec) or (find_images(spec) if isinstance(spec, str | os.PathLike) else list_images(spec))
    return open_files(files, target, selection, labels, boxes)


def _as_rows(spec: Spec, purpose: Purpose, target: Target) -> Rows | None:
    """Return the array that is specified; None for image files."""
    if isinstance(spec, Rows):
        return spec
    if is_frame(spec):
        return open_frame(spec, purpose)
    if as_pictures(spec) is not None:
        return None
    if isinstance(spec, str | os.PathLike):
        text = os.fspath(spec)
        if names_array(text):
            return open_array(text, kinds="U" if target.is_text else "biuf", purpose=purpose)
    if isinstance(spec, str | os.PathLike) or (
        isinstance(spec, Sequence) and all(isinstance(item, str | os.PathLike) for item in spec) and not target.is_text
    ):
        return None if target.is_image else open_folder(spec, purpose)
    array = np.asarray(spec)
    if target.is_text and array.dtype.kind == "O" and all(isinstance(value, str) for value in array.flat):
        array = array.astype(str)
    kinds, expected = ("U", "text") if target.is_text else ("biuf", "numbers")
    if array.ndim == 0 or 0 in array.shape or array.dtype.kind not in kinds:
        hint = (
            "; give an empty state, such as a cache without entries, as a value of set" if 0 in array.shape[1:] else ""
        )
        raise InputError(
            f"the input is an array of shape {array.shape} and type {array.dtype}, expected samples of {expected}{hint}"
        )
    return MemoryRows(array, "input")


def _values_preprocessing(
    opened: Opened,
    target: Target,
    preset: str | None,
    scale: float | None,
    mean: Sequence[float] | float | None,
    std: Sequence[float] | float | None,
) -> Preprocessing:
    if target.dtype.kind != "f":
        if not (preset is None and scale is None and mean is None and std is None):
            raise UsageError(
                f"the model takes {target.dtype} values as they are; leave out preset, scale, mean and std"
            )
        return Preprocessing()
    axis = channel_axis(target.names)
    channels = opened.channels if target.is_image else None if axis is None else opened.sample_shape[axis]
    stored = opened.source.dtype
    return choose(stored, image=target.is_image, channels=channels, preset=preset, scale=scale, mean=mean, std=std)


def _place(
    values: Preprocessing,
    opened: Opened,
    output: tuple[int, int],
    resize: Resize | None,
    box_scale: float,
) -> Preprocessing:
    """Determine how images are brought to the model's size."""
    if resize is None:
        resize = "crop" if opened.source.dtype == np.uint8 else "none"
    if resize not in ("crop", "squash", "none") and (not isinstance(resize, int) or resize < max(output)):
        raise UsageError(
            f"resize {resize} is unknown; expected crop, squash, none, or a side of at least {max(output)}"
        )
    if not 0 < box_scale < float("inf"):
        raise UsageError(f"box_scale {box_scale} is not usable; expected a positive number")
    return replace(values, resize=resize, size=output, box_scale=None if opened.boxes is None else float(box_scale))


def _output_size(opened: Opened, target: Target, size: int | tuple[int, int] | None) -> tuple[int, int]:
    declared = (target.declared("y"), target.declared("x"))
    given = (size, size) if isinstance(size, int) else size
    if given is not None and (len(given) != 2 or not all(1 <= side <= MAX_SIDE for side in given)):
        raise UsageError(f"size {given} is not usable; expected height and width of 1 to {MAX_SIDE} pixels")
    if given is not None and not fits(given, declared):
        raise UsageError(f"size {shape_text(given)} is not what the model takes, {shape_text(declared)}; leave it out")
    height, width = given or declared
    if isinstance(height, int) and isinstance(width, int):
        return height, width
    return _common_size(opened, declared)


def _common_size(opened: Opened, declared: DeclaredShape) -> tuple[int, int]:
    if opened.boxes is not None:
        raise UsageError("the model leaves the image size open and boxes differ in size; give size=...")
    names = opened.source.names
    own = opened.source.size(0)
    for index in range(1, len(names)):
        other = opened.source.size(index)
        if other != own:
            raise InputError(
                f"the model leaves the image size open and images differ: {names[0]} is {shape_text(own)}, "
                f"{names[index]} {shape_text(other)} (height x width); give size=..."
            )
    if not fits(own, declared):
        raise InputError(
            f"images are {shape_text(own)} (height x width), expected {shape_text(declared)}; give size=..."
        )
    return own
