"""The claims of concentration: by hand, and the committed table."""

from __future__ import annotations

import pandas
import pytest
from places import ROOT

from onnxinfo.models.studies import boxes
from onnxinfo.models.studies.two_level import OPPOSITE, SEEN

PATH = ROOT / "benchmarks" / "results" / "concentration.csv"
PAGES = [ROOT / "docs" / f"{name}.md" for name in ("studies", "families")]


def table(**excess):
    """Return cells of two folds of two images in two layers; SID rises by 0.2, and concentration as told."""
    rows = [
        {"weights": weights, "accuracy": 0.8, "fold": fold, "layer": layer, "image": image, "sid": -3 + 0.2 * place,
         "own": 0.1, "excess": excess.get(f"{weights.split()[0]}_{layer}", 0.0) + 0.001 * (image + fold),
         "converged": (fold, image) != (0, 1)}
        for weights in ("trained", "random weights") for fold in (0, 1) for image in (0, 1)
        for place, layer in enumerate("ab")
    ]  # fmt: skip
    return pandas.DataFrame(rows)


def judged(tmp_path, **networks):
    path = tmp_path / "concentration.csv"
    pandas.concat([found.assign(model=name) for name, found in networks.items()]).to_csv(path, index=False)
    return {row["claim"]: row for row in boxes.power_rows(boxes.read(path))}


def test_effects_are_a_tenth_of_the_rise_of_sid(tmp_path):
    rows = judged(tmp_path, vgg=table(trained_b=0.1, random_b=0.15), alexnet=table(trained_b=0.05))
    rise = rows["concentration of the vgg rises with depth"]
    # The images' differences are equal.
    assert (rise["effect"], rise["measured"], rise["unproven"]) == ("0.0200", "+0.1000 ± 0.0000", "1 of 4")
    assert rise["verdict"] == SEEN
    learned = rows["concentration of the vgg is above that with random weights in the last layer"]
    assert (learned["measured"], learned["verdict"]) == ("-0.0500 ± 0.0000", OPPOSITE)
    deeper = rows["concentration of the vgg is higher than of the alexnet in the last layer"]
    assert (deeper["measured"], deeper["verdict"]) == ("+0.0500 ± 0.0000", SEEN)
    # Means 0.0005 and 0.0015 of the folds, with an error of 0.0005 over them: two of these exceed half of the mean.
    first = rows["concentration of the vgg is negative in the first layer"]
    assert first["measured"] == "+0.0010 ± 0.0005"


def test_effects_are_positive_where_sid_falls(tmp_path):
    found = table(trained_b=0.1)
    rows = judged(tmp_path, vgg=found.assign(sid=-3 - found.sid))
    assert {row["effect"] for row in rows.values()} == {"0.0200"}
    assert rows["concentration of the vgg rises with depth"]["verdict"] == SEEN


def test_one_fold_is_not_judged(tmp_path):
    found = table(trained_b=0.1)
    assert not judged(tmp_path, vgg=found[found.fold == 0])


def test_claims_are_not_judged_by_unproven_values(tmp_path):
    rows = judged(tmp_path, resnet=table(trained_b=0.1).assign(converged=False))
    assert {row["verdict"] for row in rows.values()} == {"not judged: 4 of 4 are unproven"}


def test_a_layer_by_hand(tmp_path):
    (row, _) = boxes.layer_rows(
        table(trained_a=0.3, random_a=0.1).rename(columns={"weights": "network", "fold": "seed"})
    )
    assert (row["images"], row["unproven"], row["trained"]) == ("4", "2 of 8", "0.1000 ± 0.0000")
    assert row["own minus other boxes"] == "0.3010 ± 0.0005"
    assert row["learned"] == "0.2000 ± 0.0000"


@pytest.mark.parametrize("model", ["vgg", "alexnet", "resnet"])
def test_the_pages_show_the_committed_results(model):
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert boxes.study_text(PATH, model) in text
    assert boxes.power_text(PATH) in text


def test_committed_results_have_all_folds():
    found = pandas.read_csv(PATH)
    assert not found.duplicated(["model", "weights", "fold", "layer", "image"]).any()
    assert found.groupby(["model", "weights", "layer"]).size().eq(160).all()
    assert found.groupby("model").fold.nunique().eq(4).all()
