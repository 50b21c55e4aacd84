"""Small valid models with unusual attributes and shapes, by number: the same number gives the same model."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
OPSETS = range(7, onnx.defs.onnx_opset_version() + 1)
# Special values in weights, besides ordinary ones.
EXTREMES = (0.0, -0.0, 1e-38, 1e20, 1e38, np.inf, -np.inf, np.nan)


@dataclass(frozen=True)
class Tensor:
    """A value of the graph: its name, its shape at the fed batch size, and its element type."""

    name: str
    shape: tuple[int, ...]
    element: int = FLOAT

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass
class Builder:
    """A graph under construction."""

    chance: random.Random
    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    count: int = 0

    def name(self) -> str:
        self.count += 1
        return self.chance.choice([f"t{self.count}", f"/block.{self.count}/out:0", f"é {self.count}"])

    def add(self, op: str, operands: Sequence[str], shape: Sequence[int], element: int = FLOAT, **more: Any) -> Tensor:
        output = self.name()
        self.nodes.append(helper.make_node(op, operands, [output], **more))
        return Tensor(output, tuple(shape), element)

    def weight(self, *shape: int) -> str:
        """A float constant, in one of the forms that a model may use."""
        seed, how = self.chance.randrange(2**32), self.chance.random()
        values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        if how < 0.04:
            values = np.full(shape, self.chance.choice(EXTREMES), np.float32)
        return self.constant(values)

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def constant(self, values: Any) -> str:
        name, values = self.name(), np.asarray(values)
        tensor = numpy_helper.from_array(values, name)
        how = self.chance.choice(["raw", "raw", "fields", "node", "computed"])
        if how == "fields":
            tensor = helper.make_tensor(name, tensor.data_type, values.shape, values.flatten().tolist())
        if how == "node":
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.constants.append(tensor)
        return self.add("Identity", [name], values.shape).name if how == "computed" else name

    def axis(self, x: Tensor, ends: int = 0) -> int:
        """An axis, counted from the front or the back; ``ends`` more are allowed after the last."""
        axis = self.chance.randrange(x.rank + ends)
        return axis - x.rank if not ends and self.chance.random() < 0.4 else axis

    def integer_operand(self, since: int, name: str, *values: int) -> tuple[list[str], dict[str, Any]]:
        """Axes and similar: an operand since some opset, an attribute before."""
        return ([self.integers(*values)], {}) if self.opset >= since else ([], {name: list(values)})


Step = Callable[[Builder, Tensor], Tensor | None]


def unary(b: Builder, x: Tensor) -> Tensor:
    names = ["Relu", "Sigmoid", "Tanh", "Abs", "Neg", "Exp", "Log", "Sqrt", "Reciprocal", "Identity", "Softplus",
             "Softsign", "Floor", "Ceil", "Sin", "Atan"]  # fmt: skip
    names += ["Erf", "Sign", "Sinh"] if b.opset >= 9 else []
    names += ["Round"] if b.opset >= 11 else []
    names += ["HardSwish"] if b.opset >= 14 else []
    names += ["Mish"] if b.opset >= 18 else []
    names += ["Gelu"] if b.opset >= 20 else []
    return b.add(b.chance.choice(names), [x.name], x.shape)


def parametrized(b: Builder, x: Tensor) -> Tensor:
    alpha = b.chance.choice([0.0, 1.0, -1.0, 0.01, 1e10, 1e-10])
    op = b.chance.choice(["LeakyRelu", "Elu", "HardSigmoid", "ThresholdedRelu", "Shrink", "Celu"])
    if b.opset < {"ThresholdedRelu": 10, "Shrink": 9, "Celu": 12}.get(op, 1):
        op = "LeakyRelu"
    if op == "Celu" and alpha == 0:
        alpha = 1.0
    attributes = {"lambd": abs(alpha), "bias": alpha} if op == "Shrink" else {"alpha": alpha}
    return b.add(op, [x.name], x.shape, **attributes)


def binary(b: Builder, x: Tensor) -> Tensor:
    op = b.chance.choice(["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean"])
    if op in ("Max", "Min", "Sum", "Mean") and b.opset < 8:
        op = "Add"
    shape = [size if b.chance.random() < 0.6 else 1 for size in x.shape]
    shape = shape[b.chance.randrange(len(shape) + 1) :] if b.chance.random() < 0.5 else shape
    operands = [x.name, b.weight(*shape)]
    if b.chance.random() < 0.2:
        operands = [x.name, x.name]
    if b.chance.random() < 0.3:
        operands.reverse()
    return b.add(op, operands, x.shape)


def widened(b: Builder, x: Tensor) -> Tensor | None:
    """A binary operator whose constant broadcasts the tensor to more axes, or to none."""
    if x.rank >= 5:
        return None
    ahead = b.chance.choice([0, 1, 2])
    shape = (ahead, *x.shape) if b.chance.random() < 0.5 else (1, *x.shape)
    result = tuple(np.broadcast_shapes(shape, x.shape))
    return b.add("Mul", [x.name, b.weight(*shape)], result)


def matmul(b: Builder, x: Tensor) -> Tensor | None:
    if x.rank < 1:
        return None
    size = b.chance.choice([0, 1, 2, 5])
    if x.rank == 1 or b.chance.random() < 0.1:
        return b.add("MatMul", [x.name, b.weight(x.shape[-1])], x.shape[:-1])
    return b.add("MatMul", [x.name, b.weight(x.shape[-1], size)], (*x.shape[:-1], size))


def gemm(b: Builder, x: Tensor) -> Tensor | None:
    if x.rank != 2:
        return None
    size, transposed = b.chance.choice([0, 1, 3]), b.chance.random() < 0.5
    operands = [x.name, b.weight(*((size, x.shape[1]) if transposed else (x.shape[1], size)))]
    if b.opset < 11 or b.chance.random() < 0.6:
        operands.append(b.weight(*b.chance.choice([(size,), (1, size), (1,), ()])))
    alpha, beta = (b.chance.choice([0.0, 1.0, -2.0]) for _ in range(2))
    return b.add("Gemm", operands, (x.shape[0], size), transB=int(transposed), alpha=alpha, beta=beta)


def window(b: Builder, sizes: Sequence[int]) -> tuple[dict[str, Any], list[int]] | None:
    """Attributes of a window over spatial axes, and the sizes of its result."""
    kernel = [b.chance.choice([1, 2, 3]) for _ in sizes]
    strides = [b.chance.choice([1, 1, 2, 4]) for _ in sizes]
    dilations = [b.chance.choice([1, 1, 2]) for _ in sizes]
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    before = [b.chance.randrange(min(r, k)) for r, k in zip(reach, kernel, strict=True)]
    after = [b.chance.randrange(min(r, k)) for r, k in zip(reach, kernel, strict=True)]
    found = [(n + p + q - r) // s + 1 for n, p, q, r, s in zip(sizes, before, after, reach, strides, strict=True)]
    if min(found) < 1:
        return None
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "pads": [*before, *after]}
    if max(dilations) > 1:
        attributes["dilations"] = dilations
    return attributes, found


def convolution(b: Builder, x: Tensor) -> Tensor | None:
    found = window(b, x.shape[2:]) if x.rank in (3, 4, 5) else None
    if found is None or not x.shape[1]:
        return None
    attributes, sizes = found
    groups = b.chance.choice([1, 1, x.shape[1]])
    channels = groups * b.chance.choice([1, 2])
    operands = [x.name, b.weight(channels, x.shape[1] // groups, *attributes["kernel_shape"])]
    operands += [b.weight(channels)] if b.chance.random() < 0.5 else []
    return b.add("Conv", operands, (x.shape[0], channels, *sizes), group=groups, **attributes)


def transposed(b: Builder, x: Tensor) -> Tensor | None:
    if x.rank not in (3, 4) or not x.shape[1]:
        return None
    kernel = [b.chance.choice([1, 2, 3]) for _ in x.shape[2:]]
    strides = [b.chance.choice([1, 2, 3]) for _ in x.shape[2:]]
    extra = [b.chance.randrange(s) for s in strides]
    sizes = [s * (n - 1) + k + e for n, k, s, e in zip(x.shape[2:], kernel, strides, extra, strict=True)]
    if min(sizes, default=1) < 1:
        return None
    operands = [x.name, b.weight(x.shape[1], 2, *kernel)]
    more = {"kernel_shape": kernel, "strides": strides, "output_padding": extra}
    return b.add("ConvTranspose", operands, (x.shape[0], 2, *sizes), **more)


def pool(b: Builder, x: Tensor) -> Tensor | None:
    found = window(b, x.shape[2:]) if x.rank in (3, 4, 5) else None
    if found is None:
        return None
    attributes, sizes = found
    op = b.chance.choice(["MaxPool", "AveragePool", "LpPool"])
    if (op != "MaxPool" or b.opset < 10) and attributes.pop("dilations", None):
        return None
    if op == "AveragePool":
        attributes["count_include_pad"] = b.chance.choice([0, 1])
    return b.add(op, [x.name], (*x.shape[:2], *sizes), **attributes)


def whole_pool(b: Builder, x: Tensor) -> Tensor | None:
    if x.rank < 3:
        return None
    op = b.chance.choice(["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
    return b.add(op, [x.name], (*x.shape[:2], *(1 for _ in x.shape[2:])))


def reduction(b: Builder, x: Tensor) -> Tensor | None:
    if not x.rank:
        return None
    kinds = ["Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp"]
    op, keep = "Reduce" + b.chance.choice(kinds), b.chance.random() < 0.5
    axes = sorted(b.chance.sample(range(x.rank), b.chance.randrange(1, x.rank + 1)))
    given = [axis - x.rank if b.opset >= 11 and b.chance.random() < 0.3 else axis for axis in axes]
    operands, attributes = b.integer_operand(13 if op == "ReduceSum" else 18, "axes", *given)
    shape = [1 if i in axes else n for i, n in enumerate(x.shape) if keep or i not in axes]
    return b.add(op, [x.name, *operands], shape, keepdims=int(keep), **attributes)


def normalized(b: Builder, x: Tensor) -> Tensor | None:
    op = b.chance.choice(["Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "LRN", "Batch", "Instance", "Layer"])
    channels = x.shape[1] if x.rank > 1 else 0
    if op in ("Softmax", "LogSoftmax", "Hardmax", "LpNormalization"):
        if not x.rank:
            return None
        axis = b.axis(x) if b.opset >= 11 or op == "LpNormalization" else b.chance.randrange(x.rank)
        return b.add(op, [x.name], x.shape, axis=axis)
    if op == "LRN" and x.rank == 4:
        return b.add("LRN", [x.name], x.shape, size=b.chance.choice([1, 3, 5]))
    if op == "Batch" and x.rank > 1:
        one = np.random.default_rng(0).random(channels).astype(np.float32)
        operands = [b.weight(channels), b.weight(channels), b.weight(channels), b.constant(one)]
        return b.add("BatchNormalization", [x.name, *operands], x.shape, epsilon=b.chance.choice([0.0, 1e-5, 1.0]))
    if op == "Instance" and x.rank > 2:
        return b.add("InstanceNormalization", [x.name, b.weight(channels), b.weight(channels)], x.shape)
    if op == "Layer" and b.opset >= 17 and x.rank:
        axis = b.axis(x)
        return b.add("LayerNormalization", [x.name, b.weight(*x.shape[axis:])], x.shape, axis=axis)
    return None


def reshaped(b: Builder, x: Tensor) -> Tensor | None:
    size = int(np.prod(x.shape, dtype=np.int64))
    shapes = [(x.shape[0] if x.rank else 1, -1), (-1,), (*x.shape, 1), (1, *x.shape), x.shape]
    shape = b.chance.choice(shapes)
    if len(shape) > 5 or (0 in shape or not size):
        return None
    operand = b.integers(*shape)
    if b.chance.random() < 0.2:
        operand = b.add("Shape", [x.name], (x.rank,), INT64).name
        shape = x.shape
    return b.add("Reshape", [x.name, operand], np.empty(x.shape, bool).reshape(shape).shape)


def rearranged(b: Builder, x: Tensor) -> Tensor:
    if b.chance.random() < 0.4:
        axis = b.chance.randrange(x.rank + 1)
        sizes = [int(np.prod(part, dtype=np.int64)) for part in (x.shape[:axis], x.shape[axis:])]
        return b.add("Flatten", [x.name], sizes, axis=axis)
    order = b.chance.sample(range(x.rank), x.rank)
    return b.add("Transpose", [x.name], [x.shape[i] for i in order], **({"perm": order} if order else {}))


def squeezed(b: Builder, x: Tensor) -> Tensor | None:
    if b.chance.random() < 0.5 and x.rank < 5:
        axis = b.axis(x, ends=1)
        operands, attributes = b.integer_operand(13, "axes", axis)
        return b.add("Unsqueeze", [x.name, *operands], (*x.shape[:axis], 1, *x.shape[axis:]), **attributes)
    ones = [i for i, size in enumerate(x.shape) if size == 1]
    if not ones:
        return None
    axis = b.chance.choice(ones)
    operands, attributes = b.integer_operand(13, "axes", axis)
    return b.add("Squeeze", [x.name, *operands], (*x.shape[:axis], *x.shape[axis + 1 :]), **attributes)


def sliced(b: Builder, x: Tensor) -> Tensor | None:
    if not x.rank:
        return None
    axis, step = b.chance.randrange(x.rank), b.chance.choice([1, 1, 2, -1] if b.opset >= 10 else [1])
    start, end = b.chance.choice([0, 1, -1, 100, -100]), b.chance.choice([0, 1, 2, -1, 100, -100, 2**31 - 1])
    size = len(range(*slice(start, end, step).indices(x.shape[axis])))
    shape = [size if i == axis else n for i, n in enumerate(x.shape)]
    if b.opset < 10:
        return b.add("Slice", [x.name], shape, starts=[start], ends=[end], axes=[axis])
    return b.add("Slice", [x.name, *(b.integers(i) for i in (start, end, axis, step))], shape)


def padded(b: Builder, x: Tensor) -> Tensor | None:
    if not x.rank or 0 in x.shape:
        return None
    mode = b.chance.choice(["constant", "reflect", "edge"])
    most = min(x.shape) - 1 if mode == "reflect" else 2
    pads = [b.chance.randrange(min(most, 2) + 1) for _ in range(2 * x.rank)]
    if mode == "constant" and b.chance.random() < 0.2:
        pads[0] = -1
    shape = [n + p + q for n, p, q in zip(x.shape, pads[: x.rank], pads[x.rank :], strict=True)]
    operands, attributes = b.integer_operand(11, "pads", *pads)
    return b.add("Pad", [x.name, *operands], shape, mode=mode, **attributes)


def gathered(b: Builder, x: Tensor) -> Tensor | None:
    if not x.rank:
        return None
    axis = b.chance.randrange(x.rank)
    if not x.shape[axis]:
        return None
    least = -x.shape[axis] if b.opset >= 11 else 0
    where = b.chance.choice([(), (1,), (0,), (2, 2)])
    indices = [b.chance.randrange(least, x.shape[axis]) for _ in range(int(np.prod(where)))]
    operand = b.constant(np.array(indices, np.int64).reshape(where))
    shape = (*x.shape[:axis], *where, *x.shape[axis + 1 :])
    return b.add("Gather", [x.name, operand], shape, axis=axis) if len(shape) <= 5 else None


def joined(b: Builder, x: Tensor) -> Tensor | None:
    if not x.rank:
        return None
    axis, count = b.chance.randrange(x.rank), b.chance.choice([0, 1, 3])
    other = [count if i == axis else n for i, n in enumerate(x.shape)]
    shape = [count + n if i == axis else n for i, n in enumerate(x.shape)]
    return b.add("Concat", [x.name, b.weight(*other)], shape, axis=axis)


def parted(b: Builder, x: Tensor) -> Tensor | None:
    """A tuple of outputs, of which one is used further."""
    if not x.rank:
        return None
    axis = b.chance.randrange(x.rank)
    if b.chance.random() < 0.5 and x.shape[axis]:
        first = b.chance.randrange(x.shape[axis] + 1)
        operands, attributes = b.integer_operand(13, "split", first, x.shape[axis] - first)
        names = [b.name(), b.name()]
        b.nodes.append(helper.make_node("Split", [x.name, *operands], names, axis=axis, **attributes))
        return Tensor(names[0], tuple(first if i == axis else n for i, n in enumerate(x.shape)))
    if not x.shape[axis] or b.opset < 10:
        return None
    count, names = b.chance.randrange(1, x.shape[axis] + 1), [b.name(), b.name()]
    b.nodes.append(helper.make_node("TopK", [x.name, b.integers(count)], names, axis=axis))
    at = b.chance.choice([0, 0, 1])
    shape = tuple(count if i == axis else n for i, n in enumerate(x.shape))
    return Tensor(names[0], shape) if not at else b.add("Cast", [names[1]], shape, to=FLOAT)


def stepped(b: Builder, x: Tensor) -> Tensor | None:
    """An operator that blocks the gradient."""
    how = b.chance.choice(["cast", "bool", "argmax", "compare", "half"])
    if how == "argmax":
        if not x.rank:
            return None
        axis = b.chance.randrange(x.rank)
        if not x.shape[axis]:
            return None
        op = b.chance.choice(["ArgMax", "ArgMin"])
        shape = [1 if i == axis else n for i, n in enumerate(x.shape)]
        found = b.add(op, [x.name], shape, INT64, axis=axis)
    elif how == "compare" and b.opset >= 9:
        found = b.add("Greater", [x.name, b.weight(1)], np.broadcast_shapes(x.shape, (1,)), BOOL)
    else:
        element = {"bool": BOOL, "half": TensorProto.FLOAT16}.get(how, b.chance.choice([INT64, TensorProto.INT32]))
        found = b.add("Cast", [x.name], x.shape, element, to=element)
    return b.add("Cast", [found.name], found.shape, to=FLOAT)


def repeated(b: Builder, x: Tensor) -> Tensor | None:
    if not x.rank or int(np.prod(x.shape)) > 1000:
        return None
    if b.opset >= 8 and b.chance.random() < 0.5:
        shape = [b.chance.choice([0, 1, 2, 3]) if n == 1 else n for n in x.shape]
        return b.add("Expand", [x.name, b.integers(*shape)], shape)
    times = [b.chance.choice([0, 1, 1, 2]) for _ in x.shape]
    return b.add("Tile", [x.name, b.integers(*times)], [n * t for n, t in zip(x.shape, times, strict=True)])


def clipped(b: Builder, x: Tensor) -> Tensor:
    low, high = b.chance.choice([(-1.0, 1.0), (0.0, 0.0), (1.0, -1.0), (-1e38, 1e38)])
    if b.opset < 11:
        return b.add("Clip", [x.name], x.shape, min=low, max=high)
    operands = ["" if b.chance.random() < 0.3 else b.constant(np.float32(low)), b.constant(np.float32(high))]
    return b.add("Clip", [x.name, *operands], x.shape)


def spaced(b: Builder, x: Tensor) -> Tensor | None:
    if x.rank != 4:
        return None
    n, c, h, w = x.shape
    block = b.chance.choice([1, 2])
    if b.chance.random() < 0.5:
        if c % (block * block):
            return None
        more = {"mode": b.chance.choice(["DCR", "CRD"])} if b.opset >= 11 else {}
        shape = (n, c // block**2, h * block, w * block)
        return b.add("DepthToSpace", [x.name], shape, blocksize=block, **more)
    if h % block or w % block:
        return None
    return b.add("SpaceToDepth", [x.name], (n, c * block**2, h // block, w // block), blocksize=block)


def resized(b: Builder, x: Tensor) -> Tensor | None:
    if x.rank not in (3, 4) or b.opset < 11 or 0 in x.shape:
        return None
    sizes = [*x.shape[:2], *(b.chance.choice([1, 2, 5]) for _ in x.shape[2:])]
    mode = b.chance.choice(["nearest", "linear", "cubic"] if x.rank == 4 else ["nearest", "linear"])
    places = ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"]
    operands = [x.name, b.constant(np.zeros(0, np.float32)), b.constant(np.zeros(0, np.float32)), b.integers(*sizes)]
    return b.add("Resize", operands, sizes, mode=mode, coordinate_transformation_mode=b.chance.choice(places))


def recurrent(b: Builder, x: Tensor) -> Tensor | None:
    if x.rank != 3 or 0 in x.shape:
        return None
    op, hidden = b.chance.choice([("RNN", 1), ("GRU", 3), ("LSTM", 4)]), b.chance.choice([1, 2])
    direction, ways = b.chance.choice([("forward", 1), ("reverse", 1), ("bidirectional", 2)])
    operands = [b.weight(ways, op[1] * hidden, x.shape[2]), b.weight(ways, op[1] * hidden, hidden)]
    return b.add(
        op[0], [x.name, *operands], (x.shape[0], ways, x.shape[1], hidden), hidden_size=hidden, direction=direction
    )


STEPS: tuple[Step, ...] = (
    unary, parametrized, binary, widened, matmul, gemm, convolution, transposed, pool, whole_pool, reduction,
    normalized, reshaped, rearranged, squeezed, sliced, padded, gathered, joined, parted, stepped, repeated, clipped,
    spaced, resized, recurrent,
)  # fmt: skip
# Sizes of inner axes; zero is rare, because nothing can follow it.
SIZES = (1, 1, 2, 3, 4, 5, 6, 6)


def odd_model(case: int) -> tuple[onnx.ModelProto, np.ndarray]:
    """A model, and samples for its input."""
    chance = random.Random(case)
    b = Builder(chance, chance.choice(OPSETS))
    rank = chance.choice([0, 1, 2, 2, 3, 3, 4, 4, 4, 5])
    batch = chance.choice([1, 1, 1, 2])
    shape = [0 if chance.random() < 0.02 else chance.choice(SIZES) for _ in range(max(rank, 1) - 1)]
    x = Tensor(b.name(), (batch, *shape) if rank else ())
    # The part after the input is made for this batch size; some graphs do not declare it, and are refused at another.
    declared = [chance.choice([batch, batch, batch, "N", None]) if i == 0 else n for i, n in enumerate(x.shape)]
    given = helper.make_tensor_value_info(x.name, FLOAT, declared)
    values = [x]
    for _ in range(chance.randrange(1, 8)):
        source = values[-1] if chance.random() < 0.8 else chance.choice(values)
        for step in chance.sample(STEPS, len(STEPS)):
            if (found := step(b, source)) is not None:
                values.append(found)
                break
    outputs = list(
        dict.fromkeys([values[-1], *(chance.choice(values[1:]) for _ in range(chance.choice([0, 0, 1, 2])))])
    )
    typed = [helper.make_tensor_value_info(value.name, FLOAT, None) for value in outputs]
    also = [
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in b.constants
        if chance.random() < 0.05
    ]
    if chance.random() < 0.1:
        b.constants.append(numpy_helper.from_array(np.zeros((0, 3), np.float32), "unused"))
    graph = helper.make_graph(b.nodes, "odd", [given, *also], typed, b.constants)
    versions = {opset: ir for _, ir, opset, *_ in helper.VERSION_TABLE}
    ir = chance.choice([versions.get(b.opset, onnx.IR_VERSION), onnx.IR_VERSION, 8])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", b.opset)], ir_version=max(ir, 4))
    samples = np.random.default_rng(case).standard_normal((3, *x.shape[1:])).astype(np.float32)
    return proto, samples
