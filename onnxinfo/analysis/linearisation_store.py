"""The linearizations of all layers at all samples: every layer is solved from its own, long after they were made."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO

import numpy as np
import numpy.typing as npt
import torch

from ..errors import ResourceError
from ..metrics.linearisation import Linearisation

#: Column norms above this many bytes are kept on disk.
MEMORY_BYTES = 16 * 2**20


class LinearisationStore:
    """Linearizations by layer and sample.

    Parameters
    ----------
    layers, samples, units
        How many there are of each.
    """

    def __init__(self, layers: int, samples: int, units: int) -> None:
        shape = layers, samples
        self._units = units
        small = 4 * layers * samples * units <= MEMORY_BYTES
        # A temporary file has no name: nothing is left behind, whatever happens.
        self._file: IO[bytes] = io.BytesIO() if small else tempfile.TemporaryFile()  # noqa: SIM115
        self._samples = samples
        self._normalizer, self._stderr = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
        self._probes = np.zeros(shape, np.int64)

    def put(self, samples: Sequence[int], found: Sequence[Linearisation]) -> None:
        """Keep the linearizations of some samples that follow each other, one for each layer.

        Raises
        ------
        ResourceError
            The disk has no room for them.
        """
        for layer, linearisation in enumerate(found):
            self._normalizer[layer, samples] = linearisation.normalizer.cpu().numpy()
            self._stderr[layer, samples] = linearisation.normalizer_stderr.cpu().numpy()
            self._probes[layer, samples] = linearisation.probes
            self._write(self._place(layer, samples[0]), linearisation.column_norms.cpu().numpy())

    def of(self, layer: int, samples: Sequence[int]) -> Linearisation:
        """Return a layer's linearization at some samples that follow each other."""
        self._file.seek(self._place(layer, samples[0]))
        data = self._file.read(4 * self._units * len(samples))
        norms: npt.NDArray[np.float32] = np.frombuffer(bytearray(data), np.float32).reshape(len(samples), self._units)
        where = layer, list(samples)
        return Linearisation(
            torch.from_numpy(norms),
            torch.from_numpy(self._normalizer[where]),
            torch.from_numpy(self._stderr[where]),
            int(self._probes[where].max()),
        )

    def normalizers(self) -> list[float]:
        """``D`` of every layer averaged over all samples (the paper's normalization)."""
        return [float(mean) for mean in self._normalizer.mean(1, dtype=np.float64).astype(np.float32)]

    def close(self) -> None:
        """Free what is kept."""
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


@contextlib.contextmanager
def linearisation_store(layers: int, samples: int, units: int) -> Iterator[LinearisationStore]:
    """Keep linearizations for as long as a block lasts."""
    kept = LinearisationStore(layers, samples, units)
    try:
        yield kept
    finally:
        kept.close()
