"""Measure the share of an analysis's time that goes into writing its archive.

python benchmarks/archive_writing.py MODEL --inputs SPEC [--limit N] [any option of analyze that takes a value]

Prints the seconds spent in the archive's writer, by operation, and their share of the whole analysis; fails if that
is 5 % or more.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from common import analysis_parser, timed

import onnxinfo
from onnxinfo.archive.writer import RunWriter
from onnxinfo.models.studies.script import as_script

METHODS = ("open", "set_normalizer", "write", "close")
MOST = 0.05


def main() -> None:
    """Analyze a model and print the shares."""
    parser = analysis_parser(__doc__)
    parser.add_argument("--limit", type=int, default=32)
    parser.add_argument("--compression", default="rounded")
    given = parser.parse_args()
    options = {key: value for key, value in vars(given).items() if key not in ("model", "inputs")}
    spent: dict[str, float] = {}
    replaced: dict[str, Any] = {name: timed(spent, name, getattr(RunWriter, name)) for name in METHODS}
    with tempfile.TemporaryDirectory() as folder, patch.multiple(RunWriter, **replaced):
        output = Path(folder) / "result.h5"
        began = time.perf_counter()
        onnxinfo.analyze(given.model, given.inputs, output, **options)
        total = time.perf_counter() - began
        summary = onnxinfo.list_runs(output)[0]
        size = output.stat().st_size
    print(f"{summary.layers} layers, {summary.samples} samples, {size / 1e6:.1f} MB, {total:.1f} s in all")
    for name, seconds in spent.items():
        print(f"  {name:<16}{seconds:8.3f} s {seconds / total:8.2%}")
    share = sum(spent.values()) / total
    print(f"  {'archive':<16}{sum(spent.values()):8.3f} s {share:8.2%}")
    if share >= MOST:
        raise SystemExit(f"writing takes {share:.1%} of the analysis, at most {MOST:.0%} expected")


if __name__ == "__main__":
    as_script(main)
