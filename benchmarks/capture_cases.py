"""Models for ``capture.py``: bundled networks, ONNX's test cases, ONNX Runtime's operators, torchvision's networks."""

from __future__ import annotations

import contextlib
import io
import tempfile
import unittest
import zlib
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import architectures
import conformance
import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, fx

from onnxinfo import convert
from onnxinfo.models import path
from onnxinfo.torch_graph.conversions import conversion_report
from onnxinfo.torch_graph.operators.values import to_torch

ZOO = path("digits.npz").parent
TESTS = Path(__file__).parent.parent / "tests" / "conformance"
Values = tuple[Any, ...]
#: Operators whose results have a size that depends on their data, or whose data decide what is computed.
BY_VALUES = {
    f"ai.onnx.{name}"
    for name in ("Compress", "If", "Loop", "MaxRoiPool", "NonMaxSuppression", "NonZero", "RoiAlign", "Unique")
}


@dataclass(frozen=True)
class Case:
    """A model, its inputs, and whether ONNX Runtime has to confirm its values (ONNX's test cases are confirmed)."""

    name: str
    model: onnx.ModelProto
    inputs: Values
    compared: bool = True

    @cached_property
    def module(self) -> fx.GraphModule:
        """The converted model."""
        return convert(self.model, fallback=False).eval()

    @cached_property
    def expected(self) -> Values:
        """Values of ONNX Runtime."""
        if not self.compared:
            with torch.no_grad():
                return tuple(self.module(*self.inputs))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        session = onnxruntime.InferenceSession(self.model.SerializeToString(), options, ["CPUExecutionProvider"])
        names = [value.name for value in inputs_of(self.model)]
        arrays = session.run(None, {name: x.numpy() for name, x in zip(names, self.inputs, strict=True)})
        return tuple(map(torch.from_numpy, arrays))

    @cached_property
    def free(self) -> tuple[bool, ...]:
        """Inputs along whose first axis the model takes any number of samples: of the size of the first input's.

        None if the model cannot be run with more samples, as most test cases of single operators.
        """
        sizes = [len(x) if x.dim() else 0 for x in self.inputs]
        free = tuple(size == sizes[0] > 0 for size in sizes)
        with torch.no_grad(), contextlib.suppress(Exception):
            for times in (2, 3):
                self.module(*repeated(self.inputs, free, times))
            return free
        return (False,) * len(self.inputs)

    @cached_property
    def reads(self) -> dict[str, tuple[str, ...]]:
        """Tensors whose elements decide what is computed, by operator, as ``conversion_report`` names them."""
        return {each.operator: each.reads for each in conversion_report(self.model) if each.reads}


def repeated(inputs: Sequence[Tensor], free: Sequence[bool], times: int) -> tuple[Tensor, ...]:
    """Repeat the samples of some inputs."""
    return tuple(torch.cat([x] * times) if each else x for x, each in zip(inputs, free, strict=True))


