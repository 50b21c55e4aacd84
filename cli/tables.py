"""Print rows: as a table for people, and in machine-readable formats."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from onnxinfo.text import printable, quoted, shorten, spreadsheet_text

from .rendering import as_options

if TYPE_CHECKING:
    from onnxinfo import Run
    from onnxinfo.outputs import Output

Row = Mapping[str, Any]

FORMATS = ("table", "json", "jsonl", "csv", "markdown")
#: Formats that are written row by row.
STREAMED = ("json", "jsonl", "csv")
UNCONVERGED = "*"
#: Column with a layer's mean in words.
MEAN = "mean over samples"
_PARTS_AT_ONCE = 1000
# Maximum number of inputs with a column of their own.
_MOST_INPUTS = 6
_CHARACTERS_AT_ONCE = 1 << 16
# Minimum width to which text columns are cut on narrow terminals.
_LEAST_TEXT = 12
# Columns dropped, in this order, if the table is still too wide.
_DISPENSABLE = (
    *("layer_index", "node", "server", "n_missing", "n_converged", "sample_name", "created", "size", "depth", "op"),
    *("label", "time", "parameters", "shape", "metrics", "model", "mark", "gap", "stderr", "run"),
)
# Columns whose text is meaningless if cut.
_WHOLE = ("mark", MEAN)


def claim_table(output: str, format: str, inputs: Sequence[str], force: bool) -> Output | None:
    """Check that rows may be written to a file, before they are computed.

    Parameters
    ----------
    output
        The file, or ``-`` for standard output.
    format
        See :func:`print_rows`, or ``parquet``.
    inputs, force
        See :func:`onnxinfo.outputs.claim`.

    Returns
    -------
    Output or None
        None for standard output.
    """
    from onnxinfo import kinds
    from onnxinfo.outputs import STANDARD_OUTPUT, claim, spare

    if output == "-":
        spare(STANDARD_OUTPUT, inputs)
        return None
    written = {"json": kinds.JSON, "jsonl": kinds.JSON, "csv": kinds.CSV, "markdown": kinds.MARKDOWN}
    written |= {"table": kinds.TABLE, "parquet": kinds.PARQUET}
    return claim(output, written[format], inputs=inputs, force=force)


def print_rows(rows: Iterable[Row], columns: Sequence[str], format: str, output: Output | None = None) -> None:
    """Print rows, or write them to a file.

    Parameters
    ----------
    rows
        Rows to print; a value that a row lacks is printed as missing. Formats in ``STREAMED`` take them one by one.
    columns
        Keys to print, in order.
    format
        ``table``, ``json``, ``jsonl`` (one JSON object per line), ``csv``, ``raw csv`` (unmodified text, including
        formulas and control characters) or ``markdown``. NaN and infinity are null in JSON and empty in the others.
    output
        A file, or None for standard output.
    """
    if output is None:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        parts = render(rows, columns, format, width)
        # Each call flushes: printing single lines would take longer than formatting them.
        while some := "".join(itertools.islice(parts, _PARTS_AT_ONCE)):
            write_stdout(some)
        return
    parts = render(rows, columns, format)
    with output.writing() as part, part.open("w", encoding="utf-8") as file:
        file.writelines(parts)


def write_stdout(text: str) -> None:
    """Print data unchanged to a file or pipe; on a terminal, escape control sequences."""
    if sys.stdout.isatty():
        text = "\n".join(map(printable, text.split("\n")))
    # Without color=True, click would strip from the data whatever looks like color codes.
    click.echo(text, nl=False, color=True)


def render(rows: Iterable[Row], columns: Sequence[str], format: str, width: int | None = None) -> Iterator[str]:
    """Format rows piece by piece; `width` is the terminal's, None if unlimited."""
    if format == "json":
        return _json(rows, columns)
    if format == "jsonl":
        return (_dumps(row, columns) + "\n" for row in rows)
    if format == "csv":
        return _csv(rows, columns, spreadsheet_text)
    if format == "raw csv":
        return _csv(rows, columns, lambda value: value)
    if format == "markdown":
        return _markdown([*rows], columns)
    return _table([*rows], columns, width)


