"""Archives of every layout that was ever written are read, shown, extended, merged and repaired by today's code."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from places import DATA

import onnxinfo
from onnxinfo.models import path as bundled

LAYOUTS = sorted((DATA / "layouts").glob("*.h5"))
DIGITS = bundled("digits.npz")


#: The first layout, the first with metrics of other metrics, the first with a certificate's gap, and two runs.
COMMON = ("070337a", "252cacd", "b941123", "e06fadc")


def marked(path):
    return pytest.param(path, id=path.stem, marks=() if path.stem in COMMON else pytest.mark.slow)


@pytest.fixture(params=map(marked, LAYOUTS))
def archive(request, tmp_path):
    """A copy of an archive of one layout."""
    return Path(shutil.copy(request.param, tmp_path / "old.h5"))


def numbers(path):
    """Return every number that today's code reads: values and maps by run, metric and field or layer."""
    found = {}
    with onnxinfo.open(path) as opened:
        for name in opened:
            run = opened[name]
            for metric in run.metrics:
                for field, values in run.values(metric.name).items():
                    found[name, metric.name, field] = np.asarray(values)
                for layer in range(run.shape[0] if metric.has_map else 0):
                    found[name, metric.name, layer] = run.maps(metric.name, layer)
    return found


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_array_equal(found[key], values, err_msg=str(key))


def test_there_is_a_file_of_today(tmp_path):
    options = {"layers": ["relu_4", "logits"], "limit": 2, "labels": f"{DIGITS}:labels"}
    options |= {"metrics": ["sid", "concentration"], "foreground": np.tile([2, 2, 6, 7], (50, 1))}
    onnxinfo.analyze(bundled("digits-cnn.onnx"), f"{DIGITS}:images", tmp_path / "new.h5", **options)
    with h5py.File(tmp_path / "new.h5") as new:
        today = described(new["digits-cnn"])
    layouts = []
    for path in LAYOUTS:
        with h5py.File(path) as old:
            layouts += [described(run) for run in old.values()]
    assert today in layouts


def described(run):
    """Return the layout of a run: names, types and shapes of its datasets."""
    return {name: (dataset.dtype.str, dataset.shape) for name, dataset in run.items()}


def test_numbers_are_those_in_the_file(archive):
    found = numbers(archive)
    assert found
    with h5py.File(archive) as file:
        for (run, metric, field), values in found.items():
            if isinstance(field, int):
                raw = file[run][f"{metric}_map"][field]
            else:
                raw = file[run][metric if field == "value" else f"{metric}_{field}"][()]
            np.testing.assert_array_equal(values, raw.reshape(values.shape).astype(values.dtype), err_msg=str(field))
    report = onnxinfo.validate(archive)
    assert report.valid, report.violations


def test_results_are_shown(archive, tmp_path):
    with onnxinfo.open(archive) as opened:
        runs, cells = list(opened), sum(opened[name].shape[0] * opened[name].shape[1] for name in opened)
    rows = onnxinfo.query(archive, metrics=["sid"], per="sample")
    assert len(rows) == cells
    assert {row["run"] for row in rows} == set(runs)
    for kind in ("curve", "maps"):
        picture = tmp_path / f"{kind}.png"
        onnxinfo.plot(archive, kind, picture, run=runs[0])
        assert picture.stat().st_size > 5000
    page = tmp_path / "report.html"
    onnxinfo.report(archive, page)
    assert runs[0] in page.read_text(encoding="utf-8")


def test_a_run_can_be_added(archive):
    before = numbers(archive)
    onnxinfo.analyze(bundled("digits-cnn.onnx"), f"{DIGITS}:images", archive, run="new", layers=["logits"], limit=1)
    after = numbers(archive)
    assert {run for run, *_ in after} == {run for run, *_ in before} | {"new"}
    assert_same({key: values for key, values in after.items() if key[0] != "new"}, before)
    assert onnxinfo.validate(archive).valid


def test_archives_can_be_merged_and_repaired(archive, tmp_path):
    before = numbers(archive)
    names = onnxinfo.merge([archive, LAYOUTS[-1]], tmp_path / "both.h5")
    merged = numbers(tmp_path / "both.h5")
    assert_same({key: values for key, values in merged.items() if key in before}, before)
    assert len(names) >= 2
    recovery = onnxinfo.recover(archive, tmp_path / "repaired.h5")
    assert not recovery.lost
    assert_same(numbers(tmp_path / "repaired.h5"), before)
