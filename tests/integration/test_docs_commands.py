"""Every command line that README and docs show exists with these options."""

import re
import shlex

import click
import pytest
from places import DOCS

from onnxinfo.cli import cli

PAGES = [DOCS.parent / "README.md", *sorted(page for page in DOCS.glob("*.md") if page.name != "cli.md")]
# With a prompt, in a block of code, or in a container; the line may end in a pipe, a comment or the next command.
LINE = re.compile(r"^(?:\s*\$ | {4,}(?:docker run .* )?)?onnxinfo (?!\.)(?:[^`\n]*\\\n)*.*$", re.MULTILINE)


def lines():
    """Return (page, arguments) of every command line in a block of code."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        fenced, indented = r"```(?:\w+)?\n(.*?)```", r"(?:^ {4}.*\n)+"
        for block in re.findall(fenced, text, re.DOTALL) + re.findall(indented, text, re.MULTILINE):
            for line in LINE.findall(block):
                command = line.replace("\\\n", " ").strip().removeprefix("$ ")
                rest = command[command.index("onnxinfo ") + len("onnxinfo ") :]
                # A container may also run another program of the image.
                if not rest.startswith("/"):
                    yield page.name, rest


def arguments(line):
    """Split a line as a shell does, up to a comment, pipe, redirection or the next command."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    found = []
    for token in lexer:
        if set(token) <= set("|&;>"):
            break
        found.append(token)
    return found


@pytest.fixture
def files(monkeypatch, tmp_path):
    """All files exist; configuration files are empty. Logs stay as they are."""
    monkeypatch.setattr("onnxinfo.cli.verbosity._show_log", lambda *, detailed: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "analysis.toml").touch()
    monkeypatch.setattr(click.Path, "convert", lambda self, value, param, ctx: value)


@pytest.mark.parametrize(("page", "line"), [*lines()])
def test_it_parses(page, line, files):
    command, rest = cli, arguments(line)
    context = click.Context(cli, info_name="onnxinfo", obj={}, **cli.context_settings)
    while rest[0] in ("-q", "-v", "--quiet", "--verbose", "--debug"):
        rest = rest[1:]
    if rest[0] in ("--help", "--version"):
        return
    while isinstance(command, click.Group):
        name, *rest = rest
        command = command.get_command(context, name)
        assert command is not None, f"{page}: no command {name}"
    command.make_context(name, rest, parent=context)


def test_lines_are_found_in_most_pages():
    assert len({page for page, _ in lines()}) > len(PAGES) // 2
    assert len([*lines()]) > 60
