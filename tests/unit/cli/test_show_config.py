"""Settings in effect, where they come from, and the options that commands share."""

import pytest
from click.testing import CliRunner

from onnxinfo.cli import COMMANDS, cli


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """Run a command in an empty folder; return its rows as words by setting."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        result = CliRunner().invoke(cli, [*arguments, "--show-config"])
        assert result.exit_code == 0, result.output
        return {".".join(row[:2]): " ".join(row[2:]) for row in map(str.split, result.stdout.splitlines()[2:])}

    return run


def test_every_source_of_a_setting_is_named(shown, monkeypatch, tmp_path):
    (tmp_path / "onnxinfo.toml").write_text("[input]\nlimit = 8\nscale = 2.0\n[execution]\nthreads = 3\n")
    monkeypatch.setenv("ONNXINFO_SCALE", "4")
    monkeypatch.setenv("ONNXINFO_ENGINE", "ray")
    rows = shown("analyze", "--engine", "local", "--batch-axis", "x=1")
    assert rows["input.limit"] == "8 onnxinfo.toml"
    assert rows["input.scale"] == "4 ONNXINFO_SCALE"
    assert rows["execution.engine"] == "local --engine"
    assert rows["input.batch_axis"] == "x=1 --batch-axis"
    assert rows["sid.solver"] == "auto default"
    assert rows["selection.exclude"] == "(none) default"


def test_a_named_file_replaces_the_usual_one(shown, tmp_path):
    (tmp_path / "onnxinfo.toml").write_text("[input]\nlimit = 8\n")
    (tmp_path / "other.toml").write_text("[sid]\nseed = 5\n")
    rows = shown("coherency", "--config", "other.toml")
    assert (rows["sid.seed"], rows["input.limit"].split()[-1]) == ("5 other.toml", "default")


def test_the_usual_file_is_announced_and_a_folder_of_its_name_is_not_read(shown, tmp_path):
    (tmp_path / "onnxinfo.toml").mkdir()
    assert shown("analyze")["input.limit"].endswith(" default")
    (tmp_path / "onnxinfo.toml").rmdir()
    (tmp_path / "onnxinfo.toml").touch()
    assert CliRunner().invoke(cli, ["analyze", "--show-config"]).stderr == "settings are read from onnxinfo.toml\n"


def test_a_wrong_setting_is_an_error(tmp_path):
    result = CliRunner().invoke(cli, ["analyze", "--limit", "many", "--show-config"])
    assert result.exit_code == 2
    assert "--limit" in result.stderr


def commands(group, prefix=()):
    for name in group.list_commands(None):
        found = group.get_command(None, name)
        yield from commands(found, (*prefix, name)) if hasattr(found, "list_commands") else [((*prefix, name), found)]


@pytest.mark.parametrize("name", [" ".join(name) for name, found in commands(cli)
                                  if any("--config" in each.opts for each in found.params)])  # fmt: skip
def test_every_command_with_a_configuration_file_shows_it(shown, name):
    assert shown(*name.split())["input.limit"].endswith(" default")


#: Options that only one of two commands has, and why.
ONLY = {
    "oneshot": {"--force"},  # replaces plots and reports, too
    "coherency": {"--run", "--factor", "--pairs", "--dry-run", "--unit"},  # its runs have fixed names
    "robustness": {"--layers", "--unit", "--exclude", "--metric", "--dry-run"},  # is measured at the scores
}


@pytest.mark.parametrize("name", ONLY)
def test_commands_that_analyze_have_the_same_options(name):
    """An option that means the same exists in all of them, with the same help."""
    first, other = ({max(each.opts, key=len): each for each in cli.get_command(None, command).params
                     if each.param_type_name == "option"} for command in ("analyze", name))  # fmt: skip
    assert first.keys() ^ other.keys() == ONLY[name]
    for flag in first.keys() & other.keys() - {"--output", "--metric", "--format"}:
        assert first[flag].help == other[flag].help, flag
    assert {"analyze", *ONLY} <= {*COMMANDS}
