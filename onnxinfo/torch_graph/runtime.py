"""Reference for a model's values: a session that runs the graph as written, with one-line errors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import numpy.typing as npt
import onnx
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument, NotImplemented

from ..errors import InputError, ModelError, OnnxinfoError
from ..graph.batch_axes import declared_batch_axes
from ..graph.engine import Engine, reason
from ..graph.model import Model, ModelSource, load
from ..graph.reference_engine import ReferenceEngine
from ..graph.tensor_data import MEMORY
from ..graph.versions import is_too_new, lower
from ..graph.weights import detach_weights
from ..text import printable, quoted

Array = npt.NDArray[Any]
#: Engine whose values others are compared with.
Witness = Literal["ONNX Runtime", "ONNX's reference evaluator"]


class Session:
    """A model in ONNX Runtime on the CPU; in ONNX's reference evaluator if ONNX Runtime lacks its operators' versions.

    Graph optimizations are off: the nodes run exactly as in the file, so the bits of an output do not depend on which
    other tensors are outputs (fusing a convolution with its normalization, for example, rounds differently).

    Parameters
    ----------
    model
        See :func:`onnxinfo.load`.
    threads
        Number of threads; default: one per core.

    Attributes
    ----------
    inputs, outputs
        Names of the required graph inputs, and of the graph outputs.
    witness
        The engine that runs the model.

    Raises
    ------
    ModelError
        The model cannot be loaded, ONNX Runtime rejects it, or neither engine supports its operators.
    """

    witness: Witness = "ONNX Runtime"

    def __init__(self, model: ModelSource, *, threads: int | None = None) -> None:
        opened = load(model)
        loaded = opened.proto
        self._doubt = _doubt(opened)
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
            raise InputError(f"ONNX Runtime refuses the inputs: {self._with_advice(error)}") from None
        except OnnxinfoError:
            raise
        except Exception as error:
            raise ModelError(f"{self.witness} cannot run the model: {self._with_advice(error)}") from None
        return dict(zip(self.outputs, values, strict=True))

    def _with_advice(self, error: Exception) -> str:
        """The reason of an error, and what to try if it is about shapes."""
        why = reason(error)
        return why + self._doubt if re.search("shape|dimension|axis", why, re.I) else why


def _doubt(model: Model) -> str:
    """How to name the axis of the samples, if it is only assumed to be the first of several open ones."""
    several = [value.name for value in model.proto.graph.input if _has_several_open_axes(value)]
    # The flow of a large graph takes time.
    axes = declared_batch_axes(model, {}) if several else {}
    for name in several:
        if name in axes and axes[name].axis is not None and not axes[name].certain and name not in model.batch_axes:
            return (
                f"; if an axis of {quoted(name)} other than axis {axes[name].axis} holds the samples, give it with "
                f"batch_axis='{printable(name)}=AXIS'"
            )
    return ""


def _has_several_open_axes(value: onnx.ValueInfoProto) -> bool:
    dims = value.type.tensor_type.shape.dim
    return len(dims) in (2, 3) and sum(not dim.HasField("dim_value") for dim in dims) > 1


def _in_reference(model: onnx.ModelProto, refusal: str) -> ReferenceEngine:
    try:
        return ReferenceEngine(model)
    except Exception as error:
        raise ModelError(f"{refusal}; {printable(' '.join(str(error).split()))[:200]}") from None


def _check_memory(model: onnx.ModelProto) -> None:
    """Refuse a model with a single tensor larger than the machine's memory, as damaged models may have."""
    for value in (*model.graph.value_info, *model.graph.output):
        count = math.prod(dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.HasField("dim_value"))
        if 4 * count > MEMORY:
            raise ModelError(
                f"tensor {quoted(value.name)} has {count} elements, more than the machine's memory holds; "
                f"the model is damaged or needs a larger machine"
            )
