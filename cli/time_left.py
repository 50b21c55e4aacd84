"""Column of a progress bar: the time left as the analysis estimates it, else as the bar does."""

from __future__ import annotations

import math
import time
from datetime import timedelta

from rich.progress import ProgressColumn, Task
from rich.text import Text


def expected_end(remaining: float) -> float:
    """Monotonic time at which a stage ends, for the field ``until`` of its bar; NaN if unknown."""
    return time.monotonic() + remaining


class TimeLeft(ProgressColumn):
    """Time until the field ``until`` of a bar, counted down between its updates."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        """Render the time left, as 0:01:30."""
        until = task.fields["until"]
        left = until - time.monotonic() if math.isfinite(until) else task.time_remaining
        if task.finished or left is None:
            return Text("" if task.finished else "-:--:--", style="progress.remaining")
        shown = timedelta(seconds=max(1, math.ceil(left)))
        # Before the first step, the estimate comes from the time of one pass through the network.
        return Text(f"{shown}" if task.completed else f"about {shown}", style="progress.remaining")
