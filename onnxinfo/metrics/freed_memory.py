"""Return the memory of large tensors to the system as soon as they are freed."""

from __future__ import annotations

import contextlib
import ctypes

# Parameter of glibc's mallopt: blocks of at least this many bytes are separate, and returned when they are freed.
_M_MMAP_THRESHOLD = -3
_SEPARATE_BYTES = 4 << 20


def return_freed_tensors() -> None:
    """Keep no memory of freed tensors of 4 MiB and more for later ones; without effect where libc is not glibc.

    After the first large tensors, glibc otherwise keeps blocks of up to 32 MiB, among which those in use are scattered:
    a network of two inputs of 118 MiB each took 750 MiB. Returning them costs time, the more the less a network
    computes with each number.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _SEPARATE_BYTES)
        libc.malloc_trim(0)
