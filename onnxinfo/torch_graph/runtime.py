"""ONNX Runtime as the yardstick: a session that runs a graph as it is written, quietly, with one-line errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import onnx
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from ..errors import InputError, ModelError, OnnxinfoError
from ..graph.engine import Engine, reason
from ..graph.model import ModelSource, load
from ..graph.tensor_data import MEMORY
from ..graph.weights import detach_weights
from ..text import quoted

Array = npt.NDArray[Any]


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
        try:
            loaded = load(model).proto
            _check_memory(loaded)
            proto, weights = detach_weights(loaded)
            arrays = {name: onnx.numpy_helper.to_array(tensor) for name, tensor in weights.items()}
            self._engine = Engine(proto, arrays, threads=threads or 0)
        except OnnxinfoError:
            raise
        except Exception as error:
            raise ModelError(f"ONNX Runtime refuses the model: {reason(error)}") from None
        self.inputs = [value.name for value in self._engine.session.get_inputs()]
        self.outputs = [value.name for value in self._engine.session.get_outputs()]

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
        missing = [name for name in self.inputs if name not in feeds]
        if missing:
            raise InputError(f"nothing is given for graph input {quoted(missing[0])}, expected {self.inputs}")
        try:
            values = self._engine.run(feeds)
        except InvalidArgument as error:
            raise InputError(f"ONNX Runtime refuses the inputs: {reason(error)}") from None
        except Exception as error:
            raise ModelError(f"ONNX Runtime cannot run the model: {reason(error)}") from None
        return dict(zip(self.outputs, values, strict=True))


def _check_memory(model: onnx.ModelProto) -> None:
    """Refuse a model one of whose tensors alone is larger than the machine's memory, as damaged ones can be."""
    for value in (*model.graph.value_info, *model.graph.output):
        count = math.prod(dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.HasField("dim_value"))
        if 4 * count > MEMORY:
            raise ModelError(
                f"tensor {quoted(value.name)} has {count} elements, more than the machine's memory holds; "
                f"the model is damaged or needs a larger machine"
            )
