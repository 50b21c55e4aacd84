"""Run the terminal session of docs/session.md: ``python docs/session.py`` writes the output of its commands anew.

Commands run in one process and a fresh folder with copies of bundled files. ``tests/integration/test_docs_session.py``
runs them, too, and compares.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

TARGET = Path(__file__).with_name("session.md")
#: Bundled files that the session finds in its folder.
FILES = ("digits-cnn.onnx", "digits.npz")
#: Width of the terminal, in characters.
COLUMNS = "110"
_BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
#: Lines of the progress display, which a terminal overwrites.
_PROGRESS = re.compile(r"^.*\d+ of \d+ \(\d+%\).*\n", re.MULTILINE)


def commands(text: str) -> list[str]:
    """Return the command lines of a page, without the prompt, in their order."""
    blocks = "".join(_BLOCK.findall(text)).replace("\\\n", " ")
    return [line.removeprefix("$ ") for line in blocks.splitlines() if line.startswith("$ ")]


def outputs(text: str) -> list[str]:
    """Return what a page shows below each command."""
    found = []
    for block in _BLOCK.findall(text):
        parts = re.split(r"^\$ (?:.*\\\n)*.*\n", block, flags=re.MULTILINE)
        found += parts[1:]
    return found


def recorded(lines: Sequence[str]) -> Iterator[str]:
    """Run command lines in the present folder, one by one, and yield what each prints to both streams."""
    from onnxinfo.cli import main

    code = 0
    for line in lines:
        if line == "echo $?":
            yield f"{code}\n"
            continue
        program, *arguments = shlex.split(line)
        if program != "onnxinfo":
            raise ValueError(f"{line!r}: a command of onnxinfo or 'echo $?' expected")
        printed = io.StringIO()
        sys.argv = [program, *arguments]
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            try:
                main()
                code = 0
            except SystemExit as done:
                code = int(done.code or 0)
        yield _PROGRESS.sub("", "\n".join(line.rstrip() for line in printed.getvalue().splitlines()) + "\n").lstrip()


@contextlib.contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    """Work in a folder with copies of the session's files, as in a terminal of a fixed width."""
    from onnxinfo.models import path

    for name in FILES:
        shutil.copy(path(name), folder)
    before, arguments = dict(os.environ), sys.argv
    os.environ |= {"COLUMNS": COLUMNS, "NO_COLOR": "1"}
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        sys.argv = arguments


def renewed(text: str) -> str:
    """Return a page with the output of its commands as they print it now."""
    with tempfile.TemporaryDirectory() as folder, in_folder(Path(folder)):
        fresh = recorded(commands(text))

        def block(match: re.Match[str]) -> str:
            shown = re.findall(r"^\$ (?:.*\\\n)*.*\n", match[1], flags=re.MULTILINE)
            return "```console\n" + "\n".join(command + next(fresh) for command in shown).rstrip("\n") + "\n```"

        return _BLOCK.sub(block, text)


if __name__ == "__main__":
    TARGET.write_text(renewed(TARGET.read_text(encoding="utf-8")), encoding="utf-8")
