"""A deterministic analysis without a model, for tests of the archive; as a script, it writes one run.

python archive_fakes.py ARCHIVE RUN
"""

import hashlib
import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from onnxinfo.archive.format import CERTIFICATE, PROOF, LayerRow, Metric, RunSchema, mark_code
from onnxinfo.archive.writer import RunWriter

LAYERS = 4
SAMPLES = 6
IMAGE = (3, 24, 24)
SID = Metric("sid", "strict information discarding")
GRADIENT = Metric("gradient", "mean absolute gradient", "1", fields=())
CONCENTRATION = Metric("concentration", "concentration", fields=(), has_map=False)
METRICS = (SID, GRADIENT, CONCENTRATION)
# Includes the columns of a solver with a gap.
PROVEN_SID = Metric("sid", "strict information discarding", fields=(*CERTIFICATE, *PROOF))


def schema(**changes):
    """Return the schema of a run on images, whose maps are chunked and deflated."""
    layers = [
        LayerRow(f"/layer{i}/é/Relu_output_0", 3 * i, "Relu", f"relu_{i}", 4 * i + 1, 100 * i, "16x24x24")
        for i in range(LAYERS)
    ]
    described = RunSchema(
        layers=layers,
        axes=("channel", "y", "x"),
        sample_shape=IMAGE,
        sample_names=[f"sample {i}.png" for i in range(SAMPLES)],
        metrics=METRICS,
        unit=np.array([0.25, 0.5, 1.0]).reshape(3, 1, 1),
        recipe={"model_sha256": "ab" * 32, "alpha": 1.5e-4, "seed": 0, "mean": [0.5, 0.4], "cap": None, "tie": "unit"},
        labels=np.arange(SAMPLES) % 3,
        foreground=(np.arange(SAMPLES * 24 * 24) % 5 == 0).astype(np.uint8).reshape(SAMPLES, 24, 24),
        thumbnails=np.arange(SAMPLES * 8 * 8 * 3, dtype=np.uint8).reshape(SAMPLES, 8, 8, 3),
        provenance={"model_name": "fake", "onnxinfo": "0.1.0"},
    )
    return replace(described, **changes)


def table_schema(**changes):
    """Return the schema of a run on rows of a table, whose maps are small and contiguous."""
    return schema(
        axes=("feature",),
        sample_shape=(12,),
        unit=np.ones(12),
        thumbnails=None,
        foreground=None,
        labels=list("abcdef"),
        **changes,
    )


def cell(metric, layer, sample, shape):
    """Return the map and the numbers of one cell; sample 1 of layer 2 is not converged, due to its gap."""
    generator = np.random.default_rng([len(metric.name), layer, sample])
    map_ = generator.standard_normal(shape).astype(np.float32) - 3
    values = {"value": map_.mean(), "stderr": 0.01 * (1 + sample), "converged": (layer, sample) != (2, 1)}
    values |= {field.name: generator.integers(100) for field in metric.fields}
    proof = {"gap": 0.01, "mark": mark_code("converged")}
    if not values["converged"]:
        proof = {"gap": 0.25, "mark": mark_code("gap")}
    values |= {name: known for name, known in proof.items() if name in values}
    return map_, values


def fill(writer, described, *, stop=None, batch=2):
    """Compute all unfinished cells, as an analysis does; raise KeyboardInterrupt after `stop` writes."""
    writes = 0
    for layer in range(len(described.layers)):
        for metric in described.metrics:
            if np.isnan(writer.normalizer(metric.name, layer)):
                writer.set_normalizer(metric.name, layer, 2.0 + layer)
            for start in range(0, len(described.sample_names), batch):
                samples = range(start, min(start + batch, len(described.sample_names)))
                if writer.finished(metric.name)[layer, list(samples)].all():
                    continue
                if writes == stop:
                    raise KeyboardInterrupt
                write(writer, metric, layer, samples, described.sample_shape)
                writes += 1


def write(writer, metric, layer, samples, shape):
    """Write some cells of a layer."""
    cells = [cell(metric, layer, sample, shape) for sample in samples]
    values = {name: [values[name] for _, values in cells] for name in cells[0][1]}
    maps = np.stack([map_ for map_, _ in cells]) if metric.has_map else None
    writer.write(metric.name, layer, list(samples), values=values, map=maps)


_CELL, _WRITTEN = cell, {}


def make(path, run="first", described=None, **options):
    """Write a complete run."""
    described = described or schema()
    if options or cell is not _CELL:
        return _make(path, run, described, **options)
    return written(path, (run, described), lambda: _make(path, run, described))


def written(path, arguments, write):
    """Write to an archive, or, in a test of readers, copy what was written there with these arguments before."""
    if _is_of_the_writer(os.environ.get("PYTEST_CURRENT_TEST", "robustness")):
        write()
        return path
    file = Path(path)
    before = hashlib.sha256(file.read_bytes()).digest() if file.exists() else b""
    key = before, pickle.dumps(arguments)
    if key in _WRITTEN:
        file.write_bytes(_WRITTEN[key])
    else:
        write()
        _WRITTEN[key] = file.read_bytes()
    return path


def _is_of_the_writer(test):
    return any(folder in test for folder in ("robustness", "conformance", "unit/archive"))


def _make(path, run, described, **options):
    with RunWriter.open(path, run, described, **options) as writer:
        fill(writer, described)
    return path


def content(run):
    """Return everything computed in a run, as bytes: equal for bitwise identical runs."""
    numbers = [array.tobytes() for metric in run.metrics for _, array in sorted(run.values(metric.name).items())]
    maps = [
        map_.tobytes()
        for metric in run.metrics
        if metric.has_map
        for layer in range(run.shape[0])
        for map_ in run.maps(metric.name, layer)
    ]
    return numbers + maps


def check_finished(run, expected):
    """Check that every finished cell equals the undisturbed run's; the others may contain anything."""
    found = iter(content(run))
    wanted = iter(expected)
    for metric in run.metrics:
        done = run.finished(metric.name)
        for name in sorted(run.values(metric.name)):
            mine, theirs = next(found), next(wanted)
            size = len(mine) // done.size
            for position in done.ravel().nonzero()[0]:
                at = slice(position * size, (position + 1) * size)
                assert mine[at] == theirs[at], (metric.name, name)
    for metric in run.metrics:
        if metric.has_map:
            for finished in run.finished(metric.name).ravel():
                mine, theirs = next(found), next(wanted)
                assert not finished or mine == theirs


if __name__ == "__main__":
    make(sys.argv[1], sys.argv[2], table_schema() if sys.argv[2].startswith("table") else schema())
