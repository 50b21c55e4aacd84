"""Public names, including those of an earlier release, and modules without import cycles."""

import subprocess
import sys
import warnings

import pytest
from places import ROOT

import onnxinfo

RENAMED = {
    "Check": "ModelCheck", "Coherency": "CoherencyResult", "Oneshot": "OneshotResult", "Robust": "RobustnessResult"
}  # fmt: skip


@pytest.mark.parametrize("name", [*RENAMED])
def test_former_names_of_results_work(name):
    with pytest.warns(DeprecationWarning, match=f"'{name}' of onnxinfo is now onnxinfo.{RENAMED[name]};") as warned:
        assert getattr(onnxinfo, name) is getattr(onnxinfo, RENAMED[name])
    assert warned[0].filename == __file__
    assert name not in onnxinfo.__all__
    with pytest.raises(AttributeError, match="module 'onnxinfo' has no attribute 'absent'"):
        _ = onnxinfo.absent


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


ANALYSIS = """
import sys
import onnxinfo
from onnxinfo.models import path
onnxinfo.analyze(path("digits-cnn.onnx"), f"{path('digits.npz')}:images", "a.h5", layers=["relu"], limit=1)
print([name for name in ("onnx2torch", "torchvision", "torch._dynamo") if name in sys.modules])
"""


def test_an_analysis_imports_no_converters_that_it_does_not_need(tmp_path):
    """The imports of onnx2torch took half of the start-up time of an analysis."""
    done = subprocess.run([sys.executable, "-c", ANALYSIS], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


LAYERS = """
import sys
from click.testing import CliRunner
from onnxinfo.cli import cli
from onnxinfo.models import path
assert "relu_6" in CliRunner().invoke(cli, ["layers", str(path("digits-cnn.onnx"))]).output
print("torch" in sys.modules)
"""


def test_layers_are_listed_without_torch(tmp_path):
    """Its import took most of the time of the command."""
    done = subprocess.run([sys.executable, "-c", LAYERS], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
