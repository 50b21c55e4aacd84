"""Attention and related operators; internally, heads are an axis: (batch, heads, sequence, head size)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from ..element_types import single, torch_type
from ..nodes import Converted, Graph, Node
from .table import converter, operator


class Attended(NamedTuple):
    """Intermediate results of attention: scores, scores after the soft cap, with bias, probabilities; and result."""

    scores: Tensor
    capped: Tensor
    biased: Tensor
    probabilities: Tensor
    Y: Tensor


def attend(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    bias: Tensor | None = None,
    *,
    scale: float | None = None,
    softcap: float = 0.0,
    precision: torch.dtype | None = None,
    sink: Tensor | None = None,
) -> Attended:
    """Scaled dot-product attention, in float32 at least; several heads of Q may share one of K and V.

    Parameters
    ----------
    Q, K, V
        (batch, heads, sequence, head size).
    bias
        Added to the scores; a query whose biases are all -inf attends to nothing and yields zeros.
    scale
        Scale of the scores; default: one over the square root of the head size.
    softcap
        Smooth limit of the scores; 0 for none.
    precision
        Type in which the softmax is computed; default: that of the scores.
    sink
        (heads,): score without a key, which takes a share of the softmax.
    """
    type = Q.dtype
    Q, K, V = single(Q), _for_heads(Q, single(K)), _for_heads(Q, single(V))
    scores = scaled_product(Q, K, scale)
    capped = softcap * torch.tanh(scores / softcap) if softcap else scores
    biased = capped if bias is None else capped + bias
    logits = biased if precision is None else biased.to(precision)
    nothing = None if bias is None else (bias == -math.inf).all(-1, keepdim=True)
    logits = logits if nothing is None else logits.masked_fill(nothing, 0.0)
    if sink is None:
        probabilities = logits.softmax(-1)
    else:
        sinks = sink.to(logits.dtype).reshape(-1, 1, 1).expand(*logits.shape[:-1], 1)
        probabilities = torch.cat([logits, sinks], -1).softmax(-1)[..., :-1]
    probabilities = probabilities if nothing is None else probabilities.masked_fill(nothing, 0.0)
    Y = probabilities.to(V.dtype) @ V
    return Attended(*(x.to(type) for x in (scores, capped, biased, probabilities, Y)))


def scaled_product(Q: Tensor, K: Tensor, scale: float | None = None) -> Tensor:
    """Scores of the keys for each query; default scale: one over the square root of the head size."""
    return torch.matmul(Q * (Q.shape[-1] ** -0.5 if scale is None else scale), K.transpose(-2, -1))


def _for_heads(Q: Tensor, x: Tensor) -> Tensor:
    """Repeat each head of ``x`` for the heads of Q that share it."""
    shared = Q.shape[1] // x.shape[1]
    return x if shared == 1 else x.repeat_interleave(shared, 1)


def additive(mask: Tensor, like: Tensor) -> Tensor:
    """Turn a mask, True where a key takes part, into a bias; a bias is returned unchanged."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(~mask, -math.inf)


def visible(queries: int, keys: int, offset: int | Tensor, left: int, right: int, device: torch.device) -> Tensor:
    """Mask of a sliding window: query i is at key ``i + offset``; a negative bound is unbounded."""
    distance = torch.arange(keys, device=device) - torch.arange(queries, device=device).unsqueeze(-1) - offset
    above = distance >= -left if left >= 0 else torch.ones_like(distance, dtype=torch.bool)
    below = distance <= right if right >= 0 else torch.ones_like(distance, dtype=torch.bool)
    return torch.logical_and(above, below)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Reshape (batch, sequence, heads * size) to (batch, heads, sequence, size)."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Reshape (batch, heads, sequence, size) to (batch, sequence, heads * size)."""
    return x.transpose(1, 2).flatten(2)


@operator()
def Attention(
    Q,
    K,
    V,
    attn_mask=None,
    past_key=None,
    past_value=None,
    nonpad_kv_seqlen=None,
    *,
    is_causal=0,
    kv_num_heads=None,
    left_window_size=-1,
    q_num_heads=None,
    qk_matmul_output_mode=0,
    right_window_size=-1,
    scale=None,
    softcap=0.0,
    softmax_precision=None,
):
    packed = Q.dim() == 3
    if packed:
        Q, K, V = split_heads(Q, q_num_heads), split_heads(K, kv_num_heads), split_heads(V, kv_num_heads)
    offset = 0
    if past_key is not None:
        offset = past_key.shape[2]
        K, V = torch.cat([past_key, K], 2), torch.cat([past_value, V], 2)
    elif nonpad_kv_seqlen is not None:
        offset = nonpad_kv_seqlen.reshape(-1, 1, 1, 1) - Q.shape[2]
    right = 0 if is_causal else right_window_size
    biases = []
    if attn_mask is not None:
        mask = additive(attn_mask, Q)
        biases.append(functional.pad(mask, (0, K.shape[2] - mask.shape[-1]), value=-math.inf))
    if left_window_size >= 0 or right >= 0:
        biases.append(additive(visible(Q.shape[2], K.shape[2], offset, left_window_size, right, Q.device), Q))
    if nonpad_kv_seqlen is not None:
        filled = torch.arange(K.shape[2], device=Q.device) < nonpad_kv_seqlen.reshape(-1, 1, 1, 1)
        biases.append(additive(filled, Q))
    precision = torch_type(softmax_precision) if softmax_precision else None
    bias = sum(biases[1:], start=biases[0]) if biases else None
    result = attend(Q, K, V, bias, scale=scale, softcap=softcap, precision=precision)
    return merge_heads(result.Y) if packed else result.Y, K, V, result[qk_matmul_output_mode]


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: int) -> Tensor:
    """Rotate pairs of features: neighbors if interleaved, else one from each half; remaining features are unchanged.

    Parameters
    ----------
    x
        (batch, heads, sequence, head size).
    cos, sin
        Broadcastable to (batch, heads, sequence, pairs).
    """
    size = 2 * cos.shape[-1]
    rotated, rest = x[..., :size], x[..., size:]
    if interleaved:
        a, b = rotated[..., ::2], rotated[..., 1::2]
        pairs = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
    else:
        a, b = rotated.chunk(2, -1)
        pairs = torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
    return torch.cat([pairs, rest], -1)


