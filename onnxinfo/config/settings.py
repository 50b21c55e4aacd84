"""Metadata of configuration fields for front ends: names, values and documentation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..errors import UsageError
from ..text import quoted
from . import kinds

#: Prefix of environment variables.
ENVIRONMENT = "ONNXINFO_"


@dataclass(frozen=True)
class Setting:
    """Name, documentation and validation of a field in all front ends.

    Attributes
    ----------
    help
        Description, including the unit.
    kind
        Kind of its values.
    flat
        Name in all front ends; unique among all fields.
    option
        Command-line option without the dashes, if it differs from the flat name.
    unset
        Meaning of an unset value, for help and docs; empty if the default is self-explanatory.
    recipe
        Key in an archive's recipe; empty if the field alone does not determine the numbers.
    former
        Flat name in an earlier release, which still works with a DeprecationWarning.
    """

    help: str
    kind: kinds.Kind
    flat: str
    option: str = ""
    unset: str = ""
    recipe: str = ""
    former: str = ""

    @property
    def flag(self) -> str:
        """The command-line option, such as ``--decoder-width``."""
        return f"--{self.option or self.flat.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """The environment variable, such as ``ONNXINFO_DECODER_WIDTH``."""
        return ENVIRONMENT + self.flat.upper()

    @property
    def former_variable(self) -> str:
        """The former environment variable; empty if it was not renamed."""
        return self.former and ENVIRONMENT + self.former.upper()

    def former_of(self, name: str) -> str:
        """Return the former name, given the front end's current `name` such as ``width`` for ``decoder_width``."""
        return self.former.removeprefix(self.flat.removesuffix(name))


@dataclass(frozen=True)
class Entry:
    """A field with its place in the configuration.

    Attributes
    ----------
    section
        Table of the configuration file, such as ``ru.decoder``.
    name
        Name of the field.
    default
        Default of the field.
    setting
        Metadata of the field.
    """

    section: str
    name: str
    default: Any
    setting: Setting


def setting(default: Any, help: str, kind: kinds.Kind = kinds.TEXT, **more: str) -> Any:
    """Make a dataclass field; `more` are attributes of :class:`Setting`, and ``metavar``."""
    return field(default=default, metadata={"setting": (help, kind, more)})


class Validated:
    """A dataclass whose fields are validated and converted to canonical form on creation."""

    def __post_init__(self) -> None:
        for each in settings_of(type(self)):
            value = getattr(self, each.name)
            if value is None and each.default is None:
                continue
            try:
                object.__setattr__(self, each.name, each.setting.kind.check(value))
            except ValueError as error:
                shown = quoted(value) if isinstance(value, str) else repr(value)
                raise UsageError(f"{each.setting.flat} {shown[:160]} is not usable: give {error}") from None

    def recorded(self, name: str) -> Any:
        """Return the value of a field to store in an archive's recipe; None stores nothing."""
        return getattr(self, name)


def settings_of(cls: type[Any]) -> Iterator[Entry]:
    """List the settings of a configuration class, without those of nested objects."""
    for each in dataclasses.fields(cls):
        if "setting" in each.metadata:
            help, kind, more = each.metadata["setting"]
            metavar = more.get("metavar")
            described = dataclasses.replace(kind, metavar=metavar) if metavar else kind
            rest = {key: value for key, value in more.items() if key != "metavar"}
            yield Entry("", each.name, each.default, Setting(help, described, **{"flat": each.name, **rest}))


def recipe(section: Validated) -> dict[str, Any]:
    """Return the part of an archive's recipe that comes from a configuration object, by key.

    Keys and words are those of existing archives, independent of the settings' current names.
    """
    kept = [each for each in settings_of(type(section)) if each.setting.recipe]
    found = {each.setting.recipe: each.setting.kind.recorded(section.recorded(each.name)) for each in kept}
    return {key: value for key, value in found.items() if value is not None}
