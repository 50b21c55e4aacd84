"""``compare``: differences between runs, layer by layer."""

from __future__ import annotations

from typing import Any

import click

from .completion import run_names
from .options import force, only_inputs, only_layers, only_metrics, only_tagged
from .tables import FORMATS, claim_table, print_rows, write_stdout


@click.command(no_args_is_help=True)
@click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="FILE.h5...")
@click.option(
    "--run",
    multiple=True,
    metavar="NAME",
    help="Runs to compare with the first one, or globs; repeatable. Default: all.",
    shell_complete=run_names,
)
@only_tagged
@only_layers
@only_inputs
@only_metrics("Only this metric; repeatable.")
@click.option("--samples", multiple=True, metavar="S", help="Only these samples, by position or name; repeatable.")
@click.option(
    "--by",
    type=click.Choice(["layer", "depth"]),
    default="layer",
    show_default=True,
    help="Property that layers are matched by.",
)
@click.option("--unpaired", is_flag=True, help="Allow runs on different samples.")
@click.option(
    "--confidence", type=float, default=0.95, show_default=True, help="Confidence level of the intervals low to high."
)
@click.option("--top", type=click.IntRange(1), help="Only the N largest differences. Default: all.")
@click.option("--format", type=click.Choice(FORMATS), default="table", show_default=True, help="Output format.")
@click.option("-o", "--output", default="-", type=click.Path(), help="File to write; - is standard output.")
@force
def compare(files: tuple[str, ...], top: int | None, format: str, output: str, force: bool, **options: Any) -> None:
    """Print how much each layer differs between runs and the first run, largest differences first.

    With --input, each row is about one of the named inputs ('*': all of them) instead of all together. A
    difference is significant if its interval excludes 0. Runs with different settings (alpha, units, normalization)
    or samples are refused. 'onnxinfo plot a.h5 b.h5 compare' draws the differences.

    \b
    Examples:
      onnxinfo compare a.h5 b.h5
      onnxinfo compare a.h5 b.h5 --by depth --top 5 --format markdown
    """
    from onnxinfo import compare as compare_runs

    target = claim_table(output, format, files, force)
    rows = compare_runs(files, **options)[:top]
    columns = [*rows[0]]
    if format in ("table", "markdown"):
        same = {name for name in ("metric", "run", "other", "paired") if len({row[name] for row in rows}) == 1}
        if "other" in same and target is None:
            write_stdout(f"{rows[0]['other']} minus {rows[0]['run']}:\n")
        columns = [name for name in columns if name not in same or name == "metric"]
    print_rows(rows, columns, format, target)
