"""Every command with every file that it reads damaged: one line, and no file changed.

A command that is added must be listed, here or in ``RECIPES`` of ``test_outputs.py``, with the files that it reads.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_outputs import RECIPES, arguments, commands, contents, option_of, prepared

from onnxinfo import OnnxinfoError
from onnxinfo.cli import cli

__all__ = ["prepared"]

#: Commands that write no file of their own: arguments, and the files named there.
OTHERS = {
    "runs": ("result.h5", ("result.h5",)),
    "rename": ("result.h5 one uno", ("result.h5",)),
    "delete": ("result.h5 one", ("result.h5",)),
    "validate": ("result.h5", ("result.h5",)),
    "doctor": (
        "model.onnx --inputs samples.npz:images --labels labels.npz:labels",
        ("model.onnx", "weights.data", "samples.npz", "labels.npz"),
    ),
    "check": ("model.onnx", ("model.onnx", "weights.data")),
    "completion": ("bash", ()),
    "decoder list": ("result.h5", ("result.h5",)),
    "decoder show": ("result.h5 relu", ("result.h5",)),
}
LINES = {name: (arguments(name, recipe.output), recipe.inputs) for name, recipe in RECIPES.items()}
LINES |= {name: ([*name.split(), *shlex.split(line)], files) for name, (line, files) in OTHERS.items()}
READ = [(name, file) for name, (_, files) in LINES.items() for file in files]
#: Damage that a command is for, or does not notice.
FINE = {("recover", "result.h5", "cut"), ("decoder list", "result.h5", "folder")}


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def noise(file: Path) -> None:
    file.write_bytes(bytes(range(256)) * 8)


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGES: list[Callable[[Path], None]] = [Path.unlink, cut, noise, folder]


def test_every_command_is_listed() -> None:
    assert {name for name, _ in commands()} == {option_of(name)[0] for name in LINES}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize(("name", "file"), READ)
def test_a_damaged_file_is_one_line_and_changes_nothing(
    name: str,
    file: str,
    damage: Callable[[Path], None],
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = tmp_path / "work"
    shutil.copytree(prepared, work)
    monkeypatch.chdir(work)
    damage(work / file)
    before = contents(work)
    result = CliRunner().invoke(cli, ["-q", *LINES[name][0]])
    error = result.exception
    if (name, file, damage.__name__) in FINE:
        assert error is None
        return
    assert result.exit_code, result.output
    assert isinstance(error, OnnxinfoError | SystemExit), repr(error)
    said = str(error) if isinstance(error, OnnxinfoError) else result.output.strip().splitlines()[-1]
    assert said.isprintable()
    assert 0 < len(said) < 2000
    assert contents(work) == before
