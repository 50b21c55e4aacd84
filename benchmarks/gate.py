"""Count the false alarms of ``onnxinfo compare --fail-if``: a network compared with itself under other seeds.

Each comparison is of two analyses with different seeds of the noise, under the strictest conditions, ``sid>+0`` and
``sid<-0``, for all default layers::

    python benchmarks/gate.py --comparisons 200
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import onnxinfo
from onnxinfo.models import path
from onnxinfo.models.studies.script import as_script

CONDITIONS = ("sid>+0", "sid<-0")


def failed(folder: Path, comparison: int, model: str, inputs: str, limit: int) -> bool:
    """Return whether two analyses under different seeds are judged to differ."""
    archive = folder / f"{comparison}.h5"
    for side in range(2):
        seed = 2 * comparison + side
        onnxinfo.analyze(model, inputs, archive, run=str(seed), seed=seed, limit=limit, progress=None)
    verdict = onnxinfo.gate(archive, CONDITIONS)
    archive.unlink()
    return not verdict.passed


def main() -> None:
    """Print the number of comparisons that fail."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(path("sklearn-wine-mlp.onnx")))
    parser.add_argument("--inputs", default=f"{path('wine.npz')}:features")
    parser.add_argument("--limit", type=int, default=8, help="samples")
    parser.add_argument("--comparisons", type=int, default=200)
    arguments = parser.parse_args()
    alarms = 0
    with tempfile.TemporaryDirectory() as folder:
        for comparison in range(arguments.comparisons):
            alarms += failed(Path(folder), comparison, arguments.model, arguments.inputs, arguments.limit)
            print(f"{alarms} of {comparison + 1} comparisons failed", end="\r", flush=True)
    print(f"{alarms} of {arguments.comparisons} comparisons failed")


if __name__ == "__main__":
    as_script(main)
