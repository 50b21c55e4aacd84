"""Compare a sweep of alphas with separate analyses: CPU time, vector-Jacobian products, values and proofs.

    python benchmarks/sweep.py resnet20.onnx --inputs cifar10.npz:x_test --preset imagenet --limit 4 --layers relu_18

CPU time is that of this process, with one thread, after an analysis that warms it up.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import onnxinfo
from onnxinfo.models.studies.script import as_script

ALPHAS = (1e-4, 1e-3, 1e-2)


def separate(model: str, inputs: str, archive: Path, **options: Any) -> None:
    """Analyze at each alpha by itself."""
    for alpha in ALPHAS:
        onnxinfo.analyze(model, inputs, archive, run=f"alpha={alpha:g}", alpha=alpha, **options)


def sweep(model: str, inputs: str, archive: Path, **options: Any) -> None:
    """Analyze at all alphas in a sweep."""
    onnxinfo.sweep(model, inputs, archive, ALPHAS, **options)


def measured(work: Callable[..., None], archive: Path, *arguments: Any, **options: Any) -> dict[float, dict[str, Any]]:
    """Return the numbers of each run, after printing the CPU time."""
    began = time.process_time()
    work(*arguments, archive, **options)
    print(f"{work.__name__}: {time.process_time() - began:.1f} s of CPU time")
    with onnxinfo.open(archive) as opened:
        return {alpha: opened[f"alpha={alpha:g}"].values("sid") for alpha in ALPHAS}


def main() -> None:
    """Print times and, for each alpha, how values and proofs differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--inputs", required=True)
    parser.add_argument("--preset")
    parser.add_argument("--limit", type=int, default=4)
    parser.add_argument("--layers", action="append", default=[])
    arguments = parser.parse_args()
    options = {name: getattr(arguments, name) for name in ("preset", "limit", "layers")} | {"threads": 1}
    given = arguments.model, arguments.inputs
    with tempfile.TemporaryDirectory() as folder:
        onnxinfo.analyze(*given, Path(folder) / "first.h5", **options | {"limit": 1})
        alone, together = (
            measured(work, Path(folder) / f"{work.__name__}.h5", *given, **options) for work in (separate, sweep)
        )
    for alpha in ALPHAS:
        one, two = alone[alpha], together[alpha]
        change = np.abs(two["value"] - one["value"]).max()
        products, proven, gap = (
            [f"{function(each[name]):.5g}" for each in (one, two)]
            for name, function in (("probes", np.sum), ("converged", np.mean), ("gap", np.nanmean))
        )
        print(f"alpha {alpha:g}: products {products}; proven {proven}; mean gap {gap}; largest change {change:.4f}")


if __name__ == "__main__":
    as_script(main)
