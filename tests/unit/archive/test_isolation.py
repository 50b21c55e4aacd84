"""The child process that tests a file is a copy of this one, with one thread."""

from __future__ import annotations

import gc
import os
from pathlib import Path

from onnxinfo.archive.isolation import survives


class Garbage:
    """An object that refers to itself and, when it is collected, notes the process."""

    def __init__(self, note: Path) -> None:
        self.itself, self.note = self, note

    def __del__(self) -> None:
        self.note.write_text(str(os.getpid()))


def test_the_child_does_not_collect_the_garbage_of_its_parent(tmp_path: Path) -> None:
    """A session of ONNX Runtime, for example, waits for its threads, which the child does not have."""
    made = Garbage(tmp_path / "note")
    # From now on it belongs to the oldest objects, which are examined last.
    gc.collect()
    del made
    assert survives(lambda: [[] for _ in range(10**6)])
    assert not (tmp_path / "note").exists()
    gc.collect()
    assert (tmp_path / "note").read_text() == str(os.getpid())
