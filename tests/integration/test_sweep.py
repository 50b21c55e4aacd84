"""Sweeps of alphas: runs that agree with separate ones, and take less work."""

from __future__ import annotations

import json

import graphs
import numpy as np
import pytest
from click.testing import CliRunner

import onnxinfo
from onnxinfo import UsageError
from onnxinfo.cli import cli
from onnxinfo.models import path

CNN, IMAGES = path("digits-cnn.onnx"), f"{path('digits.npz')}:images"
LAYERS = ["relu", "relu_5", "logits"]
ALPHAS = (1e-4, 1e-3, 1e-2)


def values(archive, run):
    with onnxinfo.open(archive) as opened:
        return opened[run].values("sid")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    found = tmp_path_factory.mktemp("sweep") / "a.h5"
    # In another order than they are computed.
    result = onnxinfo.sweep(CNN, IMAGES, found, ALPHAS[::-1], layers=LAYERS, limit=2)
    assert result.alphas == ALPHAS
    assert [each.run for each in result.results] == ["alpha=0.0001", "alpha=0.001", "alpha=0.01"]
    assert [(row["tau"], row["swapped"]) for row in result.order] == [(1.0, 0)] * 3
    return found


def test_runs_agree_with_separate_ones_and_take_fewer_products(archive, tmp_path):
    work = {"separate": 0, "sweep": 0}
    for alpha in ALPHAS:
        alone = onnxinfo.analyze(CNN, IMAGES, tmp_path / "b.h5", run=str(alpha), alpha=alpha, layers=LAYERS, limit=2)
        one, two = values(tmp_path / "b.h5", alone.run), values(archive, f"alpha={alpha:g}")
        assert two["converged"].all()
        error = 4 * np.hypot(one["stderr"], two["stderr"]) + np.maximum(one["gap"], two["gap"])
        assert (np.abs(one["value"] - two["value"]) <= error).all()
        work = {"separate": work["separate"] + one["probes"].sum(), "sweep": work["sweep"] + two["probes"].sum()}
        if alpha == ALPHAS[0]:
            np.testing.assert_array_equal(one["value"], two["value"])
    assert work["sweep"] < 0.9 * work["separate"]


def test_linearizations_are_computed_once(archive, tmp_path, monkeypatch):
    computed = []
    from onnxinfo.analysis import tasks

    perform = tasks.Linearize.perform
    monkeypatch.setattr(tasks.Linearize, "perform", lambda self, worker: computed.append(1) or perform(self, worker))
    onnxinfo.sweep(CNN, IMAGES, tmp_path / "a.h5", ALPHAS, layers=["logits"], limit=1)
    assert len(computed) == 1


def test_a_sweep_grows_by_alphas_layers_and_samples(tmp_path):
    found, samples = tmp_path / "a.h5", np.random.default_rng(0).standard_normal((3, 4), dtype=np.float32)
    nodes = [graphs.node("MatMul", "x w", "h"), graphs.node("Tanh", "h", "t"), graphs.node("MatMul", "t v", "y")]
    weights = [graphs.weight("w", 4, 6), graphs.weight("v", 6, 3)]
    network = graphs.model(nodes, [graphs.value("x")], [graphs.value("y", ("N", 3))], weights)
    chosen = {"layers": ["y"], "limit": 2, "normalize_by": "sample", "std": 1.0}
    onnxinfo.sweep(network, samples, found, ALPHAS[:2], **chosen)
    before = values(found, "alpha=0.001")["value"]
    grown = onnxinfo.sweep(network, samples, found, ALPHAS, **chosen)
    assert [each.unchanged for each in grown.results] == [True, True, False]
    np.testing.assert_array_equal(values(found, "alpha=0.001")["value"], before)
    onnxinfo.sweep(network, samples, found, ALPHAS[:2], **(chosen | {"layers": ["t"], "limit": 3}))
    assert values(found, "alpha=0.001")["value"].shape == (2, 3)
    assert values(found, "alpha=0.01")["value"].shape == (1, 2)
    assert onnxinfo.validate(found).violations == ()


def test_two_sweeps_in_an_archive_have_names(tmp_path):
    result = onnxinfo.sweep(
        CNN, IMAGES, tmp_path / "a.h5", ALPHAS[:2], layers=["logits"], limit=1, run="small", normalize_by="sample"
    )
    assert [each.run for each in result.results] == ["small alpha=0.0001", "small alpha=0.001"]
    assert result.order == []


