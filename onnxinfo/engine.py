"""ONNX Runtime sessions on models in memory, of any size, without log noise."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from . import protos
from .text import printable

Array = npt.NDArray[Any]

# Tensors of at least this size are handed over beside the model, so that a model of any size fits one message.
_BESIDE_BYTES = 1 << 16
# Element types that numpy has itself.
_HANDED_OVER = {
    number
    for name, number in onnx.TensorProto.DataType.items()
    if re.fullmatch(r"U?INT(8|16|32|64)|FLOAT(16)?|DOUBLE|BOOL", name)
}


class Engine:
    """A model in ONNX Runtime on the CPU, its nodes run as they are written: no optimisation changes any bit.

    Parameters
    ----------
    proto
        A checked model.
    threads
        Number of threads; 0: one per core.

    Raises
    ------
    Exception
        Whatever ONNX Runtime raises when it refuses the model.
    """

    def __init__(self, proto: onnx.ModelProto, threads: int = 0) -> None:
        light, self._weights = _weights_beside(proto)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.use_deterministic_compute = True
        options.intra_op_num_threads = threads
        # Threads that spin while they wait take the cores from torch.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # The session reads the weights where they are: they have to live as long as it does.
        self._values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in self._weights.items()}
        if self._values:
            options.add_external_initializers(list(self._values), list(self._values.values()))
        data = light.SerializeToString()
        self.session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(self, feeds: Mapping[str, Array]) -> list[Any]:
        """Compute every graph output."""
        return list(self.session.run(None, dict(feeds)))


def _weights_beside(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A copy of a model whose large weights say they are elsewhere, and those weights by name."""
    proto = protos.copy_without(model, ("graph",))
    proto.graph.CopyFrom(protos.copy_without(model.graph, ("initializer",)))
    weights = {}
    for tensor in model.graph.initializer:
        if tensor.data_type in _HANDED_OVER and tensor.ByteSize() >= _BESIDE_BYTES:
            weights[tensor.name] = np.ascontiguousarray(onnx.numpy_helper.to_array(tensor))
            proto.graph.initializer.append(protos.stub(tensor))
        else:
            proto.graph.initializer.append(tensor)
    return proto, weights


def reason(error: Exception) -> str:
    """ONNX Runtime's message in one line, without its error numbers and source positions."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"^(Exception during initialization: )?(/\S+|\S+\.(cc|h)):\d+ (.*?\) (const )?)?", "", text)
    return printable(text)[:300]
