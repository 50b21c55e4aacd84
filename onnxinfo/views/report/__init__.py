"""One self-contained HTML file that says what was analyzed and what came out."""

from .page import report

__all__ = ["report"]
