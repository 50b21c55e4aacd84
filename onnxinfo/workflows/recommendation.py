"""What recommendations have in common: they are saved as JSON for the tools that act on them."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any

from ..config import PARALLEL, entries, refuse_idle
from ..errors import UsageError
from ..kinds import JSON
from ..outputs import claim
from ..text import quoted
from .computing import IN_ONE_PROCESS
from .open_job import Opened


def check_idle(given: Collection[str]) -> None:
    """Refuse settings that a recommendation does not depend on, by flat name."""
    refuse_idle(given, PARALLEL, IN_ONE_PROCESS)
    solver = [each.setting.flat for each in entries("sid") if each.setting.flat != "seed"]
    refuse_idle(given, ["change", "measure", *solver], "on a recommendation")


def refuse_parts(opened: Opened, what: str) -> None:
    """Refuse parts of layers in a recommendation about whole tensors."""
    parts = opened.job.provider.model.parts
    if part := next((name for name in sorted(opened.shown) if name in parts), None):
        raise UsageError(f"{what} are of whole tensors: leave out the part {quoted(part)}")


class Recommendation(ABC):
    """A recommendation that a JSON file can hold."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return what the file holds."""

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write :meth:`to_dict` to a JSON file.

        Parameters
        ----------
        path
            The file. An existing JSON file is replaced, other files are not.
        force
            Replace an existing file whatever it contains.

        Raises
        ------
        UsageError
            The file cannot be replaced.
        """
        with claim(path, JSON, force=force).writing() as part:
            part.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
