"""Support options, variables and keys of an earlier release, with a notice of the current names."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import click

from onnxinfo.text import no_such


class Group(click.Group):
    """A group whose commands also accept options under their former names. The context's object knows the command.

    An unknown command is answered with similar ones.
    """

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command on the line, and rename its former options."""
        known = self.list_commands(ctx)
        if args[0] not in known and not ctx.resilient_parsing:
            raise click.UsageError(no_such("command", args[0], known, ctx.command_path), ctx)
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
