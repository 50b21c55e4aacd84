"""Samples that cannot be read and are left out, in words."""

from __future__ import annotations

import logging

from ..text import quoted
from .sample_sets import SampleSet

logger = logging.getLogger(__name__)

#: Maximum number of samples to name.
MOST_REPORTED = 10


def lines_left_out(samples: SampleSet, *, anonymous: bool = False) -> list[str]:
    """Return a line for each of the first samples that are left out, with the reason, and one for the rest.

    Parameters
    ----------
    samples
        Samples of all graph inputs.
    anonymous
        Whether to keep names secret.
    """
    found = samples.unreadable
    lines = [
        f"sample {'(anonymous)' if anonymous else quoted(name)} is left out: {reason}"
        for name, reason in found[:MOST_REPORTED]
    ]
    if len(found) > MOST_REPORTED:
        lines.append(f"{len(found) - MOST_REPORTED} more samples are left out")
    return lines


def report_left_out(samples: SampleSet, *, anonymous: bool = False) -> None:
    """Warn of the samples that are left out; parameters as for :func:`lines_left_out`."""
    for line in lines_left_out(samples, anonymous=anonymous):
        logger.warning("%s", line)
