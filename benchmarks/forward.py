"""Accuracy and speed of the solver without gradients, on models trained here and where the answer is known.

    python benchmarks/forward.py                                   # all but the ResNet
    python benchmarks/forward.py tables --models "random forest" --tables wine --samples 5
    python benchmarks/forward.py resnet --resnet resnet20.onnx --images cifar10.npz:x_test --preset imagenet

Parts: ``tables`` trains the models of ``trained.py`` on public tables; ``forms`` compares steps and stumps with closed
forms; ``gradients`` compares with the solver that uses gradients, on models of tables and on the bundled digits
network; ``resnet`` does so on shared scales, for the float network and its int8 version, which is also compared with
the float network. The budget is 0.01 of the feature's variance over the whole table, or over 200 images; an int8
network needs more (``--budget 0.25``). H is in nats per input at the met constraint; seconds are CPU seconds of one
core per sample.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist, mean
from typing import Any

import numpy as np
import onnx
import torch
from common import machine
from onnx import TensorProto, helper, numpy_helper

import onnxinfo
from onnxinfo.analysis.evaluated import prepare_evaluated
from onnxinfo.analysis.job import Job, prepare
from onnxinfo.analysis.variance import feature_variances
from onnxinfo.config import SidConfig
from onnxinfo.metrics.budget import fit
from onnxinfo.metrics.forward import solve_forward
from onnxinfo.metrics.input_provider import InputProvider, open_samples_of
from onnxinfo.metrics.linearization import linearize
from onnxinfo.metrics.noise import ENTROPY, generator
from onnxinfo.metrics.problem import Problem
from onnxinfo.metrics.sid import Solution, solve
from onnxinfo.models.studies.script import as_script

ALPHA, CAP = 0.01, 1.0
IMAGES, NOISES = 200, 8192
CPU = torch.device("cpu")
Solve = Callable[[Job, int, float], Solution]


@dataclass(frozen=True)
class Case:
    """One layer of a model on samples: by default the last default layer, with a scale for each input."""

    name: str
    model: Any
    inputs: Any
    layer: str | None = None
    share: str = "unit"
    preset: str | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Found:
    """Results for some samples of a case: H (NaN where no noise is small enough), whether proven, and CPU seconds."""

    values: list[float]
    proven: list[bool]
    seconds: list[float]


def prepared_job(case: Case, seed: int, *, forward: bool) -> Job:
    """Prepare one layer for a solver."""
    loaded = onnxinfo.load(case.model)
    layers = onnxinfo.list_layers(loaded)
    chosen = onnxinfo.select_layers(layers, [case.layer] if case.layer else [])[-1:]
    samples = open_samples_of(loaded, case.inputs, preset=case.preset, limit=case.limit)
    provider = InputProvider(loaded, samples, onnxinfo.perturbed_tensors(loaded)[0])
    settings = SidConfig(normalize_by="feature", share_sigma=case.share, seed=seed)
    if forward:
        job = prepare_evaluated(provider, chosen, settings.without_gradients(), CPU, named=True)
    else:
        job = prepare(provider, chosen, settings, CPU)
    job.batch_size = fit(job.network, *job.inputs([0]), memory=None)
    return job


def solve_by_evaluations(job: Job, sample: int, budget: float) -> Solution:
    x, rows = job.inputs([sample])
    feature = job.feature(0, x, rows, sample)
    return solve_forward(feature, torch.tensor([budget]), job.tie, CAP, job.shape, job.integrator(0))


def solve_by_gradients(job: Job, sample: int, budget: float) -> Solution:
    x, rows = job.inputs([sample])
    start = linearize(job.network.part([0]), x, job.unit, rows, generator(CPU, job.settings.seed, "starts"))[0]
    target = torch.tensor([budget])
    return solve(Problem.of(job.feature(0, x, rows, sample), start, target, job.tie, CAP, job.shape))


def _solved(job: Job, samples: Sequence[int], solver: Solve, budget: float) -> Found:
    found = Found([], [], [])
    for sample in samples:
        began = time.process_time()
        solution = solver(job, sample, budget)
        found.seconds.append(time.process_time() - began)
        value = float(solution.entropy.mean())
        found.values.append(value if math.isnan(value) else value - _excess(job, sample, solution, budget))
        found.proven.append(bool(solution.certificate.converged & ~(solution.coarse > 1)))
    return found


def _excess(job: Job, sample: int, solution: Solution, budget: float) -> float:
    """How much of H is due to the constraint's not being met exactly, by fresh noise; 0 at the cap."""
    if bool(solution.certificate.saturated):
        return 0.0
    x, rows = job.inputs([sample])
    feature = job.feature(0, x, rows, sample)
    feature.noise = generator(CPU, job.settings.seed, "fresh")
    ratio = float(feature.deviations(solution.sigma, NOISES).mean()) / budget
    free = float((solution.sigma < CAP).float().mean())
    return free * math.log(ratio) / float(solution.certificate.exponent)


