"""Recurrent layers: LSTM, GRU and RNN as defined by ONNX, using torch's fused kernels where they are equivalent.

Shapes in the comments: T time steps, B samples, D directions, G gates, I inputs, H hidden units.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional

from ..full_precision import without_cudnn
from .bounds import check_range, check_shape, is_transformed
from .table import operator

State = tuple[Tensor, ...]
Cell = Callable[[Tensor, State], State]
Activation = Callable[[Tensor], Tensor]

# Functions with default parameters, in the order in which they consume activation_alpha and _beta.
_ACTIVATIONS: dict[str, tuple[Callable[..., Tensor], dict[str, float | None]]] = {
    "affine": (lambda x, alpha, beta: alpha * x + beta, {"alpha": 1.0, "beta": 0.0}),
    "elu": (functional.elu, {"alpha": 1.0}),
    "hardsigmoid": (lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1), {"alpha": 0.2, "beta": 0.5}),
    "leakyrelu": (lambda x, alpha: functional.leaky_relu(x, alpha), {"alpha": 0.01}),
    "relu": (torch.relu, {}),
    "scaledtanh": (lambda x, alpha, beta: alpha * torch.tanh(beta * x), {"alpha": None, "beta": None}),
    "sigmoid": (torch.sigmoid, {}),
    "softplus": (functional.softplus, {}),
    "softsign": (functional.softsign, {}),
    "tanh": (torch.tanh, {}),
    "thresholdedrelu": (lambda x, alpha: torch.where(x >= alpha, x, 0.0), {"alpha": 1.0}),
}


@operator()
def LSTM(X, W, R, B=None, sequence_lens=None, initial_h=None, initial_c=None, P=None, *, input_forget=0, **attributes):
    layer = _Layer(4, X, W, R, B, sequence_lens, [initial_h, initial_c], **attributes)
    if layer.plain and P is None and not input_forget and layer.takes(["Sigmoid", "Tanh", "Tanh"]):
        return layer.fused(torch.lstm, order=[0, 2, 3, 1])
    return _long_short_term(layer, P, input_forget)


def quantized_lstm(
    rounded: Activation, X: Tensor, W: Tensor, R: Tensor, *optional: Tensor | None, input_forget: int = 0, **attributes
) -> tuple[Tensor, ...]:
    """LSTM whose input and recurrent products use operands quantized by ``rounded``."""
    B, sequence_lens, initial_h, initial_c, P = (*optional, *[None] * 5)[:5]
    layer = _Layer(4, rounded(X), W, R, B, sequence_lens, [initial_h, initial_c], **attributes)
    return _long_short_term(layer, P, input_forget, rounded)


def _long_short_term(
    layer: _Layer, P: Tensor | None, input_forget: int, rounded: Activation = lambda hidden: hidden
) -> tuple[Tensor, ...]:
    functions = layer.activations(["Sigmoid", "Tanh", "Tanh"])

    def cell(d: int) -> Cell:
        f, g, h = functions[d]
        pi, po, pf = (0, 0, 0) if P is None else P[d].chunk(3)

        def step(x: Tensor, state: State) -> State:
            hidden, c = state
            i, o, forget, candidate = (x + rounded(hidden) @ layer.R[d].t()).chunk(4, -1)
            i = f(layer.clipped(i + pi * c))
            forget = 1 - i if input_forget else f(layer.clipped(forget + pf * c))
            c = forget * c + i * g(layer.clipped(candidate))
            return f(layer.clipped(o + po * c)) * h(c), c

        return step

    return layer.run(cell, layer.input_bias + layer.recurrent_bias)


@operator()
def GRU(X, W, R, B=None, sequence_lens=None, initial_h=None, *, linear_before_reset=0, **attributes):
    layer = _Layer(3, X, W, R, B, sequence_lens, [initial_h], **attributes)
    if layer.plain and linear_before_reset and layer.takes(["Sigmoid", "Tanh"]):
        return layer.fused(torch.gru, order=[1, 0, 2])
    functions = layer.activations(["Sigmoid", "Tanh"])
    hidden_size = R.shape[-1]

    def cell(d: int) -> Cell:
        f, g = functions[d]
        gates, candidate = R[d].split([2 * hidden_size, hidden_size])
        gate_bias, candidate_bias = layer.recurrent_bias[d].split([2 * hidden_size, hidden_size])

        def step(x: Tensor, state: State) -> State:
            (hidden,) = state
            x_gates, x_candidate = x.split([2 * hidden_size, hidden_size], -1)
            z, r = f(layer.clipped(x_gates + functional.linear(hidden, gates, gate_bias))).chunk(2, -1)
            if linear_before_reset:
                recurrent = r * functional.linear(hidden, candidate, candidate_bias)
            else:
                recurrent = functional.linear(r * hidden, candidate, candidate_bias)
            h = g(layer.clipped(x_candidate + recurrent))
            return ((1 - z) * h + z * hidden,)

        return step

    return layer.run(cell, layer.input_bias)


@operator()
def RNN(X, W, R, B=None, sequence_lens=None, initial_h=None, **attributes):
    layer = _Layer(1, X, W, R, B, sequence_lens, [initial_h], **attributes)
    if layer.plain and layer.takes(["Tanh"]):
        return layer.fused(torch.rnn_tanh, order=[0])
    functions = layer.activations(["Tanh"])

    def cell(d: int) -> Cell:
        (f,) = functions[d]
        return lambda x, state: (f(layer.clipped(x + state[0] @ R[d].t())),)

    return layer.run(cell, layer.input_bias + layer.recurrent_bias)


class _Layer:
    """Common part of the three operators: uniform operand layout, directions, sequence lengths.

    Parameters
    ----------
    gates
        Number of gates G.
    X, W, R, B, sequence_lens
        As defined by ONNX: (T, B, I) or with ``layout=1`` (B, T, I); (D, G H, I); (D, G H, H); (D, 2 G H); (B,).
    initial
        Initial states or None: (D, B, H), with ``layout=1`` (B, D, H).

    Raises
    ------
    ValueError
        Operand shapes are inconsistent: torch's fused kernels would access memory out of bounds.
    """

    def __init__(
        self,
        gates: int,
        X: Tensor,
        W: Tensor,
        R: Tensor,
        B: Tensor | None,
        sequence_lens: Tensor | None,
        initial: list[Tensor | None],
        *,
        direction: str = "forward",
        layout: int = 0,
        clip: float | None = None,
        activations: list[str] | None = None,
        activation_alpha: list[float] | None = None,
        activation_beta: list[float] | None = None,
        hidden_size: int | None = None,
        output_sequence: int = 1,
    ) -> None:
        self.X = X.transpose(0, 1) if layout else X
        self.W, self.R = W, R
        self.B = X.new_zeros(W.shape[0], 2 * W.shape[1]) if B is None else B
        self.input_bias, self.recurrent_bias = self.B.chunk(2, -1)
        self.lengths = sequence_lens
        self.layout = layout
        self.clip = clip
        self.reversed = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
        zeros = X.new_zeros(len(self.reversed), self.X.shape[1], R.shape[-1])
        self.initial = [zeros if s is None else s.transpose(0, 1) if layout else s for s in initial]
        self.names = activations
        self.alpha = activation_alpha or []
        self.beta = activation_beta or []
        self._check_shapes(gates)
        self.plain = clip is None and sequence_lens is None and not _transformed(X, W, R, self.B, *self.initial)

    def _check_shapes(self, gates: int) -> None:
        directions, hidden, batch = len(self.reversed), self.R.shape[-1], self.X.shape[1]
        inputs = self.X.shape[-1]
        expected = {
            "W": (self.W, (directions, gates * hidden, inputs)),
            "R": (self.R, (directions, gates * hidden, hidden)),
            "B": (self.B, (directions, 2 * gates * hidden)),
            **{f"initial state {i}": (s, (directions, batch, hidden)) for i, s in enumerate(self.initial)},
        }
        if self.lengths is not None:
            expected["sequence_lens"] = (self.lengths, (batch,))
        for name, (operand, shape) in expected.items():
            check_shape(f"{name} of a recurrent layer", operand, shape)
        if self.lengths is not None:
            check_range("length", self.lengths, 0, self.X.shape[0])

    def takes(self, functions: list[str]) -> bool:
        """Whether every direction has the given functions."""
        names = self.names or functions
        return [name.lower() for name in names] == [name.lower() for name in functions] * (len(names) // len(functions))

    def activations(self, default: list[str]) -> list[list[Activation]]:
        """Return the functions of each direction."""
        values = {"alpha": iter(self.alpha), "beta": iter(self.beta)}
        functions: list[Activation] = []
        for name in self.names or default * len(self.reversed):
            if name.lower() not in _ACTIVATIONS:
                raise NotImplementedError(f"activation '{name}'")
            function, defaults = _ACTIVATIONS[name.lower()]
            functions.append(partial(function, **{k: next(values[k], v) for k, v in defaults.items()}))
        return [functions[i : i + len(default)] for i in range(0, len(functions), len(default))]

    def clipped(self, x: Tensor) -> Tensor:
        """Clip the input of an activation."""
        return x if self.clip is None else x.clamp(-self.clip, self.clip)

    def run(self, cell: Callable[[int], Cell], bias: Tensor) -> tuple[Tensor, ...]:
        """Run through time in each direction; return Y and the final states in the node's layout."""
        results = [
            self._direction(
                functional.linear(self.X, self.W[d], bias[d]), cell(d), tuple(s[d] for s in self.initial), backward
            )
            for d, backward in enumerate(self.reversed)
        ]
        outputs, finals = zip(*results, strict=True)
        return self._arranged(torch.stack(outputs, 1), *map(torch.stack, zip(*finals, strict=True)))

    def _direction(self, projected: Tensor, cell: Cell, state: State, backward: bool) -> tuple[Tensor, State]:
        outputs = []
        times = list(enumerate(projected.unbind(0)))
        for t, x in reversed(times) if backward else times:
            after = cell(x, state)
            output = after[0]
            if self.lengths is not None:
                # A sequence that has ended (or, in reverse, not started) keeps its state.
                running = (t < self.lengths).unsqueeze(-1)
                after = tuple(torch.where(running, new, old) for new, old in zip(after, state, strict=True))
                output = torch.where(running, output, 0.0)
            state = after
            outputs.append(output)
        return torch.stack(outputs[::-1] if backward else outputs), state

    def fused(self, kernel: Callable[..., Any], order: list[int]) -> tuple[Tensor, ...]:
        """Run torch's kernel, which orders the gates differently."""

        def reordered(parameter: Tensor) -> Tensor:
            return torch.cat([parameter.chunk(len(order))[gate] for gate in order])

        directions = range(len(self.reversed))
        parameters = [reordered(p) for d in directions for p in (self.W[d], self.R[d], *self.B[d].chunk(2))]
        states = self.initial if len(self.initial) > 1 else self.initial[0]
        backward = self.reversed == [True]
        X = self.X.flip(0) if backward else self.X
        # cuDNN expects contiguous weights, and has no second derivative.
        with _without_cudnn():
            Y, *final = kernel(X, states, parameters, True, 1, 0.0, False, len(self.reversed) == 2, False)
        Y = (Y.flip(0) if backward else Y).unflatten(-1, (len(self.reversed), -1)).transpose(1, 2)
        return self._arranged(Y, *final)

    def _arranged(self, Y: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Convert (T, D, B, H) and (D, B, H) to the node's layout."""
        if not self.layout:
            return (Y, *states)
        return (Y.permute(2, 0, 1, 3), *(state.transpose(0, 1) for state in states))


def _without_cudnn() -> AbstractContextManager[object]:
    """Disable cuDNN, except in a compiled graph, which decomposes the kernels."""
    return nullcontext() if torch.compiler.is_dynamo_compiling() else without_cudnn()


def _transformed(*operands: Tensor) -> bool:
    """Whether torch.func or forward mode is active, which the fused kernels do not support."""
    return is_transformed(*operands) or any(forward_ad.unpack_dual(o).tangent is not None for o in operands)
