"""The configuration objects, one per concern. Values are validated when an object is created."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from . import kinds
from .settings import Entry, Validated, setting, settings_of

if TYPE_CHECKING:
    import numpy.typing as npt

#: Settings of workers, which single measurements do without.
PARALLEL = ("engine", "workers", "threads", "ray_address")

#: Default factor of :func:`onnxinfo.rescale` and :func:`onnxinfo.coherency`, and default metrics of the latter.
RESCALE_FACTOR = 4.0
COHERENCY_METRICS = ("sid", "gradient", "gradcam")

#: Default of alpha relative to D, as in the paper, and relative to the feature's variance.
DEFAULT_ALPHA, DEFAULT_FEATURE_ALPHA = 1.5e-4, 0.01

#: Flags that a recipe stores under their own names, and only if they differ from their defaults.
RECORDED_FLAGS = ("keep_precision", "dequantize", "thumbnails", "anonymous_names")

#: Syntax of the patterns that select layers.
PATTERNS = "a glob over tensor names, re:REGEX, op:TYPE, INDEX or FIRST-LAST"
#: The same where parts of layers are added as layers.
WITH_PARTS = f"{PATTERNS}; NAME[3], NAME[5,2:6]: a part of a layer"


@dataclass(frozen=True)
class SelectionConfig(Validated):
    """Selection of metrics and layers. Front ends take these fields as keywords of their own."""

    layers: Sequence[str] = setting(
        (),
        f"Layers to analyze: {WITH_PARTS}; repeatable.",
        kinds.TEXTS,
        unset="the layers that 'onnxinfo layers' lists",
    )
    exclude: Sequence[str] = setting((), f"Layers to leave out: {PATTERNS}; repeatable.", kinds.TEXTS, unset="none")
    metrics: Sequence[str] = setting(
        ("sid",), "Metric or baseline to compute, see docs/method.md; repeatable.", kinds.TEXTS, option="metric"
    )


@dataclass(frozen=True)
class InputConfig(Validated):
    """Samples, their preprocessing, and the tensor that noise is added to.

    Examples
    --------
    >>> config = onnxinfo.InputConfig(limit=8, scale=1 / 16, mean=0.5, std=0.25)
    >>> check = onnxinfo.check_model("digits-cnn.onnx", "digits.npz:images", input=config)
    >>> check.error is None
    True
    """

    input_tensor: str | Sequence[str] | None = setting(
        (),
        "Tensor that noise is added to; repeatable.",
        kinds.TENSORS,
        unset="all float inputs except scalars, masks and states, or the embedding of token ids",
        former="perturb",
    )
    set: Any = setting(
        (),
        "Value of a graph input that takes no samples, such as a sampling rate or a state: a number, numbers separated "
        "by commas, FILE.npy or FILE.npz:key; repeatable.",
        kinds.VALUES,
        unset="none",
    )
    batch_axis: Any = setting(
        (),
        "Axis of a graph input that holds the samples, counted from 0; repeatable.",
        kinds.AXES,
        unset="the axis named batch, N or similar, else the first, unless a trial finds another",
    )
    unit_mask: str | os.PathLike[str] | npt.NDArray[Any] | None = setting(
        None,
        "Mask of the input units to analyze, 0 for units to leave out: name of a graph input, FILE.npz:key, or none "
        "for all units.",
        kinds.DATA,
        unset="an attention mask among the inputs, if any",
    )
    keep_precision: bool = setting(
        False, "Compute float16 and bfloat16 models in their own precision instead of float32.", kinds.FLAG
    )
    dequantize: bool = setting(
        False,
        "Analyze the float network that a quantized model's integers stand for: activations are not rounded.",
        kinds.FLAG,
    )
    labels: Any = setting(
        None,
        "Class labels of the samples: FILE.npz:key, .npy, .csv, or a column, FILE.csv:NAME.",
        kinds.DATA,
        unset="class folders, if any",
    )
    limit: int | None = setting(None, "Maximum number of samples.", kinds.COUNT, unset="all")
    shuffle: bool = setting(
        False, "Use a random subset of the samples instead of the first ones, if a limit is set.", kinds.FLAG
    )
    shuffle_seed: int = setting(0, "Seed of the random subset.", kinds.SEED)
    tokenizer: str | os.PathLike[str] | None = setting(
        None, "JSON file of the tokenizer that turns texts into token ids.", kinds.PATH, unset="none"
    )
    rate: int | None = setting(
        None, "Sampling rate that recordings must have, in Hz.", kinds.COUNT, unset="the rate that all recordings share"
    )
    fit_length: str = setting(
        "none",
        "Texts and recordings of another length than the model takes: refuse them (none), pad those that are too "
        "short, cut those that are too long, or both.",
        kinds.choice("none", "pad", "cut", "both"),
    )
    preset: str | None = setting(
        None,
        "Normalization preset, which sets scale, mean and std.",
        kinds.choice("imagenet", "cifar10", "unit"),
        unset="8-bit images are scaled by 1/255, other values are kept",
    )
    scale: float | None = setting(
        None, "Factor that stored values are multiplied by.", kinds.NUMBER, unset="the preset's"
    )
    mean: Sequence[float] | float | None = setting(
        None, "Mean that is subtracted from the scaled values, per channel.", kinds.NUMBERS, unset="the preset's"
    )
    std: Sequence[float] | float | None = setting(
        None,
        "Standard deviation that the scaled values are divided by, per channel.",
        kinds.NUMBERS,
        unset="the preset's",
    )
    layout: str = setting(
        "auto", "Axis order of the model's images; auto infers it from the model.", kinds.choice("auto", "NCHW", "NHWC")
    )
    size: int | tuple[int, int] | None = setting(
        None,
        "Height and width of the images in pixels, if the model does not fix them.",
        kinds.SIZE,
        unset="the size that all images share",
    )
    resize: str | int | None = setting(
        None,
        "Resizing of images: crop (resize to cover, then center crop), squash (ignore the aspect ratio), none, or the "
        "length of the shorter side in pixels before the center crop.",
        kinds.RESIZE,
        unset="crop for files and 8-bit arrays, else none",
    )
    foreground: Any = setting(
        None,
        "Boxes or masks of the objects in the images: FILE.npz:key, CSV, COCO JSON, folder of VOC XML or PNG masks.",
        kinds.DATA,
        unset="unknown",
    )
    crop_to_box: float | None = setting(
        None,
        "Crop images to the bounding box of their foreground, enlarged by this factor (1.5 in the paper).",
        kinds.POSITIVE,
        unset="no crop",
    )

    def reading(self) -> dict[str, Any]:
        """Return the settings for reading and preprocessing, as keywords of :func:`onnxinfo.open_samples`."""
        values = ("preset", "scale", "mean", "std", "layout", "size", "resize")
        same = (*values, "shuffle", "tokenizer", "rate", "fit_length")
        return {name: getattr(self, name) for name in same} | {"seed": self.shuffle_seed}


@dataclass(frozen=True)
class SidConfig(Validated):
    """Constraint, noise and solver, shared by all metrics that add noise.

    Examples
    --------
    >>> import dataclasses
    >>> dataclasses.replace(onnxinfo.SidConfig(alpha=0.001), seed=7)
    SidConfig(alpha=0.001, ..., seed=7)
    >>> onnxinfo.SidConfig(alpha=-1)
    Traceback (most recent call last):
    onnxinfo.errors.UsageError: ...
    """

    alpha: float | None = setting(
        None,
        "Strength of the constraint: the feature's mean squared deviation is alpha D, where D is the squared Frobenius "
        "norm of the Jacobian; alpha times the feature's variance with normalize_by feature.",
        kinds.POSITIVE,
        unset=f"{DEFAULT_ALPHA:g}, or {DEFAULT_FEATURE_ALPHA:g} with normalize_by feature",
        recipe="alpha",
    )
    normalize_by: str = setting(
        "dataset",
        "Normalizer of the constraint: D averaged over all samples (dataset, as in the paper), each sample's own D "
        "(sample), or the feature's variance over the samples (feature), which needs no gradient.",
        kinds.choice("dataset", "sample", "feature", former={"image": "sample"}),
        recipe="normalizer",
        former="normalizer",
    )
    budget: float | str | None = setting(
        None,
        "Absolute budget instead of alpha and normalize_by: the feature's mean squared deviation, summed over its "
        "entries (X), or per entry (X/unit).",
        kinds.BUDGET,
        unset="none",
        recipe="budget",
    )
    share_sigma: str = setting(
        "unit",
        "Units that share one noise scale sigma: none (unit), the channels of a pixel (pixel), or the pixels of each "
        "cell of a grid with N cells along each axis (grid:N).",
        kinds.SHARING,
        recipe="tie",
        former="tie",
    )
    sigma_max: float = setting(
        1.0,
        "Largest noise scale sigma, in standard deviations of the input.",
        kinds.POSITIVE,
        recipe="cap",
        former="cap",
    )
    solver: str = setting(
        "auto",
        "Solver: auto (gradients where they reach the layer, else forward), forward (evaluates the model only), or the "
        "paper's optimizer for comparison (reference).",
        kinds.choice("auto", "forward", "reference"),
        recipe="solver",
    )
    noise_precision: str = setting(
        "auto",
        "Precision in which the change that noise causes is carried through the network: float32, bfloat16 where it "
        "agrees with float32, or auto (bfloat16 where the processor is fast at it).",
        kinds.choice("auto", "float32", "bfloat16"),
        recipe="noise_precision",
    )
    seed: int = setting(0, "Seed of the noise and of decoder training.", kinds.INTEGER, recipe="seed")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget is not None and self.alpha is not None:
            raise UsageError(
                f"budget {self.budget} is absolute, and alpha {self.alpha:g} is relative: give one of them"
            )
        if self.budget is not None and self.normalize_by != "dataset":
            raise UsageError(
                f"budget {self.budget} is absolute, and normalize_by '{self.normalize_by}' makes it relative: give one "
                f"of them"
            )
        if self.solver == "forward" and self.normalize_by == "sample":
            raise UsageError(
                "normalize_by 'sample' is relative to the Jacobian, which solver 'forward' does without: give "
                "normalize_by='feature' or budget=..."
            )

    @property
    def normalizer(self) -> str:
        """Normalizer of the budget: ``dataset``, ``sample`` or ``feature``; ``absolute`` if it is not relative."""
        return "absolute" if self.budget is not None else self.normalize_by

    @property
    def strength(self) -> float:
        """The budget in units of the normalizer: alpha, or 1 if the budget is absolute."""
        if self.budget is not None:
            return 1.0
        if self.alpha is not None:
            return self.alpha
        return DEFAULT_FEATURE_ALPHA if self.normalize_by == "feature" else DEFAULT_ALPHA

    def absolute_budget(self, outputs: int) -> float:
        """Return the absolute budget of a feature with ``outputs`` entries, summed over the entries."""
        assert self.budget is not None
        total, _, per_unit = str(self.budget).partition("/")
        return float(total) * (outputs if per_unit else 1)

    def without_gradients(self) -> SidConfig:
        """Return the settings for a layer that no gradient reaches: a budget relative to ``D`` is replaced."""
        if self.normalizer in ("feature", "absolute"):
            return replace(self, solver="forward")
        # A given alpha is relative to D, unless the forward solver was requested explicitly.
        alpha = self.alpha if self.solver == "forward" else None
        return replace(self, solver="forward", normalize_by="feature", alpha=alpha)

    def recorded(self, name: str) -> Any:
        """Return the effective value of a field, whether given or default, for an archive's recipe."""
        if name == "alpha":
            return None if self.budget is not None else self.strength
        if name == "noise_precision":
            # Archives of earlier versions do not have it.
            return None if self.noise_precision == "auto" else self.noise_precision
        return self.normalizer if name == "normalize_by" else super().recorded(name)


