"""Options, variables and keys of an earlier release: they work, and a line on standard error names the present ones."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import click


class Group(click.Group):
    """A group whose commands take options by their former names, too. The context's object knows the command."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command on the line, with its options by their present names."""
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and rest:
            from .settings import present_options

            rest = present_options(command, rest)
        ctx.ensure_object(dict).update(command=command, arguments=[*rest])
        return name, command, rest


@contextlib.contextmanager
def warnings_shown() -> Iterator[None]:
    """Show warnings of former names as a line on standard error, for as long as a block lasts."""
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
