"""Attention operators of ONNX Runtime (domain ``com.microsoft``)."""

from __future__ import annotations

import torch
from torch import Tensor

from .attention import additive, attend, merge_heads, rotate, split_heads, visible
from .rounding import dequantized
from .table import MICROSOFT, Ints, Unsupported, operator


@operator("Attention", domain=MICROSOFT)
def MergedAttention(
    input,
    weights,
    bias=None,
    mask_index=None,
    past=None,
    attention_bias=None,
    past_sequence_length: Unsupported = None,
    *,
    do_rotary: Unsupported = 0,
    mask_filter_value=-10000.0,
    num_heads,
    past_present_share_buffer: Unsupported = 0,
    qkv_hidden_sizes=None,
    scale=None,
    unidirectional=0,
):
    projected = input @ weights
    projected = projected if bias is None else projected + bias
    Q, K, V = projected.split(qkv_hidden_sizes or projected.shape[-1] // 3, -1)
    Q, K, V = (split_heads(x, num_heads) for x in (Q, K, V))
    K, V = _with_past(K, V, None if past is None else past.unbind(0))
    biases = [_padding(mask_index, Q, K, mask_filter_value), attention_bias]
    Y = attend(Q, K, V, _combined(biases, Q, K, unidirectional), scale=scale).Y
    present = torch.stack([K, V]) if K.shape == V.shape else None
    return merge_heads(Y), present


@operator(domain=MICROSOFT)
def QAttention(
    input,
    weight,
    bias,
    input_scale,
    weight_scale,
    mask_index=None,
    input_zero_point=None,
    weight_zero_point=None,
    past=None,
    **attributes,
):
    x = dequantized(input, input_scale, input_zero_point)
    weights = dequantized(weight, weight_scale, weight_zero_point)
    return MergedAttention(x, weights, bias, mask_index, past, **attributes)


@operator(domain=MICROSOFT)
def MultiHeadAttention(
    query,
    key=None,
    value=None,
    bias=None,
    key_padding_mask=None,
    attention_bias=None,
    past_key=None,
    past_value=None,
    past_sequence_length: Unsupported = None,
    cache_indirection: Unsupported = None,
    *,
    mask_filter_value=-10000.0,
    num_heads,
    scale=None,
    unidirectional=0,
):
    Q, K, V = _unpacked(query, key, value)
    sizes = [x.shape[-1] for x in (Q, K, V)]
    if K.dim() == 3:
        addends = [0, 0, 0] if bias is None else bias.split(sizes)
        Q, K, V = (split_heads(x + b, num_heads) for x, b in zip((Q, K, V), addends, strict=True))
    else:
        # Keys and values from an encoder, already split into heads, have no bias.
        Q = split_heads(Q if bias is None else Q + bias[: sizes[0]], num_heads)
    K, V = _with_past(K, V, None if past_key is None else (past_key, past_value))
    biases = [_padding(key_padding_mask, Q, K, mask_filter_value), attention_bias]
    result = attend(Q, K, V, _combined(biases, Q, K, unidirectional), scale=scale)
    return merge_heads(result.Y), K, V, result.probabilities


def _unpacked(query: Tensor, key: Tensor | None, value: Tensor | None) -> tuple[Tensor, ...]:
    """Separate tensors packed as (batch, sequence, heads, 2 or 3, size)."""
    if key is None:
        return tuple(x.flatten(2) for x in query.unbind(3))
    if value is None:
        return query, *(x.flatten(2) for x in key.unbind(3))
    return query, key, value


def _with_past(K: Tensor, V: Tensor, past: tuple[Tensor, ...] | None) -> tuple[Tensor, Tensor]:
    if past is None:
        return K, V
    return torch.cat([past[0], K], 2), torch.cat([past[1], V], 2)


def _padding(mask: Tensor | None, Q: Tensor, K: Tensor, filter_value: float) -> Tensor | None:
    """Turn a mask (1 where a key takes part), or the range of keys per sample, into a bias."""
    if mask is None:
        return None
    batch, keys = K.shape[0], torch.arange(K.shape[2], device=K.device)
    if mask.dim() == 1:
        # Ends of the key ranges per sample; then, if present, their starts.
        end, *start = mask.reshape(-1, batch, 1)
        mask = keys < end
        mask = mask & (keys >= start[0]) if start else mask
    # (batch, keys) or (batch, queries, keys), the same for every head
    taken = (mask > 0).reshape(batch, 1, -1, mask.shape[-1])
    return torch.zeros(taken.shape, dtype=Q.dtype, device=Q.device).masked_fill(~taken, filter_value)


def _combined(biases: list[Tensor | None], Q: Tensor, K: Tensor, causal: int) -> Tensor | None:
    """Add up the biases that are present and the causal mask."""
    present = [bias for bias in biases if bias is not None]
    if causal:
        queries, keys = Q.shape[2], K.shape[2]
        present.append(additive(visible(queries, keys, keys - queries, -1, 0, Q.device), Q))
    return sum(present[1:], start=present[0]) if present else None


@operator("RotaryEmbedding", domain=MICROSOFT)
def IndexedRotaryEmbedding(
    input,
    position_ids,
    cos_cache,
    sin_cache,
    *,
    interleaved=0,
    is_packed_batching: Unsupported = 0,
    num_heads=0,
    rotary_embedding_dim=0,
    scale: Unsupported = 0,
):
    size = input.shape[-1] // num_heads if rotary_embedding_dim and num_heads else 2 * cos_cache.shape[-1]
    x = split_heads(input, input.shape[-1] // size) if input.dim() == 3 else input
    if position_ids.dim() == 1:
        position_ids = position_ids + torch.arange(x.shape[2], device=x.device).unsqueeze(0)
    rotated = rotate(x, cos_cache[position_ids].unsqueeze(1), sin_cache[position_ids].unsqueeze(1), interleaved)
    return merge_heads(rotated) if input.dim() == 3 else rotated


@operator(domain=MICROSOFT)
def GroupQueryAttention(
    query,
    key=None,
    value=None,
    past_key=None,
    past_value=None,
    seqlens_k=None,
    total_sequence_length: Ints = None,
    cos_cache=None,
    sin_cache=None,
    position_ids=None,
    attention_bias=None,
    head_sink=None,
    k_scale: Unsupported = None,
    v_scale: Unsupported = None,
    q_norm_weight: Unsupported = None,
    k_norm_weight: Unsupported = None,
    *,
    causal=1,
    do_rotary=0,
    k_quant_type="NONE",
    kv_cache_bit_width: Unsupported = 0,
    kv_num_heads,
    local_window_size=-1,
    num_heads,
    qk_norm_epsilon=1e-6,
    qk_output: Unsupported = 0,
    rotary_interleaved=0,
    scale=None,
    sliding_window_cache: Unsupported = 0,
    smooth_softmax=-1,
    softcap=0.0,
    v_quant_type="NONE",
):
    if key is None:
        size = query.shape[-1] // (num_heads + 2 * kv_num_heads)
        query, key, value = query.split([num_heads * size, kv_num_heads * size, kv_num_heads * size], -1)
    Q, K, V = split_heads(query, num_heads), split_heads(key, kv_num_heads), split_heads(value, kv_num_heads)
    total, new = total_sequence_length[0], Q.shape[2]
    # Number of earlier keys per sample; a prompt, which fills the whole sequence, has none.
    before = seqlens_k.reshape(-1, 1).long() + 1 - new if new != total else torch.zeros_like(seqlens_k.reshape(-1, 1))
    positions = before + torch.arange(new, device=Q.device)
    if do_rotary:
        at = positions if position_ids is None else position_ids
        cos, sin = cos_cache[at].unsqueeze(1), sin_cache[at].unsqueeze(1)
        Q, K = rotate(Q, cos, sin, rotary_interleaved), rotate(K, cos, sin, rotary_interleaved)
    present_key, present_value = (_cached(past, x, positions, total) for past, x in ((past_key, K), (past_value, V)))
    left = local_window_size - 1 if local_window_size > 0 else -1
    mask = visible(new, total, before.reshape(-1, 1, 1, 1), left, 0 if causal else -1, Q.device)
    mask = mask & (torch.arange(total, device=Q.device) <= seqlens_k.reshape(-1, 1, 1, 1))
    biases = [additive(mask, Q)]
    biases = biases if attention_bias is None else [*biases, attention_bias[..., :total]]
    sink = head_sink if smooth_softmax != 1 else torch.zeros(num_heads, dtype=Q.dtype, device=Q.device)
    keys, values = present_key[:, :, :total], present_value[:, :, :total]
    Y = attend(Q, keys, values, sum(biases[1:], start=biases[0]), scale=scale or None, softcap=softcap, sink=sink).Y
    return merge_heads(Y), present_key, present_value


def _cached(past: Tensor | None, x: Tensor, positions: Tensor, total: int) -> Tensor:
    """Write new keys or values at their positions in a copy of the cache, enlarged to the whole sequence."""
    batch, heads, _, size = x.shape
    length = max(total, 0 if past is None else past.shape[2])
    cache = x.new_zeros(batch, heads, length, size)
    cache = cache if past is None else torch.cat([past, cache[:, :, past.shape[2] :]], 2)
    return cache.scatter(2, positions[:, None, :, None].expand_as(x), x)
