"""``onnxinfo leakage``: what the tensors at which a network may be split reveal of its input."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import click

from onnxinfo.config import PARALLEL

from .options import NUMBER, force, units
from .options import inputs as samples
from .progress import progress_bar
from .settings import config_file, setting, settings, without_idle
from .tables import FORMATS, print_rows, write_stdout

if TYPE_CHECKING:
    from onnxinfo import Leakage

COLUMNS = ("tensor", "op", "depth", "units", "trace", "stderr", "std", "noise", "noise_std", "bound", "lowest")
ACCURACY = ("accuracy", "accuracy_low", "accuracy_high")
ATTACK = ("attack", "attack_stderr", "attack_over_bound", "attack_steps")
_WIDTH = 100


@click.command(no_args_is_help=True)
@click.argument("model", type=click.Path())
@samples
@click.option("-o", "--output", type=click.Path(), help="Picture (PNG, SVG, PDF). Default: none.")
@click.option(
    "--mse", type=NUMBER, metavar="X",
    help="Requested bound: mean squared error per input unit, in units of its channel's variance; from 0 to 1. "
    "Default: 0.1.",
)  # fmt: skip
@click.option(
    "--psnr", type=NUMBER, metavar="DB",
    help="Instead: requested bound in decibels, with the range of a channel's values over the samples as the peak.",
)  # fmt: skip
@click.option(
    "--noise", type=NUMBER, metavar="X",
    help="Instead: standard deviation of the noise, in units of each tensor's own.",
)  # fmt: skip
@click.option("--accuracy/--no-accuracy", default=True, help="Measure the accuracy under the noise; needs --labels.")
@click.option(
    "--attack", is_flag=True,
    help="Train decoders that reconstruct the input from noisy tensors, on --decoder-inputs, and print their errors on "
    "the samples. This takes minutes to hours.",
)  # fmt: skip
@click.option(
    "--doublings", type=click.IntRange(0), default=0, show_default=True, metavar="N",
    help="With --attack: train N times more at most, with twice the steps, until no error falls by more than its "
    "standard error.",
)  # fmt: skip
@config_file
@units
@setting("layers")
@setting("exclude")
@settings("input", "ru.decoder", "execution", leave_out=("decoders", *PARALLEL))
@setting("seed", help="Seed of noise and random directions.")
@click.option("--format", type=click.Choice(FORMATS), default="table", show_default=True, help="Output format.")
@force
def leakage(model: str, inputs: str, output: str | None, format: str, force: bool, **options: Any) -> None:
    """Print what each tensor of MODEL at which it can be split reveals of the input, and the noise that hides it.

    noise is the standard deviation of the Gaussian noise on the tensor that brings a bound on the error of
    reconstructions, from the Fisher information, to the requested value; accuracy is that of the network with this
    noise. The bound compares tensors and is no guarantee: --attack trains decoders that may beat it. See
    docs/leakage.md.

    \b
    Examples:
      onnxinfo leakage resnet20.onnx --inputs cifar10.npz:x --labels cifar10.npz:y --preset imagenet --limit 64
      onnxinfo leakage resnet20.onnx --inputs images/ --psnr 20 --no-accuracy --attack --decoder-inputs train/
    """
    from onnxinfo import leakage as measure
    from onnxinfo.views.figure import claim_figure

    if output is not None:
        claim_figure(output, model, inputs, options["labels"], options["decoder_inputs"], force=force)
    if not options["attack"]:
        options = without_idle(options, "ru.decoder")
    with progress_bar() as report:
        found = measure(model, inputs, progress=report, **options)
    if output is not None:
        found.plot(output, force=force)
    stored = found.to_dict()
    rows = [{**row, "assumption": found.assumption} for row in stored["tensors"]]
    measured = ACCURACY if options["accuracy"] else ()
    attacked = [*(ATTACK if options["attack"] else ()), *(["attack_converged"] if options["doublings"] else ())]
    psnr = ["psnr"] if options["psnr"] is not None else []
    columns = [*COLUMNS, *psnr, *measured, *attacked, "narrow", *(["mark"] if any(row["mark"] for row in rows) else [])]
    if format in ("table", "markdown"):
        print_rows(rows, columns, format)
        write_stdout("\n".join(["", *textwrap.wrap(_summary(found), _WIDTH), ""]))
    else:
        print_rows(rows, [*columns, "assumption"], format)


def _summary(found: Leakage) -> str:
    kinds = {"variance": "variance", "range": "squared range"}
    accuracy = f" Accuracy without noise: {found.accuracy:.3f}." if found.accuracy == found.accuracy else ""
    numbered = "1 sample" if found.samples == 1 else f"{found.samples} samples"
    seen = f" {found.seen} of the samples were trained on: attack is too small." if found.seen else ""
    constant = f", without {found.constant} of constant channels" if found.constant else ""
    return (
        f"{numbered}, {found.input_units} input units{constant}. bound: mean squared error per input unit, in units "
        f"of its channel's {kinds[found.unit]} over the samples; guessing its mean has {found.guess:.3g}."
        f"{accuracy}{seen} {found.assumption}"
    )