def print_run(run: Run, output: str, seconds: float) -> None:
    """Print the results of an analysis: one row per layer, then the archive, the number of samples and the time.

    A layer's mean is printed as ``-2.660 ± 0.013, at most 0.010 too low, 3/16 unproven``.

    Parameters
    ----------
    run
        A run, open for reading.
    output
        The archive's path.
    seconds
        Duration of the analysis in seconds.
    """
    from onnxinfo.views.wording import mean_text, rounding_text

    columns = run.table("layer")
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for row in rows:
        row["index"] = row["layer_index"]
        row[MEAN] = mean_text(row)
    # Metrics without maps have no values of single units.
    over = "input units and all samples" if all(metric.has_map for metric in run.metrics) else "all samples"
    click.echo(f"run {printable(run.name)}: mean over {over}, with its standard error")
    print_rows(rows, ["index", "layer", "op", "depth", "metric", MEAN], "table")
    _print_inputs(run, output)
    for metric in run.metrics:
        if text := rounding_text(run.values(metric.name)):
            click.echo(f"{metric.name}: {text}")
    unreadable = run.provenance.get("unreadable_samples")
    missing = f", {len(unreadable)} unreadable" if isinstance(unreadable, list) and unreadable else ""
    # The rest of the card was shown before the work began; no result is read without its warnings.
    for line in run.sanity.warning_lines() if run.sanity else []:
        click.echo(as_options(line, click.get_current_context().command))
    click.echo(f"archive: {output}")
    click.echo(f"samples: {run.shape[1]} used{missing}")
    for each in unreadable if isinstance(unreadable, list) else []:
        click.echo(f"  {printable(each)}")
    click.echo(f"time:    {duration(seconds)}")


def _print_inputs(run: Run, output: str) -> None:
    """Print each layer's mean over the units of every input, if noise was added to several."""
    names = [part.name for part in run.inputs]
    if not names:
        return
    click.echo(f"noise on {len(names)} inputs: {', '.join(quoted(name) for name in names)}")
    if len(names) > _MOST_INPUTS:
        click.echo(f"results by input: onnxinfo query {output} --per input")
        return
    columns = run.table("input")
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    cells = zip(*(columns[key] for key in ("layer", "metric", "input", "value")), strict=True)
    for layer, metric, name, value in cells:
        rows.setdefault((layer, metric), {"layer": layer, "metric": metric})[name] = value
    print_rows(list(rows.values()), ["layer", "metric", *names], "table")


