"""Noise on several inputs at once: the same numbers as for one input that holds them side by side."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from graphs import constant, model, node, value, weight
from onnx import TensorProto, helper
from places import DOCS

import onnxinfo
from onnxinfo.archive.copying import schema_of
from onnxinfo.cli import cli
from onnxinfo.errors import InputError, OnnxinfoError, UsageError
from onnxinfo.views.query import stream

CAP = 0.5 * math.log(2 * math.pi * math.e)
RUNS = itertools.count()


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def analyzed(folder: Path, proto: onnx.ModelProto, inputs: Any, **options: Any) -> onnxinfo.Run:
    """The run of an analysis; its archive stays open."""
    name = f"run {next(RUNS)}"
    result = onnxinfo.analyze(proto, inputs, folder / "a.h5", run=name, threads=1, **options)
    return onnxinfo.open(result.archive)[name]


def linear(first: int = 4, second: int = 3, outputs: int = 6, element: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """y = a A + b B; the second input may have another type."""
    nodes = [
        node("Cast", "b", "bf", to=TensorProto.FLOAT),
        node("MatMul", "a wa", "pa"),
        node("MatMul", "bf wb", "pb"),
        node("Add", "pa pb", "y"),
    ]
    inputs = [value("a", ("N", first)), value("b", ("N", second), element)]
    return model(
        nodes, inputs, [value("y", ("N", outputs))], [weight("wa", first, outputs), weight("wb", second, outputs)]
    )


def table(inputs: int = 7, outputs: int = 6) -> onnx.ModelProto:
    """The same function of one input with all columns."""
    wide = np.concatenate([onnx.numpy_helper.to_array(t) for t in linear().graph.initializer])
    nodes = [node("MatMul", "x w", "y")]
    return model(nodes, [value("x", ("N", inputs))], [value("y", ("N", outputs))], [constant("w", wide, np.float32)])


A, B = 3 * normal(5, 4), normal(5, 3, seed=1)


@pytest.mark.parametrize("element", [TensorProto.FLOAT, TensorProto.DOUBLE])
def test_two_inputs_are_one_input_side_by_side(tmp_path: Path, element: int) -> None:
    expected = analyzed(tmp_path, table(), np.concatenate([A, B], 1), layers=["y"])
    wide = B.astype(np.float64) if element == TensorProto.DOUBLE else B
    found = analyzed(tmp_path, linear(element=element), {"a": A, "b": wide}, layers=["y"])
    assert found.recipe["perturbed"] == ["a", "b"]
    assert found.values("sid")["converged"].all()
    assert found.unit == pytest.approx(expected.unit, rel=1e-6)
    assert found.values("sid")["value"] == pytest.approx(expected.values("sid")["value"], abs=1e-4)
    maps = found.split(found.map("sid", 0, 0))
    assert {name: each.shape for name, each in maps.items()} == {"a": (4,), "b": (3,)}
    assert np.concatenate([*maps.values()]) == pytest.approx(expected.map("sid", 0, 0), abs=1e-3)


def test_the_closed_form_of_a_linear_layer(tmp_path: Path) -> None:
    run = analyzed(tmp_path, linear(), {"a": A, "b": B}, layers=["y"], std=1.0, alpha=1e-4)
    norms = np.square(np.concatenate([onnx.numpy_helper.to_array(t) for t in linear().graph.initializer])).sum(1)
    sigma = np.sqrt(1e-4 * norms.sum() / (7 * norms.astype(float)))
    assert run.map("sid", 0, 2) == pytest.approx(np.log(sigma) + CAP, abs=1e-3)


def mixed(**sizes: int) -> onnx.ModelProto:
    """An image and a row of a table; a third input is multiplied by zero."""
    side = sizes.get("side", 6)
    nodes = [
        node("Conv", "image k", "conv", pads=[1, 1, 1, 1]),
        node("Relu", "conv", "relu"),
        node("ReduceMean", "relu places", "pooled", keepdims=0),
        node("Concat", "pooled row", "both", axis=1),
        node("MatMul", "both w", "h"),
        node("Mul", "idle zero", "nothing"),
        node("Add", "h nothing", "scores"),
    ]
    inputs = [value("image", ("N", 3, side, side)), value("row", ("N", 5)), value("idle", ("N", 4))]
    given = [weight("k", 4, 3, 3, 3), constant("places", [2, 3]), weight("w", 9, 4), constant("zero", 0, np.float32)]
    return model(nodes, inputs, [value("scores", ("N", 4))], given)


MIXED = {"image": normal(4, 3, 6, 6), "row": 5 * normal(4, 5, seed=1), "idle": normal(4, 4, seed=2)}


def test_inputs_of_different_shape_and_one_that_is_ignored(tmp_path: Path) -> None:
    run = analyzed(tmp_path, mixed(), MIXED, layers=["scores"], limit=2)
    assert [(part.name, part.axes, part.shape) for part in run.inputs] == [
        ("image", ("channel", "y", "x"), (3, 6, 6)),
        ("row", ("feature",), (5,)),
        ("idle", ("feature",), (4,)),
    ]
    maps = run.split(run.map("sid", 0, 1))
    assert maps["idle"] == pytest.approx(CAP, abs=1e-3)
    assert max(maps["image"].max(), maps["row"].max()) < CAP - 0.1
    # One unit per channel of the image, one per column of the row.
    units = run.split(run.unit)
    assert [np.unique(units[name]).size for name in ("image", "row")] == [3, 5]
    assert run.thumbnails is not None
    assert run.unit_names is not None
    assert (run.unit_names[107], run.unit_names[108]) == ("image[2,5,5]", "row[0]")
    assert onnxinfo.validate(run.path).violations == ()
    copied = schema_of(run)
    assert (tuple(copied.inputs), copied.unit_names) == (run.inputs, run.stored_unit_names)
    assert run.to_xarray().input.values.tolist() == ["image", "row", "idle"]


def test_the_example_of_the_format_splits_a_map(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    onnxinfo.analyze(mixed(side=3), MIXED | {"image": normal(4, 3, 3, 3)}, "result.h5", run="resnet20", budget=0.1)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "format.md").read_text(), re.DOTALL)
    example = next(block for block in blocks if "input_shape" in block).replace("[3, 2]", "[-1, 2]")
    exec(compile(example, "docs/format.md", "exec"), {})
    with onnxinfo.open("result.h5") as archive:
        maps = archive["resnet20"].split(archive["resnet20"].map("sid", -1, 2))
    shown = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert {name: float(mean) for name, mean in shown.items()} == {
        name: pytest.approx(each.mean(), abs=1e-4) for name, each in maps.items()
    }


def test_named_inputs_alone_are_perturbed(tmp_path: Path) -> None:
    run = analyzed(tmp_path, mixed(), MIXED, layers=["scores"], limit=1, input_tensor=["row", "conv"], std=1.0)
    assert [part.shape for part in run.inputs] == [(5,), (4, 6, 6)]


def test_pixels_share_a_scale_and_columns_do_not(tmp_path: Path) -> None:
    run = analyzed(tmp_path, mixed(), MIXED, layers=["scores"], limit=1, share_sigma="grid:2", std=1.0)
    maps = run.split(run.map("sid", 0, 0))
    assert np.unique(maps["image"]).size == 4
    assert np.unique(maps["row"]).size == 5


def columns(trees: bool, count: int = 4) -> onnx.ModelProto:
    """A model with an input for each column, as scikit-learn's converter writes it."""
    names = [f"c{i}" for i in range(count)]
    ends = [node("MatMul", "x w", "p"), node("Tanh", "p", "y")]
    imports = []
    if trees:
        imports = [helper.make_opsetid("ai.onnx.ml", 3)]
        tree = {
            "treeids": [],
            "nodeids": [],
            "featureids": [],
            "values": [],
            "modes": [],
            "truenodeids": [],
            "falsenodeids": [],
        }  # type: ignore[var-annotated]
        for number, threshold in enumerate((0.3, -0.6)):
            for key, given in zip(
                tree,
                ([number] * 3, [0, 1, 2], [number, 0, 0], [threshold, 0.0, 0.0], ["BRANCH_LEQ", "LEAF", "LEAF"],
                 [1, 0, 0], [2, 0, 0]),
                strict=True,
            ):  # fmt: skip
                tree[key] += given
        ends = [
            helper.make_node(
                "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=2, target_treeids=[0, 1],
                target_nodeids=[2, 2], target_ids=[0, 1], target_weights=[3.0, 1.0],
                **{f"nodes_{key}": given for key, given in tree.items()},
            )
        ]  # fmt: skip
    inputs = [value(name, ("N", 1)) for name in names]
    nodes = [helper.make_node("Concat", names, ["x"], axis=1), *ends]
    return model(
        nodes, inputs, [value("y", ("N", 2))], [weight("w", count, 2)] if not trees else [], imports=imports, opset=17
    )


