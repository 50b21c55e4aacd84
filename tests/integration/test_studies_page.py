"""Samples of the tables in studies.md and decisions.md, measured anew with the networks outside the repository."""

from __future__ import annotations

import re
import sys

import numpy as np
import pandas
import pytest
from places import DOCS, SHARED

import onnxinfo
from onnxinfo.archive.means import layer_summary, pair_up, select_cells

MODELS, IMAGES, ANIMALS = SHARED / "models", SHARED / "data" / "cifar10.npz", SHARED / "data" / "animals.npz"
RESNET = MODELS / "resnet20-cifar10-opset20.onnx"
RESULTS = DOCS.parent / "benchmarks" / "results"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not RESNET.exists(), reason="set ONNXINFO_SHARED to the folder of data and models"),
]


def row_of(table: str, *starts: str, page: str = "studies.md") -> list[str]:
    """Return the cells of the row of a table that starts with some cells."""
    text = (DOCS / page).read_text(encoding="utf-8")
    body = text.split(f"<!-- table {table} -->")[1].split("<!-- end -->")[0] if table else text
    (line,) = re.findall(rf"^{re.escape('| ' + ' | '.join(starts) + ' |')} (.*) \|$", body, re.MULTILINE)
    return line.split(" | ")


def number(cell: str) -> float:
    """Return the first number of a cell."""
    return float(re.match(r"[+-]?[\d.]+", cell)[0])


def values(tmp_path, model, layer, **options):
    """Return the cells of SID of one layer."""
    archive = tmp_path / f"{len(list(tmp_path.iterdir()))}.h5"
    result = onnxinfo.analyze(
        model, f"{IMAGES}:x_test", archive, layers=[layer], preset="imagenet", seed=0, **options
    )  # fmt: skip
    with onnxinfo.open(archive) as opened:
        return opened[result.run].values("sid")


def mean(cells) -> float:
    return float(layer_summary(cells)["value"][0])


def test_depth(tmp_path):
    cells = values(tmp_path, RESNET, "relu_6", limit=24, normalize_by="sample")
    expected = row_of("depth/depth-sid", "relu_6 / relu_10 / relu_14")
    assert mean(cells) == pytest.approx(number(expected[0]), abs=0.003)
    assert "unproven" not in expected[0]
    assert cells["converged"].all()


def test_compression(tmp_path):
    """The first row, and a difference from it."""
    options = {"limit": 32, "normalize_by": "sample"}
    first = values(tmp_path, RESNET, "relu_2", **options)
    assert mean(first) == pytest.approx(number(row_of("compression/compression", "1 kept")[1]), abs=0.003)
    pruned = values(tmp_path, onnxinfo.prune(RESNET, 0.2), "relu_2", **options)
    change = pair_up(select_cells(first, 0), select_cells(pruned, 0)).difference
    assert change == pytest.approx(number(row_of("compression/compression", "0.2 kept")[1]), abs=0.003)


def test_quantized_networks(tmp_path):
    """The float network, above the rounding of the others."""
    cells = values(tmp_path, RESNET, "relu_6", limit=4, alpha=0.01)
    expected = row_of("quantisation/quantisation", "relu_6", "float")
    assert mean(cells) == pytest.approx(number(expected[3]), abs=0.02)


def test_bits_for_weights(monkeypatch, capsys):
    """The rank correlations of one network at 2 bits."""
    import weights

    monkeypatch.setattr(weights, "BITS", (2,))
    model = MODELS / "resnet20-cifar10-opset13.onnx"
    monkeypatch.setattr(sys, "argv", ["weights", str(IMAGES), str(model)])
    weights.main()
    found = [float(each) for each in re.findall(r": (-?[\d.]+)[,}]", capsys.readouterr().out)]
    expected = [number(f"0{cell}") for cell in row_of("", "ResNet-20", "2", page="decisions.md")]
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_attacked_norms(tmp_path):
    """All classes of one image of the committed attacks."""
    from onnxinfo.models.studies import compression

    samples = onnxinfo.open_samples(
        f"{IMAGES}:x_test", shape=(3, 32, 32), labels=f"{IMAGES}:y_test", preset="imagenet"
    )  # fmt: skip
    x, labels = samples.batch(range(len(samples))), np.asarray(samples.labels)
    compression.attack(onnxinfo.load(RESNET), "1 kept", x, labels, 1, tmp_path / "attacks.csv")
    found, committed = (pandas.read_csv(path) for path in (tmp_path / "attacks.csv", RESULTS / "attacks.csv"))
    expected = committed[(committed.run == "1 kept") & (committed.image == 0)]
    assert found.target.tolist() == expected.target.tolist()
    np.testing.assert_allclose(found.norm, expected.norm, rtol=0.02)


def test_concentration(tmp_path):
    """The AlexNet with random weights, which are the same in all folds, in the first layer."""
    import torch

    from onnxinfo.models.studies import common, concentration

    torch.manual_seed(common.SEED)
    network = common.to_onnx(common.classifier(common.ALEXNET, 64, 2, padding="circular"), 64)
    with np.load(ANIMALS) as data:
        order = np.random.default_rng(common.SEED).permutation(len(data["images"]))
        pixels, boxes = data["images"][order], data["boxes"][order]
    held = np.concatenate([np.flatnonzero(np.arange(len(pixels)) % 5 == fold)[:40] for fold in range(4)])
    result = onnxinfo.analyze(
        network, pixels[held], tmp_path / "c.h5", layers=["relu_1"], foreground=boxes[held], seed=common.SEED,
        metrics=["sid", "concentration"], mean=concentration.MEAN, std=concentration.STD,
    )  # fmt: skip
    with onnxinfo.open(tmp_path / "c.h5") as opened:
        found = mean(opened[result.run].values("concentration"))
    expected = row_of("concentration/alexnet", "relu_1")
    assert found == pytest.approx(number(expected[4]), abs=0.0005)
