"""Foregrounds: read from every kind of file, mapped along with their images, refused if wrong; concentration."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from places import SHARED

import onnxinfo
from onnxinfo.cli import cli
from onnxinfo.errors import InputError, UsageError
from onnxinfo.inputs.foreground import open_foreground
from onnxinfo.inputs.opening import open_samples
from onnxinfo.models import path

MODEL = str(path("digits-cnn.onnx"))
DIGITS = f"{path('digits.npz')}:images"
COUNT = len(np.load(path("digits.npz"))["images"])
BOX = (2, 1, 6, 5)
RESNET = SHARED / "models" / "resnet20-cifar10-opset20.onnx"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three images, 8 wide and 6 high."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.jpg")
    return folder


def masks_of(spec, pictures: Path, **options) -> np.ndarray:
    return open_foreground(spec).masks(open_samples(pictures, shape=(3, 6, 8), **options))


def expected(box=BOX) -> np.ndarray:
    mask = np.zeros((6, 8), np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    return mask


def voc(folder: Path, name: str, body: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.xml").write_text(body)


VOC_BOX = (
    "<annotation><object><name>cat</name><part><bndbox><xmin>1</xmin></bndbox></part>"
    "<bndbox><xmin>3</xmin><ymin>2</ymin><xmax>6</xmax><ymax>5</ymax></bndbox></object></annotation>"
)


def written(kind: str, folder: Path):
    """The box of image 1 only, in one kind of file."""
    if kind == "csv":
        (folder / "boxes.csv").write_text("filename,xmin,ymin,xmax,ymax\n1.jpg,2,1,6,5\n")
        return folder / "boxes.csv"
    if kind == "coco":
        annotation = {"image_id": 7, "bbox": [2, 1, 4, 4]}
        images = [{"id": 7, "file_name": "1.jpg"}, {"id": 8, "file_name": "2.jpg"}]
        (folder / "boxes.json").write_text(json.dumps({"images": images, "annotations": [annotation]}))
        return folder / "boxes.json"
    if kind == "voc":
        voc(folder / "voc", "1", VOC_BOX)
        return folder / "voc"
    if kind == "png":
        (folder / "masks").mkdir()
        Image.fromarray(expected() * 255).save(folder / "masks" / "1.png")
        return folder / "masks"
    nowhere = [np.nan] * 4
    np.savez(folder / "boxes.npz", boxes=np.array([nowhere, BOX, nowhere]))
    return f"{folder / 'boxes.npz'}:boxes"


@pytest.mark.parametrize("kind", ["csv", "coco", "voc", "png", "npz"])
def test_the_same_box_is_read_from_every_kind_of_file(kind: str, tmp_path: Path, pictures: Path) -> None:
    masks = masks_of(written(kind, tmp_path), pictures)
    assert masks.dtype == np.uint8
    np.testing.assert_array_equal(masks[1], expected())
    assert not masks[[0, 2]].any()


def test_several_boxes_of_an_image_are_one_foreground(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "b.csv").write_text("0,0,0,2,2\n0,4,4,8,6\n")
    masks = masks_of(tmp_path / "b.csv", pictures)
    np.testing.assert_array_equal(masks[0], expected((0, 0, 2, 2)) | expected((4, 4, 8, 6)))


def test_boxes_and_masks_follow_resize_and_crop(tmp_path: Path, pictures: Path) -> None:
    boxes, masks = np.array([BOX] * 3), np.stack([expected()] * 3)
    samples = open_samples(pictures, shape=(3, 12, 12))
    # Twice as large, then 2 pixels cut off on either side.
    seen = np.zeros((12, 12), np.uint8)
    seen[2:10, 2:10] = 1
    np.testing.assert_array_equal(open_foreground(boxes).masks(samples)[0], seen)
    np.testing.assert_array_equal(open_foreground(masks).masks(samples)[0], seen)


@pytest.mark.parametrize("kind", ["csv", "png", "npz"])
def test_images_are_cropped_to_their_boxes(kind: str, tmp_path: Path, pictures: Path) -> None:
    foreground = open_foreground(written(kind, tmp_path))
    samples = open_samples(pictures, shape=(3, 6, 6), boxes=foreground.crops(), box_scale=1.5)
    assert samples.names == ["1.jpg"]
    assert samples.geometry(0).region == (1, 0, 7, 6)
    np.testing.assert_array_equal(foreground.masks(samples)[0], expected((1, 1, 5, 5))[:, :6])


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (np.array([[20, 1, 30, 5]] * 3), "outside the image of 8x6"),
        (np.array([[5, 1, 5, 5]] * 3), "empty"),
        (np.zeros((3, 6, 8), np.uint8), "mask is empty"),
        (np.array([BOX] * 2), "2 entries, the samples are 3"),
        (np.ones((3, 5, 8)), "shape (5, 8)"),
        (np.full((3, 4), np.nan), "none of the 3 samples"),
        (np.ones((3, 5)), "shape (3, 5)"),
        (np.array([["a"] * 4] * 3), "expected numbers"),
    ],
)
def test_wrong_foregrounds_are_refused(spec: np.ndarray, said: str, pictures: Path) -> None:
    with pytest.raises(InputError) as caught:
        masks_of(spec, pictures)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><annotation><object>&c;</object></annotation>'


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("voc/1.xml", BOMB, "document type declaration"),
        ("voc/1.xml", "<annotation><object><bndbox><xmin>1</xmin></bndbox></object></annotation>", "without 'ymin'"),
        ("voc/1.xml", "<annotation>", "cannot be read as XML"),
        ("b.json", "[" * 200_000, "not COCO JSON"),
        ("b.json", '{"images": [], "annotations": []}', "none at all"),
        ("b.csv", "a,1,2,3\nb,1,2,x\n", "not four numbers"),
        ("b.csv", "a,b\n", "columns"),
        ("b.txt", "\udcff", "cannot be read"),
    ],
)
def test_damaged_and_hostile_files_are_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    target = tmp_path / name
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as caught:
        open_foreground(target.parent if "/" in name else target)
    assert said in str(caught.value)


def test_an_ambiguous_name_is_refused(tmp_path: Path, pictures: Path) -> None:
    for folder in ("a", "b"):
        (pictures / folder).mkdir()
        (pictures / folder / "0.jpg").write_bytes((pictures / "0.jpg").read_bytes())
    (pictures / "0.jpg").unlink()
    (tmp_path / "b.csv").write_text("0.jpg,2,1,6,5\n")
    with pytest.raises(InputError, match="could be"):
        masks_of(tmp_path / "b.csv", pictures)


def boxes_of_digits() -> np.ndarray:
    boxes = np.tile(np.array([1.0, 1, 6, 7]), (COUNT, 1))
    boxes[1] = np.nan
    return boxes


def test_concentration_is_the_difference_of_mean_entropies(tmp_path: Path) -> None:
    result = onnxinfo.analyze(
        MODEL, DIGITS, tmp_path / "out.h5", limit=3, layers=["relu_2", "logits"],
        metrics=["sid", "concentration"], foreground=boxes_of_digits(),
    )  # fmt: skip
    with onnxinfo.open(result.archive) as archive:
        run = archive[result.run]
        values, maps = run.values("concentration"), run.maps("sid", 1)
        mask = run.foreground
        assert run.recipe["without_foreground"] == 1
    assert onnxinfo.validate(result.archive).valid
    assert mask is not None
    assert mask.sum((1, 2)).tolist() == [30, 0, 30]
    assert values["converged"].tolist() == [[True, False, True]] * 2
    assert np.isnan(values["value"][:, 1]).all()
    inside = mask[2].astype(bool)
    # Maps are stored with 15 bits.
    assert values["value"][1, 2] == pytest.approx(maps[2, 0][~inside].mean() - maps[2, 0][inside].mean(), abs=1e-3)
    assert values["foreground"][0, 0] == pytest.approx(30 / 64)


def test_concentration_is_of_the_units_that_count(tmp_path: Path) -> None:
    counted = np.random.default_rng(0).random((COUNT, 1, 8, 8)) < 0.7
    result = onnxinfo.analyze(
        MODEL, DIGITS, tmp_path / "out.h5", limit=1, layers=["logits"],
        metrics=["sid", "concentration"], foreground=boxes_of_digits(), unit_mask=counted,
    )  # fmt: skip
    with onnxinfo.open(result.archive) as archive:
        run = archive[result.run]
        values, found = run.values("concentration"), run.maps("sid", 0)[0, 0]
        inside = run.foreground[0].astype(bool)
    assert values["value"][0, 0] == pytest.approx(np.nanmean(found[~inside]) - np.nanmean(found[inside]), abs=1e-3)
    assert values["foreground"][0, 0] == pytest.approx(inside[counted[0, 0]].mean())


def spread_and_stated(folder: Path, model, images, layer: str, seeds: int, **options) -> tuple[float, float]:
    """Root mean square of the spread of concentration over seeds, and of its stated error."""
    found = []
    for seed in range(seeds):
        result = onnxinfo.analyze(
            model, images, folder / f"{seed}.h5", layers=[layer], metrics=["concentration"], seed=seed, **options
        )
        with onnxinfo.open(result.archive) as archive:
            found.append(archive[result.run].values("concentration"))
    value, stderr = (np.array([each[name][0] for each in found]) for name in ("value", "stderr"))
    known = np.isfinite(value).all(0)
    assert known.sum() >= 3
    np.testing.assert_array_equal(np.isfinite(stderr).all(0), known)
    spread, stated = (float(np.sqrt(np.square(each[known]).mean())) for each in (value.std(0, ddof=1), stderr.mean(0)))
    return spread, stated


def test_concentration_is_within_its_error(tmp_path: Path) -> None:
    """Where the layer is nearly linear, exact norms at the sample tell more than the error grants."""
    spread, stated = spread_and_stated(tmp_path, MODEL, DIGITS, "relu_3", 5, limit=6, foreground=boxes_of_digits())
    assert 0.1 < spread / stated < 1.3


@pytest.mark.skipif(not RESNET.exists(), reason="set ONNXINFO_SHARED to the folder of data and models")
def test_concentration_s_error_is_its_spread_over_seeds(tmp_path: Path) -> None:
    """Units with common receptive fields err together; taken as independent, they would err by a third of it."""
    inside = np.array([[8, 8, 24, 24]] * 4, np.float32)
    images = np.load(SHARED / "data" / "cifar10.npz")["x_test"][:4]
    spread, stated = spread_and_stated(tmp_path, RESNET, images, "relu_9", 6, preset="imagenet", foreground=inside)
    assert 0.7 < spread / stated < 1.4


def test_concentration_alone_is_that_beside_sid(tmp_path: Path) -> None:
    found = []
    for metrics in (["concentration"], ["sid", "concentration"]):
        output = tmp_path / f"{len(metrics)}.h5"
        result = onnxinfo.analyze(
            MODEL, DIGITS, output, limit=2, layers=["relu_2"], metrics=metrics, foreground=boxes_of_digits()
        )
        with onnxinfo.open(result.archive) as archive:
            found.append(archive[result.run].values("concentration")["value"])
    np.testing.assert_array_equal(*found)


def test_nothing_is_written_when_the_foreground_is_wrong(tmp_path: Path) -> None:
    output = tmp_path / "out.h5"
    for error, options in (
        (UsageError, {"metrics": ["concentration"]}),
        (UsageError, {"crop_to_box": 1.5}),
        (InputError, {"foreground": np.array([[1, 1, 6, 7]] * 5)}),
        (InputError, {"foreground": np.array([[1, 1, 60, 70]] * COUNT)}),
    ):
        with pytest.raises(error):
            onnxinfo.analyze(MODEL, DIGITS, output, limit=2, layers=["relu_2"], **options)
        assert not output.exists()
    wrong = onnxinfo.models.path("wine.npz")
    with pytest.raises(UsageError, match="needs images"):
        onnxinfo.analyze(
            str(path("sklearn-wine-mlp.onnx")), f"{wrong}:features", output, limit=2, foreground=np.ones((2, 4))
        )


def test_the_command_takes_boxes(tmp_path: Path) -> None:
    np.savez(tmp_path / "b.npz", boxes=boxes_of_digits())
    command = ["-q", "analyze", MODEL, "--inputs", DIGITS, "--limit", "3", "--layers", "logits", "-o"]
    command += [str(tmp_path / "o.h5"), "--metric", "concentration", "--foreground", f"{tmp_path / 'b.npz'}:boxes"]
    counted = CliRunner().invoke(cli, [*command[1:], "--run", "whole"])
    assert "without a foreground: 1 of 3 samples" in counted.output
    result = CliRunner().invoke(cli, [*command, "--crop-to-box", "1.5"])
    assert result.exit_code == 0, result.output
    with onnxinfo.open(tmp_path / "o.h5") as archive:
        run = archive["digits-cnn"]
        assert run.shape == (1, 3)
        assert run.recipe["preprocessing"]["box_scale"] == 1.5
        assert run.recipe["without_foreground"] == 0
        assert np.isfinite(run.values("concentration")["value"]).all()
