"""Graphs of an analysis are converted for the shapes of its samples."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
import torch
from graphs import constant, model, node, value

import onnxinfo
from onnxinfo.analysis.job import specialized
from onnxinfo.metrics.input_provider import InputProvider, open_samples_of


def _provider(proto: onnx.ModelProto, **arrays: np.ndarray) -> InputProvider:
    loaded = onnxinfo.load(proto)
    return InputProvider(loaded, open_samples_of(loaded, arrays), next(iter(arrays)))


def test_sizes_that_the_samples_fix_are_constants() -> None:
    nodes = [node("Shape", "x", "s"), node("Gather", "s one", "n"), node("Expand", "w n", "e"), node("Add", "x e", "y")]
    weights = [constant("one", [1]), constant("w", [1.0], np.float32)]
    proto = model(nodes, [value("x", ("N", "M"))], [value("y", ("N", "M"))], weights)
    module = specialized(_provider(proto, x=np.eye(4, dtype=np.float32)), ["y"])
    assert [each.target for each in module.graph.nodes if each.op == "call_module"] == ["node_0_Add"]
    assert module(torch.zeros(3, 4))[0].tolist() == [[1.0] * 4] * 3


def test_samples_that_contradict_a_symbol_are_analyzed_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """ONNX Runtime computes with them."""
    proto = model([node("Add", "a b", "y")], [value("a", ("N", "M")), value("b", ("N", "M"))], [value("y", ("N", "M"))])
    arrays = {"a": np.eye(4, dtype=np.float32), "b": np.ones((4, 1), np.float32)}
    with caplog.at_level(logging.WARNING):
        module = specialized(_provider(proto, **arrays), ["y"])
    assert module(torch.zeros(2, 4), torch.ones(2, 1))[0].tolist() == [[1.0] * 4] * 2
    assert "shapes: input 'b' was given as [None, 1], but 'M' is 4 in input 'a'" in caplog.text
