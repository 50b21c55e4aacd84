"""Options that several commands share, and how text becomes their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Command = Callable[..., Any]


class Numbers(click.ParamType[list[float]]):
    """One number, or several separated by commas."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        """Return the numbers of ``0.485,0.456,0.406``."""
        if isinstance(value, list):
            return value
        try:
            return [float(part) for part in str(value).split(",")]
        except ValueError:
            self.fail(f"{value!r} is no list of numbers such as 0.485,0.456,0.406", param, ctx)


def selection(command: Command) -> Command:
    """Which layers: ``--layers`` and ``--exclude``."""
    patterns = "glob over tensor names, re:REGEX, op:TYPE, INDEX or FIRST-LAST; repeatable"
    command = click.option("--exclude", multiple=True, metavar="P", help=f"Leave out layers: {patterns}.")(command)
    return click.option("--layers", multiple=True, metavar="P", help=f"Layers: {patterns}. Default: see docs.")(command)


def preprocessing(command: Command) -> Command:
    """How samples are brought to the model."""
    for option in (
        click.option("--size", type=click.IntRange(1), help="Side of the images where the model leaves it open."),
        click.option("--std", type=Numbers(), metavar="N,...", help="Divided into the scaled values, one per channel."),
        click.option("--mean", type=Numbers(), metavar="N,...", help="Subtracted from the scaled values."),
        click.option("--scale", type=float, help="Factor on the stored values; 8-bit images: 1/255."),
        click.option("--preset", type=click.Choice(["imagenet", "cifar10", "unit"]), help="Scale, mean, std by name."),
        click.option("--limit", type=click.IntRange(1), help="Use only the first N samples."),
        click.option("--labels", metavar="SPEC", help="Labels: FILE.npz:key, .npy or .csv; default: by class folder."),
    ):
        command = option(command)
    return command
