"""Baselines for the metrics (the paper's Fig. 1): gradients, Grad-CAM and CAM of intermediate layers.

All of them explain the class with the highest score. Their maps are upsampled to the input bilinearly and are the same
in all of its channels (an input without positions gets the mean); the value of a layer is the mean of its map. Unlike
SID and RU they depend on the scale of a layer's parameters.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property

import torch
from torch import Tensor, nn

from ..archive.format import Metric
from ..errors import UsageError
from ..graph.scores import pooled_feature, score_tensor
from ..inputs.parts import InputPart
from ..torch_graph.convert import convert
from .blocks import Cells, Measure, SampleBatch
from .job import Job, for_shapes, on_device

#: Names of the axes along which an input has positions.
_PLACES = frozenset({"y", "x", "time", "position"})


class ClassifierProbe:
    """The classifier of a job, with access to the layers' features.

    Parameters
    ----------
    job
        Network and samples; the whole model is converted again, from its inputs to the scores.

    Raises
    ------
    UsageError
        The model is not a classifier.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.names = [layer.name for layer in job.layers]
        self.scores = score_tensor(job.provider.model)
        self._inputs = list(job.provider.samples.inputs)
        model, outputs = job.provider.model, [*self.names, self.scores]
        module = for_shapes(job.provider, self._inputs, lambda shapes: convert(model, outputs, shapes=shapes))
        self.module = module.eval().requires_grad_(False).to(job.device)

    def inputs(self, indices: list[int]) -> list[tuple[int, tuple[Tensor, ...]]]:
        """Batches of the model's fixed size with inputs of samples, each with its number of actual samples."""
        size = self.job.provider.fixed_batch or len(indices)
        batches = []
        for start in range(0, len(indices), size):
            some = indices[start : start + size]
            filled = some if self.job.provider.fixed_batch is None else (some + some[-1:] * size)[:size]
            feeds = self.job.provider.given(self._inputs, filled)
            tensors = tuple(on_device(feeds[name], self.job.device) for name in self._inputs)
            batches.append((len(some), tensors))
        return batches


