"""The comparison with other tools: exact answers of its parts, and the committed table against a rerun."""

import argparse
import math
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import pandas
import pytest
import torch
from places import SHARED
from scipy.stats import spearmanr

import onnxinfo

pytest.importorskip("torch")
import other_tools
from deletion import with_permuted_weights
from other_tools_network import ALPHA, Bottleneck, ResNet, Statistics, bits, from_onnx, statistics

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "other_tools.csv"
MODEL = SHARED / "models" / "resnet20-cifar10-opset20.onnx"
DATA = SHARED / "data" / "cifar10.npz"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def export(network, size=16):
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = Path(folder) / "network.onnx"
        torch.onnx.export(
            network, (torch.zeros(2, 3, size, size),), file, dynamo=False, input_names=["image"],
            output_names=["logits"], dynamic_axes={name: {0: "batch"} for name in ("image", "logits")},
        )  # fmt: skip
        return onnx.load(file)


def activations(model):
    """Return the names of all activations and of the class scores."""
    return [layer.name for layer in onnxinfo.list_layers(onnxinfo.load(model)) if layer.op in ("Relu", "Gemm")]


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return ResNet([(4, 4), (4, 8), (8, 16)]).eval().requires_grad_(False)


def test_rank_correlation_of_equal_reversed_and_tied_maps():
    stream = np.random.default_rng(0)
    one = stream.random((3, 20))
    np.testing.assert_allclose(other_tools.rank_correlations(one, np.exp(one)), 1)
    np.testing.assert_allclose(other_tools.rank_correlations(one, -(one**3)), -1)
    tied = np.round(2 * stream.random((3, 20)))
    expected = [spearmanr(*rows).statistic for rows in zip(one, tied, strict=True)]
    np.testing.assert_allclose(other_tools.rank_correlations(one, tied), expected)


def test_partial_correlations_are_those_of_the_formula_and_leave_nothing_of_a_shared_map():
    stream = np.random.default_rng(0)
    one, two, third = stream.random((3, 5, 30))
    pairs = ((one, two), (one, third), (two, third))
    both, first, second = (other_tools.rank_correlations(*pair) for pair in pairs)
    expected = (both - first * second) / np.sqrt((1 - first**2) * (1 - second**2))
    np.testing.assert_allclose(other_tools.rank_correlations(one, two, third), expected)
    shared = 5 * stream.random((50, 64))
    noisy = [shared + stream.random((50, 64)) for _ in range(2)]
    assert other_tools.rank_correlations(*noisy).mean() > 0.9
    assert abs(other_tools.rank_correlations(*noisy, shared).mean()) < 0.1


def test_a_constant_map_has_no_ranks_and_is_counted():
    maps = np.stack([np.arange(4.0), np.ones(4), np.arange(4.0)])
    values = other_tools.rank_correlations(maps, maps)
    np.testing.assert_array_equal(np.isnan(values), [False, True, False])
    found = other_tools.summary(values)
    assert (found["value"], found["images"], found["undefined"]) == (1, 2, 1)


def test_draws_are_averaged_and_the_error_is_over_images():
    values = np.random.default_rng(0).random((3, 10))
    found, means = other_tools.summary_of_draws(values), values.mean(0)
    assert found["value"] == pytest.approx(means.mean())
    assert found["stderr"] == pytest.approx(means.std(ddof=1) / np.sqrt(10))
    values[1:, 0], values[:, 1] = np.nan, np.nan
    found = other_tools.summary_of_draws(values)
    assert (found["value"], found["images"], found["undefined"]) == (pytest.approx(np.nanmean(values)), 9, 5)


def test_an_image_is_compared_with_the_next_one():
    rising = np.arange(4.0)
    np.testing.assert_allclose(other_tools.of_another_image(np.stack([rising, rising, -rising])), [1, -1, -1])


def test_controls_know_the_center_and_the_edges():
    images = np.zeros((2, 8, 8, 3), np.uint8)
    images[1, :, 4:] = 255
    maps = other_tools.controls(images)
    center, edges = (maps[name] for name in other_tools.CONTROLS)
    assert {*np.argsort(center[0].ravel())[-4:].tolist()} == {27, 28, 35, 36}
    assert not edges[0].any()
    assert {*np.nonzero(edges[1])[1].tolist()} == {3, 4}


