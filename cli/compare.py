"""``compare``: differences between runs, layer by layer."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from .completion import run_names
from .options import NUMBER, force, only_inputs, only_layers, only_metrics, only_samples, only_tagged
from .tables import FORMATS, claim_table, print_rows, write_stdout

if TYPE_CHECKING:
    from onnxinfo import Verdict
    from onnxinfo.outputs import Output

logger = logging.getLogger(__name__)


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
@only_samples
@click.option(
    "--by",
    type=click.Choice(["layer", "depth"]),
    default="layer",
    show_default=True,
    help="Property that layers are matched by.",
)
@click.option("--unpaired", is_flag=True, help="Allow runs on different samples.")
@click.option(
    "--confidence", type=NUMBER, default=0.95, show_default=True, help="Confidence level of the intervals low to high."
)
@click.option(
    "--fail-if",
    multiple=True,
    metavar="CONDITION",
    help="End with exit code 3 if a difference is beyond a threshold, and its interval too: 'sid:relu_18>+0.05', "
    "'sid:relu_*<-0.1', 'unproven:logits>+0.1', 'accuracy<-0.01'; repeatable.",
)
@click.option(
    "--incomplete",
    is_flag=True,
    help="With --fail-if: judge runs by the samples that have a value in both, and leave out layers that only one has. "
    "By default the exit code is then 5.",
)
@click.option("--verdict", type=click.Path(), metavar="FILE.json", help="With --fail-if: file for the outcomes.")
@click.option("--plot", type=click.Path(), metavar="FILE", help="With --fail-if: PNG, SVG or PDF file of the outcomes.")
@click.option("--top", type=click.IntRange(1), help="Only the N largest differences. Default: all.")
@click.option("--format", type=click.Choice(FORMATS), default="table", show_default=True, help="Output format.")
@click.option("-o", "--output", default="-", type=click.Path(), help="File to write; - is standard output.")
@force
def compare(
    files: tuple[str, ...],
    fail_if: tuple[str, ...],
    incomplete: bool,
    verdict: str | None,
    top: int | None,
    format: str,
    output: str,
    force: bool,
    **options: Any,
) -> None:
    """Print how much each layer differs between runs and the first run, largest differences first.

    With --input, each row is about one of the named inputs ('*': all of them) instead of all together. A
    difference is significant if its interval excludes 0. Runs with different settings (alpha, units, normalization)
    or samples are refused. 'onnxinfo plot a.h5 b.h5 compare' draws the differences.

    With --fail-if, the exit code is 3 if a condition fails, and 5 if none does but a run is unfinished, lacks a layer
    that a condition names, or lacks values that the other run has; see docs/gate.md.

    \b
    Examples:
      onnxinfo compare a.h5 b.h5
      onnxinfo compare a.h5 b.h5 --by depth --top 5 --format markdown
      onnxinfo compare released.h5 candidate.h5 --fail-if 'sid:relu_18>+0.05' --fail-if 'accuracy<-0.01'
    """
    from onnxinfo import UsageError
    from onnxinfo import compare as compare_runs
    from onnxinfo.views.figure import claim_figure

    if verdict is not None and not fail_if:
        raise UsageError("verdict=... is the outcome of conditions; give fail_if=...")
    plot = options.pop("plot")
    if plot is not None and not fail_if:
        raise UsageError("plot=... shows the outcomes of conditions; give fail_if=..., or see 'onnxinfo plot'")
    if incomplete and not fail_if:
        raise UsageError("incomplete=True is about conditions; give fail_if=...")
    target = claim_table(output, format, files, force)
    written = None if verdict is None else _claim_verdict(verdict, files, output, force)
    if plot is not None:
        claim_figure(plot, *files, force=force)
    judged = _judge(files, fail_if, incomplete, options) if fail_if else None
    # Conditions about unfinished layers alone: there may be nothing to compare.
    if judged is None or any(outcome.n for outcome in judged.outcomes):
        try:
            rows = compare_runs(files, **options)[:top]
        except UsageError as error:
            # Of metrics that no condition is about; accuracy needs none.
            if judged is None:
                raise
            logger.warning("no table of differences: %s", error)
        else:
            _print_differences(rows, format, target)
    if judged is not None and plot is not None:
        judged.plot(plot, force=force)
    if judged is not None:
        _end(judged, written, format, target is None)


def _print_differences(rows: list[dict[str, Any]], format: str, target: Output | None) -> None:
    columns = [*rows[0]]
    if format in ("table", "markdown"):
        same = {name for name in ("metric", "run", "other", "paired") if len({row[name] for row in rows}) == 1}
        if "other" in same and target is None:
            write_stdout(f"{rows[0]['other']} minus {rows[0]['run']}:\n")
        same |= set() if any(row["n_lost"] for row in rows) else {"n_lost"}
        columns = [name for name in columns if name not in same or name == "metric"]
    print_rows(rows, columns, format, target)


def _claim_verdict(verdict: str, files: Sequence[str], output: str, force: bool) -> Output:
    from onnxinfo import UsageError, kinds
    from onnxinfo.outputs import claim

    if output != "-" and os.path.realpath(output) == os.path.realpath(verdict):
        raise UsageError(f"verdict={verdict!r} is the output too; name two files")
    return claim(verdict, kinds.JSON, inputs=files, force=force)


def _judge(files: Sequence[str], fail_if: Sequence[str], incomplete: bool, options: Mapping[str, Any]) -> Verdict:
    from onnxinfo import gate

    return gate(files, fail_if, incomplete=incomplete, **options)


def _end(verdict: Verdict, written: Output | None, format: str, shown: bool) -> None:
    """Write the outcomes of conditions, print them below a table, and fail if one of them does."""
    from onnxinfo import GateError, IncompleteError

    described = verdict.to_dict()
    if written is not None:
        with written.writing() as part:
            part.write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if shown and format in ("table", "markdown"):
        write_stdout("\n")
        columns = [
            *("status", "condition", "quantity", "layer", "input", "other"),
            *("difference", "low", "high", "threshold", "n", "unfinished", "lost"),
        ]
        rare = {"input", "unfinished", "lost"}
        used = {name for name in rare if any(outcome[name] for outcome in described["outcomes"])}
        columns = [name for name in columns if name not in rare - used]
        print_rows(described["outcomes"], columns, format)
    if verdict.passed and (open_ones := described["counts"]["undecided"]):
        logger.warning(
            "no condition fails, but %d of %d comparisons are undecided: their intervals contain the threshold, or are "
            "unknown; analyze more samples",
            *(open_ones, len(verdict.outcomes)),
        )
    if not verdict.passed:
        raise IncompleteError(verdict) if verdict.incomplete else GateError(verdict)