@operator()
def RotaryEmbedding(
    X, cos_cache, sin_cache, position_ids=None, *, interleaved=0, num_heads=None, rotary_embedding_dim=0
):
    cos, sin = (c if position_ids is None else c[position_ids] for c in (cos_cache, sin_cache))
    heads = split_heads(X, num_heads) if X.dim() == 3 else X
    rotated = rotate(heads, cos.unsqueeze(1), sin.unsqueeze(1), interleaved)
    return merge_heads(rotated) if X.dim() == 3 else rotated


@operator()
def LinearAttention(
    query,
    key,
    value,
    past_state=None,
    decay=None,
    beta=None,
    *,
    q_num_heads,
    kv_num_heads,
    chunk_size=64,
    scale=0.0,
    update_rule="gated_delta",
):
    heads = ((query, q_num_heads), (key, kv_num_heads), (value, kv_num_heads))
    q, k, v = (split_heads(single(x), n) for x, n in heads)
    shared = q_num_heads // kv_num_heads
    scale = scale or 1 / math.sqrt(q.shape[-1])
    state = (
        q.new_zeros(k.shape[0], kv_num_heads, k.shape[-1], v.shape[-1]) if past_state is None else single(past_state)
    )
    gate = split_heads(single(decay), kv_num_heads).exp() if "gated" in update_rule else None
    rate = beta.transpose(1, 2).unsqueeze(-1) if "delta" in update_rule else None
    outputs = []
    for t in range(q.shape[2]):
        state = state if gate is None else gate[:, :, t].unsqueeze(-1) * state
        k_t, v_t = k[:, :, t], v[:, :, t]
        if rate is not None:
            v_t = rate[:, :, t] * (v_t - torch.einsum("bhkv,bhk->bhv", state, k_t))
        state = state + k_t.unsqueeze(-1) * v_t.unsqueeze(-2)
        outputs.append(
            scale * torch.einsum("bhkv,bhsk->bhsv", state, q[:, :, t].unflatten(1, (-1, shared))).flatten(1, 2)
        )
    return merge_heads(torch.stack(outputs, 2)).to(query.dtype), state.to(
        (query if past_state is None else past_state).dtype
    )


@operator()
def CausalConvWithState(input, weight, bias=None, past_state=None, *, activation="none"):
    kept = weight.shape[-1] - 1
    before = input.new_zeros(*input.shape[:2], kept) if past_state is None else past_state
    extended = torch.cat([before, input], -1)
    output = functional.conv1d(extended, weight, bias, groups=input.shape[1])
    output = output if activation == "none" else functional.silu(output)
    return output, extended[..., extended.shape[-1] - kept :]


class FlexAttention(nn.Module):
    """Attention whose scores and probabilities are modified by graphs of the model.

    Parameters
    ----------
    score_mod, prob_mod
        Take and return scores or probabilities, followed by captured values; None leaves them unchanged.
    captured
        Number of captured values that belong to ``score_mod``.
    scale, precision
        Scale of the scores (default: one over the square root of the head size); type of scores and probabilities.
    """

    def __init__(
        self,
        score_mod: fx.GraphModule | None,
        prob_mod: fx.GraphModule | None,
        captured: int,
        scale: float | None,
        precision: torch.dtype,
    ) -> None:
        super().__init__()
        self.score_mod = score_mod
        self.prob_mod = prob_mod
        self.captured = captured
        self.scale = scale
        self.precision = precision

    def forward(self, Q: Tensor, K: Tensor, V: Tensor, *captured: Any) -> Tensor:
        """Apply attention; Q, K and V are (batch, heads, sequence, head size)."""
        precision = torch.promote_types(self.precision, Q.dtype)
        scores = scaled_product(Q.to(precision), _for_heads(Q, K).to(precision), self.scale)
        if self.score_mod is not None:
            (scores,) = self.score_mod(scores, *captured[: self.captured])
        probabilities = scores.softmax(-1)
        if self.prob_mod is not None:
            (probabilities,) = self.prob_mod(probabilities, *captured[self.captured :])
        return probabilities.to(V.dtype) @ _for_heads(Q, V)


@converter("FlexAttention", domain="ai.onnx.preview")
def _flex_attention(node: Node, graph: Graph) -> Converted:
    attributes = node.attributes
    bodies = [attributes.get(name) for name in ("score_mod", "prob_mod")]
    (score_mod, first), (prob_mod, second) = (graph.subgraph(b) if b is not None else (None, ()) for b in bodies)
    precision = torch_type(attributes.get("softmax_precision", 1))
    module = FlexAttention(score_mod, prob_mod, len(first), attributes.get("scale"), precision)
    return Converted(module, (*node.inputs, *first, *second))
