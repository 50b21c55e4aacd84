"""Count how many of ONNX's own backend test cases each engine passes.

Prints one row per engine over the node, simple, pytorch-converted and pytorch-operator cases of the installed onnx
package, compared at each case's tolerance. "Rounding" counts outputs that differ from the stored ones by more than the
tolerance, but are within it of the case's model evaluated in higher precision: then the stored output has the rounding
error::

    python benchmarks/conformance.py
    python benchmarks/conformance.py --engine onnxinfo --verbose --only test_resize
"""

from __future__ import annotations

import argparse
import copy
import re
import unittest
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch
from onnx.backend.base import Backend, BackendRep
from onnx.backend.test.runner import Runner
from onnx.reference import ReferenceEvaluator

from onnxinfo.models.studies.script import as_script
from onnxinfo.torch_graph.precision import to_float32

Run = Callable[[list[Any]], Any]
_CATEGORIES = ("Node", "Simple", "PyTorchConverted", "PyTorchOperator")
_ROUGHLY = 1e-2


class RefusalError(Exception):
    """An engine raised an error instead of computing."""


class MismatchError(Exception):
    """An engine's outputs differ from the stored ones by more than the tolerance."""

    def __init__(self, reason: str, stored: list[Any], outputs: list[Any], rtol: float, atol: float) -> None:
        super().__init__(reason)
        self.stored = stored
        self.outputs = outputs
        self.tolerances = (rtol, atol)


def onnx2torch(model: onnx.ModelProto) -> Run:
    from onnx2torch import convert

    module = convert(model)

    def run(inputs: list[Any]) -> list[Any]:
        results = module(*(torch.from_numpy(np.asarray(value)) for value in inputs))
        return [result.detach().numpy() for result in (results if isinstance(results, (list, tuple)) else [results])]

    return run


def onnxinfo(model: onnx.ModelProto, fallback: bool) -> Run:
    from onnxinfo import backend

    run: Run = backend.prepare(model, fallback=fallback).run
    return run


def onnx_runtime(model: onnx.ModelProto) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return lambda inputs: session.run(None, dict(zip(names, inputs, strict=False)))


def reference_evaluator(model: onnx.ModelProto) -> Run:
    evaluator = ReferenceEvaluator(model)
    return lambda inputs: evaluator.run(None, dict(zip(evaluator.input_names, inputs, strict=False)))


ENGINES: dict[str, Callable[[onnx.ModelProto], Run]] = {
    "onnx2torch": onnx2torch,
    "onnxinfo": partial(onnxinfo, fallback=False),
    "onnxinfo with fallback": partial(onnxinfo, fallback=True),
    "ONNX Runtime": onnx_runtime,
    "reference evaluator": reference_evaluator,
}


def backend_of(engine: Callable[[onnx.ModelProto], Run]) -> type[Backend]:
    """Wrap an engine so that ONNX's runner distinguishes its errors from wrong results; ``last`` is its last run."""

    class Rep(BackendRep):
        def __init__(self, model: onnx.ModelProto) -> None:
            self._model = model
            self._run = _refusing(engine, model)

        def run(self, inputs: Any, **kwargs: Any) -> Any:
            Engine.last = (self._model, copy.deepcopy(list(inputs)))
            # The engines share the cases, and some write to their operands.
            return _refusing(self._run, copy.deepcopy(list(inputs)))

    class Engine(Backend):
        last: tuple[onnx.ModelProto, list[Any]]

        @classmethod
        def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> BackendRep:
            return Rep(model)

        @classmethod
        def supports_device(cls, device: str) -> bool:
            return device == "CPU"

    return Engine


def _refusing(function: Callable[[Any], Any], argument: Any) -> Any:
    try:
        return function(argument)
    except Exception as error:
        raise RefusalError(f"{type(error).__name__}: {error}") from error


