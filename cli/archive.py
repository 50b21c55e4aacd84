"""Archive maintenance: ``runs``, ``rename``, ``delete``, ``merge``, ``export``, ``recover`` and ``validate``."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from .completion import run_names
from .options import force
from .rendering import as_options
from .tables import FORMATS, data_size, duration, print_rows
from .verbosity import print_info

archive = click.argument("archive", metavar="FILE", type=click.Path())


def _printable(text: object) -> str:
    from onnxinfo.text import printable

    return printable(text)


@click.command()
@archive
@click.option(
    "--format", "format_", type=click.Choice(FORMATS), default="table", show_default=True, help="Output format."
)
def runs(archive: str, format_: str) -> None:
    """List the runs of an archive: status, model, date, size.

    \b
    Example:
      onnxinfo runs result.h5
    """
    from onnxinfo import list_runs

    rows = [
        asdict(each)
        | {"metrics": " ".join(each.metrics), "tags": " ".join(f"{key}={value}" for key, value in each.tags.items())}
        for each in list_runs(archive)
    ]
    if format_ == "table":
        for row in rows:
            row["cells done"] = f"{row['finished']}/{row['cells']}"
            row["time"] = duration(row["elapsed"])
            row["size"] = data_size(row["size"])
        columns = ["run", "status", "model", "created", "metrics", "layers", "samples", "cells done", "time", "size"]
        columns += ["tags"] if any(row["tags"] for row in rows) else []
    else:
        columns = ["run", "status", "model", "created", "metrics", "layers", "samples", "finished", "cells"]
        columns += ["elapsed", "size", "tags"]
    print_rows(rows, columns, format_)


@click.command()
@archive
@click.argument("run", shell_complete=run_names)
@click.argument("name")
def rename(archive: str, run: str, name: str) -> None:
    """Rename RUN to NAME.

    \b
    Example:
      onnxinfo rename result.h5 resnet20 baseline
    """
    from onnxinfo import rename_run

    rename_run(archive, run, name)


@click.command()
@archive
@click.argument("run", shell_complete=run_names)
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
def delete(archive: str, run: str, yes: bool) -> None:
    """Delete RUN permanently and free its space.

    \b
    Example:
      onnxinfo delete result.h5 baseline --yes
    """
    from onnxinfo import delete_run

    if not yes:
        click.confirm(f"Delete run '{_printable(run)}' of {_printable(archive)}?", abort=True, err=True)
    delete_run(archive, run)


@click.command()
@click.argument("archives", metavar="FILE...", nargs=-1, required=True, type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), help="Archive to write; it must not exist.")
def merge(archives: tuple[str, ...], output: str) -> None:
    """Copy all runs of several archives into a new one.

    A run whose name is taken gets its archive's name in parentheses appended.

    \b
    Example:
      onnxinfo merge monday.h5 tuesday.h5 -o week.h5
    """
    from onnxinfo import merge as merge_archives

    for source, name in merge_archives(archives, output).items():
        print_info(f"{_printable(source)} -> {_printable(name)}")


@click.command()
@archive
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(),
    help="File to write; the suffix .nc, .parquet or .csv selects the format.",
)
@click.option("--run", metavar="NAME", help="Run to export. Default: the only run.")
@click.option(
    "--per",
    type=click.Choice(["layer", "sample"]),
    default="sample",
    show_default=True,
    help="One row per layer or sample.",
)
@click.option("--raw", is_flag=True, help="In CSV, do not escape text that spreadsheets would interpret as a formula.")
@force
def export(archive: str, output: str, run: str | None, per: str, raw: bool, force: bool) -> None:
    """Write a run to a netCDF file (with its maps), or its table to a Parquet or CSV file.

    \b
    Example:
      onnxinfo export result.h5 --run baseline -o baseline.nc
    """
    from onnxinfo import export as export_run

    export_run(archive, output, run, "layer" if per == "layer" else "sample", raw=raw, force=force)


@click.command()
@archive
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    help="Write the repaired archive here and leave FILE unchanged. Default: replace FILE.",
)
def recover(archive: str, output: str | None) -> None:
    """Repair an archive that was left open or damaged.

    Intact data are copied to a new file, which then replaces FILE. If anything was lost, the old file is kept beside
    it.

    \b
    Example:
      onnxinfo recover result.h5
    """
    from onnxinfo import recover as recover_archive

    done = recover_archive(archive, output)
    for lost in done.lost:
        where = f"run {lost.run}, {lost.metric} of {lost.layer}, sample {lost.sample}"
        click.echo(f"lost: {_printable(where)}; the next analysis recomputes it")
    for run, metric, reason in done.metrics:
        click.echo(f"lost: {_printable(metric)} of run {_printable(run)}: {_printable(reason)}; analyze it again")
    for run, reason in done.unreadable:
        click.echo(f"lost: run {_printable(run)}: {_printable(reason)}")
    if done.original is not None:
        click.echo(f"the damaged file is kept as {_printable(done.original)}")
    click.echo(f"{_printable(done.output)}: runs: {len(done.runs)}; cells lost: {len(done.lost)}")


@click.command()
@archive
@click.option(
    "--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Output format."
)
@click.pass_context
def validate(ctx: click.Context, archive: str, format_: str) -> None:
    """Check an archive's structure, types, dimensions, attributes, values and checksums.

    The exit code is 1 if something is wrong.

    \b
    Example:
      onnxinfo validate result.h5
    """
    from onnxinfo import validate as validate_archive

    report = validate_archive(archive)
    if format_ == "json":
        click.echo(json.dumps(asdict(report) | {"valid": report.valid}, indent=2))
    else:
        for each in report.violations:
            where = f"run {each.run}: {each.where}" if each.run else each.where
            click.echo(as_options(f"violation: {_printable(f'{where}: {each.problem}')}", ctx.command))
        for note in report.notes:
            click.echo(as_options(f"note: {note}", ctx.command))
        count = len(report.violations)
        verdict = "valid" if report.valid else f"{count} violation{'s'[: count != 1]}"
        click.echo(f"{_printable(report.path)}: {verdict}; runs: {len(report.runs)}; cells checked: {report.cells}")
    ctx.exit(0 if report.valid else 1)
