"""Numbers of samples that differences need: closed forms, and what they promise, by simulation."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import subprocess
import sys

import archive_fakes as fakes
import graphs
import numpy as np
import pytest
from click.testing import CliRunner
from places import ROOT

import onnxinfo
from onnxinfo import UsageError
from onnxinfo.archive.means import pair_up
from onnxinfo.cli import cli
from onnxinfo.views.power import MOST, fraction_spread_range, samples_needed, spread_range

LAYERS = [row.name for row in fakes.schema().layers]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("power") / "a.h5"
    fakes.make(path, "one", fakes.schema(metrics=(fakes.PROVEN_SID,)))
    return path


@pytest.fixture(scope="module")
def values(archive):
    with onnxinfo.open(archive) as opened:
        return opened["one"].values("sid")


def test_the_spread_of_paired_differences(archive, values):
    rows = onnxinfo.power(archive, 0.01)
    assert [(row["layer"], row["other_layer"]) for row in rows] == [*itertools.pairwise(LAYERS)]
    for i, row in enumerate(rows):
        difference = values["value"][i + 1] - values["value"][i]
        errors = np.hypot(values["stderr"][i + 1], values["stderr"][i])
        # The fakes' samples differ less than their Monte Carlo errors, which are then the spread.
        spread = max(difference.std(ddof=1), math.sqrt((errors**2).mean()))
        assert row["spread"] == pytest.approx(spread)
        assert row["value"] == pytest.approx(difference.mean())
        assert row["shown"] == pytest.approx(2 * spread / math.sqrt(6))
        assert row["needed"] == math.ceil((2 * spread / 0.01) ** 2)
        assert row["low"] <= row["needed"] <= row["high"]
        assert row["enough"] == (row["needed"] <= 6)


def test_against_one_layer(archive):
    rows = onnxinfo.power(archive, against=LAYERS[2])
    assert [(row["layer"], row["other_layer"]) for row in rows] == [(LAYERS[2], LAYERS[i]) for i in (0, 1, 3)]
    assert "needed" not in rows[0]


def test_the_difference_that_the_samples_show_needs_these_samples(archive):
    for chance in (0.5, 0.8):
        for row in onnxinfo.power(archive, chance=chance):
            assert samples_needed(row["spread"], row["shown"], chance) == row["n"]


@pytest.mark.parametrize("chance", [0.5, 0.8, 0.95])
def test_the_wanted_difference_is_shown_with_the_promised_chance(chance):
    generator, spread, wanted = np.random.default_rng(0), 0.3, 0.05
    n = samples_needed(spread, wanted, chance)
    draws = generator.normal(wanted, spread, (4000, n))
    shown = draws.mean(1) > 2 * draws.std(1, ddof=1) / math.sqrt(n)
    assert shown.mean() == pytest.approx(chance, abs=0.03)


@pytest.mark.parametrize("n", [3, 10, 50])
def test_the_range_contains_the_true_number(n):
    draws = np.random.default_rng(1).normal(0, 0.3, (2000, n))
    ranges = [spread_range(float(each.std(ddof=1)), n) for each in draws]
    contained = np.mean([low <= 0.3 <= high for low, high in ranges])
    assert contained == pytest.approx(0.95, abs=0.015)


def test_between_runs(tmp_path):
    described = fakes.schema(metrics=(fakes.PROVEN_SID,))
    for name in ("one", "two"):
        fakes.make(tmp_path / "a.h5", name, described)
    rows = onnxinfo.power(tmp_path / "a.h5", 1.0)
    assert [(row["layer"], row["run"], row["other"]) for row in rows] == [(name, "one", "two") for name in LAYERS]
    # Equal numbers differ by their errors alone.
    errors = 0.01 * np.sqrt(2) * np.arange(1, 7)
    assert rows[0]["spread"] == pytest.approx(math.sqrt((errors**2).mean()))
    assert rows[0]["needed"] == 3
    with pytest.raises(UsageError, match="compares layers of one run"):
        onnxinfo.power(tmp_path / "a.h5", 1.0, against=LAYERS[0])
    names = [f"other {i}" for i in range(fakes.SAMPLES)]
    fakes.make(tmp_path / "b.h5", "three", fakes.schema(metrics=(fakes.PROVEN_SID,), sample_names=names))
    with pytest.raises(UsageError, match="have different samples, and differences are paired"):
        onnxinfo.power([tmp_path / "a.h5", tmp_path / "b.h5"], run=["one", "three"])
    other = dataclasses.replace(described, recipe={**described.recipe, "alpha": 0.01})
    fakes.make(tmp_path / "a.h5", "four", other)
    with pytest.raises(UsageError, match=r"runs 'one' and 'four' cannot be compared: .*alpha"):
        onnxinfo.power(tmp_path / "a.h5", 1.0, run=["one", "four"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"difference": 0.0}, "difference=0: a number above 0 expected"),
        ({"difference": -1.0}, "difference=-1: a number above 0"),
        ({"difference": math.nan}, "difference=nan"),
        ({"chance": 0.3}, "chance=0.3: a number from 0.5 to below 1"),
        ({"confidence": 1.0}, "confidence=1: a number from 0 to below 1"),
        ({"samples": ["0-1"]}, "run 'one' has 2 samples, from which no spread can be estimated; analyze at least 3"),
        ({"layers": LAYERS[:1]}, "nothing to compare"),
        ({"against": "*layer*"}, "matches 4 layers; name one"),
        ({"against": "nothing"}, "no layer matches 'nothing'"),
    ],
)
def test_bad_requests_are_refused_in_a_line(archive, options, message):
    with pytest.raises(UsageError, match=message) as caught:
        onnxinfo.power(archive, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("difference", [5e-324, 1e-200, 1e-8])
def test_more_samples_than_anybody_has(archive, difference):
    for row in onnxinfo.power(archive, difference):
        assert [type(row[name]) for name in ("needed", "low", "high")] == [int] * 3
        assert row["low"] <= row["needed"] <= row["high"] <= MOST
        assert (row["needed"] == MOST) == (2 * row["spread"] >= difference * MOST**0.5)
        assert not row["enough"]


def test_the_number_of_samples_of_extreme_arguments():
    assert samples_needed(1.0, 1e308) == samples_needed(0.0, 5e-324) == samples_needed(5e-324, 1.0) == 3
    assert samples_needed(1e308, 1e-308) == samples_needed(math.inf, 1.0) == samples_needed(math.nan, 1.0) == MOST
    assert samples_needed(1.0, 2 / math.sqrt(0.999 * MOST)) == pytest.approx(0.999 * MOST, rel=1e-9)
    for difference in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UsageError, match="a number above 0"):
            samples_needed(1.0, difference)


@pytest.mark.parametrize("n", [3, 50])
def test_the_range_of_any_confidence(n):
    low, high = spread_range(1.0, n, math.nextafter(1, 0))
    assert 0 < low < 1 < high < math.inf


def test_the_command_prints_large_numbers_as_such(archive):
    result = CliRunner().invoke(cli, ["power", str(archive), "--difference", "1e-200"], obj={})
    assert result.exit_code == 0
    assert result.stdout.count(">=1e15") == 9
    found = CliRunner().invoke(cli, ["power", str(archive), "--difference", "1e-200", "--format", "json"], obj={})
    assert {row["needed"] for row in json.loads(found.stdout)} == {10**15}


def test_the_benchmark_ends_in_one_line_without_an_archive(tmp_path):
    script = [sys.executable, str(ROOT / "benchmarks" / "power.py"), str(tmp_path / "missing.h5")]
    done = subprocess.run(
        script, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "missing.h5" in done.stderr


def test_every_benchmark_ends_in_one_line():
    scripts = [text for file in (ROOT / "benchmarks").glob("*.py") if "__main__" in (text := file.read_text("utf-8"))]
    assert len(scripts) > 40
    assert all(text.endswith("    as_script(main)\n") for text in scripts)


def test_the_command(archive):
    command = ["power", str(archive), "--difference", "0.02", "--format", "json"]
    result = CliRunner().invoke(cli, command, obj={})
    assert result.exit_code == 0
    assert [row["needed"] for row in json.loads(result.stdout)] == [
        row["needed"] for row in onnxinfo.power(archive, 0.02)
    ]


def fractions(one, two):
    cells = [{"value": np.array(each, np.float64), "stderr": np.zeros(len(each))} for each in (one, two)]
    whole = np.ones(len(one), bool)
    return pair_up(*(each | {"done": whole, "converged": whole} for each in cells))


def test_the_spread_of_fractions_has_exact_limits():
    """With 3 of 10 samples that differ, the fraction that differs is from .067 to .652 (Clopper and Pearson)."""
    pairs = fractions([1, 1, 0, *[1] * 7], [0, 0, 1, *[1] * 7])
    low, high = fraction_spread_range(pairs)
    assert low == pytest.approx(np.sqrt(0.06673951 - 0.01), rel=1e-5)
    assert high == pytest.approx(np.sqrt(0.6524529 - 0.01), rel=1e-5)


def test_the_spread_of_fractions_is_in_its_range():
    """As often as the range says, and more, because the limits are exact."""
    generator, inside = np.random.default_rng(0), 0
    for _ in range(300):
        gained = generator.random(40) < 0.1
        low, high = fraction_spread_range(fractions(np.zeros(40), gained))
        inside += low <= np.sqrt(0.09) <= high
    assert inside >= 0.95 * 300


def test_fractions_that_do_not_differ_are_not_known_exactly(tmp_path):
    labels = np.arange(24) % 2
    x = np.random.default_rng(0).standard_normal((24, 2), dtype=np.float32) + 9 * np.eye(2, dtype=np.float32)[labels]
    nodes = [graphs.node("MatMul", "x w", "y"), graphs.node("MatMul", "y w", "z")]
    weights = [graphs.constant("w", 2 * np.eye(2), np.float32)]
    model = graphs.model(nodes, [graphs.value("x", ("N", 2))], [graphs.value("z", ("N", 2))], weights)
    chosen = {"labels": labels, "layers": ["y", "z"], "metrics": ["probe"]}
    onnxinfo.analyze(model, x, tmp_path / "a.h5", **chosen)
    (row,) = onnxinfo.power(tmp_path / "a.h5", 0.01)
    assert row["value"] == row["stderr"] == 0
    most = 1 - 0.025 ** (1 / 24)
    assert row["spread"] == pytest.approx(np.sqrt(most))
    assert (row["needed"], row["high"], row["enough"]) == (int(np.ceil(4e4 * most)), row["needed"], False)
    assert row["shown"] == pytest.approx(2 * np.sqrt(most / 24))
    onnxinfo.analyze(model, x, tmp_path / "a.h5", run="again", **chosen)
    # Student's t would say that they differ by nothing for certain.
    for found in onnxinfo.compare(tmp_path / "a.h5"):
        assert (found["difference"], found["low"], found["high"]) == (0, pytest.approx(-most), pytest.approx(most))
