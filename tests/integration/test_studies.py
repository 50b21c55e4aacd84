"""The studies run end to end at the smallest size, and their contrasts equal the archive's concentration."""

import json
from dataclasses import replace

import archive_fakes as fakes
import numpy as np
import onnx
import pandas
import pytest

import onnxinfo
from onnxinfo.models import path

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
import torch

from onnxinfo.models.studies import (
    boxes,
    claims,
    coherency,
    common,
    compression,
    concentration,
    depth,
    families,
    longer,
    normalized,
    quantisation,
    rescaled,
    training,
)


def run(monkeypatch, study, *arguments):
    monkeypatch.setattr("sys.argv", ["study", *map(str, arguments)])
    study.main()


def test_compression(tmp_path, monkeypatch):
    digits = path("digits.npz")
    arguments = (
        path("digits-cnn.onnx"), "--inputs", f"{digits}:images", "--labels", f"{digits}:labels", "--keep", 1, 0.1,
        "--layers", "relu", "logits", "--normalize-by", "sample", "-o", tmp_path,
    )  # fmt: skip
    run(monkeypatch, compression, *arguments, "--limit", 2, "--attacked", 2)
    first, second = json.loads((tmp_path / "compression.json").read_text())["rows"]
    assert first["accuracy"] > second["accuracy"]
    assert first["change of logits"]["difference"] == 0
    assert second["change of logits"]["n"] == 2
    assert second["SID of logits"] - first["SID of logits"] == pytest.approx(second["change of logits"]["difference"])
    assert 0 < first["to the nearest"] < first["mean L2 norm"]
    assert first["reached"] == 1
    power = (tmp_path / "power.md").read_text()
    assert power.count("SID of logits falls") == power.count("norm of perturbations falls") == 1
    assert (tmp_path / "compression.png").exists()
    attacks = pandas.read_csv(tmp_path / "attacks.csv")
    monkeypatch.setattr(compression, "distances", lambda scores, x, known, targets: np.ones(len(targets)))
    run(monkeypatch, compression, *arguments, "--limit", 3, "--attacked", 3)
    again = pandas.read_csv(tmp_path / "attacks.csv")
    assert again.groupby("run").image.nunique().to_dict() == {"1 kept": 3, "0.1 kept": 3}
    assert (again[again.image < 2].norm.to_numpy() == attacks.norm.to_numpy()).all()
    assert (again[again.image == 2].norm == 1).all()


def depth_arguments(folder):
    model, pruned = path("digits-cnn.onnx"), folder / "pruned.onnx"
    onnxinfo.save(onnxinfo.prune(model, 0.3), pruned)
    return (
        model, pruned, "--inputs", f"{path('digits.npz')}:images", "--layers", "relu,logits", "relu,logits",
        "--normalize-by", "sample", "-o", folder,
    )  # fmt: skip


