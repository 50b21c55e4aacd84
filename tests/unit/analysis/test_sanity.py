"""The sanity card: what a model receives, what it makes of it, and what is probably wrong."""

import itertools
import logging
import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxinfo
from onnxinfo.archive.sanity import SanityCard
from onnxinfo.graph.own_scaling import own_scaling
from onnxinfo.models import path

MODEL = str(path("digits-cnn.onnx"))
IMAGES, LABELS = (f"{path('digits.npz')}:{key}" for key in ("images", "labels"))
CLASSES = 4


def template_model(*, before=(), constants=None, channels=3, side=8):
    """A classifier of images by their nearest template: class k is bright in channel 0 where k says.

    Its scores depend on scale and offset: the templates are images in 0..1 minus .5, over .25.
    """
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.random((CLASSES, channels, 2, 2)), np.ones((1, 1, side // 2, side // 2)))
    templates = ((smooth - 0.5) / 0.25).astype(np.float32)
    flat = templates.reshape(CLASSES, -1)
    values = {
        "w": flat.T.copy() * 2,
        "b": -(flat**2).sum(1),
        **{name: np.asarray(value, np.float32) for name, value in (constants or {}).items()},
    }
    last = before[-1].output[0] if before else "x"
    nodes = [
        *before,
        helper.make_node("Flatten", [last], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "template",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels, side, side])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model, smooth


def images_of(smooth, count=24, seed=1):
    """Noisy 8-bit images with channels last, and their classes."""
    labels = np.arange(count) % CLASSES
    noise = np.random.default_rng(seed).normal(0, 0.02, (count, *smooth.shape[1:]))
    return (255 * np.clip(smooth[labels] + noise, 0, 1)).astype(np.uint8).transpose(0, 2, 3, 1), labels


@pytest.fixture(scope="module")
def classifier():
    model, smooth = template_model()
    return (model, *images_of(smooth))


def test_the_card_says_what_was_applied_and_who_chose_it():
    card = onnxinfo.doctor(MODEL, IMAGES, limit=3, preset="unit", std=2.0, resize="crop")
    assert card.preprocessing == {
        "scale 0.00392157": "preset unit",
        "mean none": "preset unit",
        "std 2": "given",
        "resize crop": "given",
        "axes channel, y, x": "inferred from the model",
    }
    assert (card.samples, card.input, card.minimum, card.maximum) == (3, "image", 0, 0.5)
    assert 0 < card.mean < 0.5
    assert onnxinfo.doctor(MODEL, IMAGES, limit=3).preprocessing["scale 0.00392157"] == "assumed"


def test_every_sample_has_a_class_and_a_probability():
    card = onnxinfo.doctor(MODEL, IMAGES, labels=LABELS)
    with np.load(path("digits.npz")) as digits:
        assert card.predicted.tolist() == digits["labels"].tolist()
    assert card.accuracy == 1
    assert card.labeled == 50
    assert ((card.probability > 0.5) & (card.probability <= 1)).all()
    assert card.warnings == ()


def test_a_better_scale_is_found_by_the_labels(classifier):
    model, images, labels = classifier
    card = onnxinfo.doctor(model, images, labels=labels)
    assert card.better.options == {"preset": "imagenet"}
    assert card.better.accuracy == 1 > card.accuracy_tried
    assert f"accuracy is {card.accuracy_tried:.2f}, and would be 1.00 with preset imagenet" in card.warnings[0]
    assert "prefer the one that the model was trained with" in card.warnings[0]


def test_exact_preprocessing_is_left_alone(classifier):
    model, images, labels = classifier
    card = onnxinfo.doctor(model, images, labels=labels, mean=0.5, std=0.25)
    assert card.accuracy == 1
    assert card.better is None
    assert card.warnings == ()


def test_few_samples_are_compared_on_more_than_the_limit(classifier):
    model, images, labels = classifier
    card = onnxinfo.doctor(model, images, labels=labels, limit=2)
    assert card.samples == 2
    assert card.tried == 24
    assert card.better is not None


def test_exchanged_height_and_width_are_found(classifier):
    model, images, labels = classifier
    card = onnxinfo.doctor(model, images.transpose(0, 2, 1, 3), labels=labels, mean=0.5, std=0.25)
    assert card.better.remedy == "transpose height and width of the images"


def test_reshaped_instead_of_transposed_images_are_found():
    rows = np.linspace(0, 1, 16)
    images = np.stack([rows[:, None] * rows, rows[::-1, None] * rows, rows[:, None] * rows[::-1]], axis=-1)[None]
    images = (200 * images).astype(np.uint8).repeat(2, axis=0)
    model, _ = template_model(side=16)
    assert onnxinfo.doctor(model, images).warnings == ()
    (warning,) = onnxinfo.doctor(model, images.reshape(2, 3, 16, 16)).warnings
    assert "reshaped instead of transposed" in warning


def test_bytes_in_a_model_that_does_not_scale_them(classifier):
    model, images, _ = classifier
    (warning,) = onnxinfo.doctor(model, images.astype(np.float32)).warnings
    assert "like bytes" in warning
    scale = float(re.search(r"give scale=([\d.]+) or", warning)[1])
    assert onnxinfo.doctor(model, images.astype(np.float32), scale=scale).warnings == ()


def test_small_values_in_a_model_that_scales_them_itself():
    own = [helper.make_node("Mul", ["x", "s"], ["scaled"])]
    model, smooth = template_model(before=own, constants={"s": 1 / 255})
    images, _ = images_of(smooth)
    (warning,) = onnxinfo.doctor(model, images).warnings
    assert "it expects bytes in 0..255" in warning
    assert "give scale=1, and no preset" in warning
    assert onnxinfo.doctor(model, images, scale=1.0).warnings == ()


def test_a_model_that_normalizes_itself():
    own = [helper.make_node("Sub", ["x", "m"], ["a"]), helper.make_node("Div", ["a", "s"], ["scaled"])]
    model, smooth = template_model(before=own, constants={"m": 0.5, "s": 0.25})
    images, _ = images_of(smooth)
    assert onnxinfo.doctor(model, images).warnings == ()
    (warning,) = onnxinfo.doctor(model, images, preset="imagenet").warnings
    assert "the preprocessing does so too" in warning


def test_values_far_from_the_preset(classifier):
    model, images, _ = classifier
    (warning,) = onnxinfo.doctor(model, images / 255 / 255, preset="imagenet").warnings
    assert "far from the range of preset imagenet" in warning


def test_accuracy_near_chance_and_labels_counted_from_1(classifier):
    model, images, labels = classifier
    shifted = onnxinfo.doctor(model, images, labels=labels + 1, mean=0.5, std=0.25)
    assert any("counted from 1" in warning for warning in shifted.warnings)
    assert any("near chance" in warning for warning in shifted.warnings)


def test_few_samples_do_not_tell_chance_from_a_good_network(classifier):
    """Of four classes, at an accuracy halfway to 1, two of two are wrong in 14 % of cases, and six of six in 0.3 %."""
    model, images, labels = classifier
    for count, warned in ((2, False), (6, True)):
        card = onnxinfo.doctor(model, images[:count], labels=(labels[:count] + 1) % CLASSES, mean=0.5, std=0.25)
        assert card.accuracy == 0
        assert any("near chance" in warning for warning in card.warnings) == warned


def test_a_poor_network_is_not_called_one_of_chance(classifier):
    """42 of 96 are more than two standard errors above a quarter, 33 %, and below halfway to 1, 53 %."""
    model, images, labels = classifier
    images, labels = np.tile(images, (4, 1, 1, 1)), np.tile(labels, 4)
    labels[42:] = (labels[42:] + 1) % CLASSES
    card = onnxinfo.doctor(model, images, labels=labels, mean=0.5, std=0.25)
    assert card.accuracy == 42 / 96
    assert not any("near chance" in warning for warning in card.warnings)


def test_labels_of_unknown_classes_are_a_note(classifier):
    model, images, labels = classifier
    card = onnxinfo.doctor(model, images, labels=["ab"[i % 2] for i in labels])
    assert np.isnan(card.accuracy)
    assert "unknown which class" in card.notes[0]


def test_models_that_are_no_classifiers_have_no_predictions():
    wine = path("sklearn-diabetes-mlp.onnx")
    card = onnxinfo.doctor(wine, f"{path('diabetes.npz')}:features", limit=4)
    assert card.predicted is None
    assert "no predictions" in card.notes[0]


def test_own_scaling_of_batch_normalization():
    nodes = [helper.make_node("BatchNormalization", ["x", "g", "z", "z", "v"], ["y"])]
    model, _ = template_model(before=nodes, constants={"g": [1, 1, 1], "z": [0, 0, 0], "v": [4, 4, 4]})
    found = own_scaling(onnxinfo.load(model).flow, "x")
    assert found.centers
    assert found.factor == pytest.approx(0.5, rel=1e-3)
    assert onnx.checker.check_model(model) is None


class Counted(list):
    """A list that counts how many of its elements are read."""

    reads = 0

    def __getitem__(self, key):
        self.reads += 1
        return super().__getitem__(key)

    def __iter__(self):
        for element in super().__iter__():
            self.reads += 1
            yield element


def test_own_scaling_reads_each_node_once():
    names = ["x", *(f"v{i}" for i in range(50))]
    nodes = [helper.make_node("Mul", [a, "two"], [b]) for a, b in itertools.pairwise(names)]
    model, _ = template_model(before=nodes, constants={"two": 1.0})
    flow = onnxinfo.load(model).flow
    flow.nodes, flow.needs = Counted(flow.nodes), Counted(flow.needs)
    own_scaling(flow, "x")
    assert flow.nodes.reads + flow.needs.reads <= len(nodes) + 1


def test_the_card_is_stored_and_shown(tmp_path, caplog):
    caplog.set_level(logging.INFO, "onnxinfo.sanity")
    result = onnxinfo.analyze(MODEL, IMAGES, tmp_path / "a.h5", layers=["logits"], limit=2, labels=LABELS, scale=5.0)
    with onnxinfo.open(tmp_path / "a.h5") as archive:
        run = archive[result.run]
        card = run.sanity
        assert card.predicted.tolist() == run.predicted.tolist() == [1, 4]
        assert "WARNING: the model's input ranges from 0 to 1275" in str(run)
        assert run.to_xarray()["probability"].dims == ("sample",)
        assert card.to_dict() == run.provenance["sanity"]
    assert onnxinfo.validate(tmp_path / "a.h5").valid
    records = {record.levelno: record.getMessage() for record in caplog.records if "range" in record.getMessage()}
    assert logging.WARNING in records
    page = tmp_path / "a.html"
    onnxinfo.report(tmp_path / "a.h5", page)
    text = page.read_text(encoding="utf-8")
    assert "scale 5 (given)" in text
    assert "ranges from 0 to 1275" in text


def test_anonymous_runs_do_not_name_samples(tmp_path):
    diabetes = f"{path('diabetes.npz')}:features"
    model = path("sklearn-diabetes-mlp.onnx")
    result = onnxinfo.analyze(model, diabetes, tmp_path / "a.h5", layers=["-1"], limit=2, anonymous_names=True)
    with onnxinfo.open(tmp_path / "a.h5") as archive:
        assert archive[result.run].sanity.notes == ()


def test_scores_that_are_not_finite_name_no_class():
    """A class has a number and a probability, or there is none."""
    few = SanityCard("x", 2, {}, predicted=np.array([3, -1]), probability=np.array([0.5, np.nan]))
    assert "predictions: class 3 (0.50), no class (scores not finite)" in few.lines()
    many = SanityCard("x", 9, {}, predicted=np.full(9, -1), probability=np.full(9, np.nan))
    assert "predictions: no class (scores not finite): 9" in many.lines()
