"""Count which converted models PyTorch can capture and transform, and say why the others cannot be.

Every model is converted, then exported by ``torch.export`` (also with a free batch size), run on a fake CUDA device,
compiled as one graph, and transformed by vmap, jvp and double backward. The corpus is the bundled networks and ONNX's
own test cases that are converted without the fallback::

    python benchmarks/capture.py --only zoo
    python benchmarks/capture.py --only conformance --every 10 --way compile
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import itertools
import unittest
import warnings
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

import conformance
import numpy as np
import onnx
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from onnxinfo import convert
from onnxinfo.models import path
from onnxinfo.torch_graph.conversions import conversion_report
from onnxinfo.torch_graph.operators.values import to_torch

HERE = path("digits.npz").parent
Values = tuple[Any, ...]
#: Operators whose results have a size that depends on their data, or whose data decide what is computed.
BY_VALUES = {
    f"ai.onnx.{name}"
    for name in ("Compress", "If", "Loop", "MaxRoiPool", "NonMaxSuppression", "NonZero", "RoiAlign", "Unique")
}


@dataclass(frozen=True)
class Case:
    """A converted model, its inputs, and which of them have a batch axis of free size."""

    name: str
    module: fx.GraphModule
    inputs: Values
    free: tuple[bool, ...]


def exported(case: Case) -> None:
    """Export the model for the inputs' shapes."""
    program = torch.export.export(case.module, case.inputs, strict=False)
    _same(program.module()(*case.inputs), case.module(*case.inputs))


def exported_for_any_batch(case: Case) -> None:
    """Export the model with a free batch size, and run it at another one."""
    batch = torch.export.Dim("batch", min=2, max=4096)
    shapes = tuple({0: batch} if free else None for free in case.free)
    program = torch.export.export(case.module, case.inputs, dynamic_shapes=shapes, strict=False)
    larger = tuple(torch.cat([x, x]) if free else x for x, free in zip(case.inputs, case.free, strict=True))
    _same(program.module()(*larger), case.module(*larger))


def on_fake_cuda(case: Case) -> None:
    """Run the model on tensors without data that say they are on a CUDA device: nothing can be read back."""
    module = copy.deepcopy(case.module)
    with FakeTensorMode():
        for each in module.modules():
            for held in (each._parameters, each._buffers):
                held.update({name: _faked(value) for name, value in held.items() if value is not None})
        outputs = module(*(_faked(x) for x in case.inputs))
    elsewhere = [y.device for y in outputs if isinstance(y, Tensor) and y.device.type != "cuda"]
    if case.inputs and elsewhere:
        raise ValueError(f"an output is on {elsewhere[0]}")


