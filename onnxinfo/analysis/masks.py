"""Masks of counted units of a model's input."""

from __future__ import annotations

from ..inputs.unit_mask import NO_MASK, MaskSpec, UnitMask, find_unit_mask, open_unit_mask
from ..metrics.input_provider import InputProvider


def unit_mask_of(spec: MaskSpec | None, provider: InputProvider) -> UnitMask | None:
    """Return the mask of counted units for some samples; None if all count.

    Parameters
    ----------
    spec
        Mask given by the user; None: look for an attention mask among the inputs.
    provider
        Samples of all inputs.
    """
    shape = provider.perturbed([0]).shape[1:]
    if spec is None:
        return find_unit_mask(provider.samples, shape, provider.axes())
    if isinstance(spec, str) and spec == NO_MASK and spec not in provider.samples.inputs:
        return None
    return open_unit_mask(spec, provider.samples, provider.main, shape, provider.axes())