def whole(proto: onnx.ModelProto, count: int = 4) -> onnx.ModelProto:
    """The same model with one input."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    del changed.graph.node[0], changed.graph.input[:]
    changed.graph.input.append(value("x", ("N", count)))
    return changed


@pytest.mark.parametrize("trees", [False, True])
def test_an_input_for_each_column_is_a_table(tmp_path: Path, trees: bool) -> None:
    rows = normal(2, 4, seed=3)
    rows[:, 3] = 1.5  # a constant column gets the others' unit
    expected = analyzed(tmp_path, whole(columns(trees)), rows, layers=["y"])
    given = {f"c{i}": rows[:, i : i + 1] for i in range(4)}
    run = analyzed(tmp_path, columns(trees), given, layers=["y"])
    assert run.unit_names == ["c0", "c1", "c2", "c3"]
    assert run.unit == pytest.approx(expected.unit)
    assert run.recipe["solver"] == expected.recipe["solver"] == ("forward" if trees else "auto")
    assert np.array_equal(run.values("sid")["value"], expected.values("sid")["value"])
    assert np.array_equal(run.maps("sid", 0), expected.maps("sid", 0))


def test_inputs_that_are_the_same_in_all_samples_are_left_out(tmp_path: Path, caplog: Any) -> None:
    given = MIXED | {"row": np.broadcast_to(MIXED["row"][:1], (4, 5))}
    run = analyzed(tmp_path, mixed(), given, layers=["scores"], limit=1)
    assert run.recipe["perturbed"] == "image"
    assert "no noise is added to 'row': it is constant over the samples" in caplog.text
    with pytest.raises(InputError, match="constant"):
        analyzed(tmp_path, mixed(), given, layers=["scores"], input_tensor=["image", "row"])


def test_gradients_must_come_from_every_input(tmp_path: Path, caplog: Any) -> None:
    """One input moves the layer by steps only: the layer is not solved with the gradient of the other."""
    nodes = [
        node("MatMul", "a wa", "pa"),
        node("Cast", "b", "steps", to=TensorProto.INT64),
        node("Cast", "steps", "bf", to=TensorProto.FLOAT),
        node("MatMul", "bf wb", "pb"),
        node("Add", "pa pb", "y"),
    ]
    inputs = [value("a"), value("b", ("N", 3))]
    proto = model(nodes, inputs, [value("y", ("N", 2))], [weight("wa", 4, 2), weight("wb", 3, 2)])
    run = analyzed(tmp_path, proto, {"a": normal(6, 4), "b": 3 * normal(6, 3)}, layers=["pa", "y"], limit=2)
    assert run.recipe["forward_layers"] == ["y"]
    assert "no gradient reaches layer 'y'" in caplog.text


def recurrent() -> onnx.ModelProto:
    """Two features per step, a mask and an auxiliary row; the state goes through a Transpose to the layer."""
    nodes = [
        node("Transpose", "x", "steps", perm=[1, 0, 2]),
        node("Transpose", "h", "start", perm=[1, 0, 2]),
        helper.make_node("GRU", ["steps", "W", "R", "", "", "start"], ["", "end"], "/gru", hidden_size=3),
        node("Squeeze", "end zero", "final"),
        node("Add", "final extra", "sum"),
        node("ReduceMean", "x_mask last", "share", keepdims=1),
        node("Mul", "sum share", "y"),
    ]
    inputs = [value("x", ("N", 5, 2)), value("h", ("N", 1, 3)), value("extra", ("N", 3)), value("x_mask", ("N", 5))]
    given = [weight("W", 1, 9, 2), weight("R", 1, 9, 3), constant("zero", [0]), constant("last", [-1])]
    return model(nodes, inputs, [value("y", ("N", 3))], given, opset=18)


def test_states_and_masks_are_held_unless_named(tmp_path: Path) -> None:
    assert onnxinfo.perturbed_tensors(recurrent()) == ["x", "extra"]
    assert onnxinfo.perturbed_tensors(recurrent(), ["h"]) == ["h"]
    given = {"x": normal(2, 5, 2), "h": normal(2, 1, 3), "extra": normal(2, 3), "x_mask": np.ones((2, 5), np.float32)}
    run = analyzed(tmp_path, recurrent(), given, layers=["y"], limit=1, std=1.0)
    # The mask excludes steps, hence only units of the sequence.
    assert run.recipe["perturbed"] == ["x", "extra"]


def test_a_mask_excludes_units_of_its_sequence_only(tmp_path: Path) -> None:
    mask = np.ones((2, 5), np.float32)
    mask[0, 3:] = 0
    given = {"x": normal(2, 5, 2), "h": normal(2, 1, 3), "extra": normal(2, 3), "x_mask": mask}
    run = analyzed(tmp_path, recurrent(), given, layers=["y"], std=1.0, unit_mask="x_mask")
    maps = run.split(run.map("sid", 0, 0))
    assert np.isnan(maps["x"][3:]).all()
    assert np.isfinite(maps["x"][:3]).all()
    assert np.isfinite(maps["extra"]).all()


def test_an_input_of_one_number_per_sample(tmp_path: Path) -> None:
    nodes = [node("Unsqueeze", "c one", "column"), node("Concat", "a column", "x", axis=1), node("MatMul", "x w", "y")]
    given = [
        constant("w", onnx.numpy_helper.to_array(table().graph.initializer[0])[:5], np.float32),
        constant("one", [1]),
    ]
    proto = model(nodes, [value("a", ("N", 4)), value("c", ("N",))], [value("y", ("N", 6))], given)
    run = analyzed(tmp_path, proto, {"a": A, "c": B[:, 0]}, layers=["y"])
    assert run.split(run.map("sid", 0, 0))["c"].shape == ()
    assert run.unit_names == ["a[0]", "a[1]", "a[2]", "a[3]", "c"]


def test_operators_of_old_versions_and_bodies_that_read_an_input(tmp_path: Path) -> None:
    """Before opset 13 the sizes of a Split are an attribute; a body of control flow finds the input by its name."""
    branches = {
        key: helper.make_graph(
            [node("MatMul", f"{name} {weights}", f"{name}2")], key, [], [value(f"{name}2", ("N", 6))]
        )
        for key, name, weights in (("then_branch", "a", "wa"), ("else_branch", "b", "wb"))
    }
    nodes = [
        node("ReduceSum", "b", "sum", keepdims=0),
        node("Greater", "sum zero", "positive"),
        helper.make_node("If", ["positive"], ["y"], "/if", **branches),
    ]
    given = [*linear().graph.initializer, constant("zero", -1e9, np.float32)]
    proto = model(nodes, [value("a", ("N", 4)), value("b", ("N", 3))], [value("y", ("N", 6))], given, opset=11)
    run = analyzed(tmp_path, proto, {"a": A, "b": B}, layers=["y"], limit=2)
    maps = run.split(run.map("sid", 0, 0))
    assert maps["a"].max() < 0
    assert maps["b"] == pytest.approx(CAP, abs=1e-3)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_batch_axes_and_workers(tmp_path: Path, workers: int) -> None:
    nodes = [
        node("Transpose", "b", "rows", perm=[1, 0]),
        node("Concat", "a rows", "x", axis=1),
        node("MatMul", "x w", "y"),
    ]
    wide = table().graph.initializer[0]
    proto = model(nodes, [value("a", ("N", 4)), value("b", (3, "N"))], [value("y", ("N", 6))], [wide])
    proto.graph.initializer[0].name = "w"
    expected = analyzed(tmp_path, table(), np.concatenate([A, B], 1), layers=["y"])
    run = analyzed(tmp_path, proto, {"a": A, "b": B}, layers=["y"], batch_axis={"b": 1}, workers=workers)
    assert np.array_equal(run.values("sid")["value"], expected.values("sid")["value"])


def test_complete_feeds_without_a_batch_axis(tmp_path: Path) -> None:
    nodes = [node("MatMul", "graph nodes", "near"), node("Add", "near bias", "sum"), node("Tanh", "sum", "y")]
    proto = model(nodes, [value("graph", (4, 4)), value("nodes", (4, 2)), value("bias", (2,))], [value("y", (4, 2))])
    feeds = [
        {"graph": normal(4, 4, seed=i), "nodes": normal(4, 2, seed=i), "bias": normal(2, seed=i)} for i in range(2)
    ]
    run = analyzed(tmp_path, proto, feeds, layers=["y"])
    assert [part.shape for part in run.inputs] == [(4, 4), (4, 2), (2,)]
    (tmp_path / "feeds").mkdir()
    for name, feed in zip("pq", feeds, strict=True):
        np.savez(tmp_path / "feeds" / f"{name}.npz", **feed)
    files = analyzed(tmp_path, proto, str(tmp_path / "feeds"), layers=["y"])
    assert np.array_equal(files.maps("sid", 0), run.maps("sid", 0))
    assert files.sample_names == ["p.npz", "q.npz"]


def test_the_command_line_takes_several_and_says_which(tmp_path: Path) -> None:
    onnx.save(linear(), tmp_path / "m.onnx")
    np.savez(tmp_path / "f.npz", a=A, b=B)
    spec = f"a={tmp_path}/f.npz:a,b={tmp_path}/f.npz:b"
    line = ["analyze", str(tmp_path / "m.onnx"), "--inputs", spec, "-o", str(tmp_path / "a.h5"), "--layers", "y"]
    found = CliRunner().invoke(cli, line, catch_exceptions=False)
    assert "noise on 2 inputs: 'a', 'b'" in found.output
    named = CliRunner().invoke(cli, [*line, "--input-tensor", "b", "--input-tensor", "a", "--run", "named"])
    assert "noise on 2 inputs: 'b', 'a'" in named.output
    listed = CliRunner().invoke(cli, ["layers", str(tmp_path / "m.onnx")])
    assert "analysis input: 'a'" in listed.output
    assert "analysis input: 'b'" in listed.output
    assert onnxinfo.check_model(linear()).perturbed == "a, b"


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (["a", "c"], "the graph has no tensor 'c' to perturb"),
        (["a", "a"], "each tensor once; 'a' is given twice"),
        (["a", "ids"], "tensor 'ids' cannot be perturbed: it does not hold floats"),
        (["a", "pa"], "tensor 'pa' depends on 'a'"),
        (["pa", "a"], "tensor 'pa' depends on 'a'"),
    ],
)
def test_wrong_names_are_refused_early(tmp_path: Path, named: list[str], expected: str) -> None:
    proto = linear()
    proto.graph.input.append(value("ids", ("N", 3), TensorProto.INT64))
    with pytest.raises(UsageError) as raised:
        onnxinfo.analyze(proto, "missing.npz:a", tmp_path / "a.h5", input_tensor=named)
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)


def test_coherency_is_about_all_inputs(tmp_path: Path) -> None:
    options: dict[str, Any] = {"limit": 1, "std": 1.0}
    given = {"a": A, "b": B}
    nodes = [
        node("Gemm", "a wa", "h"),
        node("Relu", "h", "r"),
        node("MatMul", "r wr", "s"),
        node("MatMul", "b wb", "q"),
    ]
    nodes.append(node("Add", "s q", "y"))
    weights = [weight("wa", 4, 5), weight("wr", 5, 3), weight("wb", 3, 3)]
    proto = model(nodes, [value("a", ("N", 4)), value("b", ("N", 3))], [value("y", ("N", 3))], weights)
    found = onnxinfo.coherency(proto, given, tmp_path / "c.h5", metrics=["sid"], layers=["r", "y"], **options)
    assert [change.rescaled for change in found.changes] == [True, False]
    assert [change.after for change in found.changes] == pytest.approx([c.before for c in found.changes], abs=0.02)
    with onnxinfo.open(tmp_path / "c.h5") as archive:
        assert [part.name for part in archive["rescaled"].inputs] == ["a", "b"]


@pytest.mark.slow
def test_robustness_is_the_distance_over_all_inputs(tmp_path: Path) -> None:
    pytest.importorskip("art")
    options: dict[str, Any] = {"limit": 1, "std": 1.0}
    given = {"a": A, "b": B}
    joint = onnxinfo.robustness(linear(), given, tmp_path / "r.h5", labels=np.arange(5), **options)
    alone = onnxinfo.robustness(table(), np.concatenate([A, B], 1), tmp_path / "s.h5", labels=np.arange(5), **options)
    assert joint.value == pytest.approx(alone.value, rel=0.05)


def classifier(tmp_path: Path, **options: Any) -> onnxinfo.Run:
    return analyzed(tmp_path, mixed(), MIXED, limit=2, input_tensor=["image", "row"], **options)


def test_baselines_explain_every_input(tmp_path: Path) -> None:
    run = classifier(tmp_path, layers=["relu", "scores"], metrics=["gradient", "gradcam"])
    alone = analyzed(
        tmp_path, mixed(), MIXED, limit=2, input_tensor="image", layers=["relu"], metrics=["gradient", "gradcam"]
    )
    for metric in ("gradient", "gradcam"):
        maps = run.split(run.map(metric, 0, 0))
        assert maps["image"] == pytest.approx(alone.map(metric, 0, 0), abs=1e-4)
    # A row has no positions: the mean.
    assert maps["row"] == pytest.approx(np.full(5, maps["image"].mean()), abs=0.1)


def test_concentration_is_that_of_the_image(tmp_path: Path) -> None:
    masks = np.zeros((4, 6, 6), np.uint8)
    masks[:, 1:4, 1:4] = 1
    np.savez(tmp_path / "m.npz", masks=masks)
    run = classifier(
        tmp_path, layers=["scores"], metrics=["sid", "concentration"], foreground=f"{tmp_path}/m.npz:masks"
    )
    image = run.split(run.map("sid", 0, 0))["image"].astype(float)
    inside = np.broadcast_to(masks[0] == 1, image.shape)
    assert run.values("concentration")["value"][0, 0] == pytest.approx(
        image[~inside].mean() - image[inside].mean(), abs=1e-4
    )
    assert run.values("concentration")["foreground"][0, 0] == pytest.approx(0.25)
    assert run.foreground is not None
    assert onnxinfo.validate(run.path).violations == ()
    with pytest.raises(OnnxinfoError, match="of the 2 inputs that noise is added to 0 are images"):
        analyzed(tmp_path, mixed(), MIXED, input_tensor=["row", "idle"], foreground=f"{tmp_path}/m.npz:masks")


def test_decoders_reconstruct_rows_but_no_grid_beside_them(tmp_path: Path) -> None:
    many = {"a": normal(16, 4), "b": normal(16, 3, seed=1)}
    options: dict[str, Any] = {"metrics": ["ru"], "layers": ["y"], "decoder_steps": 5, "decoder_width": 4}
    run = analyzed(tmp_path, linear(), many, **options)
    expected = analyzed(tmp_path, table(), np.concatenate([*many.values()], 1), **options)
    assert run.values("ru")["value"] == pytest.approx(expected.values("ru")["value"], abs=0.1)
    with pytest.raises(UsageError, match=r"among the 2 inputs is 'image' \(channel, y, x\)"):
        classifier(tmp_path, layers=["scores"], metrics=["ru"])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with two runs of an image, a row and an input that is ignored."""
    folder = tmp_path_factory.mktemp("pair")
    other = mixed(side=4)
    other.graph.initializer[2].CopyFrom(weight("w", 9, 4, seed=5))
    given = MIXED | {"image": normal(4, 3, 4, 4)}
    for name, proto in (("one", mixed(side=4)), ("two", other)):
        onnxinfo.analyze(proto, given, folder / "a.h5", run=name, limit=2, threads=1)
    return folder / "a.h5"


