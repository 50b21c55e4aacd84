"""Channels to remove, against dense Jacobians and networks without them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from graphs import constant, model, node, value, weight

import onnxinfo
from onnxinfo import UsageError
from onnxinfo.analysis.channels import choose
from onnxinfo.cli import cli
from onnxinfo.models import path

CNN, IMAGES, LABELS = path("digits-cnn.onnx"), f"{path('digits.npz')}:images", f"{path('digits.npz')}:labels"


def linear() -> onnx.ModelProto:
    """Two convolutions without an activation: the effects of channels are exact."""
    nodes = [
        node("Conv", "x a.w a.b", "a", pads=[1, 1, 1, 1]), node("Identity", "a", "hidden"),
        node("Conv", "hidden b.w", "b"), node("GlobalAveragePool", "b", "p"), node("Flatten", "p", "y"),
    ]  # fmt: skip
    weights = [weight("a.w", 6, 2, 3, 3), weight("a.b", 6), weight("b.w", 5, 6, 3, 3)]
    return model(nodes, [value("x", ("N", 2, 6, 6))], [value("y", ("N", 5))], weights)


def outputs(proto: object, images: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> torch.Tensor:
    with torch.no_grad():
        return onnxinfo.convert(proto)(torch.from_numpy(images))[0].double()  # type: ignore[arg-type, no-any-return]


def sampled(count: int, *shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(0).standard_normal((count, *shape)).astype(np.float32)


def test_effects_are_exact_where_the_network_is_linear() -> None:
    images, proto = sampled(12, 2, 6, 6), linear()
    plan = onnxinfo.recommend_channels(proto, images, share=0.5, layers=["hidden"])
    before = outputs(proto, images)
    after = outputs(onnxinfo.prune_channels(proto, plan.to_dict()), images)
    measured = (after - before).square().sum(1).mean()
    variance = before.var(0, correction=0).sum()
    assert plan.change == pytest.approx(float(measured / variance), rel=1e-4)
    assert plan.tensors[0].effect == pytest.approx(float(measured), rel=1e-4)
    for channel, effect in enumerate(plan.effects("hidden")):
        alone = outputs(onnxinfo.prune_channels(proto, {"hidden": {1: [channel]}}), images)
        assert effect == pytest.approx(float((alone - before).square().sum(1).mean()), rel=1e-4)


def test_effects_are_those_of_dense_jacobians() -> None:
    images = np.load(path("digits.npz"))["images"][:3, None].astype(np.float32)
    plan = onnxinfo.recommend_channels(CNN, images, layers=["relu_3"], scale=1.0)
    hidden = onnxinfo.convert(onnxinfo.expose(CNN, ["relu_3"]))(torch.from_numpy(images))[1]
    rest = onnxinfo.convert(onnxinfo.extract(CNN, ["relu_3", "relu_2"], ["logits"]))
    skipped = onnxinfo.convert(onnxinfo.expose(CNN, ["relu_2"]))(torch.from_numpy(images))[1]
    expected = np.zeros(32)
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(
            lambda a, i=i: rest(a, skipped[i : i + 1])[0][0], hidden[i : i + 1]
        )
        moves = (jacobian[:, 0] * hidden[i]).sum((2, 3))
        expected += moves.square().sum(0).double().numpy() / 3
    np.testing.assert_allclose(plan.effects("relu_3"), expected, rtol=1e-4, atol=1e-7 * expected.max())


def test_probes_estimate_the_effects(monkeypatch: pytest.MonkeyPatch) -> None:
    images, proto = sampled(2, 2, 6, 6), linear()
    exact = onnxinfo.recommend_channels(proto, images, layers=["hidden"])
    monkeypatch.setattr("onnxinfo.metrics.sensitivity.MOST_EXACT", 1)
    probed = onnxinfo.recommend_channels(proto, images, layers=["hidden"], probes=2000)
    np.testing.assert_allclose(probed.effects("hidden"), exact.effects("hidden"), rtol=0.15)


def joint(effects: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]], channels: Sequence[int]) -> float:
    return float(np.square(effects["a"][[*channels]].sum(0)).sum())


def test_channels_that_cancel_go_together() -> None:
    effects = {"a": np.array([[3.0, 0], [-3, 0.1], [1, 1], [2, 2]], np.float32)}
    assert choose(effects, {"a": 1}) == {"a": [2]}
    # After the first, which is the smallest alone, its opposite follows, not the next smallest.
    opposite = {"a": np.array([[3.0, 0], [-1.3, 0], [1, 0.5], [0.9, 0.9]], np.float32)}
    assert choose(opposite, {"a": 2}) == {"a": [2, 1]}
    assert joint(opposite, [2, 1]) == pytest.approx(0.09 + 0.25)


def test_the_choice_goes_on_from_where_the_target_is() -> None:
    effects = {"a": np.array([[1.0, 0], [0, 1], [0.5, 0.5]], np.float32)}
    # Zeroing a channel moves the target by the opposite of its contribution.
    moved = np.array([0.9, 0], np.float32)
    assert choose(effects, {"a": 1}, moved, {"a": [2]}) == {"a": [0]}


def test_the_change_is_that_of_the_smaller_network() -> None:
    images = np.load(path("digits.npz"))["images"][:16, None].astype(np.float32)
    plan = onnxinfo.recommend_channels(CNN, images, share=0.5, scale=1.0)
    before, after = outputs(CNN, images), outputs(onnxinfo.prune_channels(CNN, plan.to_dict()), images)
    change = (after - before).square().sum(1).mean() / before.var(0, correction=0).sum()
    assert plan.change == pytest.approx(float(change), rel=1e-4)


def test_the_change_of_a_map_is_measured_whatever_the_probes() -> None:
    nodes = [
        node("Conv", "x a.w a.b", "a", pads=[1, 1, 1, 1]), node("Relu", "a", "hidden"), node("Conv", "hidden b.w", "y"),
    ]  # fmt: skip
    weights = [weight("a.w", 6, 2, 3, 3), weight("a.b", 6), weight("b.w", 5, 6, 3, 3)]
    proto, images = (
        model(nodes, [value("x", ("N", 2, 10, 10))], [value("y", ("N", 5, 8, 8))], weights),
        sampled(8, 2, 10, 10),
    )
    plan = onnxinfo.recommend_channels(proto, images, share=0.5, layers=["hidden"], probes=2)
    before = outputs(proto, images)
    moved = outputs(onnxinfo.prune_channels(proto, plan.to_dict()), images) - before
    measured = moved.square().sum((1, 2, 3)).mean() / before.var(0, correction=0).sum()
    assert plan.change == pytest.approx(float(measured), rel=1e-4)


def test_every_tensor_loses_its_own_number() -> None:
    random = np.random.default_rng(0)
    effects = {name: random.standard_normal((6, 40)).astype(np.float32) for name in "abc"}
    chosen = choose(effects, {"a": 3, "b": 0, "c": 5})
    assert [len(chosen[name]) for name in "abc"] == [3, 0, 5]
    assert all(len(set(each)) == len(each) for each in chosen.values())


def test_the_choice_is_among_the_best_pairs() -> None:
    random = np.random.default_rng(1)
    effects = {"a": random.standard_normal((8, 3)).astype(np.float32)}
    totals = sorted(joint(effects, pair) for pair in combinations(range(8), 2))
    found = joint(effects, choose(effects, {"a": 2})["a"])
    assert found <= totals[len(totals) // 4]


def test_the_choice_keeps_more_accuracy_than_chance() -> None:
    images = np.load(path("digits.npz"))["images"][:, None].astype(np.float32) / 255
    labels = torch.from_numpy(np.load(path("digits.npz"))["labels"].astype(np.int64))
    plan = onnxinfo.recommend_channels(CNN, images[:32], share=0.25, scale=1.0)
    assert [each.tensor for each in plan.tensors] == ["relu_1", "relu_3", "relu_4", "relu_5", "relu_6"]

    def accuracy(spec: dict[str, dict[int, list[int]]]) -> float:
        return float((outputs(onnxinfo.prune_channels(CNN, spec), images).argmax(1) == labels).double().mean())

    random, chance = np.random.default_rng(0), []
    for _ in range(5):
        spec = {
            each.tensor: {1: random.choice(len(each.effects), len(each.removed), replace=False).tolist()}
            for each in plan.tensors
        }
        chance.append(accuracy(spec))
    assert accuracy(plan.to_dict()) > max(chance)


def test_of_tensors_with_the_same_channels_the_last_is_named() -> None:
    nodes = [
        node("Conv", "x a.w", "a"), node("Relu", "a", "first"), node("Conv", "first d.w d.b", "d", group=6),
        node("Relu", "d", "second"), node("Conv", "second b.w", "b"), node("GlobalAveragePool", "b", "p"),
        node("Flatten", "p", "y"),
    ]  # fmt: skip
    weights = [weight("a.w", 6, 2, 1, 1), weight("d.w", 6, 1, 3, 3), weight("d.b", 6), weight("b.w", 5, 6, 1, 1)]
    proto = model(nodes, [value("x", ("N", 2, 6, 6))], [value("y", ("N", 5))], weights)
    plan = onnxinfo.recommend_channels(proto, sampled(4, 2, 6, 6), share=0.4)
    assert {name: len(axes[1]) for name, axes in plan.to_dict().items()} == {"second": 2}
    assert onnxinfo.prune_channels(proto, plan.to_dict()).flow.shape("first") == ("N", 4, 6, 6)


def grouped(branches: int = 1) -> onnx.ModelProto:
    """Convolutions of four groups of three channels between two of one group; branches share all weights."""
    nodes, ends = [], []
    for i in range(branches):
        each, source = f"{i}", "x" if i == 0 else "negative"
        ends.append(f"b{each}")
        nodes += [
            *(node("Conv", f"{source} a.w a.b", f"a{each}"), node("Relu", f"a{each}", f"r{each}")),
            *(
                node("Conv", f"r{each} g.w", f"g{each}", group=4, pads=[1, 1, 1, 1]),
                node("Relu", f"g{each}", f"h{each}"),
            ),
            node("Conv", f"h{each} b.w", f"b{each}"),
        ]
    nodes = [node("Neg", "x", "negative"), *nodes] if branches > 1 else nodes
    nodes += [node("Sum", " ".join(ends), "s"), node("GlobalAveragePool", "s", "p"), node("Flatten", "p", "y")]
    weights = [weight("a.w", 12, 2, 1, 1), weight("a.b", 12), weight("g.w", 12, 3, 3, 3), weight("b.w", 5, 12, 1, 1)]
    return model(nodes, [value("x", ("N", 2, 6, 6))], [value("y", ("N", 5))], weights)


def test_convolutions_of_several_groups_lose_the_groups_that_matter_least() -> None:
    images, proto = sampled(12, 2, 6, 6), grouped()
    plan = onnxinfo.recommend_channels(proto, images, share=0.3)
    (found,) = plan.tensors
    assert found.tensor == "h0"
    before, variance = outputs(proto, images), outputs(proto, images).var(0, correction=0).sum()
    changes = []
    for group in range(4):
        smaller = onnxinfo.prune_channels(proto, {"h0": {1: [*range(3 * group, 3 * group + 3)]}})
        changes.append(float((outputs(smaller, images) - before).square().sum(1).mean() / variance))
    best = int(np.argmin(changes))
    assert found.removed == (3 * best, 3 * best + 1, 3 * best + 2)
    assert plan.change == pytest.approx(changes[best], rel=1e-4)
    assert onnxinfo.recommend_channels(proto, images, share=0.5).parameters[1] < plan.parameters[1]
    with pytest.raises(UsageError, match="of at most 4 channels, or groups of them, is none"):
        onnxinfo.recommend_channels(proto, images, share=0.2)


def test_shared_convolutions_of_several_groups_lose_the_same_groups() -> None:
    images, proto = sampled(12, 2, 6, 6), grouped(branches=2)
    plan = onnxinfo.recommend_channels(proto, images, share=0.5)
    first, second = plan.tensors
    assert (first.tensor, second.tensor) == ("h0", "h1")
    assert first.removed == second.removed
    assert len(first.removed) == 6
    assert plan.parameters[1] < plan.parameters[0] / 1.5
    onnxinfo.prune_channels(proto, plan.to_dict())


def siamese(*tail: onnx.NodeProto, depth: int = 2) -> onnx.ModelProto:
    """Two branches with the same weights, which are compared."""
    nodes, weights = [node("Exp", "x", "b0"), node("Identity", "x", "a0")], []
    for i in range(depth):
        for side in "ab":
            nodes += [
                node("Conv", f"{side}{i} w{i} v{i}", f"{side}c{i}"),
                node("Relu", f"{side}c{i}", f"{side}{i + 1}"),
            ]
        weights += [weight(f"w{i}", 6, 6 if i else 2, 1, 1), weight(f"v{i}", 6)]
    nodes += [
        node("Conv", f"a{depth} k", "ak"), node("Conv", f"b{depth} k", "bk"), node("Sub", "ak bk", "d"), *tail,
        node("GlobalAveragePool", "d", "p"), node("Flatten", "p", "y"),
    ]  # fmt: skip
    return model(nodes, [value("x", ("N", 2, 4, 4))], [value("y", ("N", 5))], [*weights, weight("k", 5, 6, 1, 1)])


def test_weights_that_nodes_share_stay_shared(caplog: pytest.LogCaptureFixture) -> None:
    proto, images = siamese(), sampled(8, 2, 4, 4)
    plan = onnxinfo.recommend_channels(proto, images, share=0.5)
    found = plan.to_dict()
    assert sorted(found) == ["a1", "a2", "b1", "b2"]
    assert found["a1"] == found["b1"]
    assert found["a2"] == found["b2"]
    assert plan.parameters == (12 + 6 + 36 + 6 + 30, 6 + 3 + 9 + 3 + 15)
    before, after = outputs(proto, images), outputs(onnxinfo.prune_channels(proto, found), images)
    change = (after - before).square().sum(1).mean() / before.var(0, correction=0).sum()
    assert plan.change == pytest.approx(float(change), rel=1e-4)
    assert not caplog.records


def test_what_would_need_copies_of_shared_weights_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    # The weight of the last layer of the branches is read by a node that cannot lose channels.
    used = [node("ReduceSum", "k", "size", keepdims=0), node("Mul", "d size", "d2"), node("Identity", "d2", "d3")]
    proto = siamese(*used)
    proto.graph.node[-2].input[0] = "d3"
    plan = onnxinfo.recommend_channels(proto, sampled(8, 2, 4, 4), share=0.5)
    assert sorted(plan.to_dict()) == ["a1", "b1"]
    assert plan.parameters[1] < plan.parameters[0]
    assert "left out, because nodes would need copies of the weights that they share: 'a2', 'b2'" in caplog.text


def test_a_model_that_would_not_get_smaller_is_not_recommended() -> None:
    # The statistics that two normalizations share have to be copied, which takes more than one channel of weights.
    nodes = [
        node("Conv", "x a.w", "a"), node("BatchNormalization", "a s b m v", "an"), node("Relu", "an", "ar"),
        node("Conv", "ar b.w", "c"), node("BatchNormalization", "c s b m v", "cn"), node("Conv", "cn d.w", "d"),
        node("GlobalAveragePool", "d", "p"), node("Flatten", "p", "y"),
    ]  # fmt: skip
    weights = [weight("a.w", 6, 2, 1, 1), weight("b.w", 6, 6, 1, 1), weight("d.w", 2, 6, 1, 1)]
    statistics = [constant(name, np.ones(6), np.float32) for name in "sbmv"]
    proto = model(nodes, [value("x", ("N", 2, 4, 4))], [value("y", ("N", 2))], [*weights, *statistics])
    with pytest.raises(UsageError, match="the model has 96 parameters, 84 before"):
        onnxinfo.recommend_channels(proto, sampled(6, 2, 4, 4), share=0.2, layers=["ar"])
    plan = onnxinfo.recommend_channels(proto, sampled(6, 2, 4, 4), share=0.5, layers=["ar"])
    assert plan.parameters[1] < plan.parameters[0]


def test_of_what_patterns_match_the_rest_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    plan = onnxinfo.recommend_channels(CNN, IMAGES, layers=["relu*"], limit=4)
    assert [*plan.to_dict()] == ["relu_1", "relu_3", "relu_4", "relu_5", "relu_6"]
    assert (
        "left out, because they lose no channels of their own: 2 of the 7 layers that the patterns match" in caplog.text
    )


def test_a_named_layer_that_would_need_copies_is_refused_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxinfo.workflows.recommend_channels.ChannelChooser", None)
    with pytest.raises(UsageError, match="without channels of 'a1', nodes that share weight 'w0' would need copies"):
        onnxinfo.recommend_channels(siamese(), sampled(8, 2, 4, 4), share=0.5, layers=["a1"])
    with pytest.raises(UsageError, match="nodes that share weight 'w0' would need") as refused:
        onnxinfo.recommend_channels(siamese(), sampled(8, 2, 4, 4), share=0.5, exclude=["b*"])
    assert "\n" not in str(refused.value)


def concatenated(middle: str, beta: list[float]) -> onnx.ModelProto:
    """A dense block: after the concatenation, the channels that become zero are `beta` at a padded convolution."""
    nodes = [
        node("Conv", "x a.w", "a", pads=[1, 1, 1, 1]), node("Relu", "a", "r"), node("Conv", "r b.w", "b"),
        node("Relu", "b", "s"), node("Concat", "s r", "both", axis=1),
        node("BatchNormalization", "both n.s n.b n.m n.v", "n"), node("Relu", "n", "t"),
        *([node("Conv", "t d.w", "u", pads=[1, 1, 1, 1], group=8)] if middle else []),
        node("Conv", f"{'u' if middle else 't'} c.w", "c", pads=[1, 1, 1, 1]), node("Relu", "c", "last"),
        node("Conv", "last e.w", "e"), node("GlobalAveragePool", "e", "p"), node("Flatten", "p", "y"),
    ]  # fmt: skip
    weights = [
        weight("a.w", 4, 2, 3, 3), weight("b.w", 4, 4, 1, 1), weight("c.w", 6, 8, 3, 3), weight("d.w", 8, 1, 3, 3),
        weight("e.w", 5, 6, 1, 1), constant("n.s", np.ones(8), np.float32), constant("n.b", beta, np.float32),
        constant("n.m", np.zeros(8), np.float32), constant("n.v", np.ones(8), np.float32),
    ]  # fmt: skip
    used = {name for each in nodes for name in each.input}
    kept = [each for each in weights if each.name in used]
    return model(nodes, [value("x", ("N", 2, 6, 6))], [value("y", ("N", 5))], kept)


@pytest.mark.parametrize("middle", ["", "depthwise"])
@pytest.mark.parametrize(
    ("beta", "removed"),
    [
        ([-1.0] * 8, {"r", "s", "last"}),
        ([-1.0] * 3 + [0.5] + [-1.0] * 4, {"r", "last"}),
        ([-1.0] * 4 + [0.5] * 4, {"s", "last"}),
    ],
)
def test_what_would_leave_constants_at_padding_is_left_out(middle: str, beta: list[float], removed: set[str]) -> None:
    proto, images = concatenated(middle, beta), sampled(6, 2, 6, 6)
    plan = onnxinfo.recommend_channels(proto, images, share=0.25)
    assert {*plan.to_dict()} == removed
    onnxinfo.prune_channels(proto, plan.to_dict())


def test_a_named_layer_that_would_leave_constants_is_refused_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxinfo.workflows.recommend_channels.ChannelChooser", None)
    proto = concatenated("", [-1.0] * 3 + [0.5] + [-1.0] * 4)
    with pytest.raises(UsageError, match="constant but not zero where Conv"):
        onnxinfo.recommend_channels(proto, sampled(6, 2, 6, 6), share=0.25, layers=["s"])


def test_the_command_writes_what_prune_takes(tmp_path: Path) -> None:
    spec, smaller = tmp_path / "channels.json", tmp_path / "smaller.onnx"
    samples = ["--inputs", IMAGES, "--limit", "16"]
    done = CliRunner().invoke(
        cli, ["recommend", "channels", str(CNN), *samples, "--share", ".25", "-o", str(spec)], obj={}
    )
    assert done.exit_code == 0, done.output
    assert "of 46890 parameters; change of logits" in done.output
    stored = json.loads(spec.read_text())
    assert {name: {axis: len(found) for axis, found in each.items()} for name, each in stored.items()} == {
        "relu_1": {"1": 4}, "relu_3": {"1": 8}, "relu_4": {"1": 8}, "relu_5": {"1": 10}, "relu_6": {"1": 10},
    }  # fmt: skip
    done = CliRunner().invoke(cli, ["prune", str(CNN), "--channels", str(spec), "-o", str(smaller)], obj={})
    assert done.exit_code == 0, done.output
    listed = CliRunner().invoke(cli, ["recommend", "channels", str(CNN), *samples, "--format", "json"], obj={})
    rows = json.loads(listed.stdout)
    assert (rows[0]["tensor"], rows[0]["channels"], rows[0]["removed"]) == ("relu_1", 16, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0}, "above 0 and below 1 expected"),
        ({"share": 1}, "above 0 and below 1 expected"),
        ({"share": float("nan")}, "above 0 and below 1 expected"),
        ({"share": 0.001}, "share=0.001 of at most 40 channels is none"),
        ({"layers": ["relu"]}, "the channels of 'relu', which are those of 'relu_2', cannot be removed"),
        ({"layers": ["logits"]}, "no layer can lose channels"),
        ({"target": "relu"}, "no layer can lose channels without another one"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        onnxinfo.recommend_channels(CNN, IMAGES, limit=4, **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
