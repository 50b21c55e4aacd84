"""The former place of :class:`onnxinfo.ModelCheck` and :func:`onnxinfo.check_model`."""

from __future__ import annotations

from .moved import forward

__getattr__ = forward(__name__, {"Check": "ModelCheck", "check_model": "check_model"})
