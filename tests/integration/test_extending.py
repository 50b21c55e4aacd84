"""Extensions from an installed package and from a program work everywhere, including workers and Ray."""

import json
import os
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from click.shell_completion import ShellComplete
from places import DATA

import onnxinfo
from onnxinfo.cli import cli
from onnxinfo.models import path
from onnxinfo.registry import METRICS, Registry

SOURCE = DATA / "extension"
HEAD = """
import json, sys
from pathlib import Path
import numpy as np
import onnxinfo
from onnxinfo.models import path

MODEL, IMAGES = path("digits-cnn.onnx"), f"{path('digits.npz')}:images"
OPTIONS = {"layers": ["relu_4"], "limit": 40, "threads": 1}

def values(name, metric="energy", inputs=IMAGES, **options):
    result = onnxinfo.analyze(MODEL, inputs, f"{name}.h5", metrics=[metric], **OPTIONS | options)
    with onnxinfo.open(result.archive) as archive:
        return archive[result.run].values(metric)["value"].tolist()
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder in which pip installs the package."""
    folder = tmp_path_factory.mktemp("extension")
    source = shutil.copytree(SOURCE, folder / "source")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*command, "--target", folder / "target", source], check=True, timeout=300)
    return folder / "target"


def run(program, folder, installed=None):
    """Return what a program prints as JSON; it runs from a file, because workers import it."""
    file = folder / "program.py"
    file.write_text(HEAD + textwrap.dedent(program))
    search = [str(installed)] if installed else []
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*search, *filter(None, sys.path)])}
    done = subprocess.run(
        [sys.executable, file], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_package_is_short():
    lines = (SOURCE / "onnxinfo_example.py").read_text().splitlines()
    code = [line for line in lines if line.strip() and not line.strip().startswith(('"""', "#", "import", "from"))]
    assert len(code) <= 30


def test_one_of_each_of_an_installed_package(installed, tmp_path):
    """The package's metric runs in one process, in two, and on its engine; its other extensions work, too."""
    found = run(
        """
        if __name__ == "__main__":
            import onnx, torch
            from onnx import TensorProto, helper
            images = np.load(path("digits.npz"))["images"][:40].reshape(40, -1) / 255
            np.savetxt("images.numbers", images)
            found = {"one": values("one"), "two": values("two", workers=2), "here": values("here", engine="here")}
            onnxinfo.plot("one.h5", "name", "one.txt")
            onnxinfo.export("one.h5", "one.list")
            found["plot"], found["export"] = Path("one.txt").read_text(), Path("one.list").read_text()
            found["read"] = onnxinfo.open_samples("images.numbers", shape=(64,)).batch([3]).ravel().tolist()
            shown = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in "xy"]
            twice = helper.make_node("Twice", ["x"], ["y"], domain="example")
            graph = helper.make_graph([twice], "g", *([each] for each in shown))
            opsets = [helper.make_opsetid("", 20), helper.make_opsetid("example", 1)]
            module = onnxinfo.convert(helper.make_model(graph, opset_imports=opsets, ir_version=10))
            found["twice"] = module(torch.ones(1, 2))[0].tolist()
            print(json.dumps(found))
        """,
        tmp_path,
        installed,
    )
    assert np.isfinite(found["one"]).all()
    assert found["two"] == found["one"]
    assert found["here"] == found["one"]
    assert (found["plot"], found["export"]) == ("one", "relu_4")
    expected = np.load(path("digits.npz"))["images"][3].ravel() / 255
    np.testing.assert_allclose(found["read"], expected, rtol=1e-6)
    assert found["twice"] == [[2.0, 2.0]]


PROGRAM = """
    from onnxinfo.analysis.blocks import Cells, Measure
    from onnxinfo.archive.format import Metric
    from onnxinfo.registry import METRICS

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

"""


def test_a_metric_of_a_program_reaches_its_workers(tmp_path):
    """Metrics arrive with their dependencies and prepared state; workers do not look up the program's names."""
    found = run(
        PROGRAM
        + """
    if __name__ == "__main__":
        print(json.dumps([values("one", "peak", limit=3), values("two", "peak", limit=3, workers=2)]))
        """,
        tmp_path,
    )
    assert found[0] == found[1]
    assert np.array(found[0]).min() > 900


def test_a_metric_of_a_program_reaches_ray(tmp_path):
    pytest.importorskip("ray")
    found = run(
        PROGRAM
        + """
    if __name__ == "__main__":
        print(json.dumps([values("one", "peak", limit=3), values("two", "peak", limit=3, engine="ray", workers=1)]))
        """,
        tmp_path,
    )
    assert found[0] == found[1]


def test_a_metric_that_no_other_process_can_import_is_refused_in_one_line(tmp_path):
    said = run(
        """
        def register():
            from onnxinfo.registry import METRICS
            from dataclasses import replace
            from onnxinfo.analysis.baselines import Gradient

            @METRICS.register("local")
            class Local(Gradient):
                metric = replace(Gradient.metric, name="local")

        if __name__ == "__main__":
            register()
            try:
                values("two", "local", workers=2)
            except onnxinfo.UsageError as error:
                print(json.dumps(str(error)))
        """,
        tmp_path,
    )
    assert "metric 'local' cannot be sent to other processes" in said
    assert "\n" not in said


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
