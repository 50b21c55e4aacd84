"""The flat keywords of public functions as typed dictionaries. A test compares them with the fields."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from ..arguments import Names
from .sections import ExecutionConfig, InputConfig, OutputConfig, RuConfig, SensitivityConfig, SidConfig

if TYPE_CHECKING:
    import numpy.typing as npt


class InputOptions(TypedDict, total=False):
    """Flat keywords: the fields of :class:`InputConfig`."""

    input_tensor: str | Sequence[str] | None
    set: Any
    batch_axis: Any
    unit_mask: str | os.PathLike[str] | npt.NDArray[Any] | None
    keep_precision: bool
    dequantize: bool
    labels: Any
    limit: int | None
    shuffle: bool
    shuffle_seed: int
    tokenizer: str | os.PathLike[str] | None
    rate: int | None
    fit_length: str
    preset: str | None
    scale: float | None
    mean: Sequence[float] | float | None
    std: Sequence[float] | float | None
    layout: str
    size: int | tuple[int, int] | None
    resize: str | int | None
    foreground: Any
    crop_to_box: float | None


class TrainingOptions(InputOptions, total=False):
    """Flat keywords of :func:`onnxinfo.train_decoder`."""

    width: int
    steps: int
    batch: int
    learning_rate: float
    horizontal_flip: bool


class FlatOptions(InputOptions, total=False):
    """Flat keywords: every field of the configuration objects except those of :class:`SelectionConfig`."""

    alpha: float | None
    normalize_by: str
    budget: float | str | None
    share_sigma: str
    sigma_max: float
    solver: str
    noise_precision: str
    seed: int
    error_reference: str
    decoders: str | os.PathLike[str] | None
    decoder_inputs: Any
    decoder_limit: int | None
    decoder_width: int
    decoder_steps: int
    decoder_batch: int
    decoder_learning_rate: float
    decoder_horizontal_flip: bool
    target: str | None
    change: float | str
    measure: bool
    probes: int
    device: str
    memory_limit: int | str | None
    engine: str
    workers: int | None
    threads: int | None
    ray_address: str | None
    timeout: float
    run: str | None
    compression: str
    overwrite: bool
    retry_unproven: bool
    min_converged: float | None
    tag: Any
    thumbnails: bool
    anonymous_names: bool


class Options(FlatOptions, total=False):
    """All settings: flat keywords, selection and configuration objects."""

    layers: Names
    exclude: Names
    metrics: Names
    input: InputConfig
    sid: SidConfig
    ru: RuConfig
    sensitivity: SensitivityConfig
    execution: ExecutionConfig
    out: OutputConfig
