"""ONNX's backend interface (``onnx.backend.base``) for the converted torch graph.

``onnxinfo.backend.prepare(model).run(inputs)`` runs a model as converted by :func:`onnxinfo.convert`, so that ONNX's
own backend test suite can be applied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx.backend.base import Backend, BackendRep, DeviceType, namedtupledict
from onnx.backend.base import Device as OnnxDevice

from .errors import UsageError
from .torch_graph.convert import convert
from .torch_graph.operators.values import to_numpy, to_torch


class TorchBackendRep(BackendRep):
    """A converted model, ready to run.

    Parameters
    ----------
    model
        The model; names and types of inputs and outputs are its own.
    device
        Device of the module.
    fallback
        Whether operators without a converter may run in another engine.
    """

    def __init__(self, model: onnx.ModelProto, device: torch.device, fallback: bool = True) -> None:
        super().__init__()
        initialized = {initializer.name for initializer in model.graph.initializer}
        self.inputs = [value.name for value in model.graph.input if value.name not in initialized]
        self.outputs = list(model.graph.output)
        self.device = device
        self.module = convert(model, fallback=fallback).to(device)

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Run the model.

        Parameters
        ----------
        inputs
            Arrays (lists of arrays for sequences, None for absent optional values), in the order of the graph inputs
            without those that are initializers, or by name.
        **kwargs
            Ignored; accepted for compatibility with other backends.

        Returns
        -------
        tuple
            One value per graph output, also accessible as attributes by name.

        Raises
        ------
        UsageError
            Names or number of the inputs differ from the model's.
        """
        values = self._in_order(inputs)
        with torch.no_grad():
            results = self.module(*(to_torch(value, self.device) for value in values))
        arrays = [to_numpy(result, output.type) for result, output in zip(results, self.outputs, strict=True)]
        return namedtupledict("Outputs", [output.name for output in self.outputs])(*arrays)

    def _in_order(self, inputs: Any) -> Sequence[Any]:
        if isinstance(inputs, Mapping):
            if set(inputs) != set(self.inputs):
                raise UsageError(f"inputs {sorted(inputs)} given; the model takes {self.inputs}")
            return [inputs[name] for name in self.inputs]
        values = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        if len(values) != len(self.inputs):
            raise UsageError(f"{len(values)} inputs given; the model takes {len(self.inputs)}: {self.inputs}")
        return values


class TorchBackend(Backend):
    """Backend that runs ONNX models as converted torch graphs."""

    @classmethod
    def prepare(
        cls, model: onnx.ModelProto, device: str = "CPU", *, fallback: bool = True, **kwargs: Any
    ) -> TorchBackendRep:
        """Check and convert a model.

        Parameters
        ----------
        model
            The model.
        device
            "CPU" or "CUDA", optionally with an index ("CUDA:1").
        fallback
            Whether operators without a converter may run in ONNX Runtime or the reference evaluator.
        **kwargs
            Ignored; accepted for compatibility with other backends.

        Raises
        ------
        ModelError
            The model is invalid.
        ConversionError
            A node cannot be converted.
        """
        return TorchBackendRep(model, _torch_device(device), fallback)

    @classmethod
    def run_node(
        cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any
    ) -> tuple[Any, ...]:
        """Run one operator, by default in the newest opset; ``opset_version`` selects another."""
        opset = onnx.helper.make_opsetid(node.domain, kwargs.get("opset_version", onnx.defs.onnx_opset_version()))
        values = [np.asarray(value) for value in inputs]
        graph = onnx.helper.make_graph(
            [node],
            node.op_type,
            [_described(name, value) for name, value in zip(filter(None, node.input), values, strict=True)],
            [onnx.helper.make_empty_tensor_value_info(name) for name in node.output],
        )
        model = onnx.shape_inference.infer_shapes(onnx.helper.make_model(graph, opset_imports=[opset]))
        return cls.prepare(model, device).run(values)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether models can run on a device: the CPU, and CUDA devices visible to torch."""
        kind = OnnxDevice(device).type
        return kind == DeviceType.CPU or (kind == DeviceType.CUDA and torch.cuda.is_available())


def _described(name: str, value: np.ndarray[Any, Any]) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


def _torch_device(device: str) -> torch.device:
    parsed = OnnxDevice(device)
    return torch.device("cpu") if parsed.type == DeviceType.CPU else torch.device("cuda", parsed.device_id)


prepare = TorchBackend.prepare
run_model = TorchBackend.run_model
run_node = TorchBackend.run_node
supports_device = TorchBackend.supports_device