def test_depth(tmp_path, monkeypatch):
    arguments = depth_arguments(tmp_path)
    run(monkeypatch, depth, *arguments, "--limit", 3)
    rows = json.loads((tmp_path / "depth-sid.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["digits-cnn", "digits-cnn", "pruned", "pruned"]
    assert {row["samples"] for row in rows} == {3}
    with onnxinfo.open(tmp_path / "sid.h5") as archive:
        effect = np.diff(archive["digits-cnn"].values("sid")["value"].mean(1))[0] / 10
    assert f"| {effect:.3f} |" in (tmp_path / "power.md").read_text()
    assert (tmp_path / "depth.png").exists()
    run(monkeypatch, depth, *arguments, "--limit", 3)
    assert json.loads((tmp_path / "depth-sid.json").read_text())["rows"] == rows


@pytest.mark.slow
def test_depth_with_decoders(tmp_path, monkeypatch):
    arguments = (
        *depth_arguments(tmp_path), "--decoder-inputs", f"{path('digits.npz')}:images", "--decoder-limit", 40,
        "--decoder-steps", 1, "--limit", 3, "--ru-limit", 2,
    )  # fmt: skip
    run(monkeypatch, depth, *arguments)
    rows = json.loads((tmp_path / "depth-ru.json").read_text())["rows"]
    assert {row["samples"] for row in rows} == {2}
    decoders = sorted(tmp_path.rglob("*.safetensors"))
    assert len(decoders) == 4
    written = [each.stat().st_mtime_ns for each in decoders]
    run(monkeypatch, depth, *arguments)
    assert [each.stat().st_mtime_ns for each in decoders] == written


def random_images(folder):
    """Write random images of 16 x 16 pixels."""
    generator = np.random.default_rng(0)
    pixels = {key: generator.integers(0, 256, (32, 16, 16, 3), dtype=np.uint8) for key in ("x_train", "x_test")}
    np.savez(folder / "data.npz", **pixels, y_train=np.arange(32) % 3, y_test=np.arange(32) % 3)
    return folder / "data.npz"


def test_coherency(tmp_path, monkeypatch):
    """Networks of two seeds and a given one; images are added, and nothing is trained again."""
    arguments = (
        random_images(tmp_path), "-o", tmp_path, "--epochs", 1, "--ru-limit", 0, "--layers", "relu_1", "relu_3",
    )  # fmt: skip
    run(monkeypatch, coherency, *arguments, "--seeds", 0, 1, "--limit", 1)
    first = pandas.read_csv(tmp_path / "coherency.csv")
    monkeypatch.setattr(longer, "trained_by", None)
    run(monkeypatch, coherency, *arguments, "--seeds", 0, "--limit", 2)
    onnx.save(onnx.load(tmp_path / "vgg" / "vgg-1-5 convolutions.onnx"), tmp_path / "given.onnx")
    run(monkeypatch, coherency, *arguments, "--limit", 1, "--model", tmp_path / "given.onnx")
    found = pandas.read_csv(tmp_path / "coherency.csv")
    counts = found[(found.metric == "sid") & (found.layer == "relu_1")].groupby(["model", "seed"]).image.nunique()
    assert counts.to_dict() == {("given", 0): 1, ("vgg", 0): 2, ("vgg", 1): 1}
    cell = ["model", "seed", "network", "metric", "layer", "image"]
    again = found.merge(first, on=cell, suffixes=("", "_before"))
    assert len(again) == len(first)
    assert (again.value == again.value_before).all()
    assert found.divided.all()
    assert {*found.metric} == {"sid", "gradient", "gradcam", "concentration"}
    # The function of the network is unchanged.
    assert found.groupby(["model", "seed"])[["accuracy", "loss"]].nunique().eq(1).all(axis=None)
    change = found.pivot_table(index=cell[:2] + cell[3:], columns="network", values="value")
    change["by"] = change.rescaled - change.original
    assert change.xs("sid", level="metric").by.abs().max() < 1e-4
    assert change.xs("concentration", level="metric").by.abs().max() < 1e-4
    gradients = change.xs("gradient", level="metric")
    assert (gradients.rescaled / gradients.original).to_numpy() == pytest.approx(4, rel=1e-4)
    monkeypatch.setattr("sys.argv", ["rescaled", str(tmp_path / "coherency.csv"), "-o", str(tmp_path / "out")])
    rescaled.main()
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"vgg.md", "vgg.png", "given.md", "given.png", "power.md"}


@pytest.mark.slow
def test_coherency_with_decoders(tmp_path, monkeypatch):
    arguments = (
        random_images(tmp_path), "-o", tmp_path, "--epochs", 1, "--limit", 1, "--ru-limit", 2,
        "--layers", "relu_1", "relu_6", "--ru-layers", "relu_6", "--decoder-limit", 32, "--decoder-steps", 1,
    )  # fmt: skip
    run(monkeypatch, coherency, *arguments)
    found = pandas.read_csv(tmp_path / "coherency.csv")
    assert found.groupby("metric").image.nunique().to_dict() == {
        "concentration": 1, "gradcam": 1, "gradient": 1, "ru": 2, "sid": 1
    }  # fmt: skip
    assert {*found[found.metric == "ru"].layer} == {"relu_6"}
    before, after = (found[(found.metric == "ru") & (found.network == name)].value for name in ("original", "rescaled"))
    assert after.to_numpy() == pytest.approx(before.to_numpy(), abs=1e-3)


def test_boxes_around_the_center():
    boxes = coherency.central_boxes(np.zeros((2, 32, 24, 3), np.uint8))
    assert boxes.tolist() == [[6, 8, 18, 24]] * 2


def faked(model, inputs, archive, *, layers, run, **options):
    """Write random numbers of layers that the model has."""
    assert {*layers} <= {layer.name for layer in onnxinfo.list_layers(model)}
    rows = [replace(fakes.schema().layers[0], name=layer) for layer in layers]
    fakes.make(archive, run, fakes.schema(layers=rows, metrics=(fakes.PROVEN_SID,)))


@pytest.mark.parametrize("measured", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_quantization(tmp_path, monkeypatch, measured):
    """Without measurements, a run of the study's own steps."""
    if not measured:
        monkeypatch.setattr(onnxinfo, "analyze", faked)
    digits = path("digits.npz")
    run(
        monkeypatch, quantisation, path("digits-cnn.onnx"), "--inputs", f"{digits}:images", "--labels",
        f"{digits}:labels", "--calibration", f"{digits}:images", "--layers", "relu", "--alphas", 0.01, 0.1,
        "--limit", 1, "--calibrated", 4, "-o", tmp_path,
    )  # fmt: skip
    rows = json.loads((tmp_path / "quantisation.json").read_text())["rows"]
    versions = ["float", "float, input clipped", "int8 QDQ", "int8 QOperator", "int8 dynamic", "int4 weights"]
    assert [(row["layer"], row["version"]) for row in rows] == [("relu", version) for version in versions]
    assert (tmp_path / "quantisation.png").exists()
    if measured:
        with onnxinfo.open(tmp_path / "quantisation-0.1.h5") as archive:
            formats = [archive[version].provenance.get("quantisation", "") for version in versions]
        assert formats == ["", "", "QDQ", "QOperator", "dynamic", "weights"]


def test_the_residual_network_of_concentration_sees_all_pixels_equally():
    """With circular padding and global pooling, an image shifted by a multiple of its strides has the same scores."""
    torch.manual_seed(0)
    x, y = torch.randn(6, 3, 16, 16), torch.arange(6) % 2
    for model in concentration.models("resnet", x, y, epochs=1).values():
        expected = common.scores(model, x.numpy())
        for shift in ((4, 0), (-4, 8)):
            shifted = common.scores(model, x.roll(shift, (2, 3)).numpy())
            np.testing.assert_allclose(shifted, expected, atol=1e-4)
        assert np.ptp(expected, axis=0).min() > 1e-3


def test_concentration(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (6, 24, 24, 3), dtype=np.uint8)
    around = np.array([[2, 3, 12, 14]] * 3 + [[8, 8, 20, 18]] * 3)
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(6) % 2, boxes=around)
    arguments = (
        tmp_path / "data.npz", "--network", "alexnet", "--layers", "relu_1", "relu_9", "--side", 32, "--epochs", 1,
        "--folds", 2, "-o", tmp_path,
    )  # fmt: skip
    run(monkeypatch, concentration, *arguments, "--limit", 2)
    found = pandas.read_csv(tmp_path / "concentration.csv")
    with onnxinfo.open(tmp_path / "alexnet.h5") as archive:
        values = [archive[f"trained {fold}"].values("concentration")["value"] for fold in (0, 1)]
    own = found[found.weights == "trained"].set_index(["layer", "fold", "image"]).own
    for layer, expected in (("relu_1", [each[0] for each in values]), ("relu_9", [each[1] for each in values])):
        np.testing.assert_allclose(own[layer], np.concatenate(expected), atol=1e-3)
    monkeypatch.setattr(concentration, "models", None)
    run(monkeypatch, concentration, *arguments, "--limit", 2)
    pandas.testing.assert_frame_equal(pandas.read_csv(tmp_path / "concentration.csv"), found)
    monkeypatch.setattr("sys.argv", ["boxes", str(tmp_path / "concentration.csv"), "-o", str(tmp_path / "out")])
    boxes.main()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"alexnet.md", "alexnet.png", "power.md"}
    # The archive has more folds than this command measures.
    run(monkeypatch, concentration, *arguments, "--limit", 2, "--measured", 1)
    assert {*pandas.read_csv(tmp_path / "concentration.csv").fold} == {0}


