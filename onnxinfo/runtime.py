"""ONNX Runtime as the yardstick: a session that runs a graph as it is written, quietly, with one-line errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import onnx
import onnxruntime

from . import protos
from .errors import InputError, ModelError
from .model import ModelSource, load
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


class Session:
    """A model in ONNX Runtime on the CPU.

    Graph optimisations are off: the nodes run as the file has them, so the bits of an output do not depend on which
    other tensors are outputs too (fusing a convolution with its normalisation, for one, rounds differently).

    Parameters
    ----------
    model
        See :func:`onnxinfo.load`.
    threads
        Number of threads; default: one per core.

    Attributes
    ----------
    inputs, outputs
        Names of the graph inputs that have to be given, and of the graph outputs.

    Raises
    ------
    ModelError
        The model cannot be loaded, or ONNX Runtime refuses it.
    """

    def __init__(self, model: ModelSource, *, threads: int | None = None) -> None:
        proto, self._weights = _set_weights_aside(load(model).proto)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.use_deterministic_compute = True
        options.intra_op_num_threads = threads or 0
        # Threads that spin while they wait take the cores from torch.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # The session reads the weights where they are: they have to live as long as it does.
        self._values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in self._weights.items()}
        if self._values:
            options.add_external_initializers(list(self._values), list(self._values.values()))
        try:
            self._session = onnxruntime.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ModelError(f"ONNX Runtime refuses the model: {_reason(error)}") from None
        self.inputs = [value.name for value in self._session.get_inputs()]
        self.outputs = [value.name for value in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute every graph output.

        Parameters
        ----------
        feeds
            Arrays by the names of the graph inputs.

        Returns
        -------
        dict
            Arrays by the names of the graph outputs.

        Raises
        ------
        InputError
            The feeds do not fit the graph inputs.
        ModelError
            A node fails.
        """
        try:
            values = self._session.run(None, dict(feeds))
        except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument as error:
            raise InputError(f"ONNX Runtime refuses the inputs: {_reason(error)}") from None
        except Exception as error:
            raise ModelError(f"ONNX Runtime cannot run the model: {_reason(error)}") from None
        return dict(zip(self.outputs, values, strict=True))


def _set_weights_aside(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A copy of a model whose large weights say they are elsewhere, and those weights by name."""
    proto = protos.copy_without(model, ("graph",))
    proto.graph.CopyFrom(protos.copy_without(model.graph, ("initializer",)))
    weights = {}
    for tensor in model.graph.initializer:
        if tensor.data_type in _HANDED_OVER and tensor.ByteSize() >= _BESIDE_BYTES:
            weights[tensor.name] = onnx.numpy_helper.to_array(tensor)
            stub = proto.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            stub.data_location = onnx.TensorProto.EXTERNAL
            stub.external_data.add(key="location", value="memory")
        else:
            proto.graph.initializer.append(tensor)
    return proto, weights


def _reason(error: Exception) -> str:
    """ONNX Runtime's message in one line, without its error numbers and source positions."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"^(Exception during initialization: )?(/\S+|\S+\.(cc|h)):\d+ (.*?\) (const )?)?", "", text)
    return printable(text)[:300]
