"""Exit codes are those of docs/exit-codes.md; outcomes as JSON; progress without a terminal."""

import json
import re
import sys
import time

import archive_fakes as fakes
import numpy as np
import pytest
from click.testing import CliRunner
from places import ROOT

import onnxinfo
from onnxinfo.archive.writer import RunWriter
from onnxinfo.cli import cli, main, progress
from onnxinfo.models import path

MODEL = str(path("sklearn-wine-mlp.onnx"))
TABLE = f"{path('wine.npz')}:features"
ANALYZE = ("analyze", MODEL, "--inputs", TABLE, "--limit", "2", "--layers", "-1", "--metric", "gradient")
CODES = {
    0: ANALYZE,
    1: ("query", "missing.h5"),
    2: (*ANALYZE, "--device", "cuda:99"),
    3: ("compare", "fake.h5", "--fail-if", "sid<+0.1"),
    4: (*ANALYZE, "--min-converged", "1"),
    5: ("compare", "fake.h5", "--fail-if", "sid>+9"),
}


def code_of(arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["onnxinfo", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code or 0


@pytest.fixture
def unproven(monkeypatch):
    """Call every cell of gradients unproven."""
    from onnxinfo.analysis.baselines import Gradient

    cells = Gradient.cells

    def doubtful(self, batch):
        found = cells(self, batch)
        found.values["converged"][:] = False
        return found

    monkeypatch.setattr(Gradient, "cells", doubtful)


@pytest.mark.parametrize("code", CODES)
def test_commands_end_with_the_documented_codes(code, tmp_path, monkeypatch, unproven, capsys):
    monkeypatch.chdir(tmp_path)
    for name in {3: "ab", 5: "a"}.get(code, ""):
        fakes.make(tmp_path / "fake.h5", name)
    if code == 5:
        with RunWriter.open(tmp_path / "fake.h5", "c", fakes.schema()):
            pass
    more = ("-o", "a.h5") if CODES[code][0] == "analyze" else ()
    assert code_of((*CODES[code], *more), monkeypatch) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == (code != 0)


@pytest.mark.parametrize(
    "command",
    [("leakage",), ("recommend", "bits", "--accuracy", ".5"), ("robustness", "-o", "a.h5")],
    ids=lambda words: words[0],
)
def test_labels_that_are_no_classes_are_1(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("labels.npy", np.full(50, 10))
    inner = 2 if command[0] == "recommend" else 1
    given = ("--inputs", f"{path('digits.npz')}:images", "--labels", "labels.npy", "--limit", "4")
    assert code_of((*command[:inner], str(path("digits-cnn.onnx")), *given, *command[inner:]), monkeypatch) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1


def test_an_interruption_is_130(tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("onnxinfo.analysis.baselines.Gradient.cells", interrupt)
    assert code_of((*ANALYZE, "-o", str(tmp_path / "a.h5")), monkeypatch) == 130
    assert "rerun the same command to resume" in capsys.readouterr().err


def test_an_interruption_promises_only_what_can_be_resumed(monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("onnxinfo.sensitivity", interrupt)
    given = ("sensitivity", str(path("digits-cnn.onnx")), "--inputs", f"{path('digits.npz')}:images")
    assert code_of(given, monkeypatch) == 130
    assert capsys.readouterr().err.strip() == "interrupted: nothing was written"


def test_the_page_lists_all_codes():
    page = (ROOT / "docs" / "exit-codes.md").read_text(encoding="utf-8")
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)} == {*CODES, 130}


def test_an_unproven_run_is_complete_and_printed(tmp_path, unproven):
    result = CliRunner().invoke(cli, [*CODES[4], "-o", str(tmp_path / "a.h5"), "--format", "json"])
    assert isinstance(result.exception, onnxinfo.UnprovenError)
    assert "0.0% of the cells" in str(result.exception)
    found = json.loads(result.stdout)
    assert (found["status"], found["cells"], found["proven"]) == ("complete", 2, 0)
    assert found["layers"][0]["metric"] == "gradient"
    assert found["sanity"]["samples"] == 2
    with pytest.raises(onnxinfo.UnprovenError) as caught:
        onnxinfo.analyze(MODEL, TABLE, tmp_path / "a.h5", limit=2, layers=-1, metrics="gradient", min_converged=0.5)
    assert caught.value.result.unchanged


def test_without_a_terminal_lines_show_progress(capsys, monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL", 0.02)
    with progress._lines() as report:
        report(onnxinfo.Progress("sid", 2, 10))
        time.sleep(0.1)
        report(onnxinfo.Progress("sid", 6, 10, "relu", -2.5))
        time.sleep(0.1)
        report(onnxinfo.Progress("sid", 10, 10, "relu", -2.5))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "sid: 2 of 10 (20%), 0:00 so far"
    assert any(
        re.fullmatch(r"sid: 6 of 10 \(60%\), about 0:00 left, 0:00 so far; relu -2.5000", line) for line in lines
    )
    assert lines[-1].startswith("sid: 10 of 10 (100%), 0:00 so far")
    assert np.all([len(line) < 100 for line in lines])


def test_a_stage_that_begins_again_has_no_negative_time_left(capsys, monkeypatch):
    """As in a resumed sweep, which has a stage for each alpha."""
    monkeypatch.setattr(progress, "INTERVAL", 0.02)
    with progress._lines() as report:
        for done in (6, 8, 0, 2):
            report(onnxinfo.Progress("sid", done, 8))
            time.sleep(0.1)
    lines = capsys.readouterr().err.splitlines()
    assert "sid: 0 of 8 (0%), 0:00 so far" in lines
    assert "sid: 2 of 8 (25%), about 0:00 left, 0:00 so far" in lines
