"""The gallery's commands read only what the repository, the two named files or earlier commands on the page supply."""

from __future__ import annotations

import csv
import re
import shlex
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from places import DOCS

from onnxinfo.cli import cli

ROOT = DOCS.parent
#: Files that the page says are not in the repository, and folders that pages it names fill.
GIVEN = {"cifar10.npz", "resnet20.onnx", "study"}
WRITTEN = {"demo": ["demo/digits.h5"], "python": ["wine.csv", "tokens.txt", "images", "labels.npy", "pets.npz"]}
TAKES_FILE = {"--inputs", "--labels", "--texts", "--decoder-inputs", "--model"}


def commands():
    """Return the page's command lines, split into words."""
    text = (DOCS / "gallery.md").read_text(encoding="utf-8").replace("\\\n", " ")
    return [shlex.split(line) for line in re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)]


def files_of(words):
    """Return the files that a command reads, and those that it writes."""
    reads, output = [], []
    for before, word in zip(["", *words[:-1]], words, strict=True):
        if before in ("-o", "--output"):
            output.append(word)
        elif before in TAKES_FILE or (word.endswith((".h5", ".onnx", ".npz", ".py")) and not before.startswith("--")):
            reads.append(word.split(":")[0])
    return reads, output


def test_every_input_comes_from_somewhere():
    available = set(GIVEN)
    for words in commands():
        reads, output = files_of(words)
        missing = [each for each in reads if each not in available and not (ROOT / each).exists()]
        assert not missing, f"{' '.join(words)}: {missing}"
        kind = "python" if words[0] == "python" and "gallery_inputs" in words[1] else words[1]
        available |= {*output, *WRITTEN.get(kind, [])}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """The inputs from bundled samples and from images like those of CIFAR-10."""
    sys.path.insert(0, str(DOCS))
    try:
        import gallery_inputs
    finally:
        sys.path.remove(str(DOCS))
    folder = tmp_path_factory.mktemp("gallery")
    images = np.random.default_rng(0).integers(0, 256, (100, 4, 4, 3), np.uint8)
    classes = np.array([f"class {number}" for number in range(10)])
    np.savez(folder / "cifar10.npz", x_test=images, y_test=np.arange(100) % 10, classes=classes)
    gallery_inputs.main([str(folder), str(folder / "cifar10.npz")])
    return folder


def test_inputs_are_the_bundled_samples(inputs):
    with (inputs / "wine.csv").open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    with np.load(ROOT / "models" / "wine.npz") as data:
        np.testing.assert_array_equal(np.array(rows, np.float32), np.c_[data["features"], data["labels"]])
    assert head[0] == "alcohol"
    assert head[-1] == "cultivar"
    lines = (inputs / "tokens.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 8
    assert lines[4].startswith("newsgroups dataset the newsgroups text")
    assert len(list((inputs / "images").iterdir())) == len(np.load(inputs / "labels.npy")) == 50
    with np.load(inputs / "pets.npz") as pets:
        assert pets["labels"].tolist() == ["class 5", "class 1", "class 2", "class 4"]


def test_the_words_label_the_units(inputs, monkeypatch):
    """The two lines on text, with fewer layers."""
    monkeypatch.chdir(inputs)
    (analyzed,) = (words for words in commands() if "text.h5" in words and words[1] == "analyze")
    (drawn,) = (words for words in commands() if "text.h5" in words and words[1] == "plot")
    analyzed = [str(ROOT / word) if word.startswith("models/") else word for word in analyzed[1:]]
    for line in ([*analyzed, "--layers", "linear"], drawn[1:]):
        result = CliRunner().invoke(cli, line)
        assert result.exit_code == 0, result.output
    assert (inputs / "tokens.png").exists()
