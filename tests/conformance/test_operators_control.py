"""Control flow and sequences: bodies use outer values, gradients pass through iterations."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from nodes import feeds_of, floats, node_model, run_converted, run_onnxruntime

from onnxinfo import convert
from onnxinfo.errors import ConversionError


def parsed(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]>\n{text}')


def assert_same(model: onnx.ModelProto, **feeds: np.ndarray[Any, Any]) -> None:
    for ours, theirs in zip(run_converted(model, feeds), run_onnxruntime(model, feeds), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


BRANCHES = """
branches (float[N, 3] x, bool take) => (float[N, K] y, float[N, 3] kept)
<float[3, 2] W = {1, 2, 3, 4, 5, 6}, float[3] scale = {2, 3, 4}>
{
    scaled = Mul(x, scale)
    y = If(take) <
        then_branch = first () => (float[N, K] a) {
            a = MatMul(scaled, W)
        },
        else_branch = second () => (float[N, K] b) {
            two = Constant<value_float = 2.0>()
            doubled = Mul(scaled, two)
            b = Sub(doubled, x)
        }
    >
    kept = Identity(scaled)
}
"""


@pytest.mark.parametrize("take", [True, False])
def test_if_with_values_from_around_it(take: bool) -> None:
    assert_same(parsed(BRANCHES), x=floats(4, 3), take=np.array(take))


@pytest.mark.parametrize("take", [True, False])
def test_gradient_of_the_branch_taken(take: bool) -> None:
    module = convert(parsed(BRANCHES), ["y"]).double()
    x = torch.from_numpy(floats(4, 3)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: module(x, torch.tensor(take)), x)


# Newton's iteration for a root, with the iterates as scan output; an inner loop is nested in the body of the outer one.
NESTED = """
nested (float[N] x, int64 steps, int64 inner) => (float[N] y, float[S, N] iterates)
<float half = {0.5}, bool yes = {1}>
{
    one = Constant<value_float = 1.0>()
    start = Add(x, one)
    y, iterates = Loop(steps, yes, start) <
        body = outer (int64 i, bool going, float[N] guess) => (bool on, float[N] better, float[N] copy) {
            quotient = Div(x, guess)
            better, unused = Loop(inner, , guess) <
                body = deeper (int64 j, bool busy, float[N] g) => (bool still, float[N] mean, float[N] seen) {
                    total = Add(g, quotient)
                    mean = Mul(total, half)
                    seen = Identity(mean)
                    still = Identity(busy)
                }
            >
            copy = Identity(better)
            on = Identity(going)
        }
    >
}
"""


@pytest.mark.parametrize(("steps", "inner"), [(3, 1), (2, 3)])
def test_nested_loops(steps: int, inner: int) -> None:
    x = np.abs(floats(5)) + 1
    assert_same(parsed(NESTED), x=x, steps=np.array(steps), inner=np.array(inner))


def test_loop_without_iterations_has_empty_scan_outputs() -> None:
    x, none = torch.ones(5), torch.tensor(0)
    y, iterates = convert(parsed(NESTED))(x, none, none)
    assert torch.equal(y, x + 1)
    assert iterates.shape[0] == 0


def test_gradient_through_iterations() -> None:
    module = convert(parsed(NESTED)).double()
    x = (torch.rand(5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1).requires_grad_()
    steps = torch.tensor(4), torch.tensor(1)
    assert torch.autograd.gradcheck(lambda x: module(x, *steps), x)
    torch.testing.assert_close(module(x, torch.tensor(8), torch.tensor(1))[0], x.sqrt())


def test_loop_ends_with_its_condition() -> None:
    model = parsed("""
        halving (float x) => (float y, float[S] seen) <float half = {0.5}, float one = {1.0}, bool yes = {1}>
        {
            y, seen = Loop(, yes, x) <
                body = halve (int64 i, bool going, float v) => (bool on, float halved, float copy) {
                    halved = Mul(v, half)
                    copy = Identity(halved)
                    on = Greater(halved, one)
                }
            >
        }
    """)
    assert_same(model, x=np.array(37.0, np.float32))


# An Elman network over a sequence whose time axis is the second.
SCAN = """
elman (float[B, T, 3] x, float[B, 2] h0) => (float[B, 2] h, float[B, T, 2] states)
<float[3, 2] W = {0.1, -0.2, 0.3, 0.4, -0.5, 0.6}, float[2, 2] R = {0.7, -0.1, 0.2, 0.3}>
{
    h, states = Scan<num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1], scan_input_directions = [DIR],
                     scan_output_directions = [DIR]>(h0, x) <
        body = step (float[B, 2] before, float[B, 3] input) => (float[B, 2] after, float[B, 2] copy) {
            projected = MatMul(input, W)
            recurrent = MatMul(before, R)
            total = Add(projected, recurrent)
            after = Tanh(total)
            copy = Identity(after)
        }
    >
}
"""


def scan_model(direction: int) -> onnx.ModelProto:
    # The textual syntax has one attribute list per node.
    text = SCAN.replace("scan_output_directions = [DIR]>(h0, x) <", "scan_output_directions = [DIR],").replace(
        "Scan<num_scan_inputs", "Scan(h0, x) <num_scan_inputs"
    )
    return parsed(text.replace("DIR", str(direction)))


@pytest.mark.parametrize("direction", [0, 1])
def test_scan_in_both_directions(direction: int) -> None:
    assert_same(scan_model(direction), x=floats(4, 5, 3), h0=floats(4, 2, seed=1))


def test_gradient_of_scan() -> None:
    module = convert(scan_model(1)).double()
    operands = [torch.from_numpy(floats(4, 5, 3)), torch.from_numpy(floats(4, 2, seed=1))]
    assert torch.autograd.gradcheck(module, [x.double().requires_grad_() for x in operands])


def test_vmap_over_a_loop_of_fixed_length() -> None:
    module = convert(scan_model(0))
    x, h0 = torch.from_numpy(floats(3, 4, 5, 3)), torch.zeros(4, 2)
    together = torch.func.vmap(lambda item: module(item, h0)[0])(x)
    torch.testing.assert_close(together, torch.stack([module(item, h0)[0] for item in x]))


def test_sequences() -> None:
    model = parsed("""
        sequences (float[N, 6] x) => (float[N, 4] joined, int64 count, float[N, 2] second)
        <int64[3] sizes = {2, 2, 2}, int64 first = {0}, int64 one = {1}>
        {
            parts = SplitToSequence<axis = 1>(x, sizes)
            second = SequenceAt(parts, one)
            rest = SequenceErase(parts, first)
            empty = SequenceEmpty()
            some = SequenceInsert(empty, second)
            more = SequenceInsert(some, second, first)
            count = SequenceLength(rest)
            joined = ConcatFromSequence<axis = 1>(more)
        }
    """)
    assert_same(model, x=floats(3, 6))
    module = convert(model, ["joined"]).double()
    x = torch.from_numpy(floats(3, 6)).double().requires_grad_()
    assert torch.autograd.gradcheck(module, x)


def test_sequence_map_with_a_tensor_beside_the_sequence() -> None:
    model = parsed("""
        mapped (float[3, N] x, float[1, N] shift) => (float[3, N] y)
        {
            rows = SplitToSequence<axis = 0>(x)
            shifted = SequenceMap(rows, shift) <
                body = add (float[1, N] row, float[1, N] addend) => (float[1, N] total) {
                    total = Add(row, addend)
                }
            >
            y = ConcatFromSequence<axis = 0>(shifted)
        }
    """)
    assert_same(model, x=floats(3, 4), shift=floats(1, 4, seed=1))


def test_scan_of_opset_8_takes_every_sample_by_itself() -> None:
    body = onnx.parser.parse_graph("step (float[2] total, float[2] x) => (float[2] sum, float[2] part) "
                                   "{ sum = Add(total, x) part = Identity(sum) }")  # fmt: skip
    inputs = [None, floats(3, 2), floats(3, 5, 2, seed=1)]
    model = node_model("Scan", inputs, 2, opset=8, body=body, num_scan_inputs=1)
    feeds = feeds_of(model, inputs)
    total, parts = run_converted(model, feeds)
    expected = inputs[1][:, None] + np.cumsum(inputs[2], 1)
    np.testing.assert_allclose(parts, expected, rtol=1e-5)
    np.testing.assert_allclose(total, expected[:, -1], rtol=1e-5)


def test_scan_of_opset_8_with_sequence_lengths_is_refused() -> None:
    body = onnx.parser.parse_graph("step (float[2] total, float[2] x) => (float[2] sum) { sum = Add(total, x) }")
    inputs = [np.array([2, 3]), floats(2, 2), floats(2, 5, 2, seed=1)]
    with pytest.raises(ConversionError, match=r"Scan .*opset 8.*sequence lengths"):
        convert(node_model("Scan", inputs, opset=8, body=body, num_scan_inputs=1), fallback=False)


def test_an_operator_without_converter_in_a_body_is_named() -> None:
    text = BRANCHES.replace("Sub(doubled, x)", "com.example.Unheard(doubled, x)")
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21, "com.example" : 3]>\n{text}')
    with pytest.raises(ConversionError, match=r"com\.example\.Unheard \(opset 3\)"):
        convert(model, fallback=False)
