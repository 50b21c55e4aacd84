"""Input formats whose readers depend on the graph inputs and on the user's settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .axes import DeclaredShape
from .rows import Rows


@dataclass(frozen=True)
class Reading:
    """Settings of readers.

    Attributes
    ----------
    tokenizer
        JSON file of a tokenizer, for texts.
    rate
        Sampling rate that recordings must have, in Hz; None: the rate of the first one.
    fit_length
        Treatment of texts and recordings whose length the model does not take: ``none`` (refuse them), ``pad``,
        ``cut`` or ``both``.
    labels
        Labels as specified by the user. A column of the table that holds them is an input only if selected by name.
    """

    tokenizer: str | os.PathLike[str] | None = None
    rate: int | None = None
    fit_length: str = "none"
    labels: object = None

    @property
    def pads(self) -> bool:
        """Whether texts and recordings that are too short are padded."""
        return self.fit_length in ("pad", "both")

    @property
    def cuts(self) -> bool:
        """Whether texts and recordings that are too long are cut."""
        return self.fit_length in ("cut", "both")


@dataclass(frozen=True)
class Purpose:
    """Graph input that samples are read for, and the settings for reading them.

    Attributes
    ----------
    name
        Name of the graph input; empty if unknown.
    shape
        Declared shape of one sample.
    dtype
        Element type; ``object`` for text.
    reading
        Settings of the reader.
    """

    name: str = ""
    shape: DeclaredShape = (None,)
    dtype: np.dtype[np.generic] = field(default_factory=lambda: np.dtype(object))
    reading: Reading = Reading()

    @classmethod
    def of(cls, kinds: str) -> Purpose:
        """Return the purpose of an array that is for no graph input; `kinds` are NumPy's letters of element kinds."""
        return cls(dtype=np.dtype(object if "U" in kinds else np.float64))


#: Shape of one sample and element type by graph input, in the model's order.
Declared = Mapping[str, tuple[DeclaredShape, npt.DTypeLike]]


@dataclass(frozen=True)
class Format:
    """Entry of :data:`onnxinfo.registry.READERS` for formats that need more than ``open(path, key, kinds)``.

    Attributes
    ----------
    open
        ``open(path, key, purpose)`` returns the samples of one graph input.
    open_all
        ``open_all(path, key, declared, reading)`` returns the samples of all graph inputs, by name; None if a file
        holds the samples of only one.
    open_files
        ``open_files(paths, names, purpose)`` returns one sample per file; None if a file holds several samples.
    """

    open: Callable[[Path, str | None, Purpose], Rows]
    open_all: Callable[[Path, str | None, Declared, Reading], dict[str, Rows]] | None = None
    open_files: Callable[[Sequence[Path], Sequence[str], Purpose], Rows] | None = None
