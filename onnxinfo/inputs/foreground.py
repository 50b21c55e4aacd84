"""Foregrounds of images, for concentration: boxes or masks, mapped into the model's input along with their images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, UsageError
from ..text import none_has, printable
from .annotations import read_coco, read_csv, read_voc
from .arrays import holds_array, open_array
from .geometry import Geometry
from .images import decode, find_images, read_bytes
from .samples import Samples

Array = npt.NDArray[Any]
#: Boxes and masks: an array of (samples, 4) or (samples, height, width), or the name of a file or folder with them.
ForegroundSpec = str | os.PathLike[str] | npt.NDArray[Any]

#: Tolerance, in pixels, for boxes beyond the image's edge: some tools count pixels from 1, some from 0.
EDGE = 1.0


@dataclass(frozen=True)
class Region:
    """Foreground of one image, in pixels of the original: boxes (k, 4), or a lazily read mask."""

    boxes: Array | None = None
    mask: Callable[[], Array] | None = None

    def inside(self, geometry: Geometry) -> npt.NDArray[np.bool_]:
        """Foreground pixels of the model's input, (y, x).

        Raises
        ------
        InputError
            A box is empty or outside the image, or a mask is empty or of another size.
        """
        if self.boxes is not None:
            return _painted(geometry.boxes(_checked(self.boxes, geometry.source)), geometry.output)
        return geometry.mask(self._loaded())

    def around(self) -> Array:
        """Bounding box of the whole region, (4,): xmin, ymin, xmax, ymax."""
        if self.boxes is not None:
            return np.concatenate([self.boxes[:, :2].min(0), self.boxes[:, 2:].max(0)])
        rows, columns = np.nonzero(self._loaded())
        return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=np.float64)

    def _loaded(self) -> Array:
        assert self.mask is not None
        mask = self.mask()
        if not mask.any():
            raise InputError("the mask is empty, expected foreground where it is not zero")
        return mask


class Foreground(Mapping[str, Region]):
    """Regions by image name, or by position in the source.

    An image is matched by its name, its name without the folder, or without the suffix: the box of ``cat/1.jpg`` may be
    called ``1.jpg`` or ``1``.

    Parameters
    ----------
    title
        Name given by the user.
    named
        Regions by name.
    rows
        Regions by position if they have no names; None: no region for this image.
    """

    def __init__(
        self, title: str, named: Mapping[str, Region] | None = None, rows: Sequence[Region | None] | None = None
    ) -> None:
        self.title, self.rows = title, rows
        self._named = dict(named or {})

    def __getitem__(self, name: str) -> Region:
        return self._named[self.key(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._named)

    def __len__(self) -> int:
        return len(self._named)

    def key(self, name: str) -> str:
        """The name under which an image's region is stored.

        Raises
        ------
        KeyError
            The image has no region.
        """
        alone = name.rsplit("/", 1)[-1]
        for key in (name, os.path.splitext(name)[0], alone, os.path.splitext(alone)[0]):
            if key in self._named:
                return key
        raise KeyError(name)

    def crops(self) -> Array | Mapping[str, Sequence[float]]:
        """Boxes to crop images to, in the form that :func:`onnxinfo.open_samples` takes."""
        if self.rows is None:
            return _Around(self)
        return np.stack([np.full(4, np.nan) if region is None else region.around() for region in self.rows])

    def masks(self, samples: Samples) -> npt.NDArray[np.uint8]:
        """Map all foregrounds into the model's input.

        Parameters
        ----------
        samples
            Images.

        Returns
        -------
        ndarray
            (samples, y, x): 1 in the foreground, else 0. All 0 if an image has no foreground, or none within the crop.

        Raises
        ------
        InputError
            A box or mask does not fit its image, their number differs from that of the samples, or no sample has one.
        UsageError
            The samples are not images.
        """
        if not samples.is_image:
            raise UsageError("a foreground needs images, the model's input is " + " x ".join(samples.layout))
        if self.rows is not None and len(self.rows) != samples.available:
            raise InputError(f"{self.title} has {len(self.rows)} entries, the samples are {samples.available}")
        shape = [samples.shape[samples.layout.index(axis)] for axis in ("y", "x")]
        masks = np.zeros((len(samples), *shape), dtype=np.uint8)
        for index, region in enumerate(self._matched(samples)):
            if region is None:
                continue
            try:
                masks[index] = region.inside(samples.geometry(index))
            except InputError as error:
                raise InputError(f"{self.title}, sample {samples.names[index]}: {error}") from None
        if not masks.any():
            known = f", it has {', '.join(map(printable, [*self][:3]))}" if len(self) else ""
            raise InputError(f"{self.title}: {none_has(len(samples), 'sample', 'foreground')}{known}")
        return masks

    def _matched(self, samples: Samples) -> list[Region | None]:
        if self.rows is not None:
            return [self.rows[position] for position in samples.positions.tolist()]
        taken: dict[str, str] = {}
        matched: list[Region | None] = []
        for name in samples.names:
            if name not in self:
                matched.append(None)
                continue
            key = self.key(name)
            if key in taken:
                raise InputError(
                    f"{self.title}: {printable(key)} could be {taken[key]} or {name}; name them with their folders"
                )
            taken[key] = name
            matched.append(self[name])
        return matched


class _Around(Mapping[str, Sequence[float]]):
    """Boxes around the regions of a foreground, by name."""

    def __init__(self, foreground: Foreground) -> None:
        self._foreground = foreground

    def __getitem__(self, name: str) -> Sequence[float]:
        corners: list[float] = self._foreground[name].around().tolist()
        return corners

    def __iter__(self) -> Iterator[str]:
        return iter(self._foreground)

    def __len__(self) -> int:
        return len(self._foreground)


def open_foreground(spec: ForegroundSpec) -> Foreground:
    """Read boxes or masks.

    Parameters
    ----------
    spec
        Boxes (samples, 4) of xmin, ymin, xmax, ymax in pixels of the original images (not finite: no box for this
        image) or masks (samples, height, width), nonzero in the foreground: an array, ``FILE.npz:key``, ``.npy`` or
        ``FILE.h5:/dataset``. A CSV file of boxes, each preceded by its image's name, with one line per box, or without
        names in the order of the samples. A COCO JSON file with ``bbox`` entries. A folder of Pascal VOC XML files, or
        of PNG masks, named like the images.

    Raises
    ------
    InputError
        The source cannot be read, or contains neither boxes nor masks.
    """
    if not isinstance(spec, str | os.PathLike):
        return _from_array(np.asarray(spec), "the foreground")
    text = os.fspath(spec)
    title = f"foreground {printable(text)}"
    if holds_array(text) and not os.path.isdir(text):
        rows = open_array(text)
        if len(rows.shape) not in (2, 3):
            raise _misshapen(title, rows.shape)
        return _from_array(rows.read(range(len(rows))), title)
    path = Path(text)
    if path.is_dir():
        return _from_folder(path, title)
    named, boxes = read_coco(path) if path.suffix.lower() == ".json" else read_csv(path)
    if named is None:
        return _from_array(np.asarray(boxes, dtype=np.float64), title)
    return Foreground(title, {name: Region(boxes[rows]) for name, rows in named.items()})


def _from_array(values: Array, title: str) -> Foreground:
    if values.dtype.kind not in "biuf":
        raise InputError(f"{title} has elements of type {values.dtype}, expected numbers")
    if values.ndim == 2 and values.shape[1] == 4:
        boxes = values.astype(np.float64)
        found = [Region(boxes=box[None]) if np.isfinite(box).all() else None for box in boxes]
        return Foreground(title, rows=found)
    if values.ndim == 3:
        return Foreground(title, rows=[Region(mask=partial(np.asarray, mask)) for mask in values])
    raise _misshapen(title, values.shape)


def _misshapen(title: str, shape: Sequence[int]) -> InputError:
    return InputError(
        f"{title} has shape {tuple(shape)}, expected boxes (samples, 4) or masks (samples, height, width)"
    )


def _from_folder(path: Path, title: str) -> Foreground:
    if any(entry.suffix.lower() == ".xml" for entry in path.iterdir()):
        return Foreground(title, {name: Region(boxes=boxes) for name, boxes in read_voc(path).items()})
    files = find_images(path)
    regions = {
        name: Region(mask=partial(_read_mask, file)) for name, file in zip(files.names, files.paths, strict=True)
    }
    # Masks have another suffix than the photographs.
    return Foreground(title, {os.path.splitext(name)[0]: region for name, region in regions.items()})


def _read_mask(file: Path) -> Array:
    return decode(read_bytes(file), 1)[..., 0]


def _checked(boxes: Array, source: tuple[int, int]) -> Array:
    height, width = source
    low, high = boxes[:, :2], boxes[:, 2:]
    for box in boxes[~(np.isfinite(boxes).all(1) & (low < high).all(1))]:
        raise InputError(f"box {box.tolist()} is empty, expected xmin < xmax and ymin < ymax")
    outside = (low < -EDGE).any(1) | (high > np.array([width, height]) + EDGE).any(1)
    for box in boxes[outside]:
        raise InputError(f"box {box.tolist()} lies outside the image of {width}x{height} pixels")
    return boxes


def _painted(boxes: Array, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Pixels whose centers are in any of the boxes."""
    inside = np.zeros(size, dtype=bool)
    y, x = (np.arange(side) + 0.5 for side in size)
    for left, top, right, bottom in boxes:
        inside |= ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))
    return inside


def crops_of(objects: Foreground | None, times: float | None) -> dict[str, Any]:
    """Return the options for cropping images to their objects, as keywords of :func:`onnxinfo.open_samples`.

    Raises
    ------
    UsageError
        Cropping is requested, but there are no boxes or masks.
    """
    if times is None:
        return {}
    if objects is None:
        raise UsageError("crop_to_box needs boxes or masks to crop to; give foreground=...")
    return {"boxes": objects.crops(), "box_scale": times}
