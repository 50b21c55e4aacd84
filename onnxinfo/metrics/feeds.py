"""The samples as the graph needs them: the perturbed tensor, and everything else the layers depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from ..errors import InputError
from ..graph.model import Model
from ..graph.surgery import expose_only
from ..inputs.sample_sets import SampleSet
from ..inputs.samples import UNIT_SAMPLES, Samples
from ..torch_graph.runtime import Session

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class GraphInput:
    """One graph input: name, element type, batch size (None: any) and the shape of one sample."""

    name: str
    dtype: np.dtype[Any]
    batch: int | None
    shape: tuple[int | str | None, ...]


def graph_inputs(model: Model) -> list[GraphInput]:
    """Graph inputs that have to be fed, in order.

    Raises
    ------
    InputError
        An input is no tensor of known rank.
    """
    given = {initializer.name for initializer in model.proto.graph.initializer}
    return [_graph_input(info) for info in model.proto.graph.input if info.name not in given]


def _graph_input(info: onnx.ValueInfoProto) -> GraphInput:
    tensor = info.type.tensor_type
    if not info.type.HasField("tensor_type") or not tensor.HasField("shape") or not tensor.shape.dim:
        raise InputError(f"graph input '{info.name}' is no tensor with a batch axis; it cannot be given samples")
    sizes = [d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in tensor.shape.dim]
    batch = sizes[0] if isinstance(sizes[0], int) and sizes[0] > 0 else None
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return GraphInput(info.name, dtype, batch, tuple(sizes[1:]))


@dataclass
class Feeds:
    """The samples of all graph inputs, and the perturbed tensor computed from them.

    Parameters
    ----------
    model
        The whole model.
    samples
        Of all graph inputs.
    perturb
        The perturbed tensor: a graph input or any float tensor.
    """

    model: Model
    samples: SampleSet
    perturb: str
    batch_size: int | None = field(init=False)
    _session: Session | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        inputs = graph_inputs(self.model)
        self.batch_size = next((i.batch for i in inputs if i.batch is not None), None)
        if self.perturb not in self.samples.inputs:
            self._session = Session(expose_only(self.model, [self.perturb]))

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def main(self) -> Samples:
        """The samples that names, labels and pictures are taken from: the perturbed input's, else the first input's."""
        return self.samples.inputs.get(self.perturb, self.samples.first)

    def run(self, session: Session, indices: Sequence[int]) -> dict[str, Array]:
        """Outputs of a session for some samples, whatever batch size the model is made for."""
        feeds = self.samples.feeds(indices)
        feeds = {name: feeds[name] for name in session.inputs}
        if self.batch_size is None:
            return session.run(feeds)
        parts = []
        for start in range(0, len(indices), self.batch_size):
            part = {name: array[start : start + self.batch_size] for name, array in feeds.items()}
            count = len(next(iter(part.values()))) if part else self.batch_size
            filled = {name: _filled(array, self.batch_size) for name, array in part.items()}
            parts.append({name: value[:count] for name, value in session.run(filled).items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def perturbed(self, indices: Sequence[int]) -> Array:
        """The perturbed tensor of some samples, float32, (len(indices), *shape)."""
        if self._session is None:
            return self.samples.inputs[self.perturb].batch(indices)
        return self.run(self._session, indices)[self.perturb].astype(np.float32)

    def unit(self) -> Array:
        """Standard deviation of the perturbed tensor per channel, in the model's units, broadcastable to one sample.

        Raises
        ------
        InputError
            The samples are constant.
        """
        if self._session is None:
            unit = self.samples.inputs[self.perturb].unit
            assert unit is not None
            return unit
        chosen = np.unique(np.linspace(0, len(self) - 1, min(len(self), UNIT_SAMPLES)).astype(int)).tolist()
        values = self.perturbed(chosen).astype(np.float64)
        deviation = values.std(axis=tuple(range(values.ndim - 1)))
        if not deviation.any():
            raise InputError(f"'{self.perturb}' is constant over all samples; give other samples")
        embedded: npt.NDArray[Any] = deviation.reshape((1,) * (values.ndim - 2) + (-1,)).astype(np.float32)
        return embedded

    def axes(self) -> tuple[str, ...]:
        """Names of the perturbed tensor's axes, without the batch."""
        if self._session is None:
            return self.samples.inputs[self.perturb].layout
        rank = self.perturbed([0]).ndim - 1
        names = {1: ("feature",), 2: ("position", "embedding"), 3: ("channel", "y", "x")}
        return names.get(rank, tuple(f"axis_{i}" for i in range(rank)))


def _filled(array: Array, count: int) -> Array:
    """The array with its last sample repeated up to a count of samples."""
    return np.concatenate([array, np.repeat(array[-1:], count - len(array), axis=0)]) if len(array) < count else array
