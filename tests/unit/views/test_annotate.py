"""Annotated copies differ from the model's file in metadata alone, and stay the same model for its runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import archive_fakes as fakes
import numpy as np
import onnx
import pytest
from graphs import constant, model, node, rewritten, value, weight

import onnxinfo
from onnxinfo.models import path


def archive_of(source: Any, folder: Path, names: list[str], run: str = "first", *, name: str = "a.h5") -> Path:
    """Write an archive with numbers of layers of a model."""
    loaded = onnxinfo.load(source)
    like = onnxinfo.list_layers(path("digits-cnn.onnx"))[0]
    recipe = fakes.schema().recipe | {"model_sha256": loaded.sha256}
    layers = [dataclasses.replace(like, name=each, depth=i) for i, each in enumerate(names)]
    return Path(fakes.make(folder / name, run, fakes.schema(layers=layers, recipe=recipe)))


def without_annotations(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Remove what an annotated copy has more than the model, and nothing else."""
    plain = onnx.ModelProto()
    plain.CopyFrom(proto)
    for message in (plain, *every_node(plain.graph)):
        kept = [entry for entry in message.metadata_props if not entry.key.startswith("onnxinfo.")]
        del message.metadata_props[:]
        message.metadata_props.extend(kept)
    return plain


def every_node(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    found = []
    for each in graph.node:
        found += [each, *(inner for attribute in each.attribute for inner in every_node(attribute.g))]
    return found


def annotated(proto: onnx.ModelProto) -> dict[str, dict[str, str]]:
    """Annotations by the first output of the node."""
    found = {
        each.output[0]: {entry.key: entry.value for entry in each.metadata_props} for each in every_node(proto.graph)
    }
    return {name: props for name, props in found.items() if "onnxinfo.run" in props}


#: Layers of the analyzed graph of :func:`rewritten`; the last two are not in the file, or not only once.
LAYERS = ["a", "deep", "in", "y", "l", "f", "z", "out", "end", "added"]


@pytest.mark.parametrize("form", ["file", "text", "bytes", "proto", "loaded"])
def test_all_but_metadata_is_the_users_own(form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    proto = rewritten()
    onnx.save(proto, tmp_path / "m.onnx")
    source: Any = tmp_path / "m.onnx"
    if form == "text":
        source, proto = tmp_path / "m.onnxtxt", without_training(proto)
        source.write_text(onnx.printer.to_text(proto))
        proto = onnx.parser.parse_model(source.read_text())
    source = {"bytes": proto.SerializeToString(), "proto": proto, "loaded": onnxinfo.load(source)}.get(form, source)
    archive = archive_of(source, tmp_path, LAYERS)
    assert onnxinfo.annotate(source, archive, tmp_path / "out.onnx", metrics="sid") == 8
    written = onnx.load(tmp_path / "out.onnx")
    assert without_annotations(written).SerializeToString() == proto.SerializeToString()
    assert [*annotated(written)] == ["y", "a", "in", "deep", "l", "f", "z", "out"]
    (warning,) = caplog.messages
    assert "no node of the model computes 'end', 'added'; layers left out: 2 of 10" in warning
    values = {row["layer"]: repr(row["value"]) for row in onnxinfo.query(archive, metrics="sid")}
    assert {name: props["onnxinfo.sid"] for name, props in annotated(written).items()} == {
        name: values[name] for name in LAYERS[:8]
    }


def without_training(proto: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX's text has no training information, and no metadata of nodes."""
    del proto.training_info[:]
    return proto


def test_layers_of_decided_branches_are_where_the_analysis_found_them(tmp_path: Path) -> None:
    """The numbers of an analysis, not made up ones."""
    proto = rewritten()
    for i, each in enumerate(every_node(proto.graph)):
        each.name = f"{i}"  # ONNX Runtime refuses names that are repeated
    onnx.save(proto, tmp_path / "m.onnx")
    x = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    found = onnxinfo.analyze(tmp_path / "m.onnx", x, tmp_path / "a.h5", layers=["a", "deep", "y", "out"], limit=2)
    assert onnxinfo.annotate(tmp_path / "m.onnx", found, tmp_path / "out.onnx") == 4
    values = {row["layer"]: row["value"] for row in onnxinfo.query(found)}
    written = annotated(onnx.load(tmp_path / "out.onnx"))
    assert {name: float(props["onnxinfo.sid"]) for name, props in written.items()} == values


def test_an_annotated_copy_is_still_the_model(tmp_path: Path) -> None:
    """Its annotations are replaced, in both formats, by other runs of the model and by runs of the copy."""
    onnx.save(rewritten(), tmp_path / "m.onnx")
    first = archive_of(tmp_path / "m.onnx", tmp_path, ["a", "z"])
    other = archive_of(tmp_path / "m.onnx", tmp_path, ["y"], "second", name="b.h5")
    onnxinfo.annotate(tmp_path / "m.onnx", first, tmp_path / "1.onnx")
    onnxinfo.annotate(tmp_path / "1.onnx", other, tmp_path / "2.onnx", metrics="sid")
    onnxinfo.annotate(tmp_path / "m.onnx", other, tmp_path / "direct.onnx", metrics="sid")
    assert (tmp_path / "2.onnx").read_bytes() == (tmp_path / "direct.onnx").read_bytes()
    for copy in ("1.onnx", "2.onnx"):
        assert onnxinfo.node_data(tmp_path / copy, first, tmp_path / "sid.json", metric="sid") == 2
        assert onnxinfo.node_data(onnxinfo.load(tmp_path / copy), first, tmp_path / "sid.json", metric="sid") == 2
    of_copy = archive_of(tmp_path / "2.onnx", tmp_path, ["f"], name="c.h5")
    onnxinfo.annotate(tmp_path / "2.onnx", of_copy, tmp_path / "3.onnx")
    for archive in (first, of_copy):
        onnxinfo.annotate(tmp_path / "3.onnx", archive, tmp_path / "4.onnx")
    assert [*annotated(onnx.load(tmp_path / "4.onnx"))] == ["f"]
    assert without_annotations(onnx.load(tmp_path / "4.onnx")) == rewritten()


@pytest.mark.parametrize("what", ["weight", "node", "name"])
def test_a_copy_that_was_changed_is_another_model(what: str, tmp_path: Path) -> None:
    onnx.save(rewritten(), tmp_path / "m.onnx")
    archive = archive_of(tmp_path / "m.onnx", tmp_path, ["a", "z"])
    onnxinfo.annotate(tmp_path / "m.onnx", archive, tmp_path / "1.onnx")
    copy = onnx.load(tmp_path / "1.onnx")
    if what == "weight":
        copy.graph.initializer[0].CopyFrom(constant("two", 3, np.float32))
    elif what == "node":
        copy.graph.node[-2].op_type = "Abs"
    else:
        copy.graph.node[-2].name = "renamed"
    onnx.save(copy, tmp_path / "1.onnx")
    for write, output in ((onnxinfo.annotate, "2.onnx"), (onnxinfo.node_data, "2.json")):
        with pytest.raises(
            onnxinfo.UsageError, match=r"an annotated copy that was changed since\); the archive has 'first'"
        ):
            write(tmp_path / "1.onnx", archive, tmp_path / output)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A model whose weights, also one of a node, are in a folder beside it."""
    constants = [weight(name, 64, 64) for name in ("w", "v")]
    held = node("Constant", "", "c", value=weight("held", 64))
    proto = model(
        [held, node("MatMul", "x w", "h"), node("Add", "h c", "g"), node("MatMul", "g v", "y")],
        [value("x", ("N", 64))],
        [value("y", None)],
        constants,
    )
    (tmp_path / "in" / "data").mkdir(parents=True)
    onnx.save(
        proto, tmp_path / "in" / "m.onnx", save_as_external_data=True, location="data/w.bin", size_threshold=0,
        convert_attribute=True,
    )  # fmt: skip
    assert not onnx.load(tmp_path / "in" / "m.onnx", load_external_data=False).graph.initializer[0].raw_data
    return tmp_path / "in" / "m.onnx"


def test_external_data_stay_outside(outside: Path, tmp_path: Path) -> None:
    archive = archive_of(outside, tmp_path, ["h", "y"])
    (tmp_path / "elsewhere").mkdir()
    for folder in (outside.parent, tmp_path / "elsewhere"):
        for _ in range(2):
            assert onnxinfo.annotate(outside, archive, folder / "out.onnx") == 2
        written = onnx.load(folder / "out.onnx", load_external_data=False)
        assert without_annotations(written) == onnx.load(outside, load_external_data=False)
        assert (folder / "data" / "w.bin").read_bytes() == (outside.parent / "data" / "w.bin").read_bytes()
        assert not [each for each in folder.rglob("*") if each.suffix not in (".onnx", ".bin", "")]
        onnxinfo.annotate(folder / "out.onnx", archive, tmp_path / "elsewhere" / "again.onnx")
    with pytest.raises(onnxinfo.ModelError, match="weights are in files beside the model"):
        onnxinfo.annotate(outside, archive, "/dev/null")


def test_external_data_replace_nothing(outside: Path, tmp_path: Path) -> None:
    archive = archive_of(outside, tmp_path, ["h", "y"])
    (tmp_path / "b" / "data").mkdir(parents=True)
    (tmp_path / "b" / "data" / "w.bin").write_bytes(b"others")
    with pytest.raises(onnxinfo.UsageError, match=r"w\.bin' is not the model's external data"):
        onnxinfo.annotate(outside, archive, tmp_path / "b" / "out.onnx", force=True)
    assert (tmp_path / "b" / "data" / "w.bin").read_bytes() == b"others"
    assert [*(tmp_path / "b").iterdir()] == [tmp_path / "b" / "data"]


def test_weights_that_were_changed_outside_make_another_model(outside: Path, tmp_path: Path) -> None:
    archive = archive_of(outside, tmp_path, ["h", "y"])
    onnxinfo.annotate(outside, archive, outside.parent / "1.onnx")
    data = outside.parent / "data" / "w.bin"
    data.write_bytes(data.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(onnxinfo.UsageError, match="changed since"):
        onnxinfo.annotate(outside.parent / "1.onnx", archive, outside.parent / "2.onnx")


def test_model_explorer_gets_the_ids_of_the_files_nodes(tmp_path: Path) -> None:
    """As its adapter for ONNX makes them; ``tests/integration/test_viewers.py`` asks it."""
    onnx.save(rewritten(), tmp_path / "m.onnx")
    archive = archive_of(tmp_path / "m.onnx", tmp_path, LAYERS)
    assert onnxinfo.node_data(tmp_path / "m.onnx", archive, tmp_path / "sid.json", metric="sid") == 8
    (data,) = json.loads((tmp_path / "sid.json").read_text()).values()
    values = {row["layer"]: row["value"] for row in onnxinfo.query(archive, metrics="sid")}
    ids = {
        "y": "if", "a": "if/then_branch/node", "in": "if/then_branch/n", "deep": "if/then_branch/n/then_branch//deep",
        "l": "/l", "f": "/f", "z": "n", "out": "n_1",
    }  # fmt: skip
    assert {name: each["value"] for name, each in data["results"].items()} == {
        ids[layer]: values[layer] for layer in ids
    }


def test_the_message_about_lost_layers_is_short(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    onnx.save(rewritten(), tmp_path / "m.onnx")
    archive = archive_of(tmp_path / "m.onnx", tmp_path, ["z", *(f"added{i}" for i in range(40))])
    onnxinfo.annotate(tmp_path / "m.onnx", archive, tmp_path / "out.onnx", metrics="sid")
    (warning,) = caplog.messages
    assert warning.endswith("computes 'added0', 'added1', 'added2' and 37 more; layers left out: 40 of 41")


@pytest.mark.parametrize("suffix", [".onnxtxt", ".onnxText"])
def test_no_model_is_written_where_text_is_expected(suffix: str, tmp_path: Path) -> None:
    onnx.save(rewritten(), tmp_path / "m.onnx")
    archive = archive_of(tmp_path / "m.onnx", tmp_path, ["z"])
    for write in (
        lambda output: onnxinfo.annotate(tmp_path / "m.onnx", archive, output),
        lambda output: onnxinfo.save(tmp_path / "m.onnx", output),
    ):
        with pytest.raises(onnxinfo.UsageError, match="would be read as text"):
            write(tmp_path / f"out{suffix}")
        assert not (tmp_path / f"out{suffix}").exists()
