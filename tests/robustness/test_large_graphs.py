"""Graphs of 100,000 nodes are listed in linear time; with sets subtracted for each node, that took minutes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner
from fuzzing import Watch
from graphs import model, node, value
from onnx import TensorProto, helper

from onnxinfo.cli import cli

# About twice what is needed on a busy machine; it was more than 190, 24 and 16.
CPU_SECONDS = {"chain": 10, "wide": 4, "tree": 4}


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


GRAPHS: dict[str, Callable[..., onnx.ModelProto]] = {"chain": chain, "wide": wide, "tree": tree}


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
    watch.cpu_seconds = CPU_SECONDS[name]
    outcome = watch.run(name)
    assert not outcome.failure
    assert ",y," in outcome.said