def test_the_torch_module_has_the_scores_and_layers_of_the_onnx_graph(resnet):
    model = export(resnet)
    again, x = from_onnx(model), torch.randn(2, 3, 16, 16)
    converted = onnxinfo.convert(model, activations(model))(x)
    seen = []
    for name in again.layers():
        again.get_submodule(name).register_forward_hook(lambda module, given, output: seen.append(output))
    torch.testing.assert_close(again(x), resnet(x))
    assert len(seen) == len(converted) == 8
    for ours, theirs in zip(seen, converted, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_named_layers_are_where_the_stages_end(resnet):
    shapes = []
    for layer in (resnet.middle, resnet.last):
        layer.register_forward_hook(lambda module, given, output: shapes.append(tuple(output.shape[1:])))
    resnet(torch.randn(1, 3, 16, 16))
    assert shapes == [(8, 8, 8), (16, 4, 4)]


def test_permuted_weights_are_the_same_values_in_another_order(resnet, tmp_path):
    onnx.save(export(resnet), tmp_path / "network.onnx")
    first, second = (from_onnx(with_permuted_weights(tmp_path / "network.onnx", seed)) for seed in (0, 1))
    for name, values in resnet.named_parameters():
        one, two = (network.get_parameter(name) for network in (first, second))
        torch.testing.assert_close(one.ravel().sort().values, values.ravel().sort().values)
        assert torch.equal(one, values) == torch.equal(one, two) == (values.dim() == 1)


def test_the_bits_of_the_bottleneck_are_the_divergence_from_noise():
    seen = Statistics(torch.randn(2, 4, 4), torch.rand(2, 4, 4) + 0.5, torch.ones(2, 4, 4))
    bottleneck, x = Bottleneck(seen), torch.randn(3, 2, 4, 4)
    bottleneck(torch.nn.Identity(), None, x)
    kept = 1 / (1 + math.exp(-ALPHA))
    passing = torch.distributions.Normal(kept * (x - seen.mean) / seen.std, 1 - kept)
    expected = torch.distributions.kl_divergence(passing, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(bottleneck.nats, expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        bottleneck.alpha.fill_(-30)
    bottleneck(torch.nn.Identity(), None, x)
    torch.testing.assert_close(bottleneck.nats, torch.zeros_like(x), rtol=0, atol=1e-6)


def test_bits_pass_where_the_class_is_decided():
    class Corner(torch.nn.Module):
        """Two classes, which four pixels in a corner tell apart."""

        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Identity()

        def forward(self, x):
            score = 5 * self.layer(x)[:, 0, :2, :2].sum((1, 2))
            return torch.stack([score, -score], 1)

    network, images = Corner(), torch.randn(64, 1, 8, 8)
    seen = statistics(network, network.layer, images.split(16))
    torch.testing.assert_close(seen.mean, images.mean(0))
    image = torch.ones(1, 1, 8, 8)
    found = bits(network, network.layer, seen, image, 0)
    assert found[:2, :2].mean() > 3 * found[4:, 4:].mean()


def test_missing_packages_are_named_with_what_installs_them(monkeypatch):
    assert other_tools.missing(("torch", "numpy")) == ""
    line = other_tools.missing(("torch", "no_such_package"))
    assert line == "not installed: no_such_package; run: pip install no_such_package"
    monkeypatch.setattr(other_tools, "missing", lambda: line)
    monkeypatch.setattr("sys.argv", ["other_tools.py", "run", "folder", "model.onnx", "data.npz"])
    with pytest.raises(SystemExit, match=r"^not installed: no_such_package"):
        other_tools.main()
    assert not Path("folder").exists()


def test_the_page_shows_the_committed_results():
    page = (ROOT / "docs" / "other-tools.md").read_text(encoding="utf-8")
    tables = other_tools.tables(RESULTS).split("\n\n")
    assert len(tables) == 4
    assert [table for table in tables if f"\n\n{table.strip()}\n\n" not in page] == []


def test_committed_results_are_complete_and_possible():
    found = pandas.read_csv(RESULTS).set_index("what")
    maps = found.loc[["agreement", "agreement beyond the center", "permuted", "another image"]]
    assert maps.value.between(-1, 1 + 1e-9).all()
    methods = len(other_tools.SAYS) + len(other_tools.CONTROLS)
    assert len(found.loc["agreement"]) == methods * (methods - 1) // 2
    assert float(found.loc["difference"].value) < other_tools.CLOSE
    assert found.loc["CKA"].groupby("method").size().eq(20).all()


@pytest.mark.skipif(not MODEL.exists(), reason="set ONNXINFO_SHARED to the folder of data and models")
def test_a_rerun_of_gradients_and_controls_gives_the_committed_results(tmp_path):
    """Absolute gradients need no other package."""
    found = (
        pandas.read_csv(RESULTS).fillna({"method": "", "other": ""}).set_index(["what", "method", "other"]).sort_index()
    )
    count = int(found.loc[("right", "", "")].images)
    study = other_tools.Study(tmp_path, str(MODEL), str(DATA), preset="imagenet", limit=count, draws=1)
    assert study.largest_difference() < other_tools.CLOSE
    assert (study.classes.numpy() == study.labels).sum() == found.loc[("right", "", "")].value
    leaf = study.x.clone().requires_grad_(True)
    top = study.networks[other_tools.TRAINED](leaf).max(1).values.sum()
    (gradient,) = torch.autograd.grad(top, leaf)
    maps = {"Saliency": gradient.abs().mean(1).double().numpy(), **other_tools.controls(study.images)}
    maps = {name: other_tools.means_of_blocks(each[:, None]) for name, each in maps.items()}
    for name, each in maps.items():
        row, again = found.loc[("another image", name, "")], other_tools.summary(other_tools.of_another_image(each))
        assert again["value"] == pytest.approx(row.value, abs=1e-3)
        assert again["images"] == row.images
        if name != "Saliency":
            row, again = (
                found.loc[("agreement", name, "Saliency")],
                other_tools.rank_correlations(each, maps["Saliency"]),
            )
            assert again.mean() == pytest.approx(row.value, abs=1e-3)


def test_captum_and_zennit_give_what_their_formulas_say(resnet):
    pytest.importorskip("captum")
    pytest.importorskip("zennit")
    x, classes = torch.randn(2, 3, 16, 16), torch.tensor([3, 7])
    leaf = x.clone().requires_grad_(True)
    features = []
    handle = resnet.last.register_forward_hook(lambda module, given, output: features.append(output))
    score = resnet(leaf).gather(1, classes[:, None]).sum()
    handle.remove()
    gradient, weights = torch.autograd.grad(score, [leaf, features[0]])
    torch.testing.assert_close(other_tools.saliency(resnet, x, classes), gradient.abs().mean(1))
    cam = (weights.mean((2, 3), keepdim=True) * features[0]).sum(1, keepdim=True).relu()
    wide = torch.nn.functional.interpolate(cam, x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(other_tools.gradcam(resnet, x, classes), wide)
    relevance = other_tools.lrp(resnet, x, classes)
    assert relevance.shape == (2, 16, 16)
    assert not torch.allclose(relevance, gradient.sum(1))


def test_torch_cka_is_ours_without_the_jackknife(resnet, tmp_path):
    pytest.importorskip("torch_cka")
    x = 5 * torch.randn(12, 3, 16, 16)

    def theirs(some):
        return other_tools.torch_cka_with_scores(resnet, some, len(some))

    rest = np.mean([theirs(torch.cat([x[:i], x[i + 1 :]])) for i in range(len(x))], 0)
    expected = len(x) * theirs(x) - (len(x) - 1) * rest
    model = export(resnet)
    onnxinfo.analyze(
        model, x.numpy(), tmp_path / "cka.h5", layers=activations(model), metrics=["cka"], mean=0, std=1, threads=1
    )
    with onnxinfo.open(tmp_path / "cka.h5") as archive:
        (run,) = archive.values()
        np.testing.assert_allclose(run.values("cka")["value"].mean(1), expected, atol=5e-3)


def test_captum_works_on_the_converted_graph_and_zennit_silently_returns_the_gradient(resnet):
    """Why the network is built again: the converted graph has none of the layer types that zennit has rules for."""
    pytest.importorskip("captum")
    pytest.importorskip("zennit")
    graph = onnxinfo.convert(export(resnet), ["logits"])

    class Scores(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.graph = graph
            self.linear = resnet.linear

        def forward(self, x):
            return self.graph(x)[0]

    converted, x, classes = Scores(), torch.randn(2, 3, 16, 16), torch.tensor([3, 7])
    torch.testing.assert_close(other_tools.saliency(converted, x, classes), other_tools.saliency(resnet, x, classes))
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(resnet(leaf).gather(1, classes[:, None]).sum(), leaf)
    torch.testing.assert_close(other_tools.lrp(converted, x, classes), gradient.sum(1))
    assert not torch.allclose(other_tools.lrp(resnet, x, classes), gradient.sum(1))


def test_the_picture_of_cka_shows_each_layer_by_each_tool(tmp_path, monkeypatch):
    plt = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setattr(plt, "close", lambda figure: None)
    other_tools.draw_cka(argparse.Namespace(results=RESULTS, picture=tmp_path / "cka.png"))
    (panel,) = plt.gcf().axes
    shown = {container.get_label(): container.lines[0].get_ydata() for container in panel.containers}
    table = pandas.read_csv(RESULTS).query("what == 'CKA'")
    assert shown.keys() == {*table.method}
    assert len(shown) == 3
    for method, values in shown.items():
        np.testing.assert_array_equal(values, table[table.method == method].value)
    assert (tmp_path / "cka.png").stat().st_size > 10_000
