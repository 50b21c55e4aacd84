"""Values, axes and geometry: preprocessing of samples."""

from __future__ import annotations

import json

import numpy as np
import pytest

from onnxinfo.errors import InputError, UsageError
from onnxinfo.inputs.axes import axis_names, describe
from onnxinfo.inputs.geometry import fit
from onnxinfo.inputs.preprocess import choose

BYTE, FLOAT = np.dtype(np.uint8), np.dtype(np.float32)


def test_imagenet_preset_is_the_usual_formula() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3)).astype(np.uint8)
    preprocessing = choose(BYTE, image=True, channels=3, preset="imagenet")
    expected = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(preprocessing.normalize(pixels, 3), expected, rtol=1e-5, atol=1e-6)


def test_explicit_numbers_win_over_the_preset() -> None:
    preprocessing = choose(BYTE, image=True, channels=3, preset="cifar10", scale=1.0, std=[2.0])
    assert preprocessing.to_dict() == {
        "preset": "cifar10",
        "scale": 1.0,
        "mean": [0.4914, 0.4822, 0.4465],
        "std": [2.0],
        "resize": None,
        "size": None,
        "box_scale": None,
    }
    json.dumps(preprocessing.to_dict())


@pytest.mark.parametrize(
    ("stored", "image", "preset", "scale"),
    [
        (BYTE, True, None, 1 / 255),
        (BYTE, False, None, 1.0),
        (BYTE, False, "unit", 1 / 255),
        (FLOAT, True, None, 1.0),
        (FLOAT, True, "unit", 1.0),
    ],
)
def test_default_scale(stored: np.dtype, image: bool, preset: str | None, scale: float) -> None:
    assert choose(stored, image=image, channels=3, preset=preset).scale == scale


@pytest.mark.parametrize(
    "options",
    [
        {"preset": "imagnet"},
        {"mean": [0.1, 0.2]},
        {"std": [0.1, 0.2, 0.0]},
        {"std": [-1.0]},
        {"mean": [float("nan")]},
        {"scale": 0.0},
        {"scale": float("inf")},
    ],
)
def test_unusable_numbers_are_usage_errors(options: dict) -> None:
    with pytest.raises(UsageError, match=r"expected|give"):
        choose(BYTE, image=True, channels=3, **options)


def test_preset_needs_a_scale_for_wide_integers() -> None:
    with pytest.raises(UsageError, match="give scale="):
        choose(np.dtype(np.uint16), image=True, channels=3, preset="imagenet")


@pytest.mark.parametrize(
    ("shape", "dtype", "layout", "names"),
    [
        ((3, 224, 224), "f4", "auto", "channel y x"),
        ((224, 224, 3), "f4", "auto", "y x channel"),
        ((None, None, 3), "f4", "auto", "y x channel"),
        ((3, "h", "w"), "f4", "auto", "channel y x"),
        ((64, 8, 8), "f4", "auto", "channel y x"),
        ((8, 8, 64), "f4", "auto", "y x channel"),
        ((3, 32, 3), "f4", "NHWC", "y x channel"),
        ((224, 224, 3), "u1", "auto", "y x channel"),
        ((12, 100), "f4", "auto", "channel time"),
        ((100, 12), "f4", "auto", "time channel"),
        (("t", 12), "f4", "auto", "time channel"),
        ((12, "t"), "f4", "auto", "channel time"),
        ((100, 12), "f4", "NCHW", "channel time"),
        ((30,), "f4", "auto", "feature"),
        (("t",), "i8", "auto", "position"),
        ((2, 16), "i8", "auto", "axis_0 axis_1"),
        ((3, 8, 16, 16), "f4", "auto", "channel z y x"),
        ((), "f4", "auto", ""),
    ],
)
def test_axis_names(shape: tuple, dtype: str, layout: str, names: str) -> None:
    assert " ".join(axis_names(shape, np.dtype(dtype), layout)) == names


