"""Read weights stored in external files, from the model's own folder only."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path, PureWindowsPath

import onnx
from google.protobuf.message import DecodeError

from ..errors import ModelError
from ..text import printable, quoted
from . import protos
from .tensor_data import MEMORY, byte_count, is_external
from .weights import DetachedData, is_large, mark_external


def read_external_data(model: onnx.ModelProto, folder: Path | None, digest: Callable[[bytes], object]) -> DetachedData:
    """Read the data of every tensor that is stored outside the model file.

    Parameters
    ----------
    model
        The model; small tensors get their data, large ones are marked.
    folder
        Folder of the model file; None if the model did not come from a file.
    digest
        Called with the data of each tensor, in the order of the model.

    Returns
    -------
    dict
        Data of the large tensors, by position in :func:`onnxinfo.graph.protos.tensors`.

    Raises
    ------
    ModelError
        A file is missing, too short, not a regular file or outside the folder; the model has no folder; or the data
        exceed the memory.
    """
    outside = {i: tensor for i, tensor in enumerate(protos.tensors(model)) if is_external(tensor)}
    if not outside:
        return {}
    if folder is None:
        raise ModelError("the model keeps weights in external files, but was not given as one; give its path")
    total = sum(byte_count(tensor) for tensor in outside.values())
    if total > MEMORY:
        raise ModelError(
            f"external data of {total / 2**30:.0f} GiB, the machine has {MEMORY / 2**30:.0f} GiB of memory"
        )
    aside: DetachedData = {}
    for i, tensor in outside.items():
        data = read_tensor(tensor, folder)
        digest(data)
        if is_large(tensor):
            mark_external(tensor)
            aside[i] = data
        else:
            del tensor.external_data[:]
            tensor.ClearField("data_location")
            tensor.raw_data = data
    return aside


def external_files(path: Path) -> list[Path]:
    """Return the files that store tensors of a model file, without duplicates; none if it is not a model.

    Files outside the model's folder, which are never read, are omitted.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except (OSError, DecodeError, RuntimeError):
        return []
    found: dict[Path, None] = {}
    for tensor in external_tensors(model):
        with contextlib.suppress(ModelError):
            found[inside(tensor, path.parent)] = None
    return list(found)


def inside(tensor: onnx.TensorProto, folder: Path) -> Path:
    """Return the file with the data of a tensor, in the model's folder."""
    location = next((entry.value for entry in reversed(tensor.external_data) if entry.key == "location"), "")
    return _inside(location, folder, printable(tensor.name))


def external_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """List the tensors that are stored outside the model file."""
    yield from filter(is_external, protos.tensors(model))


def read_tensor(tensor: onnx.TensorProto, folder: Path) -> bytes:
    """Read the data of a tensor that is stored in a file in the model's folder."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    name, location, count = printable(tensor.name), printable(entries.get("location", "")), byte_count(tensor)
    path = inside(tensor, folder)
    try:
        offset, length = (int(entries.get(key) or default) for key, default in (("offset", 0), ("length", count)))
    except ValueError:
        raise ModelError(f"external data of '{name}': offset and length must be numbers; export again") from None
    if offset < 0 or length != count:
        raise ModelError(
            f"external data of '{name}': {length} bytes at {offset}, its shape takes {count}; export again"
        )
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for its writer.
        with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelError(f"external data of '{name}': {location} is not a regular file")
            if status.st_size < offset + length:
                raise ModelError(
                    f"external data of '{name}': {location} has {status.st_size} bytes, expected at least "
                    f"{offset + length}; it is truncated"
                )
            file.seek(offset)
            return file.read(length)
    except FileNotFoundError:
        raise ModelError(f"external data of '{name}': {location} is missing; put it beside the model") from None
    except OSError as error:
        raise ModelError(f"external data of '{name}': {location} cannot be read: {error.strerror}") from error


def _inside(location: str, folder: Path, name: str) -> Path:
    """Resolve a location in the model's folder; neither its name nor a link may lead outside."""
    parts = PureWindowsPath(location)
    try:
        outside = (
            not location
            or parts.drive
            or parts.root
            or ".." in parts.parts
            or not (path := (folder / location).resolve()).is_relative_to(folder.resolve())
        )
    except (OSError, RuntimeError, ValueError):
        outside = True
    if outside:
        raise ModelError(
            f"external data of '{name}': location {quoted(location)} is not inside the model's folder; "
            f"put the file there and name it relative to the model"
        )
    return path
