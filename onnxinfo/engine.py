"""ONNX Runtime sessions on models in memory, of any size, without log noise."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy.typing as npt
import onnx
import onnxruntime

from .text import printable

Array = npt.NDArray[Any]


class Engine:
    """A model in ONNX Runtime on the CPU, its nodes run as they are written: no optimisation changes any bit.

    Parameters
    ----------
    proto
        A checked model; it fits one protobuf message.
    weights
        Data of those of its initializers that say it is elsewhere.
    threads
        Number of threads; 0: one per core.

    Raises
    ------
    Exception
        Whatever ONNX Runtime raises when it refuses the model.
    """

    def __init__(
        self, proto: onnx.ModelProto, weights: Mapping[str, Array] = MappingProxyType({}), *, threads: int = 0
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.use_deterministic_compute = True
        options.intra_op_num_threads = threads
        # Threads that spin while they wait take the cores from torch.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # The session reads the weights where they are: they have to live as long as it does.
        self._weights = weights
        self._values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in weights.items()}
        if self._values:
            options.add_external_initializers(list(self._values), list(self._values.values()))
        data = proto.SerializeToString()
        self.session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(self, feeds: Mapping[str, Array]) -> list[Any]:
        """Compute every graph output."""
        return list(self.session.run(None, dict(feeds)))


def reason(error: Exception) -> str:
    """ONNX Runtime's message in one line, without its error numbers and source positions."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"^(Exception during initialization: )?(/\S+|\S+\.(cc|h)):\d+ (.*?\) (const )?)?", "", text)
    return printable(text)[:300]
