"""Which units of a model's input count."""

from __future__ import annotations

from ..inputs.unit_mask import NO_MASK, MaskSpec, UnitMask, find_unit_mask, open_unit_mask
from ..metrics.input_provider import InputProvider


def unit_mask_of(spec: MaskSpec | None, provider: InputProvider) -> UnitMask | None:
    """Return which units of some samples count, or None where all do.

    Parameters
    ----------
    spec
        Of the user; None looks for an attention mask among the inputs.
    provider
        The samples.
    """
    shape = provider.perturbed([0]).shape[1:]
    if spec is None:
        return find_unit_mask(provider.samples, shape, provider.axes())
    if isinstance(spec, str) and spec == NO_MASK and spec not in provider.samples.inputs:
        return None
    return open_unit_mask(spec, provider.samples, provider.main, shape, provider.axes())
