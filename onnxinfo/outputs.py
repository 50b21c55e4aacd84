"""What may become of the files that a call is told to write: every command and public function decides here.

No output replaces an input of the same call. An existing file is replaced only by one of its own kind, or by force; an
HDF5 file only by force. What is written appears as a whole or not at all.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from .errors import ArchiveError, OnnxinfoError, UsageError
from .inputs.files import holds_read_file, named_files
from .kinds import Kind, kind_of
from .replacing import check_writable, is_stream, replacing, resolve, streaming
from .text import quoted

#: Where a command prints; what it prints to may be an input, too.
STANDARD_OUTPUT = Path("/dev/stdout")

_protected: list[Path] = []


@dataclass(frozen=True)
class Output:
    """A file that may be written; made by :func:`claim`.

    Attributes
    ----------
    path
        The file, symbolic links followed, or the stream.
    kind
        What will be written.
    failure
        Class of the error where it cannot be written.
    """

    path: Path
    kind: Kind
    failure: type[OnnxinfoError] = ArchiveError

    def writing(self) -> AbstractContextManager[Path]:
        """Return a context of a temporary path, whose content becomes the output once the block has succeeded.

        Raises
        ------
        OnnxinfoError
            Of the class `failure`: the file cannot be written. What was there before is as it was.
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
    """Decide whether a call may write a file, before it does any work. Nothing is written.

    Parameters
    ----------
    output
        The file. Of a symbolic link, what it points to is written and the link stays. Open files such as
        ``/dev/stdout``, named pipes and character devices are written to as they are.
    kind
        What will be written.
    inputs
        What the call reads, see :func:`~onnxinfo.inputs.files.named_files`.
    force
        Replace an existing file whatever it holds, but no input.
    failure
        Class of the error where the file cannot be written.

    Raises
    ------
    UsageError
        The output is one of the inputs, exists and contains HDF5 or another kind of data, is not a regular file, or
        its folder does not exist.
    OnnxinfoError
        Of the class `failure`: the folder or the file is write-protected.
    """
    spare(output, inputs)
    if is_stream(output):
        return Output(Path(output), kind, failure)
    path = resolve(output)
    check_writable(path, failure)
    if not force:
        _check_kind(path, kind, quoted(output), failure)
    return Output(path, kind, failure)


def claim_folder(output: str | os.PathLike[str]) -> Path:
    """Decide whether a call may put files into a folder, which may have to be made. Nothing is written.

    Raises
    ------
    ArchiveError
        There is something else by that name, or the folder cannot be made or written.
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


def make_folder(folder: Path) -> None:
    """Make a folder that was claimed, and those above it.

    Raises
    ------
    ArchiveError
        It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArchiveError(f"cannot make folder {quoted(folder)}: {error.strerror}; name another one") from error


def spare(output: str | os.PathLike[str], inputs: Iterable[object]) -> None:
    """Refuse an output that is one of the inputs of the same call, by whatever name.

    Hard links, symbolic links and file systems that ignore case are seen through.

    Parameters
    ----------
    output
        A file or stream.
    inputs
        See :func:`claim`.

    Raises
    ------
    UsageError
        It is an input, or was given to :func:`protect`.
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
    """Let no output of this process replace a file from now on."""
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
        # Some file systems make up the numbers by which files are told apart.
        one, other = one.resolve(), other.resolve()
        if _folded(one.name) != _folded(other.name) or not os.path.samefile(one.parent, other.parent):
            return False
        return one.name == other.name or _ignores_case(other)
    except (OSError, RuntimeError):
        return False


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _ignores_case(path: Path) -> bool:
    """Tell whether the file system of an existing file finds it by its name in other letters, too."""
    swapped = path.name.swapcase()
    return swapped not in os.listdir(path.parent) and os.path.lexists(path.with_name(swapped))
