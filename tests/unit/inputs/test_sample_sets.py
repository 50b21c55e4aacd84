"""Samples of several graph inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxinfo.errors import InputError, UsageError
from onnxinfo.inputs.sample_sets import open_inputs, parse_inputs


@pytest.mark.parametrize(
    ("spec", "names", "parsed"),
    [
        ("images", [], {"": "images"}),
        ("a.npz:x_test", ["x"], {"": "a.npz:x_test"}),
        ("ids=a.npz:ids,mask=a.npz:mask", [], {"ids": "a.npz:ids", "mask": "a.npz:mask"}),
        ("ids=a.npz:ids, mask=a.npz:mask", ["mask", "ids"], {"ids": "a.npz:ids", "mask": "a.npz:mask"}),
        (r"C:\data\x.npz:ids", ["ids"], {"": r"C:\data\x.npz:ids"}),
        (r"ids=C:\lr=1\x.npz:ids,mask=D:\y.npy", [], {"ids": r"C:\lr=1\x.npz:ids", "mask": r"D:\y.npy"}),
        ("runs/lr=0.1/x.npz", ["x"], {"": "runs/lr=0.1/x.npz"}),
        ("serving/ids:0=a.npy,x=b,c.npy", ["serving/ids:0", "x"], {"serving/ids:0": "a.npy", "x": "b,c.npy"}),
        ("x=lr=0.1/x.npy", ["x"], {"x": "lr=0.1/x.npy"}),
        ("x.1=a.npy,x=b.npy", ["x", "x.1"], {"x.1": "a.npy", "x": "b.npy"}),
    ],
)
def test_parse_inputs(spec: str, names: list[str], parsed: dict[str, str]) -> None:
    assert parse_inputs(spec, names) == parsed


def test_what_exists_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1").mkdir()
    assert parse_inputs("lr=0.1") == {"": "lr=0.1"}


@pytest.mark.parametrize("spec", ["ids=a.npy,ids=b.npy", "ids=", "ids=,mask=a.npy", "idz=a.npy"])
def test_unusable_specifications(spec: str) -> None:
    with pytest.raises(UsageError, match=r"expected .*ids"):
        parse_inputs(spec, ["ids", "mask"])


DECLARED = {"ids": ((None,), "i8"), "mask": ((None,), "f4")}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    arrays = {"ids": rng.integers(0, 9, (5, 7)), "mask": np.ones((5, 7), np.float32), "short": np.ones((4, 7))}
    np.savez(tmp_path / "a.npz", **arrays)
    return tmp_path / "a.npz"


def test_inputs_belong_together(archive: Path) -> None:
    samples = open_inputs(
        f"ids={archive}:ids,mask={archive}:mask", DECLARED, preset="unit", limit=3, labels=[1, 2, 3, 4, 5]
    )
    assert len(samples) == 3
    feeds = samples.feeds([2, 0])
    assert [(name, feed.shape, feed.dtype.str) for name, feed in feeds.items()] == [
        ("ids", (2, 7), "<i8"),
        ("mask", (2, 7), "<f4"),
    ]
    np.testing.assert_array_equal(feeds["ids"], np.load(archive)["ids"][[2, 0]])
    assert samples.first.labels is not None
    assert samples.first.labels.tolist() == [1, 2, 3]


def test_digest_covers_every_input(archive: Path) -> None:
    arrays = dict(np.load(archive))
    before = open_inputs({name: arrays[name] for name in DECLARED}, DECLARED).digest()
    arrays["mask"][4, 6] = 0
    assert open_inputs({name: arrays[name] for name in DECLARED}, DECLARED).digest() != before


def test_one_input_needs_no_name(archive: Path) -> None:
    assert list(open_inputs(f"{archive}:ids", {"ids": DECLARED["ids"]}).inputs) == ["ids"]
    assert len(open_inputs(np.ones((2, 3)), {"x": ((3,), "f4")})) == 2


def test_missing_and_unknown_inputs(archive: Path) -> None:
    with pytest.raises(UsageError, match="no samples for input mask"):
        open_inputs(f"ids={archive}:ids", DECLARED)
    with pytest.raises(UsageError, match="no samples for input ids"):
        open_inputs(f"{archive}:ids", DECLARED)
    with pytest.raises(UsageError, match="no input typo"):
        open_inputs({"typo": str(archive)}, DECLARED)


def test_inputs_of_different_length(archive: Path) -> None:
    with pytest.raises(InputError, match="ids and mask have 5 and 4 samples"):
        open_inputs(f"ids={archive}:ids,mask={archive}:short", DECLARED)


def test_a_broken_image_of_one_input_does_not_shift_the_others(tmp_path: Path) -> None:
    for index in range(3):
        Image.new("RGB", (4, 4), (index, 0, 0)).save(tmp_path / f"{index}.png")
    (tmp_path / "1.png").write_text("broken")
    with pytest.raises(InputError, match="3 and 3 samples, 2 and 3 of them used"):
        open_inputs({"x": tmp_path, "y": np.eye(3)}, {"x": ((3, 4, 4), "f4"), "y": ((3,), "f4")})
