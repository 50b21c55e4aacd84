"""Bound, noise, accuracy left, and a decoder's error at the tensors where a network can be split.

    OMP_NUM_THREADS=1 python benchmarks/leakage.py resnet20.onnx cifar10.npz --preset imagenet --flip --steps 400 800

The test images give bound, accuracy and the decoders' errors; the training images train the decoders, once for each
number of steps: an error that still falls when the number is doubled is not that of a converged decoder. Prints a table
in Markdown, and a line whenever an attack begins.
"""

from __future__ import annotations

import argparse
import time

import pandas
from common import machine

import onnxinfo
from onnxinfo.models.studies.script import as_script


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", help="file with x_train, x_test and y_test")
    parser.add_argument("--preset")
    parser.add_argument("--mse", type=float, default=0.1)
    parser.add_argument("--layers", nargs="*", default=[], help="default: all tensors where the network can be split")
    parser.add_argument("--limit", type=int, help="test images; default: all")
    parser.add_argument("--steps", type=int, nargs="+", default=[400, 800])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--flip", action="store_true", help="flip training images horizontally at random")
    parser.add_argument("-o", "--output", help="picture")
    chosen = parser.parse_args()
    print(machine(), flush=True)
    most = max(chosen.steps)
    found = {steps: attack(chosen, steps, accuracy=steps == most) for steps in sorted(chosen.steps)}
    print(f"{found[most].samples} images; accuracy without noise {found[most].accuracy:.3f}", flush=True)
    if chosen.output:
        found[most].plot(chosen.output)
    show({steps: each.to_dataframe().set_index("tensor") for steps, each in found.items()})


def attack(chosen: argparse.Namespace, steps: int, *, accuracy: bool) -> onnxinfo.Leakage:
    """Attack by decoders that are trained for a number of steps."""
    began = time.perf_counter()
    found = onnxinfo.leakage(
        chosen.model, f"{chosen.data}:x_test", mse=chosen.mse, layers=chosen.layers, limit=chosen.limit,
        preset=chosen.preset, labels=f"{chosen.data}:y_test", accuracy=accuracy, attack=True,
        decoder_inputs=f"{chosen.data}:x_train", decoder_steps=steps, decoder_width=chosen.width,
        decoder_horizontal_flip=chosen.flip,
    )  # fmt: skip
    print(f"attack of {steps} steps: {time.perf_counter() - began:.0f} s", flush=True)
    return found


def show(attacks: dict[int, pandas.DataFrame]) -> None:
    """Print one row per tensor."""
    table = attacks[max(attacks)]
    names = ["tensor", "depth", "entries", "noise, std", "bound", "lowest", "accuracy", "95 %"]
    names += [f"decoder, {steps} steps" for steps in attacks] + ["over the bound"]
    print(f"| {' | '.join(names)} |\n|{' --- |' * len(names)}")
    for tensor, row in table.iterrows():
        cells = [f"{tensor}", f"{row.depth}", f"{row.units}", f"{row.noise_std:.2f}", f"{row.bound:.3f}"]
        cells += [f"{row.lowest:.3f}", f"{row.accuracy:.3f}", f"{row.accuracy_low:.3f} to {row.accuracy_high:.3f}"]
        found = [each.loc[tensor] for each in attacks.values()]
        cells += [f"{each.attack:.3f} ± {each.attack_stderr:.3f}" for each in found]
        cells.append(f"{row.attack_over_bound:.2f}")
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    as_script(main)
