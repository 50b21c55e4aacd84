"""Samples in objects of other libraries: torch tensors, datasets and loaders, pictures of PIL, DataFrames.

Libraries are recognized by the names of the classes' modules, so that none is imported for this.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ..errors import InputError
from ..text import printable
from .images import ImageFiles
from .rows import Array, MemoryRows, Rows

logger = logging.getLogger(__name__)

#: Limit for samples of a loader that cannot be read one by one, in bytes.
MAX_HELD_BYTES = 1 << 30
#: Number of items of a dataset that are read for their labels, if it does not list them.
MOST_READ_FOR_LABELS = 4096
#: Remark on a loader that shuffles: its order is another one each time, and an analysis must be repeatable.
_NOT_SHUFFLED = "that of the dataset, which the DataLoader would shuffle"
_STORED_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def is_frame(spec: object) -> bool:
    """Whether an object is a DataFrame of pandas or polars."""
    return any(
        name == "DataFrame" and module.partition(".")[0] in ("pandas", "polars") for module, name in _classes(spec)
    )


def as_pictures(spec: object) -> ImageFiles | None:
    """Return pictures of PIL as image files that are in memory; None for anything else."""
    one = [spec] if isinstance(spec, Image.Image) else spec
    if not isinstance(one, Sequence) or not one or not all(isinstance(each, Image.Image) for each in one):
        return None
    return Pictures([], [f"input[{position}]" for position in range(len(one))], pictures=list(one))


@dataclass
class Pictures(ImageFiles):
    """Pictures in memory."""

    pictures: list[Image.Image] = field(default_factory=list)

    def read(self, position: int) -> bytes:
        """Return a picture as a lossless file."""
        picture = ImageOps.exif_transpose(self.pictures[position])
        buffer = io.BytesIO()
        (picture if picture.mode in _STORED_MODES else picture.convert("RGB")).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


def plain(spec: Any) -> Any:
    """Return a torch tensor as an array and a torch dataset or loader as rows; anything else as it is.

    Raises
    ------
    InputError
        A loader is empty, or its items are no samples.
    """
    classes = _classes(spec)
    if ("torch", "Tensor") in classes:
        return _array(spec)
    if ("torch.utils.data.dataloader", "DataLoader") in classes:
        return _of_loader(spec)
    if ("torch.utils.data.dataset", "IterableDataset") in classes:
        return _held(([item] for item in spec), "dataset")
    if ("torch.utils.data.dataset", "Dataset") in classes:
        return DatasetRows(spec)
    return spec


class DatasetRows(Rows):
    """Items of a torch dataset, read one by one: the sample, or a pair of sample and label.

    Parameters
    ----------
    dataset
        A dataset with a length.

    Raises
    ------
    InputError
        It is empty, or its items are no samples.
    """

    def __init__(self, dataset: Any) -> None:
        count = len(dataset)
        if not count:
            raise InputError("the dataset is empty; expected at least one sample")
        self._dataset = dataset
        first = _sample(dataset[0], "item 0 of the dataset")
        self.name, self.shape, self.dtype = "data", (count, *first.shape), first.dtype

    def read(self, indices: Sequence[int]) -> Array:
        """Return items of the dataset."""
        found = [_sample(self._dataset[index], f"item {index} of the dataset") for index in indices]
        for index, each in zip(indices, found, strict=True):
            if each.shape != self.shape[1:]:
                raise InputError(
                    f"item {index} of the dataset has shape {each.shape} and item 0 {self.shape[1:]}; "
                    "expected one shape, which a transform of the dataset can bring about"
                )
        return np.stack(found).astype(self.dtype)

    def class_folders(self) -> tuple[npt.NDArray[np.int64] | None, list[str]]:
        """Return the labels: those that the dataset lists, else the second element of each item."""
        for name in ("targets", "labels"):
            listed = getattr(self._dataset, name, None)
            if listed is not None and hasattr(listed, "__len__") and len(listed) == len(self):
                return _labels(list(listed))
        first = self._dataset[0]
        if not isinstance(first, tuple | list) or len(first) < 2:
            return None, []
        if len(self) > MOST_READ_FOR_LABELS:
            logger.warning("the dataset has %d items and does not list its labels: give labels", len(self))
            return None, []
        return _labels([self._dataset[index][1] for index in range(len(self))])


class _LabeledRows(MemoryRows):
    def __init__(self, array: Array, name: str, labels: list[Any] | None) -> None:
        super().__init__(array, name)
        self._labels = labels

    def class_folders(self) -> tuple[npt.NDArray[np.int64] | None, list[str]]:
        return (None, []) if self._labels is None else _labels(self._labels)


def _of_loader(loader: Any) -> Rows:
    """Return the dataset's items in its own order if the loader only batches or shuffles them.

    What any other loader yields is held.
    """
    collate = getattr(loader.collate_fn, "__name__", "")
    sampler = type(loader.sampler).__name__
    if collate == "default_collate" and sampler in ("SequentialSampler", "RandomSampler"):
        if not len(loader.dataset):
            raise InputError("the DataLoader is empty; expected at least one sample")
        rows = DatasetRows(loader.dataset)
        if sampler == "RandomSampler":
            rows.order = _NOT_SHUFFLED
        return rows
    return _held(_items(loader), "DataLoader")


def _items(loader: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield the items of each batch of a loader."""
    for batch in loader:
        parts = batch if isinstance(batch, tuple | list) else [batch]
        arrays = [_array(part) if hasattr(part, "shape") else part for part in parts[:2]]
        if not hasattr(arrays[0], "shape") or not arrays[0].ndim:
            raise InputError(f"the DataLoader yields {type(parts[0]).__name__}, expected batches of tensors")
        yield [tuple(row) if len(arrays) > 1 else row[0] for row in zip(*arrays, strict=True)]


