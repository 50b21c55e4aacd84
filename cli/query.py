"""``query``: the numbers of archives as one table."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any, Literal

import click

from .options import NUMBER, force, only_inputs, only_metrics, only_runs, only_samples, only_tagged, selection
from .tables import FORMATS, STREAMED, claim_table, print_rows

# Columns that the terminal omits if they contain only these values.
_NOTHING: dict[str, tuple[Any, ...]] = {
    "model": (None, ""),
    "label": (None, ""),
    "archive": (None, ""),
    "mark": (None, "", "converged"),
    "n_missing": (None, 0),
}


@click.command(no_args_is_help=True)
@click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="FILE.h5...")
@only_runs
@only_tagged
@selection("all")
@click.option(
    "--op", "ops", multiple=True, metavar="TYPE", help="Only layers of this ONNX operator; repeatable. Default: all."
)
@only_metrics("Only this metric; repeatable. Default: all.")
@only_samples
@only_inputs
@click.option("--label", "labels", multiple=True, help="Only samples with this label; repeatable. Default: all.")
@click.option(
    "--per",
    type=click.Choice(["layer", "sample", "input", "unit"]),
    help="One row per layer, sample, perturbed input, or input unit such as a column of a table. Default: layer, or "
    "sample with --group-by.",
)
@click.option(
    "--field", "fields", multiple=True, metavar="NAME",
    help="Further number of the metrics, as a column: normalizer (D of a layer's budget), ratio, gain, tolerance, ...; "
    "repeatable.",
)  # fmt: skip
@click.option("--min", "minimum", type=NUMBER, help="Only values of at least X, in the metric's unit.")
@click.option("--max", "maximum", type=NUMBER, help="Only values of at most X, in the metric's unit.")
@click.option(
    "--converged", is_flag=True, help="Only converged rows; a layer or group has converged if all of its samples have."
)
@click.option("--sort", metavar="COLUMN", help="Column to sort by, ascending; COLUMN:desc sorts in descending order.")
@click.option(
    "--top", type=click.IntRange(1), help="Only the first N rows; without --sort, those with the largest values."
)
@click.option("--group-by", multiple=True, metavar="COLUMN", help="One row per value of this column; repeatable.")
@click.option(
    *("--aggregate", "aggregate"),
    multiple=True,
    default=["mean"],
    show_default=True,
    metavar="A",
    help="With --group-by: mean, median, std, min, max, qNN; repeatable.",
)
@click.option("--sql", metavar="SELECT", help="DuckDB query over the table 'results', the only one.")
@click.option("--columns", metavar="A,B,...", help="Columns to print, in this order. Default: those with content.")
@click.option(
    "--format", type=click.Choice([*FORMATS, "parquet"]), default="table", show_default=True, help="Output format."
)
@click.option("--raw", is_flag=True, help="In CSV, do not escape text that spreadsheets would interpret as a formula.")
@click.option("-o", "--output", default="-", type=click.Path(), help="File to write; - is standard output.")
@force
def query(
    files: tuple[str, ...],
    per: Literal["layer", "sample", "input", "unit"] | None,
    sort: str | None,
    format: str,
    raw: bool,
    output: str,
    force: bool,
    **options: Any,
) -> None:
    """Print the numbers of one or several archives in one table.

    Each row holds a layer's mean over all samples that have a value, its standard error, a bound on how far it may lie
    below the optimum (gap), and the number of unproven samples; a value with unproven samples is marked.

    \b
    Examples:
      onnxinfo query result.h5
      onnxinfo query result.h5 --layers 'relu_*' --per sample --sort value:desc --format csv
      onnxinfo query a.h5 b.h5 --group-by label --aggregate median --aggregate q90
      onnxinfo query result.h5 --sql 'SELECT op, avg(value) AS value FROM results GROUP BY op'
    """
    from onnxinfo.views.query import stream, table_columns

    if format == "parquet" and output == "-":
        raise click.UsageError("Parquet is no text and is written only to a file: give -o FILE.parquet")
    named = options.pop("columns")
    column, _, direction = (sort or "").partition(":")
    if direction not in ("", "asc", "desc"):
        raise click.BadParameter(f"'{sort}': COLUMN, COLUMN:asc or COLUMN:desc expected", param_hint="--sort")
    target = claim_table(output, format, files, force)
    found = stream(files, per=per, sort=column or None, descending=direction == "desc", **options)
    first = next(found, None)
    if first is None:
        _explain_nothing(files, options)
    known = table_columns(per or "layer", options["fields"], several=len(files) > 1) if first is None else [*first]
    rows: Iterable[dict[str, Any]] = [] if first is None else itertools.chain([first], found)
    # Widths and the choice of columns depend on all rows.
    rows = rows if format in STREAMED else [*rows]
    columns = _columns(rows, known, named, format)
    if format == "parquet" and target is not None:
        from onnxinfo.views.query_sql import write_parquet

        write_parquet({name: [row[name] for row in rows] for name in columns}, target)
    else:
        print_rows(rows, columns, "raw csv" if raw and format == "csv" else format, target)


def _explain_nothing(files: tuple[str, ...], options: dict[str, Any]) -> None:
    """Say on standard error why there are no rows."""
    from onnxinfo.text import printable
    from onnxinfo.views.query_empty import why_empty

    click.echo(printable(why_empty(files, **options)), err=True)


#: Key of rows of runs that are not comparable, see :data:`onnxinfo.views.query.CAUTION`.
CAUTION = "caution"


def _columns(rows: Iterable[dict[str, Any]], known: list[str], named: str | None, format: str) -> list[str]:
    """Choose the columns; the terminal omits those that are constant and printed elsewhere."""
    if named is not None:
        chosen = [name.strip() for name in named.split(",")]
        for name in chosen:
            if name not in known:
                raise click.BadParameter(f"no column '{name}'; there is {', '.join(known)}", param_hint="--columns")
        return chosen
    if format not in ("json", "jsonl"):
        # A warning on standard error says it; only JSON repeats it in every row.
        known = [name for name in known if name != CAUTION]
    if format not in ("table", "markdown"):
        return known
    empty = {name for name, nothing in _NOTHING.items() if all(row.get(name) in nothing for row in rows)}
    empty |= {"gap"} if all(_is_nothing(row.get("gap")) for row in rows) else set()
    same = {"model"} if len({row.get("model") for row in rows}) == 1 else set()
    # The mark at the value and the counts already say so.
    return [name for name in known if name not in empty | same | {"converged"}]


def _is_nothing(number: Any) -> bool:
    return number is None or (isinstance(number, float) and math.isnan(number))
