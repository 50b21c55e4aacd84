"""Several runs in one figure: a caution where a setting differs, and layers from the input on."""

from dataclasses import replace

import archive_fakes as fakes
import pytest
from matplotlib.figure import Figure

import onnxinfo
from onnxinfo.views.plots import history

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


def test_a_history_lists_the_layers_of_all_runs_by_depth(tmp_path, monkeypatch):
    """The first run lacks the layer in the middle."""
    listed = []
    monkeypatch.setattr(history, "_lines", lambda axes, runs, names: listed.extend(names))
    monkeypatch.setattr(Figure, "legend", lambda self, **options: None)
    whole = fakes.schema()
    rows = [*whole.layers]
    for name, layers in (("a", [rows[0], *rows[2:]]), ("b", rows)):
        fakes.make(tmp_path / f"{name}.h5", name, replace(whole, layers=layers))
    onnxinfo.plot([tmp_path / "a.h5", tmp_path / "b.h5"], "history", tmp_path / "figure.svg")
    assert listed == [row.name for row in rows]
