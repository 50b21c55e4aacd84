"""How the training of decoders changes RU: images, steps, held-out error, value, CPU time.

    python benchmarks/ru_training.py --images 40 400 --steps 50 200 --layers relu_2 relu_6 --width 16

The digits network and scikit-learn's digits, of which the first are for training and others are analyzed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np
from common import machine
from sklearn.datasets import load_digits

import onnxinfo
from onnxinfo.models import path
from onnxinfo.models.studies.script import as_script


def main() -> None:
    """Print a row for each number of images and steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[40, 400])
    parser.add_argument("--steps", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--layers", nargs="+", default=["relu_2", "relu_6"])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--samples", type=int, default=3)
    given = parser.parse_args()
    pixels = (load_digits().images[:, None] / 16).astype("f4")
    model, analyzed = path("digits-cnn.onnx"), pixels[-given.samples :]
    print(machine("cpu"))
    print("| images | steps | layer | held-out error | RU | stderr | unproven | training, CPU s | RU, CPU s per cell |")
    print("| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for images, steps in product(given.images, given.steps):
        with tempfile.TemporaryDirectory() as folder:
            options = {"layers": given.layers, "decoder_inputs": pixels[:images], "decoders": folder}
            options |= {"decoder_steps": steps, "decoder_width": given.width, "threads": 1}
            began = time.process_time()
            onnxinfo.train_decoder(
                model, pixels[:images], folder, layers=given.layers, steps=steps, width=given.width, device="cpu"
            )
            trained = time.process_time()
            result = onnxinfo.analyze(model, analyzed, Path(folder, "ru.h5"), metrics=["ru"], **options)
            each = (time.process_time() - trained) / (len(given.layers) * given.samples)
            with onnxinfo.open(result) as archive:
                values = archive[result.run].values("ru")
                names = [layer.name for layer in archive[result.run].layers]
            for row, name in enumerate(names):
                error, ru = np.mean(values["decoder_error"][row]), values["value"][row]
                stderr, unproven = ru.std(ddof=1) / len(ru) ** 0.5, int((~values["converged"][row]).sum())
                print(
                    f"| {images} | {steps} | {name} | {error:.3f} | {ru.mean():.3f} | {stderr:.3f} | {unproven} "
                    f"| {trained - began:.0f} | {each:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    as_script(main)
