"""Changes carried in bfloat16: they agree with the float32 network's, and are used only where they do."""

import dataclasses
import itertools
import math

import pytest
import torch
from onnx import TensorProto

from onnxinfo import convert
from onnxinfo.metrics import certification, noise_precision, sid
from onnxinfo.metrics.certification import certify_scales
from onnxinfo.metrics.constraint import feasible
from onnxinfo.metrics.differences import UnsupportedGraphError, differences
from onnxinfo.metrics.linearization import linearize
from onnxinfo.metrics.network import Network
from onnxinfo.metrics.noise import Tie, waterfill
from onnxinfo.metrics.noise_precision import DisagreementError, carried, factor_to_float32
from onnxinfo.metrics.probe import LayerProbe
from onnxinfo.metrics.problem import Problem
from onnxinfo.metrics.rounding import small_deviation
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
    weight("large", 8, SIDE, SIDE),
    weight("stored", SAMPLES, 2, SIDE, SIDE),
    weight("square", SIDE, SIDE),
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
    ("precision", "least", "used"), [("bfloat16", 1e9, True), ("auto", 0, True), ("auto", 1e9, False)]
)
def test_auto_is_bfloat16_in_layers_with_many_products(monkeypatch, precision, least, used):
    monkeypatch.setattr(noise_precision, "LEAST_PRODUCTS", least)
    assert (carried(probe(precision=precision), SIGMA) is not None) == used


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_auto_is_float32_on_a_device_that_is_slow_at_bfloat16(monkeypatch, precision, fast):
    monkeypatch.setattr(noise_precision, "is_fast", lambda device: fast)
    expected = "float32" if precision == "auto" and not fast else precision
    assert noise_precision.resolved(precision, torch.device("cpu")) == expected


@pytest.mark.parametrize(
    ("instructions", "relative", "fast"),
    [(True, 0.5, True), (True, 0.9, False), (True, 1.8, False), (False, 0.5, False)],
)
def test_only_a_cpu_that_is_faster_with_such_instructions_is_fast(monkeypatch, instructions, relative, fast):
    """Some processors have them, and take twice as long as for float32."""
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: instructions, raising=False)
    monkeypatch.setattr(noise_precision, "relative_time", lambda: relative)
    assert [noise_precision.is_fast(torch.device(kind)) for kind in ("cpu", "cuda")] == [fast, False]


def test_the_speed_of_bfloat16_is_the_shortest_of_several_measurements(monkeypatch):
    clock = iter(itertools.accumulate([0, 1, 0, 9, 0, 4, 0, 2, 0, 3, 0, 5]))
    monkeypatch.setattr(noise_precision, "TIMINGS", 3)
    monkeypatch.setattr(noise_precision.time, "perf_counter", lambda: next(clock))
    # float32: 1, 4, 3; bfloat16: 9, 2, 5.
    assert noise_precision.relative_time.__wrapped__() == 2


def test_a_clock_that_is_too_coarse_says_nothing_for_bfloat16(monkeypatch):
    monkeypatch.setattr(noise_precision.time, "perf_counter", lambda: 7.0)
    assert noise_precision.relative_time.__wrapped__() == math.inf


def test_float32_is_kept_where_asked_for_or_where_memory_is_scarce():
    assert carried(probe(precision="float32"), SIGMA) is None
    assert carried(probe(batch_size=SAMPLES - 1), SIGMA) is None