@dataclass(frozen=True)
class SensitivityConfig(Validated):
    """Sensitivity of a target layer to noise on the others.

    Examples
    --------
    >>> config = onnxinfo.SensitivityConfig(change="absolute:0.5")
    >>> onnxinfo.sensitivity("digits-cnn.onnx", "digits.npz:images", sensitivity=config, limit=8).change
    'absolute:0.5'
    """

    target: str | None = setting(
        None,
        "Layer whose change is measured by sensitivity, by name or pattern.",
        kinds.TEXT,
        unset="the class scores before a softmax, else the last default layer",
        recipe="sensitivity_target",
    )
    change: float | str = setting(
        "relative:0.01",
        "Change of the target that noise on a tensor may cause: a fraction of the target's variance over the samples "
        "(relative:X), mean squared change summed over its entries (absolute:X), or mean divergence of the class "
        "probabilities in nats (kl:X).",
        kinds.CHANGE,
        recipe="sensitivity_change",
    )
    measure: bool = setting(
        False,
        "Correct the tolerated noise until it is measured to cause the change; always done with kl.",
        kinds.FLAG,
        recipe="sensitivity_measure",
    )
    probes: int = setting(
        64,
        "Number of random directions if the target has more than 128 entries; otherwise Jacobians are exact.",
        kinds.SEVERAL,
        recipe="sensitivity_probes",
    )


