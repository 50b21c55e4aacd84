"""Samples from images, arrays and files, in the form that a model takes."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest
from PIL import Image
from places import SHARED

import onnxinfo
from onnxinfo.errors import InputError, UsageError
from onnxinfo.inputs.opening import open_samples

RGB = (3, 8, 8)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def pictures(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path, pictures: np.ndarray) -> Path:
    root = tmp_path / "images"
    for index, picture in enumerate(pictures):
        path = root / ("cat" if index % 2 else "dog") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    (root / "cat" / "notes.txt").write_text("no image")
    (root / "cat" / ".hidden.png").write_text("no image")
    return root


def chw(pictures: np.ndarray) -> np.ndarray:
    return np.moveaxis(pictures, -1, 1).astype(np.float32)


def test_folder_in_the_order_of_names_with_classes(folder: Path, pictures: np.ndarray) -> None:
    samples = open_samples(folder, shape=RGB)
    assert samples.names == ["cat/1.png", "cat/3.png", "cat/5.png", "dog/0.png", "dog/2.png", "dog/4.png"]
    assert samples.classes == ["cat", "dog"]
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert samples.layout == ("channel", "y", "x")
    assert samples.shape == RGB
    assert samples.available == 6
    batch = samples.batch([3, 0])
    assert batch.dtype == np.float32
    assert batch.flags.c_contiguous
    np.testing.assert_allclose(batch, chw(pictures[[0, 1]]) / 255, rtol=1e-6)


def test_channels_last_model(folder: Path, pictures: np.ndarray) -> None:
    samples = open_samples(folder, shape=(8, 8, 3), scale=1)
    assert samples.layout == ("y", "x", "channel")
    np.testing.assert_array_equal(samples.batch([3])[0], pictures[0])
    assert samples.unit is not None
    assert samples.unit.shape == (1, 1, 3)


def test_one_folder_deep_is_no_class(folder: Path) -> None:
    assert open_samples(folder / "cat", shape=RGB).labels is None


def test_glob_and_single_file_and_list(folder: Path) -> None:
    assert open_samples(f"{folder}/**/[0-2].png", shape=RGB).names == ["cat/1.png", "dog/0.png", "dog/2.png"]
    assert open_samples(f"{folder}/d*/*.png", shape=RGB).names == ["dog/0.png", "dog/2.png", "dog/4.png"]
    assert open_samples(folder / "dog" / "2.png", shape=RGB).names == ["2.png"]
    paths = [folder / "dog" / "2.png", str(folder / "cat" / "1.png")]
    assert open_samples(paths, shape=RGB).names == ["dog/2.png", "cat/1.png"]


def test_limit_takes_the_first_and_shuffle_a_reproducible_choice(folder: Path) -> None:
    assert open_samples(folder, shape=RGB, limit=2).names == ["cat/1.png", "cat/3.png"]
    choices = [open_samples(folder, shape=RGB, limit=3, shuffle=True, seed=seed).names for seed in (1, 1, 2, 3)]
    assert choices[0] == choices[1]
    assert len({tuple(choice) for choice in choices}) > 1
    assert all(choice == sorted(choice) for choice in choices)


def test_unreadable_files_are_named_and_do_not_count_towards_the_limit(folder: Path) -> None:
    whole = (folder / "cat" / "1.png").read_bytes()
    (folder / "cat" / "0.png").write_bytes(whole[: len(whole) // 2])
    (folder / "cat" / "00.jpg").write_text("text")
    (folder / "cat" / "000.png").write_bytes(b"")
    samples = open_samples(folder, shape=RGB, limit=2)
    assert samples.names == ["cat/1.png", "cat/3.png"]
    assert [name for name, _ in samples.unreadable] == ["cat/0.png", "cat/00.jpg", "cat/000.png"]
    assert all(reason and "\n" not in reason for _, reason in samples.unreadable)
    assert samples.available == 9


def test_a_file_that_changes_later_stops_with_its_name(folder: Path) -> None:
    samples = open_samples(folder, shape=RGB)
    (folder / "cat" / "1.png").write_bytes((folder / "cat" / "3.png").read_bytes())
    (folder / "cat" / "5.png").unlink()
    with pytest.raises(InputError, match=r"cat/1\.png has changed"):
        samples.batch([0])
    with pytest.raises(InputError, match=r"cat/5\.png"):
        samples.batch([2])


@pytest.mark.parametrize(
    ("mode", "channels"), [(mode, n) for mode in ("L", "1", "P", "RGBA", "LA", "CMYK") for n in (1, 3, 4)]
)
def test_colors_are_converted(tmp_path: Path, pictures: np.ndarray, mode: str, channels: int) -> None:
    image = Image.fromarray(pictures[0]).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    expected = np.asarray(image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])).reshape(8, 8, channels)
    batch = open_samples(path, shape=(channels, 8, 8), scale=1).batch([0])
    np.testing.assert_array_equal(batch, np.moveaxis(expected, -1, 0)[None])


def test_palette_with_transparency_gives_its_colors(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "a.png", transparency=bytes([255, 0]))
    assert open_samples(tmp_path, shape=RGB, scale=1).batch([0])[0, :, 0, 0].tolist() == [10, 20, 30]


def test_sixteen_bit_gray_is_scaled_to_eight(tmp_path: Path) -> None:
    wide = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040
    Image.fromarray(wide).save(tmp_path / "a.png")
    batch = open_samples(tmp_path, shape=(1, 8, 8), scale=1).batch([0])
    np.testing.assert_array_equal(batch[0, 0], np.floor(wide / 257 + 0.5))


def test_thirty_two_bit_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match="32-bit pixels"):
        open_samples(tmp_path, shape=(1, 8, 8))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "tif", "png"])
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = np.zeros((8, 8, 3), np.uint8)
    upright[:4, :4] = 200
    undo = {2: "fl", 3: "r2", 4: "fu", 5: "t", 6: "r1", 7: "ta", 8: "r3"}
    steps = {
        "fl": np.fliplr,
        "fu": np.flipud,
        "r1": np.rot90,
        "r2": lambda a: np.rot90(a, 2),
        "r3": lambda a: np.rot90(a, 3),
        "t": lambda a: a.swapaxes(0, 1),
        "ta": lambda a: np.rot90(a.swapaxes(0, 1), 2),
    }
    stored = steps[undo[orientation]](upright) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"a.{suffix}", exif=exif)
    batch = open_samples(tmp_path, shape=RGB, scale=1).batch([0])[0, 0]
    assert batch[:3, :3].mean() > 150
    assert batch[5:].mean() < 50
    assert batch[:, 5:].mean() < 50


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ((200, 0, 0), (0, 200, 0))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert open_samples(tmp_path, shape=RGB, scale=1).batch([0])[0, :, 0, 0].tolist() == [200, 0, 0]


def test_images_are_resized_and_centre_cropped(tmp_path: Path) -> None:
    wide = np.zeros((16, 64, 3), np.uint8)
    wide[:, 24:40] = 255
    Image.fromarray(wide).save(tmp_path / "a.png")
    samples = open_samples(tmp_path, shape=RGB, scale=1)
    assert (
        samples.batch([0])[..., 1:-1] == 255
    ).all()  # at the border anti-aliasing sees a little beyond, as resize does
    assert samples.geometry(0).region == (24, 0, 40, 16)
    assert samples.preprocessing.to_dict()["resize"] == "crop"
    squashed = open_samples(tmp_path, shape=RGB, scale=1, resize="squash").batch([0])
    assert squashed[0, 0, 0, 0] == 0


def test_open_size_is_what_all_images_agree_on(folder: Path) -> None:
    samples = open_samples(folder, shape=(3, "h", "w"))
    assert samples.shape == RGB
    Image.new("RGB", (9, 8)).save(folder / "cat" / "9.png")
    with pytest.raises(InputError, match=r"cat/1\.png is 8x8, cat/9\.png 8x9 .*give size="):
        open_samples(folder, shape=(3, "h", "w"))
    assert open_samples(folder, shape=(3, "h", "w"), size=(4, 6)).shape == (3, 4, 6)
    with pytest.raises(UsageError, match="size"):
        open_samples(folder, shape=RGB, size=4)


ARRAY_FILES = ["npy", "npz", "compressed", "fortran", "h5", "h5-chunked", "h5-gzip", "h5-shuffle", "big-endian"]


def write(path: Path, kind: str, array: np.ndarray) -> str:
    if kind == "npy":
        np.save(path / "x.npy", array)
        return f"{path}/x.npy"
    if kind == "fortran":
        np.savez_compressed(path / "x.npz", x=np.asfortranarray(array))
        return f"{path}/x.npz:x"
    if kind == "big-endian":
        np.save(path / "x.npy", array.astype(array.dtype.newbyteorder(">")))
        return f"{path}/x.npy"
    if kind in ("npz", "compressed"):
        save = np.savez if kind == "npz" else np.savez_compressed
        save(path / "x.npz", x=array, y=np.arange(len(array)))
        return f"{path}/x.npz:x"
    chunks = (min(4, len(array)), *(max(1, n - 1) for n in array.shape[1:]))
    options: dict = {
        "h5": {},
        "h5-chunked": {"chunks": chunks},
        "h5-gzip": {"chunks": chunks, "compression": "gzip"},
        "h5-shuffle": {"chunks": chunks, "compression": "gzip", "shuffle": True},
    }[kind]
    with h5py.File(path / "x.h5", "w") as file:
        file.create_dataset("group/x", data=array, **options)
    return f"{path}/x.h5:/group/x"


@pytest.mark.parametrize("dtype", ["u1", "f4", "f8", "f2", "i2"])
@pytest.mark.parametrize("kind", ARRAY_FILES)
def test_array_files_give_the_rows_asked_for(tmp_path: Path, rng: np.random.Generator, kind: str, dtype: str) -> None:
    array = (rng.random((11, 3, 8, 8)) * 200).astype(dtype)
    samples = open_samples(write(tmp_path, kind, array), shape=RGB, scale=1, limit=10)
    assert samples.names[7] == "x[7]"
    assert samples.available == 11
    np.testing.assert_array_equal(samples.batch([7, 0, 7]), array[[7, 0, 7]].astype(np.float32))


def test_digest_knows_content_order_and_preprocessing_but_not_the_file(tmp_path: Path, pictures: np.ndarray) -> None:
    def digest(kind: str, **options: object) -> str:
        return open_samples(write(tmp_path, kind, pictures), shape=RGB, **options).digest()

    assert len({digest(kind) for kind in ARRAY_FILES}) == 1
    changed = pictures.copy()
    changed[5, 0, 0, 0] ^= 1
    others = [digest("npy", preset="cifar10"), digest("npy", limit=5), digest("npy", std=1.5)]
    others.append(open_samples(write(tmp_path, "npy", changed), shape=RGB).digest())
    others.append(open_samples(write(tmp_path, "npy", pictures[::-1]), shape=RGB).digest())
    others.append(open_samples(write(tmp_path, "npy", pictures), shape=(8, 8, 3)).digest())
    assert len({digest("npy"), *others}) == 7


def test_digest_of_files_follows_their_contents(folder: Path) -> None:
    before = open_samples(folder, shape=RGB).digest()
    assert open_samples(folder, shape=RGB).digest() == before
    (folder / "cat" / "1.png").write_bytes((folder / "cat" / "3.png").read_bytes())
    assert open_samples(folder, shape=RGB).digest() != before


def test_channels_first_or_last_in_arrays(pictures: np.ndarray) -> None:
    last = open_samples(pictures, shape=RGB).batch([1])
    first = open_samples(np.moveaxis(pictures, -1, 1), shape=RGB).batch([1])
    np.testing.assert_array_equal(first, last)
    np.testing.assert_allclose(last, chw(pictures[1:2]) / 255, rtol=1e-6)


def test_an_axis_that_could_be_channels_either_way_is_taken_by_the_sides(rng: np.random.Generator) -> None:
    array = rng.random((2, 3, 5, 3)).astype(np.float32)
    np.testing.assert_array_equal(open_samples(array, shape=(3, 5, 3), layout="NCHW").batch([0, 1]), array)
    np.testing.assert_array_equal(open_samples(array, shape=(3, 5, 3), layout="NHWC").batch([0, 1]), array)
    flipped = open_samples(array, shape=(3, 3, 5), layout="NCHW").batch([0, 1])
    np.testing.assert_array_equal(flipped, np.moveaxis(array, -1, 1))


def test_gray_arrays_without_channel_axis(rng: np.random.Generator) -> None:
    gray = rng.integers(0, 256, (5, 8, 8)).astype(np.uint8)
    np.testing.assert_array_equal(open_samples(gray, shape=(1, 8, 8), scale=1).batch([2])[0, 0], gray[2])
    assert open_samples(gray[:1], shape=(1, 8, 8)).shape == (1, 8, 8)
    with pytest.raises(InputError, match="shape 8x8, the model takes 3x8x8; expected 3 channels"):
        open_samples(gray, shape=RGB)


def test_one_sample_without_sample_axis(pictures: np.ndarray) -> None:
    np.testing.assert_array_equal(open_samples(chw(pictures)[0], shape=RGB).batch([0]), chw(pictures[:1]))
    assert len(open_samples(np.arange(5.0), shape=(5,))) == 1


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_wrong_channel_count_in_arrays(channels: int) -> None:
    with pytest.raises(InputError, match=f"shape 8x8x{channels}, the model takes 3x8x8; expected 3 channels"):
        open_samples(np.zeros((2, 8, 8, channels), np.uint8), shape=RGB)


def test_float_arrays_must_have_the_size_unless_told_otherwise(rng: np.random.Generator) -> None:
    array = rng.random((2, 3, 16, 16)).astype(np.float32)
    with pytest.raises(InputError, match=r"input\[0\]: 16x16 pixels, the model takes 8x8"):
        open_samples(array, shape=RGB)
    resized = open_samples(array, shape=RGB, resize="crop").batch([0, 1])
    np.testing.assert_allclose(resized.mean(), array.mean(), rtol=0.01)
    assert open_samples((array * 255).astype(np.uint8), shape=RGB).batch([0]).shape == (1, *RGB)


def test_unit_is_one_where_the_deviation_is_named(pictures: np.ndarray) -> None:
    unit = open_samples(pictures, shape=RGB, preset="imagenet").unit
    assert unit is not None
    np.testing.assert_array_equal(unit, np.ones((3, 1, 1)))


def test_unit_is_estimated_per_channel(pictures: np.ndarray) -> None:
    samples = open_samples(pictures, shape=RGB, preset="unit")
    assert samples.unit is not None
    np.testing.assert_allclose(samples.unit[:, 0, 0], (pictures / 255).std(axis=(0, 1, 2)), rtol=1e-5)


def test_unit_of_tabular_data_series_and_volumes(rng: np.random.Generator) -> None:
    table = (rng.standard_normal((50, 4)) * [1, 10, 100, 0] + [0, 1e5, 0, 0.1]).astype(np.float32)
    unit = open_samples(table, shape=(4,)).unit
    assert unit is not None
    own = table.astype(np.float64).std(axis=0)
    np.testing.assert_allclose(unit[:3], own[:3], rtol=1e-4)
    # A constant feature gets the unit of the others.
    np.testing.assert_allclose(unit[3], np.sqrt(np.square(own[:3]).mean()), rtol=1e-4)
    series = rng.standard_normal((9, 2, 30)).astype(np.float32)
    unit = open_samples(series, shape=(2, "t")).unit
    assert unit is not None
    np.testing.assert_allclose(unit, series.std(axis=(0, 2), dtype=np.float64)[:, None], rtol=1e-5)
    volumes = rng.standard_normal((2, 1, 4, 5, 6)).astype(np.float32)
    unit = open_samples(volumes, shape=(1, 4, 5, 6)).unit
    assert unit is not None
    assert unit.shape == (1, 1, 1, 1)


def test_constant_samples_have_no_unit() -> None:
    samples = open_samples(np.full((4, 3, 8, 8), 0.1, np.float32), shape=RGB)
    with pytest.raises(InputError, match="zero standard deviation"):
        _ = samples.unit


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_values_are_named_before_work_begins(rng: np.random.Generator, bad: float) -> None:
    array = rng.random((6, 3, 8, 8)).astype(np.float32)
    array[4, 1, 2, 3] = bad
    with pytest.raises(InputError, match=r"input\[4\] has NaN or infinite"):
        open_samples(array, shape=RGB)
    assert len(open_samples(array, shape=RGB, limit=4)) == 4


def test_values_beyond_float32_are_refused() -> None:
    with pytest.raises(InputError, match=r"input\[1\] has values too large"):
        open_samples(np.array([[1.0], [1e300]]), shape=(1,))


def test_a_preset_refuses_floats_that_are_not_in_zero_to_one(pictures: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"outside 0\.\.1.*the scale="):
        open_samples(pictures.astype(np.float32), shape=RGB, preset="imagenet")
    scaled = open_samples(pictures.astype(np.float32), shape=RGB, preset="imagenet", scale=1 / 255).batch([0])
    np.testing.assert_allclose(scaled, open_samples(pictures, shape=RGB, preset="imagenet").batch([0]), rtol=1e-6)


def test_token_ids(rng: np.random.Generator) -> None:
    ids = rng.integers(0, 1000, (5, 12)).astype(np.int32)
    samples = open_samples(ids, shape=("t",), dtype=np.int64)
    assert samples.batch([1]).dtype == np.int64
    assert samples.layout == ("position",)
    assert samples.unit is None
    assert samples.thumbnails([0]) is None
    np.testing.assert_array_equal(samples.batch([4, 1]), ids[[4, 1]])
    with pytest.raises(InputError, match=r"shape 12, the model takes 16"):
        open_samples(ids, shape=(16,), dtype=np.int64)
    with pytest.raises(InputError, match="float64, the model takes int64"):
        open_samples(ids.astype(np.float64), shape=(12,), dtype=np.int64)
    with pytest.raises(UsageError, match="as they are"):
        open_samples(ids, shape=(12,), dtype=np.int64, preset="unit")


def test_integers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"input\[1\] has values outside -128\.\.127"):
        open_samples(np.array([[1], [128]]), shape=(1,), dtype=np.int8)
    assert open_samples(np.array([[0], [1]]), shape=(1,), dtype=bool).batch([0, 1]).tolist() == [[False], [True]]


def test_models_that_take_bytes_get_bytes(folder: Path, pictures: np.ndarray) -> None:
    samples = open_samples(folder, shape=(8, 8, 3), dtype=np.uint8)
    assert samples.batch([3]).dtype == np.uint8
    np.testing.assert_array_equal(samples.batch([3])[0], pictures[0])


@pytest.mark.parametrize(
    ("dtype", "batches"),
    [(np.float16, np.float32), (ml_dtypes.bfloat16, np.float32), (np.float64, np.float64)],
)
def test_floats_have_32_bits_at_least(pictures: np.ndarray, dtype: type, batches: type) -> None:
    found = open_samples(pictures, shape=RGB, dtype=dtype, preset="imagenet").batch([0])
    assert found.dtype == batches
    exact = (pictures[0] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(np.moveaxis(found[0], 0, -1), exact, atol=1e-12 if dtype == np.float64 else 1e-5)


def test_thumbnails_show_what_the_model_sees(tmp_path: Path, pictures: np.ndarray) -> None:
    samples = open_samples(pictures, shape=RGB, preset="imagenet")
    np.testing.assert_array_equal(samples.thumbnails([2, 0]), pictures[[2, 0]])
    Image.new("L", (300, 200), 90).save(tmp_path / "a.png")
    thumbnails = open_samples(tmp_path, shape=(1, 100, 200)).thumbnails([0])
    assert thumbnails is not None
    assert thumbnails.shape == (1, 32, 64, 3)
    assert (thumbnails == 90).all()
    assert thumbnails.dtype == np.uint8


@pytest.mark.parametrize(("low", "high", "darkest", "lightest"), [(0, 1, 0, 255), (0, 255, 0, 255), (-3, 5, 0, 255)])
def test_thumbnails_of_floats(low: float, high: float, darkest: int, lightest: int) -> None:
    array = np.full((1, 1, 8, 8), low, np.float32)
    array[..., 4:] = high
    thumbnails = open_samples(array, shape=(1, 8, 8)).thumbnails([0])
    assert thumbnails is not None
    assert (thumbnails[..., :4, :] == darkest).all()
    assert (thumbnails[..., 4:, :] == lightest).all()


def test_boxes_crop_images_and_those_without_are_left_out(rng: np.random.Generator) -> None:
    array = rng.integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    boxes = np.array([[8, 8, 24, 24], [np.nan] * 4, [0, 0, 8, 8], [4, 4, 30, 30]])
    samples = open_samples(array, shape=RGB, boxes=boxes, labels=[5, 6, 7, 8])
    assert samples.names == ["input[0]", "input[2]", "input[3]"]
    assert samples.positions.tolist() == [0, 2, 3]
    assert samples.labels is not None
    assert samples.labels.tolist() == [5, 7, 8]
    assert samples.unreadable == [("input[1]", "no box")]
    assert samples.geometry(0).region == (4, 4, 28, 28)
    assert samples.preprocessing.box_scale == 1.5
    np.testing.assert_allclose(samples.geometry(0).boxes(boxes[:1]), [[4 / 3, 4 / 3, 20 / 3, 20 / 3]])
    with pytest.raises(InputError, match=r"input\[0\]: box .* outside the image"):
        open_samples(array, shape=RGB, boxes=boxes + 100)
    with pytest.raises(InputError, match=r"expected \(4, 4\)"):
        open_samples(array, shape=RGB, boxes=boxes[:2])
    by_name = open_samples(array, shape=RGB, boxes={"input[3]": [0, 0, 32, 32]}, box_scale=1)
    assert by_name.names == ["input[3]"]
    assert by_name.digest() != open_samples(array, shape=RGB, boxes={"input[3]": [0, 0, 31, 32]}, box_scale=1).digest()


@pytest.mark.parametrize("spec", ["y.npz:y", "y.npy", "y.h5:/y", "y.csv", "names.csv", [0, 1, 2, 3, 4, 5]])
def test_labels_by_position_and_name(tmp_path: Path, folder: Path, spec: str | list[int]) -> None:
    values = np.arange(6)
    np.savez(tmp_path / "y.npz", y=values, other=values)
    np.save(tmp_path / "y.npy", values)
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["y"] = values
    (tmp_path / "y.csv").write_text("label\n" + "\n".join(map(str, values)))
    names = open_samples(folder, shape=RGB).names
    rows = [f"{name.split('/')[1]},{label}" for label, name in enumerate(names)]
    (tmp_path / "names.csv").write_text("\n".join(["name,label", *reversed(rows)]))
    given = spec if isinstance(spec, list) else f"{tmp_path}/{spec}"
    (folder / names[0]).write_text("broken")  # labels are counted before unreadable files are left out
    samples = open_samples(folder, shape=RGB, labels=given)
    assert samples.labels is not None
    assert samples.labels.dtype == np.int64
    assert samples.labels.tolist() == [1, 2, 3, 4, 5]


def test_labels_as_text_get_classes(pictures: np.ndarray) -> None:
    samples = open_samples(pictures, shape=RGB, labels=["ox", "ant", "ox", "bee", "ant", "ant"], limit=3)
    assert samples.classes == ["ant", "bee", "ox"]
    assert samples.labels is not None
    assert samples.labels.tolist() == [2, 0, 2]


@pytest.mark.parametrize(
    "labels",
    [[1, 2, 3], [0.5] * 6, np.zeros((6, 2)), [None] * 6, [1e30] * 6, [np.nan] * 6, np.full(6, 2**63, np.uint64)],
    ids=str,
)
def test_unusable_labels(pictures: np.ndarray, labels: object) -> None:
    with pytest.raises(InputError, match="labels"):
        open_samples(pictures, shape=RGB, labels=labels)


@pytest.mark.parametrize("text", ["a,1\nb,2,3\n", "x[0],1\n", "\xff\xfe", "1\n2\n"])
def test_unusable_label_files(tmp_path: Path, pictures: np.ndarray, text: str) -> None:
    (tmp_path / "y.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"labels .*y\.csv"):
        open_samples(pictures, shape=RGB, labels=f"{tmp_path}/y.csv")


def test_one_line_errors_for_what_is_not_there(tmp_path: Path, folder: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.ones((2, 3)), b=np.ones(2))
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "text.h5").write_text("hello")
    np.save(tmp_path / "object.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["g/a"], file["g/b"] = np.ones((2, 3)), np.ones(2)
    expected = {
        "empty": "no images in",
        "nothing": "no such file or folder",
        "nothing.npz:a": "no such file or folder",
        "*.bmp": "no images in",
        "notes.txt": "neither an image nor an array file",
        "x.npz:c": "has no array 'c'; .* one of a, b",
        "x.npz": "holds 2 arrays; .* one of a, b",
        "x.h5:/c": r"no dataset /c; it has /g/a, /g/b",
        "x.h5:/g/a/b": r"no dataset /g/a/b",
        "x.h5:/g": "not a dataset",
        "x.h5": "holds 2 datasets; .* /g/a, /g/b",
        "text.npz": "is not an .npz file",
        "text.npy": "no valid .npy header",
        "text.h5": "not a readable HDF5 file",
        "text.npy:a": "no key",
        "object.npy": "expected numbers",
    }
    for spec, message in expected.items():
        with pytest.raises(InputError, match=message) as caught:
            open_samples(f"{tmp_path}/{spec}", shape=(3,) if "." in spec and "bmp" not in spec else RGB)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="1, 3 or 4 channels, the model takes 13x8x8"):
        open_samples(folder, shape=(13, 8, 8))
    with pytest.raises(InputError, match="the model takes 5"):
        open_samples(folder, shape=(5,))


@pytest.mark.parametrize(
    "options",
    [
        {"limit": 0},
        {"seed": -1},
        {"resize": "stretch"},
        {"resize": 4},
        {"size": 0},
        {"box_scale": 0},
        {"layout": "CHW"},
    ],
)
def test_options_without_sense(pictures: np.ndarray, options: dict) -> None:
    with pytest.raises(UsageError, match="expected"):
        open_samples(pictures, shape=(3, None, 8) if "size" in options else RGB, **options)


def test_image_options_need_images() -> None:
    with pytest.raises(UsageError, match="for images"):
        open_samples(np.ones((2, 5)), shape=(5,), resize="squash")
    with pytest.raises(UsageError, match="need images"):
        open_samples(np.eye(5), shape=(5,)).geometry(0)


@pytest.mark.parametrize("array", [np.zeros((0, 3, 8, 8)), np.array(3.0), np.array(["a"]), np.array([None])])
def test_arrays_that_are_no_samples(array: np.ndarray) -> None:
    with pytest.raises(InputError, match="expected samples"):
        open_samples(array, shape=RGB)


def test_empty_batch(pictures: np.ndarray) -> None:
    assert open_samples(pictures, shape=RGB).batch([]).shape == (0, *RGB)


def test_a_name_that_looks_like_a_key_is_a_file_if_it_exists(tmp_path: Path, pictures: np.ndarray) -> None:
    np.save(tmp_path / "a.npz:b.npy", pictures)
    assert len(open_samples(f"{tmp_path}/a.npz:b.npy", shape=RGB)) == 6


def test_public_names(pictures: np.ndarray) -> None:
    assert isinstance(onnxinfo.open_samples(pictures, shape=RGB), onnxinfo.Samples)


def test_samples_do_not_hold_files_open(tmp_path: Path, pictures: np.ndarray) -> None:
    samples = open_samples(write(tmp_path, "h5-gzip", pictures), shape=RGB)
    with h5py.File(tmp_path / "x.h5", "r+") as file:  # impossible while it is open elsewhere
        file.attrs["note"] = 1
    assert samples.batch([0]).shape == (1, *RGB)


def test_a_png_in_a_jpg_name_is_read(tmp_path: Path, pictures: np.ndarray) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pictures[0]).save(buffer, "png")
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    np.testing.assert_array_equal(open_samples(tmp_path, shape=(8, 8, 3), scale=1).batch([0])[0], pictures[0])


@pytest.mark.slow
def test_a_thousand_cifar_images_are_identified_within_a_second() -> None:
    import time

    path = SHARED / "data" / "cifar10.npz"
    if not path.exists():
        pytest.skip("CIFAR-10 is not here")
    start = time.perf_counter()
    samples = open_samples(f"{path}:x_test", shape=(3, 32, 32), labels=f"{path}:y_test")
    assert len(hashlib.sha256(samples.digest().encode()).hexdigest()) == 64
    assert len(samples) == 1000
    assert time.perf_counter() - start < 1
