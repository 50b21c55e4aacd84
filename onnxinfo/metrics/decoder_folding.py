"""Trained decoders in the form in which they are evaluated fastest."""

from __future__ import annotations

import copy

from torch import channels_last, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from .decoder import Decoder

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def folded(decoder: Decoder) -> Decoder:
    """Copy of a decoder for evaluation: batch norms are folded into the layers before them, images channels-last.

    The results are the same up to rounding. The copy has no gradients with respect to its weights and cannot be
    trained.
    """
    found = copy.deepcopy(decoder).eval().requires_grad_(False)
    for sequence in [module for module in found.modules() if isinstance(module, nn.Sequential)]:
        layers = list(sequence)
        for i, layer in enumerate(layers):
            if isinstance(layer, _NORMS):
                sequence[i - 1], sequence[i] = _merged(layers[i - 1], layer), nn.Identity()
    # Convolutions would otherwise convert their weights or their input at every call.
    return found.to(memory_format=channels_last) if len(found.plan.sides) == 2 else found


def _merged(layer: nn.Module, norm: nn.modules.batchnorm._BatchNorm) -> nn.Module:
    """Layer with the batch norm after it folded into its weights."""
    if isinstance(layer, nn.Linear):
        return fuse_linear_bn_eval(layer, norm)
    assert isinstance(layer, nn.modules.conv._ConvNd)
    return fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, _TRANSPOSED))
