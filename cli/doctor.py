"""``doctor``: what a model receives, what it makes of it, and which preprocessing fits the labels."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from onnxinfo.text import printable

from .options import inputs
from .rendering import as_options
from .settings import config_file, setting, settings
from .tables import print_rows, write_stdout

if TYPE_CHECKING:
    from onnxinfo import SanityCard

#: Settings that an alternative replaces.
_REPLACED = ("preset", "scale", "mean", "std")


@click.command(no_args_is_help=True)
@click.argument("model", type=click.Path())
@inputs
@config_file
@settings("input")
@setting("timeout")
@click.option(
    "--format", type=click.Choice(["table", "json"]), default="table", show_default=True, help="Output format."
)
@click.pass_context
def doctor(ctx: click.Context, /, model: str, inputs: str, format: str, **options: Any) -> None:
    """Examine what MODEL receives and what it makes of it, before an analysis.

    Prints preprocessing, range of the model's input, predictions and accuracy, and what is probably wrong. With
    --labels, other presets, scales and layouts are tried on at most 512 samples. The last line is the command to use,
    or why an analysis would fail.

    \b
    Example:
      onnxinfo doctor resnet20.onnx --inputs images/ --labels labels.csv
    """
    from onnxinfo import doctor as examine

    card = examine(model, inputs, **options)
    command = "" if card.obstacle else _command(ctx, card)
    if format == "json":
        found = card.to_dict() | {"command": command, "predicted": None, "probability": None}
        if card.predicted is not None and card.probability is not None:
            finite = [share if math.isfinite(share) else None for share in card.probability.tolist()]
            found |= {"predicted": card.predicted.tolist(), "probability": finite}
        write_stdout(json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        return
    for line in card.lines():
        click.echo(as_options(line, ctx.command))
    if card.alternatives:
        rows = [{"preprocessing": "as given", "accuracy": card.accuracy_tried}]
        rows += [{"preprocessing": str(each), "accuracy": each.accuracy} for each in card.alternatives]
        click.echo(f"\ntried on {card.tried} labeled samples:")
        print_rows(rows, ["preprocessing", "accuracy"], "table")
    if card.obstacle:
        click.echo(f"\nan analysis would fail: {as_options(printable(card.obstacle), ctx.command)}")
    else:
        click.echo(f"\n{'use' if card.better else 'next'}: {command}")


def _command(ctx: click.Context, card: SanityCard) -> str:
    """Return the command line of the analysis: the options given here, with those of a better alternative."""
    given = {
        each.name: ctx.params[each.name]
        for each in ctx.command.params
        if isinstance(each, click.Option)
        and each.name in ctx.params
        and each.name != "format"
        and ctx.get_parameter_source(each.name or "") is not click.core.ParameterSource.DEFAULT
    }
    better: Mapping[str, Any] = {} if card.better is None else card.better.options
    if card.better is not None and not card.better.remedy and set(better) <= {*_REPLACED}:
        given = {name: value for name, value in given.items() if name not in _REPLACED}
    flags = [word for name, value in {**given, **better}.items() for word in _words(ctx.command, name or "", value)]
    return shlex.join(["onnxinfo", "analyze", ctx.params["model"], *flags, "-o", "result.h5"])


def _words(command: click.Command, name: str, value: Any) -> list[str]:
    option = next(each for each in command.params if each.name == name)
    flag = max(option.opts, key=len)
    if isinstance(value, bool):
        return [flag if value else max(option.secondary_opts, key=len, default=flag)]
    if isinstance(option, click.Option) and option.multiple:
        return [word for each in value for word in (flag, _text(each))]
    return [flag, _text(value)]


def _text(value: Any) -> str:
    """Return a value as it is typed."""
    if isinstance(value, float):
        return f"{value:.9g}"
    if isinstance(value, tuple | list):
        pair = len(value) == 2 and isinstance(value[0], str)
        return ("=" if pair else ",").join(_text(each) for each in value)
    return str(value)
