"""Counted units: the padding of a text, and units excluded by a mask, do not count."""

from __future__ import annotations

import logging
from contextvars import copy_context
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from graphs import constant, model, node, value, weight
from onnx import TensorProto

import onnxinfo
from onnxinfo import InputError, UsageError, load
from onnxinfo.analysis.decoders import decoder_settings
from onnxinfo.analysis.job import Job, prepare
from onnxinfo.analysis.measures import make_measures
from onnxinfo.analysis.tasks import Worker
from onnxinfo.archive.format import whole_maps
from onnxinfo.cli import cli
from onnxinfo.config import DecoderConfig, SidConfig
from onnxinfo.engines.worker_spec import describe_worker
from onnxinfo.graph.interruption import current_limit, time_limit
from onnxinfo.graph.layers import list_layers
from onnxinfo.inputs.sample_sets import SampleSet
from onnxinfo.inputs.unit_mask import find_unit_mask, open_unit_mask
from onnxinfo.metrics.decoder import Plan
from onnxinfo.metrics.decoder_store import DecoderKey
from onnxinfo.metrics.decoder_training import Material, train_decoders
from onnxinfo.metrics.input_provider import InputProvider, open_samples_of
from onnxinfo.metrics.linearization import linearize
from onnxinfo.metrics.network import Network
from onnxinfo.metrics.noise import ENTROPY
from onnxinfo.models import path
from onnxinfo.views.panels import flat_map

IDS = np.random.default_rng(0).integers(0, 20, (4, 6))
MASK = (np.arange(6) < np.array([[6], [4], [1], [3]])).astype(np.int64)
SHAPE, AXES = (6, 4), ("position", "embedding")


def text_model(name: str = "attention_mask", element: int = TensorProto.INT64) -> onnx.ModelProto:
    """Embeddings, weighted by a mask, and a dense layer."""
    nodes = [
        node("Gather", "table ids", "embedded"),
        node("Unsqueeze", f"{name} last", "column"),
        node("Cast", "column", "weights", to=TensorProto.FLOAT),
        node("Mul", "embedded weights", "kept"),
        node("MatMul", "kept w", "y"),
    ]
    inputs = [value("ids", ("N", 6), TensorProto.INT64), value(name, ("N", 6), element)]
    return model(
        nodes, inputs, [value("y", ("N", 6, 3))], [weight("table", 20, 4), weight("w", 4, 3), constant("last", [-1])]
    )


def samples(proto: onnx.ModelProto, **arrays: Any) -> SampleSet:
    return open_samples_of(load(proto), arrays)


def analyzed(proto: onnx.ModelProto, arrays: dict[str, Any], folder: Path, **options: Any) -> Any:
    """The recipe, and the job that was made."""
    made: list[Job] = []

    def noted(names: Any, job: Job) -> Any:
        made.append(job)
        return make_measures(names, job)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxinfo.workflows.analyze.make_measures", noted)
        result = onnxinfo.analyze(proto, arrays, folder / "run.h5", layers=["y"], input_tensor="embedded", **options)
    with onnxinfo.open(result.archive) as archive:
        return archive[result.run].recipe, made[0].units


EXPECTED = np.repeat(MASK == 1, 4, axis=1)


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.float32])
@pytest.mark.parametrize("name", ["attention_mask", "input_mask:0", "Mask"])
def test_the_mask_among_the_inputs_is_found(name: str, dtype: Any) -> None:
    proto = text_model(name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    found = find_unit_mask(samples(proto, **{"ids": IDS, name: MASK.astype(dtype)}), SHAPE, AXES)
    assert found is not None
    assert (found.units.reshape(4, -1) == EXPECTED).all()
    assert found.source == f"graph input '{name}'"


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("attention_mask", np.ones_like(MASK)),
        ("attention_mask", np.where(MASK == 1, 0, -9)),
        ("key_padding_mask", 1 - MASK),
        ("decoder_attention_mask", MASK),
        ("attention_mask", MASK * (np.arange(4) != 2)[:, None]),
        ("segment", MASK),
    ],
)
def test_what_is_no_such_mask_is_left_alone(name: str, mask: Any) -> None:
    assert find_unit_mask(samples(text_model(name), **{"ids": IDS, name: mask}), SHAPE, AXES) is None


