"""The former place of :func:`onnxinfo.demo`."""

from __future__ import annotations

from .moved import forward

__getattr__ = forward(__name__, {"demo": "demo"})
