"""Render messages of the library, which use Python syntax, in the syntax of the command line."""

from __future__ import annotations

import re

import click

#: A keyword with its value: ``labels=...``, ``overwrite=True``, ``scale=1.5``, ``by='depth'`` or ``run=['A', 'B']``.
#: Numbers are of any form that Python writes. Text from outside is always quoted in messages.
KEYWORD = re.compile(
    r"(?<![^\s(])([a-z_]+)="
    r"(\.\.\.|True|False|-?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|inf|nan)|'[^']*'|\['[^']*'(?:, '[^']*')*\])(?![^\s,;:.)])"
)
#: A call of a public function: ``onnxinfo.compare(by='depth')``.
CALL = re.compile(r"\bonnxinfo\.([a-z_]+)\(([^()]*)\)")
#: A word that may be the name of a setting, such as ``normalize_by``, outside quotes and paths.
WORD = re.compile(r"(?<![\w'\"./=-])[a-z]+(?:_[a-z]+)+(?![\w'\"./=(-])")
#: Options of the program itself, by the functions that they correspond to.
PROGRAM_OPTIONS = {"register_ort_library": "--ort-library"}


_programs: list[click.Group] = []


def register_program(program: click.Group) -> None:
    """Make the program known, whose commands messages name."""
    _programs[:] = [program]


def as_options(text: str, command: click.Command | None) -> str:
    """Replace keywords and names of settings in a message by options of a command, and calls by commands.

    Parameters
    ----------
    text
        The message.
    command
        The running command. Keywords without a matching option are left unchanged.
    """
    return _with_flags(CALL.sub(_command_line, text), command)


def _with_flags(text: str, command: click.Command | None) -> str:
    options = _options(command)

    def replace(found: re.Match[str]) -> str:
        option = options.get(found[1])
        return found[0] if option is None else _flags(option, found[2])

    def named(found: re.Match[str]) -> str:
        option = options.get(found[0])
        return found[0] if option is None else max(option.opts, key=len)

    # Text from outside is in quotes.
    parts = re.split(r"('[^']*')", KEYWORD.sub(replace, text))
    return "".join(part if place % 2 else WORD.sub(named, part) for place, part in enumerate(parts))


def _options(command: click.Command | None) -> dict[str, click.Option]:
    """Options by the names that messages have for them: that of the parameter, or the option's own, ``metric``."""
    given = [] if command is None else [each for each in command.params if isinstance(each, click.Option)]
    own = {flag.lstrip("-").replace("-", "_"): option for option in given for flag in option.opts}
    return own | {option.name: option for option in given if option.name is not None}


def _flags(option: click.Option, value: str) -> str:
    flag = max(option.opts, key=len)
    if value in ("...", "True"):
        return flag
    if value == "False":
        return max(option.secondary_opts, key=len, default=flag)
    return " ".join(f"{flag} {each}" for each in re.findall(r"'([^']*)'", value) or [value])


def _command_line(call: re.Match[str]) -> str:
    # Dots alone stand for arguments; those after a name, for its value.
    name, keywords = call[1], re.sub(r"(?<!=)\.\.\.", "", call[2])
    if name in PROGRAM_OPTIONS:
        return PROGRAM_OPTIONS[name]
    command = next((found for each in _programs if (found := each.get_command(click.Context(each), name))), None)
    if command is None:
        return call[0]
    flags = _with_flags(keywords.replace(", ", " "), command)
    return f"'onnxinfo {name}{flags and ' '}{flags}'"
