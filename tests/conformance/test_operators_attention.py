"""Attention of the standard domain: against ONNX Runtime and torch, with gradients. ONNX's own cases test the rest."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from nodes import assert_same, feeds_of, floats, gradcheck, node_model, output_info
from onnx import TensorProto, helper, numpy_helper

from onnxinfo import convert

BATCH, HEADS, QUERIES, KEYS, SIZE = 2, 4, 3, 5, 8
Q, K, V = (
    floats(BATCH, HEADS, QUERIES, SIZE),
    floats(BATCH, 2, KEYS, SIZE, seed=1),
    floats(BATCH, 2, KEYS, SIZE, seed=2),
)
BIAS = floats(QUERIES, KEYS, seed=3)
MASK = BIAS > -0.5


@pytest.mark.parametrize("mask", [None, BIAS, MASK], ids=["none", "bias", "mask"])
@pytest.mark.parametrize("attributes", [{}, {"scale": 0.2}, {"softcap": 2.0}])
def test_against_onnxruntime(mask: np.ndarray | None, attributes: dict) -> None:
    assert_same("Attention", [Q, K, V, mask], opset=23, **attributes)


def test_packed_heads_and_past() -> None:
    packed = [x.transpose(0, 2, 1, 3).reshape(BATCH, x.shape[2], -1) for x in (Q, K, V)]
    past = [floats(BATCH, 2, 2, SIZE, seed=4), floats(BATCH, 2, 2, SIZE, seed=5)]
    settings = {"q_num_heads": HEADS, "kv_num_heads": 2, "opset": 23}
    assert_same("Attention", packed, **settings)
    assert_same("Attention", [*packed, None, *past], 3, **settings)


def attention(inputs: list, outputs: int = 1, **attributes: object) -> list[torch.Tensor]:
    declared = [output_info(f"output_{i}", "tensor(float)", [None] * 4) for i in range(outputs)]
    model = node_model("Attention", inputs, outputs, opset=25, declared=declared, **attributes)
    return list(convert(model, fallback=False)(*(torch.from_numpy(x) for x in feeds_of(model, inputs).values())))


def test_causal_equals_torch() -> None:
    (y,) = attention([Q, Q, Q], is_causal=1)
    q = torch.from_numpy(Q)
    torch.testing.assert_close(y, torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True))


def test_a_query_without_keys_yields_zeros_and_no_nan_gradient() -> None:
    mask = MASK.copy()
    mask[1] = False
    model = node_model("Attention", [Q, K, V, mask], opset=23, constants=(3,))
    operands = [torch.from_numpy(x).requires_grad_() for x in (Q, K, V)]
    (y,) = convert(model)(*operands)
    assert torch.equal(y[:, :, 1], torch.zeros(BATCH, HEADS, SIZE))
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(y.sum(), operands))


def test_window() -> None:
    y, *_, probabilities = attention([Q, K, V], 4, left_window_size=1, right_window_size=0, qk_matmul_output_mode=3)
    reached = probabilities[0, 0] > 0
    assert reached.int().tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 0]]
    assert y.shape == Q.shape


@pytest.mark.parametrize("attributes", [{}, {"is_causal": 1}, {"softcap": 2.0}])
def test_gradients(attributes: dict) -> None:
    gradcheck("Attention", [Q, K, V, BIAS], opset=23, **attributes)


def test_vmap() -> None:
    model = node_model("Attention", [Q, K, V], opset=23)
    module = convert(model)
    operands = [torch.from_numpy(np.stack([x, -x])) for x in (Q, K, V)]
    together = torch.func.vmap(lambda *x: module(*x)[0])(*operands)
    torch.testing.assert_close(together, torch.stack([module(*x)[0] for x in zip(*operands, strict=True)]))


@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotary_embedding(interleaved: int) -> None:
    caches = [floats(9, SIZE // 2, seed=1), floats(9, SIZE // 2, seed=2)]
    positions = np.array([[0, 4, 8], [1, 2, 3]])
    inputs = [Q, *caches, positions]
    assert_same("RotaryEmbedding", inputs, opset=23, interleaved=interleaved)
    gradcheck("RotaryEmbedding", inputs, opset=23, interleaved=interleaved)


def linear_attention(update_rule: str, steps: int) -> tuple[list[np.ndarray | None], dict]:
    gated, delta = "gated" in update_rule, "delta" in update_rule
    x = [floats(BATCH, steps, 2 * 4, seed=i) / 2 for i in range(3)]
    decay = -np.abs(floats(BATCH, steps, 2, seed=4)) if gated else None
    beta = np.abs(floats(BATCH, steps, 2, seed=5)) / 3 if delta else None
    return [*x, None, decay, beta], {"q_num_heads": 2, "kv_num_heads": 2, "update_rule": update_rule, "opset": 27}


@pytest.mark.parametrize("update_rule", ["linear", "gated", "delta", "gated_delta"])
def test_linear_attention(update_rule: str) -> None:
    """Two parts of a sequence with the state passed on give the same as the whole; the gradient is correct."""
    inputs, settings = linear_attention(update_rule, 6)
    module = convert(node_model("LinearAttention", inputs, 2, **settings), fallback=False)
    whole, state = module(*(torch.from_numpy(x) for x in inputs if x is not None))
    carried = np.zeros((BATCH, 2, 4, 4), np.float32)
    with_state = [*inputs[:3], carried, *inputs[4:]]
    module = convert(node_model("LinearAttention", with_state, 2, **settings), fallback=False)
    parts, now = [], torch.from_numpy(carried)
    for half in (slice(0, 3), slice(3, 6)):
        x = [None if v is None else torch.from_numpy(v[:, half]) for v in inputs]
        part, now = module(*(v for v in [*x[:3], now, *x[4:]] if v is not None))
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    torch.testing.assert_close(now, state)
    gradcheck("LinearAttention", inputs, 2, **settings)


def test_causal_convolution_sees_no_future() -> None:
    inputs = [floats(2, 3, 6), floats(3, 1, 4, seed=1), floats(3, seed=2), floats(2, 3, 3, seed=3)]
    gradcheck("CausalConvWithState", inputs, 2, opset=27, activation="silu")
    module = convert(node_model("CausalConvWithState", inputs, 2, opset=27))
    x = [torch.from_numpy(value) for value in inputs]
    changed = x[0].clone()
    changed[..., 4:] += 1
    torch.testing.assert_close(module(*x)[0][..., :4], module(changed, *x[1:])[0][..., :4])


def test_flexible_attention_passes_scores_through_a_graph() -> None:
    score_mod = onnx.parser.parse_graph(
        "double (float[B, H, L, S] scores) => (float[B, H, L, S] doubled) { doubled = Add(scores, scores) }"
    )
    node = onnx.helper.make_node("FlexAttention", ["q", "k", "v"], ["y"], domain="ai.onnx.preview", score_mod=score_mod)
    infos = [onnx.helper.make_tensor_value_info(n, 1, x.shape) for n, x in zip("qkv", (Q, K, V), strict=True)]
    result = onnx.helper.make_tensor_value_info("y", 1, Q.shape)
    opsets = [onnx.helper.make_opsetid("", 26), onnx.helper.make_opsetid("ai.onnx.preview", 1)]
    graph = onnx.helper.make_graph([node], "flexible", infos, [result])
    module = convert(onnx.helper.make_model(graph, opset_imports=opsets), fallback=False)
    q, k, v = (torch.from_numpy(x) for x in (Q, K, V))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=2 / SIZE**0.5, enable_gqa=True)
    torch.testing.assert_close(module(q, k, v)[0], expected)


def test_a_query_that_is_masked_afterwards_has_a_gradient() -> None:
    """Form of exported attention: the softmax over nothing is NaN, and is replaced afterwards."""
    scores = floats(2, 5)
    mask = np.array([[0, 0, -np.inf, 0, 0], [-np.inf] * 5], np.float32)
    nodes = [
        helper.make_node("Add", ["scores", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["weights"]),
        helper.make_node("IsNaN", ["weights"], ["nothing"]),
        helper.make_node("Where", ["nothing", "zero", "weights"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "safe softmax",
        [value("scores", TensorProto.FLOAT, [2, 5])],
        [value("y", TensorProto.FLOAT, [2, 5]), value("weights", TensorProto.FLOAT, [2, 5])],
        [numpy_helper.from_array(mask, "mask"), numpy_helper.from_array(np.float32(0), "zero")],
    )
    module = convert(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)).double()
    x = torch.from_numpy(scores).double().requires_grad_()
    assert module(x)[1][1].isnan().all()
    assert torch.autograd.gradcheck(lambda x: module(x)[0], x)