def test_own_and_others_masks():
    generator = np.random.default_rng(0)
    maps, masks = generator.normal(size=(4, 3, 5, 6)), generator.random((4, 5, 6)) < 0.4
    own, excess = concentration.contrasts(maps, masks)
    contrast = [[m[:, ~mask].mean() - m[:, mask].mean() for mask in masks] for m in maps]
    np.testing.assert_allclose(own, np.diag(contrast))

    def above(kept):
        found = np.array(contrast)[np.ix_(kept, kept)]
        return np.diag(found).mean() - found[~np.eye(len(kept), dtype=bool)].mean()

    jackknife = [4 * above([0, 1, 2, 3]) - 3 * above([j for j in range(4) if j != i]) for i in range(4)]
    np.testing.assert_allclose(excess, jackknife)


def test_what_maps_or_masks_have_in_common_is_no_excess():
    """Images alike but for a factor, whatever the boxes; and the same box for any images."""
    generator = np.random.default_rng(1)
    maps, masks = generator.normal(size=(5, 3, 6, 6)), generator.random((5, 6, 6)) < 0.5
    for alike in ((maps[:1] + np.arange(5).reshape(5, 1, 1, 1), masks), (maps, masks[:1].repeat(5, 0))):
        own, excess = concentration.contrasts(*alike)
        np.testing.assert_allclose(excess, 0, atol=1e-12)
        assert abs(own.mean()) > 0.01