def wrong(found, factor, of_gradient=1.0):
    """Changes of the last sample that are too large by a factor, and their gradient by another one."""
    last = found.steps[-1]
    factors = torch.ones(SAMPLES, 2)
    factors[-1] = torch.tensor([factor, of_gradient])

    def compute(moved, kept):
        *own, share = kept
        right = last.compute(moved, own).float()
        of_value, of_slope = share.repeat(len(right) // len(share), 1).T.reshape(2, -1, *[1] * (right.dim() - 1))
        return (of_value * (right + (of_slope - 1) * (right - right.detach()))).to(torch.bfloat16)

    step = dataclasses.replace(last, compute=compute, kept=(*last.kept, factors))
    return dataclasses.replace(found, steps=(*found.steps[:-1], step))


@pytest.mark.parametrize("batch_size", [64, SAMPLES], ids=["at once", "one by one"])
@pytest.mark.parametrize(
    ("factor", "of_gradient", "used"),
    [(1.0, 1.0, True), (1.05, 1.0, False), (1.0, 1.25, False), (math.nan, 1.0, False), (0.0, 1.0, False)],
)
def test_changes_that_differ_at_one_sample_are_not_used(monkeypatch, factor, of_gradient, used, batch_size):
    monkeypatch.setattr(noise_precision, "differences", lambda *given: wrong(differences(*given), factor, of_gradient))
    assert (carried(probe(batch_size=batch_size), SIGMA) is not None) == used


def test_deviations_are_corrected_to_float32():
    feature = probe()
    before = feature.noise.get_state()
    assert factor_to_float32(feature, SIGMA).tolist() == [1.0] * SAMPLES
    assert torch.equal(feature.noise.get_state(), before), "nothing is compared"
    feature.differences = wrong(differences(feature.network, feature.x), 1.005)
    assert (factor_to_float32(feature, SIGMA)[-1] * 1.005**2 - 1).abs() < 0.002


@pytest.mark.parametrize("factor", [1.05, 0.0, math.nan])
def test_deviations_that_are_far_from_those_in_float32_are_not_corrected(factor):
    feature = probe()
    feature.differences = wrong(differences(feature.network, feature.x), factor)
    with pytest.raises(DisagreementError):
        factor_to_float32(feature, SIGMA)


def test_what_is_unknown_in_float32_too_is_no_disagreement():
    feature, sigma = probe(), SIGMA.clone()
    sigma[0] = math.nan
    feature.differences = differences(feature.network, feature.x)
    assert factor_to_float32(feature, sigma).isnan().tolist() == [True, False, False]


def problem(precision):
    feature = probe("head", precision=precision)
    start = linearize(feature.network, feature.x, feature.unit, feature.rows, torch.Generator().manual_seed(3))[0]
    tie = Tie(torch.arange(UNITS), torch.ones(UNITS, dtype=torch.long))
    return Problem.of(feature, start, 1e-2 * start.normalizer, tie, 1.0, (3, SIDE, SIDE))


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


def test_a_certificate_is_about_the_float32_network(monkeypatch):
    """The deviations are multiplied by their factor; without it the ratio would be that of bfloat16."""
    ratios = []
    for factor in (1.0, 1.5):
        monkeypatch.setattr(
            certification, "factor_to_float32", lambda feature, sigma, effort, by=factor: by * sigma[:, 0] ** 0
        )
        stated = problem("float32")
        scales = feasible(stated, waterfill(stated.start.column_norms, stated.target, stated.tie, stated.cap))
        ratios.append(certify_scales(stated, scales, None, [])[0].certificate.ratio)
    torch.testing.assert_close(ratios[1], 1.5 * ratios[0])


def test_jumps_are_measured_in_the_float32_network():
    stated = problem("bfloat16")
    feature = stated.feature
    feature.differences = wrong(differences(feature.network, feature.x), 0.0)
    assert feature.deviations(SIGMA, 2)[:, -1].tolist() == [0.0, 0.0]
    assert (small_deviation(stated, SIGMA, 0.1, torch.ones(SAMPLES)) > 0).all()


@pytest.mark.parametrize("failure", ["not implemented for BFloat16", "out of memory"])
def test_a_failure_in_bfloat16_is_float32_unless_memory_is_exhausted(monkeypatch, failure):
    def fail(*given):
        raise torch.OutOfMemoryError(failure) if "memory" in failure else RuntimeError(failure)

    monkeypatch.setattr(noise_precision, "_apart", fail)
    if "memory" not in failure:
        assert carried(probe(), SIGMA) is None
        return
    with pytest.raises(torch.OutOfMemoryError):
        carried(probe(), SIGMA)


def test_a_check_that_fails_changes_no_noise():
    feature = probe(batch_size=64)
    before = feature.noise.get_state()
    assert carried(feature, SIGMA) is not None
    assert torch.equal(feature.noise.get_state(), before)


@pytest.mark.parametrize("what", ["mode", "segments", "conditioning_inputs"])
def test_networks_that_are_evaluated_in_another_way_are_refused(what):
    found = network("relu")
    setattr(found, what, {"mode": "batch", "segments": 2, "conditioning_inputs": [torch.ones(1)]}[what])
    with pytest.raises(UnsupportedGraphError, match="channels last"):
        differences(found, probe().x)


#: Ends that changes are not carried through, by the reason.
REFUSED = {
    "operator Sub": [node("Sub", "large c", "y")],
    "operator Add": [node("GlobalAveragePool", "c", "p"), node("Add", "p large", "y")],
    "operator Concat": [node("Concat", "c stored", "y", axis=1)],
    "operator MatMul": [node("MatMul", "square c", "y")],
    "is not in float32": [node("Cast", "c", "d", to=TensorProto.DOUBLE), node("Cast", "d", "y", to=TensorProto.FLOAT)],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_operands_that_changes_are_not_carried_through_are_refused(monkeypatch, reason):
    monkeypatch.setitem(ENDS, reason, REFUSED[reason])
    with pytest.raises(UnsupportedGraphError, match=reason):
        differences(network(reason), probe().x)


@pytest.mark.parametrize(("reason", "is_layer"), [("last node is not the layer", False), ("node", True)])
def test_graphs_that_were_changed_after_the_conversion_are_refused(reason, is_layer):
    found = network("relu")
    graph = found.module.graph
    (output,) = (each for each in graph.nodes if each.op == "output")
    (layer,) = output.all_input_nodes
    with graph.inserting_before(output):
        added = graph.call_function(torch.relu, (layer,)) if is_layer else graph.node_copy(layer, lambda each: each)
    if is_layer:
        output.replace_input_with(layer, added)
    found.module.recompile()
    with pytest.raises(UnsupportedGraphError, match=f"{reason}{' relu' if is_layer else ''}"):
        differences(found, probe().x)


def test_samples_that_are_not_images_are_refused():
    with pytest.raises(UnsupportedGraphError, match="only images"):
        differences(network("relu"), torch.ones(SAMPLES, 3))
