"""``prune``: set the smallest weights of a model to zero, or remove channels."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from onnxinfo.config import InputConfig

from .models import load_for
from .options import NUMBER, force
from .settings import config_file, setting, settings, without_idle
from .verbosity import print_info

if TYPE_CHECKING:
    from onnxinfo import Model

# Settings of the comparison with the model before channels are removed, and those that the samples alone have.
_COMPARING = ("input", "seed", "timeout")
_READING = (*InputConfig().reading(), "shuffle_seed", "limit", "labels")


@click.command(no_args_is_help=True)
@click.argument("model", type=click.Path())
@click.option("-o", "--output", required=True, metavar="OUT.onnx", help="Model file to write.")
@click.option("--keep", type=NUMBER, metavar="SHARE", help="Fraction of the weights to keep, such as 0.38.")
@click.option(
    "--scope", type=click.Choice(["global", "layer"]),
    help="With --keep: one threshold for all weights (global), or the same fraction of each layer (layer). "
    "Default: global.",
)  # fmt: skip
@click.option(
    "--channels", type=click.Path(), metavar="SPEC.json",
    help="Instead: channels to remove, {tensor: {axis: [indices]}}, as 'recommend channels' writes them.",
)  # fmt: skip
@click.option(
    "--inputs", metavar="SPEC",
    help="With --channels: samples to compare on, as for 'analyze'. Default: random inputs of suitable shape.",
)  # fmt: skip
@config_file
@settings("input", leave_out=["unit_mask", "foreground", "crop_to_box"])
@setting("seed", help="Seed of randomly generated inputs.")
@setting("timeout")
@force
def prune(
    model: str,
    output: str,
    keep: float | None,
    scope: str | None,
    channels: str | None,
    inputs: str | None,
    force: bool,
    **options: Any,
) -> None:
    """Set the smallest weights of MODEL to zero, or remove channels, which makes the model smaller.

    With --keep, the fraction that is kept is recorded in the metadata of the new model. With --channels, the new model
    is compared with MODEL, the named channels multiplied by zero, before it is written; see docs/channels.md.

    \b
    Examples:
      onnxinfo prune resnet20.onnx --keep 0.38 -o pruned.onnx
      onnxinfo prune resnet20.onnx --channels channels.json -o smaller.onnx
    """
    from onnxinfo import UsageError, save
    from onnxinfo.config import refuse_idle

    if (keep is None) == (channels is None):
        raise UsageError("weights are set to zero, or channels removed; give one of keep=... and channels=...")
    if keep is None and scope is not None:
        raise UsageError(f"scope='{scope}' is of weights; leave it out with channels=...")
    if channels is None and inputs is not None:
        raise UsageError(f"inputs='{inputs}' are compared on after channels are removed; leave it out with keep=...")
    if channels is None:
        refuse_idle(without_idle(options, *_COMPARING), _COMPARING, "with keep=...", "give channels=...")
    elif inputs is None:
        refuse_idle(without_idle(options, *_READING), _READING, "on random inputs", "give inputs=...")
    loaded = load_for(model, output, force, [channels, inputs, options["labels"]])
    if channels is None:
        pruned, told = _without_weights(loaded, keep, scope or "global")
    else:
        pruned, told = _without_channels(loaded, channels, inputs, options)
    save(pruned, output, force=force)
    print_info(f"{output}: {told}")


def _without_weights(model: Model, keep: float | None, scope: str) -> tuple[Model, str]:
    from onnxinfo import prune as prune_weights
    from onnxinfo.graph.prune import kept_share

    assert keep is not None
    pruned = prune_weights(model, keep, scope=scope)
    return pruned, f"{kept_share(pruned):.2%} of the weights are not zero"


def _without_channels(model: Model, channels: str, inputs: str | None, options: dict[str, Any]) -> tuple[Model, str]:
    from onnxinfo import prune_channels
    from onnxinfo.workflows.prune_channels import METADATA

    pruned = prune_channels(model, channels, inputs, **options)
    (record,) = (json.loads(each.value) for each in pruned.proto.metadata_props if each.key == METADATA)
    before, after = record["parameters"]
    return pruned, (
        f"{after} of {before} parameters; outputs differ by {record['difference']:.1g} of their largest value from "
        f"those with channels of zeros"
    )
