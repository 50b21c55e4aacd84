"""CKA of some of a run's samples, in the views."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import pytest

import onnxinfo
from onnxinfo import UsageError
from onnxinfo.archive.format import STATUS
from onnxinfo.models import path

CNN, DIGITS = path("digits-cnn.onnx"), path("digits.npz")
IMAGES, LABELS = f"{DIGITS}:images", f"{DIGITS}:labels"


@pytest.fixture(scope="module")
def partly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with CKA of all samples, and a run in which the last layer has that of half of its samples."""
    archive = tmp_path_factory.mktemp("partly") / "a.h5"
    options: dict[str, Any] = {
        "layers": ["relu", "logits"],
        "metrics": ["cka", "sensitivity"],
        "labels": LABELS,
        "limit": 40,
    }
    onnxinfo.analyze(CNN, IMAGES, archive, run="whole", **options)
    onnxinfo.analyze(CNN, IMAGES, archive, run="unfinished", **options)
    with h5py.File(archive, "r+") as file:
        file["unfinished/cka_done"][1, 20:] = False
        file["unfinished/status"][()] = STATUS.index("interrupted")
    return archive


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"run": "whole"}, ""),
        ({"run": "whole", "group_by": ["layer"]}, ""),
        ({"run": "whole", "per": "sample"}, ""),
        ({"run": "whole", "samples": ["0-9"], "metrics": ["sensitivity"]}, ""),
        ({"run": "whole", "samples": ["0-9"]}, "shown of 10 of them"),
        ({"run": "whole", "labels": [1], "per": "sample"}, "shown of 5 of them"),
        ({"run": "whole", "group_by": ["label"]}, "shown of a group of them"),
        ({"run": "whole", "group_by": ["layer"], "minimum": 0.5}, "shown of a group of them"),
        ({"run": "unfinished"}, "shown of 20 of them"),
        ({"run": "unfinished", "layers": ["relu"]}, ""),
    ],
)
def test_cka_of_some_samples_has_a_caution(
    partly: Path, options: dict[str, Any], shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = onnxinfo.query(partly, **options)
    cautions = {row.get("caution", "") for row in rows}
    assert len(cautions) == 1
    if shown:
        assert f"is of all its 40 samples together, and {shown}" in cautions.pop()
        assert [each for each in caplog.messages if shown in each]
    else:
        assert cautions == {""}
        assert not caplog.messages


def test_cka_of_some_samples_is_not_proven(partly: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = {(row["layer"], row["metric"]): row for row in onnxinfo.query(partly, run="unfinished")}
    assert [found[layer, "cka"]["converged"] for layer in ("relu", "logits")] == [True, False]
    assert found["logits", "cka"]["n_converged"] == 0
    assert found["logits", "sensitivity"]["converged"]
    onnxinfo.plot(partly, "curve", tmp_path / "a.svg", run="unfinished", metric="cka")
    assert "is of all its 40 samples together, and shown of 20 of them" in caplog.text


def test_cka_of_some_samples_is_not_judged(partly: Path, caplog: pytest.LogCaptureFixture) -> None:
    onnxinfo.compare(partly, metrics=["sensitivity"])
    assert not caplog.messages
    onnxinfo.compare(partly, metrics=["cka"])
    assert "shown of 20 of them" in caplog.text
    # The threshold is one that all differences exceed.
    verdict = onnxinfo.gate(partly, ["cka>-0.5"], incomplete=True)
    assert {each.layer: each.status for each in verdict.outcomes} == {"relu": "failed", "logits": "incomplete"}
    verdict = onnxinfo.gate(partly, ["cka>+9", "sensitivity>+9"], incomplete=True)
    assert [each.status for each in verdict.outcomes] == ["passed", "incomplete", "passed", "passed"]
    assert str(verdict).endswith("20 samples are unfinished; finish the analysis")
    for selected in ({"samples": "0-9"}, {"labels": 1}):
        with pytest.raises(UsageError, match="cka is of all of a run's samples together; leave out samples"):
            onnxinfo.gate(partly, ["sensitivity>+9", "cka>+9"], **selected)
        assert onnxinfo.gate(partly, ["sensitivity>+9"], **selected).passed
