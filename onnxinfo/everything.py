"""The former place of :class:`onnxinfo.Oneshot` and :func:`onnxinfo.oneshot`."""

from __future__ import annotations

from .moved import forward

__getattr__ = forward(__name__, {"Oneshot": "workflows.pipeline", "oneshot": "workflows.pipeline"})
