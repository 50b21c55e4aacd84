"""Atomic file writes: files are written to a temporary path and renamed, or passed to a stream."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import ArchiveError, OnnxinfoError, UsageError
from .text import quoted

#: Suffix of files that are being written.
PART = ".part"
_MAX_LINKS = 40
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d+)")
_STANDARD = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}


def resolve(path: str | os.PathLike[str]) -> Path:
    """Return the file at `path`, with symbolic links resolved; it need not exist.

    Raises
    ------
    UsageError
        The path is not a regular file, has no parent folder, or is invalid.
    """
    try:
        resolved = Path(path).resolve()
        is_folder = resolved.parent.is_dir()
        if resolved.is_symlink() or (resolved.exists() and not resolved.is_file()):
            raise UsageError(f"{quoted(path)} is not a regular file; name another one")
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{quoted(path)} cannot be a file ({reason}); name another one") from None
    if not is_folder:
        raise UsageError(f"folder {quoted(resolved.parent)} does not exist; create it first")
    return resolved


def descriptor_of(path: str | os.PathLike[str]) -> int | None:
    """Return the descriptor of an open file that a path such as ``/dev/stdout`` refers to; None for other paths."""
    followed = os.path.abspath(path)
    for _ in range(_MAX_LINKS):
        if followed in _STANDARD:
            return _STANDARD[followed]
        if match := _DESCRIPTOR.fullmatch(followed):
            return int(match[1])
        if not os.path.islink(followed):
            return None
        followed = os.path.abspath(os.path.join(os.path.dirname(followed), os.readlink(followed)))
    return None


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Whether a path is an open file such as ``/dev/stdout``, a named pipe or a character device."""
    try:
        if descriptor_of(path) is not None:
            return True
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def check_writable(path: Path, failure: type[OnnxinfoError] = ArchiveError) -> None:
    """Check that a file at a resolved path may be created or replaced.

    Raises
    ------
    OnnxinfoError
        Of the class `failure`: the folder or the file is write-protected.
    """
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise failure(f"{quoted(path)} cannot be written: its folder is write-protected; choose a writable folder")
    if path.exists() and not os.access(path, os.W_OK):
        raise failure(f"{quoted(path)} cannot be written: it is write-protected; name another file")


@contextlib.contextmanager
def replacing(path: Path, failure: type[OnnxinfoError] = ArchiveError) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`, which replaces `path` if the block succeeds.

    Until then the original stays unchanged, whatever happens; the new content is on disk before it replaces the old,
    and gets the old file's permissions. For archives, the caller holds the
    :class:`~onnxinfo.archive.storage.WriterLock`.

    Parameters
    ----------
    path
        The file, see :func:`resolve`.
    failure
        Class of the error raised.

    Raises
    ------
    OnnxinfoError
        The folder cannot be written or is full.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
    except OSError as error:
        raise failure(f"{quoted(path)} cannot be written: {error.strerror}; choose a writable folder") from None
    os.close(handle)
    part = Path(name)
    try:
        yield part
        _copy_permissions(path, part)
        fsync(part)
        os.replace(part, path)
        fsync_folder(path.parent)
    except OSError as error:
        reason = error.strerror or error
        raise failure(f"{quoted(path)} cannot be written: {reason}; nothing was changed") from error
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def streaming(path: Path, failure: type[OnnxinfoError] = ArchiveError) -> Iterator[Path]:
    """Yield a temporary path whose content is sent to a stream, see :func:`is_stream`, if the block succeeds.

    Raises
    ------
    OnnxinfoError
        Of the class `failure`: the stream cannot be written.
    BrokenPipeError
        The stream has no reader any more.
    """
    with tempfile.TemporaryDirectory(prefix="onnxinfo-") as folder:
        part = Path(folder, "part")
        part.touch()
        yield part
        number = descriptor_of(path)
        try:
            # Keep the order with what was printed before.
            sys.stdout.flush()
            with (
                part.open("rb") as source,
                open(path, "wb") if number is None else os.fdopen(os.dup(number), "wb") as stream,
            ):
                shutil.copyfileobj(source, stream)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise failure(f"{quoted(path)} cannot be written: {error.strerror or error}") from error


def _copy_permissions(path: Path, part: Path) -> None:
    if path.exists():
        before, now = path.stat(), part.stat()
        if (before.st_uid, before.st_gid) != (now.st_uid, now.st_gid):
            with contextlib.suppress(OSError):
                shutil.chown(part, before.st_uid, before.st_gid)
        shutil.copymode(path, part)
    else:
        mask = os.umask(0)
        os.umask(mask)
        part.chmod(0o666 & ~mask)


def fsync(path: Path) -> None:
    """Return once the file's content is on disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def fsync_folder(folder: Path) -> None:
    """Return once the folder's entries are on disk, if the system supports it."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
