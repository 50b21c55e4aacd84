"""The archive's format, version 1 (``docs/format.md``): contents of a run and the layout of its group in HDF5."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..inputs.parts import InputPart

if TYPE_CHECKING:
    from ..graph.layers import Layer

FORMAT = "onnxinfo"
VERSION = 1
# Bounds of HDF5's file format. Only that of HDF5 1.10 can be read while it is written; that of HDF5 1.8 can be read by
# more programs, and is the oldest that takes attributes of more than 64 KiB.
LIVE, AT_REST = ("v110", "v110"), ("v108", "v108")

LAYER_COLUMNS = ("layer", "layer_index", "op", "node", "depth", "parameters", "layer_shape")
SAMPLE_COLUMNS = ("sample", "sample_name", "label")
PREDICTION_COLUMNS = ("predicted", "probability")
THUMBNAIL_AXES = ("thumb_y", "thumb_x", "rgb")
FOREGROUND_AXES = ("y", "x")
INPUT_COLUMNS = ("input", "input_axes", "input_shape")
OTHER_NAMES = (*INPUT_COLUMNS, "input_unit", "unit_name", "thumbnail", "foreground", "status", "elapsed")
RESERVED = frozenset((*LAYER_COLUMNS, *SAMPLE_COLUMNS, *PREDICTION_COLUMNS, *THUMBNAIL_AXES, *OTHER_NAMES))

STATUS = ("open", "complete", "interrupted", "failed")

# Storage of maps: (dtype, significand bits kept, deflate level).
COMPRESSION: dict[str, tuple[str, int, int | None]] = {
    "rounded": ("<f4", 15, 1),
    "lossless": ("<f4", 23, 1),
    "float16": ("<f2", 10, 1),
    "none": ("<f4", 23, None),
}
# Smaller maps are stored without a chunk of their own: the index entry would cost more than deflating saves.
SMALL_MAP_BYTES = 4096

# Datasets of a metric with maps, in addition to the numbers of each cell.
MAP_DATASETS = ("map", "map_checksum", "map_offset")
#: Provenance with the sensitivity of each layer's channels.
CHANNELS = "sensitivity_channels"
#: Provenance with the layer that each part of a layer belongs to.
PARTS = "parts"
#: Provenance of a run whose unproven cells were asked to be tried again.
RETRY = "retry_unproven"

Json = None | bool | int | float | str | Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True)
class Field:
    """One number per (layer, sample), in addition to the metric's value.

    Attributes
    ----------
    name
        Suffix of the dataset: field ``ratio`` of metric ``sid`` is the dataset ``sid_ratio``.
    dtype
        NumPy type string, little-endian: ``<f8``, ``<i8`` or ``|u1``.
    units, long_name
        As in the netCDF conventions.
    flags
        Names of the values 0, 1, 2, ... of an enumerated field; empty for numbers.
    """

    name: str
    dtype: str
    units: str
    long_name: str
    flags: tuple[str, ...] = ()


class Mark(NamedTuple):
    """Reason why a cell is proven or not.

    Attributes
    ----------
    name
        One word, used in tables.
    meaning
        Explanation in plain English.
    proven
        Whether a cell with this mark is converged.
    """

    name: str
    meaning: str
    proven: bool = False


#: Codes of the field ``mark``. They never change; later versions may add codes.
MARKS: dict[int, Mark] = {
    0: Mark("converged", "the certificate holds", proven=True),
    1: Mark("ratio", "the constraint is not met, or not known to be met"),
    2: Mark("gap", "the distance to the optimum may exceed the tolerance, or is unknown"),
    3: Mark("dead", "the layer does not react to small noise at this sample (D is 0)"),
    4: Mark(
        "resolution",
        "the budget is below the layer's own rounding or steps: a value measures their sensitivity",
    ),
    5: Mark("saturated", "all input units are at the cap of sigma: the value is exact", proven=True),
    6: Mark("constant", "the feature does not depend on the analysis input"),
    7: Mark("not_finite", "the feature or the value is not finite"),
    8: Mark("decoder", "the decoder recovers nothing"),
    9: Mark("saturated_output", "the layer's own values are saturated, as probabilities near 0 and 1 are"),
    10: Mark("integer", "the tensor holds integers of a quantized operator, whose unit is none of the values"),
}
_MARK_CODES = {mark.name: code for code, mark in MARKS.items()}


def mark_code(name: str) -> int:
    """Return the code of a mark, given its name in ``MARKS``."""
    return _MARK_CODES[name]


def mark_name(code: int) -> str:
    """Return the name of a mark; ``mark_`` and the number for a code of a later version."""
    return MARKS[code].name if code in MARKS else f"mark_{code}"


VALUE = Field("value", "<f8", "nats", "mean over the input units")
STDERR = Field("stderr", "<f8", "nats", "Monte-Carlo standard error of the value")
CONVERGED = Field("converged", "|u1", "1", "1 where the certificate holds, else 0")
CERTIFICATE = (
    Field(
        "ratio", "<f8", "1", "measured over target mean squared deviation of the feature, 1 if the constraint is met"
    ),
    Field("ratio_stderr", "<f8", "1", "standard error of the ratio"),
    Field("residual", "<f8", "1", "stationarity residual, 0 at the optimum"),
    Field("probes", "<i8", "1", "noise probes used"),
    Field("iterations", "<i8", "1", "iterations used"),
    Field("capped", "<f8", "1", "fraction of input units at the cap of sigma"),
)
#: Distance from the optimum, and reason why a value is proven or not; metrics may have any of these fields.
PROOF = (
    Field("gap", "<f8", "nats", "bound at 95 % on how far the value lies below the optimum; NaN where unknown"),
    Field("gain", "<f8", "nats", "gain of an independent trial step on fresh noise"),
    Field("gain_stderr", "<f8", "nats", "standard error of the gain"),
    Field("exponent", "<f8", "1", "growth of the feature's deviation with sigma, d log L / d log t, 2 where linear"),
    Field(
        "resolution_alpha",
        "<f8",
        "1",
        "least alpha found at which rounding makes less than half of the deviation; NaN where unknown",
    ),
    Field("mark", "|u1", "1", "why the cell is proven or not", tuple(mark.name for mark in MARKS.values())),
)
#: Fields of metrics with a constraint; archives written before version 0.2 have the residual instead of a proof.
PROVEN = (*(field for field in CERTIFICATE if field.name != "residual"), *PROOF)


#: Metrics of all samples of a run together: the mean over some of their cells is not the metric of these samples.
TOGETHER = frozenset({"cka"})


@dataclass(frozen=True)
class Metric:
    """A quantity computed for every (layer, sample).

    Attributes
    ----------
    name
        A lower-case identifier, for instance ``sid``; the prefix of the datasets' names.
    long_name, units
        As in the netCDF conventions.
    fields
        Fields other than ``value``, ``stderr`` and ``converged``, which every metric has.
    has_map
        Whether the metric also has one value per input unit.
    """

    name: str
    long_name: str = ""
    units: str = "nats"
    fields: tuple[Field, ...] = CERTIFICATE
    has_map: bool = True

    @property
    def columns(self) -> tuple[Field, ...]:
        """All fields with one number per (layer, sample), in the order of the checksum."""
        return (VALUE, STDERR, CONVERGED, *self.fields)

    def dataset(self, column: str) -> str:
        """Name of the dataset for a column; the value's dataset has the metric's own name."""
        return self.name if column == "value" else f"{self.name}_{column}"

    def datasets(self) -> list[str]:
        """Names of all datasets of the metric."""
        names = [self.dataset(column.name) for column in self.columns]
        names += [f"{self.name}_{suffix}" for suffix in ("normalizer", "checksum", "done")]
        return names + ([f"{self.name}_{suffix}" for suffix in MAP_DATASETS] if self.has_map else [])


@dataclass(frozen=True)
class LayerRow:
    """A layer as stored in the archive; see :class:`onnxinfo.Layer` for the attributes."""

    name: str
    index: int
    op: str
    node: str
    depth: int
    parameters: int
    shape: str

    @classmethod
    def of(cls, layer: Layer | LayerRow) -> LayerRow:
        """Return the archive's row for a layer of a model."""
        if isinstance(layer, LayerRow):
            return layer
        shape = "" if layer.shape is None else "x".join("?" if n is None else str(n) for n in layer.shape)
        return cls(
            plain_text(layer.name),
            layer.index,
            plain_text(layer.op),
            plain_text(layer.node),
            layer.depth,
            layer.parameters,
            plain_text(shape),
        )


