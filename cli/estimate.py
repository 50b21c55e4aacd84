"""``--dry-run``: what an analysis takes, without it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from .tables import data_size, duration, write_stdout

dry_run = click.option(
    "--dry-run",
    is_flag=True,
    help="Print an estimate of time, memory and disk, from a short probe, and exit; nothing is written.",
)


def print_estimate(model: str, inputs: str, output: str, format: str, options: dict[str, Any]) -> None:
    """Print what an analysis takes, as a table of one line or as JSON."""
    from onnxinfo import estimate

    found = estimate(model, inputs, output, **options)
    if format == "json":
        write_stdout(json.dumps(asdict(found), indent=2) + "\n")
        return
    if not found.open_cells:
        click.echo("complete: nothing is left to compute")
        return
    done = found.cells - found.open_cells
    click.echo(f"cells:  {found.open_cells} to compute" + (f", {done} are finished" if done else ""))
    without = f", without {', '.join(found.left_out)}" if found.left_out else ""
    click.echo(f"time:   about {duration(found.seconds)}{without}")
    click.echo(f"memory: about {data_size(found.memory_bytes)} in each process")
    click.echo(f"disk:   about {data_size(found.disk_bytes)}")
