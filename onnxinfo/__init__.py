"""onnxinfo: how much of its input does each layer of a trained network discard?

The names below are the whole public interface. They are imported on first use, so ``import onnxinfo`` stays light.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
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
    "save": "model",
    "Layer": "layers",
    "list_layers": "layers",
    "perturbed_tensor": "layers",
    "select_layers": "layers",
    "expose": "surgery",
    "extract": "surgery",
    "convert": "convert",
    "Samples": "samples",
    "open_samples": "inputs",
    "Progress": "analysis",
    "Result": "analysis",
    "analyze": "analysis",
    "Archive": "archive",
    "Run": "archive",
    "open": "archive",
    "list_runs": "archive_runs",
    "rename_run": "archive_runs",
    "delete_run": "archive_runs",
    "merge": "archive_runs",
    "recover": "archive_runs",
    "validate": "archive_validate",
    "export": "archive_export",
    "query": "query",
    "plot_curve": "plot_curve",
    "plot_maps": "plot_maps",
    "demo": "demo",
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


class _Package(ModuleType):
    """The package, in which a module (``onnxinfo.query``) does not hide the function that is named like it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _LAZY and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


# The import system sets every imported submodule as an attribute of its package.
sys.modules[__name__].__class__ = _Package
