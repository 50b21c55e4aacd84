"""Padding of sliding windows, for convolution and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

Numbers = tuple[int, ...]


@dataclass(frozen=True)
class Windows:
    """Positions of the windows of a convolution or pooling; each field has one number per spatial axis.

    Parameters
    ----------
    kernel, strides, dilations
        As defined by ONNX.
    before, after
        Padding at the start and the end of each axis.
    """

    kernel: Numbers
    strides: Numbers
    dilations: Numbers
    before: Numbers
    after: Numbers

    @property
    def symmetric(self) -> bool:
        """Whether torch's own padding arguments can express the padding."""
        return self.before == self.after and min(self.before) >= 0

    @property
    def extents(self) -> Numbers:
        """Number of elements of an axis that a window spans."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))


def windows(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    auto_pad: str,
    pads: Sequence[int] | None,
) -> Windows:
    """Apply ONNX's defaults and resolve ``auto_pad`` for spatial axes of the given sizes."""
    kernel, rank = tuple(kernel), len(kernel)
    strides = tuple(strides or (1,) * rank)
    dilations = tuple(dilations or (1,) * rank)
    if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        pads = tuple(pads) if pads and auto_pad != "VALID" else (0,) * (2 * rank)
        return Windows(kernel, strides, dilations, pads[:rank], pads[rank:])
    missing = [
        max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    less = tuple(m // 2 for m in missing)
    more = tuple(m - m // 2 for m in missing)
    return Windows(kernel, strides, dilations, *((less, more) if auto_pad == "SAME_UPPER" else (more, less)))


def pad_spatial(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    """Pad (or crop, with negative numbers) the last axes of a tensor."""
    amounts = [amount for pair in zip(reversed(before), reversed(after), strict=True) for amount in pair]
    return functional.pad(x, amounts, value=value)