def test_a_mask_of_another_length_is_left_alone() -> None:
    given = samples(text_model(), ids=IDS, attention_mask=MASK)
    assert find_unit_mask(given, (7, 4), AXES) is None
    assert find_unit_mask(given, (6, 4, 4), ("channel", "y", "x")) is None


def test_of_several_masks_none_is_guessed(caplog: pytest.LogCaptureFixture) -> None:
    given = samples(text_model("mask_a"), ids=IDS, mask_a=MASK)
    both = SampleSet({**given.inputs, "mask_b": given.inputs["mask_a"]})
    assert find_unit_mask(both, SHAPE, AXES) is None
    assert "'mask_a', 'mask_b' may be one; name it with unit_mask=..." in caplog.text


def test_an_analysis_has_it_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "onnxinfo"):
        recipe, units = analyzed(text_model(), {"ids": IDS, "attention_mask": MASK}, tmp_path)
    assert torch.equal(units, torch.from_numpy(EXPECTED))
    assert recipe["unit_mask"] == "graph input 'attention_mask'"
    assert len(recipe["unit_mask_sha256"]) == 64
    assert "unit mask: 58.3% of the units count, by graph input 'attention_mask'" in caplog.text


def test_none_lets_all_units_count(tmp_path: Path) -> None:
    recipe, units = analyzed(text_model(), {"ids": IDS, "attention_mask": MASK}, tmp_path, unit_mask="none")
    assert units is None
    assert "unit_mask" not in recipe


