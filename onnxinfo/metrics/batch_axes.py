"""Batch axis of each graph input, determined by trial if names do not state it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ..errors import InputError, ModelError, UsageError
from ..graph.batch_axes import BatchAxis, declared_batch_axes, is_time
from ..graph.model import Model
from ..graph.parts import inferred_axis
from ..graph.surgery import expose_only
from ..inputs.generated import generate
from ..text import printable, quoted
from ..torch_graph.runtime import Session

Array = npt.NDArray[np.generic]
logger = logging.getLogger(__name__)

#: Sizes of open axes in a trial: the batch axis, and all others.
_SIZES = ((3, 4), (4, 3), (3, 16), (3, 64))
#: Numbers of samples of the trials of computed tensors.
_COUNTS = (3, 5)
#: Changes up to this fraction of a tensor's largest change count as rounding: with dynamic quantization, samples
#: influence each other.
_ROUNDING = 0.02


def find_batch_axes(model: Model, given: Mapping[str, int], fixed: Mapping[str, object]) -> dict[str, BatchAxis]:
    """Determine the batch axis of every graph input from the user's choice, names, sizes, or a trial.

    A trial changes the first and the last entry of an input along an axis: if it is the batch axis, only the same
    entry of the outputs changes. Possible sequences are tried if no name identifies the batch axis, or if the first
    axis is named ``time`` or similar.

    Parameters
    ----------
    model
        A loaded model.
    given
        Batch axes given by the user, by graph input.
    fixed
        Inputs with a fixed value, by name; they are not tried.

    Returns
    -------
    dict
        Batch axis by graph input.

    Raises
    ------
    UsageError
        `given` does not fit the model, or contradicts a name and a trial, or the first axis is a time axis by its name
        and no other axis passes the trial.
    """
    found = declared_batch_axes(model, given)
    for name in given.keys() - fixed.keys():
        _check_given(model, name, given)
    for name, each in found.items():
        if name in fixed or each.certain or each.axis is None or not _is_doubtful(model, name, each.axis):
            continue
        axis, shape = _tried(model, name, each.axis, given), model.flow.shape(name) or ()
        if axis is not None and axis != each.axis:
            logger.info("samples lie along axis %d of %s, %s", axis, quoted(name), _text(shape))
            found = declared_batch_axes(model, {**given, name: axis})
        elif axis is None and is_time(shape[each.axis]):
            raise UsageError(
                f"the axis of {quoted(name)}, {_text(shape)}, that holds the samples is not clear; name it by "
                f"batch_axis='{printable(name)}=AXIS', the first being 0"
            )
    return found


def _check_given(model: Model, name: str, given: Mapping[str, int]) -> None:
    """Raise if another axis of an input is the batch axis by its name, and by a trial, which the given axis fails."""
    shape = model.flow.shape(name) or ()
    named = declared_batch_axes(model, {other: axis for other, axis in given.items() if other != name})[name]
    if not named.certain or named.axis == given[name] or _tried(model, name, given[name], given) != named.axis:
        return
    raise UsageError(
        f"batch_axis: axis {given[name]} of {quoted(name)}, {_text(shape)}, does not hold the samples, but axis "
        f"{named.axis} does, by its name and by a trial; give {named.axis}, or leave it out"
    )


def with_batch_axes(model: Model, found: Mapping[str, BatchAxis]) -> Model:
    """Return the model with the batch axes of its inputs attached."""
    axes = {name: found[name].axis for name in model.flow.inputs if name in found and found[name].axis}
    return dataclasses.replace(model, batch_axes={name: axis for name, axis in axes.items() if axis}) if axes else model


def sample_axes(model: Model, tensors: Sequence[str]) -> dict[str, int]:
    """Determine by trial which axis of computed tensors holds the samples, where names do not state it.

    A trial runs the model with different numbers of samples: the axis of the samples is the only one that becomes as
    long.

    Parameters
    ----------
    model
        A loaded model whose inputs' batch axes are known.
    tensors
        Names of tensors.

    Returns
    -------
    dict
        Axis by tensor; without those that are stated, and those for which a trial is impossible.
    """
    shapes = {name: model.flow.shape(name) for name in tensors}
    doubtful = [name for name, shape in shapes.items() if shape is not None and not inferred_axis(model, shape)[1]]
    if not doubtful:
        return {}
    try:
        session = Session(expose_only(model, doubtful))
    except ModelError:
        return {}
    for _, size in _SIZES:
        try:
            few, more = (session.run(generate(model, batch=batch, size=size)) for batch in _COUNTS)
        except (InputError, ModelError):
            continue
        found = {name: _changed_axis(few[name].shape, more[name].shape) for name in doubtful}
        return {name: axis for name, axis in found.items() if axis is not None}
    return {}


def _changed_axis(few: tuple[int, ...], more: tuple[int, ...]) -> int | None:
    """Return the only axis whose size is that of the samples in both trials."""
    axes = [axis for axis, sizes in enumerate(zip(few, more, strict=False)) if sizes == _COUNTS]
    return axes[0] if len(axes) == 1 else None


def _text(shape: tuple[int | str | None, ...]) -> str:
    return printable("[" + ", ".join("?" if size is None else str(size) for size in shape) + "]")


def _is_doubtful(model: Model, name: str, axis: int) -> bool:
    """Whether an input may be a sequence whose first axis is time: features per step, or ids."""
    shape = model.flow.shape(name) or ()
    if shape[axis] == 1 or len(shape) not in (2, 3):
        return False
    if is_time(shape[axis]):
        return True
    return len(shape) == 3 or not model.flow.is_float(name)


def _tried(model: Model, name: str, assumed: int, given: Mapping[str, int]) -> int | None:
    """First axis that passes the trial, beginning with the assumed one.

    Returns None if none passes, and the assumed axis if the trial is impossible.
    """
    shape = model.flow.shape(name) or ()
    floats = [value.name for value in model.proto.graph.output if model.flow.is_float(value.name)]
    driven = [output for output in floats if output in model.flow.influenced(name)]
    if not driven:
        return assumed
    # The last axis of floats holds features, and that of ids may hold steps.
    candidates = range(len(shape) - 1 if model.flow.is_float(name) else len(shape))
    ran = False
    try:
        session = Session(expose_only(model, driven))
    except ModelError:
        return assumed
    for axis in [assumed, *(axis for axis in candidates if axis != assumed)]:
        try:
            axes = declared_batch_axes(model, {**given, name: axis})
        except UsageError:
            continue  # contradicts the user's choice for another input
        feeds = _running(session, with_batch_axes(model, axes))
        if feeds is not None and _holds(session, feeds, name, axis):
            return axis
        ran |= feeds is not None
    return None if ran else assumed


def _running(session: Session, model: Model) -> dict[str, Array] | None:
    """Generated inputs on which the model runs; None if it runs on none."""
    for batch, size in _SIZES:
        try:
            feeds = generate(model, batch=batch, size=size)
            session.run(feeds)
        except (InputError, ModelError):
            continue
        return feeds
    return None


def _holds(session: Session, feeds: Mapping[str, Array], name: str, axis: int) -> bool:
    """Whether changing the first or the last entry along an axis changes only the same entry of every output."""
    count = feeds[name].shape[axis]
    if count == 1:
        return True
    before = session.run(feeds)
    for entry in (0, count - 1):
        other = np.moveaxis(np.array(feeds[name]), axis, 0)
        other[entry] = -other[entry] + 0.5 if other.dtype.kind == "f" else np.roll(other[entry - 1], 1)
        after = session.run({**feeds, name: np.ascontiguousarray(np.moveaxis(other, 0, axis))})
        if not all(_alone(before[output], after[output], entry, count) for output in before):
            return False
    return True


def _alone(before: Array, after: Array, entry: int, count: int) -> bool:
    """Whether two outputs differ only at one entry along some axis of size ``count``."""
    if before.shape != after.shape:
        return False
    change = np.abs(after.astype(np.float64) - before.astype(np.float64))
    changed = change > _ROUNDING * change.max(initial=0)
    if not changed.any():
        return True
    entries = [np.moveaxis(changed, axis, 0) for axis, size in enumerate(changed.shape) if size == count]
    return any(not np.delete(each, entry, axis=0).any() for each in entries)