def small_study(folder, monkeypatch):
    """Write random images, and let networks be measured in two layers; return the arguments of a study."""
    data = random_images(folder)
    analyze = onnxinfo.analyze

    def analyze_two_layers(model, *arguments, **options):
        layers = [layer.name for layer in onnxinfo.list_layers(model) if layer.default][:2]
        return analyze(model, *arguments, **options | {"layers": layers})

    monkeypatch.setattr(onnxinfo, "analyze", analyze_two_layers)
    return data, "--epochs", 1, "-o", folder


def small_teacher(folder):
    """Write a classifier of the random images."""
    torch.manual_seed(1)
    path = folder / "teacher.onnx"
    onnx.save(common.to_onnx(common.classifier([(4, 3, 2)], 16, 3), 16), path)
    return path


def test_a_study_resumes_with_new_seeds_and_images_and_trains_each_network_once(tmp_path, monkeypatch):
    arguments = small_study(tmp_path, monkeypatch)
    trained = []

    def train(source):
        trained.append(source.data.seed)
        network = normalized.folded(source.untrained(source.family.build), source.data.x)
        return {"original": common.to_onnx(network, source.data.side)}

    monkeypatch.setitem(longer.STUDIES, "damage", longer.Study(train))
    run(monkeypatch, longer, "damage", *arguments, "--seeds", 0, 1, "--limit", 1)
    first = pandas.read_csv(tmp_path / "vgg" / "damage.csv")
    run(monkeypatch, longer, "damage", *arguments, "--seeds", 1, 2, "--limit", 2)
    run(monkeypatch, longer, "damage", *arguments, "--seeds", 2, "--limit", 2, "--normalize-by", "dataset")
    found = pandas.read_csv(tmp_path / "vgg" / "damage.csv")
    assert trained == [0, 1, 2]
    counts = found.groupby(["seed", "normalizer"]).image.nunique().to_dict()
    assert counts == {(0, "sample"): 1, (1, "sample"): 2, (2, "sample"): 2, (2, "dataset"): 2}
    again = found.merge(first, on=["seed", "normalizer", "layer", "image"], suffixes=("", "_before"))
    assert len(again) == len(first)
    assert (again.value == again.value_before).all()
    assert found[found.layer == "relu_1"].groupby("seed").value.first().nunique() == 3