@dataclass(frozen=True)
class RunSchema:
    """Description of a run: everything known before the first number is computed.

    Attributes
    ----------
    layers
        The analyzed layers.
    axes
        Names of the analysis input's axes without the batch, such as ``("channel", "y", "x")``.
    sample_shape
        Shape of one sample, in the order of `axes`.
    sample_names
        One name per sample.
    metrics
        The computed metrics.
    unit
        Standard deviation of the input, broadcastable to `sample_shape`: the unit of sigma.
    recipe
        Settings that determine the numbers. A run is resumed only if they are unchanged.
    labels
        One integer or text per sample, or None.
    thumbnails
        Thumbnails of the samples, uint8 of shape (sample, y, x, 3), or None.
    provenance
        Further facts (date, versions, machine), which may differ when a run is resumed.
    foreground
        1 inside a sample's object, else 0; uint8 of shape (sample, y, x), or None. Requires y and x in `axes`, or
        several inputs.
    unit_names
        Names of the units along the only axis, such as a table's columns, or None. Empty names stand for units that
        their position in their input describes.
    inputs
        Inputs whose units lie side by side along the only axis, if noise is added to several.
    predicted, probability
        Class that the model predicts for each sample and its probability, or None if it is not a classifier.
    digest_of
        Returns the digest of the samples at some positions, as the recipe has it of all; None if it cannot be had.
    """

    layers: Sequence[Layer] | Sequence[LayerRow]
    axes: tuple[str, ...]
    sample_shape: tuple[int, ...]
    sample_names: Sequence[str]
    metrics: Sequence[Metric]
    unit: npt.NDArray[Any]
    recipe: Mapping[str, Json]
    labels: Sequence[int] | Sequence[str] | npt.NDArray[Any] | None = None
    thumbnails: npt.NDArray[np.uint8] | None = None
    provenance: Mapping[str, Json] = field(default_factory=dict)
    foreground: npt.NDArray[np.uint8] | None = None
    unit_names: Sequence[str] | None = None
    inputs: Sequence[InputPart] = ()
    predicted: npt.NDArray[np.int64] | None = None
    probability: npt.NDArray[np.float64] | None = None
    digest_of: Callable[[Sequence[int]], str] | None = None

    def __post_init__(self) -> None:
        check_names([*self.axes], [*self.metrics])
        if not self.layers or not len(self.sample_names):
            raise UsageError("a run needs at least one layer and one sample")
        if len(self.axes) != len(self.sample_shape):
            raise UsageError(f"axes {self.axes} do not name the dimensions of samples of shape {self.sample_shape}")
        if self.unit_names is not None and self.sample_shape != (len(self.unit_names),):
            raise UsageError(f"{len(self.unit_names)} names of units do not fit samples of shape {self.sample_shape}")
        if self.inputs and self.sample_shape != (sum(part.size for part in self.inputs),):
            raise UsageError(f"inputs of {[part.shape for part in self.inputs]} do not fit {self.sample_shape}")


