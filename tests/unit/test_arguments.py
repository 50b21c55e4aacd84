"""Arguments that name things: one or several, numbers for layers, results and archives instead of paths."""

from pathlib import Path

import archive_fakes as fakes
import numpy as np
import pytest
from click.testing import CliRunner

import onnxinfo
from onnxinfo import UsageError
from onnxinfo.arguments import names_of, values_of
from onnxinfo.cli import cli
from onnxinfo.config import OutputConfig, SelectionConfig
from onnxinfo.errors import UnknownRunError
from onnxinfo.models import path as bundled

MODEL = bundled("digits-cnn.onnx")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Three runs, of which two have tags."""
    archive = tmp_path_factory.mktemp("arguments") / "a.h5"
    for name, tags in {"res 20": {"depth": "20"}, "res 32": {"depth": "32", "best": "yes"}, "other": {}}.items():
        fakes.make(archive, name, fakes.schema(provenance={"tags": tags} if tags else {}))
    return archive


@pytest.mark.parametrize(("given", "names"), [
    (None, []), ("a", ["a"]), (-1, ["-1"]), (["a", np.int64(2)], ["a", "2"]), (("a",), ["a"]), ((), []),
])  # fmt: skip
def test_names(given, names):
    assert names_of(given) == names


@pytest.mark.parametrize("given", [True, 1.5, [None], [b"a"], object()])
def test_what_names_nothing_is_refused(given):
    with pytest.raises(UsageError, match="is not usable; give"):
        names_of(given, "layers")


def test_a_path_is_one_value():
    assert values_of(Path("a")) == [Path("a")]


def test_settings_take_one_name_or_a_number():
    assert SelectionConfig(layers="dense*", exclude=[-1], metrics="sid") == SelectionConfig(
        ("dense*",), ("-1",), ("sid",)
    )


def test_functions_of_models_take_one_name_or_a_number():
    layers = onnxinfo.list_layers(MODEL)
    assert onnxinfo.select_layers(layers, -1) == onnxinfo.select_layers(layers, "logits") == [layers[-1]]
    assert [o.name for o in onnxinfo.expose(MODEL, "relu").proto.graph.output] == ["logits", "relu"]
    assert [i.name for i in onnxinfo.extract(MODEL, "relu_6", "logits").proto.graph.input] == ["relu_6"]


def test_views_take_results_archives_and_runs(path, tmp_path):
    result = onnxinfo.Result(path, "other")
    everything = str(onnxinfo.query(path))  # which has NaN
    with onnxinfo.open(result) as archive:
        assert str(onnxinfo.query(archive)) == everything
        one = str(onnxinfo.query(path, run="other"))
        assert str(onnxinfo.query(archive["other"])) == str(onnxinfo.query(result)) == one
        assert len(onnxinfo.plot(archive, "curve").axes) == 1
    assert {row["run"] for row in onnxinfo.query([result, onnxinfo.Result(path, "res 20")])} == {"other", "res 20"}
    assert onnxinfo.query(result, layers=-1, metrics="sid", samples=0) != []
    assert len(onnxinfo.list_runs(result)) == 3
    assert onnxinfo.validate(result).valid
    with pytest.raises(UsageError, match="give a path, a result, an archive or a run"):
        onnxinfo.query(3)


def test_runs_are_selected_by_globs_and_tags(path):
    def runs(**options):
        return [*dict.fromkeys(row["run"] for row in onnxinfo.query(path, **options))]

    assert runs(run="res*") == ["res 20", "res 32"]
    assert runs(run=["other", "*32"]) == ["res 32", "other"]
    assert runs(tag="depth=32") == runs(tag="best") == ["res 32"]
    assert runs(tag=["depth=*", "best"]) == ["res 32"]
    with pytest.raises(UnknownRunError, match="no run 'ras\\*'"):
        runs(run="ras*")
    with pytest.raises(UnknownRunError, match="has the tag depth=44"):
        runs(tag="depth=44")


def test_tags_on_the_command_line(path):
    found = CliRunner().invoke(cli, ["query", str(path), "--tag", "depth=2?", "--format", "csv", "--columns", "run"])
    assert {*found.stdout.split("\n")[1:-1]} == {"res 20"}
    assert "depth=32 best=yes" in CliRunner().invoke(cli, ["runs", str(path)]).stdout
    assert OutputConfig(tag="a=1").tag == OutputConfig(tag={"a": 1}).tag == (("a", "1"),)
