"""Blocks of a network: its conventional layers, residual sums and final outputs."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property

import onnx

from . import protos
from .dataflow import Dataflow
from .functions import Key, function_key
from .rounding import ROUNDING, repeated, scales
from .stacks import stacked_sums

CONVOLUTIONS = {
    "Conv", "ConvInteger", "ConvTranspose", "ConvTransposeWithDynamicPads", "DeformConv", "FusedConv", "NhwcConv",
    "NhwcFusedConv", "QLinearConv",
}  # fmt: skip
PRODUCTS = {
    "DynamicQuantizeMatMul", "Einsum", "FusedGemm", "FusedMatMul", "FusedMatMulActivation", "GemmFastGelu", "Gemm",
    "MatMul", "MatMulBnb4", "MatMulFpQ4", "MatMulInteger", "MatMulInteger16", "MatMulIntegerToFloat", "MatMulNBits",
    "QGemm", "QLinearMatMul", "QMoE", "MoE", "SparseToDenseMatMul", "TransposeMatMul",
}  # fmt: skip
RECURRENT = {"DynamicQuantizeLSTM", "GRU", "LSTM", "RNN", "AttnLSTM"}
ATTENTION = {
    "Attention", "DecoderAttention", "DecoderMaskedMultiHeadAttention", "DecoderMaskedSelfAttention",
    "GroupQueryAttention", "LinearAttention", "LongformerAttention", "MultiHeadAttention", "PackedAttention",
    "PackedMultiHeadAttention", "PagedAttention", "QAttention", "QOrderedAttention", "SparseAttention",
}  # fmt: skip
MATRIX = CONVOLUTIONS | PRODUCTS | RECURRENT | ATTENTION
SUMS = {"Add", "Sum", "QLinearAdd"}
# Operators that combine a sum and its normalization.
SKIPS = {"SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "SkipGroupNorm"}
_ADDING = SUMS | SKIPS

# Operators that change the position or storage of values, but not the values.
LAYOUT = {
    "Cast", "CastLike", "DequantizeLinear", "Dropout", "DynamicQuantizeLinear", "Flatten", "Identity", "QuantizeLinear",
    "Reshape", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
# Of these, those after which a block ends where it did before. A layer that is rounded ends after DequantizeLinear: an
# activation may be part of the rounding, and its readers see the rounded values.
_KEEPING = LAYOUT - {"DequantizeLinear"}
SOFTMAX = {"LogSoftmax", "Softmax"}
# Operators whose outputs are probabilities, which saturate.
SATURATING = {"HardSigmoid", "QLinearSigmoid", "QLinearSoftmax", "Sigmoid", "Softmax"}
# Operators that softmax and sigmoid are composed of, before the division that ends them.
_OF_PROBABILITIES = {"Add", "Exp", "Mul", "Neg", "ReduceMax", "ReduceSum", "Sub"} | LAYOUT
# Operators whose outputs are integers: inside a block they are part of rounding in elementary operators.
_INTEGRAL = {"Floor", "Round"}
# Normalizations, activations, and the operators that they are composed of.
POINTWISE = {
    "Abs", "Add", "BatchNormalization", "BiasAdd", "BiasGelu", "BiasSplitGelu", "Celu", "Clip", "Div", "Elu", "Erf",
    "Exp", "FastGelu", "Gelu", "GroupNorm", "GroupNormalization", "HardSigmoid", "HardSwish", "InstanceNormalization",
    "LRN", "LayerNormalization", "LeakyRelu", "Log", "LpNormalization", "Max", "MeanVarianceNormalization", "Min",
    "Mish", "Mul", "Neg", "PRelu", "Pow", "QLinearAdd", "QLinearLeakyRelu", "QLinearMul", "QLinearSigmoid",
    "QuickGelu", "RMSNormalization", "Reciprocal", "Relu", "Selu", "Shrink", "Sigmoid", "SimplifiedLayerNormalization",
    "Sin", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tanh", "ThresholdedRelu", "Where", *SOFTMAX,
}  # fmt: skip
# Reductions end no block: their output is a summary of it.
REDUCTIONS = {"GlobalAveragePool", "Mean", "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare"}
POINTWISE |= REDUCTIONS | _INTEGRAL
# Reductions from which a gate is computed that multiplies what was reduced, as in squeeze and excitation.
_SUMMARIES = {"GlobalAveragePool", "GlobalMaxPool", "ReduceMax", "ReduceMean"}

# Operators whose first result is the class with the largest score, or a score's sign.
_CHOOSING = {"ArgMax", "ArgMin", "LinearClassifier", "SVMClassifier", "Sign", "TreeEnsembleClassifier"}

# Operators that end a softmax or sigmoid in elementary operators.
_DIVISIONS = {"Div", "Reciprocal"}

# A GELU or a layer normalization in elementary operators has up to 12 nodes, not counting those that round.
_LARGEST_REGION = 24
# The same, and a softmax, with those that round.
_LARGEST_WITH_ROUNDING = 4 * _LARGEST_REGION


class _Content:
    """Parameters of the nodes of a block, which grows: their names and numbers of elements."""

    def __init__(self) -> None:
        self._found: dict[str, int] = {}
        self.total = 0

    def add(self, parameters: Mapping[str, int]) -> None:
        """Add the parameters of a node."""
        for name, number in parameters.items():
            if name not in self._found:
                self._found[name] = number
                self.total += number

    def absorb(self, other: _Content) -> None:
        """Add the parameters of a block that is not needed any more."""
        if len(other._found) > len(self._found):
            self._found, other._found = other._found, self._found
            self.total, other.total = other.total, self.total
        self.add(other._found)

    def copy(self) -> _Content:
        """Copy the content of a block with several outputs, which grow apart."""
        copy = _Content()
        copy.add(self._found)
        return copy


@dataclass
class Blocks:
    """Layers of a graph that depend on an analysis input.

    Parameters
    ----------
    flow
        Dataflow of the graph.
    influenced
        Values that depend on the analysis input.
    functions
        Model-local functions.
    """

    flow: Dataflow
    influenced: Set[str]
    functions: Mapping[Key, onnx.FunctionProto]
    #: Number of parameters of the block that ends with a tensor, by tensor name.
    totals: dict[str, int] = field(default_factory=dict)
    #: Names of the default layers' tensors.
    ends: set[str] = field(default_factory=set)
    #: Matrix operators inside the block of another one.
    _inside: set[int] = field(default_factory=set, repr=False)
    _found: dict[int, dict[str, int]] = field(default_factory=dict, repr=False)
    _operands_of: dict[int, set[str]] = field(default_factory=dict, repr=False)
    _sums: dict[int, bool] = field(default_factory=dict, repr=False)
    #: Values that other values, or layers, are computed from together with what is computed from these.
    _accompanied: set[str] = field(default_factory=set, repr=False)

    def __post_init__(self) -> None:
        absorbed: dict[int, _Content] = {}
        for i, node in enumerate(self.flow.nodes):
            if i not in self._inside and self._is_anchor(i):
                content = absorbed.pop(i, _Content())
                content.add(self._parameters(i))
                starts = self._layer_outputs(node)
                contents = [content.copy() for _ in starts[1:]] + [content]
                for name, own in zip(starts, contents, strict=False):
                    self._follow(name, own, absorbed)
        outputs = {name for name in self.flow.outputs & self.influenced if self.flow.is_feature(name)}
        self.ends |= (outputs | self._last_features()) - self._probabilities()
        # The same values in another layout are the same layer: the output, which has the better-known name.
        self.ends -= self._all_before_layout(outputs) - outputs

    def depth(self) -> dict[str, int]:
        """Number of layers with parameters on the longest path from the analysis input to each value."""
        depth: dict[str, int] = {}
        for i, node in enumerate(self.flow.nodes):
            if not self._passing[i]:
                continue
            before = max([depth.get(name, 0) for name in self.flow.needs[i] if name in self.influenced])
            here = before + self._weight(i)
            for name in node.output:
                depth[name] = here
        return depth

    def parameters(self, name: str) -> int:
        """Number of parameters of the block that ends with a tensor; without one, of the node that computes it."""
        if name in self.totals:
            return self.totals[name]
        return sum(self._parameters(self.flow.producer[name]).values())

    @cached_property
    def _passing(self) -> list[bool]:
        """Whether each node passes the influence of the analysis input on."""
        return [
            not self.influenced.isdisjoint(self.flow.needs[i])
            and not self.influenced.isdisjoint(node.output)
            and self.flow.sees(i)
            for i, node in enumerate(self.flow.nodes)
        ]

    @cached_property
    def _matrices(self) -> list[bool]:
        """Whether each node is a matrix operator or has one in its bodies."""
        return [
            node.op_type in MATRIX
            or (bool(node.attribute) and any(inner.op_type in MATRIX for inner in protos.nested([node])))
            for node in self.flow.nodes
        ]

    def _parameters(self, position: int) -> dict[str, int]:
        """Parameters of a node, including those inside a function that it calls."""
        if position in self._found:
            return self._found[position]
        key = self._called(position)
        inside = {} if key is None else self._bodies.parameters(key)
        alone = not self.flow.nodes[position].attribute and set(self.flow.needs[position]) <= self.influenced
        own = {} if alone else self.flow.parameters_of(position, self.influenced)
        self._found[position] = inside | own
        return self._found[position]

    def _weight(self, position: int) -> int:
        """Number of layers with parameters that a node adds to a path."""
        if (key := self._called(position)) is not None:
            return self._bodies.depth(key)
        return int(self._matrices[position] and bool(self._parameters(position)))

    def _called(self, position: int) -> Key | None:
        """The model's function that a node calls."""
        key = function_key(self.flow.nodes[position]) if self.functions else None
        return key if key in self.functions else None

    def _is_anchor(self, position: int) -> bool:
        """Whether a block starts with a node: a matrix operator or residual sum that depends on the analysis input."""
        if not self._passing[position]:
            return False
        if (key := self._called(position)) is not None:
            return self._bodies.depth(key) > 0
        if self._matrices[position]:
            return self._is_layer(position)
        return self._is_sum(position)

    def _is_layer(self, position: int) -> bool:
        """Whether a matrix operator is other than a transform computed by the graph, such as a cosine's matrix.

        Such a matrix has no parameters and depends on no graph input.
        """
        node = self.flow.nodes[position]
        if node.op_type not in PRODUCTS or self._parameters(position) or len(self._operands(position)) > 1:
            return True
        return any(name in self.flow.driven for name in node.input if name not in self.influenced)

    def _last_features(self) -> set[str]:
        """Features that lead only to outputs which are none, such as labels or maps from label to probability."""
        found: set[str] = set()
        if all(self.flow.is_feature(name) for name in self.flow.outputs & self.influenced):
            return found
        # Values that are no features, or labels, and from which no other is computed: whether they lead to an output.
        quiet: dict[str, bool] = {}
        for i in reversed(range(len(self.flow.nodes))):
            for name in self._used_outputs(self.flow.nodes[i]):
                computed = [n for j in self._consumers(name) for n in self._used_outputs(self.flow.nodes[j])]
                if not all(other in quiet for other in computed):
                    continue
                leads = any(quiet[other] for other in computed)
                if not self.flow.is_feature(name) or (name in self._labels and name not in self.flow.outputs):
                    quiet[name] = leads or name in self.flow.outputs
                elif leads and name not in self.flow.outputs:
                    found.add(name)
        return found

    @cached_property
    def _labels(self) -> set[str]:
        """Values that are computed from a class alone: the position of the largest score, or the score's sign."""
        found: set[str] = set()
        for i, node in enumerate(self.flow.nodes):
            if not self._passing[i]:
                continue
            if node.op_type in _CHOOSING:
                found.update(node.output[:1])
            elif (operands := self._operands(i)) and operands <= found:
                found.update(node.output)
        return found

    def _probabilities(self) -> set[str]:
        """Values that merely saturate a layer: its scores are more informative, and vary even at 0 or 1."""
        found: set[str] = set()
        # The ends of blocks so far, and the same values in another layout.
        ended = set(self.ends)
        for i, node in enumerate(self.flow.nodes):
            if node.op_type in LAYOUT and node.input[0] in ended:
                ended.update(node.output)
            if node.output[0] not in self.influenced or node.output[0] in found:
                continue
            scores = node.input[0] if node.op_type in SATURATING else self._divided(i, self.ends) or self._normalized(i)
            if scores is None or not (scores in ended or self._is_last_score(scores)):
                continue
            derived = self._derived_alone(node.output[0]) or set()
            found |= derived
            if scores not in ended and derived & self.flow.outputs:
                self.ends.add(scores)
        return found

    def _is_last_score(self, value: str) -> bool:
        """Whether a value may be the scores of a final softmax although no block ends with it."""
        return value in self.influenced and value in self.flow.producer and self.flow.is_float(value)

    def _normalized(self, position: int) -> str | None:
        """The scores whose softmax is written as ``exp(scores - logsumexp(scores))`` and ends here; None otherwise.

        The difference may be a LogSoftmax.
        """
        below = self._before(position, "Exp")
        for name in () if below is None else self._before_layout(below):
            if name in self.flow.producer and self.flow.nodes[self.flow.producer[name]].op_type == "LogSoftmax":
                return str(self.flow.nodes[self.flow.producer[name]].input[0])
        position = -1 if below is None else self.flow.producer[below]
        if below is None or self.flow.nodes[position].op_type != "Sub" or len(self.flow.nodes[position].input) != 2:
            return None
        scores, total = self.flow.nodes[position].input
        sums = (self.flow.producer.get(name) for name in self._before_layout(total))
        return scores if any(i is not None and self._before(i, "ReduceLogSumExp") == scores for i in sums) else None

    def _before(self, position: int, operator: str) -> str | None:
        """The computed operand of a node, if it has a certain operator; None otherwise."""
        node = self.flow.nodes[position]
        return node.input[0] if node.op_type == operator and node.input[0] in self.flow.producer else None

    def _scores_of_last(self, value: str, before: Mapping[str, str]) -> str | None:
        """Which of some values are the scores, if a value is the last softmax or sigmoid in elementary operators."""
        position = self.flow.producer[value]
        if self.flow.nodes[position].op_type not in _DIVISIONS:
            return None
        near = sorted(self._divided_values(position) & before.keys(), key=self.flow.producer.__getitem__)
        scores = next((name for name in near if self._divided(position, {name}) == name), None)
        if scores is None or self._derived_alone(value) is None:
            return None
        while (biased := self._biased(scores)) in near:
            scores = biased
        return scores

    def _biased(self, value: str) -> str:
        """The sum of a value and a constant, if the value is used for nothing else; otherwise empty."""
        readers = self._consumers(value)
        if len(readers) != 1 or self._operands(readers[0]) != {value}:
            return ""
        node = self.flow.nodes[readers[0]]
        return node.output[0] if node.op_type == "Add" else ""

    def _divided_values(self, position: int) -> set[str]:
        """Values from which operators of a softmax or sigmoid compute the operands of a division."""
        seen: set[str] = set()
        pending = [position]
        while pending and len(seen) <= _LARGEST_WITH_ROUNDING:
            fresh = self._operands(pending.pop()) - seen
            seen |= fresh
            before = (self.flow.producer.get(name) for name in fresh)
            pending += [i for i in before if i is not None and self.flow.nodes[i].op_type in _OF_PROBABILITIES]
        return seen

    def _divided(self, position: int, stops: Set[str]) -> str | None:
        """The scores whose softmax or sigmoid in elementary operators ends with a division; None for other nodes.

        `stops` are the values that may be scores.
        """
        if self.flow.nodes[position].op_type not in _DIVISIONS:
            return None
        scores, exponentials, seen = set[str](), 0, set[str]()
        pending = [position]
        while pending and len(seen) <= _LARGEST_WITH_ROUNDING:
            for name in self._operands(pending.pop()) - seen:
                seen.add(name)
                producer = None if name in stops else self.flow.producer.get(name)
                if producer is None or self.flow.nodes[producer].op_type not in _OF_PROBABILITIES:
                    scores.add(name)
                else:
                    exponentials += self.flow.nodes[producer].op_type == "Exp"
                    pending.append(producer)
        return scores.pop() if len(scores) == exponentials == 1 else None

    def _derived_alone(self, value: str) -> set[str] | None:
        """All that is computed from a value; None if a layer, a logarithm or another value takes part in it."""
        if value in self._accompanied:
            return None
        found = {value}
        pending = self._consumers(value)
        heapq.heapify(pending)
        last = -1
        while pending:
            i = heapq.heappop(pending)
            if i == last:
                continue
            last = i
            if not self._operands(i) <= found or self._is_anchor(i) or self.flow.nodes[i].op_type == "Log":
                self._note_accompanied(i, found)
                return None
            for name in filter(None, self.flow.nodes[i].output):
                found.add(name)
                for reader in self._consumers(name):
                    heapq.heappush(pending, reader)
        return found

    def _note_accompanied(self, position: int, values: Set[str]) -> None:
        """Note those of some values from which a node is computed that takes more than what is computed from them."""
        pending = [position]
        while pending:
            fresh = (self._operands(pending.pop()) & values) - self._accompanied
            self._accompanied |= fresh
            pending += [self.flow.producer[name] for name in fresh if name in self.flow.producer]

    def _all_before_layout(self, names: Set[str]) -> set[str]:
        found: set[str] = set()
        for name in names:
            for before in self._before_layout(name):
                if before in found:
                    break
                found.add(before)
        return found

    def _before_layout(self, name: str) -> Iterator[str]:
        """List a value and those of which it is only a different layout or rounding, backward."""
        yield name
        while name in self.flow.producer and (node := self.flow.nodes[self.flow.producer[name]]).op_type in LAYOUT:
            name = node.input[0]
            yield name

    def _is_sum(self, position: int) -> bool:
        """Whether a node adds two values elementwise that are not both pointwise functions of the same value.

        Without matrix operators there are no residual sums: an SVM or AdaBoost adds up the votes of its parts. A mask
        is no part of a residual sum.
        """
        if position not in self._sums:
            adds = self._adds(position) and self._has_matrix
            roots = {self._roots[name] for name in self._operands(position)}
            added = [name for name in roots if self.flow.element_type(name) != onnx.TensorProto.BOOL]
            self._sums[position] = adds and len(added) > 1
        return self._sums[position]

    def _adds(self, position: int) -> bool:
        return self.flow.nodes[position].op_type in _ADDING or position in self._stack_of

    @cached_property
    def _sum_of(self) -> dict[int, int]:
        """Nodes that sum a stack of values, by those that stack them."""
        return stacked_sums(self.flow)

    @cached_property
    def _stack_of(self) -> dict[int, int]:
        return {position: stack for stack, position in self._sum_of.items()}

    @cached_property
    def _has_matrix(self) -> bool:
        """Whether the graph, or a function of the model, has a matrix operator."""
        nodes = [*self.flow.nodes, *(node for function in self.functions.values() for node in function.node)]
        return any(node.op_type in MATRIX for node in protos.nested(nodes))

    @cached_property
    def _bodies(self) -> _Bodies:
        return _Bodies(self.functions)

    @cached_property
    def _roots(self) -> dict[str, str]:
        """The value that each value is computed from by pointwise operators alone."""
        roots = {name: name for name in self.influenced}
        for i, node in enumerate(self.flow.nodes):
            found = {roots[name] for name in self._operands(i)}
            if node.op_type in POINTWISE | LAYOUT and len(found) == 1:
                roots.update(dict.fromkeys(self.influenced & set(node.output), found.pop()))
        return roots

    @cached_property
    def _leads_to_matrix(self) -> set[str]:
        """Values that a matrix operator depends on."""
        leading: set[str] = set()
        for i in reversed(range(len(self.flow.nodes))):
            node = self.flow.nodes[i]
            if node.op_type in MATRIX or any(name in leading for name in node.output):
                leading.update(self.flow.needs[i])
        return leading

    def _layer_outputs(self, node: protos.AnyNode) -> list[str]:
        """Outputs of a node that start a block: of a recurrence or an attention, the first without its final states."""
        used = list(self._used_outputs(node))
        return used[:1] if node.op_type in RECURRENT | ATTENTION else used

    def _used_outputs(self, node: protos.AnyNode) -> Iterator[str]:
        for name in node.output:
            if name in self.influenced and (name in self.flow.outputs or self._consumers(name)):
                yield name

    def _consumers(self, name: str) -> list[int]:
        """Nodes that read a value and pass on its content, also if each reader has a rounding of its own.

        Of a value that is stacked to be summed, the reader is the sum.
        """
        every = (i for each in (name, *self._copies.get(name, ())) for i in self.flow.consumers.get(each, ()))
        readers = [self._sum_of.get(i, i) for i in every]
        return [i for i in sorted(set(readers)) if self._passing[i] and not self._only_rescales(i)]

    def _operands(self, position: int) -> set[str]:
        """Values that a node computes with and that depend on the analysis input, without scales."""
        if position not in self._operands_of:
            needs = self.flow.needs[self._stack_of.get(position, position)]
            names = (name for name in needs if name in self.influenced and name not in self._scales)
            self._operands_of[position] = {self._repeated.get(name, name) for name in names}
        return self._operands_of[position]

    def _only_rescales(self, position: int) -> bool:
        """Whether a node computes only scales, or rounds a value in the same way as a node before it."""
        outputs = [name for name in self.flow.nodes[position].output if name]
        return all(name in self._scales or name in self._repeated for name in outputs)

    @cached_property
    def _scales(self) -> set[str]:
        return scales(self.flow, self.influenced)

    @cached_property
    def _repeated(self) -> dict[str, str]:
        return repeated(self.flow)

    @cached_property
    def _copies(self) -> dict[str, list[str]]:
        """Values that are the same rounding of the same value as the first of them, by the first."""
        copies: dict[str, list[str]] = {}
        for name, first in self._repeated.items():
            copies.setdefault(first, []).append(name)
        return copies

    def _follow(self, start: str, content: _Content, absorbed: dict[int, _Content]) -> None:
        """Find the end of the block that starts with a value; a sum absorbs the blocks that only it uses."""
        end, name = start, start
        self.totals[start] = content.total
        # The end of the block if it ends with each of the values passed so far.
        passed = {start: start}
        while (region := self._region(name)) is not None:
            scores = self._scores_of_last(region[0], passed)
            if scores is not None:
                end, name = passed[scores], scores
                break
            name, inside = region
            for i in inside:
                content.add(self._parameters(i))
            self.totals.setdefault(name, content.total)
            changed = any(self.flow.nodes[i].op_type not in _KEEPING for i in inside)
            as_floats = self.flow.is_float(name) and not self.flow.is_float(end)
            if as_floats or (changed and self.flow.is_feature(name)):
                end = name
            passed[name] = end
        consumers = self._consumers(name)
        absorbs = len(consumers) == 1 and (self._is_sum(consumers[0]) or self._weighs(end, consumers[0]))
        if absorbs and name not in self.flow.outputs:
            absorbed.setdefault(consumers[0], _Content()).absorb(content)
        elif self.flow.is_feature(end) and name not in self.flow.outputs:
            self.ends.add(end)

    def _weighs(self, end: str, reader: int) -> bool:
        """Whether a value are the weights of an attention that a node applies."""
        before = (self.flow.producer.get(name) for name in self._before_layout(end))
        softmax = any(i is not None and self.flow.nodes[i].op_type in SOFTMAX for i in before)
        return softmax and self.flow.nodes[reader].op_type in PRODUCTS and len(self._operands(reader)) > 1

    def _region(self, start: str) -> tuple[str, set[int]] | None:
        """Smallest set of pointwise nodes after a value that is used only by them and has a single value leading out.

        Returns
        -------
        tuple or None
            The value that leads out, and the nodes.
        """
        if start in self.flow.outputs:
            return None
        inside: set[int] = set()
        values, summaries = {start}, set[str]()
        pending = self._consumers(start)
        heapq.heapify(pending)
        while (
            pending
            and len(inside) < _LARGEST_WITH_ROUNDING
            and sum(self.flow.nodes[i].op_type not in ROUNDING for i in inside) < _LARGEST_REGION
        ):
            i = heapq.heappop(pending)
            if i in inside:
                continue
            node = self.flow.nodes[i]
            outputs = list(self._used_outputs(node))
            operands = self._operands(i)
            gate = operands <= summaries and node.op_type in MATRIX
            if len(outputs) != 1 or not operands <= values or not (gate or self._continues(node, outputs[0])):
                return None
            inside.add(i)
            values.add(outputs[0])
            if operands <= summaries or node.op_type in _SUMMARIES:
                summaries.add(outputs[0])
            for consumer in self._consumers(outputs[0]):
                heapq.heappush(pending, consumer)
            others = values - {outputs[0]}
            closed = not others & self.flow.outputs and all(
                j in inside for name in others for j in self._consumers(name)
            )
            if closed and ((node.op_type in REDUCTIONS and not self._adds(i)) or outputs[0] in summaries):
                return None
            if closed:
                self._inside |= {j for j in inside if self._matrices[j]}
                return outputs[0], inside
        return None

    def _continues(self, node: protos.AnyNode, output: str) -> bool:
        """Whether a node belongs to the block before it; final probabilities are a layer of their own."""
        if node.op_type in SOFTMAX:
            return output in self._leads_to_matrix
        if node.op_type in _INTEGRAL and output in self.flow.outputs:
            return False
        if node.op_type in SATURATING and self._derived_alone(output) is not None:
            return False
        return node.op_type in POINTWISE | LAYOUT


