"""The command line: each command parses its arguments, calls one function of :mod:`onnxinfo` and prints."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

import click

from onnxinfo import __version__
from onnxinfo.text import printable

from .early import add_checks
from .former import Group, warnings_shown
from .rendering import as_options, register_program
from .streams import stand_in
from .verbosity import add_options

# Command name -> module of this package that defines it (as a function of the same name, dashes as underscores).
# Commands are imported when they run, so that starting costs nothing for the others.
COMMANDS: dict[str, str] = {
    "analyze": "analyze",
    "sweep": "sweep",
    "similarity": "similarity",
    "oneshot": "oneshot",
    "demo": "analyze",
    "sensitivity": "sensitivity",
    "recommend": "recommend",
    "leakage": "leakage",
    "decoder": "decoder",
    "query": "query",
    "summary": "summary",
    "plot": "plot",
    "compare": "compare",
    "power": "power",
    "ranking": "sweep",
    "report": "report",
    "annotate": "annotate",
    "runs": "archive",
    "rename": "archive",
    "delete": "archive",
    "merge": "archive",
    "export": "archive",
    "recover": "archive",
    "validate": "archive",
    "doctor": "doctor",
    "check": "check",
    "completion": "completion",
    "rescale": "diagnoses",
    "coherency": "diagnoses",
    "prune": "prune",
    "robustness": "diagnoses",
    "layers": "graph",
    "expose": "graph",
    "extract": "graph",
}


class Commands(Group):
    """A group whose commands are imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name all commands, in order of the data flow."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{COMMANDS[cmd_name]}", __name__)
        command = getattr(module, cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return add_checks(add_options(command))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; if it gets an extra argument, explain how to pass several values to an option."""
        try:
            with warnings_shown():
                return super().invoke(ctx)
        except click.UsageError as error:
            hint = _repetition(error, ctx.ensure_object(dict).get("arguments", []))
            if not hint:
                raise
            raise click.UsageError(error.message + hint, error.ctx) from error


def _repetition(error: click.UsageError, arguments: list[str]) -> str:
    """Explain ``--layers a b``, where the second value is not part of the option; empty for other errors."""
    if error.ctx is None or not error.message.startswith("Got unexpected extra argument"):
        return ""
    options = [each for each in error.ctx.command.params if isinstance(each, click.Option) and each.multiple]
    flags = {flag for each in options for flag in each.opts}
    for flag, value, extra in _values(arguments):
        if flag in flags and re.search(rf"\({re.escape(extra)}[ )]", error.message):
            return f"; to give several values, repeat the option: {flag} {value} {flag} {extra}"
    return ""


def _values(arguments: list[str]) -> Iterator[tuple[str, str, str]]:
    """List possible triples of an option, its value and the argument after it."""
    for i, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        following = [value, *arguments[i + 1 : i + 2]] if equals else arguments[i + 1 : i + 3]
        if len(following) == 2:
            yield flag, following[0], following[1]


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, package_name="onnxinfo")
@click.option(
    "--ort-library",
    "libraries",
    type=click.Path(),
    multiple=True,
    metavar="FILE",
    help="Shared library of custom operators for ONNX Runtime. Its code is executed; repeatable.",
)
def cli(libraries: tuple[str, ...]) -> None:
    """Measure how much of its input each layer of a trained network discards."""
    if libraries:
        from onnxinfo import register_ort_library

        for library in libraries:
            register_ort_library(library)


add_options(cli)
register_program(cli)


def main() -> None:
    """Run the command line; docs/exit-codes.md lists the exit codes."""
    from onnxinfo import OnnxinfoError

    stand_in()
    settings: dict[str, Any] = {"debug": bool(os.environ.get("ONNXINFO_DEBUG"))}
    try:
        result = cli(prog_name="onnxinfo", standalone_mode=False, obj=settings)
        # Buffered output may fail to be written.
        sys.stdout.flush()
        sys.exit(result)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        click.echo(f"onnxinfo: error: {_one_line(error)}", err=True)
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except OnnxinfoError as error:
        if settings["debug"]:
            raise
        click.echo(f"onnxinfo: error: {as_options(str(error), settings.get('command'))}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output (head, less) has exited: stop silently.
        sys.exit(1)
    except OSError as error:
        if settings["debug"]:
            raise
        where = f": {error.filename}" if error.filename else ""
        click.echo(f"onnxinfo: error: {error.strerror or error}{where}", err=True)
        sys.exit(1)


def _variable(error: click.BadParameter) -> str:
    """Name the environment variable that a wrong value comes from, in quotes; empty if it does not come from one."""
    name = "" if error.param is None else error.param.name or ""
    source = None if error.ctx is None else error.ctx.get_parameter_source(name)
    if error.param is None or source is not click.core.ParameterSource.ENVIRONMENT:
        return ""
    variables = error.param.envvar
    return f"'{variables if isinstance(variables, str) else ', '.join(variables or ())}'"


def _one_line(error: click.ClickException) -> str:
    """Message of click about the command line in the form of all others, with the command whose help tells more."""
    if isinstance(error, click.BadParameter):
        error.param_hint = _variable(error) or error.param_hint
    message = re.sub(r"(?<!\.)\.$", "", printable(" ".join(error.format_message().split())))
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    hint = "" if ctx is None else f"; see '{ctx.command_path} --help'"
    return message[:1].lower() + message[1:] + hint
