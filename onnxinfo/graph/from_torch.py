"""Export a torch module through ``torch.onnx`` with dynamo."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from ..errors import UsageError
from . import protos
from .exported import Array, Exported, failure, needed

if TYPE_CHECKING:
    import torch

OPSET = 20


def export_torch(module: torch.nn.Module, example: Any) -> Exported:
    """Export a module in evaluation mode, with a free batch size if it permits one.

    Parameters
    ----------
    module
        The module; its mode and weights stay as they are.
    example
        Its input: a tensor or array with the samples along the first axis, a tuple of these, or a mapping from names of
        parameters of ``forward``.

    Raises
    ------
    UsageError
        There is no example, or onnxscript is not installed.
    ModelError
        The module does not accept the example, or cannot be exported.
    """
    import torch

    name = type(module).__name__
    if example is None:
        raise UsageError(
            f"to export the torch module {name}, an example of its input is needed: give the argument 'example', a "
            "tensor with the samples along the first axis, here or to 'onnxinfo.load'"
        )
    needed("onnxscript", "torch modules")
    module = getattr(module, "_orig_mod", module)  # of torch.compile
    given = _arguments(module, example)
    with _evaluating(module), torch.no_grad():
        outputs = _call(module, given, name)
        proto = _program(module, _doubled(given), name, given)
    how = f"torch {torch.__version__}, torch.onnx with dynamo, opset {OPSET}"
    return Exported(proto, name, how, _feeds(proto, given), outputs)


Given = tuple[Any, ...] | dict[str, Any]


def _arguments(module: torch.nn.Module, example: Any) -> Given:
    """Return the example as tensors on the module's device, by position or by name."""
    if isinstance(example, Mapping):
        return {str(name): _tensor(module, value) for name, value in example.items()}
    several = example if isinstance(example, tuple | list) else (example,)
    return tuple(_tensor(module, value) for value in several)


def _tensor(module: torch.nn.Module, value: Any) -> torch.Tensor:
    import torch

    parameter = next(module.parameters(), None)
    if isinstance(value, torch.Tensor):
        return value if parameter is None else value.to(parameter.device)
    try:
        array = np.asarray(value)
        found = torch.from_numpy(np.array(array))
    except TypeError:
        raise UsageError(f"example: {type(value).__name__} is not usable; give a tensor or an array") from None
    # Arrays are float64 unless somebody takes care.
    kind = torch.float32 if parameter is None or not parameter.is_floating_point() else parameter.dtype
    found = found.to(kind) if found.is_floating_point() else found
    return found if parameter is None else found.to(parameter.device)


def _flat(given: Given) -> list[torch.Tensor]:
    return list(given.values() if isinstance(given, dict) else given)


def _doubled(given: Given) -> Given:
    """Return at least two samples: the exporter takes a size of one for fixed."""

    def double(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.repeat(2, *[1] * (tensor.ndim - 1)) if tensor.ndim and tensor.shape[0] == 1 else tensor

    return {k: double(v) for k, v in given.items()} if isinstance(given, dict) else tuple(map(double, given))


def _called(module: torch.nn.Module, given: Given) -> Any:
    return module(**given) if isinstance(given, dict) else module(*given)


def _call(module: torch.nn.Module, given: Given, name: str) -> list[Array | None]:
    import torch.utils._pytree as pytree

    try:
        found = _called(module, given)
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in _flat(given))
        remedy = "give an example of the shape that it takes, with the samples along the first axis"
        raise failure(f"{name} does not accept an example of shape {shapes}", error, remedy) from None
    return [_array(each) if hasattr(each, "detach") else None for each in pytree.tree_leaves(found)]


def _array(tensor: torch.Tensor) -> Array:
    found: Array = tensor.detach().cpu().contiguous().numpy()
    return found


def _program(module: torch.nn.Module, doubled: Given, name: str, given: Given) -> onnx.ModelProto:
    import torch

    axis = {0: torch.export.Dim.DYNAMIC}
    shapes: Any = (
        {key: axis if value.ndim else None for key, value in doubled.items()}
        if isinstance(doubled, dict)
        else tuple(axis if value.ndim else None for value in doubled)
    )
    try:
        return _export(module, doubled, shapes)
    except Exception:
        # Some modules permit one batch size only.
        try:
            return _export(module, given, None)
        except Exception as error:
            raise failure(f"torch.onnx cannot export {name}", error) from None


def _export(module: torch.nn.Module, given: Given, shapes: Any) -> onnx.ModelProto:
    import torch

    args, kwargs = ((), given) if isinstance(given, dict) else (given, None)
    with _quietly():
        program = torch.onnx.export(
            module, args, kwargs=kwargs, dynamo=True, opset_version=OPSET, dynamic_shapes=shapes, verbose=False
        )
    assert program is not None
    return _without_notes(program.model_proto)


def _without_notes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Remove the exporter's notes, which hold paths of source files and would change the model's digest."""
    del proto.metadata_props[:]
    inner = [body for node in protos.nested(proto.graph.node) for body in protos.bodies(node)]
    for graph in (proto.graph, *inner):
        del graph.metadata_props[:]
        for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            del value.metadata_props[:]
            value.doc_string = ""
    for nodes in (proto.graph.node, *(function.node for function in proto.functions)):
        for node in protos.nested(nodes):
            del node.metadata_props[:]
            node.doc_string = ""
    for function in proto.functions:
        del function.metadata_props[:]
    return proto


def _feeds(proto: onnx.ModelProto, given: Given) -> dict[str, Array]:
    """Return the example by graph input; the exporter names these after the parameters of ``forward``."""
    names = [value.name for value in proto.graph.input]
    named = given if isinstance(given, dict) else dict(zip(names, given, strict=False))
    return {name: _array(tensor) for name, tensor in named.items() if name in names}


@contextlib.contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Put a module and all its parts into evaluation mode, and back."""
    before = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, training in before:
            each.training = training


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silence the exporter's prints, warnings and log; what fails is raised."""
    before, nowhere = logging.root.manager.disable, io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)
