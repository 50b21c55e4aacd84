"""Loops whose record cannot be saved."""

import pytest
import torch

from onnxinfo.metrics import journal as module
from onnxinfo.metrics.journal import Journal, Streams, Sums


def total_of(journal):
    """Sum of two nested loops, whose inner one ends early."""
    total, drawing = torch.zeros(()), Streams([torch.Generator().manual_seed(0)])
    for _ in journal.steps(3, 1, Sums([total]), drawing):
        for inner in journal.steps(4, 1, Sums([total]), drawing):
            total += torch.rand((), generator=drawing.streams[0])
            if inner.start == 2:
                break
    return total


@pytest.mark.parametrize("saves", range(6))
def test_a_loop_continues_unrecorded_after_a_save_within_it_fails(monkeypatch, saves):
    """As on a full disk; nothing more is saved, and the sums are the same."""
    monkeypatch.setattr(module, "SAVE_SECONDS", 0)
    answers = []

    def save(records):
        answers.append(len(answers) < saves)
        return answers[-1]

    assert torch.equal(total_of(Journal(save=save)), total_of(Journal()))
    assert answers == [True] * saves + [False]