def _faked(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    fake = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")
    return nn.Parameter(fake, value.requires_grad) if isinstance(value, nn.Parameter) else fake


def compiled(case: Case) -> None:
    """Compile the model as one graph."""
    torch._dynamo.reset()
    function = torch.compile(case.module, fullgraph=True, backend="eager")
    _same(function(*case.inputs), case.module(*case.inputs))


def vectorized(case: Case) -> None:
    """Run the model under vmap over a new axis of its float inputs."""
    axes = tuple(0 if _is_float(x) else None for x in case.inputs)
    stacked = tuple(torch.stack([x, x]) if _is_float(x) else x for x in case.inputs)
    if any(axis == 0 for axis in axes) and _float_outputs(case.module)(*case.inputs):
        torch.func.vmap(_float_outputs(case.module), in_dims=axes, randomness="different")(*stacked)


def with_tangents(case: Case) -> None:
    """Compute a Jacobian-vector product in forward mode."""
    floats = [i for i, x in enumerate(case.inputs) if _is_float(x)]
    if floats and _float_outputs(case.module)(*case.inputs):
        given = tuple(case.inputs[i] for i in floats)
        torch.func.jvp(_of_floats(case, floats), given, tuple(torch.ones_like(x) for x in given))


def differentiated_twice(case: Case) -> None:
    """Differentiate the squared norm of a gradient."""
    floats = [i for i, x in enumerate(case.inputs) if _is_float(x)]
    leaves = [case.inputs[i].detach().clone().requires_grad_() for i in floats]
    outputs = [y for y in _of_floats(case, floats)(*leaves) if y.requires_grad] if leaves else []
    if not outputs:
        return
    total = sum(y.double().square().sum() for y in outputs)
    gradients = torch.autograd.grad(total, leaves, create_graph=True, allow_unused=True)
    twice = [g.double().square().sum() for g in gradients if g is not None and g.requires_grad]
    if twice:
        torch.autograd.grad(sum(twice), leaves, allow_unused=True)


WAYS: dict[str, Callable[[Case], None]] = {
    "export": exported,
    "export, free batch": exported_for_any_batch,
    "fake CUDA": on_fake_cuda,
    "compile": compiled,
    "vmap": vectorized,
    "jvp": with_tangents,
    "double backward": differentiated_twice,
}


def _is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def _float_outputs(module: fx.GraphModule) -> Callable[..., Values]:
    return lambda *inputs: tuple(y for y in module(*inputs) if _is_float(y))


def _of_floats(case: Case, positions: Sequence[int]) -> Callable[..., Values]:
    """The model as a function of its float inputs."""

    def function(*floats: Tensor) -> Values:
        inputs = list(case.inputs)
        for i, x in zip(positions, floats, strict=True):
            inputs[i] = x
        return _float_outputs(case.module)(*inputs)

    return function


def _same(found: Sequence[Any], expected: Sequence[Any]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True)


def attempt(case: Case, way: str) -> str:
    """Return the reason why a model does not pass, in one line; empty if it does."""
    try:
        WAYS[way](case)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return ""


def zoo() -> Iterator[Case]:
    """Iterate over the bundled networks, each with three random samples."""
    for file in sorted(HERE.glob("*.onnx")):
        yield zoo_case(file.name)


def zoo_case(name: str) -> Case:
    """Convert a bundled network."""
    return case_of(name.removesuffix(".onnx"), onnx.load(path(name)))


def case_of(name: str, model: onnx.ModelProto, batch: int = 3) -> Case:
    """Convert a model and draw inputs; a first axis without a fixed size is the batch axis."""
    random = np.random.default_rng(0)
    inputs, free = [], []
    for value in _inputs(model):
        type = value.type.tensor_type
        shape = [dim.dim_value or batch for dim in type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(type.elem_type)
        array = random.standard_normal(shape) if dtype.kind == "f" else random.integers(0, 3, shape)
        inputs.append(torch.from_numpy(array.astype(dtype)))
        free.append(bool(type.shape.dim) and not type.shape.dim[0].dim_value)
    return Case(name, convert(model, fallback=False).eval(), tuple(inputs), tuple(free))


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    initialized = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in initialized]


def conformance_cases(only: str = "", every: int = 1) -> Iterator[Case]:
    """Iterate over ONNX's test cases that pass without the fallback and have only tensors as inputs and outputs."""
    backend = conformance.backend_of(conformance.ENGINES["onnxinfo"])
    deciding: dict[str, set[str]] = {}
    for name, run in itertools.islice(conformance.cases(backend, only), 0, None, every):
        with contextlib.suppress(Exception, unittest.SkipTest):
            run()
            model, arrays = backend.last  # type: ignore[attr-defined]
            base = name.removesuffix("_expanded")
            # What decides shapes in the operator also does in its expansion.
            deciding.setdefault(base, _deciding(model))
            model, arrays = with_constants(model, arrays, deciding[base])
            inputs = tuple(map(to_torch, arrays))
            module = convert(model, fallback=False).eval()
            if all(isinstance(value, Tensor) for value in (*inputs, *module(*inputs))):
                yield Case(name, module, inputs, (False,) * len(inputs))


def _deciding(model: onnx.ModelProto) -> set[str]:
    """Names of the values that decide shapes."""
    return {name for each in conversion_report(model) if each.operator not in BY_VALUES for name in each.reads}


def with_constants(model: onnx.ModelProto, arrays: Sequence[Any], names: Set[str]) -> tuple[onnx.ModelProto, list[Any]]:
    """Turn inputs that decide shapes into constants of the model, as they are in networks."""
    given = list(zip([value.name for value in _inputs(model)], arrays, strict=True))
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.input[:]
    result.graph.input.extend(value for value in model.graph.input if value.name not in names)
    result.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in given if name in names)
    return result, [array for name, array in given if name not in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["zoo", "conformance"], help="only this part of the corpus")
    parser.add_argument("--cases", default="", metavar="REGEX", help="only cases whose name matches")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th case")
    parser.add_argument("--way", choices=WAYS, action="append", help="only this way (repeatable)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    counts = {way: [0, 0] for way in arguments.way or WAYS}
    parts = {"zoo": zoo, "conformance": lambda: conformance_cases(arguments.cases, arguments.every)}
    for part in [arguments.only] if arguments.only else parts:
        for case in parts[part]():
            for way in counts:
                if way == "export, free batch" and not any(case.free):
                    continue
                reason = attempt(case, way)
                counts[way][0] += not reason
                counts[way][1] += 1
                if reason:
                    print(f"{way}: {case.name}: {reason[:300]}", flush=True)
    for way, (passed, total) in counts.items():
        print(f"{way}: {passed} of {total}")


if __name__ == "__main__":
    main()
