"""Input formats that need to know what their samples are for: the graph inputs, and how the user wants them read."""

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
    """How files of some formats are read.

    Attributes
    ----------
    tokenizer
        The JSON file of a tokenizer, for texts.
    rate
        Sampling rate that recordings must have, in Hz.
    fit_length
        What is done with texts and recordings of another length than the model takes: ``none``, ``pad``, ``cut`` or
        ``both``.
    labels
        The labels of the samples as they were named: a column of the same table is none of the model's.
    """

    tokenizer: str | os.PathLike[str] | None = None
    rate: int | None = None
    fit_length: str = "none"
    labels: object = None

    @property
    def pads(self) -> bool:
        """Whether what is too short is padded."""
        return self.fit_length in ("pad", "both")

    @property
    def cuts(self) -> bool:
        """Whether what is too long is cut."""
        return self.fit_length in ("cut", "both")


@dataclass(frozen=True)
class Purpose:
    """The graph input that samples are for.

    Attributes
    ----------
    name
        Its name; empty where it is not known.
    shape
        One sample as the model declares it.
    dtype
        Its element type; ``object`` for text.
    reading
        How the files are read.
    """

    name: str = ""
    shape: DeclaredShape = (None,)
    dtype: np.dtype[np.generic] = field(default_factory=lambda: np.dtype(object))
    reading: Reading = Reading()

    @classmethod
    def of(cls, kinds: str) -> Purpose:
        """Return the purpose of an array of these kinds of elements (NumPy's letters) that is for no graph input."""
        return cls(dtype=np.dtype(object if "U" in kinds else np.float64))


#: Shape of one sample and element type by graph input, in the model's order.
Declared = Mapping[str, tuple[DeclaredShape, npt.DTypeLike]]


@dataclass(frozen=True)
class Format:
    """An input format, as :data:`onnxinfo.registry.READERS` has it where ``open(path, key, kinds)`` is not enough.

    Attributes
    ----------
    open
        ``open(path, key, purpose)`` returns the samples of one graph input.
    open_all
        ``open_all(path, key, declared, reading)`` returns the samples of all graph inputs, by name; None where a file
        has the samples of one only.
    open_files
        ``open_files(paths, names, purpose)`` returns one sample of each file; None where a file holds many samples.
    """

    open: Callable[[Path, str | None, Purpose], Rows]
    open_all: Callable[[Path, str | None, Declared, Reading], dict[str, Rows]] | None = None
    open_files: Callable[[Sequence[Path], Sequence[str], Purpose], Rows] | None = None
