"""Combine configuration from several sources: objects, flat keywords, and files."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import UsageError
from ..moved import present_names
from ..text import no_such, quoted
from .sections import SECTIONS, Config, entries, former_names
from .settings import Entry


class FromFile(str):
    """Flat name of a setting that a file gave, which may serve other commands: it is not refused as idle."""

    __slots__ = ()


def configure(base: Config, options: Mapping[str, Any], *sections: str) -> Config:
    """Return a configuration with some settings replaced.

    Parameters
    ----------
    base
        Settings to start from.
    options
        Configuration objects by the names of :class:`Config`'s attributes, and fields by their flat names. A flat name
        takes precedence over an object.
    *sections
        Tables of the configuration file whose fields and objects are accepted; default: all.

    Raises
    ------
    UsageError
        A name or value is invalid.

    Warns
    -----
    DeprecationWarning
        A name is from an earlier release.
    """
    flat = present_names(options, {each.setting.former: each.setting.flat for each in entries() if each.setting.former})
    known = {each.setting.flat: each for each in entries(*sections)}
    allowed = dict.fromkeys(SECTIONS[section][0][0] for section in sections or SECTIONS)
    objects = {name: flat.pop(name) for name in allowed if name in flat}
    for name, given in objects.items():
        if not isinstance(given, type(getattr(base, name))):
            expected = type(getattr(base, name)).__name__
            raise UsageError(f"{name} is {type(given).__name__}: give a {expected} of onnxinfo.config")
    for name in flat:
        if name not in known:
            raise UsageError(no_such("option", name, [*known, *allowed], "an analysis"))
    return _with_flat(dataclasses.replace(base, **objects), flat, known)


def value_of(config: Config, entry: Entry) -> Any:
    """Return the value of a setting."""
    target: Any = config
    for part in SECTIONS[entry.section][0]:
        target = getattr(target, part)
    return getattr(target, entry.name)


def refuse_idle(given: Iterable[str], idle: Iterable[str], when: str, remedy: str = "") -> None:
    """Refuse settings that would have no effect.

    Parameters
    ----------
    given
        Flat names of the settings that the user gave, or attributes of :class:`Config`; those of a file are left out.
    idle
        Those without effect; a table of the configuration file stands for all of its settings.
    when
        Where they have no effect, such as ``"without attack=True"``.
    remedy
        What gives them one, such as ``"give attack=True"``.

    Raises
    ------
    UsageError
        One of them was given.
    """
    names: set[str] = set()
    for each in idle:
        own = [entry.setting for entry in entries(each)] if each in SECTIONS else []
        names |= {name for setting in own for name in (setting.flat, setting.former) if name}
        names.add(SECTIONS[each][0][0] if each in SECTIONS else each)
    if found := [f"{name}=..." for name in given if name in names and not isinstance(name, FromFile)]:
        one = len(found) == 1
        listed = found[0] if one else f"{', '.join(found[:-1])} and {found[-1]}"
        advice = f"{remedy}, or leave" if remedy else "leave"
        raise UsageError(
            f"{listed} {'has' if one else 'have'} no effect {when}; {advice} {'it' if one else 'them'} out"
        )


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the settings in a configuration file, by flat name.

    Settings that have no effect where they are given by these names are not refused, since the file may serve several
    commands.

    Parameters
    ----------
    path
        A TOML file with the tables of :data:`SECTIONS`. Relative paths in it are relative to the working directory.

    Raises
    ------
    UsageError
        The file cannot be read, or has an unknown table or key, or an invalid value.
    """
    try:
        with open(path, "rb") as file:
            tables = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"configuration file {quoted(path)} cannot be read: {error}; give a TOML file") from None
    found: dict[str, Any] = {}
    for section, given in _by_table(tables, path):
        known = {each.name: each for each in entries(section)}
        for name, value in present_names(given, former_names(section)).items():
            if name not in known:
                raise UsageError(no_such("setting", name, [*known], f"table [{section}] of {quoted(path)}"))
            setting = known[name].setting
            try:
                found[FromFile(setting.flat)] = setting.kind.check(value)
            except ValueError as error:
                raise UsageError(f"{section}.{name} in {quoted(path)} is not usable: give {error}") from None
    return found


def _with_flat(base: Config, flat: Mapping[str, Any], known: Mapping[str, Entry]) -> Config:
    config = base
    by_section: dict[str, dict[str, Any]] = {}
    for name, value in flat.items():
        by_section.setdefault(known[name].section, {})[known[name].name] = value
    for section, values in by_section.items():
        config = _replaced(config, SECTIONS[section][0], values)
    return config


def _replaced(target: Any, path: Sequence[str], values: Mapping[str, Any]) -> Any:
    if not path:
        return dataclasses.replace(target, **values)
    return dataclasses.replace(target, **{path[0]: _replaced(getattr(target, path[0]), path[1:], values)})


def _by_table(tables: Mapping[str, Any], path: object, prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """List the tables of a configuration file, each with its keys and values."""
    for name, value in tables.items():
        section = f"{prefix}{name}"
        if section in SECTIONS and isinstance(value, Mapping):
            inner = {key: each for key, each in value.items() if f"{section}.{key}" in SECTIONS}
            yield from _by_table(inner, path, f"{section}.")
            yield section, {key: each for key, each in value.items() if key not in inner}
        elif section in SECTIONS:
            raise UsageError(
                f"{quoted(section)} in {quoted(path)} is {quoted(value)}, expected a table; put settings below "
                f"[{section}]"
            )
        else:
            raise UsageError(no_such("table", section, [*SECTIONS], quoted(path)))