def check_names(axes: Sequence[str], metrics: Sequence[Metric]) -> None:
    """Raise :class:`UsageError` if two datasets of a run would have the same name."""
    taken = set(RESERVED)
    for name in [*axes, *(name for metric in metrics for name in [*metric.datasets(), metric.dataset("retried")])]:
        if not is_identifier(name) or name in taken:
            raise UsageError(f"'{name}' cannot name an axis or metric: lower-case identifier, not used twice, expected")
        taken.add(name)


def is_identifier(name: str) -> bool:
    """Whether `name` can be the name of an axis, a metric or a field."""
    return re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name) is not None


def check_run_name(name: str) -> None:
    """Raise :class:`UsageError` unless `name` can be an HDF5 and netCDF group name."""
    if not name or name != name.strip() or "/" in name or name[0] == "." or name[-1] == "~" or not name.isprintable():
        raise UsageError(
            f"run name {name!r}: printable text without '/', leading '.', final '~' or outer spaces expected"
        )
    if len(name.encode()) > 255:
        raise UsageError(f"run name of {len(name.encode())} bytes: at most 255 expected")


def plain_text(text: str) -> str:
    """Return `text` for fixed-length UTF-8: NUL and lone surrogates are written as escapes."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def text_array(texts: Iterable[str]) -> npt.NDArray[Any]:
    """Return fixed-length UTF-8 strings, null-padded.

    Unlike variable-length strings, their size is known from the file's metadata.
    """
    encoded = [plain_text(text).encode() for text in texts]
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", max([1, *map(len, encoded)])))


def encode_attribute(value: Json) -> str | int | float:
    """Encode a JSON value as an attribute.

    Text, integers and floats are stored directly, everything else as JSON text; text that could be mistaken for
    such JSON is quoted.
    """
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False) if _is_encoded(value) else plain_text(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return json.dumps(value, ensure_ascii=False)
    return value if isinstance(value, float) or -(2**63) <= value < 2**63 else json.dumps(value)


def decode_attribute(value: str | int | float) -> Json:
    """Decode an attribute; the inverse of :func:`encode_attribute`."""
    if isinstance(value, str) and _is_encoded(value):
        decoded: Json = json.loads(value)
        return decoded
    return value


def _is_encoded(text: str) -> bool:
    if not re.match(r"[\[{\"]|(true|false|null|-?\d{19,})$", text):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def write_attribute(target: h5py.HLObject, name: str, value: str | int | float) -> None:
    """Write an attribute as netCDF does: fixed-length UTF-8 text, int64 or float64."""
    if isinstance(value, str):
        encoded = value.encode()
        target.attrs.create(name, encoded, dtype=h5py.string_dtype("utf-8", max(len(encoded), 1)))
    else:
        target.attrs.create(name, value, dtype="<i8" if isinstance(value, int) else "<f8")


def create_run(file: h5py.File, name: str, schema: RunSchema, *, compression: str, created: str) -> h5py.Group:
    """Create the group of a run with all its datasets and without finished cells.

    Parameters
    ----------
    file
        An archive open for writing.
    name
        Name of the run, which must be unused.
    schema
        Description of the run.
    compression
        Storage of maps, a key of ``COMPRESSION``.
    created
        Date and time, ISO 8601.
    """
    run = file.create_group(name, track_order=True)
    attributes: dict[str, str | int | float] = {
        "format": FORMAT,
        "format_version": VERSION,
        "created": created,
        "compression": compression,
        "metrics": " ".join(metric.name for metric in schema.metrics),
        "axes": " ".join(schema.axes),
        "recipe": json.dumps([*schema.recipe], ensure_ascii=False),
        "coordinates": " ".join([*LAYER_COLUMNS[1:], "sample_name", *(["label"] if schema.labels is not None else [])]),
    }
    for key, value in {**schema.provenance, **schema.recipe}.items():
        if key in attributes:
            raise UsageError(f"recipe field '{key}' has a name that the archive format uses itself")
        attributes[key] = encode_attribute(value)
    for key, encoded in attributes.items():
        write_attribute(run, key, encoded)
    _create_coordinates(run, schema)
    for metric in schema.metrics:
        _create_metric(run, metric, schema, compression)
    _static(run, "status", np.uint8(0), ())
    write_attribute(run["status"], "long_name", "how the run ended")
    _describe_flags(run["status"], STATUS)
    _static(run, "elapsed", np.float64(0), ())
    _describe(run["elapsed"], "s", "time spent on the run")
    # The description precedes the maps in the file, so that as much as possible of a truncated file can be recovered.
    file.flush()
    return run


def _create_coordinates(run: h5py.Group, schema: RunSchema) -> None:
    rows = [LayerRow.of(layer) for layer in schema.layers]
    _scale(run, "layer", text_array(row.name for row in rows), "name of the tensor in the ONNX model")
    _scale(run, "sample", np.arange(len(schema.sample_names), dtype="<i8"), "position in the run")
    for axis, size in zip(schema.axes, schema.sample_shape, strict=True):
        _bare_scale(run, axis, size)
    integers = {"layer_index": "position in the model", "depth": "nodes from the input", "parameters": "parameters"}
    for name in LAYER_COLUMNS[1:]:
        values = [getattr(row, name.removeprefix("layer_")) for row in rows]
        data = np.array(values, dtype="<i8") if name in integers else text_array(values)
        _static(run, name, data, ("layer",))
        write_attribute(run[name], "long_name", integers.get(name, name.removeprefix("layer_") + " of the layer"))
    _static(run, "sample_name", text_array(schema.sample_names), ("sample",))
    write_attribute(run["sample_name"], "long_name", "name of the sample")
    if schema.labels is not None:
        labels = np.asarray(schema.labels)
        data = labels.astype("<i8") if labels.dtype.kind in "iu" else text_array(map(str, labels.tolist()))
        _static(run, "label", data, ("sample",))
        write_attribute(run["label"], "long_name", "label of the sample")
    if schema.predicted is not None and schema.probability is not None:
        _static(run, "predicted", schema.predicted.astype("<i8"), ("sample",))
        write_attribute(run["predicted"], "long_name", "class that the model predicts, -1 if its scores are not finite")
        _static(run, "probability", schema.probability.astype("<f8"), ("sample",))
        _describe(run["probability"], "1", "probability of the predicted class")
    if schema.unit_names is not None:
        _static(run, "unit_name", text_array(schema.unit_names), schema.axes)
        write_attribute(run["unit_name"], "long_name", "name of the input unit")
    if schema.inputs:
        _create_inputs(run, schema.inputs)
    unit = np.asarray(schema.unit, dtype="<f8")
    unit = unit.reshape((1,) * (len(schema.axes) - unit.ndim) + unit.shape)
    varying = [axis for axis, size in zip(schema.axes, unit.shape, strict=True) if size > 1]
    _static(run, "input_unit", unit.reshape([size for size in unit.shape if size > 1]), varying)
    # The dimension names, for readers that do not resolve dimension scales.
    write_attribute(run["input_unit"], "axes", " ".join(varying))
    _describe(run["input_unit"], "model input", "standard deviation of the input, the unit of sigma")
    if schema.thumbnails is not None:
        for axis, size in zip(THUMBNAIL_AXES, schema.thumbnails.shape[1:], strict=True):
            _bare_scale(run, axis, size)
        _static(run, "thumbnail", schema.thumbnails.astype("|u1"), ("sample", *THUMBNAIL_AXES))
        write_attribute(run["thumbnail"], "long_name", "thumbnail of the sample, red, green, blue")
    if schema.foreground is not None:
        for axis, size in zip(FOREGROUND_AXES, schema.foreground.shape[1:], strict=True):
            if axis not in schema.axes:  # several inputs, of which one is an image
                _bare_scale(run, axis, size)
        _static(run, "foreground", schema.foreground.astype("|u1"), ("sample", *FOREGROUND_AXES))
        write_attribute(run["foreground"], "long_name", "1 inside the object, else 0")


def _create_inputs(run: h5py.Group, inputs: Sequence[InputPart]) -> None:
    """Describe the inputs whose units lie side by side."""
    _scale(run, "input", text_array(part.name for part in inputs), "name of the perturbed input")
    axes, shapes = [" ".join(part.axes) for part in inputs], ["x".join(map(str, part.shape)) for part in inputs]
    _static(run, "input_axes", text_array(axes), ("input",))
    write_attribute(run["input_axes"], "long_name", "names of the axes of one sample of the input")
    _static(run, "input_shape", text_array(shapes), ("input",))
    write_attribute(run["input_shape"], "long_name", "shape of one sample of the input")


def _create_metric(run: h5py.Group, metric: Metric, schema: RunSchema, compression: str) -> None:
    cells = (len(schema.layers), len(schema.sample_names))
    for column in metric.columns:
        fill = np.nan if column.dtype == "<f8" else 0
        data = np.full(cells, fill, dtype=column.dtype)
        dataset = _attached(run, metric.dataset(column.name), ("layer", "sample"), data=data)
        is_value = column in (VALUE, STDERR)
        of_value = f"{metric.long_name or metric.name}, {column.long_name}"
        _describe(dataset, metric.units if is_value else column.units, of_value if is_value else column.long_name)
        if column.flags:
            _describe_flags(dataset, column.flags)
    write_attribute(run[metric.name], "fields", " ".join(column.name for column in metric.columns[1:]))
    name = f"{metric.name}_normalizer"
    _attached(run, name, ("layer",), data=np.full(cells[:1], np.nan, dtype="<f8"))
    _describe(run[name], "1", "D of the constraint: mean squared deviation of the feature per squared noise scale")
    for suffix, dtype, long_name in (
        ("checksum", "<u4", "CRC-32 of the cell's numbers"),
        ("done", "|u1", "1 where the cell is finished, written last"),
    ):
        dataset = _attached(run, f"{metric.name}_{suffix}", ("layer", "sample"), data=np.zeros(cells, dtype=dtype))
        _describe(dataset, "1", long_name)
    if metric.has_map:
        _create_map(run, metric, (*cells, *schema.sample_shape), schema.axes, compression)


def put_retried(run: h5py.Group, metric: str, retried: npt.NDArray[np.bool_]) -> None:
    """Record which cells of a metric, (layer, sample), are tried again with more passes, or were."""
    name = f"{metric}_retried"
    _describe(
        _attached(run, name, ("layer", "sample"), data=retried.astype("|u1")),
        "1",
        "1 where the cell gets more passes, or got them, because it was unproven",
    )


def _create_map(
    run: h5py.Group, metric: Metric, shape: tuple[int, ...], axes: tuple[str, ...], compression: str
) -> None:
    dtype, _, level = COMPRESSION[compression]
    name = f"{metric.name}_map"
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    options: dict[str, Any] = {"shape": shape, "dtype": dtype, "fillvalue": np.nan}
    if map_bytes(shape[2:], dtype) > SMALL_MAP_BYTES:
        options["chunks"] = (1, 1, *shape[2:])
        if level is not None:
            options |= {"compression": "gzip", "compression_opts": level, "shuffle": True}
    else:
        # Allocate early, so that only the cells themselves change in the file while the run is in progress.
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    dataset = _attached(run, name, ("layer", "sample", *axes), dcpl=plist, **options)
    _describe(dataset, metric.units, f"{metric.long_name or metric.name} per input unit")
    for suffix, kind, long_name in (
        ("checksum", "<u4", "CRC-32 of the cell's map"),
        ("offset", "<u8", "where the cell's map was written in the file, for recovery"),
    ):
        data = np.zeros(shape[:2], dtype=kind)
        _describe(_attached(run, f"{name}_{suffix}", ("layer", "sample"), data=data), "1", long_name)


def map_bytes(sample_shape: Sequence[int], dtype: str) -> int:
    """Return the size in bytes of one sample's map."""
    return int(np.prod(sample_shape, dtype=np.int64)) * np.dtype(dtype).itemsize