def _held(batches: Iterable[Sequence[Any]], what: str) -> Rows:
    samples: list[Array] = []
    labels: list[Any] = []
    size = 0
    for item in (item for batch in batches for item in batch):
        sample = _sample(item, f"item {len(samples)} of the {what}")
        if samples and sample.shape != samples[0].shape:
            raise InputError(
                f"item {len(samples)} of the {what} has shape {sample.shape} and item 0 {samples[0].shape}; "
                "expected one shape"
            )
        samples.append(sample)
        if isinstance(item, tuple | list) and len(item) > 1:
            labels.append(item[1])
        size += sample.nbytes
        if size > MAX_HELD_BYTES:
            raise InputError(
                f"the {what} cannot be read by position, and its samples take more than {MAX_HELD_BYTES >> 20} MiB; "
                "give its dataset, or fewer samples"
            )
    if not samples:
        raise InputError(f"the {what} is empty; expected at least one sample")
    return _LabeledRows(np.stack(samples), "data", labels if len(labels) == len(samples) else None)


def _sample(item: Any, what: str) -> Array:
    """Return the sample of an item: its first element, if it has several."""
    given = item[0] if isinstance(item, tuple | list) and len(item) else item
    if isinstance(given, dict | str | bytes) or given is None:
        raise InputError(f"{what} is {type(given).__name__}, expected a tensor, an array or a picture")
    found = _array(given)
    if found.dtype.kind not in "biuf":
        raise InputError(f"{what} has elements of type {printable(found.dtype)}, expected numbers")
    return found


def _array(value: Any) -> Array:
    """Return a tensor, array or picture as an array; bfloat16, which NumPy lacks, as float32."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if "bfloat16" in str(value.dtype) else value
    found: Array = np.asarray(value)
    return found


def _labels(values: Sequence[Any]) -> tuple[npt.NDArray[np.int64] | None, list[str]]:
    """Return labels as numbers, with the names of classes; None if they are none, such as targets of a regression."""
    found = np.asarray([_array(value) for value in values])
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim == 1 and found.dtype.kind in "biu":
        return found.astype(np.int64), []
    if found.ndim == 1 and found.dtype.kind == "U":
        names = sorted(set(found.tolist()))
        return np.array([names.index(name) for name in found.tolist()], dtype=np.int64), list(map(printable, names))
    return None, []


def _classes(spec: object) -> list[tuple[str, str]]:
    return [(each.__module__, each.__name__) for each in type(spec).__mro__]
