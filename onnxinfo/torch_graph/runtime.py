"""The witness of what a model computes: a session that runs a graph as it is written, with one-line errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy.typing as npt
import onnx
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument, NotImplemented

from ..errors import InputError, ModelError, OnnxinfoError
from ..graph.engine import Engine, reason
from ..graph.model import ModelSource, load
from ..graph.reference_engine import ReferenceEngine
from ..graph.tensor_data import MEMORY
from ..graph.versions import is_too_new, lower
from ..graph.weights import detach_weights
from ..text import printable, quoted

Array = npt.NDArray[Any]
#: What computes a model's values, to compare others with.
Witness = Literal["ONNX Runtime", "ONNX's reference evaluator"]


class Session:
    """A model in ONNX Runtime on the CPU; where that has no version of its operators, in ONNX's reference evaluator.

    Graph optimizations are off: the nodes run as the file has them, so the bits of an output do not depend on which
    other tensors are outputs too (fusing a convolution with its normalization, for one, rounds differently).

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
    witness
        What runs the model.

    Raises
    ------
    ModelError
        The model cannot be loaded, ONNX Runtime refuses it, or neither of the two has its operators.
    """

    witness: Witness = "ONNX Runtime"

    def __init__(self, model: ModelSource, *, threads: int | None = None) -> None:
        loaded = load(model).proto
        _check_memory(loaded)
        light, weights = detach_weights(loaded)
        lower(light)
        self._engine: Engine | ReferenceEngine
        try:
            arrays = {name: onnx.numpy_helper.to_array(tensor) for name, tensor in weights.items()}
            self._engine = Engine(light, arrays, threads=threads or 0)
        except Exception as error:
            refusal = f"ONNX Runtime refuses the model: {reason(error)}"
            if not isinstance(error, NotImplemented) and not is_too_new(light):
                raise ModelError(refusal) from None
            self._engine, self.witness = _in_reference(loaded, refusal), "ONNX's reference evaluator"
        self.inputs, self.outputs = self._engine.inputs, self._engine.outputs

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
        except OnnxinfoError:
            raise
        except Exception as error:
            raise ModelError(f"{self.witness} cannot run the model: {reason(error)}") from None
        return dict(zip(self.outputs, values, strict=True))


def _in_reference(model: onnx.ModelProto, refusal: str) -> ReferenceEngine:
    try:
        return ReferenceEngine(model)
    except Exception as error:
        raise ModelError(f"{refusal}; {printable(' '.join(str(error).split()))[:200]}") from None


def _check_memory(model: onnx.ModelProto) -> None:
    """Refuse a model one of whose tensors alone is larger than the machine's memory, as damaged ones can be."""
    for value in (*model.graph.value_info, *model.graph.output):
        count = math.prod(dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.HasField("dim_value"))
        if 4 * count > MEMORY:
            raise ModelError(
                f"tensor {quoted(value.name)} has {count} elements, more than the machine's memory holds; "
                f"the model is damaged or needs a larger machine"
            )
