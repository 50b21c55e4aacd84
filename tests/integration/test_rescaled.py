"""The claim of coherency: by hand, by simulation, and the committed table."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pandas
import pytest

pytest.importorskip("torch")
from places import ROOT, SHARED

from onnxinfo.models.studies import coherency, rescaled, training
from onnxinfo.models.studies.two_level import REFUTED, SEEN, TOO_FEW

PATH = ROOT / "benchmarks" / "results" / "coherency.csv"
RESNET, IMAGES = SHARED / "models" / "resnet20-cifar10-opset20.onnx", SHARED / "data" / "cifar10.npz"


def table(seeds=3, images=2, gradient=4.0, gradcam=1.0, sid=0.0, stderr=0.001):
    """Return cells of some images in three layers, of which the last is not divided; SID rises by 0.2, as RU does."""
    rows = [
        {"model": "vgg", "seed": seed, "normalizer": "sample", "network": network, "accuracy": 0.7, "metric": metric,
         "layer": layer, "image": images * seed + image, "value": value, "stderr": error,
         "converged": (seed, image) != (0, 1), "divided": layer != "c"}
        for seed in range(seeds) for image in range(images)
        for place, layer in enumerate("abc")
        for after, network in enumerate(("original", "rescaled"))
        for change in (after * (layer != "c"),)
        for metric, value, error in (
            ("sid", -3.0 + 0.1 * place + sid * change * (1 + 0.5 * seed), stderr),
            ("ru", -1.0 + 0.1 * place, stderr),
            ("concentration", 0.05 * place, stderr),
            ("gradient", (1.0 + place + image) * (gradient if change else 1), 0.0),
            ("gradcam", (0.5 * image) * (gradcam if change else 1), 0.0),
        )
    ]  # fmt: skip
    return pandas.DataFrame(rows)


def judged(found):
    return {row["claim"]: row for row in rescaled.power_rows(found)}


def test_verdicts_of_a_coherent_network():
    rows = judged(table())
    assert {claim: row["verdict"] for claim, row in rows.items()} == {
        "sid stays the same": SEEN, "ru stays the same": SEEN, "concentration stays the same": SEEN,
        "gradient changes": SEEN, "gradcam changes": REFUTED,
    }  # fmt: skip
    sid, gradient = rows["sid stays the same"], rows["gradient changes"]
    # A tenth of the rise through three layers; the error of a mean over two layers of differences, and six images.
    error = 0.001 * math.sqrt(2) / math.sqrt(2) / math.sqrt(6)
    assert (sid["effect"], sid["measured"], sid["here"]) == ("0.0200", f"+0.0000 ± {error:.4f}", "3 x 2")
    assert sid["unproven"] == "1 of 6"
    assert gradient["effect"] == f"{math.log(1.1):.4f}"
    assert gradient["measured"] == f"{math.log(4):+.4f} ± 0.0000"
    # Of each two images one has a Grad-CAM of zero, which has no ratio.
    assert rows["gradcam changes"]["here"] == "3 x 1"


def test_a_change_beyond_the_effect_is_no_coherency():
    assert judged(table(sid=0.1))["sid stays the same"]["verdict"] == REFUTED
    # The seeds change by 0.01, 0.015 and 0.02, the last layer not at all.
    row = judged(table(sid=0.01))["sid stays the same"]
    assert row["measured"] == "+0.0150 ± 0.0029"
    # Two standard errors, 2 * 0.0029, are to be below the effect of 0.02 less 0.015: 3 * (0.00577 / 0.005)^2 = 4 seeds.
    assert row["verdict"] == "cannot be decided here, close to the border: would need 4 seeds of 2 images"


def test_large_monte_carlo_errors_leave_it_undecided():
    row = judged(table(stderr=0.05))["sid stays the same"]
    # Two standard errors of a half of the effect: (2 * 0.05 / 0.01)^2 = 100 images, of one network or of 50 seeds.
    assert row["sd of images"] == "0.0500"
    assert row["verdict"] == "cannot be decided here, would need 50 seeds of 2 images"
    row = judged(table(seeds=1, images=3, stderr=0.05))["sid stays the same"]
    assert row["verdict"] == "cannot be decided here, would need 100 images"


def test_unproven_layers_are_not_judged():
    found = table()
    deep = (found.metric == "ru") & (found.layer == "b")
    rows = judged(found.assign(converged=found.converged & ~deep))
    row = rows["ru stays the same in a (elsewhere most are not proven)"]
    assert (row["unproven"], row["verdict"]) == ("1 of 6", SEEN)
    row = judged(found.assign(converged=found.metric != "ru"))["ru stays the same"]
    assert row["verdict"] == "not judged: 6 of 6 are unproven"


def test_layers_without_values_are_not_judged():
    """Maps of Grad-CAM that are zero in a layer have no ratio there."""
    found = table()
    found.loc[(found.metric == "gradcam") & (found.layer == "b"), "value"] = 0.0
    row = judged(found)["gradcam changes in a (elsewhere most are not proven)"]
    assert (row["here"], row["verdict"]) == ("3 x 1", REFUTED)


def test_magnitudes_that_stay_are_refuted_to_change():
    rows = judged(table(gradient=1.05, gradcam=0.5))
    assert (rows["gradient changes"]["verdict"], rows["gradcam changes"]["verdict"]) == (REFUTED, SEEN)


def test_one_network_is_judged_by_its_images():
    row = judged(table(seeds=1, images=3))["sid stays the same"]
    assert (row["sd of seeds"], row["seeds needed"], row["verdict"]) == ("", "", SEEN)
    assert row["images needed"] == "3"
    assert judged(table(seeds=1))["sid stays the same"]["verdict"] == TOO_FEW


def test_layers_with_their_extremes():
    rows = rescaled.layer_rows(table(sid=0.01))
    first, last = rows[0], rows[-5]
    assert (first["layer"], first["metric"], first["divided"]) == ("a", "sid", "yes")
    assert first["of single images"] == "+0.01000 to +0.02000"
    assert (last["divided"], last["of single images"]) == ("no", "+0.00000 to +0.00000")
    assert rows[3]["after - before"] == "times 4.0000"
    assert rows[3]["of single images"] == "times 4.0000 to 4.0000"


def test_tables_are_written(tmp_path, monkeypatch):
    table().to_csv(tmp_path / "coherency.csv", index=False)
    monkeypatch.setattr("sys.argv", ["rescaled", str(tmp_path / "coherency.csv"), "-o", str(tmp_path / "out")])
    rescaled.main()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"vgg.md", "power.md"}
    assert "Accuracy: original 0.700, rescaled 0.700." in (tmp_path / "out" / "vgg.md").read_text()


def test_the_page_shows_the_committed_results():
    page = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    assert rescaled.power_text(PATH) in page
    for model in pandas.read_csv(PATH).model.unique():
        assert rescaled.study_text(PATH, model) in page


def test_committed_results_have_all_seeds():
    found = pandas.read_csv(PATH)
    cell = ["model", "seed", "network", "metric", "layer", "image"]
    assert not found.duplicated(cell).any()
    assert found.groupby("model").seed.nunique()[["vgg", "alexnet"]].tolist() == [3, 3]
    # Both networks have the same cells, and compute the same function.
    assert found.groupby(cell[:2] + cell[3:]).network.nunique().eq(2).all()
    assert found.groupby(["model", "seed"]).accuracy.nunique().eq(1).all()


def test_committed_values_change_by_no_more_than_the_page_says():
    found = pandas.read_csv(PATH)
    cell = ["model", "layer", "metric", "seed", "image"]
    both = found.pivot_table(index=cell, columns="network", values="value")
    off = (both.rescaled - both.original).abs().groupby(cell[:4]).max()
    sid = off.xs("sid", level="metric")
    linear = sid.index.get_level_values("layer") == "relu_15"
    assert sid[~linear].max() < 2.5e-5
    assert sorted(sid[linear].round(5)) == [0.00007, 0.00014, 0.02139]
    assert off.xs("ru", level="metric").max() == 0


@pytest.mark.skipif(not RESNET.exists(), reason="set ONNXINFO_SHARED to the folder of data and models")
def test_a_rerun_gives_the_committed_results(tmp_path):
    """Two layers of the given network, measured anew on an image."""
    data = training.open_data(IMAGES, epochs=0, images=2000)
    wanted = coherency.Measured(RESNET.stem, ("relu_1", "relu_9"), 1)
    again = coherency.piece(onnx.load(RESNET), data, wanted, tmp_path)
    cell = ["model", "seed", "network", "metric", "layer", "image"]
    expected = pandas.read_csv(PATH).set_index(cell)
    again = again.set_index(cell)
    expected = expected.loc[again.index]
    np.testing.assert_allclose(again.accuracy, expected.accuracy, atol=1e-3)
    nats = again.index.get_level_values("metric").isin([*rescaled.NATS])
    # The image is solved alone here, with others there.
    off, error = (again.value - expected.value).abs(), np.hypot(again.stderr, expected.stderr)
    assert (off[nats] < 4 * error[nats]).all()
    np.testing.assert_allclose(again.value[~nats], expected.value[~nats], rtol=1e-3, atol=1e-6)
