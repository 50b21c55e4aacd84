"""``sweep`` and ``ranking``: an analysis at several alphas, and the order of the layers in several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from .options import NUMBER, force, only_layers, only_metrics, only_runs, only_samples, only_tagged, units
from .options import inputs as samples
from .outcome import completed
from .progress import progress_bar
from .settings import config_file, settings
from .tables import FORMATS, claim_table, print_rows, write_stdout

COLUMNS = ("metric", "run", "other", "layers", "tau", "pairs", "same", "swapped", "open", "swaps")
#: Swaps that a table shows.
_SHOWN = 3


class _SeveralAlphas(click.Command):
    """A command that reads ``--alpha 1e-4 1e-3`` like ``--alpha 1e-4 --alpha 1e-3``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse arguments, each number after ``--alpha`` and its values being one more of them."""
        from onnxinfo.text import is_number

        repeated: list[str] = []
        for arg in args:
            follows = repeated[-2:-1] == ["--alpha"] or any(each.startswith("--alpha=") for each in repeated[-1:])
            repeated += ["--alpha", arg] if follows and is_number(arg) else [arg]
        return super().parse_args(ctx, repeated)


@click.command(cls=_SeveralAlphas, no_args_is_help=True)
@click.argument("model", type=click.Path())
@samples
@click.option("-o", "--output", required=True, type=click.Path(), help="Archive (HDF5). If it exists, runs are added.")
@click.option(
    "--alpha",
    "alphas",
    type=NUMBER,
    multiple=True,
    required=True,
    metavar="X...",
    help="Budgets relative to the normalizer, at least two: one after another, or --alpha for each.",
)
@config_file
@units
@settings(leave_out=["alpha", "budget"])
@click.option("--format", type=click.Choice(FORMATS), default="table", show_default=True, help="Output format.")
def sweep(model: str, inputs: str, output: str, alphas: Sequence[float], format: str, **options: Any) -> None:
    """Analyze MODEL at several alphas, and tell whether the order of its layers survives.

    Each alpha is a run of the archive, whose solution starts from that of the next smaller alpha. The table compares
    the order of the layers between runs, see 'onnxinfo ranking'.

    \b
    Example:
      onnxinfo sweep resnet20.onnx --inputs images/ --limit 8 --alpha 1e-4 1e-3 1e-2 -o sweep.h5
    """
    from onnxinfo import sweep as run_sweep

    with progress_bar(output) as report:
        found, error = completed(lambda: run_sweep(model, inputs, output, alphas, progress=report, **options))
    if found.order:
        _print(found.order, format, None)
    if error is not None:
        raise error


@click.command(no_args_is_help=True)
@click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="FILE.h5...")
@only_runs
@only_tagged
@only_layers
@only_metrics("Only this metric; repeatable.")
@only_samples
@click.option(
    "--confidence",
    type=NUMBER,
    default=0.95,
    show_default=True,
    help="Confidence level at which the order of two layers counts as decided.",
)
@click.option("--format", type=click.Choice(FORMATS), default="table", show_default=True, help="Output format.")
@click.option("-o", "--output", default="-", type=click.Path(), help="File to write; - is standard output.")
@force
def ranking(files: tuple[str, ...], format: str, output: str, force: bool, **options: Any) -> None:
    """Compare the order of the layers between runs: rank correlation, and layers that swap beyond their errors.

    tau is Kendall's rank correlation of the layers' means. Of all pairs of layers, those are the same or swapped whose
    order is decided in both runs; the others are open. Runs may have different settings or samples.

    \b
    Examples:
      onnxinfo ranking a.h5 b.h5
      onnxinfo ranking monday.h5 tuesday.h5 --metric sid --format json
    """
    from onnxinfo import ranking as compare_orders

    target = claim_table(output, format, files, force)
    _print(compare_orders(files, **options), format, target)


def _print(rows: Sequence[Mapping[str, Any]], format: str, target: Any) -> None:
    if format in ("json", "jsonl"):
        print_rows(rows, COLUMNS, format, target)
        return
    shown = [{**row, "swaps": _text(row["swaps"])} for row in rows]
    columns = [name for name in COLUMNS if name != "swaps" or any(row["swaps"] for row in shown)]
    print_rows(shown, columns, format, target)
    if target is None and format == "table":
        write_stdout(_verdict(rows))


def _text(swaps: Sequence[tuple[str, str]]) -> str:
    more = f", and {len(swaps) - _SHOWN} more" if len(swaps) > _SHOWN else ""
    return ", ".join(f"{low} < {high}" for low, high in swaps[:_SHOWN]) + more


def _verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    swapped = sum(row["swapped"] > 0 for row in rows)
    if swapped:
        return f"layers swap beyond their errors in {swapped} of {len(rows)} pairs of runs\n"
    return f"no layers swap beyond their errors in any of {len(rows)} pairs of runs\n"
