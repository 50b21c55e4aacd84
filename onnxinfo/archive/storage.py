"""The archive as a file: the single writer, and opening files that a crashed writer left open."""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import io
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import h5py

from ..errors import ArchiveError
from ..kinds import HDF5_SIGNATURE
from ..replacing import PART
from ..text import printable
from . import guard, isolation
from .format import AT_REST, LIVE

#: Limits for data kept in memory because a full disk did not take them: in total, and per record.
LOST_BYTES, LOST_RECORD_BYTES = 64 << 20, 1 << 20
SUPERBLOCK_SIZE = 48
LIVE_SUPERBLOCK = 3
FLAGS_OFFSET = 11
END_OFFSET = 28
# Random part of tempfile's names; files that merely share the archive's name as a prefix have more characters.
_RANDOM = "?" * 8
# Time that a writer may take between opening its file and admitting readers.
STARTING_SECONDS = 2


class WriterLock:
    """Exclusive right to write an archive, held through a lock on ``<archive>.lock``.

    The operating system releases the lock when the process ends, however it ends. The archive itself is not locked,
    because HDF5 has its own rules for locking it, and replacing the file would leave the lock behind.

    Raises
    ------
    ArchiveError
        Another process holds the lock, the folder is not writable, or another file has the lock's name.
    """

    def __init__(self, archive: Path) -> None:
        self._path = archive.with_name(archive.name + ".lock")
        self._file: IO[bytes] = self._acquire(archive)
        # Remains of a killed process: nobody else can be writing the archive now.
        for stale in archive.parent.glob(f".{glob.escape(archive.name)}.{_RANDOM}{PART}"):
            stale.unlink(missing_ok=True)

    def _acquire(self, archive: Path) -> IO[bytes]:
        # Readers that look for a writer hold the lock for an instant: retry.
        for attempt in range(5):
            time.sleep(0.05 * attempt)
            try:
                file = self._path.open("ab")
            except OSError as error:
                raise ArchiveError(f"cannot write {archive}: {error.strerror}; choose a writable folder") from None
            if os.fstat(file.fileno()).st_size:
                file.close()
                raise ArchiveError(f"{self._path} is in the place of the archive's lock, and is not empty; move it")
            if _try_lock(file) and self._is_current(file):
                return file
            file.close()
        raise ArchiveError(f"{archive} is being written by another process; wait for it or write to another file")

    def _is_current(self, file: IO[bytes]) -> bool:
        # The previous holder may have removed the file after we opened it and before we locked it.
        try:
            return os.path.samestat(os.fstat(file.fileno()), self._path.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Release the lock."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        self._file.close()

    def __enter__(self) -> WriterLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


def is_being_written(archive: Path) -> bool:
    """Whether a live process holds the right to write the archive."""
    try:
        with archive.with_name(archive.name + ".lock").open("rb") as file:
            return not _try_lock(file, shared=True)
    except OSError:
        return False


def _try_lock(file: IO[bytes], *, shared: bool = False) -> bool:
    try:
        import fcntl
    except ImportError:
        return _try_lock_windows(file)
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        warnings.warn(
            f"{file.name}: the file system offers no locks ({error.strerror}); take care that one process writes",
            stacklevel=4,
        )
    return True


def _try_lock_windows(file: IO[bytes]) -> bool:
    import msvcrt

    try:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    except OSError:
        return False
    return True


def is_being_read(archive: Path) -> bool:
    """Whether any process, including this one, has the archive open through HDF5, which locks open files."""
    with archive.open("r+b") as file:
        return not _try_lock(file)


@contextlib.contextmanager
def create_file(path: Path, libver: tuple[str, str] = AT_REST) -> Iterator[h5py.File]:
    """Yield a new HDF5 file open for writing, with bounds of HDF5's file format.

    Raises
    ------
    OSError
        The file cannot be written; raised after the file is closed.
    """
    with path.open("w+b", buffering=0) as raw:
        target = _Forgiving(raw)
        try:
            with h5py.File(target, "w", libver=libver, track_order=True) as file:
                yield file
        except Exception:
            if target.error is None:
                raise
        if target.error is not None:
            raise target.error


class _Forgiving(io.RawIOBase):
    """A file that accepts every write and remembers the first error.

    HDF5 cannot recover from a failed write, and crashes when the process ends; so the failure is hidden from it. It
    also reads back its own records, and crashes on wrong ones; so data that could not be written are kept, up to
    `LOST_BYTES`, which far exceeds the records of any archive (they are small; maps are not read back).
    """

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._lost: list[tuple[int, bytes]] = []
        self._room = LOST_BYTES
        self.error: OSError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any, /) -> int:
        start = self._file.tell()
        if self.error is None:
            return self._file.readinto(buffer) or 0
        view = memoryview(buffer).cast("B")
        found = self._file.readinto(view) or 0
        view[found:] = bytes(len(view) - found)
        for offset, data in self._lost:
            first, last = max(offset, start), min(offset + len(data), start + len(view))
            if first < last:
                view[first - start : last - start] = data[first - offset : last - offset]
        return len(view)

    def write(self, data: Any, /) -> int:
        rest = memoryview(data).cast("B")
        count = len(rest)
        start = self._file.tell()
        try:
            while len(rest) and self.error is None:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self.error = error
        if len(rest) and len(rest) <= min(self._room, LOST_RECORD_BYTES):
            self._lost.append((start + count - len(rest), bytes(rest)))
            self._room -= len(rest)
        return count

    def truncate(self, size: int | None = None, /) -> int:
        return self._file.truncate(size)


