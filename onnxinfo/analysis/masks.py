"""Which units of a model's input count."""

from __future__ import annotations

from ..inputs.unit_mask import NO_MASK, MaskSpec, UnitMask, find_unit_mask, open_unit_mask
from ..metrics.feeds import Feeds


def unit_mask_of(spec: MaskSpec | None, feeds: Feeds) -> UnitMask | None:
    """Return which units of some samples count, or None where all do.

    Parameters
    ----------
    spec
        Of the user; None looks for an attention mask among the inputs.
    feeds
        The samples.
    """
    shape = feeds.perturbed([0]).shape[1:]
    if spec is None:
        return find_unit_mask(feeds.samples, shape, feeds.axes())
    if isinstance(spec, str) and spec == NO_MASK and spec not in feeds.samples.inputs:
        return None
    return open_unit_mask(spec, feeds.samples, feeds.main, shape, feeds.axes())
