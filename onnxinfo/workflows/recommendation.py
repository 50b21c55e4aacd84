"""What recommendations have in common: they are saved as JSON for the tools that act on them."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from typing import Any

from ..kinds import JSON
from ..outputs import claim


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
