"""Arrays whose bytes are damaged, or change, after their header was read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onnxinfo import InputError
from onnxinfo.inputs import numpy_files
from onnxinfo.inputs.arrays import open_array

ROWS = np.random.default_rng(0).integers(0, 256, (40, 10_000)).astype(np.uint8)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_byte_in_rows_that_are_not_read(save: Callable[..., None], tmp_path: Path) -> None:
    """The checksum of a member covers all of it; a changed byte is found whichever rows are read."""
    path = tmp_path / "rows.npz"
    save(path, rows=ROWS)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"rows\.npz"):
        open_array(f"{path}:rows").read([0])


def test_a_file_that_became_shorter(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, ROWS)
    rows = open_array(str(path))
    path.write_bytes(path.read_bytes()[:-50])
    assert (rows.read([0]) == ROWS[:1]).all()
    with pytest.raises(InputError, match=r"ends before rows\[39\]; it has changed since it was opened"):
        rows.read([39])


def test_a_large_array_in_fortran_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It must be read whole, so it may not be larger than what is kept in memory."""
    path = tmp_path / "rows.npy"
    np.save(path, np.asfortranarray(ROWS))
    assert (open_array(str(path)).read([3, 7]) == ROWS[[3, 7]]).all()
    monkeypatch.setattr(numpy_files, "MAX_LOADED_BYTES", ROWS.nbytes - 1)
    with pytest.raises(InputError, match="Fortran order"):
        open_array(str(path))
