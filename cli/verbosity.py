"""The options ``--quiet``, ``--verbose`` and ``--debug``, accepted before and after a command."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import logging


def add_options(command: click.Command) -> click.Command:
    """Add the options to a command and, for a group, to its commands."""
    if not any(isinstance(param, click.Option) and "--quiet" in param.opts for param in command.params):
        command.params += [
            _flag("-q", "--quiet", help="Print only results and errors, without progress and messages."),
            _flag("-v", "--verbose", help="Log progress with timestamps to standard error."),
            _flag("--debug", help="Log in full detail, and print the traceback of an error."),
        ]
    if isinstance(command, click.Group):
        for each in command.commands.values():
            add_options(each)
    return command


def quiet() -> bool:
    """Whether ``--quiet`` was given."""
    return bool(click.get_current_context().ensure_object(dict).get("quiet"))


def show_messages() -> None:
    """Show the library's warnings on standard error, and the sanity card unless ``--quiet`` was given."""
    import logging

    _add_handler()
    logging.getLogger("onnxinfo.sanity").setLevel(logging.WARNING if quiet() else logging.INFO)


def print_info(text: object) -> None:
    """Print a message unless ``--quiet`` was given."""
    if not quiet():
        click.echo(text)


def _flag(*names: str, help: str) -> click.Option:
    return click.Option(names, is_flag=True, expose_value=False, callback=_settle, help=help)


def _settle(context: click.Context, option: click.Parameter, given: bool) -> None:
    """Record the option, which has the same effect anywhere on the command line."""
    settings = context.ensure_object(dict)
    settings[option.name] = settings.get(option.name, False) or given
    if settings.get("quiet") and settings.get("verbose"):
        raise click.UsageError("--quiet and --verbose contradict each other: give one of them")
    if given and option.name in ("verbose", "debug"):
        _show_log(detailed=bool(settings.get("debug")))


def _show_log(*, detailed: bool) -> None:
    import logging

    logging.getLogger("onnxinfo").setLevel(logging.DEBUG if detailed else logging.INFO)
    _add_handler()


def _add_handler() -> None:
    import logging

    logger = logging.getLogger("onnxinfo")
    if not any(handler.get_name() == __name__ for handler in logger.handlers):
        logger.addHandler(_handler())


def _handler() -> logging.Handler:
    import logging

    from onnxinfo.text import printable

    from .rendering import as_options

    class Lines(logging.Handler):
        """Prints one line per record; the stream is looked up each time because the progress bar replaces it."""

        def emit(self, record: logging.LogRecord) -> None:
            context = click.get_current_context(silent=True)
            text = as_options(printable(record.getMessage()), context.command if context else None)
            if logging.getLogger("onnxinfo").isEnabledFor(logging.INFO):
                text = f"[{record.relativeCreated / 1000:7.2f} s] {text}"
            elif record.levelno >= logging.WARNING:
                text = f"warning: {text}"
            click.echo(text, err=True)

    handler = Lines()
    handler.set_name(__name__)
    return handler
