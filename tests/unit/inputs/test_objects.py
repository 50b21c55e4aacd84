"""Samples in tensors, datasets, loaders, pictures and DataFrames give what arrays and files of them give."""

import sys
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import onnxinfo
from onnxinfo.inputs import objects
from onnxinfo.inputs.objects import is_frame, plain
from onnxinfo.inputs.sample_sets import open_inputs
from onnxinfo.models import path as bundled

X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
Y = np.array([0, 1, 2, 0, 1, 2])


def opened(spec, shape=(3,), **options):
    return onnxinfo.open_samples(spec, shape=shape, **options)


def values(samples):
    return samples.batch(range(len(samples)))


def test_tensors():
    given = torch.from_numpy(X).requires_grad_()
    assert np.array_equal(values(opened(given)), X)
    assert opened(given).digest() == opened(X).digest()
    assert np.allclose(values(opened(given.bfloat16())), X, atol=0.02)
    pair = {"a": torch.from_numpy(X), "b": X}
    several = open_inputs(pair, {"a": ((3,), np.float32), "b": ((3,), np.float32)})
    assert np.array_equal(several.feeds([1])["a"], X[[1]])


class Items(Dataset):
    """A dataset that counts what is read."""

    def __init__(self, items):
        self.items, self.read = items, []

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.read.append(index)
        return self.items[index]


PAIRS = [(torch.from_numpy(x), int(y)) for x, y in zip(X, Y, strict=True)]


def collate(items):
    return torch.stack([x for x, _ in items]), [y for _, y in items]


@pytest.mark.parametrize(
    "given",
    [
        Items(PAIRS),
        Items([(x.numpy(), np.int64(y)) for x, y in PAIRS]),
        TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),
        DataLoader(Items(PAIRS), batch_size=4),
        DataLoader(Items(PAIRS), batch_size=4, shuffle=True),
        DataLoader(Items(PAIRS), batch_size=4, collate_fn=collate),
        Subset(Items([*PAIRS, *PAIRS]), range(6)),
    ],
)  # fmt: skip
def test_datasets_and_loaders_with_labels(given):
    samples = opened(given)
    assert np.array_equal(values(samples), X)
    assert samples.labels.tolist() == Y.tolist()
    assert samples.names[:2] == ["data[0]", "data[1]"]
    assert samples.digest() == opened(plain(given)).digest()


def test_a_loader_that_shuffles_says_that_its_order_is_left(tmp_path, caplog):
    """Its order would be another one each time."""
    assert opened(DataLoader(Items(PAIRS), batch_size=4)).order == ""
    shuffling = DataLoader(Items(PAIRS), batch_size=4, shuffle=True)
    assert opened(shuffling, limit=2).order == "that of the dataset, which the DataLoader would shuffle"
    data = np.load(bundled("digits.npz"))
    images = torch.from_numpy(data["images"][:4, None] / np.float32(255))
    loader = DataLoader(TensorDataset(images), shuffle=True)
    result = onnxinfo.analyze(bundled("digits-cnn.onnx"), loader, tmp_path / "a.h5", layers=["relu"], limit=2)
    assert (
        caplog.text.count("order of the samples: that of the dataset, which the DataLoader would shuffle; a random")
        == 1
    )
    with onnxinfo.open(result) as archive:
        assert archive[result.run].provenance["samples_order"].startswith("that of the dataset")


def test_a_dataset_is_read_in_pieces():
    given = Items([x for x, _ in PAIRS])
    samples = opened(given, limit=2)
    assert samples.labels is None
    assert set(given.read) == {0, 1}
    given.read.clear()
    samples.batch([1])
    assert given.read == [1]


def test_listed_labels_are_not_looked_for_in_the_items():
    given = Items(PAIRS)
    given.targets = torch.from_numpy(Y)
    assert opened(given, limit=2).labels.tolist() == [0, 1]
    assert set(given.read) == {0, 1}
    given.targets = [f"class {y}" for y in Y]
    samples = opened(given)
    assert (samples.labels.tolist(), samples.classes) == (Y.tolist(), ["class 0", "class 1", "class 2"])


def test_many_items_are_not_read_for_labels(monkeypatch, caplog):
    monkeypatch.setattr(objects, "MOST_READ_FOR_LABELS", 5)
    assert opened(Items(PAIRS)).labels is None
    assert "the dataset has 6 items and does not list its labels: give labels" in caplog.text
    assert opened(Items(PAIRS), labels=Y).labels.tolist() == Y.tolist()


def test_targets_of_a_regression_are_no_labels():
    assert opened(Items([(x, 0.5) for x, _ in PAIRS])).labels is None