@dataclass(frozen=True)
class DecoderConfig(Validated):
    """Decoders that reconstruct the input from a layer: where they are stored and how missing ones are trained.

    Examples
    --------
    >>> onnxinfo.DecoderConfig(width=16, steps=100).learning_rate
    0.003
    """

    folder: str | os.PathLike[str] | None = setting(
        None, "Folder in which decoders are stored.", kinds.PATH, flat="decoders", unset="ARCHIVE.decoders"
    )
    inputs: Any = setting(
        None,
        "Training samples of the decoders, ideally thousands.",
        kinds.DATA,
        flat="decoder_inputs",
        unset="the samples analyzed",
    )
    limit: int | None = setting(
        None, "Maximum number of training samples of the decoders.", kinds.COUNT, flat="decoder_limit", unset="all"
    )
    width: int = setting(32, "Channels per decoder block.", kinds.COUNT, flat="decoder_width", recipe="width")
    steps: int = setting(400, "Maximum number of training steps.", kinds.COUNT, flat="decoder_steps", recipe="steps")
    batch: int = setting(32, "Batch size of decoder training.", kinds.COUNT, flat="decoder_batch", recipe="batch")
    learning_rate: float = setting(
        3e-3,
        "Peak learning rate; it rises over the first tenth of the steps and falls to zero.",
        kinds.POSITIVE,
        flat="decoder_learning_rate",
        recipe="learning_rate",
    )
    horizontal_flip: bool = setting(
        False,
        "Augment decoder training with horizontally flipped images.",
        kinds.FLAG,
        flat="decoder_horizontal_flip",
        recipe="flips",
        former="decoder_flips",
    )


