"""Archive columns of a certificate: its numbers, and one mark that says why a cell is proven or not."""

from __future__ import annotations

import torch
from torch import Tensor

from ..archive.format import mark_code
from ..metrics.certificate import Certificate

#: Marks of unproven cells that the saturation of the layer's own values explains.
_EXPLAINED = ("ratio", "gap", "dead")


def proof(
    certificate: Certificate,
    value: Tensor,
    dead: Tensor,
    coarse: Tensor | None = None,
    saturated_output: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the columns of a certificate.

    Parameters
    ----------
    certificate
        Certificate of S cells.
    value
        Values of the cells, (S,).
    dead
        Samples at which small noise does not change the layer, (S,) bool: they have no budget.
    coarse
        Samples at which most of the deviation is rounding, (S,) bool; None: unknown.
    saturated_output
        Samples at which the layer's own values are saturated, (S,) bool; None: at none.

    Returns
    -------
    dict
        ``converged``, ``mark`` and the certificate's numbers, each (S,).
    """
    limited = torch.zeros_like(dead) if coarse is None else coarse & ~certificate.saturated
    mark = torch.full(value.shape, mark_code("converged"), dtype=torch.uint8, device=value.device)
    # The last condition that holds determines the mark.
    for name, holds in (
        ("saturated", certificate.saturated),
        ("gap", ~certificate.optimal),
        ("ratio", ~certificate.met),
        ("resolution", limited),
        ("not_finite", ~value.isfinite() & ~limited),
        ("dead", dead & ~(certificate.saturated & value.isfinite())),
    ):
        mark = torch.where(holds, mark_code(name), mark)
    if saturated_output is not None:
        explained = torch.isin(mark, mark.new_tensor([mark_code(name) for name in _EXPLAINED]))
        mark = torch.where(saturated_output & explained, mark_code("saturated_output"), mark)
    converged = (mark == mark_code("converged")) | (mark == mark_code("saturated"))
    return {
        "converged": converged,
        "mark": mark.to(torch.uint8),
        "ratio": certificate.ratio,
        "ratio_stderr": certificate.ratio_stderr,
        "gap": certificate.gap,
        "gain": certificate.gain,
        "gain_stderr": certificate.gain_stderr,
        "exponent": certificate.exponent,
    }
