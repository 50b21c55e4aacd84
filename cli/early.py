"""Checks of the command line's arguments before torch, which takes seconds to import, is imported."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Any

import click

from .idle import settle_idle_options
from .verbosity import show_messages


def add_checks(command: click.Command) -> click.Command:
    """Add checks of files and names to a command, or to the commands of a group, that run before it."""
    if command.callback is not None and not isinstance(command.callback, _Checked):
        command.callback = _Checked(command.callback)
    if isinstance(command, click.Group):
        for nested in command.commands.values():
            add_checks(nested)
    return command


class _Checked:
    """Callback of a command, preceded by checks of its arguments.

    Parameters
    ----------
    callback
        The command's own callback.
    """

    def __init__(self, callback: Callable[..., Any]) -> None:
        self._callback = callback

    def __call__(self, *context: Any, **given: Any) -> Any:
        """Check the arguments, then run the command."""
        show_messages()
        _check_names_of_outputs()
        for name, check in _CHECKS.items():
            if given.get(name) is not None:
                check(given[name])
        settle_idle_options(given)
        return self._callback(*context, **given)


def _check_names_of_outputs() -> None:
    """Refuse ``-`` as an output, except where it is documented as standard output."""
    context = click.get_current_context()
    for each in context.command.params:
        if not isinstance(each, click.Option) or each.name not in _OUTPUTS or "standard output" in (each.help or ""):
            continue
        if context.params.get(each.name) == "-":
            flag = max(each.opts, key=len)
            raise click.UsageError(f"'-' is not a file name in {flag}; give a name, or ./- for a file of that name")


def _check_model(path: str) -> None:
    # Some commands read a model from standard input.
    if path != "-" and not os.path.isfile(path):
        from onnxinfo import load

        load(path)


def _check_inputs(spec: str) -> None:
    if not os.path.exists(spec):
        from onnxinfo.inputs.opening import check_present

        check_present(spec)


def _check_array(spec: str | tuple[str, ...]) -> None:
    # 'query' takes labels themselves.
    if isinstance(spec, str) and not os.path.exists(spec):
        from onnxinfo.inputs.opening import check_array

        check_array(spec)


def _check_metrics(names: tuple[str, ...]) -> None:
    from onnxinfo.registry import METRICS

    for name in names:
        METRICS.check(name)


def _check_engine(name: str) -> None:
    from onnxinfo.registry import ENGINES

    ENGINES.check(name)


def _check_device(name: str) -> None:
    # Without the driver's library, torch finds no device either; whether there is one, only torch knows.
    if name.startswith("cuda") and sys.platform == "linux" and not os.path.exists(_AMD) and not _has_driver():
        from onnxinfo.errors import UsageError

        raise UsageError(f"device '{name}' was asked for, but there is no driver for CUDA devices; use cpu")


def _has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _check_channels(path: str) -> None:
    from pathlib import Path

    from onnxinfo.graph.channel_spec import read_spec

    read_spec(Path(path))


def _check_output(path: str) -> None:
    # Folders of results are created with all that they are in.
    if path.endswith(".h5"):
        from onnxinfo.replacing import resolve

        resolve(path)


# Parameters that name outputs.
_OUTPUTS = ("output", "verdict", "plot")
# Device of AMD's driver, whose GPUs are CUDA devices to torch.
_AMD = "/dev/kfd"
# Checks by parameter name.
_CHECKS: dict[str, Callable[[Any], None]] = {
    "metrics": _check_metrics,
    "engine": _check_engine,
    "model": _check_model,
    "channels": _check_channels,
    "inputs": _check_inputs,
    "labels": _check_array,
    "foreground": _check_array,
    "decoder_inputs": _check_inputs,
    "device": _check_device,
    "output": _check_output,
}
