"""Changes carried in bfloat16: they agree with the float32 network's, and are used only where they do."""

import dataclasses

import pytest
import torch

from onnxinfo import convert
from onnxinfo.metrics import noise_precision, sid
from onnxinfo.metrics.differences import UnsupportedGraphError, differences
from onnxinfo.metrics.linearization import linearize
from onnxinfo.metrics.network import Network
from onnxinfo.metrics.noise import Tie
from onnxinfo.metrics.noise_precision import DisagreementError, carried, factor_to_float32
from onnxinfo.metrics.probe import LayerProbe
from tests.support.graphs import constant, model, node, value, weight

SAMPLES, SIDE = 3, 6
UNITS = 3 * SIDE * SIDE
#: The end of a network after a convolution with eight channels, by what it tests; ``c`` becomes ``y``.
ENDS = {
    "relu": [node("Relu", "c", "y")],
    "normalized": [node("BatchNormalization", "c scale bias mean var", "n"), node("Relu", "n", "y")],
    "pooled": [node("MaxPool", "c", "p", kernel_shape=[2, 2], strides=[2, 2]), node("GlobalAveragePool", "p", "y")],
    "curved": [node("Sigmoid", "c", "s"), node("Mul", "c s", "y")],
    "residual": [
        node("Relu", "c", "r"),
        node("Conv", "r w2", "d", pads=[1, 1, 1, 1]),
        node("Add", "d r", "a"),
        node("Add", "a offset", "o"),
        node("Sub", "o d", "y"),
    ],
    "shortcut": [
        node("Slice", "c starts ends axes", "s"),
        node("Pad", "s pads one", "q"),
        node("Concat", "q q", "y", axis=1),
    ],
    "head": [node("Relu", "c", "r"), node("Flatten", "r", "f"), node("Gemm", "f g h", "y")],
    "unknown": [node("Sin", "c", "y")],
}
WEIGHTS = [
    weight("w", 8, 3, 3, 3),
    weight("b", 8),
    weight("w2", 8, 8, 3, 3, scale=0.2),
    weight("offset", 8, 1, 1),
    weight("scale", 8),
    weight("bias", 8),
    weight("mean", 8),
    constant("var", [0.5] * 8, "float32"),
    constant("starts", [0, 0]),
    constant("ends", [6, 6]),
    constant("axes", [2, 3]),
    constant("pads", [0, 1, 0, 0, 0, 1, 0, 0]),
    constant("one", 1.0, "float32"),
    weight("g", 8 * SIDE * SIDE, 5, scale=0.1),
    weight("h", 5),
]


def network(end):
    nodes = [node("Conv", "x w b", "c", pads=[1, 1, 1, 1]), *ENDS[end]]
    read = {name for each in nodes for name in each.input}
    proto = model(
        nodes, [value("x", ("N", 3, SIDE, SIDE))], [value("y", None)], [each for each in WEIGHTS if each.name in read]
    )
    found = Network(convert(proto))
    found.set_batching("channels last", [0])
    return found


def probe(end="residual", *, precision="bfloat16", batch_size=64):
    x = torch.randn(SAMPLES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    streams = [torch.Generator().manual_seed(i) for i in range(2)]
    rows, unit = torch.arange(SAMPLES), torch.ones(3, 1, 1)
    return LayerProbe(network(end), x, unit, rows, *streams, batch_size, precision=precision)


SIGMA = torch.full((SAMPLES, UNITS), 0.02)


def response(feature, draws=4):
    """Deviation and gradient under the same noise for every probe."""
    noise = torch.randn(draws, *feature.x.shape, generator=torch.Generator().manual_seed(7))
    return noise_precision._response(feature, (feature.x + 0.02 * noise).flatten(0, 1))


@pytest.mark.parametrize("end", [end for end in ENDS if end != "unknown"])
def test_changes_agree_with_those_of_the_network(end):
    feature = probe(end)
    deviation, gradient = response(feature)
    feature.differences = differences(feature.network, feature.x)
    other, near = response(feature)
    assert (other.sum(0) / deviation.sum(0) - 1).abs().max() < 0.01
    assert (near - gradient).norm() < 0.02 * gradient.norm()


def test_a_subset_of_the_samples_has_the_same_changes():
    feature, index = probe(), torch.tensor([2, 0])
    feature.differences = differences(feature.network, feature.x)
    noise = 0.02 * torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(7))
    whole, part = feature.change(torch.cat([feature.x + noise[:1], feature.x + noise[1:]])), feature.at(index)
    some = part.change(torch.cat([part.x + noise[:1], part.x + noise[1:]]))
    torch.testing.assert_close(some, whole[[2, 0, 5, 3]])


