"""Mismatched operands raise an error: torch's native kernels must never read or write out of bounds.

Everything runs in a child process, for memory that is corrupted kills the process, sometimes later.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from onnxinfo.torch_graph.operators import conv, detection, indexing, recurrent, tensors

CHILD = """
import random
import torch
from onnxinfo.torch_graph.operators import (
    attention, conv, detection, indexing, microsoft, microsoft_attention, normalization, pool, recurrent, sampling,
    tensors,
)

random.seed(0)
torch.manual_seed(0)
one = lambda *choices: random.choice(choices)
size = lambda: one(1, 2, 3, 5)
floats = lambda *shape: torch.randn(*shape, requires_grad=True)
shaped = lambda *shape: tuple(one(size(), given, given, given) for given in shape)
anywhere = lambda *shape: torch.randint(-9, 9, shape)

def recurrent_layer(operator, gates, states):
    directions = one(1, 2)
    T, B, I, H = size(), size(), size(), size()
    X, W, R = floats(T, B, I), floats(*shaped(directions, gates * H, I)), floats(*shaped(directions, gates * H, H))
    bias = one(None, floats(*shaped(directions, 2 * gates * H)))
    lengths = one(None, None, torch.randint(0, T + 1, shaped(B)))
    initial = [one(None, floats(*shaped(directions, B, H))) for _ in range(states)]
    direction = one("forward", "bidirectional" if directions == 2 else "reverse")
    extra = {"linear_before_reset": one(0, 1)} if operator is recurrent.GRU else {}
    return operator(X, W, R, bias, lengths, *initial, direction=direction, **extra)

def attend(operator, **options):
    B, T, S = size(), size(), size()
    query, key, value = floats(*shaped(B, T, 6)), floats(*shaped(B, S, 6)), floats(*shaped(B, S, 6))
    return operator(query, key, value, **options)

def embed():
    B, S = size(), size()
    ids, segments = anywhere(*shaped(B, S)), one(None, anywhere(*shaped(B, S)))
    tables = floats(9, 4), floats(one(S, 9), 4), floats(9, 4)
    return microsoft.EmbedLayerNormalization(ids, segments, *tables, floats(*shaped(4)), floats(*shaped(4)))[0]

def share_heads():
    B, S = size(), one(2, 3)
    query, key, value = floats(*shaped(B, S, 8)), floats(*shaped(B, S, 4)), floats(*shaped(B, S, 4))
    caches = [floats(one(2, 5), 2) for _ in range(2)]
    lengths = torch.full(shaped(B), S - 1)
    return microsoft_attention.GroupQueryAttention(
        query, key, value, None, None, lengths, [S], *caches, do_rotary=1, num_heads=2, kv_num_heads=1
    )[0]

