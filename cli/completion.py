"""Shell completion: the command that sets it up, and names read from the files on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem, get_completion_class

if TYPE_CHECKING:
    from onnxinfo import Run


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that lets SHELL complete commands, options, run names and layer names.

    \b
    To install it permanently:
      echo 'eval "$(onnxinfo completion bash)"' >> ~/.bashrc
      echo 'eval "$(onnxinfo completion zsh)"' >> ~/.zshrc
      onnxinfo completion fish > ~/.config/fish/completions/onnxinfo.fish

    \b
    Example:
      onnxinfo completion bash
    """
    found = get_completion_class(shell)
    assert found is not None
    root = click.get_current_context().find_root().command
    click.echo(found(root, {}, "onnxinfo", "_ONNXINFO_COMPLETE").source())


def run_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a run of the archives on the command line."""
    return matching((run.name for run in _opened(ctx)), incomplete)


def metric_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a metric of the archives on the command line."""
    return matching((name for run in _opened(ctx) for name in (metric.name for metric in run.metrics)), incomplete)


def files_and_kinds(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete archives and, once there is one, kinds of plots."""
    from onnxinfo.registry import PLOTS

    kinds = matching(PLOTS.names(), incomplete) if _given(ctx) else []
    return [*kinds, CompletionItem(incomplete, type="file")]


def layer_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a layer of the model or archives on the command line."""
    model = ctx.params.get("model") or next((path for path in ctx.args if not path.endswith(".h5")), None)
    if model:
        return matching(_model_layers(model), incomplete)
    return matching((row.name for run in _opened(ctx) for row in run.layers), incomplete)


def _given(ctx: click.Context) -> list[str]:
    """Archives on the command line."""
    given = [ctx.params.get(name) for name in ("files", "archives", "archive")]
    named = [path for each in given if each for path in ([each] if isinstance(each, str) else each)]
    # While an option still lacks its value, click leaves the preceding arguments unparsed.
    return named or ctx.args


def _opened(ctx: click.Context) -> Iterator[Run]:
    """Open the runs of the archives on the command line one by one."""
    from onnxinfo import OnnxinfoError
    from onnxinfo import open as open_archive

    for path in _given(ctx):
        # The file may not exist yet, and completion has no way to report errors.
        try:
            with open_archive(path) as archive:
                for name in archive.runs:
                    yield archive[name]
        except OnnxinfoError:
            continue


def _model_layers(model: str) -> list[str]:
    from onnxinfo import OnnxinfoError, list_layers

    try:
        return [layer.name for layer in list_layers(model)]
    except OnnxinfoError:
        return []


def matching(names: Iterator[str] | list[str], incomplete: str) -> list[CompletionItem]:
    """Return the names that begin like the word on the command line."""
    # Unprintable characters could control the terminal, and the user could not continue typing them.
    fitting = (name for name in dict.fromkeys(names) if name.isprintable() and name.startswith(incomplete))
    return [CompletionItem(name) for name in fitting]
