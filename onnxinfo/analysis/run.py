"""The former place of :func:`onnxinfo.analyze`."""

from __future__ import annotations

from ..moved import forward

__getattr__ = forward(__name__, {"analyze": "analyze"})
