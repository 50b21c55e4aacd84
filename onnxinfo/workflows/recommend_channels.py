"""Recommendations from Jacobians: channels that a network can lose."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import numpy.typing as npt

from ..analysis.channels import ChannelChooser, Choice
from ..analysis.job import Job
from ..analysis.sensitivity import channel_axis
from ..analysis.settings import Report
from ..arguments import Names, names_of
from ..config import Config, FlatOptions, SelectionConfig, configure
from ..errors import UsageError
from ..graph.channel_removal import ConstantChannelsError, Removal
from ..graph.channel_spec import channels_of
from ..graph.layers import Layer, spelled_out
from ..graph.model import Model, ModelSource
from ..graph.protos import Node
from ..text import no_such, quoted
from .check import parameter_count
from .computing import computing
from .given_model import given_model
from .idle import refuse_idle_keywords
from .notebook import reporting
from .recommend import target_variance
from .recommendation import Recommendation, check_idle, refuse_parts
from .sensitivity import open_sensitivity
from .shared_weights import without_copies

if TYPE_CHECKING:
    import pandas

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TensorChannels:
    """Recommendation for one tensor.

    Attributes
    ----------
    tensor, op, depth
        Name, operator and depth of the tensor.
    axis
        Axis of its channels, counted with the batch.
    effects
        Mean squared change of the target if a channel alone is zero, to first order, by channel.
    removed
        Channels to remove, in ascending order.
    effect
        Mean squared change of the target if these alone are zero, to first order.
    """

    tensor: str
    op: str
    depth: int
    axis: int
    effects: tuple[float, ...]
    removed: tuple[int, ...]
    effect: float


@dataclass(frozen=True)
class ChannelPlan(Recommendation):
    """Channels to remove from a network; the result of :func:`recommend_channels`.

    Attributes
    ----------
    target
        Layer whose change is expected.
    tensors
        Recommendation for each tensor.
    change
        Mean squared change of the target without all of these channels, in units of its variance over the samples;
        measured on them.
    parameters
        Number of parameters before and after.

    Examples
    --------
    >>> plan = onnxinfo.recommend_channels("digits-cnn.onnx", "digits.npz:images", share=0.25, limit=32)
    >>> smaller = onnxinfo.prune_channels("digits-cnn.onnx", plan.to_dict())
    >>> plan.parameters[1] < plan.parameters[0], len(plan.to_dict()["relu_1"][1])
    (True, 4)
    """

    target: str
    tensors: tuple[TensorChannels, ...]
    change: float
    parameters: tuple[int, int]

    def to_dict(self) -> dict[str, dict[int, list[int]]]:
        """Return the channels to remove, ``{tensor: {axis: [indices]}}``, as :func:`prune_channels` takes them."""
        return {each.tensor: {each.axis: [*each.removed]} for each in self.tensors}

    def to_dataframe(self) -> pandas.DataFrame:
        """Return a table with one row per tensor: tensor, op, depth, axis, channels, removed and effect.

        ``channels`` and ``removed`` are numbers of channels; ``effect`` is in squared units of the target.
        """
        import pandas

        return pandas.DataFrame(self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of :meth:`to_dataframe`, without importing pandas."""
        return [
            {
                **{name: getattr(each, name) for name in ("tensor", "op", "depth", "axis")},
                "channels": len(each.effects),
                "removed": len(each.removed),
                "effect": each.effect,
            }
            for each in self.tensors
        ]

    def effects(self, tensor: str) -> npt.NDArray[np.float64]:
        """Return the mean squared change of the target if a channel of a tensor is zero, to first order, by channel.

        Raises
        ------
        UsageError
            The tensor is not in the recommendation.
        """
        found = {each.tensor: each.effects for each in self.tensors}
        if tensor not in found:
            raise UsageError(no_such("tensor", tensor, [*found], "the recommendation"))
        return np.array(found[tensor])


