"""Options generated from the fields of the configuration objects, and the configuration file."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import click
from click.shell_completion import CompletionItem

from onnxinfo.config import Entry, entries, kinds, read_settings
from onnxinfo.moved import warn_renamed

from .completion import layer_names, matching
from .show_config import CONFIG_FILE, show_config

Command = Callable[..., Any]

_COMPLETIONS = {"layers": layer_names, "exclude": layer_names}
#: Configuration file that is read if none is named, from the working directory.
USUAL_FILE = "onnxinfo.toml"


class Value(click.ParamType[Any]):
    """Parameter type for the value of a setting.

    Parameters
    ----------
    entry
        The setting.
    """

    def __init__(self, entry: Entry) -> None:
        self._kind = entry.setting.kind
        self.name = self._kind.metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse text, or check a value from the configuration file."""
        given = self._kind.parse(value) if isinstance(value, str) else value
        try:
            return self._kind.check([given])[0] if self._kind.is_repeatable else self._kind.check(given)
        except ValueError as error:
            self.fail(f"{str(value)[:160]!r}; give {error}", param, ctx)


class Name(Value):
    """Parameter type for the name of a metric or engine: built-in ones, and those of installed packages.

    Parameters
    ----------
    entry
        The setting.
    """

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry)
        self._flat = entry.setting.flat

    @property
    def names(self) -> list[str]:
        """The names; looked up when they are shown, because that reads the list of installed packages."""
        from onnxinfo.registry import ENGINES, METRICS

        return {"metrics": METRICS, "engine": ENGINES}[self._flat].names()

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return the names as a choice."""
        return f"[{'|'.join(self.names)}]"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete a name."""
        return matching(self.names, incomplete)


class SettingOption(click.Option):
    """Option of a setting.

    Parameters
    ----------
    entry
        The setting.
    """

    def __init__(self, *args: Any, entry: Entry, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.entry = entry

    @property
    def former(self) -> dict[str, str]:
        """Current name of each option of an earlier release."""
        name = self.entry.setting.former_of(self.name or "").replace("_", "-")
        if not name:
            return {}
        present = zip((f"--{name}", f"--no-{name}"), [*self.opts, *self.secondary_opts], strict=False)
        return dict(present)

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Look up the environment variable, also by its former name."""
        setting = self.entry.setting
        found = super().resolve_envvar_value(ctx)
        if found is None and setting.former and (found := os.environ.get(setting.former_variable) or None):
            warn_renamed(setting.former_variable, setting.variable)
        return found


class Word(click.Choice[str]):
    """Parameter type for a choice between words.

    Parameters
    ----------
    kind
        The words.
    """

    def __init__(self, kind: kinds.Kind) -> None:
        super().__init__(kind.choices)
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the word; a former word is replaced by the current one."""
        return super().convert(self._kind.check(value) if value in self._kind.former else value, param, ctx)


def settings(*sections: str, leave_out: Collection[str] = (), **defaults: Any) -> Callable[[Command], Command]:
    """Add the options of some tables of the configuration file to a command.

    Parameters
    ----------
    *sections
        Tables; see :data:`onnxinfo.config.SECTIONS`.
    leave_out
        Flat names of settings that the command does not use.
    **defaults
        Defaults that differ from the settings' own, by flat name.
    """

    def decorate(command: Command) -> Command:
        for each in reversed([*entries(*sections)]):
            flat = each.setting.flat
            if flat not in leave_out:
                command = _option(each, flat, each.setting.flag, defaults.get(flat, each.default))(command)
        return command

    return decorate


def setting(flat: str, name: str = "", help: str = "") -> Callable[[Command], Command]:
    """Add the option of one setting to a command, optionally under another name or with another help."""
    entry = next(each for each in entries() if each.setting.flat == flat)
    if help:
        entry = replace(entry, setting=replace(entry.setting, help=help))
    flag = f"--{name.replace('_', '-')}" if name else entry.setting.flag
    return _option(entry, name or flat, flag, entry.default)


def without_idle(options: dict[str, Any], *idle: str) -> dict[str, Any]:
    """Leave out settings that have no effect on the running command, unless they were typed.

    Those that the configuration file or the environment sets for other commands do no harm; typed ones are refused by
    the function that the options are for, see :func:`onnxinfo.config.refuse_idle`.

    Parameters
    ----------
    options
        Values by name of the parameter.
    *idle
        Tables of the configuration file, or flat names of settings.
    """
    context = click.get_current_context()
    known = {
        each.name
        for each in context.command.params
        if isinstance(each, SettingOption) and not {each.entry.section, each.entry.setting.flat}.isdisjoint(idle)
    }
    return {name: value for name, value in options.items() if name not in known or is_typed(context, name)}


def is_typed(context: click.Context, name: str) -> bool:
    """Whether an option is on the command line, rather than in the environment or the configuration file."""
    return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def config_file(command: Command) -> Command:
    """Add ``--config`` and ``--show-config`` to a command."""
    return click.option(
        "--config",
        type=click.Path(),
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        envvar="ONNXINFO_CONFIG",
        help="Configuration file (TOML), see docs/configuration.md; environment and options take precedence over it. "
        f"Default: {USUAL_FILE} in the working directory, if it exists.",
    )(show_config(command))


def present_options(command: click.Command, arguments: list[str]) -> list[str]:
    """Rename options of an earlier release on a command line, with a warning."""
    former: dict[str, str] = {}
    for option in command.params:
        if isinstance(option, SettingOption):
            former |= option.former
    found = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in former:
            warn_renamed(name, former[name])
        found.append(former.get(name, name) + equals + value)
    return found


def _option(entry: Entry, name: str, flag: str, default: Any) -> Callable[[Command], Command]:
    setting, kind = entry.setting, entry.setting.kind
    unset = f" Default: {setting.unset}." if setting.unset else ""
    more: dict[str, Any] = {"default": default, "show_default": not setting.unset, "envvar": setting.variable}
    if kind.is_flag:
        # Flags are off by default.
        flag, more["show_default"] = f"{flag}/--no-{flag[2:]}", False
    elif kind.choices:
        more["type"] = Word(kind)
    elif setting.flat in ("metrics", "engine"):
        more |= {"type": Name(entry), "multiple": kind.is_repeatable}
    else:
        more |= {"type": Value(entry), "metavar": kind.metavar, "multiple": kind.is_repeatable}
    more["shell_complete"] = _COMPLETIONS.get(setting.flat)
    return click.option(flag, name, cls=SettingOption, entry=entry, help=setting.help + unset, **more)


def _read_config(ctx: click.Context, param: click.Parameter, path: str | None) -> None:
    if path is None:
        if not os.path.isfile(USUAL_FILE):
            return
        path = USUAL_FILE
        click.echo(f"settings are read from {USUAL_FILE}", err=True)
    given = read_settings(path)
    ctx.meta[CONFIG_FILE] = path
    options = [each for each in ctx.command.params if isinstance(each, SettingOption)]
    ctx.default_map = {
        each.name: given[each.entry.setting.flat] for each in options if each.name and each.entry.setting.flat in given
    }