def duration(seconds: float) -> str:
    """Format a duration: ``4.2 s``, ``3 min 05 s``, ``2 h 01 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def data_size(count: float) -> str:
    """Format a number of bytes: ``38.2 kB``, ``12.3 MB``, ``2.5 GB``; at least 0.1 kB unless it is 0."""
    shown = max(round(count / 1e3, 1), 0.1) if count else 0.0
    for unit in ("kB", "MB"):
        if shown < 1000:
            return f"{shown:.1f} {unit}"
        shown = round(shown / 1e3, 1)
    return f"{shown:.1f} GB"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _dumps(row: Row, columns: Sequence[str]) -> str:
    text = json.dumps({name: _finite(row.get(name)) for name in columns}, ensure_ascii=False, allow_nan=False)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def _json(rows: Iterable[Row], columns: Sequence[str]) -> Iterator[str]:
    before = "["
    for row in rows:
        yield f"{before}\n  {_dumps(row, columns)}"
        before = ","
    yield "[]\n" if before == "[" else "\n]\n"


def _csv(rows: Iterable[Row], columns: Sequence[str], shown: Callable[[object], object]) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        values = (_finite(row.get(name)) for name in columns)
        writer.writerow(str(value).lower() if isinstance(value, bool) else shown(value) for value in values)
        if buffer.tell() > _CHARACTERS_AT_ONCE:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


def _markdown(rows: Sequence[Row], columns: Sequence[str]) -> Iterator[str]:
    yield "| " + " | ".join(map(_markdown_cell, columns)) + " |\n"
    yield "|" + "|".join(" ---: " if _is_number(rows, name) else " --- " for name in columns) + "|\n"
    for row in rows:
        yield "| " + " | ".join(_markdown_cell(_cell(row, name)) for name in columns) + " |\n"
    if _marked(rows, columns):
        yield f"\n\\{UNCONVERGED} {_remark(rows)}\n"


def _markdown_cell(text: str) -> str:
    """Escape text for Markdown."""
    return "".join(f"\\{c}" if c in r"\`*_[]<>|#~" else c for c in text)


def _table(rows: Sequence[Row], columns: Sequence[str], width: int | None) -> Iterator[str]:
    texts = {name: [_cell(row, name) for row in rows] for name in columns}
    right = {name: _is_number(rows, name) for name in columns}
    marked = _marked(rows, columns)
    if "value" in columns and marked:
        texts["value"] = [text if text.endswith(UNCONVERGED) else f"{text} " for text in texts["value"]]
    sizes = {name: max(map(len, [name, *texts[name]])) for name in columns}
    if width is not None:
        _narrow(sizes, [name for name in columns if not right[name] and name not in _WHOLE], width)
    left_out = [name for name in columns if name not in sizes]
    columns = [*sizes]

    def line(cells: Mapping[str, str]) -> str:
        padded = []
        for name in columns:
            text = shorten(cells[name], sizes[name])
            padded.append(text.rjust(sizes[name]) if right[name] else text.ljust(sizes[name]))
        return "  ".join(padded).rstrip() + "\n"

    yield line({name: name for name in columns})
    yield "  ".join("-" * sizes[name] for name in columns) + "\n"
    for number in range(len(rows)):
        yield line({name: texts[name][number] for name in columns})
    if marked:
        yield from (f"{line}\n" for line in textwrap.wrap(f"{UNCONVERGED} {_remark(rows)}", width or 10_000))
    if left_out:
        yield from (f"{line}\n" for line in textwrap.wrap(f"too narrow for: {', '.join(left_out)}", width or 70))


def _narrow(sizes: dict[str, int], text_columns: Sequence[str], width: int) -> None:
    """Shorten the widest text columns until the table fits, then drop whole columns."""
    dispensable = [name for name in _DISPENSABLE if name in sizes]
    while sum(sizes.values()) + 2 * (len(sizes) - 1) > width:
        texts = [name for name in text_columns if sizes.get(name, 0) > _LEAST_TEXT]
        if texts:
            sizes[max(texts, key=lambda name: sizes[name])] -= 1
        elif dispensable:
            del sizes[dispensable.pop(0)]
        else:
            return


def _cell(row: Row, name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _number(value) + (UNCONVERGED if name == "value" and row.get("converged") is False else "")
    if name == MEAN:
        return printable(value) + (UNCONVERGED if row.get("converged") is False else "")
    return printable(value)


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.3g}"


def _is_number(rows: Sequence[Row], name: str) -> bool:
    present = [row[name] for row in rows if row.get(name) is not None]
    return bool(present) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in present)


def _marked(rows: Sequence[Row], columns: Sequence[str]) -> bool:
    shown = "value" in columns or MEAN in columns
    return shown and any(row.get("converged") is False for row in rows)


def _remark(rows: Sequence[Row]) -> str:
    """Explain the mark at a value, and count unproven samples by reason."""
    failed = [row for row in rows if row.get("converged") is False]
    of_layers = "n_converged" in rows[0]
    text = "some samples are unproven; means are over all that have a value" if of_layers else "not proven"
    reasons = _reasons(failed)
    return f"{text}: {reasons}" if reasons else text


def _reasons(rows: Sequence[Row]) -> str:
    from onnxinfo.archive.means import read_marks
    from onnxinfo.views.wording import marks_remark

    counts: dict[str, int] = {}
    for row in rows:
        for name, number in read_marks(row.get("mark") or "").items():
            counts[name] = counts.get(name, 0) + number
    return marks_remark(counts)
