"""Remove channels from a graph that computes the same as before with these channels set to zero."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from ..errors import ModelError, UsageError
from ..text import printable, quoted
from . import protos
from .channel_constants import ConstantChannels, absorbed
from .channel_sizes import READING, computes_with_size
from .channel_spec import Channels
from .channel_ties import RESHAPING, Tie, View
from .model import Model, load
from .stored import StoredValues

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


def masked(model: Model, channels: Channels) -> Model:
    """Multiply channels of tensors by zero.

    Parameters
    ----------
    model
        A loaded model.
    channels
        Checked channels of computed tensors.
    """
    proto = protos.copy_into(onnx.ModelProto(), model.proto, ("graph",))
    source, flow = model.proto.graph, model.flow
    protos.copy_into(proto.graph, source, ("node",))
    taken = {*flow.producer, *flow.initializers, *(value.name for value in source.input)}
    renamed: dict[str, str] = {}
    for node in source.node:
        added = proto.graph.node.add()
        added.CopyFrom(node)
        added.input[:] = [renamed.get(name, name) for name in node.input]
        for name in node.output:
            for axis, indices in channels.get(name, {}).items():
                before, after = renamed.get(name, name), _free(f"{name}/masked", taken)
                mask = _mask(flow.shape(name) or (), axis, indices, flow.element_type(name) or 0)
                mask.name = _free(f"{name}/mask", taken)
                proto.graph.initializer.append(mask)
                proto.graph.node.append(onnx.helper.make_node("Mul", [before, mask.name], [after], name=after))
                renamed[name] = after
    return load(proto)


def _mask(shape: tuple[int | str | None, ...], axis: int, indices: list[int], element: int) -> onnx.TensorProto:
    size = shape[axis]
    assert isinstance(size, int)
    values = np.ones([size] + [1] * (len(shape) - axis - 1))
    values[indices] = 0
    return onnx.numpy_helper.from_array(values.astype(onnx.helper.tensor_dtype_to_np_dtype(element)))


def _shown(shape: tuple[int | str | None, ...] | None) -> str:
    if shape is None:
        return "of unknown rank"
    return f"({', '.join('?' if size is None else printable(size) for size in shape)})"


def _free(name: str, taken: set[str]) -> str:
    number = 0
    while (found := f"{name}{number or ''}") in taken:
        number += 1
    taken.add(found)
    return found


@dataclass
class _Cuts:
    """Channels to remove, of values and of operands that are stored in the model.

    Attributes
    ----------
    values
        By tensor and axis.
    stored
        By position of the node, operand, and axis.
    roots
        By tensor and axis: the tensor that was named, from which the channels were found.
    """

    values: dict[tuple[str, int], Mask] = field(default_factory=dict)
    stored: dict[tuple[int, int], dict[int, Mask]] = field(default_factory=dict)
    roots: dict[tuple[str, int], str] = field(default_factory=dict)


class ConstantChannelsError(UsageError):
    """What is left of removed channels, where they are not zero but constant, cannot be absorbed."""


class Removal:
    """The channels that a graph can only lose together with given ones, and the graph without them.

    Parameters
    ----------
    model
        A loaded model.
    channels
        Checked channels of computed tensors.

    Raises
    ------
    UsageError
        The graph cannot do without the channels; a :class:`ConstantChannelsError` if that depends on the constants that
        they leave behind.
    """

    def __init__(self, model: Model, channels: Channels) -> None:
        self._model, self._flow, self._channels = model, model.flow, channels
        self._stored = StoredValues(model.flow, model.proto.opset_import)
        self._opset = next((o.version for o in model.proto.opset_import if not o.domain), 1)
        self._views = [View(self._flow, self._stored, i, self._opset) for i in range(len(self._flow.nodes))]
        self._cuts = _Cuts()
        self._spread()
        self._values = self._constants()
        self._biases = dict(self._contributions())

    @property
    def removed(self) -> dict[str, dict[int, int]]:
        """Numbers of channels that are removed, by tensor and axis."""
        found: dict[str, dict[int, int]] = {}
        for (name, axis), mask in self._cuts.values.items():
            found.setdefault(name, {})[axis] = int(mask.sum())
        return found

    @property
    def cut(self) -> set[tuple[Hashable, int]]:
        """Origins and axes of the stored values that lose entries."""
        nodes = self._flow.nodes
        return {
            (self._stored.origin(nodes[position].input[operand]), axis)
            for (position, operand), axes in self._cuts.stored.items()
            for axis in axes
        }

    @property
    def copied(self) -> list[str]:
        """Names of stored weights that nodes share, of which not all lose the same entries: the model needs copies.

        Weights with several entries along one axis only, such as biases, are small, and do not count.
        """
        uses: dict[str, set[tuple[Hashable, Hashable]]] = {}
        for position in range(len(self._flow.nodes)):
            if not self._stored.computes(position):
                for name, use in self._uses(position):
                    for source in filter(self._is_wide, self._stored.sources(name)):
                        uses.setdefault(source, set()).add(use)
        return [name for name, found in uses.items() if len(found) > 1 and any(cut for _, cut in found)]

    def _uses(self, position: int) -> Iterator[tuple[str, tuple[Hashable, Hashable]]]:
        """Stored values that a node reads; their origins and what is cut from them."""
        node = self._flow.nodes[position]
        captured = [name for name in self._flow.needs[position] if name not in node.input]
        for operand, name in enumerate((*node.input, *captured)):
            if name and self._stored.holds(name):
                axes = self._cuts.stored.get((position, operand), {})
                yield name, (self._stored.origin(name), tuple((a, axes[a].tobytes()) for a in sorted(axes)))

    def _is_wide(self, name: str) -> bool:
        tensor = self._flow.constant(name)
        shape = self._flow.shape(name) if tensor is None else tensor.dims
        return len([size for size in shape or () if size != 1]) > 1

    def _spread(self) -> None:
        """Follow channels from the named tensors to all that must lose them, too."""
        pending = []
        for name, axes in self._channels.items():
            for axis, indices in axes.items():
                size = (self._flow.shape(name) or ())[axis]
                assert isinstance(size, int)
                mask = np.zeros(size, bool)
                mask[indices] = True
                self._add(name, axis, mask, name)
                pending.append((name, axis))
        while pending:
            name, axis = pending.pop()
            for position in self._around(name, axis):
                for tie in self._ties(position, name, axis):
                    pending += self._follow(position, tie, name, axis)

    def _add(self, name: str, axis: int, mask: Mask, root: str) -> bool:
        """Add channels of a value; return whether they are new."""
        before = self._cuts.values.get((name, axis))
        if before is not None and not (mask & ~before).any():
            return False
        self._cuts.roots.setdefault((name, axis), root)
        joined = mask if before is None else mask | before
        if name not in self._flow.producer:
            raise UsageError(self._refusal(name, axis, f"{quoted(name)} is an input of the graph"))
        if name in self._flow.outputs:
            raise UsageError(self._refusal(name, axis, f"{quoted(name)} is an output of the graph"))
        if joined.all():
            reason = f"{quoted(name)} would lose all of them (convolutions of several groups lose whole groups)"
            raise UsageError(self._refusal(name, axis, reason))
        self._cuts.values[name, axis] = joined
        return True

    def _around(self, name: str, axis: int) -> Iterator[int]:
        """Nodes that compute or read a value, if all of them can lose channels along the axis."""
        producer = self._flow.producer[name]
        if not self._ties(producer, name, axis, output=True):
            raise UsageError(self._refusal(name, axis, f"{self._named(producer)} computes them together"))
        yield producer
        for position in self._flow.consumers.get(name, ()):
            node = self._flow.nodes[position]
            if node.op_type in READING and not node.domain:
                self._check_size(position, name, axis)
                continue
            operands = [i for i, each in enumerate(node.input) if each == name]
            ports = (port for tie in self._ties(position, name, axis, output=False) for port in tie.ports)
            tied = {port.position for port in ports if not port.output and port.axis == axis}
            if not operands or not tied.issuperset(operands):
                raise UsageError(self._refusal(name, axis, self._needing(position, name)))
            yield position

    def _check_size(self, position: int, name: str, axis: int) -> None:
        """Refuse channels whose number the graph computes with."""
        found = computes_with_size(self._flow, self._stored, position, axis, self._opset)
        if found is not None:
            raise UsageError(self._refusal(name, axis, f"{self._named(found)} computes with their number"))

    def _ties(self, position: int, name: str, axis: int, output: bool | None = None) -> list[Tie]:
        """Ties of a node that a value's axis is part of, as an output, as an operand, or as either.

        Of the ties of a merged axis, that of the part whose channels are removed, if there is one.
        """
        node, mask = self._flow.nodes[position], self._cuts.values[name, axis]
        found = [
            (tie, port)
            for tie in self._views[position].ties
            for port in tie.ports
            if port.axis == axis
            and output in (None, port.output)
            and (node.output if port.output else node.input)[port.position] == name
        ]
        if sum(port.cycle > 0 for _, port in found) > 1:
            found = [(t, p) for t, p in found if np.array_equal(np.isin(p.places, p.places[mask]), mask)]
        return [tie for tie, _ in found]

    def _follow(self, position: int, tie: Tie, name: str, axis: int) -> list[tuple[str, int]]:
        """Add the channels of a value to the other axes of a tie; return the values that have new ones."""
        node, joint = self._flow.nodes[position], np.zeros(tie.size, bool)
        names = [(node.output if port.output else node.input)[port.position] for port in tie.ports]
        for port, other in zip(tie.ports, names, strict=True):
            if other == name and port.axis == axis:
                joint[port.places[self._cuts.values[name, axis]]] = True
        found = []
        for port, other in zip(tie.ports, names, strict=True):
            mask = joint[port.places]
            if not mask.any():
                continue
            if not port.output and self._stored.get(other) is not None:
                self._store(position, port.position, port.axis, mask, (name, axis))
            elif self._add(other, port.axis, mask, self._cuts.roots[name, axis]):
                found.append((other, port.axis))
        return found

    def _store(self, position: int, operand: int, axis: int, mask: Mask, source: tuple[str, int]) -> None:
        axes = self._cuts.stored.setdefault((position, operand), {})
        axes[axis] = axes[axis] | mask if axis in axes else mask
        if axes[axis].all():
            raise UsageError(self._refusal(*source, f"{self._named(position)} would be left without channels"))

    def _constants(self) -> Mapping[tuple[str, int], Floats]:
        """Values of the removed channels where they are constant, because channels before them are zero."""
        values: dict[tuple[str, int], Floats] = {}
        computing = ConstantChannels(self._flow, self._stored, self._model.proto.opset_import)
        axes: dict[str, list[int]] = {}
        for name, axis in self._cuts.values:
            axes.setdefault(name, []).append(axis)
        for position, node in enumerate(self._flow.nodes):
            for name in node.output:
                for axis in axes.get(name, ()):
                    (tie,) = self._ties(position, name, axis, output=True)
                    values[name, axis] = computing.after(self._views[position], tie, values)
                    values[name, axis][self._channels.get(name, {}).get(axis, [])] = 0.0
        return values

    def _contributions(self) -> Iterator[tuple[int, Floats]]:
        """What removed channels contribute to the sums of nodes that read them, by position; checks all these nodes."""
        for (name, axis), mask in self._cuts.values.items():
            for position in self._flow.consumers.get(name, ()) if name in self._flow.driven else ():
                for tie in self._ties(position, name, axis, output=False):
                    if tie.sums:
                        yield from self._contribution(position, name, axis, mask)

    def _contribution(self, position: int, name: str, axis: int, mask: Mask) -> Iterator[tuple[int, Floats]]:
        values = self._values[name, axis]
        varying = mask & ~np.isfinite(values)
        if varying.any():
            listed = ", ".join(map(str, np.flatnonzero(varying)[:8])) + (", ..." if varying.sum() > 8 else "")
            reason = f"{self._named(position)} reads {quoted(name)}; name channels {listed} of it, too"
            raise ConstantChannelsError(self._refusal(name, axis, reason))
        if values[mask].any():
            added = absorbed(self._views[position], mask, values)
            if added is None:
                raise ConstantChannelsError(
                    self._refusal(
                        name, axis, f"they are constant but not zero where {self._named(position)} reads {quoted(name)}"
                    )
                )
            yield position, added

    def _needing(self, position: int, name: str) -> str:
        """Say that a node needs all channels of a value; of a change of shape, also why."""
        node = self._flow.nodes[position]
        reason = f"{self._named(position)} needs all of them"
        if node.op_type not in RESHAPING or node.domain:
            return reason
        before, after = (_shown(self._flow.shape(each)) for each in (name, node.output[0]))
        return f"{reason}, because it turns shape {before} into {after}, where they are not entries of a single axis"

    def _named(self, position: int) -> str:
        node = self._flow.nodes[position]
        return f"{node.op_type} {quoted(node.name or node.output[0])}"

    def _refusal(self, name: str, axis: int, reason: str) -> str:
        root = self._cuts.roots[name, axis]
        shared = "" if root == name else f", which are those of {quoted(name)},"
        return f"the channels of {quoted(root)}{shared} cannot be removed: {reason}"

    def model(self) -> Model:
        """Return the model without the channels.

        Raises
        ------
        ModelError
            The graph is not valid without them: it computes with their number.
        """
        edited = _Edited(self._model, self._stored)
        for (position, operand), axes in self._cuts.stored.items():
            edited.cut(position, operand, axes)
        for position, added in self._biases.items():
            mask = self._cuts.values.get((self._flow.nodes[position].output[0], 1))
            edited.add_bias(position, added if mask is None else added[~mask])
        for (name, axis), mask in self._cuts.values.items():
            self._resize(edited, name, axis, mask)
        edited.forget({name for name, _ in self._cuts.values})
        try:
            return edited.model()
        except ModelError as error:
            raise ModelError(
                f"the graph computes with the number of its channels, and cannot lose any: {error}"
            ) from None

    def _resize(self, edited: _Edited, name: str, axis: int, mask: Mask) -> None:
        """Change the sizes that the node of a value states."""
        position = self._flow.producer[name]
        node = self._flow.nodes[position]
        (tie,) = self._ties(position, name, axis, output=True)
        if node.op_type in ("Conv", "ConvTranspose") and self._views[position].attribute("group", 1) > 1 and axis == 1:
            (out,) = (port for port in tie.ports if port.output)
            edited.set_groups(position, tie.size - math.ceil(int(mask.sum()) / out.per))
        if node.op_type == "Reshape":
            edited.reshape(position, axis, int((~mask).sum()))


class _Edited:
    """A copy of a model, with operands of single nodes changed."""

    def __init__(self, model: Model, stored: StoredValues) -> None:
        self._source, self._flow, self._stored = model, model.flow, stored
        self._proto = protos.copy_into(onnx.ModelProto(), model.proto, ("graph",))
        protos.copy_into(self._proto.graph, model.proto.graph, ("value_info", "initializer"))
        self._taken = {*self._flow.producer, *self._flow.initializers, *(v.name for v in model.proto.graph.input)}
        self._own: dict[str, npt.NDArray[Any]] = {}
        self._origins: dict[str, Hashable] = {}
        self._forgotten: set[str] = set()

    def cut(self, position: int, operand: int, axes: Mapping[int, Mask]) -> None:
        """Remove entries of an operand."""
        array = self._array(position, operand)
        for axis, mask in axes.items():
            array = np.compress(~mask, array, axis)
        self._set(position, operand, array)

    def add_bias(self, position: int, added: Floats) -> None:
        """Add to the bias of a convolution or matrix product, after its outputs were removed."""
        weight = self._array(position, 1)
        stored = len(self._flow.nodes[position].input) > 2 and self._flow.nodes[position].input[2]
        before = self._array(position, 2) if stored else np.zeros(len(added), weight.dtype)
        self._set(position, 2, (before.astype(np.float64) + added).astype(weight.dtype))

    def set_groups(self, position: int, groups: int) -> None:
        """Set the number of a convolution's groups."""
        for attribute in self._proto.graph.node[position].attribute:
            if attribute.name == "group":
                attribute.i = groups

    def reshape(self, position: int, axis: int, size: int) -> None:
        """Set a size that a reshape states. If its shape is computed, state it, with an inferred batch size."""
        operand = self._proto.graph.node[position].input[1]
        if operand in self._own or self._stored.get(operand) is not None:
            shape = self._array(position, 1).copy()
        else:
            sizes = self._flow.shape(self._flow.nodes[position].output[0]) or ()
            shape = np.array([each if isinstance(each, int) else -1 for each in sizes], np.int64)
            if (shape < 0).sum() > 1:
                return
        shape[axis] = size if shape[axis] > 0 else shape[axis]
        self._set(position, 1, shape)

    def forget(self, names: set[str]) -> None:
        """Forget the shapes of values."""
        self._forgotten |= names

    def _array(self, position: int, operand: int) -> npt.NDArray[Any]:
        name = self._proto.graph.node[position].input[operand]
        if name in self._own:
            return self._own[name]
        tensor = self._stored.get(name)
        assert tensor is not None
        return onnx.numpy_helper.to_array(tensor)

    def _set(self, position: int, operand: int, array: npt.NDArray[Any]) -> None:
        inputs = self._proto.graph.node[position].input
        while len(inputs) <= operand:
            inputs.append("")
        if inputs[operand] not in self._own:
            before = inputs[operand] or f"{self._flow.nodes[position].output[0]}/bias"
            inputs[operand] = _free(f"{before}/pruned", self._taken)
            self._origins[inputs[operand]] = self._stored.origin(before)
        self._own[inputs[operand]] = array

    def _share(self) -> None:
        """Store what nodes shared, and lost the same entries of, once."""
        first: dict[tuple[Hashable, tuple[int, ...], bytes], str] = {}
        same = {
            name: first.setdefault((self._origins[name], array.shape, array.tobytes()), name)
            for name, array in self._own.items()
        }
        for node in self._proto.graph.node:
            node.input[:] = [same.get(name, name) for name in node.input]
        self._own = {name: self._own[name] for name in first.values()}

    def model(self) -> Model:
        """Return the changed model, without constants that nothing reads any more."""
        self._share()
        graph, source = self._proto.graph, self._source.proto.graph
        reads = Counter(name for node in graph.node for name in protos.needed_names(node))
        reads.update(self._flow.outputs)

        def is_unused(name: str) -> bool:
            return not reads[name] and name not in self._flow.driven and bool(self._flow.consumers.get(name))

        for position in reversed(range(len(graph.node))):
            node = graph.node[position]
            if node.output and all(map(is_unused, node.output)):
                reads.subtract(protos.needed_names(node))
                del graph.node[position]
        protos.copy_tensors(graph.initializer, (t for t in source.initializer if not is_unused(t.name)))
        graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in self._own.items())
        names = self._forgotten | {name for name in self._flow.consumers if is_unused(name)}
        graph.value_info.extend(each for each in source.value_info if each.name not in names)
        kept = [each for each in graph.input if not is_unused(each.name)]
        del graph.input[:]
        graph.input.extend(kept)
        return load(self._proto)
