"""An archive with one damaged byte gives its numbers, or an error that names what is damaged; the rest is recovered."""

import h5py
import numpy as np
import pytest
from places import DATA

import onnxinfo
from onnxinfo import ArchiveError

ARCHIVE = sorted((DATA / "layouts").glob("*.h5"))[-1]
#: Distance of the bytes that are flipped by default, and in the slow test: both odd, so that all offsets are met.
FEW, MANY = 1499, 13


def content(path):
    """Return everything that is read: descriptions, and the numbers of every cell, NaN where it is not finished."""
    found = {}
    with onnxinfo.open(path) as archive:
        for name in archive:
            run = archive[name]
            described = run.recipe, run.provenance, run.table("sample"), [vars(layer) for layer in run.layers]
            found[name, "description"] = np.array(repr(described))
            for metric in run.metrics:
                found[name, metric.name, "normalizer"] = np.asarray(run.normalizer(metric.name))
                for field, values in run.values(metric.name).items():
                    found[name, metric.name, field] = np.asarray(values)
                if metric.has_map:
                    maps = [run.maps(metric.name, layer) for layer in range(run.shape[0])]
                    found[name, metric.name, "map"] = np.stack(maps)
    return found


def same(one, other):
    """Tell whether two contents are equal to the last bit."""
    return one.keys() == other.keys() and all(
        values.shape == other[key].shape and values.tobytes() == other[key].tobytes() for key, values in one.items()
    )


def flipped(path, position):
    data = bytearray(ARCHIVE.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


def examined(path, expected):
    """Return the error that a damaged archive gives, or None where all is as before; wrong numbers fail."""
    try:
        found = content(path)
    except ArchiveError as error:
        return str(error)
    assert same(found, expected)
    return None


def assert_rest_is_saved(path, repaired, expected):
    """What is recovered equals the original, cell by cell, or is missing; nothing may be wrong."""
    try:
        onnxinfo.recover(path, repaired)
    except ArchiveError:
        return
    found = content(repaired)
    for key, values in found.items():
        if values.dtype.kind in "fiub" and key in expected and values.shape == expected[key].shape:
            lost = np.isnan(values) if values.dtype.kind == "f" else values == 0
            assert ((values == expected[key]) | lost).all(), key


@pytest.mark.parametrize("step", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_a_flipped_byte_is_never_a_wrong_number(step, tmp_path):
    path, expected = tmp_path / "damaged.h5", content(ARCHIVE)
    seen = []
    for position in range(step // 2, ARCHIVE.stat().st_size, step):
        flipped(path, position)
        message = examined(path, expected)
        seen.append(message)
        if message is not None:
            assert "\n" not in message
            assert str(path) in message or "/digits-cnn" in message, message
            assert_rest_is_saved(path, tmp_path / f"{position}.h5", expected)
    # Some bytes hold data, others nothing that is read.
    assert any(seen)
    assert not all(seen)


def test_a_damaged_cell_is_named_and_all_others_are_recovered(tmp_path):
    path, expected = tmp_path / "damaged.h5", content(ARCHIVE)
    value = expected["digits-cnn", "sid", "value"]
    position = ARCHIVE.read_bytes().index(value.astype("<f8").tobytes())
    flipped(path, position + 3)
    message = examined(path, expected)
    assert "sid of layer 'relu_4', sample 0 in run 'digits-cnn'" in message
    assert "onnxinfo.recover(...)" in message
    recovery = onnxinfo.recover(path, tmp_path / "repaired.h5")
    assert any("relu_4" in each for each in map(str, recovery.lost))
    found = content(tmp_path / "repaired.h5")["digits-cnn", "sid", "value"]
    assert np.isnan(found[0, 0])
    assert (np.delete(found.ravel(), 0) == np.delete(value.ravel(), 0)).all()


def test_a_normalizer_that_is_damaged_is_not_recovered(tmp_path):
    """It is protected by the checksums of its layer's cells alone, which are lost with it."""
    path, expected = tmp_path / "damaged.h5", content(ARCHIVE)
    normalizer = expected["digits-cnn", "sid", "normalizer"]
    flipped(path, ARCHIVE.read_bytes().index(normalizer.astype("<f8").tobytes()) + 5)
    assert "sid of layer 'relu_4'" in examined(path, expected)
    assert_rest_is_saved(path, tmp_path / "repaired.h5", expected)
    found = content(tmp_path / "repaired.h5")["digits-cnn", "sid", "normalizer"]
    assert np.isnan(found[0])
    assert (found[1:] == normalizer[1:]).all()


def test_a_damaged_description_is_named_with_its_file(tmp_path):
    path, expected = tmp_path / "damaged.h5", content(ARCHIVE)
    with h5py.File(ARCHIVE) as file:
        position = file["digits-cnn/op"].id.get_offset()
    flipped(path, position)
    assert f"/digits-cnn/op of {path} is damaged: its checksum does not match" in examined(path, expected)
