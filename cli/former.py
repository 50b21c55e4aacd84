"""Support options, variables and keys of an earlier release, with a notice of the current names."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import click


class Group(click.Group):
    """A group whose commands also accept options under their former names. The context's object knows the command."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command on the line, and rename its former options."""
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and rest:
            from .settings import present_options

            rest = present_options(command, rest)
        ctx.ensure_object(dict).update(command=command, arguments=[*rest])
        return name, command, rest


@contextlib.contextmanager
def warnings_shown() -> Iterator[None]:
    """Print warnings of former names as lines on standard error within a with block."""
    from onnxinfo.moved import FormerNameWarning

    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, FormerNameWarning):
                click.echo(message, err=True)
            else:
                usual(message, category, *where, **more)

        warnings.simplefilter("always", FormerNameWarning)
        warnings.showwarning = show
        yield
