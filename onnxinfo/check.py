"""The former place of :class:`onnxinfo.Check` and :func:`onnxinfo.check_model`."""

from __future__ import annotations

from .moved import forward

__getattr__ = forward(__name__, {"Check": "workflows.check", "check_model": "workflows.check"})
