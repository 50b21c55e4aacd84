"""``power``: how many samples a difference needs."""

from __future__ import annotations

from typing import Any

import click

from .completion import layer_names
from .options import NUMBER, force, only_layers, only_metrics, only_runs, only_samples, only_tagged
from .tables import FORMATS, claim_table, print_rows, write_stdout


@click.command(no_args_is_help=True)
@click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="FILE.h5...")
@click.option(
    "--difference", type=NUMBER, metavar="D", help="Difference to be shown, in the metric's unit. Default: none."
)
@click.option(
    "--against",
    metavar="P",
    help="Layer that all others of one run are compared with. Default: each with the one before it.",
    shell_complete=layer_names,
)
@click.option(
    "--chance",
    type=NUMBER,
    default=0.5,
    show_default=True,
    help="Probability with which the difference then exceeds two standard errors.",
)
@click.option(
    "--confidence", type=NUMBER, default=0.95, show_default=True, help="Confidence level of the range low to high."
)
@only_runs
@only_tagged
@only_layers
@only_metrics("Only this metric; repeatable.")
@only_samples
@click.option("--format", type=click.Choice(FORMATS), default="table", show_default=True, help="Output format.")
@click.option("-o", "--output", default="-", type=click.Path(), help="File to write; - is standard output.")
@force
def power(files: tuple[str, ...], format: str, output: str, force: bool, **options: Any) -> None:
    """Print how many samples a difference needs to exceed two standard errors, and what the present ones show.

    Differences are between neighboring layers of one run, or between runs in the same layer, paired over the samples.
    needed is the number of samples; low and high are its range, because the spread that it is computed from is itself
    an estimate. shown is the smallest difference that the present samples show. See docs/power.md.

    \b
    Examples:
      onnxinfo power result.h5 --difference 0.05
      onnxinfo power a.h5 b.h5 --difference 0.05 --chance 0.8
    """
    from onnxinfo import power as estimate_power
    from onnxinfo.views.power import MOST

    target = claim_table(output, format, files, force)
    rows = estimate_power(files, **options)
    columns = [*rows[0]]
    if format in ("table", "markdown"):
        same = {name for name in ("metric", "run", "other") if len({row.get(name) for row in rows}) == 1}
        if "other" in same and target is None and "other" in rows[0]:
            write_stdout(f"{rows[0]['other']} minus {rows[0]['run']}:\n")
        hidden = same - {"metric"} | ({"n_unproven"} if not any(row["n_unproven"] for row in rows) else set())
        columns = [name for name in columns if name not in hidden]
        rows = [{name: _shown(value, MOST) for name, value in row.items()} for row in rows]
    print_rows(rows, columns, format, target)


def _shown(value: Any, most: int) -> Any:
    """Return the number of samples that stands for all larger ones as text."""
    return f">=1e{len(str(most)) - 1}" if type(value) is int and value >= most else value
