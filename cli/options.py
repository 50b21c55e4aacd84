"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from onnxinfo.config import PATTERNS

from .completion import layer_names

Command = Callable[..., Any]


def force(command: Command) -> Command:
    """Add ``--force``, which allows replacing an existing file of another kind."""
    text = "Replace an existing file of any kind, but never an input."
    return click.option("--force", is_flag=True, help=text)(command)


def selection(default: str) -> Callable[[Command], Command]:
    """Add ``--layers`` and ``--exclude``, which select layers; `default` describes the selection without them."""
    shared: dict[str, Any] = {"multiple": True, "metavar": "P", "shell_complete": layer_names}
    layers = f"Layers to select: {PATTERNS}; repeatable. Default: {default}."
    exclude = f"Layers to leave out: {PATTERNS}; repeatable. Default: none."

    def decorate(command: Command) -> Command:
        command = click.option("--exclude", help=exclude, **shared)(command)
        return click.option("--layers", help=layers, **shared)(command)

    return decorate
