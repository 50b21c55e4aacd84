"""``onnxinfo recommend``: what to do, from a network's sensitivities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from onnxinfo.config import PARALLEL

from .former import Group
from .options import NUMBER, force
from .options import inputs as samples
from .progress import progress_bar
from .settings import config_file, setting, settings
from .tables import FORMATS, print_rows, write_stdout

if TYPE_CHECKING:
    from onnxinfo import BitPlan, ChannelPlan

CHANNEL_COLUMNS = ("tensor", "op", "depth", "axis", "channels", "removed", "effect")
COLUMNS = ("tensor", "op", "depth", "bits", "low", "high", "trace", "loss")


@click.group(cls=Group)
def recommend() -> None:
    """Recommend bits for the activations of a network, or channels to remove."""


@recommend.command(no_args_is_help=True)
@click.argument("model", type=click.Path())
@samples
@click.option("-o", "--output", type=click.Path(), help="JSON file for ONNX Runtime's quantizer. Default: none.")
@click.option("--plot", type=click.Path(), metavar="FILE", help="PNG, SVG or PDF file: bits and changes by depth.")
@click.option("--mean-bits", type=NUMBER, metavar="B", help="Mean number of bits over the tensors, from 2 to 8.")
@click.option("--accuracy", type=NUMBER, metavar="X", help="Instead: smallest accuracy on the samples; needs --labels.")
@click.option(
    "--keep-float", type=int, default=0, show_default=True, metavar="N",
    help="Number of tensors that stay in float: those that rounding to 8 bits harms most.",
)  # fmt: skip
@config_file
@setting("layers")
@setting("exclude")
@settings("input", "execution", leave_out=PARALLEL)
@setting("target")
@setting("probes")
@setting("seed", help="Seed of random directions.")
@click.option("--format", type=click.Choice(FORMATS), default="table", show_default=True, help="Output format.")
@force
def bits(
    model: str, inputs: str, output: str | None, plot: str | None, format: str, force: bool, **options: Any
) -> None:
    """Divide bits among the activation tensors of MODEL, by how much their rounding errors move its class scores.

    loss is the expected mean squared change of the class scores by the rounding of one tensor; bits go where they
    reduce it most. No labels are needed without --accuracy. The file has nodes_to_exclude and TensorQuantOverrides for
    quantize_static of ONNX Runtime; docs/bits.md has the script.

    \b
    Examples:
      onnxinfo recommend bits resnet20.onnx --inputs c.npz:x --preset imagenet --limit 64 --mean-bits 4 -o bits.json
      onnxinfo recommend bits resnet20.onnx --inputs c.npz:x --labels c.npz:y --preset imagenet --accuracy 0.78
    """
    from onnxinfo import recommend_bits
    from onnxinfo.kinds import JSON
    from onnxinfo.outputs import claim
    from onnxinfo.views.figure import claim_figure

    if output is not None:
        claim(output, JSON, inputs=[model, inputs, options["labels"]], force=force)
    if plot is not None:
        claim_figure(plot, model, inputs, options["labels"], force=force)
    with progress_bar() as report:
        plan = recommend_bits(model, inputs, progress=report, **options)
    if output is not None:
        plan.save(output, force=force)
    if plot is not None:
        plan.plot(plot, force=force)
    print_rows([vars(each) for each in plan.tensors], COLUMNS, format)
    if format == "table":
        write_stdout(_summary(plan))


@recommend.command(no_args_is_help=True)
@click.argument("model", type=click.Path())
@samples
@click.option("-o", "--output", type=click.Path(), help="JSON file for 'prune --channels'. Default: none.")
@click.option(
    "--share",
    type=NUMBER,
    default=0.25,
    show_default=True,
    metavar="X",
    help="Share of each tensor's channels to remove.",
)
@config_file
@setting("layers")
@setting("exclude")
@settings("input", "execution", leave_out=PARALLEL)
@setting("target")
@setting("probes")
@setting("seed", help="Seed of random directions.")
@click.option("--format", type=click.Choice(FORMATS), default="table", show_default=True, help="Output format.")
@force
def channels(model: str, inputs: str, output: str | None, format: str, force: bool, **options: Any) -> None:
    """Choose the channels of each tensor of MODEL without which its class scores change least.

    By default, tensors lose channels only if no other tensor has to lose any: in residual networks, the inner ones of
    the blocks. effect is the squared change of the class scores by a tensor's removed channels alone, to first order.
    Give the file to 'onnxinfo prune --channels', and measure the accuracy of the smaller network: it falls. See
    docs/channels.md.

    \b
    Example:
      onnxinfo recommend channels resnet20.onnx --inputs c.npz:x --preset imagenet --limit 64 --share .25 -o c.json
    """
    from onnxinfo import recommend_channels
    from onnxinfo.kinds import JSON
    from onnxinfo.outputs import claim

    if output is not None:
        claim(output, JSON, inputs=[model, inputs, options["labels"]], force=force)
    with progress_bar() as report:
        plan = recommend_channels(model, inputs, progress=report, **options)
    if output is not None:
        plan.save(output, force=force)
    print_rows(plan.rows(), CHANNEL_COLUMNS, format)
    if format == "table":
        write_stdout(_summary_of_channels(plan))


def _summary_of_channels(plan: ChannelPlan) -> str:
    before, after = plan.parameters
    return f"{after} of {before} parameters; change of {plan.target}: {plan.change:.2%} of its variance\n"


def _summary(plan: BitPlan) -> str:
    text = f"mean {plan.mean_bits:.2f} bits; expected change of {plan.target}: {plan.expected:.2%} of its variance\n"
    return text if plan.accuracy is None else f"{text}accuracy with rounded activations: {plan.accuracy:.3f}\n"
