"""Read the dimension scales of an archive's datasets, in a separate process.

HDF5 keeps the lists of scales in a heap without checksums; if it is damaged, the library may loop forever or crash.
Only the validator reads them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py

from ..errors import ArchiveError
from . import guard
from .isolation import limit_computing
from .reading import open as open_archive

# CPU time; on a busy machine, the wall time may be longer.
CPU_SECONDS = 5
TIMEOUT_SECONDS = 120
MEMORY_BYTES = 2 << 30

Names = dict[str, list[list[str]]]


def dimension_names(path: Path, run: str) -> Names:
    """Return the names of the scales attached to each dimension of each dataset of a run.

    Raises
    ------
    ArchiveError
        The names cannot be read.
    """
    # Without -P, the child would import modules from the current folder.
    command = [sys.executable, "-P", "-m", __name__, str(path), run]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_SECONDS, check=True, text=True)
        names: Names = json.loads(done.stdout)
    except (subprocess.SubprocessError, ValueError):
        raise ArchiveError("the dimension lists cannot be read; onnxinfo.recover(...) writes them anew") from None
    return names


def _read(path: str, run: str) -> Names:
    with open_archive(path) as archive:
        group = archive[run].group
        found = {name: guard.member(group, name, h5py.Dataset) for name in guard.members(group)}
        return {
            name: [[str(scale.name).rsplit("/", 1)[-1] for scale in dim.values()] for dim in item.dims]
            for name, item in found.items()
            if item is not None
        }


def _limit() -> None:
    try:
        import resource
    except ImportError:
        return
    limit_computing(CPU_SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


if __name__ == "__main__":
    _limit()
    json.dump(_read(*sys.argv[1:]), sys.stdout)
