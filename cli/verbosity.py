"""How much is said: ``--quiet``, ``--verbose`` and ``--debug``, before a command and after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import logging


def add_options(command: click.Command) -> click.Command:
    """Give a command, and those of a group, the options."""
    if not any(isinstance(param, click.Option) and "--quiet" in param.opts for param in command.params):
        command.params += [
            _flag("-q", "--quiet", help="No progress, no remarks: results and errors only."),
            _flag("-v", "--verbose", help="Say what is done, with times, on standard error."),
            _flag("--debug", help="The same in every detail, and the full traceback of an error."),
        ]
    if isinstance(command, click.Group):
        for each in command.commands.values():
            add_options(each)
    return command


def quiet() -> bool:
    """Tell whether results and errors are all that is asked for."""
    return bool(click.get_current_context().ensure_object(dict).get("quiet"))


def print_info(text: object) -> None:
    """Print what nobody needs who asked for quiet."""
    if not quiet():
        click.echo(text)


def _flag(*names: str, help: str) -> click.Option:
    return click.Option(names, is_flag=True, expose_value=False, callback=_settle, help=help)


def _settle(context: click.Context, option: click.Parameter, given: bool) -> None:
    """Note what is asked for; it counts wherever on the line it stands."""
    settings = context.ensure_object(dict)
    settings[option.name] = settings.get(option.name, False) or given
    if settings.get("quiet") and settings.get("verbose"):
        raise click.UsageError("--quiet and --verbose contradict each other: give one of them")
    if given and option.name in ("verbose", "debug"):
        _show_log(detailed=bool(settings.get("debug")))


def _show_log(*, detailed: bool) -> None:
    import logging

    logger = logging.getLogger("onnxinfo")
    logger.setLevel(logging.DEBUG if detailed else logging.INFO)
    if not any(handler.get_name() == __name__ for handler in logger.handlers):
        logger.addHandler(_handler())


def _handler() -> logging.Handler:
    import logging

    from onnxinfo.text import printable

    from .rendering import as_options

    class Lines(logging.Handler):
        """One line a record; the stream is looked up each time, as live progress puts its own in place."""

        def emit(self, record: logging.LogRecord) -> None:
            context = click.get_current_context(silent=True)
            text = as_options(printable(record.getMessage()), context.command if context else None)
            click.echo(f"[{record.relativeCreated / 1000:7.2f} s] {text}", err=True)

    handler = Lines()
    handler.set_name(__name__)
    return handler