def test_layout_and_element_type_are_checked() -> None:
    with pytest.raises(UsageError, match="NCHW"):
        describe((3, 8, 8), "f4", "CHW")
    with pytest.raises(InputError, match="type"):
        describe((3,), "U5")


def ramp(height: int, width: int) -> np.ndarray:
    """An image whose two channels are the coordinates of the pixel centers."""
    y, x = np.mgrid[:height, :width] + 0.5
    return np.stack([x, y], axis=-1)


def test_same_size_is_left_alone() -> None:
    pixels = ramp(6, 8)
    geometry = fit((6, 8), (6, 8), "crop")
    assert geometry.identity
    assert geometry.image(pixels) is pixels


def test_crop_shows_the_middle_and_boxes_follow() -> None:
    geometry = fit((40, 80), (20, 20), "crop")
    assert geometry.region == (20, 0, 60, 40)
    seen = geometry.image(ramp(40, 80))
    # Away from the border, antialiasing preserves a ramp: pixel (y, x) shows the original at twice its center.
    np.testing.assert_allclose(seen[5, 7], [20 + 2 * 7.5, 2 * 5.5], atol=1e-4)
    np.testing.assert_allclose(geometry.boxes([[30, 10, 50, 30]]), [[5, 5, 15, 15]])
    np.testing.assert_allclose(geometry.boxes([[0, 0, 30, 40]]), [[0, 0, 5, 20]], err_msg="clipped to what is seen")
    left, top, right, bottom = geometry.boxes([[0, 0, 10, 10]])[0]
    assert (right - left) * (bottom - top) == 0


def test_shorter_side_then_centre_crop() -> None:
    geometry = fit((512, 1024), (224, 224), 256)
    assert geometry.region == (512 - 224, 256 - 224, 512 + 224, 256 + 224)


def test_squash_sees_everything() -> None:
    geometry = fit((40, 80), (20, 20), "squash")
    assert geometry.region == (0, 0, 80, 40)
    np.testing.assert_allclose(geometry.boxes([[40, 20, 80, 40]]), [[10, 10, 20, 20]])


def test_none_refuses_other_sizes() -> None:
    with pytest.raises(InputError, match="80x40 pixels, the model takes 20x20"):
        fit((40, 80), (20, 20), "none")


def test_crop_to_the_enlarged_box() -> None:
    geometry = fit((100, 100), (30, 30), "crop", [40, 40, 60, 60], 1.5)
    assert geometry.region == (35, 35, 65, 65)
    np.testing.assert_allclose(geometry.boxes([[40, 40, 60, 60]]), [[5, 5, 25, 25]])
    assert fit((100, 100), (30, 30), "squash", [0, 0, 20, 10], 1.5).region == (0, 0, 25, 12.5)


@pytest.mark.parametrize(
    "box", [[5, 5, 5, 9], [9, 5, 5, 9], [200, 5, 210, 9], [-9, 0, 0, 5], [1, 2, 3], [1, 2, 3, np.inf]]
)
def test_unusable_boxes(box: list) -> None:
    with pytest.raises(InputError, match="box"):
        fit((100, 100), (30, 30), "crop", box)


def test_masks_follow_the_image() -> None:
    mask = np.zeros((40, 80), dtype=np.uint8)
    mask[10:30, 30:50] = 255
    moved = fit((40, 80), (20, 20), "crop").mask(mask)
    expected = np.zeros((20, 20), dtype=bool)
    expected[5:15, 5:15] = True
    assert moved.dtype == bool
    np.testing.assert_array_equal(moved, expected)
    with pytest.raises(InputError, match="mask"):
        fit((40, 80), (20, 20), "crop").mask(np.ones((20, 20)))


def test_integers_stay_integers_when_resized() -> None:
    geometry = fit((8, 8), (4, 4), "crop")
    for dtype in (np.uint8, np.int16, np.uint16):
        resized = geometry.image(np.full((8, 8, 1), 77, dtype=dtype))
        assert resized.dtype == dtype
        assert (resized == 77).all()
