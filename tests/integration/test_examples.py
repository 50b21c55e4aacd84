"""Every public name has an example that runs, and a place in the reference."""

import doctest
import inspect
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from places import DOCS

import onnxinfo
from onnxinfo.models import path as bundled

REFERENCE = DOCS / "reference"
NAMES = [name for name in onnxinfo.__all__ if name != "__version__"]
#: Examples that take seconds: the demo analyzes 50 images, and the toolbox behind robustness is slow to import.
SLOW = {"demo", "robustness"}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with a model, images, two archives and a decoder."""
    folder = tmp_path_factory.mktemp("prepared")
    for name in ("digits-cnn.onnx", "digits.npz"):
        shutil.copy(bundled(name), folder)
    model, images, layers = folder / "digits-cnn.onnx", f"{folder}/digits.npz:images", ["relu", "logits"]
    pruned = onnxinfo.prune(model, 0.5)
    onnxinfo.analyze(model, images, folder / "result.h5", layers=layers, limit=2)
    onnxinfo.analyze(pruned, images, folder / "pruned.h5", layers=layers, limit=2, run="pruned")
    onnxinfo.train_decoder(model, images, folder / "decoders", layers=["relu"], limit=16, steps=1, width=8)
    return folder


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch):
    """A copy of the folder in which examples may write."""
    monkeypatch.chdir(shutil.copytree(prepared, tmp_path / "examples"))


def example(name):
    globs = {"onnxinfo": onnxinfo, "np": np, "Path": Path}
    text = inspect.getdoc(getattr(onnxinfo, name)) or ""
    return doctest.DocTestParser().get_doctest(text, globs, name, None, None)


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_has_an_example(name):
    text = inspect.getdoc(getattr(onnxinfo, name)) or ""
    assert re.search(r"^Examples\n-{8}$", text, re.MULTILINE), f"{name} has no section of examples"
    used = [each for each in example(name).examples if f"onnxinfo.{name}" in each.source or name[0].isupper()]
    assert used, f"the examples of {name} do not use it"
    assert not any(each.options.get(doctest.SKIP) for each in example(name).examples)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in NAMES]
)
def test_examples_run(name, folder):
    report = []
    results = doctest.DocTestRunner(optionflags=FLAGS).run(example(name), out=report.append)
    assert results.failed == 0, "".join(report)


def test_every_public_name_is_in_the_reference():
    pages = {page.name: page.read_text() for page in REFERENCE.glob("*.md")}
    listed = [name for text in pages.values() for name in re.findall(r"^::: onnxinfo\.(\w+)$", text, re.MULTILINE)]
    assert sorted(listed) == sorted(NAMES)
    assert "`onnxinfo.__version__`" in pages["index.md"]
    linked = set(re.findall(r"^\| \[[^]]+\]\((\w+\.md)\)", pages["index.md"], re.MULTILINE))
    assert linked == {*pages} - {"index.md"}
