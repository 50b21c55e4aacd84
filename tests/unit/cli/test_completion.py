"""Names that the shell completes and help lists."""

import archive_fakes as fakes
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from onnxinfo.cli import cli
from onnxinfo.registry import ENGINES, METRICS, PLOTS


@pytest.mark.parametrize("command", ["delete", "rename"])
def test_runs_of_the_archive_are_completed(tmp_path, command):
    fakes.make(tmp_path / "a.h5", "first")
    shell = ShellComplete(cli, {}, "onnxinfo", "_ONNXINFO_COMPLETE")
    found = shell.get_completions([command, str(tmp_path / "a.h5")], "f")
    assert [each.value for each in found] == ["first"]
    assert not shell.get_completions([command, str(tmp_path / "a.h5")], "x")


def completed(*arguments):
    *before, incomplete = arguments
    return [each.value for each in ShellComplete(cli, {}, "onnxinfo", "_").get_completions(before, incomplete)]


@pytest.mark.parametrize(("registry", "command", "option"), [
    (METRICS, "analyze", "--metric"), (ENGINES, "robustness", "--engine"),
])  # fmt: skip
def test_names_of_plug_ins_are_choices(monkeypatch, registry, command, option):
    monkeypatch.setattr(registry, "_registered", {"sidelong": object()})
    assert completed(command, "m.onnx", option, "side") == ["sidelong"]
    text = " ".join(CliRunner().invoke(cli, [command, "--help"]).stdout.split())
    assert f"{option} [{'|'.join(registry.names())}]" in text


def test_kinds_of_plots_are_choices(monkeypatch, tmp_path):
    monkeypatch.setattr(PLOTS, "_registered", {"dials": object()})
    assert "difference" not in completed("plot", "di")
    assert completed("plot", "a.h5", "di")[:3] == ["difference", "distribution", "dials"]
    assert "Kinds of installed packages: dials" in CliRunner().invoke(cli, ["plot", "--help"]).stdout


def test_metrics_of_the_archive_are_completed(tmp_path):
    fakes.make(tmp_path / "a.h5", "first")
    assert completed("query", str(tmp_path / "a.h5"), "--metric", "g") == ["gradient"]


def test_nothing_is_completed_after_an_unknown_command():
    assert completed("nosuch", "--l") == []
