"""The decoder that reconstructs the input from a layer's feature (the paper, section 4): six residual blocks.

The first blocks double the grid, as often as needed to get from the feature's grid to the input's. Width and depth are
the same for all layers, which makes their uncertainties comparable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: Residual blocks per decoder.
BLOCKS = 6
#: Maximum number of doublings from the seed grid, to which features without a grid are projected, to the input's size.
MOST_SEED_DOUBLINGS = 4
LEAST_SEED_SIDE = 4

_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_RESIZE = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class Plan:
    """Shapes and size of a decoder.

    Attributes
    ----------
    feature
        Shape of one sample's feature.
    sample
        Shape of one sample of the analysis input.
    axes
        Names of the sample's axes.
    width
        Channels per block.
    """

    feature: tuple[int, ...]
    sample: tuple[int, ...]
    axes: tuple[str, ...]
    width: int

    @property
    def channel(self) -> int | None:
        """Position of the sample's channel axis; None without one."""
        return next((i for i, axis in enumerate(self.axes) if axis in ("channel", "embedding")), None)

    @property
    def sides(self) -> tuple[int, ...]:
        """Sizes of the sample's position axes; empty for tabular data."""
        if self.channel is None:
            return ()
        return tuple(size for i, size in enumerate(self.sample) if i != self.channel)


class Decoder(nn.Module):
    """Network that reconstructs samples from flat features.

    Parameters
    ----------
    plan
        Shapes and size.
    """

    feature_mean: Tensor
    feature_std: Tensor
    sample_mean: Tensor
    sample_std: Tensor

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.body = _grid_decoder(plan) if len(plan.sides) in _CONV else _vector_decoder(plan)
        features = math.prod(plan.feature)
        self.register_buffer("feature_mean", torch.zeros(features))
        self.register_buffer("feature_std", torch.ones(()))
        self.register_buffer("sample_mean", torch.zeros(plan.sample))
        self.register_buffer("sample_std", torch.ones(()))

    def standardize(self, features: Tensor, samples: Tensor) -> None:
        """Set location and scale from training features (B, m) and samples (B, *sample).

        Scales are scalars: dividing every unit by its own would amplify units that hardly vary.
        """
        for name, values in (("feature", features), ("sample", samples)):
            mean = values.mean(0)
            spread = (values - mean).square().mean().sqrt()
            getattr(self, f"{name}_mean").copy_(mean)
            getattr(self, f"{name}_std").copy_(torch.where(spread > 0, spread, torch.ones_like(spread)))

    def forward(self, feature: Tensor) -> Tensor:
        """Reconstruct samples (B, *sample) from features (B, m), in the model's units, as 32-bit floats."""
        standardized = (feature - self.feature_mean) / self.feature_std
        inner: Tensor = self.body(standardized.to(self.feature_std.dtype))
        return inner.reshape(-1, *self.plan.sample) * self.sample_std + self.sample_mean


def _vector_decoder(plan: Plan) -> nn.Module:
    """Decoder for tabular data: residual blocks of linear layers."""
    units = 4 * plan.width
    blocks = [_Residual(_linear_track(units), nn.Identity()) for _ in range(BLOCKS)]
    return nn.Sequential(nn.Linear(math.prod(plan.feature), units), *blocks, nn.Linear(units, math.prod(plan.sample)))


def _linear_track(units: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(units, units), nn.BatchNorm1d(units), nn.ReLU(), nn.Linear(units, units), nn.BatchNorm1d(units)
    )


def _grid_decoder(plan: Plan) -> nn.Module:
    dimensions = len(plan.sides)
    stem = _stem(plan)
    doublings = max(0, math.ceil(math.log2(max(i / g for i, g in zip(plan.sides, stem.grid, strict=True))) - 1e-9))
    if doublings > BLOCKS:
        raise ValueError(f"a grid of {stem.grid} is too coarse for {plan.sides}")
    growing = [_growing(plan.width, dimensions) for _ in range(doublings)]
    steady = [_steady(plan.width, dimensions) for _ in range(BLOCKS - doublings)]
    channel = plan.channel
    assert channel is not None
    head = _CONV[dimensions](plan.width, plan.sample[channel], 3, padding=1)
    return nn.Sequential(stem, *growing, *steady, _Resize(plan.sides), head, _Moved(1, channel + 1))


def _steady(width: int, dimensions: int) -> nn.Module:
    conv, norm = _CONV[dimensions], _NORM[dimensions]
    track = nn.Sequential(
        conv(width, width, 3, padding=1, bias=False),
        norm(width),
        nn.ReLU(),
        conv(width, width, 3, padding=1, bias=False),
        norm(width),
    )
    return _Residual(track, nn.Identity())


def _growing(width: int, dimensions: int) -> nn.Module:
    """Block that doubles the grid, by transposed convolutions on both tracks."""
    conv, transposed, norm = _CONV[dimensions], _TRANSPOSED[dimensions], _NORM[dimensions]
    track = nn.Sequential(
        transposed(width, width, 4, stride=2, padding=1, bias=False),
        norm(width),
        nn.ReLU(),
        conv(width, width, 3, padding=1, bias=False),
        norm(width),
    )
    return _Residual(track, transposed(width, width, 2, stride=2))


