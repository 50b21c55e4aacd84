"""Means are over all cells that have a value, and every view reports unproven ones, for all metrics."""

import math
from dataclasses import replace

import archive_fakes as fakes
import h5py
import numpy as np
import pytest
from click.testing import CliRunner

import onnxinfo
from onnxinfo.archive.format import MARKS, PROOF
from onnxinfo.archive.means import layer_summary, mean_and_stderr, one_per_sample, pair_up
from onnxinfo.archive.validate import validate
from onnxinfo.cli import cli
from onnxinfo.errors import UsageError
from onnxinfo.views.comparable import check_precision
from onnxinfo.views.reading_runs import read_runs
from onnxinfo.views.selection import Selection
from onnxinfo.views.wording import mean_text, rounded_up

FAILED = "/layer2/é/Relu_output_0"


def cells(values, stderr=0.1, converged=True, **more):
    """Return the cells of one layer, of shape (sample,)."""
    values = np.array(values, dtype=np.float64)
    return {
        "value": values,
        "stderr": np.broadcast_to(np.float64(stderr), values.shape),
        "converged": np.broadcast_to(converged, values.shape) & np.isfinite(values),
        "done": np.ones(values.shape, dtype=bool),
        **{name: np.array(each) for name, each in more.items()},
    }


def layer(**options):
    return {name: data[None] for name, data in cells(**options).items()}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Return an archive with a run of metrics without proof, and one with gap and mark."""
    path = fakes.make(tmp_path_factory.mktemp("means") / "a.h5", "plain", fakes.schema(metrics=(fakes.SID,)))
    return fakes.make(path, "proven", fakes.schema(metrics=(fakes.PROVEN_SID,)))


def test_the_error_is_the_larger_of_spread_and_noise():
    assert mean_and_stderr([1, 2, 3, 4], 0.01)[1] == pytest.approx(np.std([1, 2, 3, 4], ddof=1) / 2)
    assert mean_and_stderr([1, 1.1], [0.3, 0.4])[1] == pytest.approx(0.25)
    assert mean_and_stderr([1], 0.3)[1] == pytest.approx(0.3)
    assert math.isnan(mean_and_stderr([1])[1])


@pytest.mark.parametrize(
    ("values", "errors", "expected"),
    [([1], 0, np.nan), ([1, np.nan], 0, np.nan), ([1, np.nan], [0, 1], np.nan), ([2, 2], 0, 0), ([2, 2], np.nan, 0)],
)
def test_the_error_of_a_single_exact_value_is_unknown(values, errors, expected):
    """Exact numbers of one sample say nothing of others; equal ones of several samples do."""
    np.testing.assert_equal(float(mean_and_stderr(values, errors)[1]), expected)


def test_means_hold_unproven_cells_and_count_those_without_a_value():
    found = layer_summary(layer(values=[1, 2, 6, np.nan], converged=[True, True, False, False]))
    assert found["value"][0] == 3
    assert [found[key][0] for key in ("n", "n_converged", "n_missing")] == [4, 2, 1]


def test_the_gap_is_unknown_where_one_is():
    assert layer_summary(layer(values=[1, 2], gap=[0.1, 0.3]))["gap"][0] == pytest.approx(0.2)
    assert math.isnan(layer_summary(layer(values=[1, 2], gap=[0.1, np.nan]))["gap"][0])
    assert layer_summary(layer(values=[1, np.nan], gap=[0.1, np.nan]))["gap"][0] == pytest.approx(0.1)


def test_marks_are_counted_by_name():
    marks = np.array([0, 2, 2, 3], np.uint8)
    found = layer_summary(layer(values=[1, 2, 3, np.nan], converged=[True, False, False, False], mark=marks))
    assert found["mark"][0] == "2 gap, 1 dead"


def test_layers_of_one_sample_are_one_draw():
    """Two identical layers carry no more information than one."""
    values, samples = [1.0, 2.0, 4.0, 1.0, 2.0, 4.0], ["a", "b", "c"] * 2
    mean, stderr, n = mean_and_stderr(*one_per_sample(values, [np.nan] * 6, samples))
    assert (mean, n) == (pytest.approx(7 / 3), 3)
    assert stderr == pytest.approx(np.std([1, 2, 4], ddof=1) / math.sqrt(3))


def test_pairs_are_over_values_in_both():
    first = cells([1, 2, np.nan, 4], converged=[True, False, True, True])
    second = cells([2, 4, 1, 5], stderr=0)
    found = pair_up(first, second)
    assert (found.n, found.n_unproven, found.n_missing) == (3, 1, 1)
    assert found.difference == pytest.approx(4 / 3)
    assert found.stderr == pytest.approx(np.std([1, 2, 1], ddof=1) / math.sqrt(3))
    noisy = pair_up(cells([1, 2], stderr=0.3), cells([2, 3], stderr=0.4))
    assert noisy.stderr == pytest.approx(0.5 / math.sqrt(2))


def test_every_view_has_the_same_mean(archive):
    """For the layer with an unproven cell: the table, a group, the comparison and the annotated text."""
    values = [float(fakes.cell(fakes.SID, 2, sample, fakes.IMAGE)[1]["value"]) for sample in range(fakes.SAMPLES)]
    (row,) = onnxinfo.query(archive, run="proven", layers=FAILED)
    (grouped,) = onnxinfo.query(archive, run="proven", layers=FAILED, group_by="layer")
    (pair,) = onnxinfo.compare(archive, layers=FAILED)
    assert row["value"] == pytest.approx(np.mean(values))
    assert grouped["mean"] == pytest.approx(row["value"])
    assert grouped["stderr"] == pytest.approx(row["stderr"])
    assert pair["value"] == pair["other_value"] == pytest.approx(row["value"])
    assert (pair["n"], pair["n_unproven"]) == (6, 1)
    for found in (row, grouped):
        assert (found["n"], found["n_converged"], found["n_missing"]) == (6, 5, 0)
    (drawn,) = read_runs(Selection.of(archive, run="proven", layers=FAILED), "sid")
    assert drawn.present.sum() == 6
    assert drawn.unproven.sum() == 1


def test_rows_carry_gap_and_mark_where_the_metric_keeps_them(archive):
    proven, plain = (onnxinfo.query(archive, run=run, layers=FAILED, per="sample") for run in ("proven", "plain"))
    assert [row["mark"] for row in proven] == ["converged", "gap", *["converged"] * 4]
    assert proven[1]["gap"] == 0.25
    assert all(row["mark"] is None and math.isnan(row["gap"]) for row in plain)
    (row,) = onnxinfo.query(archive, run="proven", layers=FAILED)
    assert row["gap"] == pytest.approx((5 * 0.01 + 0.25) / 6)
    assert row["mark"] == "1 gap"


def test_the_screen_says_what_the_marks_mean(archive):
    out = CliRunner().invoke(cli, ["query", str(archive), "--run", "proven"], obj={}, catch_exceptions=False).output
    told = " ".join(out.split())
    assert f"1 gap ({MARKS[2].meaning})" in told
    assert "means are over all that have a value" in told


@pytest.mark.parametrize(("run", "panels"), [("plain", ["residual"]), ("proven", ["gap: upper limit of", "residual"])])
def test_the_certificate_shows_what_there_is(archive, tmp_path, run, panels):
    onnxinfo.plot(archive, "certificate", tmp_path / "p.svg", run=run)
    text = (tmp_path / "p.svg").read_text()
    assert [panel for panel in ("gap: upper limit of", "residual") if panel in text] == panels
    assert "1 of 24 cells unproven" in text


def test_marks_are_described_in_the_file(archive):
    assert not validate(archive).violations
    with h5py.File(archive) as file:
        attributes = dict(file["proven/sid_mark"].attrs)
    assert list(attributes["flag_values"]) == [*MARKS]
    assert attributes["flag_meanings"].decode().split() == [mark.name for mark in MARKS.values()]


def test_marks_are_described_in_a_copy(archive, tmp_path):
    onnxinfo.merge([archive], tmp_path / "copy.h5")
    with h5py.File(archive) as file, h5py.File(tmp_path / "copy.h5") as copy:
        before, after = (dict(each["proven/sid_mark"].attrs) for each in (file, copy))
    assert before["flag_meanings"] == after["flag_meanings"]
    assert [*before["flag_values"]] == [*after["flag_values"]]


@pytest.mark.parametrize("kept", [("gap",), ("mark",), ("gap", "gain", "exponent")])
def test_metrics_may_keep_any_part_of_the_proof(kept, tmp_path):
    metric = replace(fakes.SID, fields=tuple(field for field in PROOF if field.name in kept))

    path = fakes.make(tmp_path / "a.h5", "one", fakes.schema(metrics=(metric,)))
    rows = onnxinfo.query(path)
    assert len(rows) == fakes.LAYERS
    assert all(mean_text(row) for row in rows)
    assert all((row["mark"] is not None) == ("mark" in kept) for row in rows)


def test_means_in_words():
    row = {"value": -2.6598, "stderr": 0.0131, "gap": 0.0098, "n": 16, "n_converged": 13, "n_missing": 0}
    assert mean_text(row) == "-2.660 ± 0.013, at most 0.0098 too low, 3/16 unproven"
    assert mean_text(row | {"gap": math.nan, "n": 17, "n_missing": 1}).endswith("3/16 unproven, 1 without a value")
    assert mean_text(row | {"n": 2, "n_missing": 2}) == "no value, 2 missing"
    assert rounded_up(0.01001) == "0.011"


def test_float_and_quantized_runs_below_rounding_are_no_pair(archive):
    (run,) = read_runs(Selection.of(archive, run="proven"), "sid")
    alphas = np.full(run.values["mark"].shape, 0.002)
    limited = run.values | {"mark": np.full_like(run.values["mark"], 4), "resolution_alpha": alphas}
    quantized = replace(run, values=limited, provenance={"precision": "quantised"})
    floating = replace(run, provenance={"precision": "float"})
    with pytest.raises(UsageError, match=r"below the network's own rounding.*an alpha of at least 0.002"):
        check_precision([floating, quantized])
    check_precision([floating, floating])
    check_precision([quantized, quantized])
    check_precision([floating, replace(quantized, values=run.values)])
