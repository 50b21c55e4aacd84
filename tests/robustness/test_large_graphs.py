"""Large graphs are listed in linear time; with sets copied or subtracted for each node, that took minutes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner
from fuzzing import Watch
from graphs import model, node, value, weight
from onnx import TensorProto, helper

from onnxinfo import ModelError, list_layers
from onnxinfo.cli import cli
from onnxinfo.graph.influence import Influence

# About twice what is needed on a busy machine. The first three took more than 190, 24 and 16 seconds, the others up to
# 110 and 18 GB of memory. 8,000 loops took 12 seconds, 16,000 took 60.
CPU_SECONDS = {"chain": 10, "loops": 16}
OTHERS = 4


def chain(length: int = 100_000) -> onnx.ModelProto:
    names = ["x", *(f"v{i}" for i in range(1, length)), "y"]
    nodes = [node("Relu", a, b) for a, b in itertools.pairwise(names)]
    return model(nodes, [value("x")], [value("y")])


def wide(width: int = 20_000) -> onnx.ModelProto:
    names = [f"v{i}" for i in range(width)]
    return model(
        [*(node("Relu", "x", name) for name in names), helper.make_node("Sum", names, ["y"])],
        [value("x")],
        [value("y")],
    )


def tree(depth: int = 12) -> onnx.ModelProto:
    """If nodes within If nodes."""

    def grow(depth: int, tag: str) -> onnx.NodeProto:
        if not depth:
            return node("Relu", "x", f"y{tag}")
        ends = [value(f"y{tag}{side}", None) for side in "ab"]
        bodies = [
            helper.make_graph([grow(depth - 1, tag + side)], "body", [], [end])
            for side, end in zip("ab", ends, strict=True)
        ]
        return helper.make_node("If", ["c"], [f"y{tag}"], then_branch=bodies[0], else_branch=bodies[1])

    condition = helper.make_tensor("c", TensorProto.BOOL, [], [True])
    return model([grow(depth, "")], [value("x")], [value("y")], [condition])


def relu_chain(length: int = 20_000) -> onnx.ModelProto:
    """A single block, which contains all nodes."""
    names = ["h", *(f"v{i}" for i in range(1, length)), "y"]
    nodes = [node("MatMul", "x w", "h"), *(node("Relu", a, b) for a, b in itertools.pairwise(names))]
    return model(nodes, [value("x")], [value("y")], [weight("w", 4, 4)])


def products(width: int = 20_000) -> onnx.ModelProto:
    """A sum of products."""
    names = [f"v{i}" for i in range(width)]
    nodes = [*(node("MatMul", "x w", name) for name in names), helper.make_node("Sum", names, ["y"])]
    return model(nodes, [value("x")], [value("y")], [weight("w", 4, 4)])


def sums(length: int = 20_000) -> onnx.ModelProto:
    """Residual sums, each of which absorbs all those before it."""
    names = ["h", *(f"v{i}" for i in range(1, length)), "y"]
    nodes = [node("MatMul", "x w", "h"), *(node("Add", f"{a} x", b) for a, b in itertools.pairwise(names))]
    return model(nodes, [value("x")], [value("y")], [weight("w", 4, 4)])


def layouts(length: int = 20_000) -> onnx.ModelProto:
    """The same values as many outputs."""
    names = ["h", *(f"v{i}" for i in range(1, length)), "y"]
    nodes = [node("MatMul", "x w", "h"), *(node("Identity", a, b) for a, b in itertools.pairwise(names))]
    return model(nodes, [value("x")], [value(name) for name in names[1:]], [weight("w", 4, 4)])


def inputs(number: int = 3_000) -> onnx.ModelProto:
    """Many inputs, each of which a chain of sums adds."""
    names = ["x0", *(f"v{i}" for i in range(1, number)), "y"]
    nodes = [node("Add", f"{a} x{i + 1}", b) for i, (a, b) in enumerate(itertools.pairwise(names))]
    return model(nodes, [value(f"x{i}") for i in range(number + 1)], [value("y")])


def loops(number: int = 8_000) -> onnx.ModelProto:
    """Bodies that could each see everything before them."""
    count, true = (
        helper.make_tensor("n", TensorProto.INT64, [], [2]),
        helper.make_tensor("c", TensorProto.BOOL, [], [1]),
    )
    names = ["x", *(f"v{i}" for i in range(1, number)), "y"]
    step = [value(name, ()) for name in ("i", "before", "after")]
    step[0].type.tensor_type.elem_type = TensorProto.INT64
    for each in step[1:]:
        each.type.tensor_type.elem_type = TensorProto.BOOL
    nodes = [node("Identity", "before", "after"), node("MatMul", "a w", "b")]
    body = helper.make_graph(nodes, "body", [*step[:2], value("a")], [step[2], value("b")])
    return model(
        [helper.make_node("Loop", ["n", "c", a], [b], body=body) for a, b in itertools.pairwise(names)],
        [value("x")],
        [value("y")],
        [weight("w", 4, 4), count, true],
    )


GRAPHS: dict[str, Callable[..., onnx.ModelProto]] = {
    "chain": chain, "wide": wide, "tree": tree, "relu chain": relu_chain, "products": products, "sums": sums,
    "layouts": layouts, "inputs": inputs, "loops": loops,
}  # fmt: skip


def _case(case: str | None, folder: Path) -> str:
    file = folder / "large.onnx"
    onnx.save(chain(2) if case is None else GRAPHS[case](), file)
    result = CliRunner().invoke(cli, ["layers", str(file), "--format", "csv"])
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    watched = Watch(_case, tmp_path_factory.mktemp("large"))
    yield watched
    watched.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", GRAPHS)
def test_layers_are_listed(watch: Watch, name: str) -> None:
    watch.cpu_seconds = CPU_SECONDS.get(name, OTHERS)
    outcome = watch.run(name)
    assert not outcome.failure
    assert ",y," in outcome.said


def test_a_few_of_many_nodes_with_layers_inside_are_described(tmp_path: Path) -> None:
    onnx.save(loops(12), tmp_path / "m.onnx")
    result = CliRunner().invoke(cli, ["layers", str(tmp_path / "m.onnx")])
    lines = [line for line in result.stderr.splitlines() if "inside" in line]
    assert len(lines) == 11
    assert lines[0].startswith("1 layer, 'b', inside 'v1' (Loop) not listed: ")
    assert lines[-1] == "... and layers inside 2 more nodes"


def test_weights_are_not_followed_without_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A chain of constants of which each node uses one takes quadratic time, and is refused beyond a limit."""
    names = ["w", *(f"w{i}" for i in range(30))]
    nodes = [node("Identity", a, b) for a, b in itertools.pairwise(names)]
    nodes += [node("MatMul", f"x {name}", f"y{i}") for i, name in enumerate(names[1:])]
    proto = model(nodes, [value("x")], [value(f"y{i}") for i in range(30)], [weight("w", 4, 4)])
    assert [layer.parameters for layer in list_layers(proto)] == [16] * 30
    monkeypatch.setattr("onnxinfo.graph.dataflow._MAX_STEPS", 400)
    onnx.save(proto, tmp_path / "m.onnx")
    result = CliRunner().invoke(cli, ["layers", str(tmp_path / "m.onnx")])
    assert isinstance(result.exception, ModelError)
    assert "weights from constants in more than 400 steps" in str(result.exception)