class _Residual(nn.Module):
    def __init__(self, track: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.track, self.shortcut = track, shortcut

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.track(x) + self.shortcut(x))


class _Resize(nn.Module):
    """Interpolation to the input's exact size, which need not be the grid's times a power of two."""

    def __init__(self, sides: Sequence[int]) -> None:
        super().__init__()
        self.sides = tuple(sides)

    def forward(self, x: Tensor) -> Tensor:
        return _resized(x, self.sides)


def _resized(x: Tensor, sides: tuple[int, ...]) -> Tensor:
    if tuple(x.shape[2:]) == sides:
        return x
    return nn.functional.interpolate(x, sides, mode=_RESIZE[len(sides)], align_corners=False)


class _Moved(nn.Module):
    def __init__(self, source: int, target: int) -> None:
        super().__init__()
        self.source, self.target = source, target

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(self.source, self.target)


def _stem(plan: Plan) -> _GridStem | _TokenStem | _VectorStem:
    """Layers that turn the flat feature into a grid with the decoder's width, depending on the feature's shape."""
    sides, shape = plan.sides, plan.feature
    channel = _channel_of_grid(plan)
    if channel is not None:
        return _GridStem(shape, channel, plan.width, sides)
    if len(shape) == 2 and len(sides) == 2:
        for extra in (0, 1):
            grid = _grid_of_tokens(shape[0] - extra, sides)
            if grid is not None:
                return _TokenStem(shape, extra, grid, plan.width)
    return _VectorStem(math.prod(shape), plan.width, _seed(sides))


def _channel_of_grid(plan: Plan) -> int | None:
    """Axis of the feature that is not a position: without it, the shape has the proportions of the input."""
    if len(plan.feature) != len(plan.sides) + 1:
        return None
    first = 0 if plan.channel == 0 else len(plan.feature) - 1

    def distortion(axis: int) -> float:
        rest = [size for i, size in enumerate(plan.feature) if i != axis]
        factors = [math.log2(side / size) for side, size in zip(plan.sides, rest, strict=True)]
        return max(factors) - min(factors) + max(0.0, -min(factors)) + max(0.0, max(factors) - BLOCKS)

    best = min((first, len(plan.feature) - 1 - first), key=distortion)
    return best if distortion(best) <= 1 else None


def _grid_of_tokens(tokens: int, sides: Sequence[int]) -> tuple[int, ...] | None:
    rows = round(math.sqrt(tokens * sides[0] / sides[1])) if tokens > 0 else 0
    return (rows, tokens // rows) if rows > 0 and rows * (tokens // rows) == tokens else None


def _seed(sides: Sequence[int]) -> tuple[int, ...]:
    doublings = min(MOST_SEED_DOUBLINGS, max(0, int(math.log2(max(sides) / LEAST_SEED_SIDE))))
    return tuple(math.ceil(side / 2**doublings) for side in sides)


class _GridStem(nn.Module):
    def __init__(self, shape: Sequence[int], channel: int, width: int, sides: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.channel = tuple(shape), channel
        grid = tuple(size for i, size in enumerate(shape) if i != channel)
        # A feature grid finer than the input is reduced to the input's size.
        self.grid = tuple(min(size, side) for size, side in zip(grid, sides, strict=True))
        self.project = _CONV[len(sides)](shape[channel], width, 1)

    def forward(self, feature: Tensor) -> Tensor:
        grid = feature.reshape(-1, *self.shape).movedim(self.channel + 1, 1)
        projected: Tensor = self.project(_resized(grid, self.grid))
        return projected


class _TokenStem(nn.Module):
    """Tokens on a grid; extra tokens, such as a class token, are broadcast to every position."""

    def __init__(self, shape: Sequence[int], extra: int, grid: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.shape, self.extra, self.grid = tuple(shape), extra, grid
        self.project = nn.Conv2d(shape[1] * (1 + extra), width, 1)

    def forward(self, feature: Tensor) -> Tensor:
        tokens = feature.reshape(-1, *self.shape)
        grid = tokens[:, self.extra :].transpose(1, 2).reshape(len(tokens), -1, *self.grid)
        shown = [token[:, :, None, None].expand_as(grid) for token in tokens[:, : self.extra].unbind(1)]
        projected: Tensor = self.project(torch.cat([grid, *shown], 1))
        return projected


class _VectorStem(nn.Module):
    def __init__(self, units: int, width: int, grid: tuple[int, ...]) -> None:
        super().__init__()
        self.grid, self.width = grid, width
        self.project = nn.Linear(units, width * math.prod(grid))

    def forward(self, feature: Tensor) -> Tensor:
        projected: Tensor = self.project(feature)
        return projected.reshape(-1, self.width, *self.grid)
