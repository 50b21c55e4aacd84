"""The mutants that the tests have to detect change the code as it is."""

from pathlib import Path

import mutants
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: f"{mutant.old} -> {mutant.new}")
def test_a_mutant_changes_one_place(mutant):
    assert (ROOT / "onnxinfo" / mutant.file).read_text().count(mutant.old) == 1
    for name in mutant.tests:
        assert list(ROOT.glob(f"tests/**/test_{name}.py"))
