"""A model as exported from a framework, and the check that it computes what the framework computes."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from ..errors import ModelError, UsageError
from ..text import printable
from .engine import Engine, reason

Array = npt.NDArray[Any]
#: Largest difference of an output, relative to its largest magnitude: kernels add in different orders.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Exported:
    """An exported model.

    Attributes
    ----------
    proto
        The model.
    name
        Name of the model: that of its class, or its own.
    how
        What exported it, with versions.
    feeds
        Example inputs by graph input.
    expected
        What the framework computes for them, in the order of the graph outputs; outputs that are no arrays are None.
    share
        Share of the rows of each output that must agree; below 1 for trees, whose thresholds are rounded to float32.
    """

    proto: onnx.ModelProto
    name: str
    how: str
    feeds: Mapping[str, Array]
    expected: Sequence[Array | None]
    share: float = 1.0


def check_outputs(exported: Exported) -> None:
    """Check that the exported model computes what the framework computes, and so has the same weights.

    Raises
    ------
    ModelError
        It does not run, or its outputs differ.
    """
    try:
        found = Engine(exported.proto).run(exported.feeds)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"the model exported from {exported.name} does not run: {reason(error)}") from None
    if len(found) != len(exported.expected):
        raise ModelError(
            f"the model exported from {exported.name} has {len(found)} outputs, expected {len(exported.expected)}; "
            "export it yourself and give the file"
        )
    for position, (actual, expected) in enumerate(zip(found, exported.expected, strict=True)):
        if expected is not None and not agree(np.asarray(actual), expected, exported.share):
            raise ModelError(
                f"the model exported from {exported.name} computes other values than it in output {position}; "
                "export it yourself and give the file"
            )


def agree(actual: Array, expected: Array, share: float = 1.0) -> bool:
    """Tell whether two computations of an output agree in at least a share of their rows.

    A vector may be a row or a column.

    Examples
    --------
    >>> agree(np.ones((2, 3)), np.ones((2, 3)) + 1e-6), agree(np.ones(2), np.zeros(2)), agree(np.ones(2), np.ones(3))
    (True, False, False)
    """
    if max(actual.shape, default=1) == actual.size == expected.size == max(expected.shape, default=1):
        actual = actual.reshape(expected.shape)
    if actual.shape != expected.shape:
        return False
    if expected.dtype.kind not in "biufc":
        near = actual.astype(str) == expected.astype(str)
    else:
        scale = float(np.abs(np.nan_to_num(expected.astype(np.float64))).max(initial=0))
        near = np.isclose(actual.astype(np.float64), expected.astype(np.float64), 0, _TOLERANCE * scale, equal_nan=True)
    rows = near.reshape(len(near), -1).all(axis=1) if near.ndim else near.reshape(1)
    return not rows.size or float(rows.mean()) >= share


def needed(package: str, kind: str) -> Any:
    """Import the exporter of a framework.

    Raises
    ------
    UsageError
        It is not installed; the message has the command.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UsageError(f"to export {kind}, {package} is needed: pip install {package}") from None


def failure(what: str, error: BaseException, remedy: str = "export it yourself and give the ONNX file") -> ModelError:
    """Return an exporter's error as one line: the first line of its original cause."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(cause))
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    # Keras begins with the place, in a line that says nothing about the reason.
    lines = [line for line in lines if not line.startswith("Exception encountered")] or lines
    text = printable(lines[0])[:300] if lines else type(cause).__name__
    return ModelError(f"{what}: {text}; {remedy}")
