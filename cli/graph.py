"""``layers``, ``expose`` and ``extract``: list layers of a graph, expose them, extract a part of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from .models import load_for, opened, read_source
from .options import force, network, selection
from .rendering import as_options
from .tables import FORMATS, claim_table, print_rows
from .verbosity import print_info, quiet

if TYPE_CHECKING:
    from onnxinfo import Layer, Model

# Control flow nodes that a list of layers describes.
_MOST_INSIDE = 10
COLUMNS = ("index", "name", "op", "node", "shape", "parameters", "depth", "default", "solver")


@click.command(no_args_is_help=True)
@click.argument("model")
@selection("blocks, residual sums and final outputs")
@click.option("--all", "everything", is_flag=True, help="All layers instead of the default ones.")
@network
@click.option("--format", type=click.Choice(FORMATS), default="table", show_default=True, help="Output format.")
@click.option("-o", "--output", default="-", type=click.Path(), help="File to write; - is standard output.")
@force
def layers(
    model: str,
    layers: tuple[str, ...],
    exclude: tuple[str, ...],
    everything: bool,
    input_tensor: tuple[str, ...],
    format: str,
    output: str,
    force: bool,
    **changes: Any,
) -> None:
    """List the layers of MODEL, an ONNX file (or - for standard input), that can be analyzed.

    Without --layers or --all these are the blocks (convolution, matrix product, recurrence, attention, each with its
    normalization and activation), the residual sums and the final outputs. Patterns for --layers and --exclude, in
    this order of precedence: the exact name of a tensor; re:REGEX, found anywhere in the name; op:TYPE; an INDEX (-1:
    the last) or FIRST-LAST; a glob over names. The column "solver" says whether a gradient reaches the layer, as an
    analysis needs.

    \b
    Examples:
      onnxinfo layers model.onnx
      onnxinfo layers model.onnx --layers 'op:Conv*' --exclude 0-4 --format json
    """
    from onnxinfo import load, perturbed_tensors
    from onnxinfo.graph.collection import paused_collection
    from onnxinfo.graph.layers import choose_layers
    from onnxinfo.workflows.surgery import with_named_parts

    target = claim_table(output, format, [model], force)
    with paused_collection():
        loaded = with_named_parts(opened(load(read_source(model)), **changes), layers)
        sources = perturbed_tensors(loaded, input_tensor)
        _, chosen = choose_layers(loaded, sources, layers or (["0-"] if everything else []), exclude)
        if not quiet():
            click.echo(_perturbed(loaded, sources), err=True)
            for line in _inside(loaded, sources):
                click.echo(line, err=True)
        unreached = _unreached(loaded, sources, chosen)
        rows = [_row(layer, format, layer.name not in unreached) for layer in chosen]
    print_rows(rows, COLUMNS, format, target)


@click.command(no_args_is_help=True)
@click.argument("model")
@click.option("-o", "--output", required=True, metavar="OUT.onnx", help="Model file to write; - is standard output.")
@selection("blocks, residual sums and final outputs")
@click.option("--all", "everything", is_flag=True, help="All layers instead of the default ones.")
@network
@force
def expose(
    model: str,
    output: str,
    layers: tuple[str, ...],
    exclude: tuple[str, ...],
    everything: bool,
    input_tensor: tuple[str, ...],
    force: bool,
    **changes: Any,
) -> None:
    """Write MODEL (an ONNX file, or - for standard input) with layers as additional outputs.

    The original outputs come first and stay bitwise identical. Layers are selected as in 'onnxinfo layers', among those
    that depend on the tensor that noise is added to. With --set or --dequantize, the network written is the one that an
    analysis with these settings analyzes.

    \b
    Example:
      onnxinfo expose model.onnx -o exposed.onnx --layers 'op:Relu'
    """
    from onnxinfo import expose as expose_tensors
    from onnxinfo import perturbed_tensors
    from onnxinfo.graph.collection import paused_collection
    from onnxinfo.graph.layers import choose_layers
    from onnxinfo.workflows.surgery import with_named_parts

    with paused_collection():
        loaded = with_named_parts(opened(load_for(model, output, force), **changes), layers)
        sources = perturbed_tensors(loaded, input_tensor)
        _, chosen = choose_layers(loaded, sources, layers or (["0-"] if everything else []), exclude)
        exposed = expose_tensors(loaded, [layer.name for layer in chosen])
    _write(exposed, output, force)


@click.command(no_args_is_help=True)
@click.argument("model")
@click.option("-o", "--output", required=True, metavar="OUT.onnx", help="Model file to write; - is standard output.")
@click.option("--from", "sources", multiple=True, metavar="TENSOR", help="Tensor that becomes an input; repeatable.")
@click.option(
    "--to",
    "outputs",
    multiple=True,
    required=True,
    metavar="TENSOR",
    help="Tensor that becomes an output, or NAME[3], NAME[5,2:6]: a part of one; repeatable.",
)
@force
def extract(model: str, output: str, sources: tuple[str, ...], outputs: tuple[str, ...], force: bool) -> None:
    """Write the part of MODEL (an ONNX file, or - for standard input) between tensors.

    Other graph inputs that the outputs depend on remain inputs, after those of --from.

    \b
    Example:
      onnxinfo extract model.onnx -o head.onnx --from /layer3/layer3.2/Relu_1_output_0 --to logits
    """
    from onnxinfo import extract as extract_part

    _write(extract_part(load_for(model, output, force), sources, outputs), output, force)


def _perturbed(model: Model, sources: Sequence[str]) -> str:
    """Describe the tensors that noise is added to: name, axes, and the axis along which units differ."""
    from onnxinfo.graph.channels import declared_axes
    from onnxinfo.text import quoted

    axes = zip(sources, declared_axes(model, sources), strict=True)
    return "\n".join(f"analysis input: {quoted(name)} {each}" for name, each in axes)


def _inside(model: Model, sources: Sequence[str]) -> list[str]:
    """Describe layers inside control flow, which are not listed: a line for each of the first nodes with some."""
    from onnxinfo.graph.branches import layers_inside

    command = click.get_current_context().command
    lines = [as_options(line, command) for line in layers_inside(model.flow, sources)]
    more = len(lines) - _MOST_INSIDE
    return lines if more <= 0 else [*lines[:_MOST_INSIDE], f"... and layers inside {more:,} more nodes"]


def _unreached(model: Model, sources: Sequence[str], chosen: Sequence[Layer]) -> dict[str, str]:
    """Reasons, by name, why no gradient reaches layers; says how many there are."""
    from onnxinfo.graph.joint import joint_name
    from onnxinfo.text import printable, quoted
    from onnxinfo.torch_graph.kinds import is_differentiable

    if is_differentiable(model, sources):
        return {}
    from onnxinfo.torch_graph.reach import reasons_unreached

    found = reasons_unreached(model, sources, [layer.name for layer in chosen])
    if found and not quiet():
        name, reason = next(iter(found.items()))
        click.echo(
            f"no gradient reaches {len(found)} of {len(chosen)} layers from {quoted(joint_name(sources))}; the first "
            f"is {quoted(name)}: {printable(reason)}",
            err=True,
        )
    return found


def _row(layer: Layer, format: str, reached: bool) -> dict[str, Any]:
    row = {name: getattr(layer, name) for name in COLUMNS if name != "solver"}
    row["solver"] = "gradient" if reached else "forward"
    if format not in ("json", "jsonl") and layer.shape is not None:
        row["shape"] = "x".join("?" if size is None else str(size) for size in layer.shape) or "scalar"
    return row


def _write(model: Model, output: str, force: bool) -> None:
    from onnxinfo import save

    if output == "-":
        sys.stdout.buffer.write(model.proto.SerializeToString())
        return
    save(model, output, force=force)
    graph = model.proto.graph
    print_info(f"{output}: {len(graph.node)} nodes, {len(graph.input)} inputs, {len(graph.output)} outputs")
