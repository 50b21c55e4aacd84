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
from ..graph.batch_axes import SEPARATE
from ..graph.channels import Axes, input_layout, tensor_axes
from ..graph.dataflow import Dataflow
from ..graph.model import Model
from ..graph.surgery import expose_only
from ..inputs.axes import Layout
from ..inputs.deviation import deviation, evenly_spread, without_zeros
from ..inputs.feeds import is_feeds, stacked_feeds
from ..inputs.opening import Spec
from ..inputs.parts import InputPart
from ..inputs.sample_sets import SampleSet, open_inputs
from ..inputs.samples import Samples
from ..text import printable, quoted
from ..torch_graph.runtime import Session

Array = npt.NDArray[Any]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GraphInput:
    """Graph input: name, element type, batch size (None: any), shape of one sample, channel axis, batch axis."""

    name: str
    dtype: np.dtype[Any]
    batch: int | None
    shape: tuple[int | str | None, ...]
    layout: Layout
    axis: int = 0


def graph_inputs(model: Model) -> list[GraphInput]:
    """Graph inputs that must be fed, in order.

    Raises
    ------
    InputError
        An input is not a tensor of known rank, or is a scalar although it should have a batch axis.
    """
    given = {initializer.name for initializer in model.proto.graph.initializer}
    flow = model.flow
    return [
        _graph_input(info, flow, model.batch_axes.get(info.name, 0))
        for info in model.proto.graph.input
        if info.name not in given
    ]


def _graph_input(info: onnx.ValueInfoProto, flow: Dataflow, axis: int) -> GraphInput:
    tensor = info.type.tensor_type
    known = info.type.HasField("tensor_type") and tensor.HasField("shape")
    if not known or (axis != SEPARATE and not tensor.shape.dim):
        raise InputError(
            f"graph input {quoted(info.name)} is not a tensor with a batch axis; it cannot be given samples: give its "
            f"value by set='{printable(info.name)}=VALUE'"
        )
    sizes = [d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in tensor.shape.dim]
    if axis == SEPARATE:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        return GraphInput(info.name, dtype, 1, tuple(sizes), input_layout(flow, info.name, axis), axis)
    own = sizes[axis]
    batch = own if isinstance(own, int) and own > 0 else None
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    shape = tuple(sizes[:axis] + sizes[axis + 1 :])
    return GraphInput(info.name, dtype, batch, shape, input_layout(flow, info.name, axis), axis)


