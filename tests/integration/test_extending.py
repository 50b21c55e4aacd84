"""Extensions from an installed package and from a program work everywhere, including workers and Ray."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from click.shell_completion import ShellComplete
from places import DATA

import onnxinfo
from onnxinfo.cli import cli
from onnxinfo.models import path
from onnxinfo.registry import METRICS, Registry

SOURCE = DATA / "extension"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder in which pip installs the package."""
    folder = tmp_path_factory.mktemp("extension")
    source = shutil.copytree(SOURCE, folder / "source")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*command, "--target", folder / "target", source], check=True, timeout=300)
    return folder / "target"


PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
import onnxinfo
from onnxinfo.analysis.blocks import Cells, Measure
from onnxinfo.archive.format import Metric
from onnxinfo.models import path
from onnxinfo.registry import METRICS

MODEL, IMAGES = path("digits-cnn.onnx"), f"{path('digits.npz')}:images"
OPTIONS = {"metrics": ["energy", "peak"], "layers": ["relu"], "limit": 2, "threads": 1}

@METRICS.register("peak")
class Peak(Measure):
    metric = Metric("peak", "largest value of the map of SID", "nat", fields=(), has_map=False)
    needs = ("sid",)
    offset = None

    def prepare(self, report):
        self.offset = 1000.0

    def cells(self, batch):
        value = batch.cells("sid").map.flatten(1).max(1).values.double() + self.offset
        return Cells({"value": value, "stderr": 0 * value, "converged": value.isfinite()})

def register():
    from dataclasses import replace
    from onnxinfo.analysis.baselines import Gradient

    @METRICS.register("local")
    class Local(Gradient):
        metric = replace(Gradient.metric, name="local")

def values(name, **options):
    result = onnxinfo.analyze(MODEL, IMAGES, f"{name}.h5", **OPTIONS | options)
    with onnxinfo.open(result.archive) as archive:
        run = archive[result.run]
        return {metric: run.values(metric)["value"].tolist() for metric in ("energy", "peak")}

def refusal(**options):
    try:
        values("refused", **options)
    except onnxinfo.UsageError as error:
        return str(error)

def extensions():
    import onnx, torch
    from onnx import TensorProto, helper

    onnxinfo.plot("one.h5", "name", "one.txt")
    onnxinfo.export("one.h5", "one.list")
    found = {"plot": Path("one.txt").read_text(), "export": Path("one.list").read_text()}
    np.savetxt("images.numbers", np.load(path("digits.npz"))["images"][:40].reshape(40, -1) / 255)
    found["read"] = onnxinfo.open_samples("images.numbers", shape=(64,)).batch([3]).ravel().tolist()
    shown = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in "xy"]
    twice = helper.make_node("Twice", ["x"], ["y"], domain="example")
    graph = helper.make_graph([twice], "g", *([each] for each in shown))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("example", 1)]
    module = onnxinfo.convert(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    return found | {"twice": module(torch.ones(1, 2))[0].tolist()}

if __name__ == "__main__":
    found = {"one": values("one"), "two": values("two", workers=2), "here": values("here", engine="here")}
    found |= extensions()
    if RAY:
        found["ray"] = values("ray", engine="ray", ray_address="local", workers=1)
    register()
    found["refused"] = refusal(metrics=["local"], workers=2)
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(installed, tmp_path_factory):
    """What a program prints that uses the installed package and defines metrics; workers import it from its file."""
    folder = tmp_path_factory.mktemp("program")
    has_ray = importlib.util.find_spec("ray") is not None
    (folder / "program.py").write_text(f"RAY = {has_ray}\n{PROGRAM}")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), *filter(None, sys.path)])}
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_package_is_short():
    lines = (SOURCE / "onnxinfo_example.py").read_text().splitlines()
    code = [line for line in lines if line.strip() and not line.strip().startswith(('"""', "#", "import", "from"))]
    assert len(code) <= 30


def test_one_of_each_of_an_installed_package(found):
    """The package's metric runs in one process, in two, and on its engine; its other extensions work, too."""
    assert np.isfinite(found["one"]["energy"]).all()
    assert found["two"]["energy"] == found["one"]["energy"]
    assert found["here"]["energy"] == found["one"]["energy"]
    assert (found["plot"], found["export"]) == ("one", "relu")
    expected = np.load(path("digits.npz"))["images"][3].ravel() / 255
    np.testing.assert_allclose(found["read"], expected, rtol=1e-6)
    assert found["twice"] == [[2.0, 2.0]]


def test_a_metric_of_a_program_reaches_its_workers(found):
    """Metrics arrive with their dependencies and prepared state; workers do not look up the program's names."""
    assert found["two"]["peak"] == found["one"]["peak"]
    assert np.array(found["one"]["peak"]).min() > 900


def test_a_metric_of_a_program_reaches_ray(found):
    pytest.importorskip("ray")
    assert found["ray"] == found["one"]


def test_a_metric_that_no_other_process_can_import_is_refused_in_one_line(found):
    assert "metric 'local' cannot be sent to other processes" in found["refused"]
    assert "\n" not in found["refused"]


def test_unknown_names_get_near_misses_and_taken_ones_are_refused():
    with pytest.raises(onnxinfo.UsageError, match="no metric 'gradcm' in onnxinfo; did you mean 'gradcam'"):
        METRICS.get("gradcm")
    with pytest.raises(onnxinfo.UsageError, match="metric 'sid' exists: choose another name"):
        METRICS.register("sid")(object)
    registry = Registry("thing", "onnxinfo.nothing", {})
    registry.register("mine")(int)
    registry.register("mine")(int)
    with pytest.raises(onnxinfo.UsageError, match="thing 'mine' exists"):
        registry.register("mine")(float)
    assert registry.get("mine") is int


def test_what_is_no_metric_is_refused(monkeypatch, tmp_path):
    monkeypatch.setitem(METRICS._registered, "other", METRICS.get("gradient"))
    with pytest.raises(onnxinfo.UsageError, match="metric 'other' calls itself 'gradient': register it by that name"):
        onnxinfo.analyze("absent.onnx", "absent", tmp_path / "o.h5", metrics=["other"])
    monkeypatch.setitem(METRICS._registered, "function", print)
    with pytest.raises(onnxinfo.UsageError, match=r"metric 'function' is .*: give a class that extends"):
        onnxinfo.analyze("absent.onnx", "absent", tmp_path / "o.h5", metrics=["function"])


def test_the_shell_completes_metrics():
    found = ShellComplete(cli, {}, "onnxinfo", "").get_completions(["analyze", "m.onnx", "--metric"], "grad")
    assert [each.value for each in found] == ["gradient", "gradcam"]
