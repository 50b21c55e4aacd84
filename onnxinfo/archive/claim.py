"""Whether an archive can be made, or a run be added to one, known before any work is done."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..outputs import spare
from ..replacing import check_writable, resolve
from .reading import open as open_archive


def claim_archive(output: str | os.PathLike[str], inputs: Iterable[object] = ()) -> Path:
    """Decide whether a call may add runs to an archive, or make one. Nothing is written.

    Parameters
    ----------
    output
        The archive. A file that exists must be one.
    inputs
        What the call reads, see :func:`onnxinfo.outputs.claim`.

    Returns
    -------
    Path
        The archive, symbolic links followed.

    Raises
    ------
    UsageError
        The output is one of the inputs or no regular file, or there is no such folder.
    ArchiveError
        It exists and is no archive, or is damaged, or is write-protected.
    """
    spare(output, inputs)
    path = resolve(output)
    check_writable(path)
    if path.exists():
        with open_archive(path):
            pass
    return path
