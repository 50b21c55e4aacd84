"""Progress of long functions in notebooks: one bar for each stage, redrawn in place."""

from __future__ import annotations

import importlib
import math
import sys
import time
from collections.abc import Callable
from html import escape
from typing import Any

from ..analysis.settings import Progress, Report
from ..text import printable

#: Seconds between drawings of a stage; its first and last report are always drawn.
_INTERVAL = 0.2
_BAR = (
    '<div style="display:flex;gap:.8em;align-items:center;font-family:system-ui,sans-serif;'
    'font-size:13px;color:inherit"><span style="min-width:7em">{stage}</span>'
    '<progress value="{done}" max="{total}" style="width:16em" aria-label="{stage}"></progress>'
    '<span style="font-variant-numeric:tabular-nums">{text}</span></div>'
)


def reporting(progress: Report | None) -> Report:
    """Return the function to call with progress; by default, it draws bars in a notebook and else does nothing."""
    if progress is not None:
        return progress
    display = _notebook_display()
    return (lambda _: None) if display is None else Bars(display)


def _notebook_display() -> Callable[..., Any] | None:
    """Return IPython's ``display`` if the program runs in a notebook's kernel; IPython is not imported for this."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    # A notebook's kernel always has it, so it is no dependency.
    shown: Callable[..., Any] = importlib.import_module("IPython.display").display
    return shown


class Bars:
    """A bar for each stage.

    Parameters
    ----------
    display
        ``IPython.display.display``.
    clock
        Returns the time in seconds.
    """

    def __init__(self, display: Callable[..., Any], clock: Callable[[], float] = time.monotonic) -> None:
        self._display, self._clock = display, clock
        self._handles: dict[str, Any] = {}
        self._drawn: dict[str, float] = {}

    def __call__(self, progress: Progress) -> None:
        """Draw the bar of a stage as HTML, with plain text for other front ends."""
        stage, now = progress.stage, self._clock()
        is_last = progress.done >= progress.total
        if stage in self._handles and not is_last and now - self._drawn[stage] < _INTERVAL:
            return
        self._drawn[stage] = now
        text = _text(progress)
        html = _BAR.format(
            stage=escape(printable(stage)), done=progress.done, total=max(1, progress.total), text=escape(text)
        )
        shown = {"text/html": html, "text/plain": f"{printable(stage)}: {text}"}
        if stage in self._handles:
            self._handles[stage].update(shown, raw=True)
        else:
            self._handles[stage] = self._display(shown, raw=True, display_id=True)


def _text(progress: Progress) -> str:
    parts = [f"{progress.done} of {progress.total}"]
    if progress.done < progress.total and math.isfinite(progress.remaining):
        minutes, seconds = divmod(round(progress.remaining), 60)
        parts.append(f"about {minutes}:{seconds:02d} left")
    if progress.layer:
        value = f" {progress.value:.3f}" if math.isfinite(progress.value) else ""
        parts.append(f"{printable(progress.layer)}{value}")
    return ", ".join(parts)