@pytest.mark.parametrize("workers", [2])
def test_workers_begin_at_the_same_scales(workers, quick_workers, archive, tmp_path):
    onnxinfo.sweep(CNN, IMAGES, tmp_path / "a.h5", ALPHAS[:2], layers=LAYERS, limit=2, workers=workers)
    found = values(tmp_path / "a.h5", "alpha=0.001")["value"]
    np.testing.assert_array_equal(found, values(archive, "alpha=0.001")["value"])


@pytest.mark.parametrize(
    ("alphas", "options", "message"),
    [
        ([1e-3], {}, "a sweep is over several alphas, and 1 is given"),
        ([], {}, "and 0 is given"),
        ([1e-3, -1], {}, "alpha -1: a number above 0 expected"),
        ([1e-3, float("nan")], {}, "alpha nan: a number above 0 expected"),
        ([1e-3, 1e-3], {}, "alpha 0.001 is given twice"),
        (["a", "b"], {}, "a list of numbers above 0 expected"),
        (3, {}, "a list of numbers above 0 expected"),
        (ALPHAS, {"alpha": 1e-3}, "a sweep sets alpha itself: leave out alpha"),
        (ALPHAS, {"budget": 1.0}, "a sweep sets alpha itself: leave out budget"),
        (ALPHAS, {"metrics": ["gradient"]}, "no metric depends on alpha"),
    ],
)
def test_bad_requests_are_refused_before_any_work(alphas, options, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        onnxinfo.sweep("missing.onnx", IMAGES, tmp_path / "a.h5", alphas, **options)
    assert [*tmp_path.iterdir()] == []


def test_a_run_of_another_recipe_is_refused_before_any_work(tmp_path):
    onnxinfo.analyze(CNN, IMAGES, tmp_path / "a.h5", run="alpha=0.01", alpha=0.02, layers=["logits"], limit=1)
    with pytest.raises(UsageError, match=r"alpha is 0\.02 there"):
        onnxinfo.sweep(CNN, IMAGES, tmp_path / "a.h5", ALPHAS, layers=["logits"], limit=1)
    onnxinfo.analyze(CNN, IMAGES, tmp_path / "b.h5", run="rescaled", seed=1, layers=["logits"], limit=1)
    with pytest.raises(UsageError, match="another recipe"):
        onnxinfo.coherency(CNN, IMAGES, tmp_path / "b.h5", layers=["logits"], limit=1)
    for archive, run in (("a.h5", "alpha=0.01"), ("b.h5", "rescaled")):
        with onnxinfo.open(tmp_path / archive) as opened:
            assert [*opened] == [run]


@pytest.mark.parametrize(
    "alphas",
    [
        "--alpha 1e-3 1e-2",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("--alpha 1e-3 --alpha 1e-2", "--alpha=1e-3 1e-2")),
    ],
)
def test_the_command(alphas, tmp_path):
    given = ["--limit", "2", "--layers", "relu", *alphas.split(), "--layers", "logits"]
    command = ["sweep", str(CNN), "--inputs", IMAGES, "-o", str(tmp_path / "a.h5"), "--format", "json", *given]
    result = CliRunner().invoke(cli, command, obj={})
    assert result.exit_code == 0, result.output
    assert [row["tau"] for row in json.loads(result.stdout)] == [1.0]
    shown = CliRunner().invoke(cli, ["query", str(tmp_path / "a.h5")], obj={})
    assert "alpha=0.001" in shown.stdout
    assert "caution" not in result.stderr + shown.stderr


@pytest.mark.parametrize("more", [["--alpha", "1e-2"], ["--alpha=1e-2"]])
def test_analyze_takes_one_alpha(more, tmp_path):
    command = ["analyze", str(CNN), "--inputs", IMAGES, "-o", str(tmp_path / "a.h5"), "--alpha", "1e-3", *more]
    result = CliRunner().invoke(cli, command, obj={})
    assert result.exit_code == 2
    assert "--alpha is given more than once; 'onnxinfo sweep' compares several alphas" in result.output
    assert [*tmp_path.iterdir()] == []