def round_significand(values: npt.NDArray[np.float32], bits: int) -> npt.NDArray[np.float32]:
    """Round to `bits` explicit significand bits, to nearest, ties to even.

    The dropped bits are Monte Carlo noise, which does not compress.

    Parameters
    ----------
    values
        float32 of any shape. Infinities and NaN are kept.
    bits
        From 1 to 23; 23 returns the values unchanged.
    """
    if bits == 23:
        return values
    drop = 23 - bits
    pattern = values.view(np.uint32)
    half = np.uint32((1 << (drop - 1)) - 1) + ((pattern >> np.uint32(drop)) & np.uint32(1))
    rounded = ((pattern + half) & np.uint32((0xFFFFFFFF << drop) & 0xFFFFFFFF)).view(np.float32)
    return np.where(np.isfinite(values), rounded, values)


def encode_map(values: npt.ArrayLike, compression: str) -> npt.NDArray[Any]:
    """Return a map as stored with the given compression, in little-endian C order."""
    dtype, bits, _ = COMPRESSION[compression]
    single = np.ascontiguousarray(values, dtype="<f4")
    return single.astype(dtype) if dtype == "<f2" else round_significand(single, bits)


def whole_maps(maps: npt.NDArray[Any], recipe: Mapping[str, Json]) -> npt.NDArray[np.bool_]:
    """Tell which maps, (B, *sample_shape), have valid values for a proven cell, (B,).

    All values must be finite, except for units excluded by the run's unit mask, which may be NaN.
    """
    flat = maps.reshape(len(maps), -1)
    left_out = np.isnan(flat) & ("unit_mask" in recipe)
    whole: npt.NDArray[np.bool_] = (np.isfinite(flat) | left_out).all(axis=1) & ~left_out.all(axis=1)
    return whole