def test_tables_have_a_row_for_every_input(pair: Path) -> None:
    rows = onnxinfo.query(pair, run="one", per="input", layers=["scores"])
    assert [row["input"] for row in rows] == ["image", "row", "idle"]
    assert [row["layer"] for row in rows] == ["scores"] * 3
    with onnxinfo.open(pair) as archive:
        maps = archive["one"].split(archive["one"].maps("sid", -1))
        (whole,) = archive["one"].values("sid")["value"][-1:].mean(1)
    assert [row["value"] for row in rows] == pytest.approx([float(each.mean()) for each in maps.values()], abs=1e-4)
    assert np.average([row["value"] for row in rows], weights=[48, 5, 4]) == pytest.approx(whole, abs=1e-3)
    assert {row["n"] for row in rows} == {2}
    chosen = onnxinfo.query(pair, run="one", layers=["scores"], input="row")
    assert chosen[0]["value"] == pytest.approx(rows[1]["value"])
    assert math.isnan(chosen[0]["gap"])  # the bound is about all inputs
    assert [row["value"] for row in stream(pair, run="one", layers=["scores"], input="row")] == [chosen[0]["value"]]
    units = onnxinfo.query(pair, run="one", layers=["scores"], per="unit")
    assert [(row["input"], row["unit_name"]) for row in units[47:49]] == [("image", "image[2,3,3]"), ("row", "row[0]")]
    with pytest.raises(UsageError, match="no input 'rwo' in run 'one'; did you mean 'row'"):
        onnxinfo.query(pair, run="one", input="rwo")


