"""Loading and saving: every source, and every way in which it can be invalid."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import graphs
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxinfo
import onnxinfo.graph.model
from onnxinfo import Model, ModelError, UsageError, load, save
from onnxinfo.metrics.input_provider import graph_inputs
from onnxinfo.torch_graph.runtime import Session


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(graphs.residual_net().SerializeToString())
    return path


def shape_of(model, name):
    infos = (*model.proto.graph.value_info, *model.proto.graph.output)
    type = next(v.type.tensor_type for v in infos if v.name == name)
    return [d.dim_value if d.HasField("dim_value") else d.dim_param for d in type.shape.dim]


def refused(source) -> str:
    with pytest.raises(ModelError) as caught:
        load(source)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


def test_from_a_path(file):
    model = load(file)
    assert model == load(str(file)) != load(model.proto)
    assert (model.name, model.path) == ("net", file)
    assert model.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_from_bytes(file):
    model = load(file.read_bytes())
    assert (model.name, model.path, model.sha256) == ("graph", None, load(file).sha256)


def test_from_a_proto_which_stays_as_it_is():
    proto = graphs.residual_net()
    before = proto.SerializeToString()
    model = load(proto)
    assert proto.SerializeToString() == before
    assert model.sha256 == hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()
    assert list(model.proto.graph.initializer) == list(proto.graph.initializer)


def test_a_loaded_model_passes_through(file):
    model = load(file)
    assert load(model) is model
    assert isinstance(model, Model)


def test_something_else():
    with pytest.raises(UsageError, match="not int"):
        load(3)


def test_shapes_are_inferred_also_through_shape_arithmetic():
    model = load(graphs.residual_net())
    assert shape_of(model, "block") == ["N", 8, 6, 6]
    assert shape_of(model, "flat") == ["N", 8]
    onnx.checker.check_model(model.proto, full_check=True)


def test_types_of_foreign_operators_come_from_onnx_runtime():
    nodes = [
        graphs.node("FusedMatMul", "x w", "h", domain="com.microsoft", alpha=0.5),
        graphs.node("Relu", "h", "y"),
    ]
    weights = [graphs.weight("w", 4, 2000)]
    model = load(
        graphs.model(nodes, [graphs.value("x")], [graphs.value("y", None)], weights, imports=[graphs.MICROSOFT])
    )
    assert shape_of(model, "h") == ["N", 2000]
    assert shape_of(model, "y") == ["N", 2000]


def test_shape_of_a_scaler():
    nodes = [graphs.node("Scaler", "x", "h", domain="ai.onnx.ml", offset=[0.0] * 4, scale=[1.0] * 4)]
    model = load(
        graphs.model(
            [*nodes, graphs.node("Relu", "h", "y")],
            [graphs.value("x")],
            [graphs.value("y")],
            imports=[helper.make_opsetid("ai.onnx.ml", 3)],
        )
    )
    assert shape_of(model, "h") == ["N", 4]


def test_unknown_sizes_have_no_invented_names():
    nodes = [graphs.node("NonZero", "x", "y")]
    model = load(graphs.model(nodes, [graphs.value("x")], [graphs.value("y", None, TensorProto.INT64)]))
    assert shape_of(model, "y") == [2, ""]


def test_outputs_without_a_shape():
    model = load(graphs.model([graphs.node("Relu", "x", "y")], [graphs.value("x")], [graphs.value("y", None)]))
    assert shape_of(model, "y") == ["N", 4]


def test_the_default_domain_has_one_name():
    proto = graphs.branch_model()
    proto.opset_import[0].domain = "ai.onnx"
    proto.opset_import.append(helper.make_opsetid("", 20))
    for node in proto.graph.node:
        node.domain = "ai.onnx"
    model = load(proto).proto
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
    assert {node.domain for node in model.graph.node} == {""}


def test_training_information_is_left_out():
    proto = graphs.relu_model()
    proto.training_info.add()
    assert not load(proto).proto.training_info


def test_textual_syntax(tmp_path):
    path = tmp_path / "net.onnxtxt"
    path.write_text('<ir_version: 8, opset_import: ["" : 18]> g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }')
    assert [node.op_type for node in load(path).proto.graph.node] == ["Relu"]
    path.write_text("nonsense " * 1000)
    assert "textual syntax" in refused(path)
    path.write_text("(" * 100_000)
    assert "levels deep" in refused(path)
    path.write_bytes(b"\xff\xfe")
    assert "textual syntax" in refused(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello, this is no model\n" * 3, "not an ONNX file"),
        (b"<!doctype html><html>", "not an ONNX file"),
        (b"\n" * 5000, "not an ONNX file"),
        (b"\0" * 5000, "not an ONNX file"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\x20\0\0\0ORTM", "ONNX Runtime's own format"),
        (b"\x08\x07\x3a\x7f", "truncated"),
    ],
)
def test_files_that_are_no_models(tmp_path, content, message):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    assert message in refused(path)


@pytest.mark.parametrize("kept", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_truncated(file, kept):
    data = file.read_bytes()
    file.write_bytes(data[: max(1, int(len(data) * kept))])
    message = refused(file)
    assert "truncated" in message or "not an ONNX file" in message
    assert kept < 0.1 or "truncated" in message


def test_paths_that_are_no_files(tmp_path):
    assert "is a folder" in refused(tmp_path)
    assert "does not exist" in refused(tmp_path / "none.onnx")
    assert "is a folder" in refused("")
    assert "cannot be read" in refused("a\0b")
    os.mkfifo(tmp_path / "pipe.onnx")
    assert "not a regular file" in refused(tmp_path / "pipe.onnx")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_unreadable(file):
    file.chmod(0)
    assert "cannot be read" in refused(file)


def test_control_characters_in_a_path_do_not_reach_the_terminal(tmp_path):
    assert "\x1b" not in refused(tmp_path / "\x1b[31mred.onnx")


def test_versions():
    assert "IR version 99" in refused(with_(graphs.relu_model(), "ir_version", 99))
    assert "IR version 0" in refused(with_(graphs.relu_model(), "ir_version", 0))
    assert "opset 999" in refused(graphs.relu_model(opset=999))
    assert "opset 0" in refused(graphs.relu_model(opset=0))
    twice = graphs.relu_model(imports=[helper.make_opsetid("ai.onnx", 7)])
    assert "versions 20 and 7" in refused(twice)


def with_(proto, field, value):
    setattr(proto, field, value)
    return proto


def test_what_the_checker_refuses():
    x, y = graphs.value("x"), graphs.value("y")
    cycle = [graphs.node("Add", "x z", "y"), graphs.node("Relu", "y", "z")]
    assert "topologically sorted" in refused(graphs.model(cycle, [x], [y]))
    twice = [graphs.node("Relu", "x", "y"), graphs.node("Abs", "x", "y")]
    assert "single static assignment" in refused(graphs.model(twice, [x], [y]))
    assert "not output of any" in refused(graphs.model([graphs.node("Relu", "none", "y")], [x], [y]))
    assert "No Op registered for Foo" in refused(graphs.model([graphs.node("Foo", "x", "y")], [x], [y]))
    bad = refused(graphs.model([graphs.node("Relu", "x", "y", name="a\nb\x1b[31m", foo=3)], [x], [y]))
    assert "\x1b" not in bad


def test_text_that_is_not_utf8():
    data = graphs.relu_model().SerializeToString().replace(b"Relu", b"Re\xffu")
    assert "not UTF-8" in refused(data)


@pytest.mark.parametrize(
    ("dims", "size", "message"),
    [
        ([4, 4], 3, "3 bytes"),
        ([40, 400], 100, "100 bytes"),
        ([2**62, 4], 64, "64 bytes"),
        ([-4], 64, "shape"),
        ([2**62] * 30, 64, "64 bytes"),
    ],
)
def test_data_that_is_not_of_the_declared_size(dims, size, message):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(size))
    proto = graphs.model([graphs.node("Add", "x w", "y")], [graphs.value("x")], [graphs.value("y")], [tensor])
    assert message in refused(proto)


@pytest.mark.parametrize("element", [TensorProto.FLOAT, TensorProto.INT8, TensorProto.INT4, TensorProto.COMPLEX64])
def test_typed_data_fields(element):
    dtype = helper.tensor_dtype_to_np_dtype(element)
    tensor = helper.make_tensor("w", element, [3], np.ones(3).astype(dtype))
    proto = graphs.model([graphs.node("Identity", "w", "y")], [], [graphs.value("y", [3], element)], [tensor], opset=21)
    loaded = load(proto).proto.graph.initializer[0]
    assert loaded == tensor
    proto.graph.initializer[0].dims[0] = 7
    assert "values of data" in refused(proto) or "bytes of data" in refused(proto)


def test_functions_that_call_themselves():
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    function = helper.make_function("local", "F", ["a"], ["b"], [graphs.node("F", "a", "b", domain="local")], opsets)
    nodes = [graphs.node("F", "x", "y", domain="local")]
    proto = graphs.model(nodes, [graphs.value("x")], [graphs.value("y")], imports=opsets[1:], functions=[function])
    assert "calls itself" in refused(proto)


@pytest.mark.timeout(20)
def test_functions_that_grow_exponentially():
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    functions = [helper.make_function("local", "F0", ["a"], ["b"], [graphs.node("Relu", "a", "b")], opsets)]
    for i in range(1, 60):
        body = [graphs.node(f"F{i - 1}", "a", "c", domain="local"), graphs.node(f"F{i - 1}", "c", "b", domain="local")]
        functions.append(helper.make_function("local", f"F{i}", ["a"], ["b"], body, opsets))
    nodes = [graphs.node("F59", "x", "y", domain="local")]
    proto = graphs.model(nodes, [graphs.value("x")], [graphs.value("y")], imports=opsets[1:], functions=functions)
    assert "functions inlined" in refused(proto)


@pytest.mark.timeout(20)
def test_deeply_nested():
    proto = graphs.relu_model()
    graph = proto.graph
    for _ in range(2000):
        inner = graph.node.add(op_type="If", input=["x"], output=["z"])
        graph = inner.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g
    assert "nested too deeply" in refused(proto)
    assert "nested too deeply" in refused(proto.SerializeToString())


def test_endless_names_are_cut():
    nodes = [graphs.node("Relu", "x" * 100_000, "y")]
    refused(graphs.model(nodes, [graphs.value("x")], [graphs.value("y")]))


class TestExternalData:
    @pytest.fixture
    def external(self, tmp_path):
        """Write the residual net with its weights in a file beside it, and change their location."""

        def write(**changes):
            proto = graphs.residual_net()
            path = tmp_path / "net.onnx"
            onnx.save(proto, path, save_as_external_data=True, location="net.data", size_threshold=0)
            stored = onnx.load(path, load_external_data=False)
            for tensor in stored.graph.initializer:
                for entry in tensor.external_data:
                    entry.value = str(changes.get(entry.key, entry.value))
            path.write_bytes(stored.SerializeToString())
            return path

        return write

    def test_is_loaded(self, external):
        path = external()
        model, whole = load(path), load(graphs.residual_net())
        assert list(model.proto.graph.initializer) == list(whole.proto.graph.initializer)
        assert shape_of(model, "flat") == ["N", 8]

    def test_is_part_of_the_digest(self, external):
        path = external()
        before = load(path).sha256
        data = bytearray(path.with_name("net.data").read_bytes())
        data[0] ^= 1
        path.with_name("net.data").write_bytes(data)
        assert load(path).sha256 != before

    def test_missing(self, external):
        path = external()
        path.with_name("net.data").unlink()
        assert "net.data is missing" in refused(path)

    def test_truncated(self, external):
        path = external()
        os.truncate(path.with_name("net.data"), 100)
        assert "truncated" in refused(path)

    @pytest.mark.parametrize(
        "location", ["../net.data", "/etc/passwd", "a/../../net.data", "..\\net.data", "C:\\net.data", "", "a\0b"]
    )
    def test_outside_the_folder(self, external, location):
        assert "not inside the model's folder" in refused(external(location=location))

    def test_link_that_leads_outside(self, external, tmp_path):
        outside = tmp_path.parent / "secret.data"
        outside.write_bytes(bytes(100_000))
        (tmp_path / "link.data").symlink_to(outside)
        assert "not inside the model's folder" in refused(external(location="link.data"))

    def test_link_within_the_folder(self, external, tmp_path):
        (tmp_path / "link.data").symlink_to("net.data")
        load(external(location="link.data"))

    def test_link_to_itself(self, external, tmp_path):
        (tmp_path / "link.data").symlink_to("link.data")
        refused(external(location="link.data"))

    def test_no_regular_file(self, external, tmp_path):
        os.mkfifo(tmp_path / "pipe.data")
        assert "not a regular file" in refused(external(location="pipe.data"))
        assert "external data" in refused(external(location="."))

    @pytest.mark.parametrize("changes", [{"offset": -4}, {"length": 3}, {"offset": "x"}, {"length": 10**15}])
    def test_nonsense(self, external, changes):
        assert "external data" in refused(external(**changes))

    def test_more_than_the_memory(self, external, monkeypatch):
        monkeypatch.setattr("onnxinfo.graph.external_data.MEMORY", 1000)
        assert "memory" in refused(external())

    def test_without_a_folder(self, external):
        assert "give its path" in refused(external().read_bytes())


def test_save_and_load(tmp_path):
    save(graphs.residual_net(), tmp_path / "net.onnx")
    assert load(tmp_path / "net.onnx").proto == load(graphs.residual_net()).proto
    assert os.listdir(tmp_path) == ["net.onnx"]


def test_save_beyond_the_size_of_a_message(tmp_path, monkeypatch):
    monkeypatch.setattr(onnxinfo.graph.model, "MAX_PROTO_BYTES", 1000)
    monkeypatch.setattr(onnxinfo.graph.model, "_MARGIN", 0)
    save(graphs.residual_net(), tmp_path / "net.onnx")
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == ["net.onnx", "net.onnx.data"]
    feeds = graphs.feeds(graphs.residual_net())
    again, before = Session(tmp_path / "net.onnx").run(feeds), Session(graphs.residual_net()).run(feeds)
    np.testing.assert_array_equal(again["logits"], before["logits"])


def test_saving_fails_without_a_trace(tmp_path, monkeypatch):
    target = tmp_path / "net.onnx"
    target.write_bytes(b"before")
    with pytest.raises(UsageError, match="does not exist"):
        save(graphs.relu_model(), tmp_path / "none" / "net.onnx")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ModelError, match="No space left"):
        save(graphs.relu_model(), target, force=True)
    assert os.listdir(tmp_path) == ["net.onnx"]
    assert target.read_bytes() == b"before"


def test_loading_writes_nothing_to_the_terminal(file):
    script = f"import onnxinfo; onnxinfo.load({str(file)!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


@pytest.mark.slow
def test_larger_than_a_message(tmp_path):
    """Weights of 2.2 GB (a sparse file) as external data, and back."""
    count = 550_000_000
    stored = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[count // 4, 4])
    stored.data_location = TensorProto.EXTERNAL
    stored.external_data.add(key="location", value="net.data")
    proto = graphs.model(
        [graphs.node("Gather", "w i", "h", axis=0), graphs.node("Relu", "h", "y")],
        [graphs.value("i", ("N",), TensorProto.INT64)],
        [graphs.value("y")],
        [stored],
    )
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    with open(tmp_path / "net.data", "wb") as file:
        file.truncate(count * 4)
    model = load(tmp_path / "net.onnx")
    assert shape_of(model, "h") == ["N", 4]
    assert Session(model).run({"i": np.array([count // 4 - 1])})["y"].shape == (1, 4)
    save(model, tmp_path / "copy.onnx")
    assert (tmp_path / "copy.onnx.data").stat().st_size == count * 4


# Sizes that exporters write for "any".


def any_size_net(free: int) -> onnx.ModelProto:
    """A convolution and a branch, with every dynamic size written as a number below 1."""
    then = helper.make_graph([graphs.node("Relu", "h", "a")], "then", [], [graphs.value("a", (free, 2, free, free))])
    other = helper.make_graph([graphs.node("Neg", "h", "b")], "else", [], [graphs.value("b", (free, 2, free, free))])
    nodes = [
        graphs.node("Conv", "x k", "h", pads=[1, 1, 1, 1]),
        graphs.node("ReduceSum", "h", "total", keepdims=0),
        graphs.node("Greater", "total zero", "positive"),
        graphs.node("If", "positive", "y", then_branch=then, else_branch=other),
    ]
    proto = graphs.model(
        nodes,
        [graphs.value("x", (free, 3, free, 8))],
        [graphs.value("y", (free, 2, free, free))],
        [graphs.weight("k", 2, 3, 3, 3), graphs.constant("zero", 0, np.float32)],
    )
    proto.graph.value_info.append(graphs.value("h", (free, 2, free, 8)))
    return proto


@pytest.mark.parametrize("free", [-1, 0])
def test_a_size_below_one_is_open(free):
    loaded = load(any_size_net(free))
    assert [shape_of(loaded, name) for name in ("h", "y")] == [["", 2, "", 8]] * 2
    (declared,) = graph_inputs(loaded)
    assert (declared.batch, declared.shape) == (None, (3, None, 8))
    assert onnxinfo.list_layers(loaded)[0].shape == (None, 2, None, 8)
    found = onnxinfo.check_model(loaded)
    assert (found.error, found.inputs) == (None, {"x": (2, 3, 64, 8)})


def test_open_sizes_of_any_kind_are_analyzed(tmp_path):
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    result = onnxinfo.analyze(any_size_net(-1), x, tmp_path / "run.h5", layers=["h"])
    with onnxinfo.open(result.archive) as archive:
        assert np.isfinite(archive[result.run].table("sample")["value"]).all()


def test_a_tensor_that_is_empty_stays_so():
    proto = graphs.model(
        [graphs.node("Concat", "x none", "y", axis=1)],
        [graphs.value("x", ("N", 4))],
        [graphs.value("y", ("N", 4))],
        [graphs.weight("none", 1, 0)],
    )
    proto.graph.node.insert(0, graphs.node("Identity", "none", "kept"))
    proto.graph.value_info.append(graphs.value("kept", (1, 0)))
    assert shape_of(load(proto), "kept") == [1, 0]


@pytest.mark.parametrize("kernel", [300, 400, 16_000])
def test_windows_longer_than_the_trials_do_not_fix_the_number_of_windows(kernel):
    """Of 256 and 320 samples alike, a convolution with long windows leaves the same."""
    weights = numpy_helper.from_array(np.zeros((4, 1, kernel), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], strides=[kernel // 2]),
        helper.make_node("Flatten", ["c"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info("x", 1, ["N", 1, "T"]), helper.make_tensor_value_info("y", 1, None)]
    graph = helper.make_graph(nodes, "windows", ends[:1], ends[1:], [weights])
    found = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    sizes = {value.name: value.type.tensor_type.shape.dim for value in found.proto.graph.value_info}
    assert not sizes["c"][2].HasField("dim_value")


def test_numbers_of_elements_beyond_64_bits_are_left_open():
    """As of five free axes, where a cut to 128 entries makes the largest trial sizes necessary."""
    nodes = [
        helper.make_node("Size", ["x"], ["count"]),
        helper.make_node("Slice", ["x", "first", "last", "axis"], ["part"]),
        helper.make_node("Relu", ["part"], ["y"]),
    ]
    given = {"first": [0], "last": [128], "axis": [4]}
    ends = [helper.make_tensor_value_info("x", 1, list("NABCD")), helper.make_tensor_value_info("y", 1, None)]
    ends.append(helper.make_tensor_value_info("count", TensorProto.INT64, []))
    constants = [numpy_helper.from_array(np.array(array), name) for name, array in given.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    found = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert onnxinfo.list_layers(found)[-1].name == "y"
