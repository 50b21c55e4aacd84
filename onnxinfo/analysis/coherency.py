"""The former place of :class:`onnxinfo.CoherencyResult` and :func:`onnxinfo.coherency`."""

from __future__ import annotations

from ..moved import forward

__getattr__ = forward(__name__, {"Coherency": "CoherencyResult", "coherency": "coherency"})