def inputs_of(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Graph inputs that must be fed."""
    initialized = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in initialized]


#: Builds a case; None: the model is not of the corpus.
Build = Callable[[], Case | None]


def zoo() -> Iterator[tuple[str, Build]]:
    """Iterate over the bundled networks."""
    for file in sorted(ZOO.glob("*.onnx")):
        yield file.stem, partial(zoo_case, file.name)


def zoo_case(name: str) -> Case:
    """Load a bundled network."""
    return case_of(name.removesuffix(".onnx"), onnx.load(path(name)))


def case_of(name: str, model: onnx.ModelProto, batch: int = 3) -> Case:
    """Draw inputs for a model; a first axis without a fixed size is the batch axis."""
    random = np.random.default_rng(0)
    inputs = []
    for value in inputs_of(model):
        type = value.type.tensor_type
        shape = [dim.dim_value or batch for dim in type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(type.elem_type)
        array = random.standard_normal(shape) if dtype.kind == "f" else random.integers(0, 3, shape)
        inputs.append(torch.from_numpy(array.astype(dtype)))
    return Case(name, model, tuple(inputs))


def conformance_cases(only: str = "") -> Iterator[tuple[str, Build]]:
    """Iterate over ONNX's test cases that pass without the fallback and have only tensors as inputs and outputs."""
    backend = conformance.backend_of(conformance.ENGINES["onnxinfo"])
    runs = dict(conformance.cases(backend, ""))
    deciding: dict[str, set[str]] = {}

    def passed(name: str) -> tuple[onnx.ModelProto, list[Any]] | None:
        with contextlib.suppress(Exception, unittest.SkipTest):
            runs[name]()
            return backend.last  # type: ignore[attr-defined, no-any-return]
        return None

    def build(name: str) -> Case | None:
        # What decides shapes in the operator also does in its expansion.
        base = name.removesuffix("_expanded")
        if base not in deciding:
            operator = passed(base) if base in runs else None
            deciding[base] = set() if operator is None else _deciding(operator[0])
        found = passed(name)
        if found is None:
            return None
        model, arrays = with_constants(*found, deciding[base] or _deciding(found[0]))
        case = Case(name, model, tuple(map(to_torch, arrays)), compared=False)
        values = (*case.inputs, *case.module(*case.inputs))
        return case if all(isinstance(value, Tensor) for value in values) else None

    # In an order without system, the models tried so far are a sample of all.
    for name in sorted((name for name, _ in conformance.cases(backend, only)), key=lambda n: zlib.crc32(n.encode())):
        yield name, partial(build, name)


def _deciding(model: onnx.ModelProto) -> set[str]:
    """Names of the values that decide shapes."""
    return {name for each in conversion_report(model) if each.operator not in BY_VALUES for name in each.reads}


def with_constants(model: onnx.ModelProto, arrays: Sequence[Any], names: Set[str]) -> tuple[onnx.ModelProto, list[Any]]:
    """Turn inputs that decide shapes into constants of the model, as they are in networks."""
    given = list(zip([value.name for value in inputs_of(model)], arrays, strict=True))
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.input[:]
    result.graph.input.extend(value for value in model.graph.input if value.name not in names)
    result.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in given if name in names)
    return result, [array for name, array in given if name not in names]


def contrib() -> Iterator[tuple[str, Build]]:
    """Iterate over the models in the tests of ONNX Runtime's own operators; what decides shapes is constant."""
    import nodes
    import pytest

    found: list[tuple[onnx.ModelProto, dict[str, Any]]] = []
    original = nodes.run_converted

    def recorded(model: onnx.ModelProto, feeds: dict[str, Any]) -> Any:
        outputs = original(model, feeds)
        found.append((model, feeds))
        return outputs

    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(io.StringIO()):
        patched.setattr(nodes, "run_converted", recorded)
        pytest.main(["-q", "-n", "0", "-p", "no:cacheprovider", str(TESTS / "test_operators_microsoft.py")])
    counts: dict[str, int] = {}
    for model, feeds in found:
        operator = model.graph.node[0].op_type
        counts[operator] = counts.get(operator, 0) + 1
        yield f"{operator}-{counts[operator]}", partial(_contrib_case, f"{operator}-{counts[operator]}", model, feeds)


def _contrib_case(name: str, model: onnx.ModelProto, feeds: dict[str, Any]) -> Case:
    model, arrays = with_constants(model, list(feeds.values()), _deciding(model))
    return Case(name, model, tuple(map(torch.from_numpy, arrays)))


def torchvision_networks(only: str = "") -> Iterator[tuple[str, Build]]:
    """Iterate over torchvision's networks with random weights, as ``architectures.py`` exports them."""
    import re

    for name, group in architectures.builders().items():
        if re.search(only, name):
            yield name, partial(_torchvision_case, name, group)


def _torchvision_case(name: str, group: str) -> Case:
    network, x = architectures.build(name, group)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        architectures.export(network, x, "torchscript", file)
        return Case(name, onnx.load(file), (x,))
