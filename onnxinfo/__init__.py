"""onnxinfo: how much of its input does each layer of a trained network discard?

The names below are the whole public interface. They are imported on first use, so ``import onnxinfo`` stays light.
"""

from __future__ import annotations

import importlib
from typing import Any

from .errors import (
    ArchiveError,
    ConversionError,
    InputError,
    ModelError,
    OnnxinfoError,
    UsageError,
    VerificationError,
)

__version__ = "0.1.0"

# Public name -> module that defines it, in the order in which data flows.
_LAZY = {
    "Model": "model",
    "load": "model",
    "Layer": "layers",
    "list_layers": "layers",
    "select_layers": "layers",
    "expose": "surgery",
    "extract": "surgery",
    "convert": "convert",
    "Samples": "samples",
    "open_samples": "inputs",
    "Progress": "analysis",
    "analyze": "analysis",
    "Archive": "archive",
    "Run": "archive",
    "open": "archive",
}

__all__ = [
    "ArchiveError",
    "ConversionError",
    "InputError",
    "ModelError",
    "OnnxinfoError",
    "UsageError",
    "VerificationError",
    "__version__",
    *_LAZY,
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'onnxinfo' has no attribute '{name}'")
    value = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
