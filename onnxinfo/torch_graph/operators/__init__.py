"""ONNX operators as torch functions, by family; see :mod:`.table` for how to write one."""

from . import (  # noqa: F401
    activations,
    attention,
    cast,
    control,
    conv,
    detection,
    elementwise,
    indexing,
    linalg,
    losses,
    microsoft,
    microsoft_attention,
    microsoft_quantized,
    ml,
    ml_classifiers,
    normalization,
    pool,
    quantized,
    random,
    recurrent,
    reduce,
    resize,
    sampling,
    sequences,
    spectral,
    tensors,
)
from .table import TABLE, Converter, Entry, converter, operator

__all__ = ["TABLE", "Converter", "Entry", "converter", "operator"]
