"""Where modules are: no circle among them, and public names still found where they were."""

import importlib
import warnings

import pytest
from places import ROOT

import onnxinfo

FORMER = {
    "analyze": "analysis.run", "Coherency": "analysis.coherency", "coherency": "analysis.coherency",
    "Robust": "analysis.robustness", "robustness": "analysis.robustness", "train_decoder": "analysis.decoders",
    "Check": "check", "check_model": "check", "Oneshot": "everything", "oneshot": "everything",
    "demo": "demonstration",
}  # fmt: skip


@pytest.mark.parametrize("name", [*FORMER])
def test_public_names_are_found_where_they_were(name):
    module = importlib.import_module(f"onnxinfo.{FORMER[name]}")
    with pytest.warns(DeprecationWarning, match=f"'{name}' of onnxinfo.{FORMER[name]} is now onnxinfo.{name}"):
        assert getattr(module, name) is getattr(onnxinfo, name)
    with pytest.raises(AttributeError, match="has no attribute 'absent'"):
        _ = module.absent


@pytest.mark.parametrize("name", [name for name in onnxinfo.__all__ if name[0] != "_"])
def test_public_names_are_imported_without_a_warning(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        vars(onnxinfo).pop(name, None) if name in onnxinfo._LAZY else None
        assert getattr(onnxinfo, name).__name__ == name


def test_circles_are_found(monkeypatch):
    pytest.importorskip("importlinter")
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from import_contracts import circles

    imports = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}, "f": {"a"}, "g": set()}
    assert [*circles(imports)] == [["a", "b", "c"], ["d", "e"]]
    assert not [*circles({"a": {"b", "c"}, "b": {"c"}, "c": set()})]
