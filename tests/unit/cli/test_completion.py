"""Names that the shell completes."""

import archive_fakes as fakes
import pytest
from click.shell_completion import ShellComplete

from onnxinfo.cli import cli


@pytest.mark.parametrize("command", ["delete", "rename"])
def test_runs_of_the_archive_are_completed(tmp_path, command):
    fakes.make(tmp_path / "a.h5", "first")
    shell = ShellComplete(cli, {}, "onnxinfo", "_ONNXINFO_COMPLETE")
    found = shell.get_completions([command, str(tmp_path / "a.h5")], "f")
    assert [each.value for each in found] == ["first"]
    assert not shell.get_completions([command, str(tmp_path / "a.h5")], "x")
