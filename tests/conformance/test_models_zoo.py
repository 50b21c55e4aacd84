"""The bundled networks match their table, and the networks of every exporter are analyzed end to end."""

from __future__ import annotations

import functools
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from google.protobuf.message import Message

import onnxinfo
from onnxinfo.cli import cli
from onnxinfo.graph.surgery import expose_only
from onnxinfo.models import path

onnxruntime.set_default_logger_severity(4)

HERE = path("digits.npz").parent
# Machine paths, source files and stack traces, in text long enough not to be weights.
TEXT = re.compile(rb"[ -~]{8,}")
TRACES = re.compile(
    rb"/(home|root|tmp|usr|opt|var|mnt|private|Users)/|[A-Z]:\\|site-packages|\.py\b|Traceback|File \"|line \d"
)

# Entropy per unit of a linear layer with equal units at the default constraint, and of the maximum noise.
FLOOR, CEILING = -2.98, 1.42


class Entry(NamedTuple):
    file: str
    opset: int
    measure: str
    bundled: float
    inputs: list[str]


def _table() -> list[Entry]:
    cells = [[c.strip().strip("`") for c in line.split("|")[1:-1]] for line in _lines()]
    return [Entry(c[0], int(c[5]), c[6].split()[0], float(c[7]), shlex.split(c[8])) for c in cells]


def _lines() -> list[str]:
    text = (HERE / "README.md").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if re.match(r"\| `[^`*]+\.onnx`", line)]


ZOO = {entry.file: entry for entry in _table()}
each = pytest.mark.parametrize("entry", ZOO.values(), ids=ZOO)


@functools.cache
def _data(name: str) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(HERE / name) as file:
        return dict(file)


def _feeds(model: onnx.ModelProto, entry: Entry) -> dict[str, np.ndarray[Any, Any]]:
    """Return bundled samples in the form that the network takes, preprocessed by hand."""
    name, _, key = Path(entry.inputs[0]).name.partition(":")
    (graph_input,) = model.graph.input
    tensor = graph_input.type.tensor_type
    x = _data(name)[key].astype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    if key == "images":
        x = (x / 255).astype(np.float32).reshape(-1, *(d.dim_value for d in tensor.shape.dim[1:]))
    return {graph_input.name: x}


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in [value] if isinstance(value, Message) else value:
                yield from _messages(item)


def test_the_table_has_every_network() -> None:
    assert sorted(ZOO) == sorted(file.name for file in HERE.glob("*.onnx"))


def test_a_file_that_is_not_bundled() -> None:
    with pytest.raises(FileNotFoundError, match=r"'nothing\.onnx'.*digits-cnn\.onnx"):
        path("nothing.onnx")
    with pytest.raises(FileNotFoundError):
        path("../pyproject.toml")


@pytest.mark.parametrize("file", [*HERE.glob("*.onnx"), *HERE.glob("*.npz")], ids=lambda file: file.name)
def test_files_are_small_and_say_nothing_of_the_machine(file: Path) -> None:
    content = file.read_bytes()
    assert len(content) < (200_000 if file.name == "digits-cnn.onnx" else 1_000_000)
    assert not [text for text in TEXT.findall(content) if TRACES.search(text)]


@each
def test_a_network_is_valid_and_bare(entry: Entry) -> None:
    model = onnx.load(path(entry.file))
    onnx.checker.check_model(model, full_check=True)
    assert entry.opset in [opset.version for opset in model.opset_import if opset.domain == ""]
    for message in _messages(model):
        assert not getattr(message, "doc_string", "")
        assert not getattr(message, "metadata_props", ())


def test_samples() -> None:
    digits = _data("digits.npz")
    assert digits["images"].shape == (50, 8, 8)
    assert digits["images"].dtype == np.uint8
    assert digits["images"].min() == 0
    assert digits["images"].max() == 255
    assert digits["labels"].shape == (50,)
    text = _data("text.npz")
    assert text["tokens"].max() < len(text["vocabulary"])
    assert text["labels"].max() < len(text["classes"])


@each
def test_onnx_runtime_reproduces_the_stated_score(entry: Entry) -> None:
    model = onnx.load(path(entry.file))
    session = onnxruntime.InferenceSession(path(entry.file), providers=["CPUExecutionProvider"])
    results = session.run(None, _feeds(model, entry))
    predicted = next(result for result in results if result.dtype == np.float32)
    data = _data(Path(entry.inputs[0]).name.partition(":")[0])
    if entry.measure == "R2":
        y = data["targets"]
        score = 1 - np.square(y - predicted[:, 0]).sum() / np.square(y - y.mean()).sum()
    else:
        score = np.mean(predicted.argmax(1) == data["labels"])
    assert score == pytest.approx(entry.bundled, abs=5e-5)


@each
def test_the_torch_graph_agrees_on_the_default_layers(entry: Entry) -> None:
    model = onnx.load(path(entry.file))
    feeds = _feeds(model, entry)
    names = [layer.name for layer in onnxinfo.select_layers(onnxinfo.list_layers(model))]
    assert len(names) >= 2
    module = onnxinfo.convert(model, names, fallback=False)
    exposed = expose_only(model, names).proto.SerializeToString()
    session = onnxruntime.InferenceSession(exposed, providers=["CPUExecutionProvider"])
    expected = session.run(names, feeds)
    with torch.no_grad():
        actual = module(*map(torch.from_numpy, feeds.values()))
    for name, ours, theirs in zip(names, actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max(), err_msg=name)


def _analyze(entry: Entry, output: Path, *options: str) -> list[dict[str, Any]]:
    """Run the table's command, and return the rows of ``query``."""
    analyze = ["analyze", f"models/{entry.file}", "--inputs", *entry.inputs, "-o", str(output), "--device", "cpu"]
    _invoke([*analyze, *options])
    rows: list[dict[str, Any]] = json.loads(_invoke(["query", str(output), "--format", "json"]))
    return rows


def _invoke(arguments: list[str]) -> str:
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table's commands run in the repository's folder."""
    monkeypatch.chdir(HERE.parent)


@each
@pytest.mark.usefixtures("in_repository")
def test_analyze(entry: Entry, tmp_path: Path) -> None:
    layers = onnxinfo.select_layers(onnxinfo.list_layers(path(entry.file)))
    # Probabilities saturate: the effect of this noise is too uncertain for a test with few samples.
    layers = [layer for layer in layers if layer.name != "probabilities"]
    chosen = [layers[0], layers[-1]]
    patterns = [option for layer in chosen for option in ("--layers", str(layer.index))]
    rows = _analyze(entry, tmp_path / "a.h5", "--limit", "3", *patterns)
    assert [(row["layer"], row["layer_index"], row["op"]) for row in rows] == [(x.name, x.index, x.op) for x in chosen]
    shallow, deep = (row["value"] for row in rows)
    assert FLOOR - 0.1 < shallow < deep < CEILING


@pytest.mark.usefixtures("in_repository")
def test_both_exporters_of_one_network_give_one_result(tmp_path: Path) -> None:
    found = {}
    for file in ("digits-cnn.onnx", "torch-digits-cnn.onnx"):
        layers = onnxinfo.select_layers(onnxinfo.list_layers(path(file)))
        patterns = [option for layer in layers[1::3] for option in ("--layers", str(layer.index))]
        rows = _analyze(ZOO[file], tmp_path / f"{file}.h5", "--limit", "3", *patterns)
        found[file] = [row["value"] for row in rows]
    a, b = found.values()
    assert len(a) == 3
    assert a == pytest.approx(b, abs=0.01)