@pytest.fixture
def asked(monkeypatch):
    """Give every cell of the longer studies a value of zero, and collect the layers of each network."""
    found = {}

    def measured(model, data, wanted):
        found[wanted.run] = wanted.layers
        cell = {"image": 0, "value": 0.0, "stderr": 0.0, "converged": True}
        return [{"layer": layer, **cell} for layer in wanted.layers]

    for name, study in longer.STUDIES.items():
        if study.measure is training.measured:
            monkeypatch.setitem(longer.STUDIES, name, replace(study, measure=measured))
    return found


@pytest.mark.parametrize("family", [pytest.param("vgg", marks=pytest.mark.slow), "alexnet", "resnet"])
def test_longer_studies(tmp_path, monkeypatch, asked, family):
    monkeypatch.setattr(longer, "RETRAINED", 1)
    given, folder = families.FAMILIES[family], tmp_path / family
    arguments = (*small_study(tmp_path, monkeypatch), "--family", family, "--seeds", 0, "--limit", 1)
    run(monkeypatch, longer, "epochs", *arguments, "--epochs", 2)
    run(monkeypatch, longer, "pruning", *arguments)
    run(monkeypatch, longer, "damage", *arguments)
    run(monkeypatch, longer, "distillation", *arguments, "--views", 2, "--teacher", small_teacher(tmp_path))
    monkeypatch.setattr(longer, "trained_by", None)
    run(monkeypatch, longer, "robustness", *arguments)
    files = {file.study: file for file in claims.results(tmp_path)}
    found = {study: pandas.read_csv(file.path) for study, file in files.items()}
    assert asked["epoch 1"] == asked["0.08 kept"] == given.high
    assert asked["epoch 2"] == (*given.high, given.layers[0])
    assert asked["distilled"] == asked["damaged"] == given.layers
    # An epoch of 32 images is one step, so the checkpoints within the first epoch are those at its end.
    assert [*found["epochs"].network.unique()] == ["epoch 0", "epoch 1", "epoch 2"]
    assert [*found["distillation"].network.unique()] == ["without", "distilled"]
    for study in ("pruning", "damage", "robustness"):
        assert {*found[study].network} == {*files[study].networks}
    for table in found.values():
        assert (table[["loss", "train_loss"]] > 0).all(axis=None)
    assert np.load(tmp_path / "answers-2-32.npy").shape == (2, 32, 3)
    weights = [weights_of(path) for path in longer.networks(folder / "pruning-0").values()]
    shares = [np.mean(np.concatenate([(w != 0).ravel() for w in each])) for each in weights]
    assert shares == pytest.approx([1, 1, 0.38, 0.128, 0.08], abs=1e-3)
    # What is left is retrained.
    left = weights[-1][-1] != 0
    assert (weights[-1][-1][left] != weights[0][-1][left]).any()
    original, damaged = (weights_of(path) for path in longer.networks(folder / "damage-0").values())
    assert all((one == other).all() for one, other in zip(original, weights[0], strict=True))
    changed = [other.shape for one, other in zip(original, damaged, strict=True) if one.shape != other.shape]
    assert len(changed) == 2
    assert changed[0][0] == changed[1][1] == 4
    assert changed[0][2:] == (7, 7)


def weights_of(path):
    arrays = [onnx.numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer]
    return [each for each in arrays if each.ndim > 1]


