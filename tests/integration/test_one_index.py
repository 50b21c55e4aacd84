"""A layer has one index: that of ``layers``, which every view shows and ``--layers`` accepts."""

import csv
import json
import re

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from graphs import model, node, value, weight

import onnxinfo
from onnxinfo.cli import cli
from onnxinfo.models import path


def run(*arguments):
    result = CliRunner().invoke(cli, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def two_inputs():
    """A model whose inputs are joined to one for the analysis."""
    nodes = [
        node("MatMul", "a wa", "pa"),
        node("MatMul", "b wb", "pb"),
        node("Add", "pa pb", "s"),
        node("Relu", "s", "y"),
    ]
    inputs = [value("a", ("N", 4)), value("b", ("N", 3))]
    return model(nodes, inputs, [value("y", ("N", 5))], [weight("wa", 4, 5), weight("wb", 3, 5)])


@pytest.fixture(scope="module", params=["one input", "two inputs"])
def analyzed(request, tmp_path_factory):
    """The index of each layer by ``layers``, and an archive of some of them that are no neighbors."""
    folder = tmp_path_factory.mktemp("index")
    network, inputs = path("digits-cnn.onnx"), f"{path('digits.npz')}:images"
    if request.param == "two inputs":
        draw = np.random.default_rng(0).standard_normal
        network, inputs = folder / "m.onnx", f"a={folder / 'x.npz'}:a,b={folder / 'x.npz'}:b"
        onnx.save(two_inputs(), network)
        np.savez(folder / "x.npz", **{name: draw((4, size)).astype(np.float32) for name, size in (("a", 4), ("b", 3))})
    listed = {
        row["name"]: row["index"] for row in json.loads(run("layers", network, "--layers", "*", "--format", "json"))
    }
    chosen = sorted(listed.values())[:: 4 if request.param == "one input" else 2]
    options = [word for index in chosen for word in ("--layers", index)]
    shown = run(
        "analyze", network, "--inputs", inputs, "--limit", 3, *options, "--metric", "gradient", "-o", folder / "a.h5"
    )
    return listed, chosen, folder / "a.h5", shown


def test_every_view_shows_the_index_of_the_list(analyzed):
    listed, chosen, archive, shown = analyzed
    rows = re.findall(r"^ +(\d+)  (\S+) ", shown, re.MULTILINE)
    assert [int(index) for index, _ in rows] == chosen
    assert all(listed[name] == int(index) for index, name in rows)
    found = onnxinfo.query(archive, per="sample") + onnxinfo.query(archive)
    assert {(row["layer"], row["layer_index"]) for row in found} == {(name, int(index)) for index, name in rows}
    table, page = (archive.with_suffix(suffix) for suffix in (".csv", ".html"))
    onnxinfo.export(archive, table)
    with table.open() as lines:
        assert {row["layer"]: int(row["layer_index"]) for row in csv.DictReader(lines)}.items() <= listed.items()
    onnxinfo.report(archive, page)
    listing = re.findall(r'"name":"([^"]+)","index":(\d+)', page.read_text())
    assert [(index, name) for name, index in listing] == rows


def test_every_view_accepts_it(analyzed):
    listed, chosen, archive, _ = analyzed
    for index in chosen:
        for layers in (index, str(index)):
            (row,) = onnxinfo.query(archive, layers=layers)
            assert listed[row["layer"]] == index
        (row,) = json.loads(run("query", archive, "--layers", index, "--format", "json"))
        assert row["layer_index"] == index
    other = archive.with_name("b.h5")
    other.write_bytes(archive.read_bytes())
    (row,) = onnxinfo.compare([archive, other], layers=[chosen[1]])
    assert listed[row["layer"]] == chosen[1]