def test_a_mask_may_be_named(tmp_path: Path) -> None:
    """A mask is a graph input of any name, or rows of a file for the samples in use."""
    given = {"ids": IDS, "segment": MASK}
    _, units = analyzed(text_model("segment"), given, tmp_path, unit_mask="segment", run="a")
    assert torch.equal(units, torch.from_numpy(EXPECTED))
    np.savez(tmp_path / "m.npz", positions=MASK, units=EXPECTED.reshape(4, 6, 4), features=np.eye(4)[:, None])
    for key in ("positions", "units"):
        spec = f"{tmp_path / 'm.npz'}:{key}"
        recipe, units = analyzed(text_model("segment"), given, tmp_path, unit_mask=spec, run=key, limit=2)
        assert torch.equal(units, torch.from_numpy(EXPECTED[:2]))
        assert recipe["unit_mask"] == f"'{spec}'"
    _, units = analyzed(text_model("segment"), given, tmp_path, unit_mask=f"{tmp_path / 'm.npz'}:features", run="f")
    assert units.reshape(4, 6, 4)[1].tolist() == [[False, True, False, False]] * 6


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("nothing", UsageError, r"'nothing' is neither a graph input nor an array file"),
        (MASK[:3], InputError, r"has 3 rows, expected one for each of 4 samples"),
        (MASK[:, :5], InputError, r"has shape \(4, 5\), expected a value for each unit, \(4, 6, 4\)"),
        (MASK * (np.arange(4) != 2)[:, None], InputError, r"leaves no unit of sample input\[2\]"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(spec: Any, error: type, message: str) -> None:
    given = samples(text_model(), ids=IDS, attention_mask=MASK)
    with pytest.raises(error, match=message):
        open_unit_mask(spec, given, given.first, SHAPE, AXES)


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_workers_have_the_same_units_time_limit_and_precision(tmp_path: Path, precision: str) -> None:
    loaded = load(text_model())
    feeds = InputProvider(loaded, samples(text_model(), ids=IDS, attention_mask=MASK), "embedded")
    layers = [layer for layer in list_layers(loaded, "embedded") if layer.name == "y"]
    job = prepare(feeds, layers, SidConfig(), torch.device("cpu"))
    job.units = torch.from_numpy(EXPECTED)
    # Workers do not measure the processor's speed themselves; those on other machines do.
    job.precision = precision
    here = Worker(job, make_measures(["sid"], job))
    with time_limit(7):
        sent = describe_worker(here, tmp_path, device="cpu", threads=1)
    elsewhere, limit = copy_context().run(lambda: (sent.worker(), current_limit()))
    assert torch.equal(elsewhere.job.units, job.units)
    assert limit == 7
    assert elsewhere.job.precision == precision
    assert sent.in_memory().precision is None


def test_the_option(tmp_path: Path) -> None:
    onnx.save(text_model("segment"), tmp_path / "text.onnx")
    np.savez(tmp_path / "t.npz", ids=IDS, segment=MASK)
    spec = ",".join(f"{name}={tmp_path / 't.npz'}:{name}" for name in ("ids", "segment"))
    arguments = ["-q", "analyze", str(tmp_path / "text.onnx"), "--inputs", spec, "--layers", "y"]
    result = CliRunner().invoke(cli, [*arguments, "--unit-mask", "segment", "-o", str(tmp_path / "run.h5")])
    assert result.exit_code == 0, result.output
    with onnxinfo.open(tmp_path / "run.h5") as archive:
        assert archive["text"].recipe["unit_mask"] == "graph input 'segment'"


def attention_model() -> onnx.ModelProto:
    """One attention head that a mask keeps from the padding, and the first token's logits."""
    nodes = [
        node("Gather", "table ids", "embedded"),
        node("MatMul", "embedded q", "queries"),
        node("MatMul", "embedded k", "keys"),
        node("MatMul", "embedded v", "values"),
        node("Transpose", "keys", "turned", perm=[0, 2, 1]),
        node("MatMul", "queries turned", "scores"),
        node("Cast", "attention_mask", "there", to=TensorProto.FLOAT),
        node("Sub", "there one", "missing"),
        node("Mul", "missing large", "bias"),
        node("Unsqueeze", "bias axis", "row"),
        node("Add", "scores row", "masked"),
        node("Softmax", "masked", "weights", axis=-1),
        node("MatMul", "weights values", "mixed"),
        node("Tanh", "mixed", "bent"),
        node("Gather", "bent first", "pooled", axis=1),
        node("MatMul", "pooled w", "y"),
    ]
    inputs = [value(name, ("N", "T"), TensorProto.INT64) for name in ("ids", "attention_mask")]
    weights = [weight("table", 20, 8), *(weight(name, 8, 8) for name in "qkv"), weight("w", 8, 5)]
    constants = [constant("one", 1, np.float32), constant("large", 1e4, np.float32), constant("axis", [1])]
    return model(nodes, inputs, [value("y", ("N", 5))], [*weights, *constants, constant("first", 0)])


@pytest.mark.parametrize("pads", [12, 36])
def test_padding_leaves_a_text_s_value_as_it_is(tmp_path: Path, pads: int) -> None:
    ids = np.random.default_rng(3).integers(1, 20, (4, 12))
    found = []
    for count in (0, pads):
        given = {
            "ids": np.pad(ids, ((0, 0), (0, count))),
            "attention_mask": np.pad(np.ones_like(ids), ((0, 0), (0, count))),
        }
        result = onnxinfo.analyze(
            attention_model(),
            given,
            tmp_path / f"{count}.h5",
            layers=["y"],
            input_tensor="embedded",
            normalize_by="sample",
        )
        with onnxinfo.open(result.archive) as archive:
            found.append({name: numbers[0] for name, numbers in archive[result.run].values("sid").items()})
    alone, padded = found
    assert alone["converged"].all()
    assert padded["converged"].all()
    error = np.hypot(alone["stderr"], padded["stderr"]) + np.maximum(alone["gap"], padded["gap"])
    assert (np.abs(alone["value"] - padded["value"]) <= 3 * error).all(), (alone["value"], padded["value"], error)


def test_padding_has_no_value_in_maps(tmp_path: Path) -> None:
    """Excluded units are NaN in maps and do not enter means; readers of maps handle that."""
    ids, mask = np.random.default_rng(3).integers(1, 20, (4, 6)), MASK
    given = {"ids": ids * mask, "attention_mask": mask}
    options = {"layers": ["y"], "input_tensor": "embedded", "decoder_width": 4, "decoder_steps": 4}
    result = onnxinfo.analyze(attention_model(), given, tmp_path / "run.h5", metrics=["ru", "sid"], **options)
    with onnxinfo.open(result.archive) as archive:
        run = archive[result.run]
        found = {metric: (run.maps(metric, 0), run.values(metric)["value"][0]) for metric in ("ru", "sid")}
    for maps, values in found.values():
        assert np.array_equal(np.isfinite(maps), np.broadcast_to(MASK[:, :, None] == 1, maps.shape))
        assert values == pytest.approx(np.nanmean(maps, axis=(1, 2)), abs=1e-3)
    assert not onnxinfo.validate(result.archive).violations
    onnxinfo.plot(result.archive, "units", tmp_path / "p.svg", metric="ru")
    assert (tmp_path / "p.svg").stat().st_size > 5000


def test_views_average_the_units_that_count() -> None:
    """If some embedding entries of a token are excluded, the others are shown; a fully excluded token has no value."""
    maps = np.array([[1, 2, np.nan], [np.nan, 4, np.nan], [np.nan] * 3, [3, 3, 3]], np.float32)
    shown = flat_map(maps, ("position", "embedding"))
    np.testing.assert_array_equal(shown, np.array([[1.5, 4, np.nan, 3]], np.float32))
    assert shown.dtype == np.float32


def test_only_a_mask_lets_a_proven_map_have_holes() -> None:
    maps = np.array([[1, 2], [1, np.nan], [np.nan, np.nan], [1, np.inf]])
    assert whole_maps(maps, {"unit_mask": "graph input 'mask'"}).tolist() == [True, True, False, False]
    assert whole_maps(maps, {}).tolist() == [True, False, False, False]


@pytest.mark.parametrize(("units", "outputs"), [(6, 3), (6, 200), (600, 200)], ids=["outputs", "units", "sampled"])
def test_the_normalizer_is_of_the_units_that_count(units: int, outputs: int) -> None:
    """Exact if a layer has few outputs or units, and within the stated error if sampled."""
    matrix = torch.from_numpy(np.random.default_rng(0).normal(size=(outputs, units)).astype(np.float32))
    counted = torch.arange(units).repeat(2, 1) % 3 != torch.tensor([[0], [1]])

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("matrix", matrix)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
            return (x @ self.matrix.T,)

    network = Network(torch.fx.symbolic_trace(Layer()))
    streams = torch.Generator().manual_seed(0)
    found = linearize(network, torch.zeros(2, units), torch.ones(units), torch.arange(2), streams, counted=counted)[0]
    expected = (matrix.square().sum(0) * counted).sum(1)
    slack = 3 * found.normalizer_stderr + 1e-5 * expected
    assert bool(((found.normalizer - expected).abs() <= slack).all()), (found.normalizer, expected)
    assert not found.column_norms[~counted].any()
    assert found.column_norms[counted].all()


def test_an_analysis_leaves_masked_units_out_of_the_normalizer(tmp_path: Path) -> None:
    proto = model([node("MatMul", "x w", "y")], [value("x", ("N", 6))], [value("y", ("N", 3))], [weight("w", 6, 3)])
    matrix = onnx.numpy_helper.to_array(proto.graph.initializer[0])
    counted = np.arange(6) % 2 == 0
    given = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
    options = {"layers": ["y"], "unit_mask": np.tile(counted, (2, 1)), "std": 1.0, "mean": 0.0}
    for normalize_by in ("sample", "dataset"):
        result = onnxinfo.analyze(
            proto, given, tmp_path / "a.h5", normalize_by=normalize_by, run=normalize_by, **options
        )
        with onnxinfo.open(result.archive) as archive:
            found = archive[normalize_by].values("sid")["value"][0]
        norms = np.square(matrix[counted]).sum(1)
        expected = 0.5 * np.log(1.5e-4 * norms.sum() / (len(norms) * norms)) + ENTROPY
        assert found == pytest.approx(expected.mean(), abs=1e-4)


def test_a_decoder_does_not_depend_on_the_layers_that_others_are_trained_for() -> None:
    """Otherwise a stored decoder would depend on more than its key."""
    loaded = load(path("digits-cnn.onnx"))
    feeds = InputProvider(loaded, open_samples_of(loaded, f"{path('digits.npz')}:images"), "image")
    chosen = [each for each in list_layers(loaded, "image") if each.name in ("relu", "relu_1")]
    settings, errors = decoder_settings(DecoderConfig(width=4, steps=20), 0), []
    for layers in (chosen, chosen[1:]):
        job = prepare(feeds, layers, SidConfig(), torch.device("cpu"))
        shapes = job.network.shapes(*job.inputs([0]))
        for noise in ((), [0.5] * len(layers)):
            material = Material(job.network, feeds, shapes, job.device, noise)
            errors.append(train_decoders(material, settings)[-1].error)
    assert errors[:2] == pytest.approx(errors[2:], rel=1e-4)


def test_a_decoder_is_trained_and_judged_on_the_units_that_count() -> None:
    """The decoder's error covers only counted units, and excluded ones are not learned."""
    loaded = load(path("digits-cnn.onnx"))
    feeds = InputProvider(loaded, open_samples_of(loaded, f"{path('digits.npz')}:images"), "image")
    (layer,) = (each for each in list_layers(loaded, "image") if each.name == "relu")
    job = prepare(feeds, [layer], SidConfig(), torch.device("cpu"))
    material = Material(job.network, feeds, job.network.shapes(*job.inputs([0])), job.device)
    upper = np.broadcast_to(np.arange(8)[:, None] < 4, (len(feeds), 1, 8, 8))
    errors = []
    for counted in (None, upper):
        feeds.counted = counted
        (trained,) = train_decoders(material, decoder_settings(DecoderConfig(width=4, steps=60), 0))
        held = torch.randperm(len(feeds), generator=torch.Generator().manual_seed(0))[: round(len(feeds) / 10)].tolist()
        x, rows = job.inputs(held)
        wrong = (trained.decoder(job.network(x, rows)[0]) - x).square()
        spread = (x - trained.decoder.sample_mean).square()
        lower = float(wrong[:, :, 4:].sum() / spread[:, :, 4:].sum())
        errors.append((trained.error, float(wrong[:, :, :4].sum() / spread[:, :, :4].sum()), lower))
    assert errors[1][0] == pytest.approx(errors[1][1], rel=1e-4)
    assert errors[1][2] > 1.2 * errors[0][2]


def test_decoders_of_another_mask_are_others(tmp_path: Path) -> None:
    """A mask that is an input also applies to training samples; without one, a decoder keeps its name."""
    proto = text_model()
    given = {"ids": IDS, "attention_mask": MASK}
    options = {"layers": ["y"], "metrics": ["ru"], "decoder_width": 2, "decoder_steps": 2}
    onnxinfo.analyze(proto, given, tmp_path / "a.h5", decoders=tmp_path / "d", decoder_inputs=given, **options)
    beforehand = onnxinfo.train_decoder(proto, given, tmp_path / "d", layers=["y"], width=2, steps=2)
    assert onnxinfo.list_decoders(tmp_path / "d") == beforehand
    onnxinfo.analyze(proto, given, tmp_path / "b.h5", decoders=tmp_path / "d", unit_mask="none", **options)
    assert len(onnxinfo.list_decoders(tmp_path / "d")) == 2
    plan = Plan((4,), (4,), ("feature",), 2)
    key = DecoderKey("", "relu", "x", "", decoder_settings(DecoderConfig(), 0), plan)
    assert "unit_mask_sha256" not in key.to_dict()
