"""The order of layers in several runs: rank correlations, and swaps beyond errors."""

from __future__ import annotations

import json
from dataclasses import replace

import archive_fakes as fakes
import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import kendalltau

import onnxinfo
from onnxinfo import UsageError
from onnxinfo.archive.format import Metric, mark_code
from onnxinfo.archive.writer import RunWriter
from onnxinfo.cli import cli
from onnxinfo.views.ranking import kendall

SCHEMA = fakes.table_schema(metrics=(Metric("plain", "a number", fields=(), has_map=False),))
LAYERS = [row.name for row in SCHEMA.layers]
NOISE = np.random.default_rng(0).normal(0, 0.1, (4, 6))
NOISE -= NOISE.mean(1, keepdims=True)


def write(path, name, means, *, alpha=1e-3, described=SCHEMA, gap=0.0):
    """Write a run whose layers have these means, with small noise over the samples."""
    described = replace(described, recipe=described.recipe | {"alpha": alpha})
    (metric,) = described.metrics
    with RunWriter.open(path, name, described) as writer:
        for layer, mean in enumerate(means):
            values = {"value": mean + NOISE[layer], "stderr": np.zeros(6), "converged": np.ones(6, bool)}
            values |= {field.name: np.zeros(6) for field in metric.fields}
            values |= {"gap": np.full(6, gap), "mark": np.full(6, mark_code("converged"))} if metric.fields else {}
            maps = np.zeros((6, *described.sample_shape), np.float32) if metric.has_map else None
            writer.write(metric.name, layer, range(6), values=values, map=maps)
    return path


@pytest.mark.parametrize("seed", range(20))
def test_kendall_s_tau_is_that_of_scipy(seed):
    first, second = np.random.default_rng(seed).integers(0, 4, (2, 7)).astype(float)
    assert kendall(first, second) == pytest.approx(kendalltau(first, second).statistic, nan_ok=True)


def test_pairs_that_swap_beyond_their_errors(tmp_path):
    write(tmp_path / "a.h5", "second", [4, 2, 3, 3.001], alpha=1e-2)
    write(tmp_path / "a.h5", "first", [1, 2, 3, 4], alpha=1e-3)
    (row,) = onnxinfo.ranking(tmp_path / "a.h5")
    assert (row["run"], row["other"], row["layers"], row["pairs"]) == ("first", "second", 4, 6)
    assert row["swaps"] == [(LAYERS[0], LAYERS[i]) for i in (1, 2, 3)]
    # The last two layers of the second run differ by less than their errors.
    assert (row["same"], row["swapped"], row["open"]) == (2, 3, 1)
    assert row["tau"] == pytest.approx(kendalltau([1, 2, 3, 4], [4, 2, 3, 3.001]).statistic)


def test_the_values_do_not_count(tmp_path):
    for alpha in (1e-4, 1e-3, 1e-2):
        write(tmp_path / "a.h5", f"alpha={alpha:g}", np.array([1, 2, 3, 4]) * alpha**0.1 + np.log(alpha), alpha=alpha)
    rows = onnxinfo.ranking(tmp_path / "a.h5")
    assert [(row["run"], row["other"]) for row in rows] == [
        ("alpha=0.0001", "alpha=0.001"),
        ("alpha=0.0001", "alpha=0.01"),
        ("alpha=0.001", "alpha=0.01"),
    ]
    assert {(row["tau"], row["same"], row["swapped"]) for row in rows} == {(1.0, 6, 0)}


@pytest.mark.parametrize(("gap", "expected"), [(0.0, (6, 0)), (0.5, (6, 0)), (1.5, (3, 3)), (np.nan, (0, 6))])
def test_a_gap_leaves_the_order_open(gap, expected, tmp_path):
    """Neighbors differ by 1, and a lower mean may be higher by its gap."""
    described = replace(SCHEMA, metrics=(fakes.PROVEN_SID,))
    for name in ("one", "two"):
        write(tmp_path / "a.h5", name, [1, 2, 3, 4], described=described, gap=gap)
    (row,) = onnxinfo.ranking(tmp_path / "a.h5")
    assert (row["same"], row["open"]) == expected


def test_runs_of_two_networks_share_layers_by_name(tmp_path):
    write(tmp_path / "a.h5", "a", [1, 2, 3, 4])
    fewer = replace(SCHEMA, layers=SCHEMA.layers[1:3])
    write(tmp_path / "b.h5", "b", [2, 1], described=fewer)
    (row,) = onnxinfo.ranking([tmp_path / "a.h5", tmp_path / "b.h5"])
    assert (row["layers"], row["tau"], row["swapped"]) == (2, -1.0, 1)


def test_bad_requests_are_refused_in_a_line(tmp_path):
    path = write(tmp_path / "a.h5", "a", [1, 2, 3, 4])
    with pytest.raises(UsageError, match="an order is compared between runs, and there is one"):
        onnxinfo.ranking(path)
    write(tmp_path / "b.h5", "b", [1], described=replace(SCHEMA, layers=SCHEMA.layers[:1]))
    with pytest.raises(UsageError, match="no two runs share two finished layers"):
        onnxinfo.ranking([path, tmp_path / "b.h5"])
    with pytest.raises(UsageError, match="confidence=2"):
        onnxinfo.ranking(path, confidence=2)


def test_the_command_and_the_plot(tmp_path):
    path = tmp_path / "a.h5"
    write(path, "first", [1, 2, 3, 4], alpha=1e-3)
    write(path, "second", [4, 2, 3, 1], alpha=1e-2)
    shown = CliRunner().invoke(cli, ["ranking", str(path)], obj={})
    assert shown.exit_code == 0
    assert "layers swap beyond their errors in 1 of 1 pairs of runs" in shown.stdout
    listed = CliRunner().invoke(cli, ["ranking", str(path), "--format", "json"], obj={})
    assert json.loads(listed.stdout)[0]["swaps"] == [[*pair] for pair in onnxinfo.ranking(path)[0]["swaps"]]
    onnxinfo.plot(path, "ranking", tmp_path / "a.svg", metric="plain")
    text = (tmp_path / "a.svg").read_text()
    assert "minus the mean of the layers" in text
    # The runs' alphas differ on purpose.
    assert "caution" not in text