OPERATORS = {
    "DeformConv": lambda: conv.DeformConv(
        floats(1, 2, 5, 5), floats(*shaped(2, 2, 3, 3)), floats(*shaped(1, 18, 3, 3)), floats(*shaped(2))
    ),
    "RoiAlign": lambda: detection.RoiAlign(floats(2, 1, 5, 5), torch.rand(shaped(3, 4)) * 9, anywhere(*shaped(3)) // 3),
    "GridSample": lambda: sampling.GridSample(floats(*shaped(2, 1, 3, 3)), floats(*shaped(2, 2, 2, 2)) * 9),
    "BatchNormalization": lambda: normalization.BatchNormalization(
        floats(2, 3, 4), *(floats(*shaped(3)) for _ in range(3)), torch.rand(shaped(3))
    ),
    "ReverseSequence": lambda: tensors.ReverseSequence(floats(4, 3), anywhere(*shaped(3)) // 2 + 2),
    "EmbedLayerNormalization": embed,
    "GroupQueryAttention": share_heads,
    "LSTM": lambda: recurrent_layer(recurrent.LSTM, 4, 2),
    "GRU": lambda: recurrent_layer(recurrent.GRU, 3, 1),
    "RNN": lambda: recurrent_layer(recurrent.RNN, 1, 1),
    "Gather": lambda: indexing.Gather(floats(size(), size()), anywhere(size()), axis=one(0, 1)),
    "GatherElements": lambda: indexing.GatherElements(floats(3, 4), anywhere(size(), size()), axis=one(0, 1)),
    "GatherND": lambda: indexing.GatherND(floats(3, 4, 2), anywhere(size(), size())),
    "ScatterElements": lambda: indexing.ScatterElements(
        floats(3, 4), anywhere(2, size()), floats(2, size()), axis=one(0, 1), reduction=one("none", "add")
    ),
    "ScatterND": lambda: indexing.ScatterND(floats(3, 4, 2), anywhere(size(), 2) // 4, floats(size(), 2)),
    "TensorScatter": lambda: indexing.TensorScatter(floats(2, 5, 3), floats(*shaped(2, 2, 3)), anywhere(*shaped(2))),
    "MaxUnpool": lambda: pool.MaxUnpool(floats(1, 1, 2, 2), anywhere(1, 1, 2, 2), kernel_shape=[2, 2], strides=[2, 2]),
    "Attention": lambda: attend(attention.Attention, q_num_heads=2, kv_num_heads=2),
    "MultiHeadAttention": lambda: attend(microsoft_attention.MultiHeadAttention, num_heads=2),
    "LayerNormalization": lambda: normalization.LayerNormalization(floats(2, 3), floats(size()), floats(size())),
}

for name, operator in OPERATORS.items():
    print(name, end=" ", flush=True)
    passed = 0
    for _ in range(200):
        try:
            found = operator()
            outputs = found if isinstance(found, tuple) else (found,)
            sum(y.sum() for y in outputs if y is not None and y.requires_grad).backward()
        except (RuntimeError, ValueError, IndexError, TypeError):
            continue
        passed += 1
    print(passed, flush=True)
"""


def test_operands_that_do_not_fit_raise():
    child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, timeout=300)
    assert child.returncode == 0, f"died at {child.stdout.split()[-1:]}: {child.stderr[-2000:]}"
    # Some attempts must match, otherwise only the checks were tested.
    tried = dict(line.split() for line in child.stdout.splitlines())
    assert len(tried) == 20
    assert all(int(passed) > 0 for passed in tried.values()), tried


floats = torch.zeros
INDICES = torch.tensor([[0, 1], [2, 3]])
LSTM_WEIGHTS = floats(1, 12, 2), floats(1, 12, 3)
# ONNX Runtime refuses all of these; torch computes something, without an error.
MISFITS = {
    "more updates than indices": lambda: indexing.ScatterElements(floats(3, 4), INDICES, floats(2, 3)),
    "more rows of updates than indices": lambda: indexing.ScatterND(floats(3, 4, 2), INDICES, floats(3, 2)),
    "a coordinate beyond its axis": lambda: indexing.ScatterND(floats(3, 4), torch.tensor([[0, 5]]), floats(1)),
    "a coordinate before its axis": lambda: indexing.ScatterND(floats(3, 4), torch.tensor([[1, -5]]), floats(1)),
    "an update of fewer heads": lambda: indexing.TensorScatter(floats(2, 3, 5, 4), floats(2, 2, 1, 4)),
    "a sequence longer than the input": lambda: recurrent.LSTM(
        floats(4, 2, 2), *LSTM_WEIGHTS, None, torch.tensor([4, 5], dtype=torch.int32)
    ),
    "a sequence of negative length": lambda: tensors.ReverseSequence(floats(4, 2), torch.tensor([2, -1])),
    "more lengths than sequences": lambda: tensors.ReverseSequence(floats(4, 1), torch.tensor([2, 1])),
    "a region of no image": lambda: detection.RoiAlign(floats(2, 1, 5, 5), floats(1, 4), torch.tensor([-1])),
    "kernels of fewer channels": lambda: conv.DeformConv(floats(1, 2, 5, 5), floats(2, 1, 3, 3), floats(1, 18, 3, 3)),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_misfits_that_torch_computes_raise(misfit):
    with pytest.raises((ValueError, IndexError), match="expected"):
        MISFITS[misfit]()
