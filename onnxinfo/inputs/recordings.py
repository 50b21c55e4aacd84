"""Mono recordings in WAV and FLAC files as float waveforms, read by the optional package `soundfile`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, OnnxinfoError
from ..text import printable
from .axes import shape_text
from .formats import Format, Purpose
from .rows import MAX_ROW_BYTES, Array, Rows, check_file

#: Maximum number of recordings.
MAX_FILES = 100_000


@dataclass(frozen=True)
class _Recording:
    """A file, its number of values, and its sampling rate in Hz."""

    path: Path
    frames: int
    rate: int


class RecordingRows(Rows):
    """Recordings as samples, read on demand.

    Parameters
    ----------
    paths, names
        The files and their names.
    purpose
        The graph input, of shape (time,), (1, time) or (time, 1).

    Raises
    ------
    InputError
        A recording cannot be read, is not mono, has another sampling rate, or has a length that the model does not
        take; there are too many recordings; or the graph input does not take waveforms.
    OnnxinfoError
        The package `soundfile` is not installed.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, paths: Sequence[Path], names: Sequence[str], purpose: Purpose) -> None:
        if len(paths) > MAX_FILES:
            raise InputError(f"{len(paths)} recordings, expected at most {MAX_FILES}; name fewer")
        self._names, self._purpose = list(names), purpose
        self._time = _time_axis(purpose)
        self._files = [_describe(path) for path in paths]
        _check_rates(self._files, purpose.reading.rate)
        self._length = self._settled_length()
        if 4 * self._length > MAX_ROW_BYTES:
            raise InputError(f"recordings of {self._length} values take over {MAX_ROW_BYTES >> 20} MiB each; cut them")
        self.name = "recordings"
        shape = [1] * len(purpose.shape)
        shape[self._time] = self._length
        self.shape = (len(paths), *shape)
        self.axes = tuple("time" if axis == self._time else "channel" for axis in range(len(shape)))

    def name_of(self, position: int) -> str:
        """Return the name of a file."""
        return self._names[position]

    def class_folders(self) -> tuple[npt.NDArray[np.int64] | None, list[str]]:
        """Return the class of each recording, (recordings,), and the class names, if there are two or more folders.

        Otherwise, or if a recording is in no folder, return None and an empty list.
        """
        folders = [name.split("/", 1)[0] if "/" in name else "" for name in self._names]
        classes = sorted(set(folders))
        if len(classes) < 2 or "" in classes:
            return None, []
        return np.array([classes.index(folder) for folder in folders], dtype=np.int64), classes

    def read(self, indices: Sequence[int]) -> Array:
        """Return waveforms, (len(indices), *shape[1:]) of float32; integer formats are scaled to [-1, 1].

        Raises
        ------
        InputError
            A file cannot be read or is damaged.
        """
        values = np.zeros((len(indices), self._length), dtype=np.float32)
        for row, index in zip(values, indices, strict=True):
            found = _read(self._files[index], self._length)
            row[: len(found)] = found
        return values.reshape(len(indices), *self.shape[1:])

    def _settled_length(self) -> int:
        """Number of values of every sample; InputError if a recording has another length and must not be fitted."""
        declared = self._purpose.shape[self._time]
        reading = self._purpose.reading
        frames = [file.frames for file in self._files]
        if isinstance(declared, int):
            length = declared
        elif reading.pads or len(set(frames)) == 1:
            length = max(frames)
        else:
            length = min(frames) if reading.cuts else frames[0]
        for name, count in zip(self._names, frames, strict=True):
            if (count < length and not reading.pads) or (count > length and not reading.cuts):
                expected = "the model takes" if isinstance(declared, int) else f"{self._names[0]} has"
                raise InputError(
                    f"{name} has {count} values, {expected} {length}; give recordings of that length, or "
                    f"fit_length='{'pad' if count < length else 'cut'}'"
                )
        return length


def _time_axis(purpose: Purpose) -> int:
    """Time axis of a sample: its only axis, or the one beside a channel axis of size 1; InputError if there is none."""
    shape = purpose.shape
    if len(shape) == 1:
        return 0
    if len(shape) == 2 and purpose.dtype.kind == "f":
        for channel in (0, 1):
            if shape[channel] == 1 and shape[1 - channel] != 1:
                return 1 - channel
        if not any(isinstance(size, int) for size in shape):
            return 1
    raise InputError(
        f"recordings have one channel, the model takes {shape_text(shape)}; give what it is computed from as an array"
    )


def _check_rates(files: Sequence[_Recording], expected: int | None) -> None:
    """Check that all recordings have the expected sampling rate, or that of the first one; InputError otherwise."""
    first = files[0].rate if expected is None else expected
    for file in files:
        if file.rate != first:
            wanted = f"{files[0].path.name} has {first} Hz" if expected is None else f"expected {first} Hz"
            raise InputError(
                f"{printable(file.path)} is sampled at {file.rate} Hz, {printable(wanted)}; resample it, or give the "
                f"rate=... that the model was trained at"
            )


def _describe(path: Path) -> _Recording:
    check_file(path)
    soundfile = _soundfile()
    try:
        info = soundfile.info(str(path))
    except Exception as error:  # the package raises its own errors, and others on damaged files
        raise _unreadable(path, error) from None
    if info.channels != 1:
        raise InputError(f"{printable(path)} has {info.channels} channels, expected one; mix them down to one")
    if info.frames < 1:
        raise InputError(f"{printable(path)} holds no sound; remove it")
    return _Recording(path, int(info.frames), int(info.samplerate))


def _read(file: _Recording, most: int) -> Array:
    soundfile = _soundfile()
    try:
        values, _ = soundfile.read(str(file.path), frames=min(most, file.frames), dtype="float32", always_2d=True)
    except Exception as error:  # as in _describe
        raise _unreadable(file.path, error) from None
    if len(values) < min(most, file.frames):
        raise InputError(
            f"{printable(file.path)} declares {file.frames} values but holds {len(values)}; the file is damaged"
        )
    found: Array = values[:, 0]
    return found


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = printable(" ".join(str(error).split()).replace(f"Error opening {str(path)!r}: ", ""))[:120]
    return InputError(
        f"{printable(path)} cannot be read as sound: {reason or type(error).__name__}; expected WAV or FLAC"
    )


def _soundfile() -> Any:
    try:
        import soundfile
    except (ModuleNotFoundError, OSError):  # OSError: the package does not find libsndfile
        raise OnnxinfoError("recordings need the package soundfile; run \"pip install 'onnxinfo[audio]'\"") from None
    return soundfile


def _open(path: Path, key: str | None, purpose: Purpose) -> Rows:
    if key is not None:
        raise InputError(f"{printable(path)} holds one recording and takes no key, got {printable(key)}")
    return RecordingRows([path], [printable(path.name)], purpose)


def _open_files(paths: Sequence[Path], names: Sequence[str], purpose: Purpose) -> Rows:
    return RecordingRows(paths, names, purpose)


RECORDINGS = Format(open=_open, open_files=_open_files)
