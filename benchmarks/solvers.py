"""The solver against the paper's optimiser on trained ResNet-20s: mean H at the met constraint, and time, in one run.

    python benchmarks/solvers.py --models MODELS --data cifar10.npz:x_test
    python benchmarks/solvers.py --models MODELS --data cifar10.npz:x_test --metric ru --decoders DIR \
        --decoder-data cifar10.npz:x_train

Both solvers start from the same D, and for ru use the same decoders, trained beforehand. The ratio is measured by each
cell's certificate, with noise that neither has seen.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from pathlib import Path

import torch

import onnxinfo

BLOCKS = {
    "13": {
        "layer1.0": "/layer1/layer1.0/Relu_1_output_0",
        "layer2.1": "/layer2/layer2.1/Relu_1_output_0",
        "layer3.2": "/layer3/layer3.2/Relu_1_output_0",
    },
    "20": {"layer1.0": "relu_2", "layer2.1": "relu_10", "layer3.2": "relu_18"},
}


def measure(model: Path, layer: str, inputs: str, solver: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Mean H, ratio and seconds of one layer, from the first probe to the last written cell."""
    started = []

    def note(progress: onnxinfo.Progress) -> None:
        if progress.done == 0 and progress.stage == arguments.metric:
            started.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        result = onnxinfo.analyze(
            model,
            inputs,
            Path(folder) / "out.h5",
            layers=[layer],
            limit=arguments.images,
            preset="imagenet",
            normalizer="image",
            metrics=[arguments.metric],
            center=arguments.center,
            decoders=arguments.decoders,
            decoder_inputs=arguments.decoder_data if arguments.metric == "ru" else None,
            decoder_limit=5000,
            solver=solver,
            seed=arguments.seed,
            device=arguments.device,
            progress=note,
        )
        seconds = time.perf_counter() - started[0]
        with onnxinfo.open(result.archive) as archive:
            values = archive[result.run].values(arguments.metric)
        return {
            "H": float(values["value"].mean()),
            "ratio": float(values["ratio"].mean()),
            "converged": float(values["converged"].mean()),
            "seconds": seconds,
        }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="folder with resnet20-cifar10-opset{13,20}.onnx")
    parser.add_argument("--data", required=True, help="FILE.npz:key of CIFAR-10 test images")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--metric", choices=["sid", "ru"], default="sid")
    parser.add_argument("--center", choices=["input", "reconstruction"], default="input")
    parser.add_argument("--decoders", type=Path, default=Path("decoders"), help="folder that keeps them")
    parser.add_argument("--decoder-data", help="FILE.npz:key of training images for the decoders of ru")
    parser.add_argument("--opsets", nargs="+", default=["13", "20"])
    arguments = parser.parse_args()
    device = torch.cuda.get_device_name() if arguments.device != "cpu" else f"{platform.machine()}"
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, {arguments.images} images")
    for opset in arguments.opsets:
        model = arguments.models / f"resnet20-cifar10-opset{opset}.onnx"
        total = {"auto": 0.0, "reference": 0.0}
        for name, layer in BLOCKS[opset].items():
            row = {solver: measure(model, layer, arguments.data, solver, arguments) for solver in total}
            for solver, result in row.items():
                total[solver] += result["seconds"]
                print(
                    f"opset {opset}  {name}  {solver:9}  H {result['H']:.4f}  ratio {result['ratio']:.4f}  "
                    f"converged {result['converged']:.0%}  {result['seconds']:.2f} s",
                    flush=True,
                )
            print(
                f"opset {opset}  {name}  H above the reference by {row['auto']['H'] - row['reference']['H']:+.4f} nats"
            )
        print(f"opset {opset}  time: 1/{total['reference'] / total['auto']:.1f} of the reference's\n")


if __name__ == "__main__":
    main()