def test_depth_and_autoencoders(tmp_path, monkeypatch, asked):
    """Both take the VGG that one of them trained; sizes are compared at the ends of stages."""
    arguments = (*small_study(tmp_path, monkeypatch), "--seeds", 0, "--limit", 1)
    run(monkeypatch, longer, "depth", *arguments)
    assert [*asked.values()] == [
        ("relu_1", "relu_4", "relu_7"), ("relu_3", "relu_8", "relu_11"), ("relu_5", "relu_12", "relu_17")
    ]  # fmt: skip
    found = pandas.read_csv(tmp_path / "vgg" / "depth.csv")
    assert [*found.network.unique()] == [*families.VGGS.sizes]
    assert {tuple(each) for each in found.groupby("network").layer.unique()} == {("stage 1", "stage 2", "stage 3")}
    monkeypatch.setattr(longer, "trained_by", None)
    run(monkeypatch, longer, "autoencoders", *arguments)
    assert asked["classifier"] == asked["autoencoder"] == families.VGGS.convolutions
    found = pandas.read_csv(tmp_path / "vgg" / "autoencoders.csv").set_index("network")
    assert [*found.index.unique()] == [*claims.SHOWN["autoencoders"]]
    assert found.loc["classifier", ["error", "train_error"]].isna().all(axis=None)
    assert (found.loc["autoencoder", ["error", "train_error"]] > 0).all(axis=None)
    classifier, other = (weights_of(path) for path in longer.networks(tmp_path / "vgg" / "autoencoders-0").values())
    middle = weights_of(longer.networks(tmp_path / "vgg" / "depth-0")["5 convolutions"])
    assert all((one == another).all() for one, another in zip(classifier, middle, strict=True))
    assert [one.shape for one in other[:5]] == [one.shape for one in classifier[:5]]
    assert (other[0] != classifier[0]).any()


def test_the_trained_vgg_is_that_of_the_study_of_epochs(tmp_path, monkeypatch, asked):
    arguments = (*small_study(tmp_path, monkeypatch), "--seeds", 0, "--limit", 1)
    run(monkeypatch, longer, "epochs", *arguments)
    last = [*longer.networks(tmp_path / "vgg" / "epochs-0").values()][-1]
    run(monkeypatch, longer, "depth", *arguments)
    middle = longer.networks(tmp_path / "vgg" / "depth-0")["5 convolutions"]
    assert all((one == other).all() for one, other in zip(weights_of(middle), weights_of(last), strict=True))
    assert not (tmp_path / "vgg" / "vgg-0-5 convolutions.onnx").exists()


def chain(scale):
    """Return an autoencoder that multiplies an image."""
    layer = torch.nn.Conv2d(3, 3, 1, bias=False)
    torch.nn.init.dirac_(layer.weight)
    layer.weight.data *= scale
    return common.to_onnx(torch.nn.Sequential(layer), 6)


def test_errors_of_autoencoders_are_relative_to_the_variance_about_the_mean_image():
    x = torch.randn(5, 3, 6, 6)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3), dtype=np.uint8)
    data = training.Data(torch.cat([x, -x]), torch.zeros(10).long(), pixels, np.zeros(4, int), 1)
    assert longer.facts(chain(1.0), data) == {"error": 0, "train_error": 0}
    # The mean of these training images is 0.
    assert longer.facts(chain(0.5), data) == pytest.approx({"error": 0.25, "train_error": 0.25})
    shifted = training.Data(data.x + 1, data.y, pixels, data.labels, 1)
    assert longer.facts(chain(0.0), shifted)["train_error"] > 1.5


def test_only_distillation_needs_a_teacher(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, longer, "distillation", tmp_path / "none.npz", "-o", tmp_path)
    assert "distillation needs a teacher: --teacher" in capsys.readouterr().err


