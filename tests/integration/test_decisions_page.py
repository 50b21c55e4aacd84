"""The page of decisions shows what the committed results say."""

from __future__ import annotations

import re

import numpy as np
import pytest
from places import ROOT

bits = pytest.importorskip("bits")

RESULTS = ROOT / "benchmarks" / "results" / "bits.jsonl"
#: Columns of the page, and names in the results.
METHODS = ("uniform", "sqnr", "kl", "hessian", "jacobian")


def rows(header: str) -> list[list[str]]:
    """Cells of the page's table with a header."""
    page = (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8")
    table = page.split(header, 1)[1].split("\n\n", 1)[0]
    return [[cell.strip(" *") for cell in line.strip("| ").split("|")] for line in table.splitlines()[2:]]


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, int, str], np.ndarray]:
    """Which test images each method's networks classify, (seed, image)."""
    every = bits.rows_of(RESULTS)
    names = {(row["model"], row["mean"], row["method"]) for row in every}
    return {
        name: np.stack([bits.correct(row) for row in every if (row["model"], row["mean"], row["method"]) == name])
        for name in names
    }


def test_accuracies_are_those_of_the_results(found):
    table = rows("| network | mean bits | uniform | SQNR | KL | Hessian | Jacobian |")
    assert len(table) == 6
    for network, mean, *accuracies in table:
        for method, accuracy in zip(METHODS, accuracies, strict=True):
            several = found[network.lower().replace("-", ""), int(mean), method]
            assert several.shape == (5, 1000)
            assert float(accuracy) == pytest.approx(several.mean(), abs=5.1e-4), (network, mean, method)


def test_differences_are_those_of_the_results(found):
    for network, mean, *differences in rows("| network | mean bits | - uniform | - SQNR | - KL | - Hessian |"):
        model, number = network.lower().replace("-", ""), int(mean)
        for method, text in zip(METHODS, differences, strict=False):
            expected = bits.bootstrap(found[model, number, "jacobian"] - found[model, number, method])
            numbers = [float(each) for each in re.findall(r"[+-]?\d*\.\d+", text)]
            assert numbers == pytest.approx([float(each) for each in expected.split(" ± ")], abs=1e-3)


def test_what_the_command_recommends_is_the_score_of_the_page(found):
    for (model, mean, method), several in found.items():
        if method == "recommended":
            np.testing.assert_array_equal(several, found[model, mean, "jacobian"])
