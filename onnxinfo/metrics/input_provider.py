"""The samples as the graph needs them: the perturbed tensor, and everything else the layers depend on."""

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
    """One graph input: name, element type, batch size (None: any), shape of one sample, where its channels are."""

    name: str
    dtype: np.dtype[Any]
    batch: int | None
    shape: tuple[int | str | None, ...]
    layout: Layout


def graph_inputs(model: Model) -> list[GraphInput]:
    """Graph inputs that have to be fed, in order.

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
        Where the model has its channels; ``auto``: where its operators tell.

    Raises
    ------
    InputError, UsageError
        As there.
    """
    inputs = graph_inputs(model)
    declared = {i.name: (i.shape, i.dtype) for i in inputs}
    layouts = {i.name: i.layout if layout == "auto" else layout for i in inputs}
    return open_inputs(specs, declared, layouts, **options)


@dataclass
class InputProvider:
    """The samples of all graph inputs, and the perturbed tensor computed from them.

    Parameters
    ----------
    model
        The whole model.
    samples
        Of all graph inputs.
    input_tensor
        The perturbed tensor: a graph input or any float tensor.
    counted
        Which units of the perturbed tensor count, (samples, *shape) of bool; None: all. The others, such as padding, do
        not enter the unit.

    Attributes
    ----------
    fixed_batch
        The batch size that the model is made for, None if any.
    """

    model: Model
    samples: SampleSet
    input_tensor: str
    counted: npt.NDArray[np.bool_] | None = None
    fixed_batch: int | None = field(init=False)
    _types: dict[str, np.dtype[Any]] = field(init=False)
    _session: Session | None = field(init=False, default=None)
    _sessions: dict[tuple[str, ...], Session] = field(init=False, default_factory=dict)

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
        """The perturbed tensor's element type in the model."""
        element = self.model.flow.element_type(self.input_tensor)
        return onnx.helper.tensor_dtype_to_np_dtype(element or onnx.TensorProto.FLOAT)

    @property
    def main(self) -> Samples:
        """The samples that names, labels and pictures are taken from: the perturbed input's, else the first input's."""
        return self.samples.inputs.get(self.input_tensor, self.samples.first)

    def given(self, names: Iterable[str], indices: Sequence[int]) -> dict[str, Array]:
        """Values of graph inputs, or of tensors computed from them, in the model's types, each (len(indices), ...)."""
        wanted = list(names)
        computed = tuple(name for name in wanted if name not in self.samples.inputs)
        if computed:
            found = self.run(self._session_for(computed), indices)
            return {name: found[name] if name in found else self.given([name], indices)[name] for name in wanted}
        with np.errstate(over="ignore"):  # what 16 bits do not hold makes a layer infinite, and that is reported
            return {name: self.samples.inputs[name].batch(indices).astype(self._types[name]) for name in wanted}

    def _session_for(self, tensors: tuple[str, ...]) -> Session:
        """A session that computes some tensors."""
        if tensors not in self._sessions:
            self._sessions[tensors] = Session(expose_only(self.model, tensors))
        return self._sessions[tensors]

    def run(self, session: Session, indices: Sequence[int]) -> dict[str, Array]:
        """Outputs of a session for some samples, whatever batch size the model is made for."""
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
        """Outputs of a session for one sample, as they are: not every tensor has the batch as its first axis."""
        feeds = self.given(session.inputs, [index])
        return session.run({name: _filled(array, self.fixed_batch or 1) for name, array in feeds.items()})

    def perturbed(self, indices: Sequence[int]) -> Array:
        """The perturbed tensor of some samples, (len(indices), *shape): float64 if that is its type, else float32."""
        if self._session is None:
            return self.samples.inputs[self.input_tensor].batch(indices)
        if self._separately:
            values = np.concatenate([self.run(self._session, [index])[self.input_tensor] for index in indices])
        else:
            values = self.run(self._session, indices)[self.input_tensor]
        return values.astype(np.float64 if values.dtype == np.float64 else np.float32)

    @cached_property
    def _separately(self) -> bool:
        """Whether each sample has to be computed alone, as what is computed of several depends on all of them.

        Raises
        ------
        ModelError
            A batch of the size that the model is made for never holds one sample alone.
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
        logger.info("%s of a sample depends on its batch: each is computed alone", quoted(self.input_tensor))
        return True

    @cached_property
    def described(self) -> Axes:
        """What the axes of the perturbed tensor are, and what tells."""
        layouts = {name: samples.layout for name, samples in self.samples.inputs.items()}
        return tensor_axes(self.model, self.input_tensor, self.perturbed([0]).ndim - 1, layouts)

    def axes(self) -> tuple[str, ...]:
        """Names of the perturbed tensor's axes, without the batch."""
        return self.described.names

    def unit(self) -> Array:
        """Standard deviation of the perturbed tensor per channel, in the model's units, broadcastable to one sample.

        A channel that never varies has the root mean square of the others' deviations.

        Raises
        ------
        InputError
            The samples are constant, or so large that 32-bit floats do not hold the squares of their deviation.
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
                "%d of %d channels of %s never vary: their unit is that of the others",
                constant,
                own.size,
                quoted(self.input_tensor),
            )
        extent = [size if position == axis else 1 for position, size in enumerate(example.shape[1:])]
        return without_zeros(own).reshape(extent).astype(example.dtype)

    def _largest(self, indices: Sequence[int]) -> tuple[int, float]:
        """The sample with the largest magnitude of the perturbed tensor, and that magnitude."""
        sizes = [float(np.abs(self.perturbed([index])).max(initial=0)) for index in indices]
        found = int(np.argmax(sizes))
        return indices[found], sizes[found]


def _close(actual: Array, expected: Array) -> bool:
    """Whether two computations of a tensor differ by no more than rounding."""
    if actual.shape != expected.shape:
        return False
    wide, other = actual.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(other)
    scale = float(np.abs(other[finite]).max(initial=0))
    coarse = 1e-2 if expected.dtype.itemsize == 2 else 1e-4
    return np.allclose(wide, other, rtol=0, atol=coarse * scale, equal_nan=True)


def _filled(array: Array, count: int) -> Array:
    """The array with its last sample repeated up to a count of samples."""
    return np.concatenate([array, np.repeat(array[-1:], count - len(array), axis=0)]) if len(array) < count else array
