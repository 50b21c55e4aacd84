"""Convolutions."""

from __future__ import annotations

import torch
from torch import Tensor

from .bounds import check_shape
from .table import Ints, operator
from .windows import Windows, pad_spatial, windows


@operator()
def Conv(X, W, B=None, *, auto_pad="NOTSET", dilations=None, group=1, kernel_shape=None, pads=None, strides=None):
    w = windows(X.shape[2:], W.shape[2:], strides, dilations, auto_pad, pads)
    if w.symmetric:
        return convolution(X, W, B, w, w.before, group)
    return convolution(pad_spatial(X, w.before, w.after), W, B, w, [0] * len(w.kernel), group)


def convolution(X: Tensor, W: Tensor, B: Tensor | None, w: Windows, padding, group: int, transposed=False) -> Tensor:
    """Call torch's convolution for any rank; ``padding`` applies to both sides of each axis."""
    return torch.convolution(X, W, B, w.strides, padding, w.dilations, transposed, [0] * len(w.kernel), group)


@operator()
def ConvTranspose(
    X,
    W,
    B=None,
    *,
    auto_pad="NOTSET",
    dilations=None,
    group=1,
    kernel_shape=None,
    output_padding=None,
    output_shape=None,
    pads=None,
    strides=None,
):
    w = windows(X.shape[2:], W.shape[2:], strides, dilations, "NOTSET", pads)
    output_padding = output_padding or [0] * len(w.kernel)
    if auto_pad.startswith("SAME") and not output_shape:
        output_shape = [n * s for n, s in zip(X.shape[2:], w.strides, strict=True)]
    full = [(n - 1) * s + extent for n, s, extent in zip(X.shape[2:], w.strides, w.extents, strict=True)]
    before, after = list(w.before), list(w.after)
    if output_shape:
        # The standard counts output_padding as part of the transposed convolution's result.
        total = [f + o - n for f, o, n in zip(full, output_padding, output_shape[-len(full) :], strict=True)]
        half = [t // 2 for t in total]
        rest = [t - h for t, h in zip(total, half, strict=True)]
        before, after = (half, rest) if auto_pad == "SAME_UPPER" else (rest, half)
    after = [a - o for a, o in zip(after, output_padding, strict=True)]
    if before == after and min(after) >= 0:
        return convolution(X, W, B, w, after, group, transposed=True)
    # Where output padding extends beyond all windows, the output is the bias alone.
    y = convolution(X, W, None, w, [0] * len(w.kernel), group, transposed=True)
    y = pad_spatial(y, [-b for b in before], [-a for a in after])
    return y if B is None else y + B.reshape(-1, *[1] * len(w.kernel))


@operator()
def DeformConv(
    X,
    W,
    offset,
    B=None,
    mask=None,
    *,
    dilations=None,
    group=1,
    kernel_shape=None,
    offset_group=1,
    pads=None,
    strides=None,
):
    from torchvision.ops import deform_conv2d

    if X.dim() != 4:
        raise NotImplementedError(f"DeformConv of an input with {X.dim()} axes; expected 4 (images)")
    check_shape("W", W, (W.shape[0], X.shape[1] // group, *W.shape[2:]))
    if B is not None:
        check_shape("B", B, W.shape[:1])
    w = windows(X.shape[2:], W.shape[2:], strides, dilations, "NOTSET", pads)
    X = pad_spatial(X, w.before, w.after)
    return deform_conv2d(X, offset, W, B, tuple(w.strides), 0, tuple(w.dilations), mask)


@operator()
def Col2Im(input, image_shape: Ints, block_shape: Ints, *, dilations=None, pads=None, strides=None):
    w = windows(image_shape, block_shape, strides, dilations, "NOTSET", pads)
    sizes = [n + b + a for n, b, a in zip(image_shape, w.before, w.after, strict=True)]
    flat = torch.zeros(1, 1, dtype=torch.int64, device=input.device)
    for size, k, s, d, extent in zip(sizes, w.kernel, w.strides, w.dilations, w.extents, strict=True):
        starts = torch.arange(0, size - extent + 1, s, device=input.device)
        positions = torch.arange(0, k * d, d, device=input.device).unsqueeze(-1) + starts
        # Rows are positions in the window, columns are windows, as in the input's last two axes.
        flat = (flat[:, None, :, None] * size + positions[None, :, None, :]).flatten(2).flatten(0, 1)
    blocks = input.reshape(input.shape[0], -1, flat.numel())
    image = blocks.new_zeros(*blocks.shape[:2], torch.Size(sizes).numel()).index_add(2, flat.flatten(), blocks)
    return pad_spatial(image.unflatten(2, sizes), [-b for b in w.before], [-a for a in w.after])