def spread(count: int, samples: int) -> list[int]:
    """Positions of samples that are evenly spread over a table."""
    return sorted({round(i * (count - 1) / max(samples - 1, 1)) for i in range(samples)})


def _apart(one: Found, other: Found) -> str:
    differences = [abs(a - b) for a, b in zip(one.values, other.values, strict=True) if not math.isnan(a + b)]
    return f"{mean(differences):.3f} | {max(differences):.3f}" if differences else " | "


def _mean(found: Found) -> str:
    values = [each for each in found.values if not math.isnan(each)]
    return f"{mean(values):.3f}" if values else "on thresholds"


def tables(arguments: argparse.Namespace) -> None:
    """Print mean SID, proven share, speed and agreement of two seeds for each model and table."""
    print("| model | table | inputs | mean SID | proven | seconds | seeds apart, mean | largest |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for model, name, case in _trained(arguments):
        jobs = [prepared_job(case, seed, forward=True) for seed in (0, 1)]
        (variance,) = feature_variances(jobs[0], [0])
        samples = spread(len(jobs[0].provider), arguments.samples)
        one, other = (_solved(job, samples, solve_by_evaluations, ALPHA * variance) for job in jobs)
        proven, seconds = mean([*one.proven, *other.proven]), mean([*one.seconds, *other.seconds])
        row = f"| {model} | {name} | {jobs[0].shape[0]} | {_mean(one)} | {100 * proven:.0f} % | {seconds:.1f} |"
        print(f"{row} {_apart(one, other)} |", flush=True)


def _trained(arguments: argparse.Namespace) -> Iterator[tuple[str, str, Case]]:
    from trained import MODELS, TABLES, export, is_installed, load_table, train

    for model in arguments.models or MODELS:
        for name in arguments.tables or TABLES:
            if is_installed(model):
                table = load_table(name)
                yield model, name, Case(model, export(model, train(model, table), table), table.x)


def forms(_: argparse.Namespace) -> None:
    """Print the differences from closed forms."""
    print("\n| function | closed form | found | difference | proven |\n| --- | ---: | ---: | ---: | ---: |")
    for name, thresholds, heights, budget in (
        ("a step of 2 at 0.3", (0.3,), (2.0,), 0.02),
        ("a step of 2 at 0.5", (0.5,), (2.0,), 0.02),
        ("stumps of 3 at 0.3 and of 1 at -0.6", (0.3, -0.6), (3.0, 1.0), 0.05),
    ):
        for kind, model in (("unknown", _steps(thresholds, heights)), ("known", _stumps(thresholds, heights))):
            case = Case(name, model, np.array([[0.0] * 5, [2.0] * 5], np.float32), layer="y")
            job = prepared_job(case, 0, forward=True)
            solution = solve_by_evaluations(job, 0, budget)
            found, true = float(solution.entropy.mean()), _best(thresholds, heights, budget, 5)
            proven = "yes" if bool(solution.certificate.converged) else "no"
            print(
                f"| {name}, thresholds {kind} | {true:.4f} | {found:.4f} | {found - true:+.4f} | {proven} |", flush=True
            )


def _best(thresholds: Sequence[float], heights: Sequence[float], budget: float, units: int) -> float:
    """Mean H at the optimum of steps of the first units of a sample of zeros, by a search over the budget's shares."""

    def sigma(height: float, distance: float, share: float) -> float:
        chance = share / height**2
        return CAP if chance >= 0.5 else min(CAP, -abs(distance) / NormalDist().inv_cdf(chance))

    shares = [(share, budget - share) for share in np.linspace(0, budget, 20_001)[1:-1]]
    if len(heights) == 1:
        shares = [(budget,)]
    steps = list(zip(heights, thresholds, strict=True))
    best = max(sum(math.log(sigma(*step, share)) for step, share in zip(steps, each, strict=True)) for each in shares)
    return best / units + ENTROPY


def _steps(thresholds: Sequence[float], heights: Sequence[float]) -> onnx.ModelProto:
    """Steps in elementary operators; inputs have a unit of 1."""
    count = len(thresholds)
    sides = [math.copysign(1, each) for each in thresholds]
    given = {"w": np.eye(5, count) * sides, "t": np.abs(thresholds), "heights": np.array(heights)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Greater", ["h", "t"], ["g"]),
        helper.make_node("Cast", ["g"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["c", "heights"], ["y"]),
    ]
    return _model(nodes, count, [numpy_helper.from_array(a.astype(np.float32), n) for n, a in given.items()])


def _stumps(thresholds: Sequence[float], heights: Sequence[float]) -> onnx.ModelProto:
    """The same steps as a tree ensemble."""
    count = len(thresholds)
    trees = range(count)
    node = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=count,
        nodes_treeids=[tree for tree in trees for _ in range(3)], nodes_nodeids=[0, 1, 2] * count,
        nodes_featureids=[feature for tree in trees for feature in (tree, 0, 0)],
        nodes_values=[value for each in thresholds for value in (each, 0.0, 0.0)],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"] * count,
        nodes_truenodeids=[1, 0, 0] * count, nodes_falsenodeids=[2, 0, 0] * count,
        target_treeids=list(trees), target_nodeids=[2] * count, target_ids=list(trees), target_weights=list(heights),
    )  # fmt: skip
    return _model([node], count, [])


def _model(nodes: Sequence[onnx.NodeProto], outputs: int, given: Sequence[TensorProto]) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", size]) for n, size in (("x", 5), ("y", outputs))]
    graph = helper.make_graph(nodes, "steps", ends[:1], ends[1:], given)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def gradients(arguments: argparse.Namespace) -> None:
    """Print the differences from the solver with gradients."""
    from trained import export, load_table, train

    from onnxinfo.models import path

    cases = []
    for model, name, layer in (
        ("linear", "breast_cancer", None),
        ("linear", "diabetes", None),
        ("MLP", "breast_cancer", "add_result2"),
        ("MLP", "wine", "add_result2"),
    ):
        table = load_table(name)
        cases.append(Case(f"{model}, {name}", export(model, train(model, table), table), table.x, layer=layer))
    digits = str(path("digits-cnn.onnx")), f"{path('digits.npz')}:images"
    cases += [Case(f"digits, {layer}", *digits, layer=layer) for layer in ("relu_3", "logits")]
    _print_header()
    for case in cases:
        budget = _budget(case, ALPHA)
        _print_row(case.name, _by_gradients(case, arguments.samples, budget), _forward(case, arguments.samples, budget))


def resnet(arguments: argparse.Namespace) -> None:
    """Compare on the float network, on its int8 version, and the latter with the float network, with shared scales."""
    if not arguments.resnet or not arguments.images:
        print("\nresnet: give --resnet and --images")
        return
    from onnxinfo.models.studies.quantisation import counterparts
    from onnxinfo.models.studies.quantise import quantized

    model = onnx.load(arguments.resnet)
    some = open_samples_of(onnxinfo.load(model), arguments.images, preset=arguments.preset, limit=IMAGES)
    version = quantized(model, next(iter(some.inputs.values())).batch(range(len(some))))["int8 QDQ"]
    shared: dict[str, Any] = {"share": arguments.share, "preset": arguments.preset, "limit": IMAGES}
    single = Case(f"float, {arguments.layer}", model, arguments.images, layer=arguments.layer, **shared)
    (rounded,) = counterparts(model, [arguments.layer], version)
    integer = Case("int8", version, arguments.images, layer=rounded, **shared)
    samples, budget = arguments.samples, _budget(single, arguments.budget)
    true = [_by_gradients(each, samples, budget) for each in (single, integer)]
    found = [_forward(each, samples, budget) for each in (single, integer)]
    _print_header()
    _print_row(single.name, true[0], found[0])
    _print_row("int8, against float", true[0], found[1])
    _print_row("int8", true[1], found[1])


def _budget(case: Case, share: float) -> float:
    """A share of the feature's variance."""
    return share * feature_variances(prepared_job(case, 0, forward=False), [0])[0]


def _by_gradients(case: Case, samples: int, budget: float) -> Found:
    job = prepared_job(case, 0, forward=False)
    return _solved(job, spread(len(job.provider), samples), solve_by_gradients, budget)


def _forward(case: Case, samples: int, budget: float) -> Found:
    job = prepared_job(case, 0, forward=True)
    return _solved(job, spread(len(job.provider), samples), solve_by_evaluations, budget)


def _print_header() -> None:
    print("\n| case | gradients | proven | seconds | forward | proven | seconds | apart, mean | largest |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")


def _print_row(name: str, true: Found, found: Found) -> None:
    columns = [
        f"{mean(part.values):.3f} | {100 * mean(part.proven):.0f} % | {mean(part.seconds):.1f}"
        for part in (true, found)
    ]
    print(f"| {name} | {' | '.join(columns)} | {_apart(true, found)} |", flush=True)


PARTS = {"tables": tables, "forms": forms, "gradients": gradients, "resnet": resnet}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[*PARTS])
    parser.add_argument("--models", nargs="*", help="names in trained.py; default: all that are installed")
    parser.add_argument("--tables", nargs="*", help="default: all")
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--resnet", help="an ONNX ResNet for CIFAR-10")
    parser.add_argument("--images", help="its images, FILE.npz:key")
    parser.add_argument("--preset", help="of the images")
    parser.add_argument("--layer", default="relu_18", help="of the ResNet")
    parser.add_argument("--share", default="grid:8", help="shared scales of the ResNet: unit, pixel or grid:N")
    parser.add_argument("--budget", type=float, default=ALPHA, help="budget of the ResNet, as a share of the variance")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(f"{machine('cpu')}; {arguments.samples} samples\n")
    for part in arguments.parts:
        PARTS[part](arguments)


if __name__ == "__main__":
    as_script(main)
