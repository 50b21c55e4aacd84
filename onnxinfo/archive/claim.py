"""Check, before any work is done, that an archive can be created or a run added to it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..outputs import spare
from ..replacing import check_writable, resolve
from .reading import open as open_archive


def claim_archive(output: str | os.PathLike[str], inputs: Iterable[object] = ()) -> Path:
    """Check that a call may create an archive or add runs to it. Nothing is written.

    Whether an existing archive is write-protected does not matter before something is to be added to it.

    Parameters
    ----------
    output
        The archive. An existing file must be one.
    inputs
        Files that the call reads; see :func:`onnxinfo.outputs.claim`.

    Returns
    -------
    Path
        The archive, with symbolic links resolved.

    Raises
    ------
    UsageError
        The output is one of the inputs, is not a regular file, or its folder does not exist.
    ArchiveError
        The file exists and is not an archive or is damaged, or its folder is write-protected.
    """
    spare(output, inputs)
    path = resolve(output)
    if path.exists():
        with open_archive(path):
            pass
    else:
        check_writable(path)
    return path
