"""Options that several commands share."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from onnxinfo.config import PATTERNS

from .completion import layer_names, metric_names, run_names
from .models import opened
from .settings import setting

Command = Callable[..., Any]


class _Number(click.types.FloatParamType):
    """Parameter type for a finite number."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse a number; refuse nan and infinities, with which any comparison is pointless."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number; give one", param, ctx)
        return number


#: Type of options that take a finite number.
NUMBER = _Number()


def force(command: Command) -> Command:
    """Add ``--force``, which allows replacing an existing file of another kind."""
    text = "Replace an existing file of any kind, but never an input."
    return click.option("--force", is_flag=True, help=text)(command)


def inputs(command: Command) -> Command:
    """Add ``--inputs``, the samples to analyze."""
    text = (
        "Samples: folder or glob of images or recordings, FILE.npz:key, FILE.npy, FILE.h5:/dataset, a table (.csv, "
        ".parquet, with :COLUMN,...) or texts (.txt); for several inputs NAME=SPEC,...; for a model without a batch "
        "axis a folder of .npz files."
    )
    return click.option("--inputs", required=True, metavar="SPEC", help=text)(command)


def only_runs(command: Command) -> Command:
    """Add ``--run``, which selects runs of archives."""
    text = "Only this run, or runs that match a glob such as 'res*'; repeatable. Default: all."
    return click.option("--run", multiple=True, metavar="NAME", help=text, shell_complete=run_names)(command)


def only_tagged(command: Command) -> Command:
    """Add ``--tag``, which selects runs by their tags."""
    text = "Only runs with this tag, KEY=VALUE or KEY; the value may be a glob; repeatable. Default: all."
    return click.option("--tag", multiple=True, metavar="KEY[=VALUE]", help=text)(command)


def only_inputs(command: Command) -> Command:
    """Add ``--input``, which selects perturbed inputs of runs."""
    text = "Only this perturbed input, of runs with noise on several; repeatable. Default: all."
    return click.option("--input", multiple=True, metavar="NAME", help=text)(command)


def only_samples(command: Command) -> Command:
    """Add ``--samples``, which selects samples of archives; ``--sample`` is the same."""
    text = "Only these samples: N, FIRST-LAST or a glob over names; repeatable. Default: all."
    return click.option("--samples", "--sample", multiple=True, metavar="S", help=text)(command)


def only_layers(command: Command) -> Command:
    """Add ``--layers``, which selects analyzed layers."""
    text = "Only layers that match this pattern; repeatable. Default: all."
    return click.option("--layers", multiple=True, metavar="P", help=text, shell_complete=layer_names)(command)


def only_metrics(help: str, name: str = "metrics") -> Callable[[Command], Command]:
    """Add ``--metric``, which selects metrics of archives, as a parameter of some name."""
    return click.option("--metric", name, multiple=True, metavar="NAME", help=help, shell_complete=metric_names)


def network(command: Command) -> Command:
    """Add the settings that determine the network whose layers are listed."""
    for name in ("dequantize", "batch_axis", "set", "input_tensor"):
        command = setting(name)(command)
    return command


def selection(default: str) -> Callable[[Command], Command]:
    """Add ``--layers`` and ``--exclude``, which select layers; `default` describes the selection without them."""
    shared: dict[str, Any] = {"multiple": True, "metavar": "P", "shell_complete": layer_names}
    layers = f"Layers to select: {PATTERNS}; repeatable. Default: {default}."
    exclude = f"Layers to leave out: {PATTERNS}; repeatable. Default: none."

    def decorate(command: Command) -> Command:
        command = click.option("--exclude", help=exclude, **shared)(command)
        return click.option("--layers", help=layers, **shared)(command)

    return decorate


def units(command: Command) -> Command:
    """Add ``--unit``, which narrows each layer of ``--layers`` to a part of it."""
    text = (
        "Only this part of each layer of --layers: an entry, channel or class such as 3, or a region such as 5,2:6; "
        "repeatable. NAME and --unit 3 mean the same as NAME[3]. Default: whole layers."
    )

    @click.option("--unit", multiple=True, metavar="INDEX", help=text)
    @functools.wraps(command)
    def narrowed(*args: Any, unit: Sequence[str], model: str, layers: Sequence[str], **options: Any) -> Any:
        if unit:
            layers = _parts(model, layers, unit, options)
        return command(*args, model=model, layers=layers, **options)

    return narrowed


def _parts(model: str, layers: Sequence[str], units: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    """Return the names of parts of the layers that patterns select, of which a pattern with an index says nothing."""
    from onnxinfo import load, perturbed_tensors
    from onnxinfo.graph.layers import choose_layers
    from onnxinfo.graph.parts import parted_tensors

    if not layers:
        raise click.UsageError(f"--unit {units[0]!r} without --layers; name the layers that it is a part of")
    loaded = opened(load(model), **{name: options[name] for name in ("set", "batch_axis", "dequantize")})
    if found := [pattern for pattern in layers if parted_tensors(loaded, [pattern])]:
        raise click.UsageError(f"--unit {units[0]!r} with --layers {found[0]!r}, a part already; give one of both")
    sources = perturbed_tensors(loaded, options["input_tensor"])
    _, chosen = choose_layers(loaded, sources, layers, options["exclude"])
    return [f"{layer.name}[{unit}]" for layer in chosen for unit in units]
