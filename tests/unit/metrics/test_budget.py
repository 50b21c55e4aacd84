"""Memory of one input on a GPU, as its allocator counts it; the counters are replaced."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from onnxinfo.metrics import budget, freed_memory


def test_one_more_input_is_what_the_peak_grows_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """A workspace of 1,000 bytes does not count, and neither does what was there before."""
    sizes: list[int] = []

    def network(x: Tensor, rows: Tensor) -> list[Tensor]:
        assert len(rows) == len(x)
        sizes.append(len(x))
        return [x.square(), torch.zeros(len(x))]

    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 500 + 1_000 + 70 * sizes[-1])
    found = budget.peak_of(network, torch.ones(2, 3), torch.arange(2), torch.device("cuda"))  # type: ignore[arg-type]
    assert found == 70
    assert sizes == [1, 3]


@pytest.mark.parametrize(("memory", "expected"), [(100, 40), (25, 25)])
def test_a_forecast_of_activations_is_at_most_the_budget(monkeypatch, memory, expected):
    monkeypatch.setattr(budget, "_per_input", lambda *given: 10)
    assert budget.activation_bytes(None, torch.ones(1), None, 4, memory) == expected


@pytest.mark.parametrize(
    ("memory", "at_once", "returned", "warned"), [(100, 10, False, False), (39, 3, True, False), (19, 1, True, True)]
)
def test_memory_of_few_inputs_is_returned(monkeypatch, caplog, memory, at_once, returned, warned):
    calls: list[bool] = []
    monkeypatch.setattr(budget, "_per_input", lambda *given: 10)
    monkeypatch.setattr(budget, "return_freed_tensors", lambda: calls.append(True))
    with caplog.at_level(logging.WARNING):
        assert budget.fit(None, torch.ones(1), None, memory) == at_once
    assert bool(calls) == returned
    assert ("holds fewer than 3 inputs" in caplog.text) == warned


def test_memory_is_returned_with_any_c_library(monkeypatch):
    """glibc takes the setting; without it, nothing happens."""
    freed_memory.return_freed_tensors()

    def none(name):
        raise OSError

    monkeypatch.setattr(freed_memory.ctypes, "CDLL", lambda name: object())
    freed_memory.return_freed_tensors()
    monkeypatch.setattr(freed_memory.ctypes, "CDLL", none)
    freed_memory.return_freed_tensors()
