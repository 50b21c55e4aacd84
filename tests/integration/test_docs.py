"""Help texts, their examples, and the docs generated from them."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import archive_fakes as fakes
import click
import pytest
from click.testing import CliRunner
from places import DOCS

import onnxinfo
from onnxinfo.cli import COMMANDS, cli
from onnxinfo.models import path as bundled

#: Examples that take minutes or need outside data: they are parsed here, not run.
COMPUTING = {
    "analyze",
    "doctor",
    "oneshot",
    "demo",
    "decoder",
    "check",
    "sensitivity",
    "sweep",
    "similarity",
    "recommend",
    "leakage",
    "coherency",
    "prune",
    "rescale",
    "robustness",
    "extract",
}


def examples():
    context = click.Context(cli, info_name="onnxinfo", **cli.context_settings)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        children = command.commands.values() if isinstance(command, click.Group) else [command]
        for each in children:
            lines = re.findall(r"^\s+onnxinfo (.+)$", each.help or "", re.MULTILINE)
            yield from ((name, line) for line in lines if ">" not in line)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    model = folder / "model.onnx"
    model.write_bytes(bundled("digits-cnn.onnx").read_bytes())
    layers = [layer for layer in onnxinfo.list_layers(model) if layer.default][:4]
    recipe = fakes.schema().recipe | {"model_sha256": onnxinfo.load(model).sha256}
    described = fakes.schema(layers=layers, recipe=recipe)
    for name, run in {"result": "baseline", "a": "one", "b": "two", "monday": "one", "tuesday": "two"}.items():
        fakes.make(folder / f"{name}.h5", run, described)
    return folder


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch):
    shutil.copytree(prepared, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.mark.parametrize(("name", "line"), [*examples()])
def test_examples_run(name, line, folder):
    arguments = shlex.split(line)
    if name in COMPUTING:
        command, rest = cli, arguments
        context = click.Context(cli, obj={}, **cli.context_settings)
        while isinstance(command, click.Group):
            command, rest = command.get_command(context, rest[0]), rest[1:]
        command.make_context(name, rest, parent=context)
        return
    if name == "rename":
        onnxinfo.rename_run("result.h5", "baseline", arguments[2])
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, (result.output, result.exception)


def test_every_command_has_an_example():
    assert {name for name, _ in examples()} == {*COMMANDS}


@pytest.mark.parametrize("name", [*COMMANDS])
def test_help_shows_examples_line_by_line(name):
    wanted = [line for command, line in examples() if command == name]
    context = click.Context(cli, info_name="onnxinfo", **cli.context_settings)
    command = cli.get_command(context, name)
    children = command.commands.values() if isinstance(command, click.Group) else [command]
    shown = [click.Context(each, parent=context).get_help() for each in children]
    lines = [line.strip() for text in shown for line in text.splitlines()]
    assert [line for line in wanted if f"onnxinfo {line}" not in lines] == []
    assert "\\b" not in "".join(shown)


def test_the_reference_is_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    from cli_reference import TARGET, reference

    assert TARGET.read_text() == reference(), "run python docs/cli_reference.py"


def test_the_site_builds_without_warnings(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-q",
        "-f",
        DOCS.parent / "mkdocs.yml",
        "-d",
        tmp_path,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tutorial" / "index.html").exists()


def test_as_a_module_and_as_a_process(folder):
    environment = os.environ | {"NO_COLOR": "1"}
    for start in ([sys.executable, "-m", "onnxinfo"], [Path(sys.executable).with_name("onnxinfo")]):
        done = subprocess.run([*start, "query", "a.h5"], capture_output=True, text=True, env=environment, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "one" in done.stdout
        assert "\x1b" not in done.stdout + done.stderr
    done = subprocess.run([*start, "query", "a.h5", "--run", "oen"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "onnxinfo: error: no run 'oen' in a.h5; did you mean 'one'?\n"


def test_views_start_without_heavy_imports(folder):
    code = (
        "import sys; from onnxinfo.cli import cli; cli(['query', 'a.h5'], standalone_mode=False);"
        "print([m for m in ('torch', 'onnxruntime', 'onnx', 'matplotlib', 'pandas', 'duckdb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "[]"