def reserve(file: h5py.File, end: int) -> None:
    """Make sure that the file system has room for the file to grow to `end` bytes.

    HDF5 cannot recover if the disk fills up during a write, so this must not happen.

    Raises
    ------
    ArchiveError
        The disk is full. Nothing was written.
    """
    handle = file.id.get_vfd_handle()
    size = os.fstat(handle).st_size
    if end > size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(handle, size, end - size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise ArchiveError(
                    f"no room for {file.filename} ({error.strerror}); finished cells are safe: free space and run again"
                ) from error


def trim(path: Path) -> None:
    """Release space reserved beyond the end that a closed file's superblock states."""
    with path.open("r+b") as file:
        end = int.from_bytes(file.read(SUPERBLOCK_SIZE)[END_OFFSET : END_OFFSET + 8], "little")
        if SUPERBLOCK_SIZE <= end < os.fstat(file.fileno()).st_size:
            file.truncate(end)


def abandon(file: h5py.File) -> None:
    """Close an HDF5 file that can no longer be written, and leave it unchanged on disk.

    HDF5 would try to write its buffers, now and again when the process ends, and crash. It is given a file in memory
    to write them to.
    """
    with contextlib.suppress(OSError, RuntimeError, AttributeError):
        memory = os.memfd_create("abandoned")
        os.dup2(memory, file.id.get_vfd_handle())
        os.close(memory)
    with contextlib.suppress(OSError, RuntimeError):
        file.close()


def close_read(file: h5py.File) -> None:
    """Close an HDF5 file that was read. If it is damaged, HDF5 may fail to close it after everything was read."""
    with contextlib.suppress(OSError, RuntimeError):
        file.close()


def open_to_read(path: Path) -> h5py.File:
    """Open an HDF5 file for reading, also while it is being written or after its writer crashed.

    Raises
    ------
    ArchiveError
        The file does not exist, is not an HDF5 file, or is damaged.
    """
    for _ in range(STARTING_SECONDS * 10):
        flagged = _flags(_superblock(path)) != 0
        # Use SWMR mode only next to a live writer: on a damaged file, it may never return.
        if not flagged or not is_being_written(path):
            try:
                return open_unwritten(path)
            except ArchiveError:
                # A writer may have opened the file since its flags were read.
                if flagged or not is_being_written(path):
                    raise
        else:
            with contextlib.suppress(OSError):
                return _plain(path, swmr=True)
        time.sleep(0.1)
    return open_unwritten(path)


def open_unwritten(path: Path) -> h5py.File:
    """Open an HDF5 file for reading that nobody writes; the caller holds its :class:`WriterLock`.

    Raises
    ------
    ArchiveError
        The file does not exist, is not an HDF5 file, or is damaged.
    """
    if _flags(_superblock(path)):
        return _opened(path, _as_closed)
    return _opened(path, _plain)


def _superblock(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(SUPERBLOCK_SIZE)
    except OSError as error:
        raise ArchiveError(f"cannot read {path}: {error.strerror}") from None
    if not head.startswith(HDF5_SIGNATURE):
        raise ArchiveError(f"{path} is not an HDF5 file; name a file written by onnxinfo.analyze(...)")
    return head


def _as_closed(path: Path) -> h5py.File:
    return h5py.File(_Named(_Closed(path)), "r")


def _plain(path: Path, *, swmr: bool = False) -> h5py.File:
    try:
        return h5py.File(path, "r", swmr=swmr)
    except OSError as error:
        # In the writer's own process, HDF5 demands that the file is opened as by the writer.
        written_here = swmr and "locking flag" in str(error)
        if not written_here and error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        return h5py.File(path, "r", swmr=swmr, locking=False)


def open_to_write(path: Path) -> h5py.File:
    """Open an HDF5 file for writing; the caller holds the :class:`WriterLock` and has checked for readers.

    HDF5's own lock is not taken: it adds nothing, and some file systems do not support it.
    """
    return h5py.File(path, "r+", libver=LIVE, locking=False)


def open_damaged(path: Path) -> h5py.File:
    """Open an HDF5 file that nobody writes, to rescue what can be read, even if its end is missing.

    Raises
    ------
    ArchiveError
        The file does not exist, is not an HDF5 file, or cannot be opened in this way either.
    """
    _superblock(path)
    try:
        return open_unwritten(path)
    except ArchiveError:
        return _opened(path, _as_closed)


@functools.lru_cache(maxsize=1024)
def _survives(attempt: Callable[[Path], h5py.File], path: Path, *state: int) -> bool:
    """Whether HDF5 survives a file in its present state."""
    return isolation.survives(lambda: guard.walk(attempt(path)))


def _opened(path: Path, attempt: Callable[[Path], h5py.File]) -> h5py.File:
    status = path.stat()
    if not _survives(attempt, path, status.st_ino, status.st_size, status.st_mtime_ns):
        raise ArchiveError(
            f"{path} is damaged or made to do harm: on it the HDF5 library crashes, never ends or takes gigabytes"
        )
    try:
        return attempt(path)
    except (OSError, RuntimeError, ValueError) as error:
        reason = printable(" ".join(str(error).split()))
        raise ArchiveError(f"{path} is damaged: {reason}; try onnxinfo.recover(...)") from error


class _Named(io.BufferedReader):
    """A buffered file; its representation, which h5py takes for the name of the HDF5 file, is its path."""

    def __repr__(self) -> str:
        return str(self.name)


class _Closed(io.RawIOBase):
    """A file as if its writer had closed it: consistency flags cleared, and end of file at its actual size.

    If its end is missing, it is padded with zeros.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._file = path.open("rb", buffering=0)
        self._size = os.fstat(self._file.fileno()).st_size
        self._superblock, self._size = closed_superblock(self._file.read(SUPERBLOCK_SIZE), self._size)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        view = view[: max(0, min(len(view), self._size - self._position))]
        self._file.seek(self._position)
        data = self._file.read(len(view)) or b""
        view[:] = data.ljust(len(view), b"\0")
        covered = self._superblock[self._position : self._position + len(view)]
        view[: len(covered)] = covered
        self._position += len(view)
        return len(view)

    def close(self) -> None:
        self._file.close()
        super().close()


def is_live(path: Path) -> bool:
    """Whether a file has the superblock of files that can be read while they are written."""
    with path.open("rb") as file:
        return file.read(SUPERBLOCK_SIZE)[8] == LIVE_SUPERBLOCK


def is_left_open(path: Path) -> bool:
    """Whether a file's superblock says that a writer has it open."""
    with path.open("rb") as file:
        return _flags(file.read(SUPERBLOCK_SIZE)) != 0


def _flags(superblock: bytes) -> int:
    return superblock[FLAGS_OFFSET] if len(superblock) > FLAGS_OFFSET and superblock[8] == LIVE_SUPERBLOCK else 0


def closed_superblock(superblock: bytes, size: int) -> tuple[bytes, int]:
    """Return a superblock as if the writer had closed a file of `size` bytes, and the size that it states.

    Superblocks of versions other than 2 and 3 (HDF5 file format) are returned unchanged.
    """
    if len(superblock) < SUPERBLOCK_SIZE or superblock[8] not in (2, 3) or superblock[9] != 8:
        return superblock, size
    end = max(size, int.from_bytes(superblock[END_OFFSET : END_OFFSET + 8], "little"))
    body = bytearray(superblock[: SUPERBLOCK_SIZE - 4])
    body[FLAGS_OFFSET] = 0
    body[END_OFFSET : END_OFFSET + 8] = end.to_bytes(8, "little")
    return bytes(body) + lookup3(bytes(body)).to_bytes(4, "little"), end


def lookup3(data: bytes, initial: int = 0) -> int:
    """Return Bob Jenkins's lookup3 hash (``hashlittle``), the checksum of HDF5's metadata."""
    mask = 0xFFFFFFFF

    def rotate(value: int, bits: int) -> int:
        return ((value << bits) | (value >> (32 - bits))) & mask

    a = b = c = (0xDEADBEEF + len(data) + initial) & mask
    blocks = max(0, (len(data) - 1) // 12)
    words = [
        int.from_bytes(data[offset : offset + 4].ljust(4, b"\0"), "little") for offset in range(0, len(data) + 12, 4)
    ]
    for block in range(blocks):
        a, b, c = (value + words[3 * block + i] & mask for i, value in enumerate((a, b, c)))
        a = (a - c & mask) ^ rotate(c, 4)
        c = c + b & mask
        b = (b - a & mask) ^ rotate(a, 6)
        a = a + c & mask
        c = (c - b & mask) ^ rotate(b, 8)
        b = b + a & mask
        a = (a - c & mask) ^ rotate(c, 16)
        c = c + b & mask
        b = (b - a & mask) ^ rotate(a, 19)
        a = a + c & mask
        c = (c - b & mask) ^ rotate(b, 4)
        b = b + a & mask
    if not data:
        return c
    a, b, c = (value + words[3 * blocks + i] & mask for i, value in enumerate((a, b, c)))
    c = (c ^ b) - rotate(b, 14) & mask
    a = (a ^ c) - rotate(c, 11) & mask
    b = (b ^ a) - rotate(a, 25) & mask
    c = (c ^ b) - rotate(b, 16) & mask
    a = (a ^ c) - rotate(c, 4) & mask
    b = (b ^ a) - rotate(a, 14) & mask
    return (c ^ b) - rotate(b, 24) & mask
