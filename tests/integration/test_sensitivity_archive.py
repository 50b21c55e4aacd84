"""Sensitivity as a metric of an archive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from support.graphs import constant, model, node, value, weight
from support.nodes import floats

import onnxinfo
from onnxinfo import ConversionError, UsageError
from onnxinfo.analysis.sensitivity_metric import SensitivityMetric
from onnxinfo.models import path

CNN, IMAGES = path("digits-cnn.onnx"), f"{path('digits.npz')}:images"
CHOSEN = {"layers": ["relu", "relu_6", "logits"], "metrics": ["sensitivity"]}


def test_an_archive_has_the_numbers_of_the_function(tmp_path: Path) -> None:
    result = onnxinfo.analyze(CNN, IMAGES, tmp_path / "a.h5", limit=6, change="absolute:0.5", **CHOSEN)
    table = onnxinfo.sensitivity(CNN, IMAGES, layers=CHOSEN["layers"], limit=6, change="absolute:0.5").to_dataframe()
    with onnxinfo.open(result.archive) as archive:
        run = archive[result.run]
        found = run.values("sensitivity")
        assert run.recipe["sensitivity_target"] == "logits"
    np.testing.assert_allclose(found["value"].mean(1), table.trace, rtol=1e-6)
    np.testing.assert_allclose(found["tolerance"][:, 0], table.tolerance, rtol=1e-6)
    std = np.sqrt(found["square"].mean(1) - found["mean"].mean(1) ** 2)
    np.testing.assert_allclose(std, table["std"], rtol=1e-6)
    assert found["converged"].all()
    assert onnxinfo.validate(result.archive).violations == ()


def test_a_run_that_grows_measures_its_tolerances_again(tmp_path: Path) -> None:
    chosen = CHOSEN | {"normalize_by": "sample"}
    onnxinfo.analyze(CNN, IMAGES, tmp_path / "a.h5", limit=4, **chosen)
    grown = onnxinfo.analyze(CNN, IMAGES, tmp_path / "a.h5", limit=6, **chosen)
    whole = onnxinfo.analyze(CNN, IMAGES, tmp_path / "b.h5", limit=6, **chosen)
    with onnxinfo.open(grown.archive) as a, onnxinfo.open(whole.archive) as b:
        first, second = (archive[grown.run].values("sensitivity") for archive in (a, b))
    np.testing.assert_array_equal(first["tolerance"], second["tolerance"])


def test_the_plot_shows_the_channels_of_the_command(tmp_path: Path) -> None:
    found = onnxinfo.sensitivity(CNN, IMAGES, tmp_path / "a.h5", layers=["relu", "relu_6"], limit=4)
    assert [*found.to_dataframe().tensor] == ["relu", "relu_6"]
    with onnxinfo.open(tmp_path / "a.h5") as archive:
        stored = archive["digits-cnn"].provenance["sensitivity_channels"]
    np.testing.assert_allclose(stored["relu"], found.channels("relu"), rtol=1e-5)
    assert [*stored] == ["relu", "relu_6", "logits"]
    onnxinfo.plot(tmp_path / "a.h5", "sensitivity", tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert "channels, the most" in text
    assert "unproven" not in text
    onnxinfo.analyze(CNN, IMAGES, tmp_path / "b.h5", limit=4, **CHOSEN)
    onnxinfo.plot(tmp_path / "b.h5", "sensitivity", tmp_path / "b.svg")
    assert "channels, the most" not in (tmp_path / "b.svg").read_text()


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_of_another_recipe_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    options = {"layers": ["relu_6"], "limit": 4}
    if finished:
        onnxinfo.sensitivity(CNN, IMAGES, tmp_path / "a.h5", **options)
    else:
        with monkeypatch.context() as patched:
            patched.setattr(SensitivityMetric, "cells", None)
            with pytest.raises(TypeError):
                onnxinfo.sensitivity(CNN, IMAGES, tmp_path / "a.h5", **options)
    with monkeypatch.context() as patched:
        patched.setattr("onnxinfo.analysis.sensitivity_metric.measure_sensitivity", None)
        with pytest.raises(UsageError, match="another recipe"):
            onnxinfo.sensitivity(CNN, IMAGES, tmp_path / "a.h5", change="relative:0.1", **options)
    onnxinfo.sensitivity(CNN, IMAGES, tmp_path / "a.h5", change="relative:0.1", overwrite=True, **options)


def test_the_target_may_be_a_part_of_a_tensor_that_is_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"target": "logits[ 3]", "limit": 4}
    table = onnxinfo.sensitivity(CNN, IMAGES, **options).to_dataframe()
    assert table.tensor.iloc[-1] == "logits"
    assert table.trace.iloc[-1] == pytest.approx(1)
    with monkeypatch.context() as patched:
        patched.setattr(SensitivityMetric, "cells", None)
        with pytest.raises(TypeError):
            onnxinfo.sensitivity(CNN, IMAGES, tmp_path / "a.h5", **options)
    for _ in range(2):
        found = onnxinfo.sensitivity(CNN, IMAGES, tmp_path / "a.h5", **options).to_dataframe()
        assert [*found.tensor] == [*table.tensor]
        np.testing.assert_allclose(found.trace, table.trace, rtol=1e-6)
    # Other parts of the tensor are moved, too, and the run grows by them.
    added = onnxinfo.sensitivity(CNN, IMAGES, tmp_path / "a.h5", layers=["logits[2:5]"], **options).to_dataframe()
    assert added.trace[0] == pytest.approx(1)
    with onnxinfo.open(tmp_path / "a.h5") as archive:
        names = [layer.name for layer in archive["digits-cnn"].layers]
    assert sorted(names) == sorted([*table.tensor, "logits[2:5]", "logits[3]"])


def test_layers_that_patterns_match_and_that_do_not_lead_to_the_target_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"target": "relu_1", "limit": 2}
    for output in (None, tmp_path / "a.h5"):
        caplog.clear()
        found = onnxinfo.sensitivity(CNN, IMAGES, output, layers=["op:Relu", "logits*"], **options).to_dataframe()
        assert [*found.tensor] == ["relu", "relu_1"]
        lines = [each for each in caplog.messages if "left out" in each]
        assert lines == [
            "left out, because they do not lead to the target 'relu_1': 6 of the layers that the patterns match"
        ]
        with pytest.raises(UsageError, match="'logits' does not lead to the target 'relu_1'; leave it out"):
            onnxinfo.sensitivity(CNN, IMAGES, output, layers=["op:Relu", "logits"], **options)
        with pytest.raises(UsageError, match="no chosen layer leads to the target 'relu_1'"):
            onnxinfo.sensitivity(CNN, IMAGES, output, layers=["relu_[3-6]"], **options)


def _with_a_binarized_branch() -> onnx.ModelProto:
    """A gate whose second factor is computed from thresholded features."""
    return model(
        [
            *(node("Gemm", "x w", "h"), node("Relu", "h", "r"), node("Greater", "r half", "g")),
            *(node("Cast", "g", "c", to=onnx.TensorProto.FLOAT), node("Gemm", "c v", "k"), node("Sigmoid", "k", "s")),
            *(node("Mul", "s r", "m"), node("Gemm", "m u", "y")),
        ],
        [value("x")],
        [value("y", ("N", 3))],
        [weight("w", 4, 4), weight("v", 4, 4), weight("u", 4, 3), constant("half", np.float32(0.3), np.float32)],
    )


@pytest.mark.parametrize(("layers", "kept"), [((), ["r", "y"]), (("*",), ["h", "r", "m", "y"])])
def test_layers_that_no_gradient_reaches_are_left_out_unless_they_are_named(
    layers: tuple[str, ...], kept: list[str], tmp_path: Path
) -> None:
    proto, x = _with_a_binarized_branch(), floats(6, 4)
    for output, limit in ((None, 6), (tmp_path / "a.h5", 4), (tmp_path / "a.h5", 6)):
        found = onnxinfo.sensitivity(proto, x, output, layers=layers, limit=limit).to_dataframe()
        assert [*found.tensor] == kept
        with pytest.raises(ConversionError, match="no gradient reaches layer 's'"):
            onnxinfo.sensitivity(proto, x, output, layers=["s", "y"], limit=limit)
        with pytest.raises(UsageError, match=r"no gradient reaches a chosen layer; choose others by layers="):
            onnxinfo.sensitivity(proto, x, output, layers=["op:Sigmoid"], limit=limit)


def test_an_analysis_of_sensitivities_alone_leaves_out_what_patterns_match(tmp_path: Path) -> None:
    options = {"layers": ["*"], "target": "relu_1", "limit": 2}
    result = onnxinfo.analyze(CNN, IMAGES, tmp_path / "a.h5", metrics=["sensitivity"], **options)
    with onnxinfo.open(result.archive) as archive:
        names = [layer.name for layer in archive[result.run].layers]
    assert names[-1] == "relu_1"
    with pytest.raises(UsageError, match="does not lead to the target 'relu_1'"):
        onnxinfo.analyze(CNN, IMAGES, tmp_path / "b.h5", metrics=["sensitivity", "cka"], **options | {"limit": 5})


def test_another_target_is_another_recipe(tmp_path: Path) -> None:
    onnxinfo.sensitivity(CNN, IMAGES, tmp_path / "a.h5", layers=["relu_1"], limit=2)
    with pytest.raises(UsageError, match=r"another recipe \(target is logits there, relu_6 now\)"):
        onnxinfo.sensitivity(CNN, IMAGES, tmp_path / "a.h5", layers=["relu_1"], target="relu_6", limit=2)
    with pytest.raises(UsageError, match="another recipe"):
        onnxinfo.analyze(CNN, IMAGES, tmp_path / "a.h5", layers=["relu_6"], target="relu_6", limit=2)
    # A run without sensitivity gets it only at a target to which all of its layers lead.
    onnxinfo.analyze(CNN, IMAGES, tmp_path / "b.h5", layers=["relu_1", "logits"], metrics=["cka"], limit=5)
    with pytest.raises(UsageError, match="run 'digits-cnn' has 'logits', which does not lead to the target 'relu_6'"):
        onnxinfo.sensitivity(CNN, IMAGES, tmp_path / "b.h5", layers=["relu_1"], target="relu_6", limit=5)


@pytest.mark.parametrize(
    ("layers", "target", "message"),
    [(["relu"], None, "add it to layers"), (["relu_6", "relu"], "relu", "'relu_6' does not lead to the target")],
)
def test_the_target_is_one_of_the_layers(layers: list[str], target: str | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        onnxinfo.analyze(CNN, IMAGES, tmp_path / "a.h5", layers=layers, target=target, metrics=["sensitivity"], limit=2)
    assert not (tmp_path / "a.h5").exists()
