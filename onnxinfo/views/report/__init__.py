"""A self-contained HTML report of what was analyzed and of the results."""

from .page import report

__all__ = ["report"]