def open_samples_of(
    model: Model, specs: Spec | Mapping[str, Spec], *, layout: Layout = "auto", **options: Any
) -> SampleSet:
    """Open the samples of all graph inputs of a model.

    Parameters
    ----------
    model
        A loaded model.
    specs, **options
        See :func:`.inputs.sample_sets.open_inputs`; complete feeds are also accepted, see
        :func:`.inputs.feeds.is_feeds`.
    layout
        Position of the model's channel axis; ``auto``: inferred from its operators.

    Raises
    ------
    InputError, UsageError
        As raised by :func:`.inputs.sample_sets.open_inputs` and :func:`.inputs.feeds.stacked_feeds`.
    """
    inputs = graph_inputs(model)
    declared = {i.name: (i.shape, i.dtype) for i in inputs}
    layouts = {i.name: i.layout if layout == "auto" else layout for i in inputs}
    if not is_feeds(specs):
        return open_inputs(specs, declared, layouts, **options)
    arrays, names = stacked_feeds(specs, list(declared))
    samples = open_inputs(arrays, declared, layouts, **options)
    for each in samples.inputs.values():
        each.rename([names[position] for position in each.positions])
    return samples


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
    parts
        Tensors that the analysis input consists of, if it joins several; see :mod:`.metrics.joint`.

    Attributes
    ----------
    fixed_batch
        Batch size that the model was exported for; None: any.
    """

    model: Model
    samples: SampleSet
    input_tensor: str
    counted: npt.NDArray[np.bool_] | None = None
    parts: tuple[InputPart, ...] = ()
    fixed_batch: int | None = field(init=False)
    _types: dict[str, np.dtype[Any]] = field(init=False)
    _axes: dict[str, int] = field(init=False)
    _session: Session | None = field(init=False, default=None)
    _sessions: dict[tuple[str, ...], Session] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        inputs = graph_inputs(self.model)
        self.fixed_batch = next((i.batch for i in inputs if i.batch is not None), None)
        self._types = {i.name: i.dtype for i in inputs}
        self._axes = {i.name: i.axis for i in inputs}
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
    def tensors(self) -> list[str]:
        """Names of the tensors that noise is added to."""
        return [part.name for part in self.parts] or [self.input_tensor]

    @property
    def main(self) -> Samples:
        """Samples that provide names, labels and pictures: those of the analysis input, else of the first input."""
        return self.samples.inputs.get(self.input_tensor, self.samples.first).main

    def batch(self, names: Iterable[str], indices: Sequence[int]) -> dict[str, Array]:
        """Graph inputs, or tensors computed from them, in the model's types; each (len(indices), ...)."""
        wanted = list(names)
        computed = tuple(name for name in wanted if name not in self.samples.inputs)
        if computed:
            found = self.run(self._session_for(computed), indices)
            return {name: found[name] if name in found else self.batch([name], indices)[name] for name in wanted}
        with np.errstate(over="ignore"):  # 16-bit overflow makes a layer infinite, which is reported
            return {name: self.samples.inputs[name].batch(indices).astype(self._types[name]) for name in wanted}

    def _session_for(self, tensors: tuple[str, ...]) -> Session:
        """Session that computes some tensors."""
        if tensors not in self._sessions:
            self._sessions[tensors] = Session(expose_only(self.model, tensors))
        return self._sessions[tensors]

    def given(self, names: Iterable[str], indices: Sequence[int]) -> dict[str, Array]:
        """Return the same as :meth:`batch`, with the samples along the batch axis of each input."""
        return self._placed(self.batch(names, indices))

    def axis_of(self, name: str) -> int:
        """Batch axis of the analysis input or of a graph input; 0 for tensors computed from text inputs."""
        return self.axis if name == self.input_tensor else self._axes.get(name, 0)

    def shapes(self, names: Iterable[str]) -> dict[str, list[int | None]]:
        """Shapes of graph inputs or of tensors computed from them, in the model's order of axes; None for the batch."""
        found = {}
        for name in names:
            one = self.perturbed([0]) if name == self.input_tensor else self.batch([name], [0])[name]
            sizes: list[int | None] = list(one.shape[1:])
            if (axis := self.axis_of(name)) != SEPARATE:
                sizes.insert(axis, None)
            found[name] = sizes
        return found

    def _placed(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {name: placed(array, self._axes.get(name, 0)) for name, array in feeds.items()}

    def run(self, session: Session, indices: Sequence[int], axis: int = 0) -> dict[str, Array]:
        """Compute the outputs of a session for some samples, regardless of the model's batch size.

        Parameters
        ----------
        session
            Session that computes tensors of the model.
        indices
            Positions of the samples.
        axis
            Batch axis of every output.

        Returns
        -------
        dict
            Outputs by name, with the samples moved to the first axis.
        """
        feeds = self.batch(session.inputs, indices)
        size = self.fixed_batch
        if size is None:
            return _samples_first(session.run(self._placed(feeds)), axis)
        parts = []
        for start in range(0, len(indices), size):
            part = {name: array[start : start + size] for name, array in feeds.items()}
            count = len(next(iter(part.values()))) if part else size
            filled = self._placed({name: _filled(array, size) for name, array in part.items()})
            outputs = _samples_first(session.run(filled), axis)
            parts.append({name: value[:count] for name, value in outputs.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def run_alone(self, session: Session, index: int) -> dict[str, Array]:
        """Outputs of a session for one sample, with unchanged axes, since not every tensor has a batch axis."""
        feeds = self.batch(session.inputs, [index])
        return session.run(self._placed({name: _filled(array, self.fixed_batch or 1) for name, array in feeds.items()}))

    def perturbed(self, indices: Sequence[int]) -> Array:
        """Analysis input of some samples, (len(indices), *shape): float64 if that is its type, else float32."""
        if self._session is None:
            return self.samples.inputs[self.input_tensor].batch(indices)
        if self._separately:
            values = np.concatenate([self._computed([index]) for index in indices])
        else:
            values = self._computed(indices)
        return values.astype(np.float64 if values.dtype == np.float64 else np.float32)

    def _computed(self, indices: Sequence[int]) -> Array:
        assert self._session is not None
        return self.run(self._session, indices, self.axis)[self.input_tensor]

    @cached_property
    def axis(self) -> int:
        """Batch axis of the analysis input; determined by trial if the tensor is computed from graph inputs."""
        if self._session is None:
            return self._axes[self.input_tensor]
        if SEPARATE in self._axes.values():
            return SEPARATE
        if self.fixed_batch is not None:
            return self._axis_of_fixed(self.fixed_batch)
        try:
            two, three = (self._trial([0] * count).shape for count in (2, 3))
        except (InputError, ModelError):
            return 0  # takes one sample at a time, despite its declaration
        if len(two) != len(three):
            return 0
        return next((axis for axis, (a, b) in enumerate(zip(two, three, strict=True)) if (a, b) == (2, 3)), 0)

    def _axis_of_fixed(self, count: int) -> int:
        """Axis whose size is the fixed batch size; of several, one along which only a changed sample differs."""
        values = self._trial([0] * count)
        axes = [axis for axis, size in enumerate(values.shape) if size == count]
        if len(axes) > 1 and count > 1 and len(self) > 1:
            changed = self._trial([len(self) - 1] + [0] * (count - 1)) != values
            alone = [axis for axis in axes if not np.moveaxis(changed, axis, 0)[1:].any()]
            axes = alone or axes
        return axes[0] if axes else 0

    def _trial(self, indices: Sequence[int]) -> Array:
        assert self._session is not None
        return self._session.run(self.given(self._session.inputs, indices))[self.input_tensor]

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
        alone = [self._computed([index]) for index in some]
        try:
            together = self._computed(some)
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
        return tensor_axes(self.model, self.input_tensor, self.perturbed([0]).ndim - 1, layouts, self.axis)

    def axes(self) -> tuple[str, ...]:
        """Names of the analysis input's axes, without the batch."""
        return self.described.names

    def described_parts(self) -> tuple[InputPart, ...]:
        """Name, axes and shape of each tensor that noise is added to."""
        return self.parts or (InputPart(self.input_tensor, self.axes(), self.perturbed([0]).shape[1:]),)

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


def placed(array: Array, axis: int) -> Array:
    """Move the samples of an array from the first axis to another; with ``SEPARATE``, return the only sample."""
    if axis == SEPARATE:
        (only,) = array
        return np.asarray(only)
    return np.ascontiguousarray(np.moveaxis(array, 0, axis)) if axis else array


def _samples_first(outputs: dict[str, Array], axis: int) -> dict[str, Array]:
    if axis == SEPARATE:
        return {name: np.asarray(value)[None] for name, value in outputs.items()}
    return {name: np.moveaxis(value, axis, 0) for name, value in outputs.items()} if axis else outputs


def _filled(array: Array, count: int) -> Array:
    """Array padded to a number of samples by repeating the last one."""
    return np.concatenate([array, np.repeat(array[-1:], count - len(array), axis=0)]) if len(array) < count else array
