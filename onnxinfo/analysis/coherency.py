"""The former place of :class:`onnxinfo.Coherency` and :func:`onnxinfo.coherency`."""

from __future__ import annotations

from ..moved import forward

__getattr__ = forward(__name__, {"Coherency": "workflows.coherency", "coherency": "workflows.coherency"})
