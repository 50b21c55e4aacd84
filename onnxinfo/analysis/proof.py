"""What an archive keeps of a certificate: its numbers, and one mark that says why a cell is proven or not."""

from __future__ import annotations

import torch
from torch import Tensor

from ..archive.format import mark_code
from ..metrics.certificate import Certificate


def proof(certificate: Certificate, value: Tensor, dead: Tensor, coarse: Tensor | None = None) -> dict[str, Tensor]:
    """Return the columns of a certificate.

    Parameters
    ----------
    certificate
        Of S cells.
    value
        Their values, (S,).
    dead
        Samples at which the layer does not react to small noise, (S,) bool: there is no budget then.

    coarse
        Samples at which most of the deviation is rounding, (S,) bool; None: not known.

    Returns
    -------
    dict
        ``converged``, ``mark`` and the certificate's numbers, each (S,).
    """
    mark = torch.full(value.shape, mark_code("converged"), dtype=torch.uint8, device=value.device)
    # The last that holds counts.
    for name, holds in (
        ("saturated", certificate.saturated),
        ("gap", ~certificate.optimal),
        ("ratio", ~certificate.met),
        ("resolution", torch.zeros_like(dead) if coarse is None else coarse & ~certificate.saturated),
        ("not_finite", ~value.isfinite()),
        ("dead", dead & ~(certificate.saturated & value.isfinite())),
    ):
        mark = torch.where(holds, mark_code(name), mark)
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
