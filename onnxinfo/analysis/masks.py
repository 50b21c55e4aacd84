"""Masks of counted units of a model's input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ..errors import InputError
from ..inputs.parts import join_parts
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
    if isinstance(spec, str) and spec == NO_MASK and spec not in provider.samples.inputs:
        return None
    parts = provider.described_parts()
    whole = (sum(part.size for part in parts),)
    if spec is None:
        found = {part.name: find_unit_mask(provider.samples, part.shape, part.axes) for part in parts}
        return _together({name: mask for name, mask in found.items() if mask is not None}, provider)
    fitting: dict[str, UnitMask] = {}
    misfits: list[InputError] = []
    for part in parts:
        try:
            fitting[part.name] = open_unit_mask(spec, provider.samples, provider.main, part.shape, part.axes)
        except InputError as error:
            misfits.append(error)
    if not fitting and provider.parts:
        return open_unit_mask(spec, provider.samples, provider.main, whole, provider.axes())
    if not fitting:
        raise misfits[0]
    return _together(fitting, provider)


def _together(found: Mapping[str, UnitMask], provider: InputProvider) -> UnitMask | None:
    """Join the masks of several tensors; all units of the others count."""
    first = next(iter(found.values()), None)
    if first is None or not provider.parts:
        return first
    count = len(provider)
    units = [
        found[part.name].units if part.name in found else np.ones((count, *part.shape), bool) for part in provider.parts
    ]
    return replace(first, units=join_parts(units))