def test_a_graph_with_another_operator_is_evaluated_in_float32():
    with pytest.raises(UnsupportedGraphError, match="Sin"):
        differences(network("unknown"), probe().x)
    assert carried(probe("unknown"), SIGMA) is None


@pytest.mark.parametrize(
    ("precision", "fast", "least", "used"),
    [("bfloat16", False, 1e9, True), ("auto", True, 0, True), ("auto", True, 1e9, False), ("auto", False, 0, False)],
)
def test_auto_is_bfloat16_where_it_is_faster(monkeypatch, precision, fast, least, used):
    monkeypatch.setattr(noise_precision, "is_fast", lambda device: fast)
    monkeypatch.setattr(noise_precision, "LEAST_PRODUCTS", least)
    assert (carried(probe(precision=precision), SIGMA) is not None) == used


def test_float32_is_kept_where_asked_for_or_where_memory_is_scarce():
    assert carried(probe(precision="float32"), SIGMA) is None
    assert carried(probe(batch_size=SAMPLES - 1), SIGMA) is None


def wrong(found, factor):
    """Changes of one sample, among three, that are too large by a factor."""
    last = found.steps[-1]

    def compute(moved, kept):
        right = last.compute(moved, kept).unflatten(0, (-1, SAMPLES))
        return torch.cat([right[:, :-1], factor * right[:, -1:]], 1).flatten(0, 1)

    return dataclasses.replace(found, steps=(*found.steps[:-1], dataclasses.replace(last, compute=compute)))


def test_changes_that_differ_at_one_sample_are_not_used(monkeypatch):
    monkeypatch.setattr(noise_precision, "differences", lambda *given: wrong(differences(*given), 1.05))
    assert carried(probe(), SIGMA) is None


def test_deviations_are_corrected_to_float32():
    feature = probe()
    assert factor_to_float32(feature, SIGMA).tolist() == [1.0] * SAMPLES
    feature.differences = wrong(differences(feature.network, feature.x), 1.005)
    assert (factor_to_float32(feature, SIGMA)[-1] * 1.005**2 - 1).abs() < 0.002
    feature.differences = wrong(differences(feature.network, feature.x), 1.05)
    with pytest.raises(DisagreementError):
        factor_to_float32(feature, SIGMA)


def problem(precision):
    feature = probe("head", precision=precision)
    start = linearize(feature.network, feature.x, feature.unit, feature.rows, torch.Generator().manual_seed(3))[0]
    tie = Tie(torch.arange(UNITS), torch.ones(UNITS, dtype=torch.long))
    return sid.Problem.of(feature, start, 1e-2 * start.normalizer, tie, 1.0, (3, SIDE, SIDE))


def test_both_precisions_find_the_same_scales(monkeypatch):
    """Each is certified, and the float32 network meets the constraint at the scales found in bfloat16."""
    used = []
    monkeypatch.setattr(sid, "carried", lambda *given: used.append(carried(*given)) or used[-1])
    wide, narrow = problem("float32"), problem("bfloat16")
    found = [sid.solve(each) for each in (wide, narrow)]
    assert [each is None for each in used] == [True, False]
    assert narrow.feature.differences is None
    assert all(each.certificate.converged.all() for each in found)
    errors = (found[0].stderr.square() + found[1].stderr.square()).sqrt()
    apart = (found[0].entropy - found[1].entropy).mean(1)
    assert (apart.abs() <= 3 * errors + 0.01).all()
    ratio = wide.feature.deviations(found[1].sigma, 2048).mean(0) / wide.target
    assert (ratio - 1).abs().max() < 0.1


def test_a_disagreement_at_the_certified_scales_repeats_the_solution_in_float32(monkeypatch):
    monkeypatch.setattr(sid, "carried", lambda feature, _: wrong(differences(feature.network, feature.x), 1.05))
    narrow = problem("bfloat16")
    found = sid.solve(narrow)
    assert narrow.feature.differences is None
    assert found.certificate.converged.all()
