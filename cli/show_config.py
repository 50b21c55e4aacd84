"""``--show-config``: the settings in effect, and where each comes from."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from onnxinfo.config import Entry

Command = Callable[..., Any]

#: Key of a context's ``meta`` for the configuration file that was read.
CONFIG_FILE = "onnxinfo.config_file"


def show_config(command: Command) -> Command:
    """Add ``--show-config`` to a command."""
    return click.option(
        "--show-config",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_show,
        help="Print the settings in effect, and where each comes from, and exit.",
    )(command)


def _show(ctx: click.Context, option: click.Parameter, given: bool) -> None:
    if not given or ctx.resilient_parsing:
        return
    arguments = [each for each in ctx.ensure_object(dict).get("arguments", []) if each not in option.opts]
    # Other parameters, such as the model, are not needed to know the settings.
    lenient = copy.copy(ctx.command)
    lenient.no_args_is_help = False
    lenient.params = [_optional(each) for each in ctx.command.params if each is not option]
    parsed = lenient.make_context(ctx.info_name, arguments, parent=ctx.parent)
    with parsed:
        _print(parsed)
    ctx.exit()


def _optional(param: click.Parameter) -> click.Parameter:
    found = copy.copy(param)
    found.required = False
    return found


def _print(ctx: click.Context) -> None:
    from .tables import print_rows

    found = [(each, getattr(each, "entry", None)) for each in ctx.command.params]
    rows = [
        {
            "table": entry.section,
            "setting": entry.name,
            "value": _text(ctx.params.get(each.name or ""), entry.setting.unset),
            "from": _source(ctx, each.name or "", max(each.opts, key=len), entry.setting.variable),
        }
        for each, entry in found
        if isinstance(entry, Entry)
    ]
    print_rows(rows, ["table", "setting", "value", "from"], "table")


def _source(ctx: click.Context, name: str, flag: str, variable: str) -> str:
    source = ctx.get_parameter_source(name)
    found = {
        ParameterSource.COMMANDLINE: flag,
        ParameterSource.ENVIRONMENT: variable,
        ParameterSource.DEFAULT_MAP: str(ctx.meta.get(CONFIG_FILE)),
    }
    return "default" if source is None else found.get(source, "default")


def _text(value: Any, unset: str) -> str:
    """Return a value as in the configuration file; what an unset one means is in parentheses."""
    if value is None or value == ():
        return f"({unset})" if unset else ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        pair = len(value) == 2 and isinstance(value[0], str) and not isinstance(value[1], str)
        return ("=" if pair else ", ").join(_text(each, "") for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
