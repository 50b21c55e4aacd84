"""Data sets that the bundled networks were trained on; ``python -m models.datasets`` bundles held-out samples of each.

All of them come with scikit-learn.
"""

from __future__ import annotations

import re
from collections import Counter
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn import datasets
from sklearn.model_selection import train_test_split

from .export import BUNDLED, HERE

Array = npt.NDArray[Any]

SEED = 0
#: Words per sample of :func:`text`.
WORDS = 16
#: Minimum number of words of a description that becomes a class of :func:`text`.
MIN_WORDS = 400
#: Stands in :func:`text` for words seen at most once in training.
UNKNOWN = 0


class Split(NamedTuple):
    """A data set split into training and held-out samples; samples are the first axis."""

    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array


def _split(x: Array, y: Array, strata: Array | None) -> Split:
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.3, stratify=strata, random_state=SEED)
    return Split(x_train, y_train, x_test, y_test)


def digits() -> Split:
    """Return handwritten digits as (N, 8, 8) uint8 from 0 (paper) to 255 (ink), labels int64."""
    data = datasets.load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)
    return _split(images, data.target.astype(np.int64), data.target)


def wine() -> Split:
    """Return chemical analyses of wines as (N, 13) float32 in original units, with the cultivar as label."""
    data = datasets.load_wine()
    return _split(data.data.astype(np.float32), data.target.astype(np.int64), data.target)


def diabetes() -> Split:
    """Return ten measurements of patients as (N, 10) float32 in original units, with the progress of the disease."""
    data = datasets.load_diabetes(scaled=False)
    return _split(data.data.astype(np.float32), data.target.astype(np.float32), None)


class Text(NamedTuple):
    """Passages from scikit-learn's descriptions of data sets; the class is the description that a passage is from."""

    tokens: Split
    """Passages as (N, WORDS) int64 indices into the vocabulary."""
    vocabulary: list[str]
    """Word for each index."""
    classes: list[str]
    """Data set for each class."""


def text() -> Text:
    """Return non-overlapping passages of :data:`WORDS` consecutive words."""
    passages: list[list[str]] = []
    labels: list[int] = []
    classes: list[str] = []
    files = [file for file in resources.files(datasets).joinpath("descr").iterdir() if file.name.endswith(".rst")]
    for file in sorted(files, key=lambda file: file.name):
        words = re.findall("[a-z]+", file.read_text(encoding="utf-8").lower())
        if len(words) < MIN_WORDS:
            continue
        starts = range(0, len(words) - WORDS + 1, WORDS)
        passages += [words[start : start + WORDS] for start in starts]
        labels += [len(classes)] * len(starts)
        classes.append(file.name.removesuffix(".rst"))
    y = np.array(labels, dtype=np.int64)
    cut = _split(np.array(passages), y, y)
    seen = Counter(cut.x_train.ravel().tolist())
    vocabulary = ["?", *sorted(word for word, count in seen.items() if count > 1)]
    place = {word: index for index, word in enumerate(vocabulary)}

    def encode(words: Array) -> Array:
        return np.array([[place.get(word, UNKNOWN) for word in passage] for passage in words.tolist()], dtype=np.int64)

    return Text(cut._replace(x_train=encode(cut.x_train), x_test=encode(cut.x_test)), vocabulary, classes)


def main() -> None:
    """Bundle the first held-out samples of every data set."""
    _bundle("digits.npz", digits(), x="images", y="labels")
    _bundle("wine.npz", wine(), x="features", y="labels")
    _bundle("diabetes.npz", diabetes(), x="features", y="targets")
    words = text()
    names = {"vocabulary": np.array(words.vocabulary), "classes": np.array(words.classes)}
    _bundle("text.npz", words.tokens, x="tokens", y="labels", **names)


def _bundle(file: str, data: Split, x: str, y: str, **further: Array) -> None:
    arrays: dict[str, Any] = {x: data.x_test[:BUNDLED], y: data.y_test[:BUNDLED], **further}
    np.savez_compressed(HERE / file, **arrays)


if __name__ == "__main__":
    main()