class Stream(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


@pytest.mark.parametrize("given", [Stream(PAIRS), DataLoader(Stream(PAIRS), batch_size=4)])
def test_streams(given):
    samples = opened(given)
    assert np.array_equal(values(samples), X)
    assert samples.labels.tolist() == Y.tolist()


def test_a_stream_that_is_too_large(monkeypatch):
    monkeypatch.setattr(objects, "MAX_HELD_BYTES", 30)
    with pytest.raises(onnxinfo.InputError, match="cannot be read by position, and its samples take more than 0 MiB"):
        opened(Stream(PAIRS))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (Items([]), "the dataset is empty; expected at least one sample"),
        (DataLoader(Items([])), "the DataLoader is empty; expected at least one sample"),
        (DataLoader(Stream([])), "the DataLoader is empty; expected at least one sample"),
        (Items([{"x": 1}]), "item 0 of the dataset is dict, expected a tensor, an array or a picture"),
        (DataLoader(Stream([{"x": torch.ones(3)}])), "the DataLoader yields dict, expected batches of tensors"),
        (Items([torch.ones(3), torch.ones(4)]), r"item 1 of the dataset has shape \(4,\) and item 0 \(3,\); e"),
        (Stream([torch.ones(3), torch.ones(4)]), r"item 1 of the dataset has shape \(4,\) and item 0 \(3,\); e"),
        (Items([np.array(["a"])]), "item 0 of the dataset has elements of type <U1, expected numbers"),
        (Items([torch.ones(4)]), "samples of data have shape 4, the model takes 3"),
    ],
)  # fmt: skip
def test_unusable_items_are_one_line(given, reason):
    with pytest.raises(onnxinfo.InputError, match=reason) as caught:
        opened(given)
    assert "\n" not in str(caught.value)


def test_pictures_are_read_as_files_are(tmp_path):
    generator = np.random.default_rng(0)
    pictures = [Image.fromarray(generator.integers(0, 255, (h, w, 3), np.uint8)) for h, w in ((20, 24), (30, 16))]
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
    inside, files = (opened(spec, (3, 8, 8), preset="imagenet") for spec in (pictures, tmp_path))
    assert np.array_equal(values(inside), values(files))
    assert inside.names == ["input[0]", "input[1]"]
    assert np.array_equal(inside.thumbnails([0, 1]), files.thumbnails([0, 1]))
    assert len(opened(pictures[0], (3, 8, 8))) == 1
    assert opened([pictures[0].convert("CMYK"), pictures[1].convert("L")], (3, 8, 8)).unreadable == []


def test_pictures_in_a_dataset():
    given = Items([(Image.new("RGB", (8, 8), (255, 0, 0)), 1)])
    assert values(opened(given, (3, 8, 8)))[0, :, 0, 0].tolist() == [1, 0, 0]


def test_dataframes():
    frame = pandas.DataFrame(X, columns=["a", "b", "c"])
    samples = opened(frame)
    assert np.array_equal(values(samples), X)
    assert samples.units == ("a", "b", "c")
    assert np.array_equal(values(opened(frame[["c", "a"]], (2,))), X[:, [2, 0]])
    with pytest.raises(onnxinfo.InputError, match="the DataFrame has 2 columns named 'a'; give each a name of its own"):
        opened(pandas.DataFrame(X[:, :2], columns=["a", "a"]), (2,))


def test_dataframes_by_name():
    frame = pandas.DataFrame({"B": X[:, 0], "a": ["x", "y", "z", "x", "y", "z"], "more": X[:, 1]})
    declared = {"a": ((1,), np.dtype(object)), "b": ((1,), np.float32)}
    feeds = open_inputs(frame, declared).feeds([0, 2])
    assert feeds["a"].ravel().tolist() == ["x", "z"]
    assert np.array_equal(feeds["b"].ravel(), X[[0, 2], 0])
    with pytest.raises(onnxinfo.InputError, match="the DataFrame has no column for input 'b'; expected a"):
        open_inputs(frame[["a"]], declared)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (pandas.DataFrame({"a": [1.0], "b": [2.0]}), r"the DataFrame has 2 columns, a, b; the model takes 3 values: s"),
        (pandas.DataFrame({"a": [1.0], "b": ["x"], "c": [1]}), "column 'b' holds VARCHAR, expected numbers"),
        (pandas.DataFrame({"a": [1.0], "b": [np.nan], "c": [1]}), "column 'b', row 1, is"),
        (pandas.DataFrame({"a": [], "b": [], "c": []}), "the DataFrame has no rows"),
    ],
)  # fmt: skip
def test_unusable_dataframes_are_one_line(frame, reason):
    with pytest.raises(onnxinfo.InputError, match=reason) as caught:
        opened(frame)
    assert "\n" not in str(caught.value)


def test_polars():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"a": X[:, 0], "b": X[:, 1], "c": X[:, 2]})
    assert is_frame(frame)
    assert np.array_equal(values(opened(frame)), X)


def test_recognition_by_class_names():
    assert not is_frame(SimpleNamespace())
    assert plain("a.npy") == "a.npy"
    assert plain(X) is X
    assert "polars" not in sys.modules or is_frame(sys.modules["polars"].DataFrame())


def test_an_analysis_of_a_loader(tmp_path):
    data = np.load(bundled("digits.npz"))
    images = torch.from_numpy(data["images"][:6, None] / np.float32(255))
    loader = DataLoader(TensorDataset(images, torch.from_numpy(data["labels"][:6])), batch_size=3)
    result = onnxinfo.analyze(bundled("digits-cnn.onnx"), loader, tmp_path / "a.h5", layers=["relu"], limit=2)
    with onnxinfo.open(result) as archive:
        run = archive[result.run]
        assert run.labels.tolist() == data["labels"][:2].tolist()
        assert run.correct.tolist() == [1, 1]
    assert onnxinfo.analyze(bundled("digits-cnn.onnx"), loader, result, layers=["relu"], limit=2).unchanged
