"""Samples of several perturbed tensors, side by side in one array."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..graph.joint import JoinedTensor, join_tensors, joint_name
from ..graph.model import Model
from ..inputs.deviation import deviation, evenly_spread, without_zeros
from ..inputs.parts import InputPart, join_parts, split_parts
from ..inputs.sample_sets import SampleSet
from ..inputs.samples import Samples
from ..text import quoted
from .input_provider import InputProvider

Array = npt.NDArray[Any]
logger = logging.getLogger(__name__)


class JoinedSamples(Samples):
    """Samples of several tensors of a model, (units,) each.

    Parameters
    ----------
    model
        The model before its tensors were joined.
    samples
        Samples of all of its graph inputs.
    providers
        The tensors.

    Attributes
    ----------
    parts
        Place, axes and shape of every tensor.
    """

    def __init__(self, model: Model, samples: SampleSet, providers: Sequence[InputProvider]) -> None:
        self.model, self.samples, self._providers = model, samples, list(providers)
        own = [each.main for each in providers if each.input_tensor in samples.inputs]
        self._main = next((each for each in own if each.is_image), providers[0].main)
        self.labels, self.classes = self.main.labels, self.main.classes
        self.positions, self.available = self.main.positions, self.main.available
        self.order = samples.order
        self.unreadable = list(dict.fromkeys(bad for each in own for bad in each.unreadable))
        self.preprocessing = self.main.preprocessing
        firsts = [each.perturbed([0])[0] for each in providers]
        self.parts = tuple(
            InputPart(each.input_tensor, each.axes(), first.shape)
            for each, first in zip(providers, firsts, strict=True)
        )
        self.shape, self.layout = (sum(part.size for part in self.parts),), ("feature",)
        self.dtype = np.result_type(*firsts)
        self.units = tuple(self._unit_names())

    @property
    def names(self) -> list[str]:  # type: ignore[override]
        """Names of the samples."""
        return self.main.names

    @property
    def main(self) -> Samples:
        """Samples that provide names, labels and pictures: those of the first image, else of the first tensor."""
        return self._main

    @property
    def tensors(self) -> list[str]:
        """Names of the tensors."""
        return [part.name for part in self.parts]

    @property
    def images(self) -> list[str]:
        """Names of the tensors that are images."""
        own = self.samples.inputs
        return [name for name in self.tensors if name in own and own[name].is_image]

    @property
    def evidence(self) -> str:
        """Evidence for the axes of every tensor."""
        return "; ".join(f"{quoted(each.input_tensor)}: {each.described.evidence}" for each in self._providers)

    @property
    def recipe(self) -> dict[str, Any]:
        """Preprocessing of every tensor that is a graph input."""
        own = self.samples.inputs
        return {name: own[name].preprocessing.to_dict() for name in self.tensors if name in own}

    def batch(self, indices: Sequence[int]) -> Array:
        """Return samples, (len(indices), units)."""
        joined = join_parts([each.perturbed(indices) for each in self._providers])
        return np.ascontiguousarray(joined, dtype=self.dtype)

    def unit_over(self, counted: npt.NDArray[np.bool_] | None) -> Array:
        """Unit of sigma of every unit, (units,).

        Each tensor has its own units, as if it were the only one. Tensors of a single unit are the columns of one
        table: a constant one gets the root mean square of the others' deviations.
        """
        mine = {} if counted is None else split_parts(counted, self.parts)
        columns = [each for part, each in zip(self.parts, self._providers, strict=True) if part.size == 1]
        own = iter(_unit_of_columns(columns) if columns else ())
        found = []
        for part, each in zip(self.parts, self._providers, strict=True):
            each.counted = mine.get(part.name)
            unit = next(own) if part.size == 1 else each.unit()
            found.append(np.broadcast_to(unit, (1, *part.shape)))
        joined: Array = join_parts(found)[0].astype(self.dtype)
        return joined

    def _unit_names(self) -> list[str]:
        """Names of the units; those of a tensor with several axes are empty, since their positions say more."""
        found: list[str] = []
        for part in self.parts:
            own = self.samples.inputs.get(part.name)
            given = None if own is None else own.units
            if part.size == 1 and given is not None:
                found += given  # the column of a table
            else:
                found += [""] * part.size if len(part.shape) > 1 and part.size > 1 else part.unit_names(given)
        return found

    def make_anonymous(self) -> None:
        """Name samples by position; see :meth:`~onnxinfo.samples.Samples.make_anonymous`."""
        self.digest()
        self.samples.make_anonymous()
        self.classes, self.unreadable = [], [("", reason) for _, reason in self.unreadable]

    def digest(self) -> str:
        """Return a SHA-256 digest of the samples of all graph inputs, and of the tensors' names."""
        return self._with_tensors(self.samples.digest())

    def digest_of(self, indices: Sequence[int]) -> str:
        """Return the digest that the samples at some positions would have by themselves."""
        return self._with_tensors(self.samples.digest_of(indices))

    def _with_tensors(self, digest: str) -> str:
        return hashlib.sha256("\0".join([digest, *self.tensors]).encode()).hexdigest()