@dataclass(frozen=True)
class RuConfig(Validated):
    """Reconstruction uncertainty and its decoders.

    Examples
    --------
    >>> onnxinfo.RuConfig(decoder=onnxinfo.DecoderConfig(width=16)).decoder.width
    16
    """

    error_reference: str = setting(
        "input",
        "Reference of the reconstruction errors of ru: the input, as in the paper, or the reconstruction without "
        "noise, which excludes the decoder's own error.",
        kinds.choice("input", "reconstruction"),
        recipe="ru_center",
        former="center",
    )
    decoder: DecoderConfig = field(default_factory=DecoderConfig)


@dataclass(frozen=True)
class ExecutionConfig(Validated):
    """Device and parallelism of an analysis. Apart from the number of threads, they do not change the numbers.

    Examples
    --------
    >>> onnxinfo.ExecutionConfig(device="cpu", memory_limit="2G", workers=2).memory_bytes
    2147483648
    """

    device: str = setting("auto", "Device: auto, cpu, cuda or cuda:N.", kinds.DEVICE)
    memory_limit: int | str | None = setting(
        None,
        "Memory limit for the activations of each worker, in bytes or with a unit, such as 2G.",
        kinds.MEMORY,
        unset="512 MiB on the CPU, 60 % of the free memory on a GPU",
        former="memory",
    )
    engine: str = setting(
        "local",
        "Where workers run: on this machine (local), on a Ray cluster (ray), or a registered engine.",
        metavar="local|ray|NAME",
    )
    workers: int | None = setting(
        None, "Number of worker processes.", kinds.COUNT, unset="one per GPU; on Ray as many as fit"
    )
    threads: int | None = setting(
        None,
        "CPU threads per worker; the number may change the last digits of results.",
        kinds.COUNT,
        unset="torch's threads, divided among the workers; 1 on Ray",
    )
    ray_address: str | None = setting(
        None,
        "Address of the Ray cluster.",
        metavar="HOST:PORT",
        unset="the running cluster, or a new one on this machine",
        former="address",
    )
    timeout: float = setting(
        600.0,
        "Time limit of ONNX Runtime for one batch of samples, in seconds.",
        kinds.POSITIVE,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ray_address is not None and self.engine != "ray":
            raise UsageError("ray_address is the address of a Ray cluster: add engine='ray'")

    @property
    def memory_bytes(self) -> int | None:
        """The memory limit in bytes."""
        assert not isinstance(self.memory_limit, str)
        return self.memory_limit


@dataclass(frozen=True)
class OutputConfig(Validated):
    """Run in the archive: its name, storage and optional contents.

    Examples
    --------
    >>> out = onnxinfo.OutputConfig(run="last layer", compression="lossless")
    >>> onnxinfo.analyze("digits-cnn.onnx", "digits.npz:images", "result.h5", layers=["-1"], limit=1, out=out).run
    'last layer'
    """

    run: str | None = setting(None, "Name of the run.", metavar="NAME", unset="the model's name")
    compression: str = setting(
        "rounded",
        "Storage of maps: float32 with 15 significand bits (rounded), float32 (lossless), float16, or uncompressed "
        "float32 (none).",
        kinds.choice("rounded", "lossless", "float16", "none"),
    )
    overwrite: bool = setting(
        False, "Replace a run of the same name that is finished or has another recipe.", kinds.FLAG
    )
    retry_unproven: bool = setting(
        False, "Compute unproven cells of the run again, with more passes, and only these.", kinds.FLAG
    )
    min_converged: float | None = setting(
        None,
        "Smallest fraction of proven cells of the run; with fewer, the analysis is completed and then fails, exit code "
        "4.",
        kinds.FRACTION,
        unset="none",
    )
    tag: Any = setting(
        (),
        "Tag of the run, stored in the archive; tables and queries can select by it; repeatable.",
        kinds.TAGS,
        unset="none",
    )
    thumbnails: bool = setting(
        True, "Store thumbnails of image samples for plots and reports; on by default.", kinds.FLAG
    )
    anonymous_names: bool = setting(
        False, "Name samples by their position (sample 0, sample 1, ...) and classes by their number.", kinds.FLAG
    )


@dataclass(frozen=True)
class Config:
    """All settings of an analysis, one attribute per concern."""

    selection: SelectionConfig = SelectionConfig()
    input: InputConfig = InputConfig()
    sid: SidConfig = SidConfig()
    ru: RuConfig = RuConfig()
    sensitivity: SensitivityConfig = SensitivityConfig()
    execution: ExecutionConfig = ExecutionConfig()
    out: OutputConfig = OutputConfig()

    def sources(self) -> list[object]:
        """Return all settings that name input files."""
        given = self.input
        return [given.labels, given.foreground, given.unit_mask, given.tokenizer, self.ru.decoder.inputs]


#: Maps each table of the configuration file to the place of its object in :class:`Config` and its class.
SECTIONS: dict[str, tuple[tuple[str, ...], type[Any]]] = {
    "selection": (("selection",), SelectionConfig),
    "input": (("input",), InputConfig),
    "sid": (("sid",), SidConfig),
    "ru": (("ru",), RuConfig),
    "ru.decoder": (("ru", "decoder"), DecoderConfig),
    "sensitivity": (("sensitivity",), SensitivityConfig),
    "execution": (("execution",), ExecutionConfig),
    "output": (("out",), OutputConfig),
}


def former_names(*sections: str) -> dict[str, str]:
    """Return the current name of each renamed field of some tables, by former name."""
    return {each.setting.former_of(each.name): each.name for each in entries(*sections) if each.setting.former}


def entries(*sections: str) -> Iterator[Entry]:
    """List the fields of some tables of the configuration file; by default of all."""
    for section in sections or SECTIONS:
        for each in settings_of(SECTIONS[section][1]):
            yield replace(each, section=section)


def recorded_flags(config: Config) -> dict[str, bool]:
    """Return those of ``RECORDED_FLAGS`` that differ from their defaults, for an archive's recipe."""
    values = {
        "keep_precision": config.input.keep_precision,
        "dequantize": config.input.dequantize,
        "thumbnails": config.out.thumbnails,
        "anonymous_names": config.out.anonymous_names,
    }
    return {key: value for key, value in values.items() if value != _flag_defaults()[key]}


def unrecorded(key: str) -> bool | str:
    """Return the meaning of a field's absence from a recipe: the default of a flag, else ``"absent"``."""
    return _flag_defaults().get(key, "absent")


def _flag_defaults() -> dict[str, bool]:
    return {each.setting.flat: each.default for each in entries() if each.setting.flat in RECORDED_FLAGS}


def as_setting(key: str, value: Any) -> tuple[str, Any]:
    """Translate a field of an archive's recipe to the setting's current name and word."""
    for each in entries():
        if each.setting.recipe == key and each.section != "ru.decoder":
            return each.setting.flat, each.setting.kind.former.get(value, value) if isinstance(value, str) else value
    return key, value
