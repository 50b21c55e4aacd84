"""Write docs/cli.md, the reference of the command line, from the commands' own help."""

from __future__ import annotations

from pathlib import Path

import click

from onnxinfo.cli import cli

TARGET = Path(__file__).with_name("cli.md")
HEAD = """# Command line

What `onnxinfo COMMAND --help` prints; written by `docs/cli_reference.py`.

## Output files

All commands that take `-o` treat the file alike, and so do the functions of the Python interface:

- An output never replaces an input of the same command, by whatever name: `onnxinfo report a.h5 -o a.h5` is refused.
- An existing file is replaced if it is of the kind that the command writes: an HTML page by `report`, a PNG image by
  `plot -o x.png`, an ONNX model by `prune`, JSON by `query --format json`. The kind is recognized by content. A CSV
  table is recognized if it has two columns at least. Any other file, and every HDF5 file, is replaced only with
  `--force` (Python: `force=True`). HDF5 files include archives and the netCDF files of `export`.
- `analyze`, `coherency` and `robustness` add runs to an archive and leave other files alone; `--overwrite` replaces a
  run. `merge -o` and `recover -o` need a new file.
- Whether the file may be written is decided before any work is done.
- The file is written beside its place and renamed, so that it is replaced as a whole or not at all. Its permissions
  stay. Other hard links to the old file keep the old content.
- Of a symbolic link, the file that it points to is written, and the link stays.
- `/dev/stdout`, other character devices and named pipes are written to as they are. Where help says so, `-` is standard
  output.

`SECURITY.md` names the test of each of these promises.
"""


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
