"""Valid models with unusual attributes and shapes give values, marks, or a one-line reason why there are none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnx
import pytest
from fuzzing import Watch
from odd_models import odd_model

import onnxinfo
from onnxinfo import OnnxinfoError, analyze, check_model, list_layers, load
from onnxinfo.archive.format import mark_name
from onnxinfo.metrics import forward

CASES = 5000
DEFAULT = 10
PIECE = 240
# Three layers whose samples must be evaluated one by one are slow, but do not hang.
CPU_SECONDS = 90
# Not measured where a value is exact, or beyond the range of numbers there.
MAY_BE_UNKNOWN = ("gain", "gain_stderr", "exponent", "resolution_alpha")
# The search without gradients is to end, not to find the optimum.
BRIEF = {
    "FIRST": (3, 1, 0.3), "STAGES": (), "FALLING": 3, "FALLING_BACKGROUNDS": 1, "MOST_PARTS": 4, "LEAST_PARTS": 4,
    "PART_BACKGROUNDS": 1, "CAP_NOISES": 64, "START_NOISES": 32, "HALVINGS": 6, "TRIAL_NOISES": 64, "FEW_RATIO": 256,
    "RATIO_NUMBERS": 1, "LEAST_RATIO": 256, "GROWTH_NOISES": 64,
}  # fmt: skip


def _line(error: OnnxinfoError | str) -> str:
    said = str(error)
    assert said.isprintable(), f"more than one line: {said!r}"
    assert 0 < len(said) < 2000
    return said


def _analyzed(proto: onnx.ModelProto, samples: np.ndarray, layers: list[str], folder: Path) -> str:
    """Analyze some layers, and inspect the results."""
    output = folder / "odd.h5"
    output.unlink(missing_ok=True)
    try:
        with patch.multiple(forward, **BRIEF):
            analyze(proto, samples, output, layers=layers, limit=2)
    except OnnxinfoError as error:
        return _line(error)
    with onnxinfo.open(output) as archive:
        (run,) = archive.values()
        stored = run.values("sid")
    assert stored["done"].all()
    marks = {mark_name(code) for code in stored["mark"].flat}
    for name, numbers in stored.items():
        if numbers.dtype.kind == "f":
            # None of the tried alphas suffices, as the format allows.
            infinite = np.isinf(numbers) & (name != "resolution_alpha")
            assert not infinite.any(), f"infinite {name}: {numbers}, marked {marks}"
            unknown = np.isnan(numbers) & (name not in MAY_BE_UNKNOWN)
            assert not (unknown & stored["converged"]).any(), f"unmarked {name}: {numbers}"
    assert not (np.isnan(stored["value"]) & np.isfinite(stored["gap"])).any(), f"a bound without a value: {stored}"
    return "values" + "".join(f", {mark}" for mark in sorted(marks - {"converged"}))


def _case(case: int | None, folder: Path) -> str:
    """List, check and analyze a model."""
    proto, samples = odd_model(1 if case is None else case)
    try:
        model = load(proto)
        layers = [layer.name for layer in list_layers(model)]
    except OnnxinfoError as error:
        return f"load: {_line(error)}"
    try:
        checked = _line(check_model(model).error or "verified")
    except OnnxinfoError as error:
        checked = f"not run: {_line(error)}"
    chosen = list(dict.fromkeys([*layers[:1], *layers[-2:]]))
    said = _analyzed(proto, samples, chosen, folder) if chosen else "no layers"
    return f"check: {checked} analyze: {said}"


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    watched = Watch(_case, tmp_path_factory.mktemp("odd"), cpu_seconds=CPU_SECONDS)
    yield watched
    watched.close()


#: Cases that once failed: a budget beyond float32, linear layers whose gradients overflow, outputs without elements, an
#: infinite ratio, and a value without a trial step.
FOUND = (1985, 2103, 2401, 4605, 4824)


@pytest.mark.parametrize("case", FOUND)
def test_what_was_found_before(watch: Watch, case: int) -> None:
    outcome = watch.run(case)
    assert not outcome.failure


def _pieces() -> Iterator[object]:
    yield range(DEFAULT)
    for first in range(DEFAULT, CASES, PIECE):
        yield pytest.param(range(first, min(first + PIECE, CASES)), marks=pytest.mark.slow)


@pytest.mark.parametrize("cases", list(_pieces()), ids=lambda cases: f"{cases[0]}-{cases[-1]}")
def test_odd_models_give_values_or_one_line(watch: Watch, cases: range) -> None:
    outcomes = [watch.run(case) for case in cases]
    assert [(o.case, o.failure) for o in outcomes if o.failure] == []
    # Most of them are working models.
    assert sum(o.said.startswith("check: verified") for o in outcomes) > len(outcomes) / 2
    assert sum("analyze: values" in o.said for o in outcomes) > len(outcomes) / 4
