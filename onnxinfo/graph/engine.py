"""ONNX Runtime sessions for models in memory, of any size, without log noise."""

from __future__ import annotations

import ctypes
import math
import os
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from ..errors import UsageError
from ..outputs import protect
from ..text import printable, quoted
from . import protos
from .interruption import interruptible

Array = npt.NDArray[Any]

_libraries: list[str] = []


def register_ort_library(path: str | os.PathLike[str]) -> None:
    """Register a shared library of custom operators with ONNX Runtime for all models from now on.

    Its operators have no gradient: they run as constants of the graph. The library is code that runs in this process;
    only use libraries from sources that you trust.

    Parameters
    ----------
    path
        The library, as accepted by ONNX Runtime's ``SessionOptions.register_custom_ops_library``.

    Raises
    ------
    UsageError
        The file does not exist, or ONNX Runtime rejects it.

    Examples
    --------
    >>> onnxinfo.register_ort_library("libmissing.so")
    Traceback (most recent call last):
    onnxinfo.errors.UsageError: ...

    With ``onnxruntime-extensions``, whose operators are in the domain ``ai.onnx.contrib``:

    >>> import onnxruntime_extensions
    >>> onnxinfo.register_ort_library(onnxruntime_extensions.get_library_path())
    """
    library = os.path.abspath(os.fspath(path))
    if not os.path.isfile(library):
        raise UsageError(
            f"{quoted(path)} is not a file; expected a shared library of custom operators for ONNX Runtime"
        )
    try:
        onnxruntime.SessionOptions().register_custom_ops_library(library)
    except Exception as error:
        raise UsageError(f"ONNX Runtime takes no custom operators from {quoted(path)}: {reason(error)}") from None
    if library not in _libraries:
        _libraries.append(library)
        protect(library)


def libraries() -> tuple[str, ...]:
    """Paths of the libraries registered so far."""
    return tuple(_libraries)


class Engine:
    """A model in ONNX Runtime on the CPU. Nodes run exactly as written: no optimization changes any bit.

    On x86 processors without VNNI instructions, ONNX Runtime's products of uint8 and int8 numbers saturate at 16 bits.

    Parameters
    ----------
    proto
        A checked model that fits into one protobuf message.
    weights
        Data of its initializers that are marked as external.
    threads
        Number of threads; 0: one per core.
    is_wide
        Whether products with constant int8 weights are computed without saturation, which needs optimizations: nodes
        do not run exactly as written.

    Attributes
    ----------
    inputs, outputs
        Names of the required graph inputs, and of the graph outputs.

    Raises
    ------
    Exception
        Any error of ONNX Runtime when it rejects the model.
    """

    def __init__(
        self,
        proto: onnx.ModelProto,
        weights: Mapping[str, Array] = MappingProxyType({}),
        *,
        threads: int = 0,
        is_wide: bool = False,
    ) -> None:
        _check_empty(proto)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_EXTENDED if is_wide else levels.ORT_DISABLE_ALL
        if is_wide:
            options.add_session_config_entry("session.x64quantprecision", "1")
        options.use_deterministic_compute = True
        options.intra_op_num_threads = threads
        # Threads that spin while they wait would take the cores from torch.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        for library in _libraries:
            options.register_custom_ops_library(library)
        # The session reads the weights in place, so they must live as long as it does.
        self._weights = weights
        self._values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in weights.items()}
        if self._values:
            options.add_external_initializers(list(self._values), list(self._values.values()))
        data = proto.SerializeToString()
        self.session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.outputs = [value.name for value in self.session.get_outputs()]
        values = (*self.session.get_inputs(), *self.session.get_outputs())
        self._is_foreign = any(value.type in _FOREIGN for value in values)

    def run(self, feeds: Mapping[str, Array]) -> list[Any]:
        """Compute every graph output.

        Raises
        ------
        ModelError
            The computation exceeds the time limit.
        Exception
            Any error of ONNX Runtime.
        """
        options = onnxruntime.RunOptions()
        return interruptible(lambda: self._run(feeds, options), lambda: setattr(options, "terminate", True))

    def _run(self, feeds: Mapping[str, Array], options: onnxruntime.RunOptions) -> list[Any]:
        if not self._is_foreign:
            return list(self.session.run(None, dict(feeds), options))
        elements = {value.name: _FOREIGN.get(value.type) for value in self.session.get_inputs()}
        values = {name: _to_engine(array, elements.get(name)) for name, array in feeds.items()}
        return [_from_engine(value) for value in self.session.run_with_ort_values(None, values, options)]


# Operators whose kernels read beyond an empty tensor and crash the process.
_NOT_EMPTY = {"InstanceNormalization"}


def _check_empty(proto: onnx.ModelProto) -> None:
    """Refuse a node that would crash the process."""
    graph = proto.graph
    nodes = [node for node in protos.nested(graph.node) if node.op_type in _NOT_EMPTY and not node.domain]
    if not nodes:
        return
    values = (*graph.value_info, *graph.input, *graph.output)
    empty = {value.name for value in values if any(_is_zero(dim) for dim in value.type.tensor_type.shape.dim)}
    empty |= {tensor.name for tensor in graph.initializer if 0 in tensor.dims}
    for node in nodes:
        for name in node.input:
            if name in empty:
                raise ValueError(f"{node.op_type} of tensor {quoted(name)}, which has no elements, would crash it")


def _is_zero(dim: onnx.TensorShapeProto.Dimension) -> bool:
    return dim.HasField("dim_value") and dim.dim_value == 0


# Element types that numpy supports only through ml_dtypes; ONNX Runtime exchanges their bytes.
_FOREIGN = {
    f"tensor({name.lower()})": number
    for name, number in onnx.TensorProto.DataType.items()
    if name.startswith(("BFLOAT16", "FLOAT8"))
}


def _to_engine(array: Array, element: int | None) -> onnxruntime.OrtValue:
    if element is None:
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    raw = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(raw, element)


def _from_engine(value: onnxruntime.OrtValue) -> Any:
    element = _FOREIGN.get(value.data_type())
    if element is None:
        return value.numpy()
    dtype, shape = onnx.helper.tensor_dtype_to_np_dtype(element), value.shape()
    data = ctypes.string_at(value.data_ptr(), math.prod(shape) * dtype.itemsize)
    return np.frombuffer(data, dtype).reshape(shape)


def reason(error: Exception) -> str:
    """Reduce ONNX Runtime's message to one line, without error numbers, source positions and advice."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"(Exception during initialization: )?\S+\.(cc|h):\d+ (.*?\) (const )?)?", "", text)
    text = text.replace(" Please fix either the inputs/outputs or the model.", "")
    if "is not a registered function/op" in text:
        text += "; custom operators are given with onnxinfo.register_ort_library(...)"
    return printable(text)[:300]