def recommend_channels(
    model: ModelSource,
    inputs: Any,
    *,
    example: Any = None,
    share: float = 0.25,
    layers: Names = (),
    exclude: Names = (),
    progress: Report | None = None,
    **flat: Unpack[FlatOptions],
) -> ChannelPlan:
    """Choose the channels of each tensor without which the target changes least.

    Setting channel c of a tensor to zero moves the target by ``-J_c a_c`` to first order, where a_c are the channel's
    values and J_c is the Jacobian of the target by them. Channels are chosen one after the other, over all tensors, so
    that the mean squared length of the sum of all moves stays small, until each tensor has lost its share. After each
    quarter, the move is measured and the Jacobians are computed anew, without the chosen channels. Labels are not
    needed.

    Parameters
    ----------
    model, inputs
        As for :func:`onnxinfo.sensitivity`.
    example
        Input of a torch module, see :func:`~onnxinfo.load`; by default the first samples, if these are float arrays.
    share
        Share of each tensor's channels to remove, rounded down to whole channels.
    layers, exclude
        Patterns, see :func:`onnxinfo.select_layers`; default: the default layers that lead to the target and can lose
        channels without another tensor. In residual networks these are the inner tensors of the blocks. Tensors whose
        nodes share weights lose the same channels, so that the weights stay shared; they are left out where that is
        impossible.
    progress
        Called with a :class:`~onnxinfo.Progress` as work is done. Default: a bar in notebooks, nothing elsewhere.
    **flat
        Single settings of input, sensitivity and execution by flat name, such as ``limit``, ``preset`` or ``target``.

    Returns
    -------
    ChannelPlan
        Channels for :func:`prune_channels`, their effects, and the change of the target.

    Raises
    ------
    UsageError
        The share is invalid, or so small that the model would not get smaller; a named layer cannot lose channels, or
        only with copies of shared weights; or no layer can.
    OnnxinfoError
        As raised by :func:`onnxinfo.sensitivity`.

    Examples
    --------
    >>> plan = onnxinfo.recommend_channels("digits-cnn.onnx", "digits.npz:images", share=0.5, limit=32)
    >>> plan.to_dataframe()[["tensor", "channels", "removed"]].head(2).values.tolist()
    [['relu_1', 16, 8], ['relu_3', 32, 16]]
    """
    if not 0 < share < 1:
        raise UsageError(f"share={share}: a number above 0 and below 1 expected")
    base = Config(SelectionConfig(names_of(layers, "layers"), names_of(exclude, "exclude")))
    check_idle(flat)
    config = configure(base, {**flat}, "input", "sid", "sensitivity", "execution")
    refuse_idle_keywords("channels", flat, config, inputs=inputs)
    # The change only determines tolerances, which are not used here.
    config = replace(config, sensitivity=replace(config.sensitivity, change="absolute:1", measure=False))
    with computing(config.execution.timeout):
        model = given_model(model, inputs, example)
        return _recommended_channels(model, inputs, share, config, reporting(progress))


