"""Damaged arrays, images, labels and boxes in the loaders: one of our errors or a correct result."""

import io
import random
import struct
import sys
import zipfile
import zlib

import h5py
import numpy as np
import pytest
from fuzzing import INTERESTING, Watch, mutate
from PIL import Image
from places import DATA

from onnxinfo import OnnxinfoError
from onnxinfo.inputs.opening import open_samples

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measures memory through /proc")

FOUND = DATA / "fuzz" / "inputs"
CASES = 1_000
FAST = 200
#: Number of cases per test.
SHARE = 50
SHAPE = (3, 8, 8)
PIXELS = np.random.default_rng(3).integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)
LABELS = np.array(["cat", "dog", "cat", "emu", "dog", "cat"])
BOXES = np.array([[1, 1, 6, 6], [0, 0, 8, 8], [2, 3, 7, 8], [-2, 1, 4, 5], [0, 0, 1, 1], [3, 3, 5, 9]], np.float32)
ODD = np.array([0, -1, 1, 7.5, 1e9, -1e30, 3e38, 1e-40, np.nan, np.inf, -np.inf], np.float32)
IMAGES = {"png": "png", "jpeg": "jpg", "gif": "gif", "webp": "webp", "bmp": "bmp", "tiff": "tif"}


def _npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _npz(chance, array):
    """A zip archive of one damaged array with valid checksums."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", chance.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as file:
        file.writestr("x.npy", _array(chance, array))
    return buffer.getvalue()


def _array(chance, array):
    data = _npy(array)
    return data if chance.random() < 0.3 else mutate(data, chance, [(0, 128)])


def _hdf5(chance, array):
    buffer = io.BytesIO()
    options = chance.choice([{}, {"chunks": True}, {"chunks": True, "compression": "gzip", "shuffle": True}])
    if array.dtype.kind == "U":
        array = array.astype("S")
    with h5py.File(buffer, "w", libver=chance.choice(["earliest", "latest"])) as file:
        file.create_dataset("x", data=array, **options)
    return mutate(buffer.getvalue(), chance)


def _container(chance, array):
    """A file that contains an array, as (suffix, content)."""
    kind = chance.choice(["npy", "npz", "npz", "npz", "h5"])
    if kind == "npy":
        return "npy", _array(chance, array)
    if kind == "h5":
        return "h5:/x", _hdf5(chance, array)
    data = _npz(chance, array)
    return "npz", data if chance.random() < 0.4 else mutate(data, chance, [(0, 60), (len(data) - 120, len(data))])


def _image(chance):
    kind = chance.choice([*IMAGES])
    buffer = io.BytesIO()
    mode = chance.choice(["RGB", "RGB", "L", "P", "RGBA", "1", "CMYK", "I;16", "LA"])
    try:
        Image.fromarray(PIXELS[0]).convert("L" if mode == "I;16" else mode).convert(mode).save(buffer, kind)
    except (OSError, ValueError, KeyError):
        Image.fromarray(PIXELS[0]).save(buffer, kind)
    data = mutate(buffer.getvalue(), chance, [(0, 64)])
    return IMAGES[kind], _sealed_png(data) if kind == "png" and chance.random() < 0.7 else data


def _sealed_png(data):
    """Make the checksums of a PNG's chunks valid again."""
    sealed, at = bytearray(data), 8
    while at + 12 <= len(sealed):
        size = int.from_bytes(sealed[at : at + 4], "big")
        end = at + 8 + size
        if end + 4 > len(sealed):
            break
        sealed[end : end + 4] = struct.pack(">I", zlib.crc32(sealed[at + 4 : end]))
        at = end + 4
    return bytes(sealed)


def _odd_numbers(chance, array):
    changed = array.copy()
    for _ in range(chance.choice([0, 1, 2, 24])):
        changed.reshape(-1)[chance.randrange(changed.size)] = chance.choice(ODD)
    return changed if chance.random() < 0.8 else changed[: chance.randrange(6), : chance.randrange(5)]


def _csv(chance):
    lines = [f"{i},{label}" for i, label in enumerate(LABELS)]
    return mutate("\n".join(["name,label", *lines]).encode(), chance)


def _case(case, folder):
    """Make a case and load it in the watched process."""
    if case is None:
        return _load(PIXELS)
    if isinstance(case, str):
        return _load(case if not case.endswith("h5") else f"{case}:/x")
    for old in folder.iterdir():
        old.unlink()
    chance = random.Random(case)
    kind = chance.choice(["array", "array", "image", "image", "labels", "boxes", "noise"])
    if kind == "array":
        return _load(_written(folder, *_container(chance, PIXELS if chance.random() < 0.7 else PIXELS / 255)))
    if kind == "image":
        return _load(_written(folder, *_image(chance)))
    if kind == "labels":
        spec = ("csv", _csv(chance)) if chance.random() < 0.5 else _container(chance, LABELS)
        return _load(PIXELS, labels=_written(folder, *spec))
    if kind == "boxes":
        return _load(PIXELS, boxes=_written(folder, *_container(chance, _odd_numbers(chance, BOXES))))
    ending = chance.choice(["npy", "npz", "h5:/x", *IMAGES.values()])
    head = chance.choice(
        [b"\x93NUMPY\x01\x00", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b""]
    )
    return _load(_written(folder, ending, head + b"".join(chance.choices(INTERESTING, k=chance.randrange(60)))))


def _written(folder, ending, data):
    ending, _, key = ending.partition(":")
    path = folder / f"case.{ending}"
    path.write_bytes(data)
    return f"{path}:{key}" if key else str(path)


def _load(spec, **options):
    try:
        samples = open_samples(spec, shape=SHAPE, **options)
        samples.digest()
        every = range(len(samples))
        batch, thumbnails = samples.batch(every), samples.thumbnails(every)
    except OnnxinfoError as error:
        message = str(error)
    else:
        assert batch.shape == (len(samples), *SHAPE)
        assert batch.dtype == np.float32
        assert np.isfinite(batch).all()
        assert thumbnails.dtype == np.uint8
        assert samples.labels is None or len(samples.labels) == len(samples)
        return "read"
    assert "\n" not in message
    assert message.isprintable()
    return "refused"


@pytest.fixture(scope="module")
def watch(tmp_path_factory):
    watched = Watch(_case, tmp_path_factory.mktemp("fuzz"))
    yield watched
    watched.close()
    print(f"at most {watched.worst_seconds:.1f} s and {watched.worst_bytes >> 20} MiB a case")


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(first, marks=pytest.mark.slow if first >= FAST else (), id=f"{first}-{first + SHARE - 1}")
        for first in range(0, CASES, SHARE)
    ],
)
def test_any_input_is_read_or_refused(watch, first):
    outcomes = [watch.run(case) for case in range(first, first + SHARE)]
    failures = [outcome for outcome in outcomes if outcome.failure]
    assert not failures, "\n".join(f"case {each.case}: {each.failure}" for each in failures)
    # Damage that is always refused immediately would test little.
    assert {outcome.said for outcome in outcomes} == {"read", "refused"}


@pytest.mark.parametrize("path", sorted(FOUND.glob("*")), ids=lambda path: path.name)
def test_what_was_found_before(watch, path):
    outcome = watch.run(str(path))
    assert not outcome.failure, outcome.failure