@dataclass
class _Bodies:
    """Contents of model-local functions; each function is traversed once, however often it is called."""

    functions: Mapping[Key, onnx.FunctionProto]
    _depth: dict[Key, int] = field(default_factory=dict)
    _parameters: dict[Key, dict[str, int]] = field(default_factory=dict)

    def __contains__(self, key: Key) -> bool:
        return key in self.functions

    def depth(self, key: Key) -> int:
        """Number of matrix operators on the longest path through a function's body."""
        if key not in self._depth:
            self._depth[key] = self._longest(self.functions[key])
        return self._depth[key]

    def _longest(self, function: onnx.FunctionProto) -> int:
        depth: dict[str, int] = {}
        longest = 0
        for node in function.node:
            key = function_key(node)
            if key in self:
                weight = self.depth(key)
            else:
                weight = int(any(inner.op_type in MATRIX for inner in protos.nested([node])))
            here = weight + max((depth.get(name, 0) for name in protos.needed_names(node)), default=0)
            depth.update((name, here) for name in node.output)
            longest = max(longest, here)
        return longest

    def parameters(self, key: Key) -> dict[str, int]:
        """Number of parameters in a function's own body."""
        if key not in self._parameters:
            function = self.functions[key]
            flow = Dataflow(onnx.GraphProto(node=function.node))
            found: dict[str, int] = {}
            for i, node in enumerate(function.node):
                found.update(flow.parameters_of(i, set(function.input)))
                if function_key(node) in self:
                    found.update(self.parameters(function_key(node)))
            self._parameters[key] = found
        return self._parameters[key]
