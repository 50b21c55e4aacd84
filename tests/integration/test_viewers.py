"""Viewers of other projects show the metrics of an annotated model: Netron and Model Explorer, opened in a browser."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import archive_fakes as fakes
import onnx
import pytest
from chromium import awaited, chromium
from graphs import rewritten

import onnxinfo
from onnxinfo.graph.own import own_graph
from onnxinfo.models import path as bundled
from onnxinfo.views.explorer import explorer_ids

pytestmark = pytest.mark.slow

#: Serves a model with node data at a free port, and prints the address.
SERVER = """
import sys, model_explorer
shown = model_explorer.config().add_model_from_path(sys.argv[1]).add_node_data_from_path(sys.argv[2])
adapters = ["model_explorer_onnx"]
model_explorer.visualize_from_config(shown, host="127.0.0.1", extensions=adapters, no_open_in_browser=True)
"""

#: Nodes that the adapter adds around control flow.
ADDED = ("(Phi)", "(Capture)")


def analyzed(model: Path, archive: Path) -> list[Any]:
    """Write an archive with numbers of a model's first four layers; return these."""
    layers = [layer for layer in onnxinfo.list_layers(model) if layer.default][:4]
    recipe = fakes.schema().recipe | {"model_sha256": onnxinfo.load(model).sha256}
    fakes.make(archive, "first", fakes.schema(layers=layers, recipe=recipe))
    return layers


def shown(browser: Any) -> str:
    return str(browser.find_element("tag name", "body").text)


def test_netron_lists_the_numbers(tmp_path: Path) -> None:
    netron = pytest.importorskip("netron")
    (layer, *_) = analyzed(bundled("digits-cnn.onnx"), tmp_path / "a.h5")
    onnxinfo.annotate(bundled("digits-cnn.onnx"), tmp_path / "a.h5", tmp_path / "out.onnx", metrics="sid")
    (row,) = onnxinfo.query(tmp_path / "a.h5", metrics="sid", layers=layer.name)
    address = netron.start(str(tmp_path / "out.onnx"), browse=False)
    try:
        with chromium() as browser:
            browser.get("http://{}:{}".format(*address))
            for button in browser.find_elements("tag name", "button"):
                if button.text == "Accept":
                    button.click()
            boxes = awaited(lambda: browser.find_elements("css selector", "g.node-item"))
            next(box for box in boxes if box.text.strip() == layer.op).click()
            names = [each.get_attribute("value") for each in browser.find_elements("css selector", "#sidebar input")]
            assert {"onnxinfo.sid", "onnxinfo.sid.stderr", "onnxinfo.sid.samples"} <= {*names}
            assert repr(row["value"]) in browser.find_element("id", "sidebar").text.splitlines()
    finally:
        netron.stop(address)


def test_model_explorer_knows_the_nodes(tmp_path: Path) -> None:
    """Its ONNX adapter gives the nodes the names that the data has, also where the model gives none, or one twice."""
    main = pytest.importorskip("model_explorer_onnx.main", reason="needs model-explorer-onnx")
    proto = onnx.load(bundled("digits-cnn.onnx"))
    for node in proto.graph.node[::2]:
        node.name = ""
    proto.graph.node[-1].name = proto.graph.node[3].name
    onnx.save(proto, tmp_path / "model.onnx")
    for model in bundled("digits-cnn.onnx"), tmp_path / "model.onnx":
        layers = analyzed(model, tmp_path / f"{model.stem}.h5")
        onnxinfo.node_data(model, tmp_path / f"{model.stem}.h5", tmp_path / "sid.json", metric="sid")
        ((graph, data),) = json.loads((tmp_path / "sid.json").read_text()).items()
        found = main.ONNXAdapter().convert(str(model), {})["graphs"][0]
        assert found.id == graph
        tensors = {
            node.id: entry.value
            for node in found.nodes
            for item in node.outputsMetadata
            for entry in item.attrs
            if entry.key == "__tensor_tag"
        }
        assert [tensors[name] for name in data["results"]] == [layer.name for layer in layers]


def test_model_explorer_knows_the_nodes_of_branches(tmp_path: Path) -> None:
    """Also where loading rewrites the graph, and names are repeated or missing, in bodies, too."""
    main = pytest.importorskip("model_explorer_onnx.main", reason="needs model-explorer-onnx")
    proto = rewritten()
    onnx.save(proto, tmp_path / "m.onnx")
    (graph, *_) = main.ONNXAdapter().convert(str(tmp_path / "m.onnx"), {})["graphs"]
    drawn = [node.id for node in graph.nodes if not node.id.startswith("[value]") and node.label not in ADDED]
    assert sorted(drawn) == sorted(explorer_ids(proto.graph))
    tensors = {
        node.id: {entry.value for item in node.outputsMetadata for entry in item.attrs if entry.key == "__tensor_tag"}
        for node in graph.nodes
    }
    for id, node in zip(explorer_ids(proto.graph), own_graph(proto, onnxinfo.load(proto)).nodes(), strict=True):
        # The adapter puts the path of the branch before the name, or an ending after it.
        (tag,) = tensors[id]
        assert tag.rpartition("/")[2].removesuffix("_if_").partition("_")[0] == node.output[0]


def test_model_explorer_shows_the_values(tmp_path: Path) -> None:
    pytest.importorskip("model_explorer_onnx")
    model, data = bundled("digits-cnn.onnx"), tmp_path / "sid.json"
    analyzed(model, tmp_path / "a.h5")
    onnxinfo.node_data(model, tmp_path / "a.h5", data, metric="sid")
    command = [sys.executable, "-u", "-c", SERVER, str(model), str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        assert server.stdout is not None
        try:
            address = next(line.strip() for line in server.stdout if line.startswith("http://"))
            # The graph is drawn by WebGL, here without a graphics card.
            with chromium("--use-angle=swiftshader", "--enable-unsafe-swiftshader") as browser:
                browser.get(address)
                awaited(lambda: "sid, run first" in shown(browser))
                for row in onnxinfo.query(tmp_path / "a.h5", metrics="sid"):
                    assert repr(row["value"]) in shown(browser)
        finally:
            server.kill()
