"""ONNX operators as torch functions, in families; see :mod:`onnxinfo.operators.table` for how they are written."""

from . import attention, control, detection, random, recurrent, sequences, spectral, tensors  # noqa: F401
from .table import TABLE, Entry, converter, initializer_value, operator, registered

__all__ = ["TABLE", "Entry", "converter", "initializer_value", "operator", "registered"]
