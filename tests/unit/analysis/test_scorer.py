"""Scores of samples, evaluated in batches that fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest

import onnxinfo
from onnxinfo.analysis.scorer import Scorer
from onnxinfo.graph.model import load
from onnxinfo.metrics.budget import EVALUATED_ACTIVATIONS
from onnxinfo.metrics.input_provider import InputProvider
from onnxinfo.workflows.open_samples import open_analyzed

COUNT = 6
X = np.random.default_rng(0).random((COUNT, 4), dtype=np.float32)
# The hidden layer and its sum take 8 kB per sample, the input 16 bytes.
WIDE = 1000


def wide() -> onnx.ModelProto:
    nodes = [
        graphs.node("MatMul", "x w", "h"),
        graphs.node("Relu", "h", "r"),
        graphs.node("MatMul", "r v", "y"),
    ]
    constants = [graphs.weight("w", 4, WIDE), graphs.weight("v", WIDE, 3)]
    return graphs.model(nodes, [graphs.value("x")], [graphs.value("y", ("N", 3))], constants)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of samples that are evaluated at once."""
    found: list[int] = []
    run = InputProvider.run

    def counted(self: InputProvider, session: Any, indices: Sequence[int], axis: int = 0) -> Any:
        found.append(len(indices))
        return run(self, session, indices, axis)

    monkeypatch.setattr(InputProvider, "run", counted)
    return found


def test_an_analysis_evaluates_as_many_samples_as_its_limit_allows(counts: list[int], tmp_path: Path) -> None:
    onnxinfo.analyze(wide(), X, tmp_path / "a.h5", layers=["y"], metrics=["gradient"], memory_limit=40_000)
    assert counts[:3] == [2, 2, 2]


@pytest.mark.parametrize(("memory", "expected"), [(1000, [1] * COUNT), (None, [COUNT])])
def test_one_at_least_and_32_at_most(counts: list[int], memory: int | None, expected: list[int]) -> None:
    model = load(wide())
    Scorer(model, memory).scores(open_analyzed(model, X, onnxinfo.InputConfig()), range(COUNT))
    assert counts == expected


def chosen(classes: int) -> onnx.ModelProto:
    """A model that states neither the number of columns of its input nor that of its scores."""
    keep = graphs.constant("keep", [place < classes for place in range(4)], np.bool_)
    nodes = [graphs.node("Compress", "x keep", "y", axis=1)]
    return graphs.model(nodes, [graphs.value("x", ("N", "columns"))], [graphs.value("y", ("N", "classes"))], [keep])


@pytest.mark.parametrize("classes", [0, 1])
def test_scores_of_fewer_than_two_classes_are_refused(classes: int) -> None:
    model = load(chosen(classes))
    with pytest.raises(onnxinfo.UsageError, match=rf"shape \(6, {classes}\), expected at least two classes"):
        Scorer(model).scores(open_analyzed(model, X, onnxinfo.InputConfig()), range(COUNT))


def test_the_size_of_the_samples_counts_where_the_graph_states_none(counts: list[int]) -> None:
    model = load(chosen(3))
    scorer = Scorer(model, 2 * EVALUATED_ACTIVATIONS * X[0].nbytes)
    scorer.scores(open_analyzed(model, X, onnxinfo.InputConfig()), range(COUNT))
    assert counts == [2, 2, 2]