def test_a_sum_has_the_parameters_of_all_that_it_absorbs() -> None:
    nodes = [node("MatMul", "x u", "a"), node("Relu", "a", "b"), node("Add", "b x", "c"), node("MatMul", "x v", "d")]
    nodes += [node("Add", "c d", "e"), node("MatMul", "x u", "f"), node("Relu", "f", "g"), node("Add", "g e", "y")]
    proto = model(nodes, [value("x")], [value("y")], [weight("u", 4, 4), weight("v", 4, 4)])
    found = {layer.name: layer.parameters for layer in list_layers(proto)}
    # Parameters that two blocks share count once.
    assert found == {"a": 16, "b": 16, "c": 16, "d": 16, "e": 32, "f": 16, "g": 16, "y": 32}


def test_what_follows_a_value_is_not_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sigmoid of a chain could be the layer's last; that it is not is found once for all."""
    calls, readers = [0], Influence.readers

    def counted(influence: Influence, name: str) -> list[int]:
        calls[0] += 1
        return readers(influence, name)

    monkeypatch.setattr(Influence, "readers", counted)
    names = ["h", *(f"v{i}" for i in range(200))]
    nodes = [node("MatMul", "x w", "h"), *(node("Sigmoid", a, b) for a, b in itertools.pairwise(names))]
    nodes.append(node("MatMul", f"{names[-1]} w", "y"))
    assert len(list_layers(model(nodes, [value("x")], [value("y")], [weight("w", 4, 4)]))) == 202
    # Five per node; 21,000 in all if each sigmoid searches for itself.
    assert calls[0] < 10 * len(nodes)