def test_comparisons_of_every_input(pair: Path, tmp_path: Path) -> None:
    rows = {(row["layer"], row["input"]): row["difference"] for row in onnxinfo.compare(pair, input="*")}
    assert len(rows) == 6
    assert rows["relu", "image"] == rows["scores", "idle"] == 0
    assert rows["scores", "row"] != 0
    assert "input" not in onnxinfo.compare(pair)[0]
    given = MIXED | {"image": normal(4, 3, 4, 4)}
    onnxinfo.analyze(mixed(side=4), given, tmp_path / "b.h5", run="row", limit=2, input_tensor="row", threads=1)
    with pytest.raises(UsageError, match="noise was added to image, row, idle in one and to row in the other"):
        onnxinfo.compare([pair, tmp_path / "b.h5"], run=["one", "row"])


def test_gates_judge_every_input(pair: Path) -> None:
    rows = {(row["layer"], row["input"]): row for row in onnxinfo.compare(pair, input="*")}
    verdict = onnxinfo.gate(pair, ["sid>+99"], input="*")
    assert verdict.passed
    found = {(outcome.layer, outcome.input): outcome.difference for outcome in verdict.outcomes}
    assert found == {key: row["difference"] for key, row in rows.items()}
    (whole, one) = (onnxinfo.gate(pair, ["sid:scores>+99"], **chosen).outcomes for chosen in ({}, {"input": "row"}))
    assert [each.input for each in (*whole, *one)] == ["", "row"]
    assert one[0].difference == rows["scores", "row"]["difference"]
    command = ["compare", str(pair), "--input", "*", "--fail-if", "sid>+99"]
    result = CliRunner().invoke(cli, command, obj={})
    assert result.exit_code == 0, result.output
    assert "idle" in result.stdout.rpartition("condition")[2]


