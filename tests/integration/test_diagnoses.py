"""Rescaling, coherency, pruning, robustness, and the baselines for comparison."""

import importlib
import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from places import SHARED

import onnxinfo
from onnxinfo.cli import cli
from onnxinfo.errors import InputError, UnprovenError, UsageError
from onnxinfo.graph.prune import kept_share
from onnxinfo.graph.rescale import neighbors
from onnxinfo.graph.scores import pooled_feature, score_tensor
from onnxinfo.models import path
from onnxinfo.torch_graph.runtime import Session

MODEL = str(path("digits-cnn.onnx"))
DIGITS, LABELS = f"{path('digits.npz')}:images", f"{path('digits.npz')}:labels"


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def model_of(nodes, weights, outputs=("y",), shape=(2, 8, 8), rank=4):
    """A model of opset 20 from lines ``OP in,in -> out [attribute=value ...]``."""
    made = []
    for i, line in enumerate(nodes):
        call, _, attributes = line.partition(" | ")
        op, _, rest = call.partition(" ")
        operands, _, results = rest.partition(" -> ")
        given = {k: json.loads(v) for k, v in (pair.split("=") for pair in attributes.split())}
        made.append(helper.make_node(op, operands.split(","), results.split(","), name=f"n{i}", **given))
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank) for name in outputs]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, *shape])
    graph = helper.make_graph(made, "model", [x], values, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def conv(*shape, seed):
    return (normal(*shape, seed=seed) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


WEIGHTS = {"w1": conv(3, 2, 3, 3, seed=1), "b1": normal(3), "w2": conv(4, 3, 3, 3, seed=2), "b2": normal(4)}
CHAIN = ["Conv x,w1,b1 -> a", "LeakyRelu a -> b", "MaxPool b -> c | kernel_shape=[2,2]", "Conv c,w2,b2 -> y"]
X = normal(2, 2, 8, 8, seed=9)


def run(model, x=X):
    return Session(model).run({"x": x})


@pytest.mark.parametrize("factor", [4.0, 3.0, 0.5])
def test_rescaled_layers_compute_the_same(factor):
    model = model_of(CHAIN, WEIGHTS, outputs=("y",))
    changed = onnxinfo.rescale(model, factor)
    np.testing.assert_allclose(run(changed)["y"], run(model)["y"], rtol=1e-4, atol=1e-5)
    between = [Session(onnxinfo.expose(m, ["c"])).run({"x": X})["c"] for m in (model, changed)]
    np.testing.assert_allclose(between[1] * factor, between[0], rtol=1e-5)
    weights = {t.name: numpy_helper.to_array(t) for t in changed.proto.graph.initializer}
    np.testing.assert_allclose(weights["b1"], WEIGHTS["b1"] / factor, rtol=1e-6)
    np.testing.assert_array_equal(weights["b2"], WEIGHTS["b2"])


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        (["Conv x,w1,b1 -> a", "Sigmoid a -> b", "Conv b,w2,b2 -> y"], ("y",)),
        (["Conv x,w1,b1 -> a", "Clip a,lo,hi -> b", "Conv b,w2,b2 -> y"], ("y",)),
        (["Conv x,w1,b1 -> a", "Relu a -> b", "Conv b,w2,b2 -> y"], ("y", "b")),
        (["Conv x,w1,b1 -> a", "Conv a,w2,b2 -> y", "GlobalMaxPool a -> p"], ("y", "p")),
        (["Conv x,w1,b1 -> a", "Mul a,a -> b", "Conv b,w2,b2 -> y"], ("y",)),
        (["Conv x,w1,b1 -> a", "Pad a,pads,one -> b", "Conv b,w2,b2 -> y"], ("y",)),
    ],
    ids=["sigmoid", "clip", "an output between", "another consumer", "quadratic", "padded by ones"],
)  # fmt: skip
def test_layers_that_something_else_separates_are_left_alone(nodes, outputs):
    more = {"lo": np.float32(0), "hi": np.float32(6), "one": np.float32(1), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
    used = {name for line in nodes for name in line.split(" -> ")[0].split(" ")[1].split(",")}
    model = model_of(nodes, {k: v for k, v in (WEIGHTS | more).items() if k in used}, outputs)
    assert neighbors(model) == []
    with pytest.raises(UsageError, match="no two layers"):
        onnxinfo.rescale(model)


def test_batch_normalization_added_bias_and_a_shared_weight():
    square = conv(2, 2, 3, 3, seed=3)
    numbers = {"s": np.abs(normal(2)) + 1, "o": normal(2), "m": normal(2), "v": np.abs(normal(2)) + 1}
    nodes = [
        "Conv x,w -> a", "BatchNormalization a,s,o,m,v -> b", "Relu b -> c", "Conv c,w -> d", "Relu d -> e",
        "Flatten e -> f", "MatMul f,k -> g", "Add g,q -> h", "Relu h -> i", "Gemm i,l -> y",
    ]  # fmt: skip
    weights = {"w": square, "k": conv(32, 5, seed=4), "q": normal(5), "l": conv(5, 3, seed=5), **numbers}
    model = model_of(nodes, weights, rank=2)
    assert [(pair.first, pair.second) for pair in neighbors(model)] == [("n1", "n3"), ("n3", "n6"), ("n6", "n9")]
    changed = onnxinfo.rescale(model, 4)
    np.testing.assert_allclose(run(changed)["y"], run(model)["y"], rtol=1e-4, atol=1e-5)
    one = onnxinfo.rescale(model, 4, layers=["h"])
    values = [Session(onnxinfo.expose(m, ["c", "i"])).run({"x": X}) for m in (model, one)]
    np.testing.assert_array_equal(values[0]["c"], values[1]["c"])
    np.testing.assert_allclose(values[0]["i"], 4 * values[1]["i"], rtol=1e-5, atol=1e-6)


def test_what_cannot_be_rescaled_is_refused():
    for factor in (0, -1, np.nan, np.inf):
        with pytest.raises(UsageError, match="factor"):
            onnxinfo.rescale(MODEL, factor)
    with pytest.raises(UsageError, match="choose no tensor"):
        onnxinfo.rescale(MODEL, 4, layers=["logits"])
    with pytest.raises(onnxinfo.ModelError, match="exceeds the range of its type"):
        onnxinfo.rescale(model_of(CHAIN, WEIGHTS), 1e-45)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_pruning_keeps_the_largest_weights(scope):
    pruned = onnxinfo.prune(model_of(CHAIN, WEIGHTS), 0.25, scope=scope)
    weights = {t.name: numpy_helper.to_array(t) for t in pruned.proto.graph.initializer}
    kept = {name: weights[name] != 0 for name in ("w1", "w2")}
    assert sum(int(mask.sum()) for mask in kept.values()) == round(0.25 * (54 + 108)) or scope == "layer"
    for name, mask in kept.items():
        np.testing.assert_array_equal(weights[name][mask], WEIGHTS[name][mask])
        if scope == "layer":
            assert mask.sum() == round(0.25 * mask.size)
            assert np.abs(WEIGHTS[name])[mask].min() >= np.abs(WEIGHTS[name])[~mask].max()
    everything, mask = (np.concatenate([np.ravel(each[n]) for n in ("w1", "w2")]) for each in (WEIGHTS, kept))
    if scope == "global":
        assert np.abs(everything)[mask].min() >= np.abs(everything)[~mask].max()
    np.testing.assert_array_equal(weights["b1"], WEIGHTS["b1"])
    assert kept_share(pruned) == pytest.approx(mask.mean())
    assert kept_share(MODEL) == 1


def test_pruning_ties_and_bad_shares():
    pruned = onnxinfo.prune(model_of(CHAIN, WEIGHTS | {"w1": np.ones((3, 2, 3, 3), np.float32) * 9}), 20 / 162)
    assert kept_share(pruned) == 20 / 162
    for keep in (0, 1.1, np.nan):
        with pytest.raises(UsageError, match="keep"):
            onnxinfo.prune(MODEL, keep)
    with pytest.raises(UsageError, match="scope"):
        onnxinfo.prune(MODEL, 0.5, scope="node")


def test_scores_and_the_feature_they_are_pooled_from():
    assert score_tensor(MODEL) == "logits"
    nodes = ["Conv x,w1,b1 -> a", "Relu a -> f", "GlobalAveragePool f -> p", "Flatten p -> v", "Gemm v,k -> z"]
    weights = {"w1": WEIGHTS["w1"], "b1": WEIGHTS["b1"], "k": normal(3, 4)}
    model = model_of([*nodes, "Softmax z -> y"], weights, rank=2)
    assert score_tensor(model) == "z"
    assert pooled_feature(model, "z") == "f"
    assert pooled_feature(model, "v") is None
    with pytest.raises(UsageError, match="not a classifier"):
        score_tensor(model_of(CHAIN, WEIGHTS))


@pytest.fixture(scope="module")
def classifier():
    """A convolution of pixels, global average pooling and one linear layer."""
    nodes = [
        "Conv x,w1,b1 -> a | pads=[1,1,1,1] strides=[2,2]", "Relu a -> f", "GlobalAveragePool f -> p",
        "Flatten p -> v", "Gemm v,k -> y",
    ]  # fmt: skip
    return model_of(nodes, {"w1": WEIGHTS["w1"], "b1": WEIGHTS["b1"], "k": normal(3, 4)}, rank=2)


def test_baselines_are_their_definitions(classifier, tmp_path):
    x = normal(3, 2, 8, 8, seed=5)
    result = onnxinfo.analyze(
        classifier, x, tmp_path / "o.h5", layers=["f", "v"], metrics=["gradient", "gradcam", "cam"]
    )
    feature = Session(onnxinfo.expose(classifier, ["f"])).run({"x": x})
    weights = normal(3, 4)[:, feature["y"].argmax(1)].T
    with onnxinfo.open(result.archive) as archive:
        run = archive[result.run]
        values = {name: run.values(name) for name in ("gradient", "gradcam", "cam")}
        maps = {name: run.maps(name, 0) for name in values}
    assert maps["cam"].shape == x.shape
    norms = np.linalg.norm(weights, axis=1)
    np.testing.assert_allclose(values["gradient"]["value"], [norms / 16, norms], rtol=1e-4)
    cam = (weights[:, :, None, None] * feature["f"]).sum(1)
    # Upsampling preserves the mean except at the border, and the corners exactly.
    np.testing.assert_allclose(maps["cam"][:, 0, 0, 0], cam[:, 0, 0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(maps["gradcam"][:, 1, 7, 7], np.maximum(cam[:, -1, -1], 0) / 16, rtol=1e-3, atol=1e-4)
    assert not values["cam"]["converged"][1].any()
    assert values["gradcam"]["converged"].all()


def test_baselines_need_what_they_explain(classifier, tmp_path):
    for metric, model, said in (("cam", MODEL_WITHOUT_POOL, "global average pooling"), ("gradient", CHAIN_MODEL, "no")):
        with pytest.raises(UsageError, match=said):
            onnxinfo.analyze(model, X, tmp_path / "o.h5", metrics=[metric])
    with pytest.raises(UsageError, match="not among the chosen"):
        onnxinfo.analyze(classifier, X, tmp_path / "o.h5", metrics=["cam"], layers=["v"])
    assert not (tmp_path / "o.h5").exists()


CHAIN_MODEL = model_of(CHAIN, WEIGHTS)
MODEL_WITHOUT_POOL = model_of(["Flatten x -> f", "Gemm f,k -> y"], {"k": conv(128, 3, seed=1)}, rank=2)


@pytest.mark.parametrize("work", ["coherency", pytest.param("robustness", marks=pytest.mark.slow)])
def test_a_diagnosis_is_finished_before_too_few_proven_cells_fail_it(tmp_path, monkeypatch, work):
    """--min-converged means the same as in an analysis: the results are there, and the exit code is 4."""
    module = importlib.import_module(f"onnxinfo.workflows.{work}")
    analyze = module.run_analysis

    def unproven(*arguments):
        raise UnprovenError("0.0% of the cells are proven", analyze(*arguments))

    monkeypatch.setattr(module, "run_analysis", unproven)
    digits = path("digits.npz")
    line = [work, str(path("digits-cnn.onnx")), "--inputs", f"{digits}:images", "--labels", f"{digits}:labels"]
    line += ["--limit", "1", "-o", str(tmp_path / "a.h5"), "--format", "json"]
    line += ["--metric", "gradient", "--layers", "logits"] if work == "coherency" else []
    result = CliRunner().invoke(cli, line)
    assert isinstance(result.exception, UnprovenError)
    assert type(result.exception.result).__name__ == f"{work.capitalize()}Result"
    found = json.loads(result.stdout)
    assert found["samples"] == 1 if work == "robustness" else found[0]["metric"] == "gradient"


def test_coherency_of_a_trained_network(tmp_path):
    command = ["-q", "coherency", MODEL, "--inputs", DIGITS, "--limit", "3", "--layers", "relu", "--layers", "relu_1"]
    result = CliRunner().invoke(cli, [*command, "-o", str(tmp_path / "o.h5"), "--format", "json"])
    assert result.exit_code == 0, result.output
    rows = {(row["layer"], row["metric"]): row for row in json.loads(result.output)}
    between = {name for pair in neighbors(MODEL) for name in pair.between}
    for (layer, metric), row in rows.items():
        assert row["rescaled"] == (layer in between)
        if metric == "sid":
            assert abs(row["difference"]) < 0.01
        else:
            # The feature times its gradient and the network itself are unchanged.
            expected = 4 if metric == "gradient" and row["rescaled"] else 1
            assert row["ratio"] == pytest.approx(expected, rel=1e-3)
    assert any(row["rescaled"] for row in rows.values())


def test_robustness_of_a_linear_classifier_is_the_distance_to_the_boundary(tmp_path):
    pytest.importorskip("art")
    generator = np.random.default_rng(0)
    x = generator.normal(size=(40, 1, 3, 3)).astype(np.float32)
    k = generator.normal(size=(9, 2)).astype(np.float32)
    model = model_of(["Flatten x -> f", "Gemm f,k -> y"], {"k": k}, shape=(1, 3, 3), rank=2)
    scores = x.reshape(40, 9) @ k
    labels = scores.argmax(1)
    nearest = np.argsort(np.abs(scores[:, 0] - scores[:, 1]))[:4]
    found = onnxinfo.robustness(model, x[nearest], tmp_path / "o.h5", labels=labels[nearest], std=[1.0])
    with onnxinfo.open(tmp_path / "o.h5") as archive:
        values = archive[found.result.run].values("robustness")
    distance = np.abs(scores[:, 0] - scores[:, 1])[nearest] / np.linalg.norm(k[:, 0] - k[:, 1])
    assert found.accuracy == 1
    assert (values["targets"] == 1).all()
    # A value below the possible minimum would be wrong; the attack may be slightly worse than the best.
    assert (values["value"][0] > 0.999 * distance).all()
    np.testing.assert_allclose(values["value"][0], distance, rtol=0.1)


def test_robustness_refuses_what_it_cannot_attack(tmp_path):
    output = tmp_path / "o.h5"
    with pytest.raises(InputError, match="label 10 is out of range"):
        onnxinfo.robustness(MODEL, DIGITS, output, labels=np.full(len(np.load(path("digits.npz"))["images"]), 10))
    with pytest.raises(UsageError, match="not a classifier"):
        onnxinfo.robustness(CHAIN_MODEL, X, output, labels=[0, 1])
    with pytest.raises(UsageError, match="at its scores alone"):
        onnxinfo.analyze(MODEL, DIGITS, output, labels=LABELS, limit=2, metrics=["robustness"], layers=["relu"])
    assert not output.exists()


def test_commands_write_models(tmp_path):
    for command, said in (
        (["rescale", MODEL, "--factor", "4"], "pairs of layers rescaled by 4"),
        (["prune", MODEL, "--keep", "0.38"], "38.0"),
    ):
        output = tmp_path / f"{command[0]}.onnx"
        result = CliRunner().invoke(cli, [*command, "-o", str(output)])
        assert result.exit_code == 0, result.output
        assert said in result.output
        onnxinfo.load(output)
    kept = {p.key: p.value for p in onnx.load(tmp_path / "prune.onnx").metadata_props}
    assert json.loads(kept["onnxinfo_pruned"])["keep"] == 0.38


RESNET = SHARED / "models" / "resnet20-cifar10-opset13.onnx"


@pytest.mark.slow
@pytest.mark.skipif(not RESNET.exists(), reason="the public ResNets are not here")
def test_coherency_of_resnet20(tmp_path):
    images = RESNET.parents[1] / "data" / "cifar10.npz"
    found = onnxinfo.coherency(
        RESNET, f"{images}:x_test", tmp_path / "o.h5", limit=8, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225],
        layers=["/layer1/layer1.0/Relu_output_0", "*layer2.0*Relu_output_0", "*layer3.2*Relu_output_0"],
    )  # fmt: skip
    for change in found.changes:
        if change.metric == "sid":
            assert abs(change.difference) < 0.01
        elif change.metric == "gradient":
            assert change.ratio == pytest.approx(4 if change.rescaled else 1, rel=1e-3)
