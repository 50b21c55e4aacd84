"""Runs grow by samples, layers and metrics; a finished run is left alone; unproven cells can be tried again."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import onnxinfo
from onnxinfo import ArchiveError, UsageError
from onnxinfo.analysis import measures
from onnxinfo.cli import cli
from onnxinfo.models import path

MODEL = path("sklearn-wine-mlp.onnx")
TABLE = f"{path('wine.npz')}:features"


@pytest.fixture(scope="module")
def layers():
    return [layer.name for layer in onnxinfo.list_layers(MODEL) if layer.default]


def analyze(archive, **options):
    return onnxinfo.analyze(MODEL, TABLE, archive, **{"std": 1.0, "limit": 2, "run": "run", **options})


def state(archive):
    """Status, layers, metrics and values of the run, and the names of all runs."""
    with onnxinfo.open(archive) as opened:
        run = opened["run"]
        values = {metric.name: run.values(metric.name)["value"] for metric in run.metrics}
        return run.status, [row.name for row in run.layers], values, [*opened]


def test_a_finished_run_is_complete_and_stays_as_it_is(tmp_path, layers):
    archive = tmp_path / "a.h5"
    assert not analyze(archive, layers=layers[-1:]).unchanged
    before = archive.read_bytes()
    assert analyze(archive, layers=layers[-1:]).unchanged
    assert archive.read_bytes() == before


def test_the_command_says_that_a_run_is_complete(tmp_path, layers):
    line = ["analyze", str(MODEL), "--inputs", TABLE, "--limit", "2", "--layers", layers[-1]]
    line += ["--metric", "gradient", "-o", str(tmp_path / "a.h5")]
    assert CliRunner().invoke(cli, line).exit_code == 0
    again = CliRunner().invoke(cli, line)
    assert again.exit_code == 0
    assert "complete: run 'sklearn-wine-mlp' has everything already (layers: 1; samples: 2)" in again.stdout


def test_a_finished_run_in_a_write_protected_folder_is_complete(tmp_path, layers, monkeypatch):
    archive = tmp_path / "a.h5"
    own = {"layers": layers[-1:], "metrics": ["gradient"]}
    analyze(archive, **own)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) not in (tmp_path, archive))
    before = sorted(tmp_path.iterdir())
    assert analyze(archive, **own).unchanged
    with pytest.raises(ArchiveError, match="write-protected"):
        analyze(archive, **own, limit=3)
    with pytest.raises(ArchiveError, match="write-protected"):
        analyze(archive, **own, run="other")
    assert sorted(tmp_path.iterdir()) == before


def test_layers_and_metrics_are_added(tmp_path, layers, caplog):
    archive = tmp_path / "a.h5"
    analyze(archive, layers=layers[-1:])
    _, _, old, _ = state(archive)
    analyze(archive, layers=layers[:1], metrics=["gradient"])
    assert "adds 1 layer, metric gradient to run 'run'; 2 of its 2 finished cells stay" in caplog.text
    status, names, values, runs = state(archive)
    assert (status, runs) == ("complete", ["run"])
    assert names == [layers[0], layers[-1]]
    assert [*values] == ["sid", "gradient"]
    assert values["sid"][1].tolist() == old["sid"][0].tolist()
    assert np.isfinite([*values.values()]).all()
    assert onnxinfo.validate(archive).valid


def test_samples_are_added_and_cells_of_their_own_budget_stay(tmp_path, layers, caplog):
    archive = tmp_path / "a.h5"
    own = {"layers": layers[-1:], "normalize_by": "sample"}
    analyze(archive, **own)
    _, _, old, _ = state(archive)
    analyze(archive, **own, limit=3)
    assert "adds 1 sample to run 'run'; 2 of its 2 finished cells stay" in caplog.text
    status, _, values, _ = state(archive)
    assert status == "complete"
    assert values["sid"][0, :2].tolist() == old["sid"][0].tolist()
    with onnxinfo.open(archive) as opened:
        assert opened["run"].sanity.samples == 3
        assert np.isfinite(opened["run"].maps("sid", 0)).all()


@pytest.mark.parametrize(("options", "reason"), [
    ({"std": 1.0}, "the budget of every layer changes with the samples"),
    ({"std": None, "budget": 0.1}, "the input's standard deviation, the unit of sigma, changes"),
])  # fmt: skip
def test_cells_that_new_samples_change_are_computed_again(tmp_path, layers, caplog, options, reason):
    archive, fresh = tmp_path / "a.h5", tmp_path / "b.h5"
    analyze(archive, **options, layers=layers[-1:])
    analyze(archive, **options, layers=layers[-1:], limit=4)
    assert "0 of its 2 finished cells stay, 2 are computed again" in caplog.text
    assert reason in caplog.text
    analyze(fresh, **options, layers=layers[-1:], limit=4)
    with onnxinfo.open(archive) as one, onnxinfo.open(fresh) as other:
        assert [*one] == ["run"]
        grown, whole = one["run"], other["run"]
        # A layer has one budget, that of all samples.
        assert grown.normalizer("sid") == whole.normalizer("sid")
        values, expected = grown.values("sid"), whole.values("sid")
    assert values["converged"].all()
    error = 4 * np.hypot(values["stderr"], expected["stderr"]) + np.maximum(values["gap"], expected["gap"])
    assert (np.abs(values["value"] - expected["value"]) <= error).all()


@pytest.fixture
def starts(monkeypatch):
    """Samples of each computation of SID, and whether it starts from earlier maps."""
    cells, found = measures.Sid.cells, []

    def noted(self, batch):
        found.append((batch.indices, None if batch.begun is None else batch.begun.shape[0]))
        return cells(self, batch)

    monkeypatch.setattr(measures.Sid, "cells", noted)
    return found


@pytest.mark.parametrize("std", [1.0, None])
def test_cells_of_another_budget_start_from_their_maps(tmp_path, layers, starts, caplog, std):
    archive, other = tmp_path / "a.h5", tmp_path / "b.h5"
    for each in (archive, other):
        analyze(each, layers=layers[-1:], std=std)
    starts.clear()
    analyze(archive, layers=layers[-1:], limit=4, std=std)
    assert starts == [([0, 1], 2), ([2, 3], None)]
    assert "the search for SID starts from their maps" in caplog.text

    def stop(progress):
        if progress.layer and not progress.provisional:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze(other, layers=layers[-1:], limit=4, std=std, progress=stop)
    analyze(other, layers=layers[-1:], limit=4, std=std)
    assert starts[2:] == [([0, 1], 2), ([2, 3], None)]
    assert state(other)[2]["sid"].tolist() == state(archive)[2]["sid"].tolist()


@pytest.mark.parametrize("options", [{"normalize_by": "sample"}, {"budget": 0.1}, {"overwrite": True, "alpha": 0.001}])
def test_other_cells_start_from_the_linearization(tmp_path, layers, starts, caplog, options):
    archive = tmp_path / "a.h5"
    analyze(
        archive,
        layers=layers[-1:],
        **{key: value for key, value in options.items() if key not in ("overwrite", "alpha")},
    )
    analyze(archive, layers=layers[-1:], limit=4, **options)
    assert {count for _, count in starts} == {None}
    assert "starts from their maps" not in caplog.text


def test_the_start_is_scaled_like_the_budget_and_keeps_capped_units():
    from onnxinfo.metrics.noise import ENTROPY
    from onnxinfo.workflows.former import Former

    class Run:
        def maps(self, metric, layer, samples):
            return np.log(np.array([[0.5, 10.0, np.nan]], dtype=np.float32)) + np.float32(ENTROPY)

    former = Former(Run(), {3: 0}, {7: 2}, np.ones(3), np.array([2.0]), np.ones((1, 3), bool))
    assert former.places(3, 8.0, [6, 7]) == [1]
    assert former.places(3, 2.0, [6, 7]) == former.places(3, None, [7]) == former.places(4, 8.0, [7]) == []
    np.testing.assert_allclose(former.scales(3, 8.0, [7], 10.0), [[1.0, np.inf, np.nan]], rtol=1e-5)
    for other in ({"normalizers": np.array([0.0])}, {"normalizers": np.array([np.nan])}, {"done": ~former.done}):
        assert replace(former, **other).places(3, 8.0, [7]) == []
    assert former.places(3, 0.0, [7]) == former.places(3, np.nan, [7]) == []
    doubled = replace(former, scale=np.full(3, 2.0)).scales(3, 8.0, [7], 10.0)
    np.testing.assert_allclose(doubled, [[2.0, np.inf, np.nan]], rtol=1e-5)


def test_gradients_do_not_depend_on_other_samples(tmp_path, layers, caplog):
    archive = tmp_path / "a.h5"
    analyze(archive, layers=layers[-1:], metrics=["gradient"])
    analyze(archive, layers=layers[-1:], metrics=["gradient"], limit=3)
    assert "2 of its 2 finished cells stay" in caplog.text


def test_an_interrupted_growth_resumes_and_the_finished_run_is_kept_until_then(tmp_path, layers):
    archive = tmp_path / "a.h5"
    own = {"layers": layers[-1:], "normalize_by": "sample"}
    analyze(archive, **own)

    def stop(progress):
        if progress.stage == "sid":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze(archive, **own, limit=3, progress=stop)
    status, _, values, runs = state(archive)
    assert (status, runs) == ("interrupted", ["run~", "run"])
    assert np.isfinite(values["sid"][0, :2]).all()
    analyze(archive, **own, limit=3)
    assert state(archive)[0] == "complete"
    assert state(archive)[3] == ["run"]


@pytest.mark.parametrize(("options", "difference"), [
    ({"alpha": 0.1}, "alpha is 0.00015 there, 0.1 now"),
    ({"limit": 1}, "it has 2 samples, and 1 of them are asked for now"),
    ({"shuffle": True, "limit": 3}, "it has other samples"),
    ({"mean": 0.5}, r"mean is null there, \[0.5\] now"),
    ({"mean": 0.5, "limit": 3}, r"mean is null there, \[0.5\] now"),
    ({"mean": 0.5, "shuffle": True}, r"mean is null there, \[0.5\] now"),
    ({"labels": [0, 1, 2] + [0] * 47}, "other labels"),
])  # fmt: skip
def test_another_recipe_is_refused(tmp_path, layers, options, difference):
    archive = tmp_path / "a.h5"
    analyze(archive, layers=layers[-1:], metrics=["gradient"])
    before = archive.read_bytes()
    with pytest.raises(UsageError, match=difference):
        analyze(archive, layers=layers[-1:], metrics=["gradient"], **options)
    assert archive.read_bytes() == before


def test_samples_of_the_same_names_must_be_the_same(tmp_path, layers):
    archive = tmp_path / "a.h5"
    with np.load(path("wine.npz")) as file:
        rows = file["features"].astype(np.float32)
    common = {"layers": layers[-1:], "metrics": ["gradient"], "std": 1.0, "run": "run"}
    onnxinfo.analyze(MODEL, rows[:2], archive, **common)
    with pytest.raises(UsageError, match="other samples of the same names"):
        onnxinfo.analyze(MODEL, rows[1:4], archive, **common)


def test_anonymous_runs_grow(tmp_path, layers):
    archive = tmp_path / "a.h5"
    common = {"layers": layers[-1:], "metrics": ["gradient"], "anonymous_names": True}
    analyze(archive, **common)
    analyze(archive, **common, limit=3)
    assert state(archive)[2]["gradient"].shape == (1, 3)


@pytest.fixture
def asked(monkeypatch):
    """Samples and passes of each computation of SID; sample 1 stays unproven, sample 0 without more passes."""
    cells, asked = measures.Sid.cells, []

    def doubtful(self, batch):
        found = cells(self, batch)
        asked.append((batch.indices, batch.passes))
        for place, sample in enumerate(batch.indices):
            if sample == 1 or (sample == 0 and batch.passes == 1):
                found.values["converged"][place], found.values["mark"][place] = False, 2
        return found

    monkeypatch.setattr(measures.Sid, "cells", doubtful)
    return asked


def test_unproven_cells_alone_are_computed_again_with_more_passes_once(tmp_path, layers, asked, caplog):
    archive = tmp_path / "a.h5"
    analyze(archive, layers=layers[-1:], limit=3)
    _, _, old, _ = state(archive)
    asked.clear()
    assert not analyze(archive, layers=layers[-1:], limit=3, retry_unproven=True).unchanged
    assert asked == [([0, 1], 4)]
    assert "2 are computed again: 2 unproven cells get more passes" in caplog.text
    _, _, new, runs = state(archive)
    assert new["sid"][0, 2] == old["sid"][0, 2]
    assert runs == ["run"]
    with onnxinfo.open(archive) as opened:
        assert opened["run"].values("sid")["converged"].tolist() == [[True, False, True]]
        assert opened["run"].retried("sid").tolist() == [[True, True, False]]
    assert analyze(archive, layers=layers[-1:], limit=3, retry_unproven=True).unchanged
    assert "1 cells stay unproven after 4 times the passes; they are not tried again" in caplog.text
    assert onnxinfo.validate(archive).valid


def test_an_interrupted_retry_continues_with_what_was_unproven_when_it_was_asked_for(tmp_path, layers, asked):
    archive, whole = tmp_path / "a.h5", tmp_path / "b.h5"
    again = {"layers": layers, "retry_unproven": True}
    for each in (archive, whole):
        analyze(each, layers=layers[-1:])
    analyze(whole, **again)

    def stop(progress):
        if progress.layer and progress.done > 1:
            raise KeyboardInterrupt

    asked.clear()
    with pytest.raises(KeyboardInterrupt):
        analyze(archive, **again, progress=stop)
    onnxinfo.rename_run(archive, "run", "copy")
    onnxinfo.rename_run(archive, "copy", "run")
    analyze(archive, **again)
    passes = [passes for _, passes in asked]
    assert (passes.count(4), passes.count(1)) == (1, len(layers) - 1)
    assert state(archive)[2]["sid"].tolist() == state(whole)[2]["sid"].tolist()


def test_a_run_remembers_that_it_was_begun_with_a_retry(tmp_path, layers, asked):
    archive = tmp_path / "a.h5"

    def stop(progress):
        if progress.layer and progress.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze(archive, layers=layers[-2:], retry_unproven=True, progress=stop)
    analyze(archive, layers=layers[-2:], retry_unproven=True)
    assert {passes for _, passes in asked} == {1}
    analyze(archive, layers=layers[-2:], retry_unproven=True)
    assert {passes for _, passes in asked} == {1, 4}


def test_more_passes_take_more_noise():
    from onnxinfo.metrics.problem import Problem

    described = dict.fromkeys(Problem.__dataclass_fields__)
    tie = type("Tie", (), {"units": 8192})()
    feature = type("Feature", (), {"samples": 1})()
    one, four = (Problem(**{**described, "tie": tie, "feature": feature, "passes": count}) for count in (1, 4))
    assert (one.effort, four.effort) == (1, 4)
