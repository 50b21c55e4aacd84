"""Random operators draw the same values in every run: a layer is a function of its input, noise and all.

Values come from the node's seed, else from one that its output's name determines; no runtime reproduces another's.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import torch
from onnx2torch.onnx_graph import OnnxGraph
from onnx2torch.onnx_node import OnnxNode
from onnx2torch.utils.common import OperationConverterResult
from torch import Tensor

from .table import bind, converter, torch_type


def _seeded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Put a function into the table whose keyword ``seed`` is never None."""

    def convert(node: OnnxNode, graph: OnnxGraph) -> OperationConverterResult:
        seed = node.attributes.get("seed", zlib.crc32(node.output_values[0].encode()))
        return bind(function, node, graph, seed=int(seed))

    converter(function.__name__)(convert)
    return function


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _normal(shape: Any, type: torch.dtype, mean: float, scale: float, seed: int) -> Tensor:
    return (mean + scale * torch.randn(shape, generator=_generator(seed))).to(type)


def _uniform(shape: Any, type: torch.dtype, low: float, high: float, seed: int) -> Tensor:
    return (low + (high - low) * torch.rand(shape, generator=_generator(seed))).to(type)


@_seeded
def RandomNormal(*, shape, seed, dtype=1, mean=0.0, scale=1.0):
    return _normal(shape, torch_type(dtype), mean, scale, seed)


@_seeded
def RandomUniform(*, shape, seed, dtype=1, high=1.0, low=0.0):
    return _uniform(shape, torch_type(dtype), low, high, seed)


@_seeded
def RandomNormalLike(input, *, seed, dtype=None, mean=0.0, scale=1.0):
    type = torch_type(dtype) if dtype else input.dtype
    return _normal(input.shape, type, mean, scale, seed).to(input.device)


@_seeded
def RandomUniformLike(input, *, seed, dtype=None, high=1.0, low=0.0):
    type = torch_type(dtype) if dtype else input.dtype
    return _uniform(input.shape, type, low, high, seed).to(input.device)


@_seeded
def Bernoulli(input, *, seed, dtype=None):
    drawn = _uniform(input.shape, input.dtype, 0.0, 1.0, seed).to(input.device) < input
    return drawn.to(torch_type(dtype) if dtype else input.dtype)


@_seeded
def Multinomial(input, *, seed, dtype=6, sample_size=1):
    # The largest of logits with Gumbel noise is a draw from their softmax.
    uniform = _uniform((input.shape[0], sample_size, input.shape[1]), input.dtype, 0.0, 1.0, seed).to(input.device)
    return (input.unsqueeze(1) - (-uniform.log()).log()).argmax(-1).to(torch_type(dtype))
