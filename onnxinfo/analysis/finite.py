"""Find samples and layers whose numbers are unusable before any work is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ..errors import InputError, ModelError
from ..graph.dataflow import Dataflow
from ..graph.surgery import expose_only
from ..text import printable, quoted
from ..torch_graph.runtime import Session
from .job import Job
from .memory import for_each

#: Spacing of neighboring floats, in standardized units, at which rounding hides the noise that a layer tolerates.
_COARSEST_STEP = 0.01


def check_values(job: Job) -> None:
    """Check that samples, and layers at them, are usable.

    Parameters
    ----------
    job
        Job that is ready to compute.

    Raises
    ------
    InputError
        A sample is so large that noise of one unit vanishes in rounding.
    ModelError
        A layer has no elements, is not finite at a sample, or the squares of its gradient overflow there.
    """
    samples = range(len(job.provider))
    blocks = [list(samples[start : start + job.batch_size]) for start in range(0, len(samples), job.batch_size)]
    for_each(job, blocks, lambda block: _check_block(job, block))
    for_each(job, [[sample] for sample in sorted({0, len(samples) - 1})], lambda block: _check_gradients(job, block))


def _check_block(job: Job, block: list[int]) -> None:
    x, rows = job.inputs(block)
    step = x.abs() * torch.finfo(x.dtype).eps
    coarse = (step > _COARSEST_STEP * job.unit).reshape(len(block), -1).any(1)
    if bool(coarse.any()):
        index = int(coarse.nonzero()[0])
        largest, unit = float(x[index].abs().max()), float(job.unit.min())
        raise InputError(
            f"sample {_name(job, block[index])} has values up to {largest:.2g} in {quoted(job.provider.input_tensor)}, "
            f"in which noise of its unit ({unit:.2g}) is lost to rounding; remove the sample, or subtract a mean=..."
        )
    with torch.no_grad():
        features = job.network(x, rows)
    for layer, feature in zip(job.layers, features, strict=True):
        if not feature.numel():
            raise ModelError(f"layer {quoted(layer.name)} has no elements, so nothing moves in it; leave it out")
        finite = feature.isfinite().all(1)
        if not bool(finite.all()):
            sample = block[int((~finite).nonzero()[0])]
            raise ModelError(
                f"layer {quoted(layer.name)} is not finite at sample {_name(job, sample)}"
                f"{_origin(job, layer.name, sample)}; leave out the layer or the sample"
            )


def _check_gradients(job: Job, block: list[int]) -> None:
    x, rows = job.inputs(block)
    leaf = x.requires_grad_(True)
    stream = torch.Generator().manual_seed(0)
    for i, (layer, feature) in enumerate(zip(job.layers, job.network(leaf, rows), strict=True)):
        if i in job.evaluated:
            continue
        signs = torch.randint(2, feature.shape, generator=stream).to(feature) * 2 - 1
        (product,) = torch.autograd.grad(feature, leaf, signs, retain_graph=True, materialize_grads=True)
        total = (product * job.unit).square().sum()
        if bool(total.isnan()):
            raise ModelError(
                f"the gradient of layer {quoted(layer.name)} is not a number at sample {_name(job, block[0])}, as "
                f"where the root of a negative number is computed and replaced; solve it without gradients, "
                f"solver='forward', or leave out the layer"
            )
        if not bool(total.isfinite()):
            raise ModelError(
                f"the squared gradient of layer {quoted(layer.name)} is not finite at sample "
                f"{_name(job, block[0])}; leave out the layer, or scale the model's weights down"
            )


def _name(job: Job, sample: int) -> str:
    return printable(job.provider.main.names[sample])


def _origin(job: Job, layer: str, sample: int) -> str:
    """Node that a non-finite value originates from, as far as ONNX Runtime can tell."""
    model = job.provider.model
    flow = model.flow
    influenced = flow.influenced(job.provider.input_tensor)
    ahead = [name for name in _needed(flow, layer) if name in influenced and flow.is_float(name)]
    values = job.provider.run_alone(Session(expose_only(model, ahead)), sample) if ahead else {}
    for name in ahead:
        wide = values[name].astype(np.float64)
        if np.isnan(wide).any() or np.isposinf(wide).any():
            node = flow.nodes[flow.producer[name]]
            what = "NaN" if np.isnan(wide).any() else "infinity"
            return f": {what} first in tensor {quoted(name)} ({node.op_type})"
    return ""


def _needed(flow: Dataflow, tensor: str) -> Sequence[str]:
    """Computed tensors that a tensor depends on, including itself, in graph order."""

    def positions() -> Iterator[int]:
        pending, seen = [tensor], {tensor}
        while pending:
            position = flow.producer.get(pending.pop())
            if position is not None:
                yield position
                fresh = [name for name in flow.needs[position] if name not in seen]
                seen.update(fresh)
                pending.extend(fresh)

    return [name for position in sorted(set(positions())) for name in flow.nodes[position].output if name]
