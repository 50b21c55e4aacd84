"""The former place of :class:`onnxinfo.OneshotResult` and :func:`onnxinfo.oneshot`."""

from __future__ import annotations

from .moved import forward

__getattr__ = forward(__name__, {"Oneshot": "OneshotResult", "oneshot": "oneshot"})
