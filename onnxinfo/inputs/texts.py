"""Texts as samples: tokenized for models that take token ids, unchanged for models that take text.

The tokenizer is read from a JSON file by the optional package `tokenizers`; nothing is downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, OnnxinfoError, UsageError
from ..text import printable, quoted
from .axes import shape_text
from .formats import Declared, Format, Purpose, Reading
from .rows import MAX_ROW_BYTES, Array, MemoryRows, Rows, check_file

#: Maximum size of a text file and of a tokenizer file, in bytes.
MAX_TEXT_BYTES, MAX_TOKENIZER_BYTES = 1 << 28, 1 << 28
#: Output of the tokenizer for a graph input, by a word in the input's name.
_PARTS = {"mask": "attention_mask", "type": "type_ids", "segment": "type_ids", "position": "positions"}
_PADS = ("[PAD]", "<pad>", "<PAD>", "<|endoftext|>")


def read_texts(path: Path) -> Rows:
    """Read a UTF-8 file with one text per line.

    Returns
    -------
    Rows
        Texts, (texts,) of NumPy strings.

    Raises
    ------
    InputError
        The file is too large, is not UTF-8, is empty, or has an empty line.
    """
    check_file(path)
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise InputError(f"{printable(path)} is larger than {MAX_TEXT_BYTES >> 20} MiB; give fewer texts")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{printable(path)} is not UTF-8 ({error.reason}); save it as UTF-8") from None
    texts = [line.removesuffix("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
    if not texts:
        raise InputError(f"{printable(path)} is empty; expected a text in each line")
    empty = next((number for number, text in enumerate(texts, 1) if not text.strip()), None)
    if empty is not None:
        raise InputError(f"{printable(path)}, line {empty}, is empty; expected a text in each line")
    longest = max(map(len, texts))
    if 4 * longest * len(texts) > 4 * MAX_TEXT_BYTES:
        raise InputError(
            f"{printable(path)} has {len(texts)} texts of up to {longest} characters, more than "
            f"{MAX_TEXT_BYTES >> 18} MiB if padded; give shorter or fewer texts"
        )
    return MemoryRows(np.array(texts), printable(path.stem))


def tokenized(texts: Rows, declared: Declared, reading: Reading) -> dict[str, Rows]:
    """Tokenize texts for the integer inputs of a model.

    Parameters
    ----------
    texts
        Texts, (samples,).
    declared
        Graph inputs. Inputs whose names contain ``mask``, ``type`` or ``segment``, or ``position`` get the attention
        mask, token type ids or positions; all others get the token ids.
    reading
        The tokenizer, and whether texts are cut or padded.

    Returns
    -------
    dict
        Integers (samples, tokens) by graph input. Texts are padded to the longest one, or to the model's fixed length.

    Raises
    ------
    UsageError
        No tokenizer is given.
    InputError
        The tokenizer cannot be read, a graph input does not take integers of shape (batch, tokens), a text has no
        tokens, the tokens take more than 1 GiB, or the model does not take texts of these lengths.
    OnnxinfoError
        The package `tokenizers` is not installed.
    """
    if reading.tokenizer is None:
        raise UsageError(f"{texts.name} holds texts and the model takes token ids; give tokenizer=...")
    parts = {name: _part(name) for name in declared}
    for name, (shape, dtype) in declared.items():
        if len(shape) != 1 or np.dtype(dtype).kind not in "iu":
            raise InputError(
                f"input {quoted(name)} is not of token ids: a tokenizer fills integers of shape (batch, tokens); give "
                f"inputs='NAME=SPEC,...'"
            )
    tokenizer = _load(reading.tokenizer)
    # By default the tokenizer truncates silently, and pads to a length that may differ from the model's.
    truncation, pad = tokenizer.truncation, _padding_id(tokenizer)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    given = [str(text) for text in texts.read(range(len(texts)))]
    encoded = tokenizer.encode_batch(given)
    lengths = [len(each.ids) for each in encoded]
    for number, length in enumerate(lengths):
        if not length:
            raise InputError(f"{texts.name_of(number)} has no tokens; remove the text")
    fixed = {size for shape, _ in declared.values() for size in shape if isinstance(size, int)}
    masked = "attention_mask" in parts.values()
    length = _length(texts, lengths, fixed, masked, reading, truncation)
    if 8 * length * len(lengths) > MAX_ROW_BYTES * 4:
        raise InputError(f"{len(lengths)} texts of {length} tokens take more than 1 GiB; give fewer or shorter texts")
    if max(lengths) > length:
        # The tokenizer's own truncation keeps the special tokens at the end.
        tokenizer.enable_truncation(length)
        encoded = tokenizer.encode_batch(given)
    fill: dict[str, tuple[Callable[[Any], Sequence[int]], int]] = {
        "ids": (lambda each: each.ids, pad),
        "attention_mask": (lambda each: each.attention_mask, 0),
        "type_ids": (lambda each: each.type_ids, 0),
        "positions": (lambda each: range(len(each.ids)), 0),
    }
    return {
        name: MemoryRows(_filled([fill[part][0](each) for each in encoded], length, fill[part][1]), texts.name)
        for name, part in parts.items()
    }


def _part(name: str) -> str:
    found = [part for word, part in _PARTS.items() if word in name.casefold()]
    return found[0] if found else "ids"


def _length(
    texts: Rows, lengths: Sequence[int], fixed: set[int], masked: bool, reading: Reading, truncation: Any
) -> int:
    """Number of tokens of every sample; InputError if the model does not take texts of these lengths."""
    if len(fixed) > 1:
        raise InputError(f"the model takes {sorted(fixed)} tokens in its inputs; give inputs='NAME=SPEC,...'")
    longest, most = max(lengths), next(iter(fixed), None)
    if most is None and reading.cuts and truncation:
        most = min(longest, int(truncation["max_length"]))
    length = most or longest
    if longest > length and not reading.cuts:
        raise InputError(
            f"{texts.name_of(int(np.argmax(lengths)))} has {longest} tokens, the model takes {length}; give shorter "
            f"texts, or fit_length='cut'"
        )
    if min(lengths) < length and not masked and not reading.pads:
        raise InputError(
            f"texts have {min(lengths)} to {longest} tokens and the model takes {length} without an attention mask, "
            f"which would exclude padding; give texts of the same length, or fit_length='pad'"
        )
    return length


def _filled(sequences: Sequence[Sequence[int]], length: int, fill: int) -> Array:
    """Stack sequences of integers, padded with `fill`, as (sequences, length) of int64."""
    values = np.full((len(sequences), length), fill, dtype=np.int64)
    for row, sequence in zip(values, sequences, strict=True):
        row[: len(sequence)] = list(sequence)
    return values


def _padding_id(tokenizer: Any) -> int:
    """Token id of padding: the configured one, else that of a conventional padding token, else 0."""
    if tokenizer.padding:
        return int(tokenizer.padding["pad_id"])
    return next((found for pad in _PADS if (found := tokenizer.token_to_id(pad)) is not None), 0)


def _load(path: str | os.PathLike[str]) -> Any:
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError:
        raise OnnxinfoError("texts need the package tokenizers; run \"pip install 'onnxinfo[text]'\"") from None
    file = Path(path)
    check_file(file)
    if file.stat().st_size > MAX_TOKENIZER_BYTES:
        raise InputError(f"tokenizer {printable(path)} is larger than {MAX_TOKENIZER_BYTES >> 20} MiB")
    try:
        return Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except Exception as error:  # the package raises bare Exception
        reason = printable(" ".join(str(error).split()))[:160]
        raise InputError(
            f"tokenizer {printable(path)} cannot be read: {reason}; expected the tokenizer.json of a tokenizers model"
        ) from None


def _open(path: Path, key: str | None, purpose: Purpose) -> Rows:
    if key is not None:
        raise InputError(f"{printable(path)} holds one text a line and takes no key, got {quoted(key)}")
    if purpose.dtype.kind not in "iuO":
        raise InputError(
            f"{printable(path)} is neither an image nor an array file: a model takes texts as text or as token ids, "
            f"this one takes {shape_text(purpose.shape)} of {purpose.dtype}"
        )
    texts = read_texts(path)
    if purpose.dtype.kind != "O":
        return tokenized(texts, {purpose.name: (purpose.shape, purpose.dtype)}, purpose.reading)[purpose.name]
    return _ColumnOfTexts(texts) if len(purpose.shape) == 1 else texts


class _ColumnOfTexts(MemoryRows):
    """Texts of shape (samples, 1), for models that take them so."""

    def __init__(self, texts: Rows) -> None:
        super().__init__(texts.read(range(len(texts)))[:, None], texts.name)


def _open_all(path: Path, key: str | None, declared: Declared, reading: Reading) -> dict[str, Rows]:
    if key is not None:
        raise InputError(f"{printable(path)} holds one text a line and takes no key, got {quoted(key)}")
    return tokenized(read_texts(path), declared, reading)


TEXTS = Format(open=_open, open_all=_open_all)
