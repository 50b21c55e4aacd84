"""Stand-ins for standard streams that the caller has closed, for which Python has None."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any


class _Closed(io.RawIOBase):
    """A stream that refuses to be written, as a closed one does, and says what to do."""

    def writable(self) -> bool:
        """Accept writes, of which each fails."""
        return True

    def write(self, data: Any) -> int:
        """Raise OSError."""
        raise OSError(errno.EBADF, "standard output is closed; send it to a file, or to /dev/null")


def stand_in() -> None:
    """Replace closed standard streams: input is empty, messages are dropped, and printing to the output fails."""
    # Files that are opened later, such as archives, must not get the numbers of these streams.
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(_Closed(), encoding="utf-8", write_through=True)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