def chunk_bytes(stored: npt.NDArray[Any], compression: str) -> bytes:
    """Return the bytes of a map's chunk: its encoded values, shuffled and deflated if the compression requires it."""
    level = COMPRESSION[compression][2]
    if level is None:
        return stored.tobytes()
    return zlib.compress(stored.reshape(-1, 1).view(np.uint8).T.tobytes(), level)


def put_map(maps: h5py.Dataset, at: tuple[int, int], stored: npt.NDArray[Any], compression: str) -> int:
    """Write the map of a cell and return its chunk's offset in the file, 0 if it has no chunk of its own."""
    if maps.chunks is None:
        maps[at] = stored
        return 0
    return put_chunk(maps, at, chunk_bytes(stored, compression))


def put_chunk(maps: h5py.Dataset, at: tuple[int, int], chunk: bytes) -> int:
    """Write the chunk of a cell's map and return its offset in the file."""
    start = (*at, *(0,) * (maps.ndim - 2))
    maps.id.write_direct_chunk(start, chunk)
    return int(maps.id.get_chunk_info_by_coord(start).byte_offset)


def cell_checksums(
    normalizer: npt.NDArray[Any], columns: Sequence[npt.NDArray[Any]], shape: tuple[int, int]
) -> npt.NDArray[np.uint32]:
    """Return the CRC-32 of each cell's numbers: the layer's normalizer, then the columns, little-endian.

    Parameters
    ----------
    normalizer
        (layer,), float64.
    columns
        Arrays of `shape` in the order of :attr:`Metric.columns`.
    shape
        (layer, sample).
    """
    parts = [np.broadcast_to(np.asarray(normalizer, dtype="<f8")[:, None], shape), *columns]
    checksums = np.empty(shape, dtype="<u4")
    for layer in range(shape[0]):
        rows = [np.ascontiguousarray(part[layer]).reshape(-1, 1).view(np.uint8) for part in parts]
        checksums[layer] = [zlib.crc32(row.tobytes()) for row in np.concatenate(rows, axis=1)]
    return checksums


