"""Linearizations of all layers at all samples, stored from the first pass until each layer is solved."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, Self

import numpy as np
import numpy.typing as npt
import torch

from ..errors import ResourceError
from ..metrics.linearization import Linearization

#: Column norms larger than this, in bytes, are stored on disk.
MEMORY_BYTES = 16 * 2**20


class LinearizationStore:
    """Linearizations by layer and sample.

    Parameters
    ----------
    layers, samples, units
        Numbers of layers, samples and units.
    """

    def __init__(self, layers: int, samples: int, units: int) -> None:
        shape = layers, samples
        self._units = units
        small = 4 * layers * samples * units <= MEMORY_BYTES
        # A temporary file without a name leaves nothing behind, whatever happens.
        self._file: IO[bytes] = io.BytesIO() if small else tempfile.TemporaryFile()  # noqa: SIM115
        self._samples = samples
        self._normalizer, self._stderr = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
        self._probes = np.zeros(shape, np.int64)

    def put(self, samples: Sequence[int], found: Sequence[Linearization]) -> None:
        """Store the linearizations of consecutive samples, one per layer.

        Raises
        ------
        ResourceError
            The disk is full.
        """
        for layer, linearization in enumerate(found):
            self._normalizer[layer, samples] = linearization.normalizer.cpu().numpy()
            self._stderr[layer, samples] = linearization.normalizer_stderr.cpu().numpy()
            self._probes[layer, samples] = linearization.probes
            self._write(self._place(layer, samples[0]), linearization.column_norms.cpu().numpy())

    def of(self, layer: int, samples: Sequence[int]) -> Linearization:
        """Return a layer's linearization at consecutive samples."""
        self._file.seek(self._place(layer, samples[0]))
        data = self._file.read(4 * self._units * len(samples))
        norms: npt.NDArray[np.float32] = np.frombuffer(bytearray(data), np.float32).reshape(len(samples), self._units)
        where = layer, list(samples)
        return Linearization(
            torch.from_numpy(norms),
            torch.from_numpy(self._normalizer[where]),
            torch.from_numpy(self._stderr[where]),
            int(self._probes[where].max()),
        )

    def normalizers(self) -> list[float]:
        """``D`` of every layer averaged over all samples (the paper's normalization)."""
        return [float(mean) for mean in self._normalizer.mean(1, dtype=np.float64).astype(np.float32)]

    def close(self) -> None:
        """Free memory and disk."""
        self._file.close()

    def _write(self, place: int, norms: npt.NDArray[np.float32]) -> None:
        try:
            self._file.seek(place)
            self._file.write(norms.astype(np.float32, copy=False).tobytes())
        except OSError as error:
            raise ResourceError(
                f"{tempfile.gettempdir()} has no room for what is kept of all layers ({error.strerror}); "
                f"set TMPDIR to a folder that has"
            ) from error

    def _place(self, layer: int, sample: int) -> int:
        return 4 * self._units * (layer * self._samples + sample)


class SharedLinearizations:
    """Linearizations that several runs of the same layers and samples use, because they do not depend on alpha.

    Attributes
    ----------
    blocks
        Blocks of samples that are in the store.
    """

    def __init__(self) -> None:
        self.blocks: set[tuple[int, ...]] = set()
        self._store: LinearizationStore | None = None
        self._depends: object = None

    def store(self, depends: object, layers: int, samples: int, units: int) -> LinearizationStore:
        """Return the store; a new one if what linearizations depend on, or its size, has changed."""
        described = depends, layers, samples, units
        if self._store is None or self._depends != described:
            self.close()
            self._store, self._depends = LinearizationStore(layers, samples, units), described
        return self._store

    def close(self) -> None:
        """Free memory and disk."""
        if self._store is not None:
            self._store.close()
        self._store, self.blocks = None, set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def linearization_store(layers: int, samples: int, units: int) -> Iterator[LinearizationStore]:
    """Provide a store of linearizations within a with block."""
    kept = LinearizationStore(layers, samples, units)
    try:
        yield kept
    finally:
        kept.close()
