"""Analyses of parts of layers: one logit, a channel, a region."""

from __future__ import annotations

import json

import graphs
import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner

import onnxinfo
from onnxinfo.cli import cli
from onnxinfo.models import path

CNN, IMAGES = path("digits-cnn.onnx"), f"{path('digits.npz')}:images"
REGION = "relu_1[0:2,2:6,2:6]"


def values(result, metric="sid"):
    with onnxinfo.open(result.archive) as archive:
        run = archive[result.run]
        return {layer.name: run.values(metric)["value"][i] for i, layer in enumerate(run.layers)}


def linear(rows):
    """``y = W x`` with some rows of W."""
    weights = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    return graphs.model(
        [graphs.node("Gemm", "x w", "y", transB=1)],
        [graphs.value("x")],
        [graphs.value("y", ("N", len(rows)))],
        [tensor(weights[rows])],
    )


def tensor(array):
    return graphs.constant("w", array, np.float32)


SAMPLES = np.random.default_rng(1).standard_normal((6, 4)).astype(np.float32)


def test_a_logit_has_the_sid_of_a_network_that_computes_only_it(tmp_path):
    part = onnxinfo.analyze(linear([0, 1, 2]), SAMPLES, tmp_path / "a.h5", layers=["y[1]"])
    alone = onnxinfo.analyze(linear([1]), SAMPLES, tmp_path / "b.h5", layers=["y"])
    np.testing.assert_allclose(values(part)["y[1]"], values(alone)["y"], rtol=1e-5)


def test_other_layers_keep_their_numbers_and_the_run_grows_by_parts(tmp_path):
    chosen = {"limit": 1, "normalize_by": "sample"}
    before = onnxinfo.analyze(CNN, IMAGES, tmp_path / "a.h5", layers=["logits"], **chosen)
    alone = values(before)
    onnxinfo.analyze(CNN, IMAGES, tmp_path / "a.h5", layers=["logits[3]"], **chosen)
    grown = onnxinfo.analyze(CNN, IMAGES, tmp_path / "a.h5", layers=["logits[1]"], **chosen)
    found = values(grown)
    assert [*found] == ["logits", "logits[1]", "logits[3]"]
    np.testing.assert_array_equal(found["logits"], alone["logits"])
    with onnxinfo.open(grown.archive) as archive:
        run = archive[grown.run]
        assert run.provenance["parts"] == {"logits[1]": "logits", "logits[3]": "logits"}
        assert [layer.depth for layer in run.layers] == [8, 8, 8]
    again = onnxinfo.analyze(CNN, IMAGES, tmp_path / "a.h5", layers=["logits[ 3 ]"], **chosen)
    assert again.unchanged
    assert onnxinfo.validate(grown.archive).violations == ()
    rows = onnxinfo.query(grown.archive, layers=["logits[ 1 ]"])
    assert {row["layer"] for row in rows} == {"logits[1]"}


def test_a_run_of_another_model_with_a_part_that_this_one_lacks(tmp_path):
    onnxinfo.analyze(linear([0, 1, 2]), SAMPLES, tmp_path / "a.h5", layers=["y[2]"], run="one")
    with pytest.raises(onnxinfo.UsageError, match="has another recipe"):
        onnxinfo.analyze(linear([0]), SAMPLES, tmp_path / "a.h5", layers=["y"], run="one")


@pytest.mark.parametrize("change", ["relative:0.01", "absolute:0.5"])
def test_noise_on_a_part_moves_what_follows(change):
    layers = ["relu_1", "relu_1[5]", REGION, "logits"]
    found = onnxinfo.sensitivity(CNN, IMAGES, layers=layers, limit=8, change=change)
    table = found.to_dataframe().set_index("tensor")
    assert sorted(table.index) == sorted(layers)
    np.testing.assert_allclose(table.trace["relu_1[5]"], found.channels("relu_1")[5], rtol=1e-5)
    np.testing.assert_allclose(found.units(REGION), found.units("relu_1")[:2, 2:6, 2:6], rtol=1e-4, atol=1e-9)
    whole = onnxinfo.sensitivity(CNN, IMAGES, layers=["relu_1", "logits"], limit=8, change=change)
    np.testing.assert_allclose(whole.units("relu_1"), found.units("relu_1"), rtol=1e-4, atol=1e-9)


