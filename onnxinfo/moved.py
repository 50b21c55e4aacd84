"""Public names that are found where they were before, for one more release."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def forward(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a module's ``__getattr__`` for names that are elsewhere now.

    Parameters
    ----------
    module
        Name of the module.
    names
        The module of onnxinfo that each name is in now.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        warnings.warn(
            f"'{name}' of {module} is now onnxinfo.{name}; the next release drops the former place",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(importlib.import_module(f".{names[name]}", __package__), name)

    return find