def _attached(run: h5py.Group, name: str, dims: Sequence[str], **options: Any) -> h5py.Dataset:
    dataset = run.create_dataset(name, **options)
    for position, dim in enumerate(dims):
        dataset.dims[position].attach_scale(run[dim])
    return dataset


def _static(run: h5py.Group, name: str, data: npt.NDArray[Any] | np.generic, dims: Sequence[str]) -> h5py.Dataset:
    """Create a dataset of known values, with their checksum."""
    dataset = _attached(run, name, dims, data=data)
    if name not in ("status", "elapsed"):
        write_attribute(dataset, "crc32", zlib.crc32(np.ascontiguousarray(data).tobytes()))
    if dataset.dtype.kind == "S":
        # Reserved by netCDF: marks these bytes as text.
        write_attribute(dataset, "_Encoding", "utf-8")
    return dataset


def _scale(run: h5py.Group, name: str, data: npt.NDArray[Any], long_name: str) -> None:
    dataset = _static(run, name, data, ())
    dataset.make_scale(name)
    write_attribute(dataset, "long_name", long_name)
    _number_dimension(run, dataset)


def _bare_scale(run: h5py.Group, name: str, size: int) -> None:
    # Required by the netCDF-4 conventions for a dimension without coordinate values.
    dataset = run.create_dataset(name, shape=(size,), dtype=">f4")
    dataset.make_scale(f"This is a netCDF dimension but not a netCDF variable.{size:10d}")
    _number_dimension(run, dataset)


def _number_dimension(run: h5py.Group, dataset: h5py.Dataset) -> None:
    # Unique in the whole file: netCDF-C identifies dimensions by this number.
    numbered = sum("_Netcdf4Dimid" in member.attrs for group in run.file.values() for member in group.values())
    dataset.attrs.create("_Netcdf4Dimid", numbered, dtype="<i4")


def _describe(dataset: h5py.Dataset, units: str, long_name: str) -> None:
    write_attribute(dataset, "units", units)
    write_attribute(dataset, "long_name", long_name)


def _describe_flags(dataset: h5py.Dataset, names: Sequence[str]) -> None:
    """Name the values 0, 1, 2, ... of an enumerated field, following the CF conventions."""
    dataset.attrs.create("flag_values", np.arange(len(names), dtype=np.uint8))
    write_attribute(dataset, "flag_meanings", " ".join(names))