def test_conditions_on_metrics_without_values_of_inputs_say_so(tmp_path: Path) -> None:
    given = {name: np.concatenate([each, 2 * each]) for name, each in MIXED.items()}
    for run in ("one", "two"):
        onnxinfo.analyze(mixed(), given, tmp_path / "a.h5", run=run, metrics=["gradient", "cka"], threads=1)
    with pytest.raises(UsageError, match=r"cka has no values of single inputs; leave out input=\.\.\."):
        onnxinfo.gate(tmp_path / "a.h5", "cka<-0.1", input="*")
    with pytest.raises(UsageError, match="no metric 'sid' in run 'one'"):
        onnxinfo.gate(tmp_path / "a.h5", "sid<-0.1", input="*")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("maps", {}),
        ("maps", {"input": "image", "overlay": True}),
        ("columns", {}),
        ("units", {"input": ["row", "idle"]}),
        ("curve", {"input": "row"}),
    ],
)
def test_plots_of_every_input(pair: Path, tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    onnxinfo.plot(pair, kind, tmp_path / "figure.svg", run="one", **options)
    text = (tmp_path / "figure.svg").read_text()
    shown = {"maps": "image", "columns": "row[4]", "units": "idle[3]"}.get(kind, "scores")
    assert shown in text or options.get("overlay")


def test_plots_of_one_input_ask_which(pair: Path, tmp_path: Path) -> None:
    for kind, run in (("units", ["one"]), ("difference", [])):
        with pytest.raises(UsageError, match="noise was added to image, row, idle; name one with input="):
            onnxinfo.plot(pair, kind, tmp_path / "figure.svg", run=run)


def test_reports_have_maps_and_bars_of_every_input(pair: Path, tmp_path: Path) -> None:
    page = onnxinfo.report(pair, tmp_path / "r.html", run="one").read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    (run,) = json.loads(found[1])["runs"]
    assert list(run["gallery"]["maps"]) == ["sid of image", "sid of row and 1 more"]
    assert run["gallery"]["maps"]["sid of image"]["shape"] == [4, 4]
    assert run["units"]["names"][:6] == ["row[0]", "row[1]", "row[2]", "row[3]", "row[4]", "idle[0]"]
    assert {row["input"] for row in run["inputs"]} == {"image", "row", "idle"}
