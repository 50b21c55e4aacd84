"""``check``: compare the model's torch graph with ONNX Runtime and list the layers that can be analyzed."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from .rendering import as_options
from .settings import config_file, setting, settings
from .tables import print_rows, write_stdout

if TYPE_CHECKING:
    from onnxinfo import ModelCheck

_SHOWN = 10


@click.command(no_args_is_help=True)
@click.argument("model")
@click.option("--inputs", metavar="SPEC", help="Samples, as for 'analyze'. Default: random inputs of suitable shape.")
@config_file
@settings("input", leave_out=["unit_mask", "foreground", "crop_to_box"])
@setting("seed", help="Seed of randomly generated inputs.")
@setting("timeout")
@click.option(
    "--format", type=click.Choice(["table", "json"]), default="table", show_default=True, help="Output format."
)
def check(model: str, inputs: str | None, format: str, **options: Any) -> None:
    """Compare every tensor of MODEL, an ONNX file (or - for standard input), with ONNX Runtime.

    Prints what the model is, what implements each of its operators, the largest difference and the layers that can
    be analyzed. The exit code is 1 if something differs; the first node that differs is named.

    \b
    Examples:
      onnxinfo check model.onnx
      onnxinfo check model.onnx --inputs images/ --preset imagenet --format json
    """
    from onnxinfo import VerificationError, check_model

    found = check_model(sys.stdin.buffer.read() if model == "-" else model, inputs, **options)
    if format == "json":
        write_stdout(json.dumps(_finite(asdict(found)), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    else:
        _print(found)
    if found.error is not None:
        raise VerificationError(found.error)


def _finite(value: Any) -> Any:
    """Replace infinities, which JSON lacks, by null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if value in (float("inf"), float("-inf")) else value


def _print(found: ModelCheck) -> None:
    from onnxinfo.text import printable, quoted

    print_rows([asdict(use) for use in found.operators], ["operator", "version", "server", "count", "reason"], "table")
    opsets = ", ".join(f"{printable(domain)} {version}" for domain, version in found.opsets.items())
    shapes = ", ".join(f"{printable(name)} {_shape(shape)}" for name, shape in found.inputs.items())
    click.echo(f"\nmodel:      {printable(found.name)}, written by {printable(found.producer) or 'unknown'}")
    click.echo(f"opset:      {opsets}; file format {found.ir_version}")
    click.echo(f"parameters: {found.parameters:,}")
    click.echo(f"inputs:     {shapes or 'none'} ({'generated' if found.generated else 'given'})")
    total = len(found.reached) + len(found.unreached)
    source = "no tensor that noise can be added to" if found.perturbed is None else f"from {quoted(found.perturbed)}"
    click.echo(f"layers:     {len(found.reached)} of {total} reached {source}")
    for name, reason in list(found.unreached.items())[:_SHOWN]:
        command = click.get_current_context().command
        click.echo(f"  not {quoted(name)}: {as_options(printable(reason), command)}")
    if len(found.unreached) > _SHOWN:
        click.echo(f"  and {len(found.unreached) - _SHOWN} more")
    if found.largest is not None:
        click.echo(f"compared:   {found.compared} tensors with {found.witness}; largest difference: {found.largest}")
    _print_rounding(found)


def _print_rounding(found: ModelCheck) -> None:
    from onnxinfo.text import quoted

    for name, evidence in list(found.rounding.items())[:_SHOWN]:
        click.echo(f"rounding:   {quoted(name)} differs by more than the tolerance, and is right: {evidence}")
    if len(found.rounding) > _SHOWN:
        click.echo(f"            and {len(found.rounding) - _SHOWN} more")
    if found.flips:
        click.echo(f"            {found.flips} integers are one away, since a float lies between two")


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
