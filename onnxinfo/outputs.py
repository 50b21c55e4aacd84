"""Rules for output files: every command and public function checks its outputs here.

An output never replaces an input of the same call. An existing file is replaced only by one of its own kind or by
force; an HDF5 file only by force. Files are written atomically: as a whole or not at all.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .errors import ArchiveError, OnnxinfoError, UsageError
from .inputs.files import holds_read_file, named_files
from .kinds import Kind, kind_of
from .replacing import check_writable, is_stream, replacing, resolve, streaming
from .text import quoted

#: Standard output of a command, which may be redirected to an input file.
STANDARD_OUTPUT = Path("/dev/stdout")

_protected: list[Path] = []


@dataclass(frozen=True)
class Output:
    """A file that may be written; returned by :func:`claim`.

    Attributes
    ----------
    path
        The file, with symbolic links resolved, or the stream.
    kind
        Kind of file to be written.
    failure
        Error class for failures to write.
    """

    path: Path
    kind: Kind
    failure: type[OnnxinfoError] = ArchiveError

    def writing(self) -> AbstractContextManager[Path]:
        """Return a context with a temporary path, whose content becomes the output if the block succeeds.

        Raises
        ------
        OnnxinfoError
            Of the class `failure`: the file cannot be written. Existing content is unchanged.
        """
        return (streaming if is_stream(self.path) else replacing)(self.path, self.failure)


def claim(
    output: str | os.PathLike[str],
    kind: Kind,
    *,
    inputs: Iterable[object] = (),
    force: bool = False,
    failure: type[OnnxinfoError] = ArchiveError,
) -> Output:
    """Check that a call may write a file, before it does any work. Nothing is written.

    Parameters
    ----------
    output
        The file. For a symbolic link, its target is written and the link stays. Open files such as ``/dev/stdout``,
        named pipes and character devices are written directly.
    kind
        Kind of file to be written.
    inputs
        Files that the call reads; see :func:`~onnxinfo.inputs.files.named_files`.
    force
        Replace an existing file whatever it contains, but never an input.
    failure
        Error class for failures to write.

    Raises
    ------
    UsageError
        The output is one of the inputs, exists and contains HDF5 or another kind of data, is not a regular file, its
        name is that of another format, or its folder does not exist.
    OnnxinfoError
        Of the class `failure`: the folder or the file is write-protected.
    """
    spare(output, inputs)
    if is_stream(output):
        return Output(Path(output), kind, failure)
    if Path(output).suffix.lower() in kind.text_suffixes:
        raise UsageError(
            f"{quoted(output)} would be read as text, and {kind.title} is written in binary form; name another file"
        )
    path = resolve(output)
    check_writable(path, failure)
    if not force:
        _check_kind(path, kind, quoted(output), failure)
    return Output(path, kind, failure)


def claim_folder(output: str | os.PathLike[str]) -> Path:
    """Check that a call may write files to a folder, creating it if necessary. Nothing is written.

    Raises
    ------
    ArchiveError
        The path exists and is not a folder, or the folder cannot be created or written.
    """
    folder = Path(output)
    try:
        existing = next(each for each in (folder, *folder.absolute().parents) if os.path.lexists(each))
        reason = "" if existing.is_dir() else f"{quoted(existing)} is not a folder"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    if not reason and not os.access(existing, os.W_OK | os.X_OK):
        reason = f"{quoted(existing)} is write-protected"
    if reason:
        raise ArchiveError(f"cannot make folder {quoted(folder)}: {reason}; name another one")
    return folder


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Create a folder that was claimed, including its parents; if the block fails and wrote nothing, remove them.

    Raises
    ------
    ArchiveError
        The folder cannot be created.
    """
    missing = [each for each in (folder, *folder.parents) if not os.path.lexists(each)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArchiveError(f"cannot make folder {quoted(folder)}: {error.strerror}; name another one") from error
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for each in missing:
                each.rmdir()
        raise


def spare(output: str | os.PathLike[str], inputs: Iterable[object]) -> None:
    """Refuse an output that is one of the inputs of the same call, under any name.

    Hard links, symbolic links and case-insensitive file systems are taken into account.

    Parameters
    ----------
    output
        A file or stream.
    inputs
        See :func:`claim`.

    Raises
    ------
    UsageError
        The output is an input, or was passed to :func:`protect`.
    """
    path = Path(output)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return
    except (OSError, ValueError):
        return
    for file in (*_protected, *named_files([*inputs])):
        if holds_read_file(file, path) if file.is_dir() else _is_same(file, path):
            raise UsageError(f"output {quoted(output)} would replace the input {quoted(file)}; name another file")


def protect(path: str | os.PathLike[str]) -> None:
    """Refuse to replace a file by any further output of this process."""
    _protected.append(Path(path).absolute())


def _check_kind(path: Path, kind: Kind, given: str, failure: type[OnnxinfoError]) -> None:
    if not path.exists():
        return
    try:
        if path.stat().st_size == 0:
            return
        found = kind_of(path)
    except OSError as error:
        raise failure(f"{given} exists and cannot be read ({error.strerror}); name another file") from error
    if found is not kind:
        holds = "something else" if found is None else found.title
        raise UsageError(
            f"{given} exists and is {holds}, and {kind.title} would replace it; "
            f"name another file, or replace it with force=True"
        )


def _is_same(one: Path, other: Path) -> bool:
    try:
        if os.path.samefile(one, other):
            return True
        # Some file systems invent inode numbers.
        one, other = one.resolve(), other.resolve()
        if _folded(one.name) != _folded(other.name) or not os.path.samefile(one.parent, other.parent):
            return False
        return one.name == other.name or _ignores_case(other)
    except (OSError, RuntimeError):
        return False


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _ignores_case(path: Path) -> bool:
    """Whether the file system of an existing file ignores case in its name."""
    swapped = path.name.swapcase()
    return swapped not in os.listdir(path.parent) and os.path.lexists(path.with_name(swapped))
