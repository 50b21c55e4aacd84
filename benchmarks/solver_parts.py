"""Replace functions and constants of SID's solver, to see what becomes of it without them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from onnxinfo.metrics import (
    ascent,
    certification,
    closed_form,
    constraint,
    gauss_newton,
    growth,
    problem,
    rounding,
    sid,
)

MODULES = (ascent, certification, closed_form, constraint, gauss_newton, growth, problem, rounding, sid)


@contextmanager
def replaced(**parts: Any) -> Iterator[None]:
    """Replace what the solver's modules know under these names, in each that knows it.

    Raises
    ------
    AttributeError
        If none of them does.
    """
    with ExitStack() as stack:
        for name, part in parts.items():
            users = [module for module in MODULES if hasattr(module, name)]
            if not users:
                raise AttributeError(f"no part of the solver is called {name}")
            for module in users:
                stack.enter_context(patch.object(module, name, part))
        yield
