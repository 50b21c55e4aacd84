"""Malicious inputs: bombs, links, pickles and damaged bytes are refused in one line, without harm."""

from __future__ import annotations

import io
import os
import struct
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from onnxinfo.errors import InputError, OnnxinfoError
from onnxinfo.inputs import images, numpy_files
from onnxinfo.inputs.hdf5_chunks import MAX_CHUNK_BYTES
from onnxinfo.inputs.opening import Samples, open_samples

resource = pytest.importorskip("resource")
RGB = (3, 8, 8)
PIXELS = np.random.default_rng(3).integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)


@contextmanager
def sparing() -> Iterator[None]:
    """Limit additional memory to 128 MiB, if the system supports it."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (128 << 20), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def npy_header(shape: tuple, dtype: str = "|u1") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape!r}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def refused(spec: object, match: str, shape: tuple = RGB) -> None:
    with pytest.raises(InputError, match=match) as caught, sparing():
        open_samples(str(spec), shape=shape)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(10**6, 8, 8, 3), (10**15, 8, 8, 3), (2**62, 2**62)])
def test_declared_rows_that_are_not_there(tmp_path: Path, shape: tuple) -> None:
    (tmp_path / "x.npy").write_bytes(npy_header(shape) + bytes(100))
    refused(tmp_path / "x.npy", "declares|MiB each")
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy_header(shape) + bytes(100))
    refused(tmp_path / "x.npz", "declares|MiB each")


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (-5, 8, 8, 3), (10**12, 0), ()])
def test_empty_shapes(tmp_path: Path, shape: tuple) -> None:
    (tmp_path / "x.npy").write_bytes(npy_header(shape) + bytes(100))
    refused(tmp_path / "x.npy", "expected samples")


def test_zip_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numpy_files, "MAX_LOADED_BYTES", 100 << 20)
    count = 10_000  # 192 MB in 0.2 MB
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy_header((count, 80, 80, 3)) + bytes(80 * 80 * 3 * count))
    refused(tmp_path / "x.npz", r"compressed and 10000 samples .* 100 MiB; give limit=", (80, 80, 3))
    with sparing():
        assert len(open_samples(f"{tmp_path}/x.npz", shape=(80, 80, 3), limit=3)) == 3


def test_zip_bomb_in_the_header(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b" " * (256 << 20))
    refused(tmp_path / "x.npz", "no valid .npy header")


def test_members_without_a_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=PIXELS)
    (tmp_path / "x.npz").write_bytes((tmp_path / "x.npz").read_bytes().replace(b"x.npy", b"\0.npy"))
    refused(f"{tmp_path}/x.npz:x", "has no array 'x'; give")


def test_zip_that_lies_about_sizes(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((100, 8, 8, 3), np.uint8))
    whole = (tmp_path / "x.npz").read_bytes()
    actual = struct.pack("<I", 100 * 8 * 8 * 3 + 128)
    assert whole.count(actual) >= 1
    (tmp_path / "x.npz").write_bytes(whole.replace(actual, struct.pack("<I", 2**31)))
    refused(tmp_path / "x.npz:x", "damaged")


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_other_compression_is_refused(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as archive:
        archive.writestr("x.npy", npy_header((1, 8, 8, 3)) + bytes(192))
    refused(tmp_path / "x.npz", "zip method")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_bit_fails_the_checksum(tmp_path: Path, save: Callable) -> None:
    save(tmp_path / "x.npz", x=PIXELS)
    whole = bytearray((tmp_path / "x.npz").read_bytes())
    whole[700] ^= 4
    (tmp_path / "x.npz").write_bytes(whole)
    refused(tmp_path / "x.npz:x", "cannot be read|damaged")


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "sprung"),)

    array = np.array([Trap(), Trap()], dtype=object)
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    np.savez(tmp_path / "x.npz", x=array)
    refused(tmp_path / "x.npy", "type object, expected numbers")
    refused(tmp_path / "x.npz:x", "type object, expected numbers")
    (tmp_path / "pickle.npy").write_bytes(b"\x80\x04cos\nmkdir\n")
    refused(tmp_path / "pickle.npy", "no valid .npy header")
    assert not (tmp_path / "sprung").exists()


def test_a_file_cut_after_opening(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", PIXELS)
    samples = open_samples(f"{tmp_path}/x.npy", shape=RGB)
    os.truncate(tmp_path / "x.npy", 500)
    with pytest.raises(InputError, match=r"ends before x\[5\]"):
        samples.batch([5])


def test_too_many_rows_need_a_limit(tmp_path: Path) -> None:
    with open(tmp_path / "x.npy", "wb") as file:  # sparse: takes no space
        file.write(npy_header((10**10, 3)))
        file.truncate(3 * 10**10 + 128)
    with pytest.raises(InputError, match="expected at most 2000000; give limit="):
        open_samples(f"{tmp_path}/x.npy", shape=(3,))
    assert len(open_samples(f"{tmp_path}/x.npy", shape=(3,), limit=2)) == 2


def png(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_500, 20_000, 2**31 - 1])
def test_png_bomb(tmp_path: Path, side: int) -> None:
    (tmp_path / "x.png").write_bytes(png(side, side, bytes(1 << 20)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(tmp_path / "x.png", "pixels")


def test_text_chunk_bomb(tmp_path: Path) -> None:
    body = b"Comment\0\0" + zlib.compress(bytes(256 << 20))
    text = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    whole = png(8, 8, b"\0".join([b"", *(row.tobytes() for row in PIXELS[0])]))
    (tmp_path / "x.png").write_bytes(whole[:33] + text + whole[33:])
    refused(tmp_path / "x.png", "x.png: Decompressed data too large")


def test_formats_that_run_programs_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nquit\n")
    refused(tmp_path / "x.png", "not an image")


def test_huge_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 1000)
    (tmp_path / "x.png").write_bytes(bytes(2000))
    refused(tmp_path / "x.png", "larger than")


def test_pipes_and_devices_do_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    os.mkfifo(tmp_path / "x.npy")
    refused(tmp_path / "x.png", "not a regular file")
    refused(tmp_path / "x.npy", "not a regular file")
    refused(tmp_path, "not a regular file")


def test_links_out_of_the_folder_are_skipped_and_named(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    (inside / "sub").mkdir(parents=True)
    Image.fromarray(PIXELS[0]).save(outside / "secret.png")
    Image.fromarray(PIXELS[1]).save(inside / "own.png")
    (inside / "link.png").symlink_to(outside / "secret.png")
    (inside / "sub" / "dir").symlink_to(outside)
    (inside / "sub" / "loop").symlink_to(inside)
    (inside / "sub" / "again.png").symlink_to(inside / "own.png")
    (inside / "round.png").symlink_to(inside / "round.png")
    expected = {
        inside: (["own.png", "sub/again.png"], ["link.png", "round.png", "sub/dir"]),
        f"{inside}/**/*.png": (["own.png", "sub/again.png"], ["link.png", "round.png"]),
        f"{inside}/*/*/*.png": (
            ["sub/loop/own.png"],
            ["sub/dir/secret.png", "sub/loop/link.png", "sub/loop/round.png"],
        ),
    }
    for spec, (names, skipped) in expected.items():
        samples = open_samples(spec, shape=RGB)
        assert samples.names == names
        assert [name for name, _ in samples.unreadable] == skipped
    (inside / "own.png").unlink()
    refused(inside, "none of 2 image files can be used; sub/again.png: not a regular file")


def test_names_are_made_printable(tmp_path: Path) -> None:
    for name in (b"a\x1b[31m\n.png", b"\xff\xfe.png"):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            Image.fromarray(PIXELS[0]).save(file, "png")
    names = open_samples(tmp_path, shape=RGB).names
    assert names == ["a\\x1b[31m\\n.png", "\\udcff\\udcfe.png"]
    assert all(name.encode("utf-8").isascii() and name.isprintable() for name in names)


@pytest.mark.parametrize("spec", ["a\0b", "a\0b.npy", "a\0*.png", "x" * 5000, "**x/*.png", "\n\x1b[2J"])
def test_paths_that_cannot_be(spec: str) -> None:
    refused(spec, "no such|cannot be used|no images")


def test_hdf5_links_and_outside_storage_are_not_followed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = PIXELS
    (tmp_path / "raw.bin").write_bytes(PIXELS.tobytes())
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["soft"] = h5py.SoftLink("/own")
        file["external"] = h5py.ExternalLink("secret.h5", "/x")
        file["group"] = h5py.ExternalLink("secret.h5", "/")
        file.create_dataset("raw", PIXELS.shape, "u1", external=[(str(tmp_path / "raw.bin"), 0, PIXELS.nbytes)])
        layout = h5py.VirtualLayout(PIXELS.shape, "u1")
        layout[:] = h5py.VirtualSource(tmp_path / "secret.h5", "x", PIXELS.shape)
        file.create_virtual_dataset("virtual", layout)
    for key in ("soft", "external", "group/x"):
        refused(f"{tmp_path}/x.h5:/{key}", "not followed")
    for key in ("raw", "virtual"):
        refused(f"{tmp_path}/x.h5:/{key}", "other files")


def test_hdf5_chunk_bomb(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("x", data=PIXELS, chunks=PIXELS.shape, compression="gzip")
        dataset.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(256 << 20)))
    samples = open_samples(f"{tmp_path}/x.h5:/x", shape=RGB)
    with pytest.raises(InputError, match=r"is stored in 26[0-9]* bytes, expected at most"), sparing():
        samples.batch([0])
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        file["x"].id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(4 << 20)))
    with pytest.raises(InputError, match="inflates to more than"):
        samples.batch([0])


def test_hdf5_that_declares_what_it_does_not_store(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("none", (10**12, 8, 8, 3), "u1", chunks=(1, 8, 8, 3))
        partly = file.create_dataset("partly", (10**12, 8, 8, 3), "u1", chunks=(1, 8, 8, 3), compression="gzip")
        partly[0] = 1
        wide = file.create_dataset(
            "wide", (4, MAX_CHUNK_BYTES + 1), "u1", chunks=(1, MAX_CHUNK_BYTES + 1), compression="gzip"
        )
        wide[0, :10] = 1
        file.create_dataset("lzf", data=PIXELS, compression="lzf")
        file.create_dataset("text", data=[b"a", b"b"])
        file.create_dataset("ragged", (2,), h5py.vlen_dtype("u1"))
    for key in ("none", "partly"):
        refused(f"{tmp_path}/x.h5:/{key}", "declares")
    refused(f"{tmp_path}/x.h5:/wide", "MiB")
    refused(f"{tmp_path}/x.h5:/lzf", "h5repack")
    for key in ("text", "ragged"):
        refused(f"{tmp_path}/x.h5:/{key}", "expected numbers")


def test_hdf5_groups_that_contain_themselves(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for index in range(50):
            group = file.require_group("g")
            group[f"again{index}"] = group
    refused(f"{tmp_path}/x.h5:/x", "no dataset")


def test_numbers_of_unusual_formats_are_not_reinterpreted(tmp_path: Path) -> None:
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_ebias(100)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        space = h5py.h5s.create_simple((2, 3))
        dataset = h5py.h5d.create(file.id, b"x", kind, space)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ones((2, 3), np.float32))
    with pytest.raises(InputError, match="unusual format"):
        open_samples(f"{tmp_path}/x.h5:/x", shape=(3,))


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "npy":
        np.save(buffer, PIXELS)
    elif kind == "npz":
        np.savez(buffer, x=PIXELS)
    elif kind == "npz-deflated":
        np.savez_compressed(buffer, x=PIXELS)
    elif kind.startswith("h5"):
        options = {"chunks": (2, 8, 8, 3), "compression": "gzip", "shuffle": True} if kind == "h5-gzip" else {}
        with h5py.File(buffer, "w") as file:
            file.create_dataset("x", data=PIXELS, **options)
    else:
        Image.fromarray(PIXELS[0]).save(buffer, kind)
    return buffer.getvalue()


FILES = {
    **{"npy": "x.npy", "npz": "x.npz", "npz-deflated": "x.npz", "h5": "x.h5", "h5-gzip": "x.h5"},
    **{"png": "x.png", "jpeg": "x.jpg", "gif": "x.gif", "webp": "x.webp", "bmp": "x.bmp", "tiff": "x.tif"},
}
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "delete", "cut"]),
        st.floats(0, 1, exclude_max=True),
        st.one_of(st.binary(min_size=1, max_size=4), st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f"])),
    ),
    min_size=1,
    max_size=4,
)


def edited(data: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    changed = bytearray(data)
    for kind, where, content in edits:
        place = int(where * len(changed))
        if kind == "set":
            changed[place : place + len(content)] = content
        elif kind == "insert":
            changed[place:place] = content
        elif kind == "delete":
            del changed[place : place + len(content)]
        else:
            del changed[place:]
    return bytes(changed)


def everything(path: Path) -> str | tuple[Samples, np.ndarray, np.ndarray | None]:
    try:
        samples = open_samples(path, shape=RGB)
        samples.digest()
        every = range(len(samples))
        return samples, samples.batch(every), samples.thumbnails(every)
    except OnnxinfoError as error:
        return str(error)


@pytest.mark.parametrize("kind", FILES)
@settings(
    max_examples=100, deadline=10_000, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(edits=EDITS)
def test_damaged_files_give_an_error_of_ours_or_samples(tmp_path: Path, kind: str, edits: list) -> None:
    path = tmp_path / FILES[kind]
    path.unlink(missing_ok=True)
    path.write_bytes(edited(encoded(kind), edits))
    with sparing():
        outcome = everything(path)
    if isinstance(outcome, str):
        assert "\n" not in outcome
        return
    samples, batch, thumbnails = outcome
    assert batch.shape == (len(samples), *RGB)
    assert np.isfinite(batch).all()
    assert thumbnails is not None
    if kind.startswith("npz"):  # these have checksums: what is read is what was written
        np.testing.assert_array_equal(thumbnails, PIXELS)
