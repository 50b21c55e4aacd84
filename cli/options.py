"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from onnxinfo.config import PATTERNS

from .completion import layer_names

Command = Callable[..., Any]


def force(command: Command) -> Command:
    """Whether an existing file of another kind is replaced: ``--force``."""
    text = "Replace an existing file whatever it holds; never an input."
    return click.option("--force", is_flag=True, help=text)(command)


def selection(command: Command) -> Command:
    """Which layers: ``--layers`` and ``--exclude``."""
    shared: dict[str, Any] = {"multiple": True, "metavar": "P", "shell_complete": layer_names}
    command = click.option("--exclude", help=f"Layers to leave out: {PATTERNS}; repeatable.", **shared)(command)
    return click.option("--layers", help=f"Layers: {PATTERNS}; repeatable. Default: see docs.", **shared)(command)
