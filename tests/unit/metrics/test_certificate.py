"""Conditions for cells that are not converged, each tested alone on cells of known truth."""

import math

import numpy as np
import pytest
import torch
from graphs import quantized
from probed import probed
from solver_parts import replaced

import onnxinfo
from onnxinfo.analysis.proof import proof
from onnxinfo.archive.format import MARKS, mark_code
from onnxinfo.metrics.certificate import (
    Certificate,
    certify,
    constraint_met,
    missing_entropy,
    sample_until,
    take_trial,
)
from onnxinfo.metrics.halves import Halves
from onnxinfo.metrics.measured import Measured, measure
from onnxinfo.metrics.trial import Sampling, pyramid
from onnxinfo.models import path

ALPHA, UNITS = 1.5e-4, 64


class Linear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        weight = torch.randn(200, UNITS, generator=torch.Generator().manual_seed(0))
        self.weight = torch.nn.Parameter(weight * torch.linspace(0.5, 2, UNITS), requires_grad=False)

    def forward(self, x):
        return (x @ self.weight.T,)


@pytest.fixture(scope="module")
def linear():
    """A linear layer at four samples: feature, closed form (4, n) and target (4,)."""
    feature, start = probed(Linear(), torch.zeros(4, UNITS))
    target = ALPHA * start.normalizer
    return feature, (target[:, None] / (UNITS * start.column_norms)).sqrt(), target


def certified(linear, change):
    feature, closed, target = linear
    sigma = closed * change
    free, found = torch.ones_like(sigma, dtype=torch.bool), measure(feature, sigma, 32)
    trial, deviations = take_trial(feature, found, free, free, (UNITS,), lambda step: sigma * step.exp(), Sampling(64))
    deviations = sample_until(feature, sigma, torch.cat([found.deviations, deviations]))
    missing = missing_entropy(found, free, free, (UNITS,), torch.zeros(4), torch.full_like(sigma, torch.inf))
    return certify(Measured(found.parts, deviations), target, free, missing, trial)


def at_the_constraint(errors):
    """Factors exp(errors), (n,), scaled so that a linear layer's constraint stays met, and the loss in nats."""
    factor = torch.exp(errors)
    level = factor.square().mean().sqrt()
    return factor / level, float(level.log() - errors.mean())


def test_the_closed_form_converges(linear):
    found = certified(linear, 1.0)
    assert found.converged.all()
    assert (found.gap < 0.03).all()


@pytest.mark.parametrize(("root", "proven"), [(0.05, True), (0.45, False), (0.8, False)])
def test_the_gap_covers_what_is_missing(linear, root, proven):
    errors = root * torch.randn(UNITS, generator=torch.Generator().manual_seed(1))
    change, missing = at_the_constraint(errors)
    found = certified(linear, change)
    assert found.met.all()
    assert (found.gap >= missing).all()
    assert (found.gap <= 4 * missing + 0.02).all()
    assert bool(found.converged.all()) is proven
    assert bool(found.converged.any()) is proven


@pytest.mark.parametrize(("factor", "met"), [(1.01, True), (1.08, False), (0.9, False), (3.0, False)])
def test_scales_off_the_constraint_are_found_out(linear, factor, met):
    found = certified(linear, factor)
    assert found.ratio == pytest.approx(torch.full((4,), factor**2).numpy(), rel=0.1)
    assert bool(found.converged.all()) is met
    assert bool(found.converged.any()) is met


@pytest.mark.parametrize(
    ("ratio", "stderr", "met"),
    [
        (1.049, 0.0, True),
        (0.951, 0.0, True),
        (1.051, 0.0, False),
        (0.949, 0.0, False),
        (1.089, 0.02, True),
        (1.095, 0.015, False),
        (1.101, 0.045, False),
        (1.0, 0.049, True),
        (1.0, 0.051, False),
        (4092.0, 4091.0, False),
        (math.nan, 0.01, False),
        (1.0, math.nan, False),
        (math.inf, math.inf, False),
    ],
)
def test_the_constraint_has_to_be_known(ratio, stderr, met):
    one = torch.tensor([False])
    assert bool(constraint_met(torch.tensor([ratio]), torch.tensor([stderr]), one)) is met


@pytest.mark.parametrize(("ratio", "met"), [(0.01, True), (1.04, True), (1.06, False)])
def test_the_constraint_is_an_inequality_at_the_cap(ratio, met):
    found = constraint_met(torch.tensor([ratio]), torch.tensor([0.0]), torch.tensor([True]))
    assert bool(found) is met


def cell(**changes):
    numbers = {"ratio": 1.0, "ratio_stderr": 0.01, "gap": 0.01, "gain": 0.0, "gain_stderr": 0.0, "exponent": 2.0}
    tensors = {name: torch.tensor([value]) for name, value in (numbers | changes).items() if name in numbers}
    flags = {name: torch.tensor([changes.get(name, name == "met")]) for name in ("saturated", "met")}
    return Certificate(**tensors, **flags)


def test_the_error_of_the_scale_is_that_of_the_ratio_s_logarithm():
    """Taken absolutely, the error of a ratio of a million would be an error of as many nats."""
    certificate = cell(ratio=1e6, ratio_stderr=5e5)
    assert certificate.scale_stderr.item() == pytest.approx(0.25)
    assert cell(saturated=True).scale_stderr.item() == 0


