"""Determine whether bytes are an ONNX model, and if not, whether they are truncated or something else."""

from __future__ import annotations

from mmap import mmap

# Field numbers of onnx.ModelProto and their protobuf wire types (0: varint, 2: length-delimited).
_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
_GRAPH = 7
# First bytes of other files that are mistaken for models.
_KNOWN = {
    b"PK\x03\x04": "a zip archive, such as a PyTorch checkpoint or a Keras model; export it to ONNX",
    b"\x89HDF": "an HDF5 file; export the model to ONNX",
    b"version https://git-lfs": "a Git LFS pointer; run 'git lfs pull' to fetch the model",
    b"\x80\x02": "a pickle, such as a PyTorch checkpoint; export the model to ONNX",
    b"\x1f\x8b": "compressed with gzip; decompress it",
}


def why_unreadable(data: bytes) -> str:
    """Explain why bytes cannot be parsed as a model."""
    if data[4:8] == b"ORTM":
        return "is in ONNX Runtime's own format, expected an ONNX file; give the model it was made from"
    for start, what in _KNOWN.items():
        if data.startswith(start):
            return f"is {what}"
    _, end = _walk(data)
    if end is None:
        return f"is not an ONNX file: it starts with {data[:16]!r}; export the model to ONNX"
    if end > len(data):
        return "is truncated: it ends in the middle of an ONNX model; copy or export it again"
    return "is damaged: an ONNX model with parts that cannot be read, or nested too deeply; export it again"


def is_model(data: bytes | mmap) -> bool:
    """Whether bytes, which may be a memory-mapped file, are the fields of a model with a graph."""
    fields, end = _walk(data)
    return end == len(data) and _GRAPH in fields


def _walk(data: bytes | mmap) -> tuple[set[int], int | None]:
    """Numbers of the top-level fields, and the end of the last one, which may lie beyond the data.

    The end is None if the fields are not those of a model.
    """
    fields: set[int] = set()
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        if key is None:
            return fields, len(data) + 1 if position > 1 else None
        if _FIELDS.get(key >> 3) != key & 7:
            return fields, None
        fields.add(key >> 3)
        value, position = _varint(data, position)
        if value is None:
            return fields, len(data) + 1
        if key & 7 == 2:
            position += value
    return fields, position


def _varint(data: bytes | mmap, position: int) -> tuple[int | None, int]:
    value = 0
    for i, byte in enumerate(data[position : position + 10]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, position + i + 1
    return None, len(data)
