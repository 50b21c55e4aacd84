"""Options that would do nothing for the samples, metrics and other options of a command line."""

from __future__ import annotations

from typing import Any

import click

from .settings import SettingOption, is_typed


def settle_idle_options(given: dict[str, Any]) -> None:
    """Refuse options on the command line that certainly have no effect on the running command.

    Settings of a file or the environment, which serve other commands, are set to their defaults instead.

    Parameters
    ----------
    given
        Values by name of the parameter.

    Raises
    ------
    UsageError
        One of them was given.
    """
    context = click.get_current_context(silent=True)
    if context is None:
        return
    options = {each.name: each for each in context.command.params if isinstance(each, SettingOption) and each.name}
    typed = [each.entry.setting.flat for name, each in options.items() if is_typed(context, name)]
    others = [name for name, each in options.items() if not is_typed(context, name) and _is_set(each, given)]
    if not typed and not others:
        return
    # Imported here because most command lines give none of these options.
    from onnxinfo.workflows.idle import idle_settings, refuse_idle_settings

    command = context.command.name or ""
    if typed:
        refuse_idle_settings(command, typed, given)
    if others:
        idle = {each.setting.flat for each in idle_settings(command, given)}
        given |= {name: options[name].entry.default for name in others if options[name].entry.setting.flat in idle}


def _is_set(option: SettingOption, given: dict[str, Any]) -> bool:
    value = given.get(option.name or "")
    return value is not None and value != option.entry.default