class Baseline(Measure):
    """Explanation of the predicted class by one layer's feature."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        # Raises before anything is written.
        _ = self.classifier

    @cached_property
    def classifier(self) -> ClassifierProbe:
        """The classifier."""
        return ClassifierProbe(self.job)

    def cells(self, batch: SampleBatch) -> Cells:
        """Explain a batch of samples; the value is not finite if no gradient leads from the scores to the layer."""
        parts = self.job.provider.described_parts()
        explained = torch.cat([
            self._explain(batch.layer, inputs)[:count] for count, inputs in self.classifier.inputs(batch.indices)
        ]).detach()  # fmt: skip
        maps = [_on_input(explained, part.shape, part.axes) for part in parts]
        found = maps[0] if len(maps) == 1 else torch.cat([each.flatten(1) for each in maps], 1)
        value = found.double().flatten(1).mean(1)
        values = {"value": value, "stderr": torch.zeros_like(value), "converged": value.isfinite()}
        return Cells(values, found)

    @abstractmethod
    def _explain(self, layer: int, inputs: tuple[Tensor, ...]) -> Tensor:
        """Map of a layer, (B, 1, *the feature's spatial axes)."""

    def _gradient(self, layer: int, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Feature, and gradient of the highest score with respect to it, both (B, ...)."""
        inputs = tuple(x.requires_grad_(True) if x.is_floating_point() else x for x in inputs)
        outputs = self.classifier.module(*inputs)
        feature, scores = outputs[layer], outputs[-1]
        # Behind discrete operations neither requires a gradient.
        if scores.requires_grad and feature.requires_grad:
            (gradient,) = torch.autograd.grad(scores.max(1).values.sum(), feature, allow_unused=True)
            if gradient is not None:
                return feature, gradient
        return feature, torch.full_like(feature, torch.nan)


class Gradient(Baseline):
    """Magnitude of the gradient: ``sqrt(sum_c (dy/df_c)^2)`` at every position of the feature; y is the highest score.

    It is taken with respect to the layer's feature, as in the paper's Fig. 1, over the channels c of a position; a
    feature without positions has a single norm.
    """

    metric = Metric("gradient", "magnitude of the gradient of the highest score by the feature", "1", fields=())

    def _explain(self, layer: int, inputs: tuple[Tensor, ...]) -> Tensor:
        _, gradient = self._gradient(layer, inputs)
        return _channels_second(gradient, self.job).square().sum(1, keepdim=True).sqrt()


class GradCam(Baseline):
    """Grad-CAM: positive part of the sum of the feature's channels, weighted by their gradients' means over positions.

    A feature without positions counts as one position.
    """

    metric = Metric("gradcam", "Grad-CAM of the highest score", "1", fields=())

    def _explain(self, layer: int, inputs: tuple[Tensor, ...]) -> Tensor:
        feature, gradient = self._gradient(layer, inputs)
        positions = tuple(range(2, feature.dim()))
        weights = gradient.mean(positions, keepdim=True) if positions else gradient
        return (weights * feature).sum(1, keepdim=True).relu()


class Cam(Baseline):
    """Class activation map: channels before a global average pooling, weighted by the linear layer that follows.

    It is defined only for that layer.
    """

    metric = Metric("cam", "class activation map of the highest score", "1", fields=())

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        pooled = pooled_feature(self.job.provider.model, self.classifier.scores)
        if pooled is None:
            raise UsageError("cam needs a head of global average pooling and one linear layer; choose gradcam instead")
        if pooled not in self.classifier.names:
            raise UsageError(f"cam is that of layer '{pooled}', which is not among the chosen; add it by layers=...")
        self._pooled = self.classifier.names.index(pooled)

    def _explain(self, layer: int, inputs: tuple[Tensor, ...]) -> Tensor:
        feature, gradient = self._gradient(layer, inputs)
        feature, gradient = _channels_second(feature, self.job), _channels_second(gradient, self.job)
        axes = tuple(range(2, feature.dim()))
        # With this head, the gradient at every position is the channel's weight divided by the number of positions.
        weights = gradient.sum(axes, keepdim=True)
        found = (weights * feature).sum(1, keepdim=True)
        return found if layer == self._pooled else torch.full_like(found, torch.nan)


def _channels_second(feature: Tensor, job: Job) -> Tensor:
    """Feature (B, ...) as (B, channels, *positions); the positions are the axes that it shares with the input."""
    part = _with_positions(job)
    axes = part.axes
    if feature.dim() == 3 and "position" in axes:
        return feature.movedim(-1, 1)
    if feature.dim() == 4 and "y" in axes:
        y, x = part.shape[axes.index("y")], part.shape[axes.index("x")]
        first, last = (abs(h * x - w * y) for h, w in (feature.shape[1:3], feature.shape[2:4]))
        return feature.movedim(-1, 1) if first < last else feature
    if feature.dim() == 3 and "time" in axes:
        return feature
    return feature.flatten(1)


def _with_positions(job: Job) -> InputPart:
    """The first input with positions, which the positions of features are compared with; else the first input."""
    parts = job.provider.described_parts()
    return next((part for part in parts if not _PLACES.isdisjoint(part.axes)), parts[0])


def _on_input(maps: Tensor, shape: tuple[int, ...], axes: tuple[str, ...]) -> Tensor:
    """Upsample maps (B, 1, *positions) to the input and repeat them along its other axes, (B, *shape)."""
    places = [i for i, axis in enumerate(axes) if axis in _PLACES]
    if maps.dim() == 2 + len(places) and places:
        mode = "bilinear" if len(places) == 2 else "linear"
        size = [shape[i] for i in places]
        maps = nn.functional.interpolate(maps, size, mode=mode, align_corners=False)[:, 0]
        for i in (i for i in range(len(axes)) if i not in places):
            maps = maps.unsqueeze(1 + i)
    else:
        maps = maps.flatten(1).mean(1).reshape(-1, *(1 for _ in shape))
    return maps.expand(-1, *shape)
