"""Names from an earlier release, which work for one more release with a warning that names their replacement."""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from .errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")


class FormerNameWarning(DeprecationWarning):
    """A name from an earlier release is used."""


def warn_former(text: str) -> None:
    """Warn that a former name is used, at the line outside onnxinfo that uses it."""
    frame: FrameType = sys._getframe()
    while frame.f_back is not None and _is_internal(frame):
        frame = frame.f_back
    where = frame.f_globals
    registry = where.setdefault("__warningregistry__", {})
    warnings.warn_explicit(
        text, FormerNameWarning, frame.f_code.co_filename, frame.f_lineno, where.get("__name__"), registry
    )


def warn_renamed(former: str, present: str) -> None:
    """Warn that something was renamed; both names as the user writes them."""
    warn_former(f"{former} is now called {present}; the next release drops the former name")


def present_names(given: Mapping[str, Any], former: Mapping[str, str]) -> dict[str, Any]:
    """Map values given by former names to current names.

    Parameters
    ----------
    given
        Values by current or former name.
    former
        Current name of each former one.

    Raises
    ------
    UsageError
        A value is given under both names.

    Warns
    -----
    FormerNameWarning
        A former name is used.
    """
    found = dict(given)
    for name in [name for name in found if name in former]:
        present = former[name]
        if present in found:
            raise UsageError(f"'{name}' is the former name of '{present}': leave it out")
        warn_renamed(f"'{name}'", f"'{present}'")
        found[present] = found.pop(name)
    return found


def renamed_keywords(**former: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function to accept keywords of an earlier release; see :func:`present_names`."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            names: Any = kwargs
            if any(name in former for name in kwargs):
                names = present_names(kwargs, former)
            return function(*args, **names)

        return call

    return decorate


def forward(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a module's ``__getattr__`` for names that have been moved or renamed.

    Parameters
    ----------
    module
        Name of the module.
    names
        Current location of each name, such as ``ModelCheck`` for ``onnxinfo.ModelCheck``.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        home, _, present = f"{__package__}.{names[name]}".rpartition(".")
        warn_former(f"'{name}' of {module} is now {home}.{present}; the next release drops the former name")
        return getattr(importlib.import_module(home), present)

    return find


def _is_internal(frame: FrameType) -> bool:
    """Whether code belongs to onnxinfo or acts for it: import machinery and copies of configuration objects."""
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in (__package__, "importlib", "dataclasses")
