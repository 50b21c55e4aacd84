"""Digests of the numbers of small analyses, which refactoring must not change on the same machine and packages.

python benchmarks/digests.py > before.txt
... the change ...
python benchmarks/digests.py | diff before.txt -
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from pathlib import Path

import numpy as np

import onnxinfo
from onnxinfo.models import path
from onnxinfo.models.studies.script import as_script

DIGITS = f"{path('digits.npz')}:images"
#: Maps the name of an analysis to model, inputs and options.
ANALYSES = {
    "images": (
        "digits-cnn.onnx",
        DIGITS,
        {
            "metrics": ["sid", "ru", "concentration", "gradient", "gradcam"],
            "layers": ["relu", "relu_4", "logits"],
            "limit": 6,
            "foreground": np.tile([2, 2, 6, 7], (50, 1)),
            "decoder_inputs": DIGITS,
            "decoder_limit": 64,
            "decoder_steps": 10,
            "decoder_width": 8,
        },
    ),
    "sample normalizer": (
        "digits-cnn.onnx",
        DIGITS,
        {
            "metrics": ["sid"],
            "layers": ["relu_4"],
            "limit": 4,
            "normalize_by": "sample",
            "share_sigma": "grid:4",
            "sigma_max": 2.0,
        },
    ),
    "text": ("torch-text-transformer.onnx", f"{path('text.npz')}:tokens", {"metrics": ["sid"], "limit": 2}),
}


def digests(archive: Path) -> dict[str, str]:
    """Yield a digest of all columns and maps of each metric in the only run of an archive."""
    found = {}
    with onnxinfo.open(archive) as opened:
        (name,) = opened
        run = opened[name]
        for metric in run.metrics:
            content = hashlib.sha256()
            for column, values in sorted(run.values(metric.name).items()):
                content.update(column.encode() + np.ascontiguousarray(values).tobytes())
            for layer in range(run.shape[0] if metric.has_map else 0):
                content.update(np.ascontiguousarray(run.maps(metric.name, layer)).tobytes())
            found[metric.name] = content.hexdigest()[:16]
    return found


def main() -> None:
    """Print one line per analysis, number of workers and metric."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of processes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for title, (model, inputs, options) in ANALYSES.items():
            for workers in arguments.workers:
                archive = Path(folder, f"{title}-{workers}.h5")
                more = {"threads": 1, "workers": workers, "compression": "lossless"}
                if "ru" in options["metrics"]:
                    more["decoders"] = Path(folder, f"decoders-{workers}")
                onnxinfo.analyze(path(model), inputs, archive, **options, **more)
                for metric, digest in digests(archive).items():
                    print(f"{title:18} workers={workers} {metric:14} {digest}", flush=True)


if __name__ == "__main__":
    as_script(main)