def test_the_measured_tolerance_of_a_part_causes_the_change():
    found = onnxinfo.sensitivity(CNN, IMAGES, layers=["relu_1[5]"], limit=4, change="absolute:0.1", measure=True)
    assert abs(found.to_dataframe().achieved[0] - 1) < 0.05


def test_the_target_may_be_a_part(tmp_path):
    alone = [
        onnxinfo.sensitivity(CNN, IMAGES, layers=["relu_6"], target=f"logits[{i}]", limit=4).to_dataframe().trace[0]
        for i in range(10)
    ]
    whole = onnxinfo.sensitivity(CNN, IMAGES, layers=["relu_6"], limit=4).to_dataframe().trace[0]
    np.testing.assert_allclose(sum(alone), whole, rtol=1e-5)
    found = onnxinfo.sensitivity(CNN, IMAGES, tmp_path / "a.h5", layers=["relu_6[2]"], target="logits[3]", limit=4)
    with onnxinfo.open(tmp_path / "a.h5") as archive:
        run = archive["digits-cnn"]
        assert run.recipe["sensitivity_target"] == "logits[3]"
        np.testing.assert_allclose(run.values("sensitivity")["value"][0].mean(), found.to_dataframe().trace[0])


def test_an_axis_that_is_too_short_at_the_samples(tmp_path):
    nodes = [graphs.node("Relu", "x", "y")]
    model = graphs.model(nodes, [graphs.value("x", ("N", "steps", 2))], [graphs.value("y", ("N", "steps", 2))])
    with pytest.raises(onnxinfo.ModelError, match=r"layer 'y\[5\]' has no elements"):
        onnxinfo.analyze(model, SAMPLES.reshape(4, 3, 2), tmp_path / "a.h5", layers=["y[5]"])


def test_workers_compute_parts(quick_workers, tmp_path):
    chosen = {"layers": ["logits[3]"], "limit": 2, "normalize_by": "sample"}
    one = onnxinfo.analyze(CNN, IMAGES, tmp_path / "a.h5", **chosen)
    two = onnxinfo.analyze(CNN, IMAGES, tmp_path / "b.h5", workers=2, **chosen)
    np.testing.assert_array_equal(values(one)["logits[3]"], values(two)["logits[3]"])


def test_decoders_reconstruct_from_a_part(tmp_path):
    (stored,) = onnxinfo.train_decoder(CNN, IMAGES, tmp_path, layers=["relu_1[5]"], limit=16, steps=2, width=8)
    assert stored.tensor == "relu_1[5]"


def test_bits_are_of_whole_tensors():
    with pytest.raises(onnxinfo.UsageError, match=r"bits are of whole tensors.*'relu_1\[5\]'"):
        onnxinfo.recommend_bits(CNN, IMAGES, mean_bits=4, layers=["relu", "relu_1[5]"], limit=4)


@pytest.mark.parametrize("layers", [["relu_1[5]"], ["relu_1", "relu_1[5]"]])
def test_channels_are_of_whole_tensors(layers):
    with pytest.raises(onnxinfo.UsageError, match=r"channels are of whole tensors: leave out the part 'relu_1\[5\]'"):
        onnxinfo.recommend_channels(CNN, IMAGES, layers=layers, limit=4)


