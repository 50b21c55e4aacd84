"""Samples as feeds of the graph: the analysis input, and all other inputs that the layers depend on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from ..errors import InputError, ModelError
from ..graph.channels import Axes, input_layout, tensor_axes
from ..graph.dataflow import Dataflow
from ..graph.model import Model
from ..graph.surgery import expose_only
from ..inputs.axes import Layout
from ..inputs.deviation import deviation, evenly_spread, without_zeros
from ..inputs.opening import Spec
from ..inputs.sample_sets import SampleSet, open_inputs
from ..inputs.samples import Samples
from ..text import printable, quoted
from ..torch_graph.runtime import Session

Array = npt.NDArray[Any]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GraphInput:
    """A graph input: name, element type, batch size (None: any), shape of one sample, position of the channel axis."""

    name: str
    dtype: np.dtype[Any]
    batch: int | None
    shape: tuple[int | str | None, ...]
    layout: Layout


def graph_inputs(model: Model) -> list[GraphInput]:
    """Graph inputs that must be fed, in order.

    Raises
    ------
    InputError
        An input is not a tensor of known rank.
    """
    given = {initializer.name for initializer in model.proto.graph.initializer}
    flow = model.flow
    return [_graph_input(info, flow) for info in model.proto.graph.input if info.name not in given]


def _graph_input(info: onnx.ValueInfoProto, flow: Dataflow) -> GraphInput:
    tensor = info.type.tensor_type
    if not info.type.HasField("tensor_type") or not tensor.HasField("shape") or not tensor.shape.dim:
        raise InputError(f"graph input '{info.name}' is not a tensor with a batch axis; it cannot be given samples")
    sizes = [d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in tensor.shape.dim]
    batch = sizes[0] if isinstance(sizes[0], int) and sizes[0] > 0 else None
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return GraphInput(info.name, dtype, batch, tuple(sizes[1:]), input_layout(flow, info.name))


def open_samples_of(
    model: Model, specs: Spec | Mapping[str, Spec], *, layout: Layout = "auto", **options: Any
) -> SampleSet:
    """Open the samples of all graph inputs of a model.

    Parameters
    ----------
    model
        A loaded model.
    specs, **options
        As for :func:`.inputs.sample_sets.open_inputs`.
    layout
        Position of the model's channel axis; ``auto``: inferred from its operators.

    Raises
    ------
    InputError, UsageError
        As raised by it.
    """
    inputs = graph_inputs(model)
    declared = {i.name: (i.shape, i.dtype) for i in inputs}
    layouts = {i.name: i.layout if layout == "auto" else layout for i in inputs}
    return open_inputs(specs, declared, layouts, **options)


@dataclass
class InputProvider:
    """Samples of all graph inputs, and the analysis input computed from them.

    Parameters
    ----------
    model
        The whole model.
    samples
        Samples of all graph inputs.
    input_tensor
        The analysis input: a graph input or any float tensor.
    counted
        Counted units of the analysis input, (samples, *shape) of bool; None: all. The others, such as padding, do not
        contribute to the unit.

    Attributes
    ----------
    fixed_batch
        Batch size that the model was exported for; None: any.
    """

    model: Model
    samples: SampleSet
    input_tensor: str
    counted: npt.NDArray[np.bool_] | None = None
    fixed_batch: int | None = field(init=False)
    _types: dict[str, np.dtype[Any]] = field(init=False)
    _session: Session | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        inputs = graph_inputs(self.model)
        self.fixed_batch = next((i.batch for i in inputs if i.batch is not None), None)
        self._types = {i.name: i.dtype for i in inputs}
        if self.input_tensor not in self.samples.inputs:
            self._session = Session(expose_only(self.model, [self.input_tensor]))

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def declared(self) -> np.dtype[Any]:
        """Element type of the analysis input in the model."""
        element = self.model.flow.element_type(self.input_tensor)
        return onnx.helper.tensor_dtype_to_np_dtype(element or onnx.TensorProto.FLOAT)

    @property
    def main(self) -> Samples:
        """Samples that provide names, labels and pictures: those of the analysis input, else of the first input."""
        return self.samples.inputs.get(self.input_tensor, self.samples.first)

    def given(self, names: Iterable[str], indices: Sequence[int]) -> dict[str, Array]:
        """Samples of graph inputs in the types that the model declares, each (len(indices), ...)."""
        with np.errstate(over="ignore"):  # 16-bit overflow makes a layer infinite, which is reported
            return {name: self.samples.inputs[name].batch(indices).astype(self._types[name]) for name in names}

    def run(self, session: Session, indices: Sequence[int]) -> dict[str, Array]:
        """Outputs of a session for some samples, for any batch size of the model."""
        feeds = self.given(session.inputs, indices)
        size = self.fixed_batch
        if size is None:
            return session.run(feeds)
        parts = []
        for start in range(0, len(indices), size):
            part = {name: array[start : start + size] for name, array in feeds.items()}
            count = len(next(iter(part.values()))) if part else size
            filled = {name: _filled(array, size) for name, array in part.items()}
            parts.append({name: value[:count] for name, value in session.run(filled).items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def run_alone(self, session: Session, index: int) -> dict[str, Array]:
        """Outputs of a session for one sample, unchanged: not every tensor has the batch as its first axis."""
        feeds = self.given(session.inputs, [index])
        return session.run({name: _filled(array, self.fixed_batch or 1) for name, array in feeds.items()})

    def perturbed(self, indices: Sequence[int]) -> Array:
        """Analysis input of some samples, (len(indices), *shape): float64 if that is its type, else float32."""
        if self._session is None:
            return self.samples.inputs[self.input_tensor].batch(indices)
        if self._separately:
            values = np.concatenate([self.run(self._session, [index])[self.input_tensor] for index in indices])
        else:
            values = self.run(self._session, indices)[self.input_tensor]
        return values.astype(np.float64 if values.dtype == np.float64 else np.float32)

    @cached_property
    def _separately(self) -> bool:
        """Whether samples have to be computed one by one because the results of a batch depend on all of them.

        Raises
        ------
        ModelError
            The model's batch size is fixed above one, so no sample can be computed alone.
        """
        assert self._session is not None
        some = sorted({0, len(self) // 2, len(self) - 1})
        alone = [self.run(self._session, [index])[self.input_tensor] for index in some]
        try:
            together = self.run(self._session, some)[self.input_tensor]
            same = _close(together, np.concatenate(alone))
        except (InputError, ModelError):
            same = False
        if same:
            return False
        if (self.fixed_batch or 1) > 1:
            raise ModelError(
                f"the samples of a batch influence each other in tensor {quoted(self.input_tensor)}, and the model "
                f"is made for {self.fixed_batch} at once; export it for one sample"
            )
        logger.info("%s depends on the batch: samples are computed one by one", quoted(self.input_tensor))
        return True

    @cached_property
    def described(self) -> Axes:
        """Axes of the analysis input, and the evidence for them."""
        layouts = {name: samples.layout for name, samples in self.samples.inputs.items()}
        return tensor_axes(self.model, self.input_tensor, self.perturbed([0]).ndim - 1, layouts)

    def axes(self) -> tuple[str, ...]:
        """Names of the analysis input's axes, without the batch."""
        return self.described.names

    def unit(self) -> Array:
        """Standard deviation of the analysis input per channel, in the model's units, broadcastable to one sample.

        A constant channel gets the root mean square of the other channels' deviations.

        Raises
        ------
        InputError
            The samples are constant, or the squares of their deviations overflow 32-bit floats.
        """
        if self._session is None:
            unit = self.samples.inputs[self.input_tensor].unit_over(self.counted)
            assert unit is not None
        else:
            unit = self._estimated()
        if (unit > np.sqrt(np.finfo(unit.dtype).max)).any():
            index, size = self._largest(evenly_spread(len(self)))
            raise InputError(
                f"sample {printable(self.main.names[index])} has values up to {size:.2g} in "
                f"{quoted(self.input_tensor)}, and {unit.dtype} does not hold the square of such a unit; remove the "
                f"sample or scale the values down"
            )
        return unit

    def _estimated(self) -> Array:
        axis = self.described.channel
        some = evenly_spread(len(self))
        counted = None if self.counted is None else (self.counted[index] for index in some)
        own = deviation((self.perturbed([index])[0] for index in some), axis, counted)
        example = self.perturbed([0])
        if not own.any():
            raise InputError(f"'{self.input_tensor}' is constant over all samples; give other samples")
        if constant := int((own == 0).sum()):
            logger.info(
                "%d of %d channels of %s are constant: they get the other channels' unit",
                constant,
                own.size,
                quoted(self.input_tensor),
            )
        extent = [size if position == axis else 1 for position, size in enumerate(example.shape[1:])]
        return without_zeros(own).reshape(extent).astype(example.dtype)

    def _largest(self, indices: Sequence[int]) -> tuple[int, float]:
        """Sample with the largest magnitude of the analysis input, and that magnitude."""
        sizes = [float(np.abs(self.perturbed([index])).max(initial=0)) for index in indices]
        found = int(np.argmax(sizes))
        return indices[found], sizes[found]


def _close(actual: Array, expected: Array) -> bool:
    """Whether two computations of a tensor agree up to rounding."""
    if actual.shape != expected.shape:
        return False
    wide, other = actual.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(other)
    scale = float(np.abs(other[finite]).max(initial=0))
    coarse = 1e-2 if expected.dtype.itemsize == 2 else 1e-4
    return np.allclose(wide, other, rtol=0, atol=coarse * scale, equal_nan=True)


def _filled(array: Array, count: int) -> Array:
    """Array padded to a number of samples by repeating the last one."""
    return np.concatenate([array, np.repeat(array[-1:], count - len(array), axis=0)]) if len(array) < count else array
