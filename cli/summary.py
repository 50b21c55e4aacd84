"""``summary``: what a run's numbers show, in sentences."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from onnxinfo.text import printable

from .options import force, selection
from .rendering import as_options
from .tables import claim_table, write_stdout


@click.command(no_args_is_help=True)
@click.argument("file", type=click.Path(), metavar="FILE.h5")
@click.option("--run", help="Name of the run; necessary if the archive has several.")
@selection("all")
@click.option("--format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Output format.")
@click.option("-o", "--output", default="-", type=click.Path(), help="File to write; - is standard output.")
@force
def summary(
    file: str, run: str | None, layers: Sequence[str], exclude: Sequence[str], format: str, output: str, force: bool
) -> None:
    """Say in sentences what the numbers of a run show: where most is discarded, and what is unproven.

    Differences are claimed only beyond their errors.

    \b
    Examples:
      onnxinfo summary result.h5
      onnxinfo summary result.h5 --exclude relu_1
    """
    from onnxinfo import summary as summarize

    target = claim_table(output, "json" if format == "json" else "table", [file], force)
    found = summarize(file, run, layers=layers, exclude=exclude)
    command = click.get_current_context().command
    sentences = [as_options(text, command) for text in found.sentences]
    if format == "json":
        text = json.dumps({"run": found.run, "sentences": sentences}, ensure_ascii=False, indent=2) + "\n"
    else:
        title = "Summary"
        text = "".join(f"{line}\n" for line in (title, "-" * len(title), *map(printable, sentences)))
    if target is None:
        write_stdout(text)
    else:
        with target.writing() as part:
            part.write_text(text, encoding="utf-8")