@pytest.mark.parametrize(
    ("changes", "value", "dead", "coarse", "mark"),
    [
        ({}, -2.5, False, False, "converged"),
        ({"gap": 0.0699}, -2.5, False, False, "converged"),
        ({"gap": 0.0701}, -2.5, False, False, "gap"),
        ({"gap": math.nan}, -2.5, False, False, "gap"),
        ({"met": False}, -2.5, False, False, "ratio"),
        ({"met": False, "gap": 1.0}, -2.5, False, False, "ratio"),
        ({}, -2.5, False, True, "resolution"),
        ({}, math.nan, False, False, "not_finite"),
        ({}, math.nan, True, False, "dead"),
        ({"saturated": True, "gap": 0.0}, 1.4, False, False, "saturated"),
        ({"saturated": True, "gap": 0.1}, 1.4, False, False, "gap"),
        ({"saturated": True, "gap": math.nan}, 1.4, False, False, "gap"),
        ({"saturated": True}, 1.4, True, True, "saturated"),
        ({"saturated": True, "met": False}, 1.4, False, False, "ratio"),
    ],
)
def test_every_reason_has_its_mark(changes, value, dead, coarse, mark):
    found = proof(cell(**changes), torch.tensor([value]), torch.tensor([dead]), torch.tensor([coarse]))
    assert int(found["mark"]) == mark_code(mark)
    assert bool(found["converged"]) is MARKS[mark_code(mark)].proven


@pytest.mark.parametrize(
    ("changes", "value", "dead", "mark"),
    [
        ({}, -2.5, False, "converged"),
        ({"gap": 1.0}, -2.5, False, "saturated_output"),
        ({"met": False}, -2.5, False, "saturated_output"),
        ({}, math.nan, True, "saturated_output"),
        ({}, math.nan, False, "not_finite"),
        ({"saturated": True}, 1.4, False, "saturated"),
    ],
)
def test_a_saturated_layer_explains_what_failed_and_replaces_no_proof(changes, value, dead, mark):
    found = proof(cell(**changes), torch.tensor([value]), torch.tensor([dead]), saturated_output=torch.tensor([True]))
    assert int(found["mark"]) == mark_code(mark)
    assert bool(found["converged"]) is MARKS[mark_code(mark)].proven


@pytest.mark.parametrize("shape", [(3, 32, 32), (64,), (20, 16), (1, 5, 7)])
def test_the_trial_s_direction_keeps_what_both_halves_say(shape):
    stream = torch.Generator().manual_seed(0)
    signal = torch.randn(6, math.prod(shape), generator=stream)
    assert torch.allclose(pyramid(Halves(signal, signal), shape), signal, atol=1e-5)
    noise = torch.randn(6, math.prod(shape), generator=stream)
    kept = pyramid(Halves(signal, noise), shape).square().mean() / ((signal + noise) / 2).square().mean()
    assert kept < 0.2


def backwards(first, second, *_):
    """Result of a filter with a forgotten conjugate: the map in mirror image."""
    return ((first + second) / 2).flip(1)


@pytest.fixture(scope="module")
def digits():
    data = np.load(path("digits.npz"))
    return str(path("digits-cnn.onnx")), data["images"][:4]


def values_of(digits, folder, name):
    model, images = digits
    result = onnxinfo.analyze(
        model, images, folder / "out.h5", run=name, normalize_by="sample", layers=["relu_2", "relu_4"]
    )
    with onnxinfo.open(result.archive) as archive:
        return archive[name].values("sid")


@pytest.mark.parametrize(
    "broken",
    [
        {"wiener": backwards, "wiener_with": backwards},
        {
            "waterfill": lambda norms, target, tie, cap: (
                (target / norms.sum(1)).sqrt()[:, None].repeat(1, norms.shape[1])
            )
        },
    ],
    ids=["filter", "step"],
)
def test_a_sabotaged_solver_is_found_out(tmp_path, digits, broken):
    sound = values_of(digits, tmp_path, "sound")
    with replaced(**broken, ROUNDS=((0, 0.2),), EXTRA_ROUNDS=0):
        lost = values_of(digits, tmp_path, "broken")
    missing = sound["value"] - lost["value"]
    slack = 2 * np.hypot(sound["stderr"], lost["stderr"])
    assert missing.max() > 0.05
    assert sound["converged"].all()
    covered = ~lost["converged"] | (missing <= lost["gap"] + slack)
    assert covered.all()
    assert not lost["converged"][missing > 0.08].any()


@pytest.mark.parametrize(
    ("step", "alpha", "proven"), [(0.1, 1.5e-4, False), (0.02, 1.5e-4, False), (0.1, 0.1, True), (0.001, 1.5e-4, True)]
)
def test_a_budget_below_the_rounding_is_marked(tmp_path, caplog, step, alpha, proven):
    x = np.random.default_rng(1).normal(size=(4, 32)).astype(np.float32)
    result = onnxinfo.analyze(
        quantized(step), x, tmp_path / "out.h5", layers=["y"], normalize_by="sample", std=1.0, mean=0.0, alpha=alpha,
        seed=1,
    )  # fmt: skip
    with onnxinfo.open(result.archive) as archive:
        values = archive[result.run].values("sid")
    assert values["converged"].all() == values["converged"].any() == proven
    assert ("limited by rounding" in caplog.text) != proven
    # If the gradient carries no information, an ascent is not worthwhile.
    assert proven or (values["iterations"] == 1).all()
    if proven:
        smooth = 0.5 * math.log(alpha) + 0.5 * math.log(2 * math.pi * math.e)
        assert np.abs(values["value"] - smooth).max() < 0.05