@pytest.mark.parametrize("autoencoder", [False, True])
@pytest.mark.parametrize("family", [*families.FAMILIES])
def test_networks_without_batch_norm_compute_the_same_in_onnx(family, autoencoder):
    torch.manual_seed(0)
    network, x = families.FAMILIES[family].build(32, 3), torch.randn(20, 3, 32, 32)
    first = network[0].weight
    if autoencoder:
        network = normalized.normalized_autoencoder(network, 32)
        assert network[0].weight is first
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 2)
            torch.nn.init.normal_(layer.bias)
    before = {key: each.clone() for key, each in network.state_dict().items()}
    plain, expected = normalized.folded(network, x), normalized.calibrated(network, x)(x)
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in plain.modules())
    torch.testing.assert_close(plain(x), expected, atol=1e-5, rtol=1e-4)
    assert expected.shape == (x.shape if autoencoder else (20, 3))
    # Of these images, batch norm's own means and variances are those of training.
    torch.testing.assert_close(plain[0](x).mean((0, 2, 3)), network[1].bias, atol=1e-5, rtol=1e-4)
    assert all(torch.equal(each, before[key]) for key, each in network.state_dict().items())
    exported = common.scores(common.to_onnx(plain, 32), x.numpy())
    np.testing.assert_allclose(exported, expected.detach().numpy(), atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize("family", [*families.FAMILIES])
def test_batch_norm_is_put_back_without_changing_what_a_network_computes(family):
    torch.manual_seed(0)
    network, x = families.FAMILIES[family].build(32, 3), torch.randn(20, 3, 32, 32)
    plain = normalized.folded(network, x)
    with torch.no_grad():
        plain[0].weight[0] = 0  # As of a filter all of whose weights were pruned.
        plain[0].bias[0] = 0.5
    before = {key: each.clone() for key, each in plain.state_dict().items()}
    back, expected = normalized.unfolded(plain, x), plain(x)
    assert [type(each) for each in back.modules()] == [type(each) for each in network.modules()]
    torch.testing.assert_close(back.eval()(x), expected, atol=1e-5, rtol=1e-4)
    assert all(torch.equal(each, before[key]) for key, each in plain.state_dict().items())
    # Batch norm divides by another variance in training (of all values) than what it keeps (an unbiased estimate).
    torch.testing.assert_close(normalized.folded(back, x)(x), expected, atol=0.05, rtol=0.05)
    torch.testing.assert_close(back.train()(x), expected, atol=1e-4, rtol=1e-3)


def test_pruned_weights_stay_zero_while_batch_norm_is_trained_along(tmp_path, monkeypatch):
    torch.manual_seed(0)
    x, y = torch.randn(64, 3, 16, 16), torch.arange(64) % 3
    data = training.Data(x, y, np.zeros((1, 16, 16, 3), np.uint8), np.zeros(1), epochs=1)
    source = longer.Source(families.FAMILIES["resnet"], data, tmp_path, None, 1)
    monkeypatch.setattr(longer, "RETRAINED", 2)
    trained, descend = [], longer.descend
    monkeypatch.setattr(
        longer, "descend", lambda network, *rest, **named: (trained.append(network), descend(network, *rest, **named))
    )
    model = longer.exported(source.untrained(source.family.build), data)
    found = longer.retrained(model, 0.3, source)
    assert any(isinstance(each, torch.nn.BatchNorm2d) for each in trained[0].modules())
    before, after = (
        {each.name: onnx.numpy_helper.to_array(each) for each in proto.graph.initializer}
        for proto in (onnxinfo.prune(model, 0.3).proto, found)
    )
    assert [*before] == [*after]
    weights = [name for name, each in before.items() if each.ndim > 1]
    assert all((after[name][before[name] == 0] == 0).all() for name in weights)
    assert all((after[name] != before[name]).any() for name in weights)


@pytest.mark.parametrize("family", families.FAMILIES.values(), ids=[*families.FAMILIES])
def test_the_layers_of_families_are_there_in_all_networks_that_are_compared(family):
    x = torch.randn(8, 3, 32, 32)

    def tensors(network):
        nodes = common.to_onnx(normalized.folded(network, x), 32).graph.node
        return [name for node in nodes for name in node.output]

    names = tensors(family.build(32, 10))
    for layers in (family.layers, family.convolutions, family.high, family.after, (family.at,)):
        assert sorted(layers, key=names.index) == [*layers]
    assert {*family.layers} <= {*tensors(family.damaged(32, 10))}
    assert {*family.convolutions} <= {*tensors(normalized.normalized_autoencoder(family.build(32, 10), 32))}
    for build in family.sizes.values():
        ends = longer.stage_ends(common.to_onnx(normalized.folded(build(32, 10), x), 32))
        assert {*family.stages} <= {*ends.values()} == {"stage 1", "stage 2", "stage 3"}


def test_attacks_are_measured_on_the_images_of_the_seed(tmp_path):
    """A linear classifier of two classes, whose smallest perturbation is known."""
    weight = torch.nn.functional.pad(torch.ones(1, 3 * 16 * 16) / 16, (0, 0, 0, 1))
    linear = torch.nn.Linear(3 * 16 * 16, 2)
    linear.weight.data, linear.bias.data = weight, torch.zeros(2)
    model = common.to_onnx(torch.nn.Sequential(torch.nn.Flatten(), linear), 16)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    pixels[::2] //= 3
    x = training.standardized(pixels)
    scored = x.reshape(12, -1).sum(1) / 16
    data = training.Data(torch.from_numpy(x), torch.arange(12) % 2, pixels, (scored < 0).astype(int), 1, seed=3)
    wanted = training.Wanted(tmp_path, "", 4, "sample", ())
    rows = training.attacked(model, data, wanted)
    assert [row["image"] for row in rows[::2]] == data.order[:4].tolist()
    expected = np.log(np.abs(scored[data.order[:4]]) / np.sqrt(3))
    for kind in (0, 1):
        np.testing.assert_allclose([row["value"] for row in rows[kind::2]], expected, atol=0.02)
    # An image in the other class already needs no perturbation, which has no logarithm.
    wrong = replace(data, labels=1 - data.labels)
    assert np.isnan([row["value"] for row in training.attacked(model, wrong, wanted)]).all()


def test_shifted_images_are_windows_of_the_padded_or_mirrored_image():
    torch.manual_seed(0)
    x = torch.rand(40, 3, 6, 6) + 1
    shown = normalized.shifted(x, 2)
    padded = torch.nn.functional.pad(x, (2,) * 4)
    found = set()
    for image, original in zip(shown, padded, strict=True):
        windows = {
            (i, j, mirrored): window.flip(2) if mirrored else window
            for i in range(5) for j in range(5) for mirrored in (False, True)
            for window in (original[:, i : i + 6, j : j + 6],)
        }  # fmt: skip
        matches = [key for key, window in windows.items() if torch.equal(image, window)]
        assert len(matches) == 1
        found.add(matches[0])
    assert {mirrored for *_, mirrored in found} == {True, False}
    assert {i for i, _, _ in found} == {j for _, j, _ in found} == {*range(5)}


def test_views_are_the_same_for_all_seeds_and_do_not_touch_the_random_numbers(tmp_path):
    x = torch.rand(8, 3, 16, 16)
    data = training.Data(x, torch.arange(8) % 3, np.zeros((0, 16, 16, 3), np.uint8), np.zeros(0, int), 1)
    torch.manual_seed(3)
    first = longer.view(data, 1)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.rand(1) == drawn
    assert torch.equal(longer.view(data, 1), first)
    assert not torch.equal(longer.view(data, 2), first)


def test_the_learning_rate_rises_and_falls_and_weights_can_be_held_at_zero():
    network, rates = torch.nn.Linear(3, 2), []
    mask = torch.tensor([[1.0, 0, 1], [0, 1, 1]])

    def losses(epoch):
        for _ in range(5):
            yield network(torch.randn(4, 3)).square().mean()

    def hold():
        with torch.no_grad():
            network.weight.mul_(mask)

    normalized.descend(network, 10, 5, losses, rates.append, after=hold)
    assert rates == [*range(1, 51)]
    assert ((network.weight != 0) == (mask != 0)).all()
