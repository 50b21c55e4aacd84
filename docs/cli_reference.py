"""Writes docs/cli.md, the reference of the command line, from the commands' own help."""

from __future__ import annotations

from pathlib import Path

import click

from onnxinfo.cli import cli

TARGET = Path(__file__).with_name("cli.md")
HEAD = "# Command line\n\nWhat `onnxinfo COMMAND --help` prints; written by `docs/cli_reference.py`.\n"


def reference() -> str:
    """Return the reference as Markdown."""
    parts = [HEAD, _section(click.Context(cli, info_name="onnxinfo", **cli.context_settings), 2)]
    return "\n".join(parts)


def _section(context: click.Context, level: int) -> str:
    command = context.command
    context.terminal_width = context.max_content_width = 100
    lines = [f"{'#' * level} {context.command_path}\n", "```text", command.get_help(context), "```", ""]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            lines.append(_section(click.Context(found, info_name=name, parent=context), level + 1))
    return "\n".join(lines)


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