class WholeRunner(Runner):  # type: ignore[misc]
    """ONNX's runner, which splits sequences into their elements and fails if these have no axes."""

    @classmethod
    def assert_similar_outputs(
        cls, ref_outputs: Any, outputs: Any, rtol: float, atol: float, model_dir: str | None = None
    ) -> None:
        if isinstance(ref_outputs, np.ndarray):
            ref_outputs, outputs = [ref_outputs], [np.asarray(outputs)]
        try:
            super().assert_similar_outputs(ref_outputs, outputs, rtol, atol, model_dir)
        except AssertionError as error:
            raise MismatchError(str(error), list(ref_outputs), list(outputs), rtol, atol) from error


def right_in_higher_precision(model: onnx.ModelProto, inputs: list[Any], mismatch: MismatchError) -> bool:
    """Whether the stored outputs have the rounding error: the engine's are within the tolerance of exact ones.

    Exact outputs are those of the reference evaluator, with half precision in float32 and float32 in float64; the
    stored outputs must be close to them, too.
    """
    half = any(isinstance(x, np.ndarray) and x.dtype.itemsize == 2 for x in inputs)
    wider = np.float32 if half else np.float64
    evaluator = ReferenceEvaluator(to_float32(model).proto)
    wide = [x.astype(wider) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x for x in inputs]
    exact = evaluator.run(None, dict(zip(evaluator.input_names, wide, strict=False)))
    rtol, atol = mismatch.tolerances
    return all(
        y.dtype == stored.dtype
        and y.shape == stored.shape == np.shape(z)
        and np.allclose(np.float64(y), z, rtol, atol)
        and np.allclose(np.float64(stored), z, _ROUGHLY, 1e-6 * np.abs(z).max())
        for stored, y, z in zip(mismatch.stored, mismatch.outputs, exact, strict=True)
    )


@dataclass
class Tally:
    """Counts of an engine's results."""

    passes: list[str] = field(default_factory=list)
    wrong: dict[str, str] = field(default_factory=dict)
    rounding: dict[str, str] = field(default_factory=dict)
    refuses: dict[str, str] = field(default_factory=dict)


def cases(backend: type[Backend], only: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """Iterate over the names of the cases and the functions that run them."""
    for class_name, case in WholeRunner(backend).test_cases.items():
        if class_name not in {f"OnnxBackend{category}ModelTest" for category in _CATEGORIES}:
            continue
        for name in dir(case):
            if name.startswith("test_") and name.endswith("_cpu") and re.search(only, name):
                yield name.removesuffix("_cpu"), getattr(case(name), name)


def tally(engine: Callable[[onnx.ModelProto], Run], only: str = "") -> Tally:
    """Run the cases whose name matches ``only`` on an engine."""
    result = Tally()
    backend = backend_of(engine)
    for name, case in cases(backend, only):
        try:
            case()
            result.passes.append(name)
        except (RefusalError, unittest.SkipTest) as error:
            result.refuses[name] = str(error)
        except MismatchError as mismatch:
            right = _right(*backend.last, mismatch)
            (result.rounding if right else result.wrong)[name] = str(mismatch)
        except Exception as error:
            result.wrong[name] = str(error)
    return result


def _right(model: onnx.ModelProto, inputs: list[Any], mismatch: MismatchError) -> bool:
    try:
        return right_in_higher_precision(model, inputs, mismatch)
    except Exception:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=ENGINES, action="append", help="only this engine (repeatable)")
    parser.add_argument("--only", default="", metavar="REGEX", help="only cases whose name matches")
    parser.add_argument("--verbose", action="store_true", help="list the cases an engine does not pass, and why")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print("| engine | passes | rounding | wrong results | refuses |")
    print("| --- | --- | --- | --- | --- |")
    for name in arguments.engine or ENGINES:
        result = tally(ENGINES[name], arguments.only)
        counts = (len(found) for found in (result.passes, result.rounding, result.wrong, result.refuses))
        print(f"| {name} | {' | '.join(map(str, counts))} |", flush=True)
        if arguments.verbose:
            for kind in ("rounding", "wrong", "refuses"):
                for case, reason in sorted(getattr(result, kind).items()):
                    print(f"{kind} {case}: {' '.join(reason.split())[:200]}")


if __name__ == "__main__":
    as_script(main)
