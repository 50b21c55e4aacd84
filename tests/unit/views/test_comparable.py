"""Runs that differ in a setting are drawn together with a caution."""

from dataclasses import replace

import archive_fakes as fakes
import pytest

import onnxinfo

SCALED = fakes.schema(recipe=fakes.schema().recipe | {"scale": 1.0})


@pytest.fixture
def archives(tmp_path):
    other = replace(SCALED, recipe=SCALED.recipe | {"scale": 0.5})
    for name, described in (("a", SCALED), ("b", other), ("c", SCALED)):
        fakes.make(tmp_path / f"{name}.h5", name, described)
    return tmp_path


@pytest.mark.parametrize("kind", ["curve", "history"])
def test_runs_of_different_preprocessing_are_drawn_with_a_caution(archives, caplog, kind):
    figure = archives / "figure.svg"
    onnxinfo.plot([archives / "a.h5", archives / "c.h5"], kind, figure)
    assert "caution" not in caplog.text + figure.read_text()
    onnxinfo.plot([archives / "a.h5", archives / "b.h5"], kind, figure, force=True)
    assert "runs 'a' and 'b' are not comparable: scale is 1.0 in one and 0.5 in the other" in caplog.text
    assert "caution" in figure.read_text()