def _unit_of_columns(columns: Sequence[InputProvider]) -> Array:
    """Unit of tensors of a single number each, (columns,)."""
    own = _deviation_of_columns(columns)
    if not own.any():
        names = joint_name([each.input_tensor for each in columns])
        raise InputError(f"{quoted(names)} is constant over all samples; give other samples")
    return without_zeros(own)


def _deviation_of_columns(columns: Sequence[InputProvider]) -> npt.NDArray[np.float64]:
    rows = ([index] for index in evenly_spread(len(columns[0])))
    own = deviation((join_parts([each.perturbed(row) for each in columns])[0] for row in rows), 0)
    return np.where([_is_standardized(each) for each in columns], 1.0, own)


def _is_standardized(provider: InputProvider) -> bool:
    """Whether the preprocessing divides by a standard deviation, so that the unit is 1."""
    own = provider.samples.inputs.get(provider.input_tensor)
    return own is not None and own.preprocessing.std is not None


def open_provider(
    model: Model, samples: SampleSet, tensors: Sequence[str], *, leave_out: bool = False
) -> InputProvider:
    """Make the provider of the tensors that noise is added to; several are joined to one.

    Parameters
    ----------
    model
        The prepared model.
    samples
        Samples of all of its graph inputs.
    tensors
        Names of the tensors.
    leave_out
        Whether to leave out tensors that are the same in all samples, and hold no data.
    """
    providers = [InputProvider(model, samples, name) for name in tensors]
    if leave_out and len(providers) > 1:
        providers = _varying(providers)
    if len(providers) == 1:
        return providers[0]
    joined = JoinedSamples(model, samples, providers)
    together = [
        JoinedTensor(part.name, part.shape, each.axis) for part, each in zip(joined.parts, providers, strict=True)
    ]
    whole, name = join_tensors(model, together)
    others = {key: each for key, each in samples.inputs.items() if key not in joined.tensors}
    return InputProvider(whole, SampleSet({name: joined, **others}), name, parts=joined.parts)


def _varying(providers: Sequence[InputProvider]) -> list[InputProvider]:
    """Tensors that have a unit, the columns of a table together; all of them if none has one."""
    columns = [each for each in providers if each.perturbed([0])[0].size == 1]
    table = bool(columns) and bool(_deviation_of_columns(columns).any())
    kept = [each for each in providers if (table if each in columns else _deviation(each).any())]
    if not kept:
        return list(providers)
    for each in providers:
        if each not in kept:
            logger.warning(
                "no noise is added to %s: it is constant over the samples, so its unit is unknown",
                quoted(each.input_tensor),
            )
    return kept


def _deviation(provider: InputProvider) -> npt.NDArray[np.float64]:
    """Deviation per channel; 1 if it is given by the preprocessing."""
    if _is_standardized(provider):
        return np.ones(1)
    rows = ([index] for index in evenly_spread(len(provider)))
    return deviation((provider.perturbed(row)[0] for row in rows), provider.described.channel)


def joined_samples(provider: InputProvider) -> JoinedSamples | None:
    """Return the samples of a provider of several tensors; None if there is one."""
    found = provider.samples.inputs.get(provider.input_tensor)
    return found if isinstance(found, JoinedSamples) else None