def test_the_command_line(tmp_path):
    def run(*arguments):
        result = CliRunner().invoke(cli, [str(each) for each in arguments])
        assert result.exit_code == 0, result.output
        return result

    listed = json.loads(run("-q", "layers", CNN, "--layers", "logits[3]", "--format", "json").stdout)
    assert [(row["name"], row["shape"], row["depth"]) for row in listed] == [("logits[3]", ["batch", 1], 8)]
    run("expose", CNN, "--layers", REGION, "-o", tmp_path / "exposed.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "exposed.onnx"))
    _, region = session.run(None, {"image": np.zeros((1, 1, 8, 8), np.float32)})
    assert region.shape == (1, 2, 4, 4)
    run("extract", CNN, "--to", "logits[3]", "-o", tmp_path / "extracted.onnx")
    (logit,) = onnxruntime.InferenceSession(str(tmp_path / "extracted.onnx")).run(
        None, {"image": np.zeros((2, 1, 8, 8), np.float32)}
    )
    assert logit.shape == (2, 1)
    given = (CNN, "--inputs", IMAGES, "--limit", "2", "--layers", "logits[3]", "-o", tmp_path / "a.h5")
    run("analyze", *given, "--dry-run")
    assert not (tmp_path / "a.h5").exists()
    refused = CliRunner().invoke(cli, ["analyze", *map(str, given[:-3]), "logits[12]", "-o", str(tmp_path / "a.h5")])
    assert "index 12 is out of range" in refused.output + str(refused.exception)
    assert refused.exit_code != 0
    assert not (tmp_path / "a.h5").exists()


def test_a_step_of_a_sequence_that_comes_before_the_samples(tmp_path):
    """The recurrent layer of a Keras network has its steps along the first axis, and no names of axes."""
    model = path("keras-digits-gru.onnx")
    name = "digits_gru_1/gru_1/while_loop:5"
    last = f"{name}[-1]"
    found = onnxinfo.analyze(model, IMAGES, tmp_path / "a.h5", layers=[last], limit=1)
    with onnxinfo.open(found.archive) as archive:
        maps = archive[found.run].maps("sid", 0)
        assert archive[found.run].layers[0].shape == "1x?x24"
    assert np.isfinite(maps).all()
    first = onnxinfo.analyze(model, IMAGES, tmp_path / "b.h5", layers=[f"{name}[0]"], limit=1)
    with onnxinfo.open(first.archive) as archive:
        maps = archive[first.run].maps("sid", 0)
    # The first step has seen one row of the image only: noise on the others is the largest possible.
    rows = maps.reshape(1, 8, 8).mean((0, 2))
    assert rows[0] < rows[1] - 0.05
    np.testing.assert_allclose(rows[1:], rows[1], rtol=1e-6)


def test_units_on_the_command_line_are_parts_of_every_named_layer():
    chosen = ["sensitivity", str(CNN), "--inputs", IMAGES, "--limit", "4", "--format", "json"]
    short = CliRunner().invoke(
        cli, [*chosen, "--layers", "relu_1", "--layers", "relu_2", "--unit", "3", "--unit", "0:2,2:6"]
    )
    names = [f"{layer}[{unit}]" for layer in ("relu_1", "relu_2") for unit in ("3", "0:2,2:6")]
    long = CliRunner().invoke(cli, [*chosen, *(each for name in names for each in ("--layers", name))])
    assert {row["tensor"] for row in json.loads(short.stdout)} == set(names)
    assert json.loads(short.stdout) == json.loads(long.stdout)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--layers", "relu_[12]", "--layers", "relu", "--unit", "3"], {"relu[3]", "relu_1[3]", "relu_2[3]"}),
        (["--layers", "re:^relu_1$", "--unit", "3"], {"relu_1[3]"}),
        (["--layers", "op:Relu", "--exclude", "relu_[2-6]", "--unit", "3"], {"relu[3]", "relu_1[3]"}),
        (["--layers", "1", "--unit", "3"], {"relu[3]"}),
    ],
)
def test_units_are_parts_of_all_layers_that_patterns_match(options, names):
    chosen = ["sensitivity", str(CNN), "--inputs", IMAGES, "--limit", "2", "--format", "json", *options]
    found = CliRunner().invoke(cli, chosen)
    assert {row["tensor"] for row in json.loads(found.stdout)} == names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layers", "relu_", "--unit", "3"], "no layer matches 'relu_'"),
        (["--layers", "relu_1[3]", "--unit", "2"], "--layers 'relu_1[3]', a part already"),
        (["--unit", "3"], "--unit '3' without --layers"),
        (["--layers", "relu_1", "--unit", "green"], "the index of a part consists of integers and slices"),
        (["--layers", "relu_1", "--unit", "3", "--unit", "99"], "index 99 is out of range"),
    ],
)
def test_units_that_are_none(options, message):
    found = CliRunner().invoke(cli, ["sensitivity", str(CNN), "--inputs", IMAGES, *options])
    assert found.exit_code
    assert message in found.stderr + str(found.exception)
