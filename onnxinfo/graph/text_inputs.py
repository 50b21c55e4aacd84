"""Boundary of the part of a graph that processes text, through which no gradient passes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from .dataflow import Dataflow
from .model import ModelSource, load
from .surgery import extract


def tensors_of_text(model: ModelSource, input_tensor: str | Sequence[str], layers: Sequence[str]) -> list[str]:
    """Find the numeric tensors that layers depend on and that are computed from text inputs.

    Parameters
    ----------
    model
        See :func:`onnxinfo.load`.
    input_tensor
        The tensor that noise is added to, or several.
    layers
        Names of tensors that depend on it.

    Returns
    -------
    list of str
        Tensors at which to cut the graph so that no text remains; empty if the layers depend on no text.

    Raises
    ------
    UsageError, ModelError
        See :func:`onnxinfo.extract`.
    """
    loaded = load(model)
    if not any(_is_text(loaded.flow, name) for name in loaded.flow.inputs):
        return []
    sources = [input_tensor] if isinstance(input_tensor, str) else list(input_tensor)
    flow = extract(loaded, sources, layers).flow
    texts = {name for name in flow.inputs if _is_text(flow, name)}
    found: list[str] = []
    for node, needed in zip(flow.nodes, flow.needs, strict=True):
        if texts.isdisjoint(needed):
            continue
        outputs = [name for name in node.output if name and (name in flow.consumers or name in flow.outputs)]
        texts.update(name for name in outputs if _is_text(flow, name))
        found += [name for name in outputs if not _is_text(flow, name)]
    noisy = flow.influenced(*sources)
    return [name for name in found if name not in noisy]


def _is_text(flow: Dataflow, name: str) -> bool:
    return flow.element_type(name) == onnx.TensorProto.STRING
