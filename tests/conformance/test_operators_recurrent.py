"""LSTM, GRU and RNN against ONNX Runtime, with every attribute."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nodes import assert_same, feeds_of, floats, gradcheck, node_model

from onnxinfo import convert

STEPS, BATCH, SIZE, HIDDEN = 5, 3, 4, 6
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
OUTPUTS = {"LSTM": 3, "GRU": 2, "RNN": 2}
ACTIVATIONS = {"LSTM": ["HardSigmoid", "Softsign", "LeakyRelu"], "GRU": ["HardSigmoid", "ScaledTanh"], "RNN": ["Elu"]}
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
LENGTHS = np.array([5, 2, 3], np.int32)


def operands(op_type: str, directions: int, lengths: np.ndarray | None = None, states: bool = True) -> list:
    gates = GATES[op_type] * HIDDEN
    weights = [floats(directions, gates, SIZE), floats(directions, gates, HIDDEN, seed=1) / 2]
    initial = [floats(directions, BATCH, HIDDEN, seed=2 + i) if states else None for i in range(OUTPUTS[op_type] - 1)]
    return [floats(STEPS, BATCH, SIZE, seed=4), *weights, floats(directions, 2 * gates, seed=5), lengths, *initial]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("op_type", GATES)
class TestAgainstOnnxRuntime:
    def check(self, op_type: str, direction: str, inputs: list, **attributes: object) -> None:
        settings = {"hidden_size": HIDDEN, "direction": direction, "constants": (1, 2, 3, 7), **attributes}
        assert_same(op_type, inputs, OUTPUTS[op_type], **settings)

    def test_plain(self, op_type: str, direction: str) -> None:
        self.check(op_type, direction, operands(op_type, DIRECTIONS[direction]))

    def test_without_bias_and_states(self, op_type: str, direction: str) -> None:
        self.check(op_type, direction, operands(op_type, DIRECTIONS[direction], states=False)[:3])

    def test_sequence_lengths(self, op_type: str, direction: str) -> None:
        self.check(op_type, direction, operands(op_type, DIRECTIONS[direction], LENGTHS))

    def test_clip(self, op_type: str, direction: str) -> None:
        self.check(op_type, direction, operands(op_type, DIRECTIONS[direction]), clip=0.3)

    def test_activations(self, op_type: str, direction: str) -> None:
        directions = DIRECTIONS[direction]
        alpha = {"LSTM": [0.3, 0.2], "GRU": [0.3, 0.7], "RNN": [0.6]}[op_type] * directions
        beta = {"LSTM": [0.4], "GRU": [0.4, 0.9], "RNN": []}[op_type] * directions
        betas = {"activation_beta": beta} if beta else {}
        names = ACTIVATIONS[op_type] * directions
        inputs = operands(op_type, directions, LENGTHS)
        self.check(op_type, direction, inputs, activations=names, activation_alpha=alpha, **betas)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("clip", [None, 0.3])
def test_lstm_peepholes_and_coupled_gates(direction: str, clip: float | None) -> None:
    directions = DIRECTIONS[direction]
    inputs = [*operands("LSTM", directions, LENGTHS), floats(directions, 3 * HIDDEN, seed=9)]
    limit = {} if clip is None else {"clip": clip}
    assert_same("LSTM", inputs, 3, hidden_size=HIDDEN, direction=direction, **limit)
    assert_same("LSTM", inputs[:-1], 3, hidden_size=HIDDEN, direction=direction, input_forget=1, **limit)


@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gru_linear_before_reset(direction: str, lengths: np.ndarray | None) -> None:
    inputs = operands("GRU", DIRECTIONS[direction], lengths)
    assert_same("GRU", inputs, 2, hidden_size=HIDDEN, direction=direction, linear_before_reset=1)


@pytest.mark.parametrize("op_type", GATES)
def test_batch_first_is_the_same_layer_with_axes_exchanged(op_type: str) -> None:
    inputs = operands(op_type, 2, LENGTHS)
    exchanged = [x.transpose(1, 0, 2) if x is not None and i in (0, 5, 6) else x for i, x in enumerate(inputs)]
    settings = {"hidden_size": HIDDEN, "direction": "bidirectional"}

    def run(values: list, **attributes: object) -> list[torch.Tensor]:
        model = node_model(op_type, values, OUTPUTS[op_type], **settings, **attributes)
        feeds = feeds_of(model, values)
        return list(convert(model)(*(torch.tensor(np.ascontiguousarray(x)) for x in feeds.values())))

    Y, *states = run(exchanged, layout=1)
    expected, *finals = run(inputs)
    torch.testing.assert_close(Y.permute(1, 2, 0, 3), expected)
    for state, final in zip(states, finals, strict=True):
        torch.testing.assert_close(state.transpose(0, 1), final)


@pytest.mark.parametrize(
    ("op_type", "attributes"),
    [("LSTM", {}), ("LSTM", {"clip": 2.0}), ("GRU", {}), ("GRU", {"linear_before_reset": 1}), ("RNN", {})],
)
def test_gradients(op_type: str, attributes: dict) -> None:
    inputs = operands(op_type, 2)
    gradcheck(op_type, inputs, OUTPUTS[op_type], hidden_size=HIDDEN, direction="bidirectional", **attributes)


@pytest.mark.parametrize("op_type", GATES)
def test_vmap_and_forward_mode_leave_the_fused_kernel(op_type: str) -> None:
    inputs = operands(op_type, 1)
    model = node_model(op_type, inputs, hidden_size=HIDDEN, constants=range(1, 7))
    module = convert(model)
    x, tangent = torch.from_numpy(inputs[0]), torch.ones(STEPS, BATCH, SIZE)

    def layer(x: torch.Tensor) -> torch.Tensor:
        return module(x)[0]

    batch = torch.stack([x, 2 * x])
    torch.testing.assert_close(torch.func.vmap(layer)(batch), torch.stack([layer(item) for item in batch]))
    _, forward = torch.func.jvp(layer, (x,), (tangent,))
    _, pullback = torch.func.vjp(layer, x)
    cotangent = torch.from_numpy(floats(*forward.shape, seed=8))
    torch.testing.assert_close((forward * cotangent).sum(), (pullback(cotangent)[0] * tangent).sum())


def test_any_batch_size() -> None:
    inputs = operands("LSTM", 1, states=False)
    module = convert(node_model("LSTM", inputs, hidden_size=HIDDEN, constants=(1, 2, 3)))
    x = torch.from_numpy(floats(STEPS, 7, SIZE, seed=3))
    torch.testing.assert_close(module(x)[0][:, :, :2], module(x[:, :2])[0])
