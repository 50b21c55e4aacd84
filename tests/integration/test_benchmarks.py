"""Benchmarks run at their smallest size: they reach into the solver, whose names and types change."""

from __future__ import annotations

import importlib
import re
import sys

import pytest

from onnxinfo.models import path

NETWORK = ("{model}", "--inputs", "{images}")
ONE = (*NETWORK, "--layers", "relu_2", "--samples", "1")
SABOTAGED = ("--samples", "1", "--layers", "relu_2", "--steps", "4")
SMALL = {
    "concentration": (*ONE, "--seeds", "2"),
    "couplings": ONE,
    "efficiency": (*NETWORK, "--layers", "relu_2", "--samples", "2", "--batch", "2", "--seconds", "0.01"),
    "noise_precision": ONE,
    "optimum": (*ONE, "--seeds", "0", "1"),
    "phases": (*NETWORK, "--layers", "relu_2", "--limit", "1"),
    "sweep": (*NETWORK, "--layers", "relu_2", "--limit", "1"),
    "trials": ONE,
}
FORWARD = ("resnet", "--resnet", "{model}", "--images", "{images}", "--layer", "relu", "--share", "grid:2",
           "--samples", "1", "--budget", "0.5")  # fmt: skip
SLOW = {
    "ru": ("--samples", "1", "--layers", "relu_2", "--steps", "4"),
    "sensitivity": NETWORK,
    "solvers": (*ONE, "--reference-samples", "1"),
    "variants": (*NETWORK, "--layers", "relu_2"),
}


def printed(name, arguments, monkeypatch, capsys):
    """Run a benchmark, and return what it prints."""
    given = {"model": path("digits-cnn.onnx"), "images": f"{path('digits.npz')}:images"}
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *(each.format(**given) for each in arguments)])
    importlib.import_module(name).main()
    return capsys.readouterr().out


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(each, marks=pytest.mark.slow) for each in SLOW)])
def test_a_benchmark_prints_numbers(name, monkeypatch, capsys):
    _, *lines = printed(name, (SMALL | SLOW)[name], monkeypatch, capsys).splitlines()
    assert re.search(r"\d\.\d", "".join(lines))


def test_every_sabotage_of_the_solver_is_tried(monkeypatch, capsys):
    certificate = importlib.import_module("certificate")
    _, table = printed("certificate", SABOTAGED, monkeypatch, capsys).split("---: |\n")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    found = {row[0]: [float(row[1]), float(row[3])] for row in rows}
    assert [*found] == [*certificate.SABOTAGE]
    # Scales that are wrong on purpose: something is missing, and the gap says so.
    for name in ("filter flipped", "uniform, no ascent"):
        assert found[name][0] > found["as it is"][0]
        assert found[name][1] > found["as it is"][1]


def test_the_solver_without_gradients_agrees_on_the_rounded_network(monkeypatch, capsys):
    _, table = printed("forward", FORWARD, monkeypatch, capsys).split("---: |\n")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    float32, both, int8 = ([float(row[i]) for i in (1, 4, -1)] for row in rows)
    assert max(float32[-1], int8[-1]) < 0.01
    # Rounding clips the input to the range of the calibration, which only allows more noise. The tensor before the ReLU
    # is another layer, and has less.
    assert both[1] > both[0]
