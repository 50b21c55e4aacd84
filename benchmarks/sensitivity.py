"""Time of the sensitivity of a network's output to all of its layers, and its agreement with dense Jacobians.

    OMP_NUM_THREADS=1 python benchmarks/sensitivity.py resnet20.onnx --inputs cifar10.npz:x_test --preset imagenet
    OMP_NUM_THREADS=1 python benchmarks/sensitivity.py resnet20.onnx ... --change kl:0.01

Seconds are those of the measurement alone, the smallest of several repetitions: model and samples are ready. Where
tolerances are measured, the range of the achieved changes is printed, too. The first sample's Jacobians are compared
with rows computed by ``torch.func.vjp`` in float64, one entry of the target at a time.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from common import analysis_parser, machine
from torch import Tensor

import onnxinfo
from onnxinfo.analysis.job import Job
from onnxinfo.analysis.sensitivity import measure_sensitivity
from onnxinfo.config import Config, configure
from onnxinfo.models.studies.script import as_script
from onnxinfo.workflows.sensitivity import Opened, open_sensitivity


def main() -> None:
    """Print the time, and the deviation from dense Jacobians."""
    parser = analysis_parser(__doc__)
    parser.add_argument("--samples", dest="limit", type=int, default=64)
    parser.add_argument("--change", default="relative:0.01")
    parser.add_argument("--repeat", type=int, default=3)
    chosen = parser.parse_args()
    names = ("limit", "preset", "layers", "device", "change")
    config = configure(Config(), {name: getattr(chosen, name) for name in names})
    opened = open_sensitivity(chosen.model, chosen.inputs, config)
    seconds, processor = [], []
    for _ in range(chosen.repeat):
        began, used = time.perf_counter(), time.process_time()
        found = measure_sensitivity(opened.job, opened.target, opened.shown, lambda _: None)
        seconds.append(time.perf_counter() - began)
        processor.append(time.process_time() - used)
    print(machine(chosen.device))
    print(f"{len(found)} layers, {len(opened.job.provider)} samples, {chosen.change}: {min(seconds):.2f} s")
    print(f"CPU time: {min(processor):.2f} s")
    achieved = [each.tolerance.achieved for each in found if np.isfinite(each.tolerance.achieved)]
    if achieved:
        print(f"achieved over wanted change, {len(achieved)} layers: {min(achieved):.3f} to {max(achieved):.3f}")
    worst = max(deviation(opened, each.layer.name, float(each.trace[0])) for each in found)
    print(f"largest relative deviation of the first sample's trace from dense Jacobians: {worst:.1e}")


def deviation(opened: Opened, tensor: str, trace: float) -> float:
    """Return the relative deviation of a trace from that of a Jacobian in float64."""
    job = opened.job
    if tensor == opened.target:
        return 0.0
    extracted = onnxinfo.extract(job.provider.model, [tensor], [opened.target])
    after = onnxinfo.convert(extracted).double()
    names = [each.name for each in extracted.proto.graph.input]
    given = values(job, tensor)

    def target(value: Tensor) -> Tensor:
        return torch.as_tensor(after(*((given | {tensor: value})[name] for name in names))[0])[0]

    out, pull = torch.func.vjp(target, given[tensor])
    rows = [pull(direction)[0] for direction in torch.eye(len(out), dtype=torch.float64)]
    dense = float(torch.stack(rows).square().sum())
    return abs(trace - dense) / dense


def values(job: Job, tensor: str) -> dict[str, Tensor]:
    """Return a tensor and the analysis input at the first sample, in float64."""
    x = torch.from_numpy(np.asarray(job.provider.perturbed([0])))
    before = onnxinfo.convert(job.provider.model, [tensor])
    return {tensor: before(x)[0].double(), job.provider.input_tensor: x.double()}


if __name__ == "__main__":
    as_script(main)