def _recommended_channels(model: ModelSource, inputs: Any, share: float, config: Config, report: Report) -> ChannelPlan:
    opened = open_sensitivity(model, inputs, config)
    refuse_parts(opened, "channels")
    job, loaded = opened.job, opened.job.provider.model
    chosen = [layer for layer in job.layers if layer.name in opened.shown - {opened.target}]
    patterns = config.selection.layers
    named = spelled_out(chosen, patterns)
    removable = _removable(job, loaded, chosen, named)
    if patterns and len(removable) < len(chosen):
        logger.warning(
            "left out, because they lose no channels of their own: %d of the %d layers that the patterns match",
            *(len(chosen) - len(removable), len(chosen)),
        )
    bundles = {name: removal.bundle for name, removal in removable.items()}
    axes, joint = without_copies(loaded, {name: removal.axis for name, removal in removable.items()}, named, bundles)
    sizes = {name: _size(loaded, name, axis) // bundles[name] for name, axis in axes.items()}
    # The tolerance keeps 0.29 * 100 at 29.
    counts = {name: math.floor(share * size + 1e-9) for name, size in sizes.items()}
    if not any(counts.values()):
        what = "channels" if all(bundles[name] == 1 for name in axes) else "channels, or groups of them,"
        raise UsageError(f"share={share} of at most {max(sizes.values())} {what} is none; give a larger share")
    choice = ChannelChooser(job, opened.target, axes, report, joint, bundles).choose(counts)
    spec = {name: {axis: sorted(choice.removed[name])} for name, axis in axes.items() if choice.removed[name]}
    before, after = parameter_count(loaded), parameter_count(Removal(loaded, spec).model())
    if after >= before:
        raise UsageError(
            f"without the channels of share={share:g} the model has {after} parameters, {before} before: nodes share "
            "small weights, such as biases, that would have to be copied; give a larger share, or other layers=..."
        )
    variance = target_variance(job, opened.target)
    return ChannelPlan(
        opened.target,
        tuple(_recommended(layer, axes[layer.name], choice, job) for layer in chosen if layer.name in axes),
        choice.change / variance if variance > 0 else math.nan,
        (before, after),
    )


def _recommended(layer: Layer, axis: int, choice: Choice, job: Job) -> TensorChannels:
    effects, removed = choice.effects[layer.name].astype(np.float64), sorted(choice.removed[layer.name])
    samples = len(job.provider)
    alone = np.square(effects).sum(1) / samples
    together = float(np.square(effects[removed].sum(0)).sum() / samples)
    return TensorChannels(layer.name, layer.op, layer.depth, axis, tuple(alone.tolist()), tuple(removed), together)


def _size(model: Model, name: str, axis: int) -> int:
    size = (model.flow.shape(name) or ())[axis]
    assert isinstance(size, int)
    return size


@dataclass(frozen=True)
class _Removable:
    """Axis of channels that can be removed, and how many neighboring ones can only go together."""

    axis: int
    bundle: int


def _removable(job: Job, model: Model, layers: Sequence[Layer], named: Collection[str]) -> dict[str, _Removable]:
    """Layers that can lose channels; of layers that lose the same channels, the last one.

    Raises
    ------
    UsageError
        There is none, or one that is named cannot lose channels.
    """
    shapes = job.network.shapes(*job.inputs([0]))
    found: dict[str, _Removable] = {}
    together: dict[str, set[str]] = {}
    for layer in layers:
        place = job.layers.index(layer)
        channel, batch = channel_axis(job, place, shapes[place]), job.network.axes[place]
        try:
            if channel is None:
                raise UsageError(f"{quoted(layer.name)} has no channels; leave it out")
            axis = channel + (0 <= batch <= channel)
            size = _size(model, layer.name, axis)
            bundle, removal = _smallest_removal(model, layer.name, axis, size)
            together[layer.name] = {*removal.removed}
            starts = range(0, size, bundle)
            _check_constants(model, layer.name, axis, [[*range(at, at + bundle)] for at in starts])
        except UsageError:
            if layer.name in named:
                raise
            continue
        found[layer.name] = _Removable(axis, bundle)
    names = [*found]
    last = [name for i, name in enumerate(names) if not together[name].intersection(names[i + 1 :])]
    if not last:
        raise UsageError("no layer can lose channels without another one; name channels of several in a specification")
    return {name: found[name] for name in last}


def _smallest_removal(model: Model, name: str, axis: int, size: int) -> tuple[int, Removal]:
    """Return the smallest number of neighboring channels that can go together, and what goes with the first ones.

    Convolutions of several groups lose whole groups.

    Raises
    ------
    UsageError
        No number of them can go.
    """
    try:
        return 1, _removal(model, name, axis, [0])
    except UsageError as error:
        groups = {_groups_of(node) for node in model.flow.nodes if node.op_type in ("Conv", "ConvTranspose")}
        for bundle in sorted({size // number for number in groups if size % number == 0} - {1, size}):
            try:
                return bundle, _removal(model, name, axis, range(bundle))
            except UsageError:
                continue
        raise error


def _groups_of(node: Node) -> int:
    return next((each.i for each in node.attribute if each.name == "group"), 1)


def _removal(model: Model, name: str, axis: int, channels: Sequence[int]) -> Removal:
    return Removal(model, channels_of({name: {axis: channels}}, model.flow))


def _check_constants(model: Model, name: str, axis: int, bundles: Sequence[Sequence[int]]) -> None:
    """Check for each of the bundles of channels that what it leaves behind, such as a shift, can be absorbed.

    Raises
    ------
    ConstantChannelsError
        That of one cannot.
    """
    middle = len(bundles) // 2
    for half in (bundles[:middle], bundles[middle:]):
        try:
            if half:
                _removal(model, name, axis, [channel for bundle in half for channel in bundle])
        except ConstantChannelsError:
            raise
        except UsageError:
            # Not all of them together, but perhaps each of them.
            if len(half) > 1:
                _check_constants(model, name, axis, half)
