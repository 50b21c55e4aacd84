"""Why bytes are no ONNX model: cut off, or something else altogether."""

from __future__ import annotations

# Field numbers of onnx.ModelProto and their protobuf wire types (0: varint, 2: length-delimited).
_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
# How other files begin that are taken for models.
_KNOWN = {
    b"PK\x03\x04": "a zip archive, such as a PyTorch checkpoint or a Keras model; export it to ONNX",
    b"\x89HDF": "an HDF5 file; export the model to ONNX",
    b"version https://git-lfs": "a Git LFS pointer; run 'git lfs pull' to fetch the model",
    b"\x80\x02": "a pickle, such as a PyTorch checkpoint; export the model to ONNX",
    b"\x1f\x8b": "compressed with gzip; decompress it",
}


def why_unreadable(data: bytes) -> str:
    """Say what is wrong with bytes that do not parse as a model."""
    if data[4:8] == b"ORTM":
        return "is in ONNX Runtime's own format, expected an ONNX file; give the model it was made from"
    for start, what in _KNOWN.items():
        if data.startswith(start):
            return f"is {what}"
    if _is_cut_off(data):
        return "is truncated: it ends in the middle of an ONNX model; copy or export it again"
    return f"is not an ONNX file: it starts with {data[:16]!r}; export the model to ONNX"


def _is_cut_off(data: bytes) -> bool:
    """Whether all top-level fields are those of a model, and the last one reaches beyond the end."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        if key is None:
            return position >= len(data) and position > 1
        if _FIELDS.get(key >> 3) != key & 7:
            return False
        value, position = _varint(data, position)
        if value is None:
            return True
        if key & 7 == 2:
            position += value
    return position > len(data)


def _varint(data: bytes, position: int) -> tuple[int | None, int]:
    value = 0
    for i, byte in enumerate(data[position : position + 10]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, position + i + 1
    return None, len(data)
