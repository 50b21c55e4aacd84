"""Objects as notebooks show them: representations, HTML that escapes, progress bars, methods of a run."""

import sys
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from archive_fakes import PROVEN_SID, make, schema, table_schema

import onnxinfo
from onnxinfo.archive.sanity import SanityCard
from onnxinfo.models import path as bundled
from onnxinfo.text import minus_signs
from onnxinfo.workflows.notebook import Bars, reporting

MARKUP = "<script>alert(1)<_script>"
HOSTILE = "<script>alert(1)</script>\x1b[31m"


class Balanced(HTMLParser):
    """Checks that elements are closed in order, and collects the text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.seen = [], [], set()
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def shown(found):
    """Return the text of an object's HTML, which is self-contained and runs nothing."""
    html = found._repr_html_()
    parsed = Balanced(html)
    assert "script" not in parsed.seen
    assert "src=" not in html
    assert "url(" not in html
    assert "\x1b" not in html
    return " ".join(parsed.text)


@pytest.fixture
def archive(tmp_path):
    with onnxinfo.open(make(tmp_path / "a.h5", described=schema(metrics=(PROVEN_SID,)))) as archive:
        yield archive


def test_an_archive(archive):
    assert repr(archive) == f"<archive {archive.path}: 'first'>"
    assert "first complete 4 6 sid" in shown(archive)


def test_a_run(archive):
    run = archive["first"]
    assert repr(run).startswith("<run 'first' of ")
    text = shown(run)
    for part in ("samples 6, with labels", "input (3 x 24 x 24: channel, y, x)", "/layer2/é/Relu_output_0", "5 of 6"):
        assert part in text
    assert minus_signs(f"{run.to_dataframe()['value'][0]:.4f}") in text


def test_warnings_and_accuracy_of_a_run(tmp_path):
    card = SanityCard("x", 6, {}, classes=3, labeled=6, accuracy=0.5, warnings=(HOSTILE,))
    described = schema(metrics=(PROVEN_SID,), provenance={"sanity": card.to_dict()})
    with onnxinfo.open(make(tmp_path / "a.h5", described=described)) as archive:
        text = shown(archive["first"])
    assert "accuracy 0.500" in text
    assert "WARNING: <script>" in text


def test_hostile_names_are_text(tmp_path):
    described = table_schema(metrics=(PROVEN_SID,))
    layers = [replace(row, name=f"{HOSTILE}{row.index}") for row in described.layers]
    path = make(tmp_path / "a.h5", run=MARKUP, described=replace(described, layers=layers))
    with onnxinfo.open(path) as archive:
        assert "<script>" in shown(archive)
        assert "<script>" in shown(archive[archive.runs[0]])


def test_what_is_closed_says_so(archive):
    run = archive["first"]
    archive.close()
    assert "state closed" in shown(archive)
    assert "state closed" in shown(run)


def test_what_is_damaged_says_so(tmp_path):
    path = make(tmp_path / "a.h5", described=schema(metrics=(PROVEN_SID,)))
    with h5py.File(path, "a") as file:
        del file["first/layer"]
    with onnxinfo.open(path) as archive:
        assert "damaged: " in shown(archive)
    assert "state cannot be read" in shown(onnxinfo.Result(path, "first"))
    assert "state cannot be read" in shown(onnxinfo.Result(tmp_path / "none.h5", "first"))


def test_a_result_shows_its_run(archive):
    result = onnxinfo.Result(archive.path, "first")
    assert repr(result) == f"Result(archive={archive.path!r}, run='first')"
    assert shown(result) == shown(archive["first"])


def test_an_empty_archive(tmp_path):
    path = make(tmp_path / "a.h5", described=table_schema())
    onnxinfo.delete_run(path, "first")
    with onnxinfo.open(path) as archive:
        assert "no runs" in shown(archive)


def test_an_archive_is_a_mapping(archive):
    assert [*archive] == [*archive.keys()] == ["first"]
    assert len(archive) == 1
    assert "first" in archive
    ((name, run),) = archive.items()
    assert (name, run.name, [each.name for each in archive.values()]) == ("first", "first", ["first"])
    assert archive.get("other") is None
    with pytest.raises(KeyError, match="has no run 'other'; it has first") as caught:
        archive["other"]
    assert isinstance(caught.value, onnxinfo.UsageError)
    assert str(caught.value) == f"{archive.path} has no run 'other'; it has first"


def test_a_model():
    model = onnxinfo.load(bundled("digits-cnn.onnx"))
    assert repr(model) == (
        "<model 'digits-cnn': 22 nodes, opset 20; inputs image (float batchx1x8x8); outputs logits (float batchx10)>"
    )
    text = shown(model)
    assert "parameters 46,892" in text
    assert f"SHA-256 {model.sha256[:16]}" in text


def test_samples():
    data = bundled("digits.npz")
    samples = onnxinfo.open_samples(f"{data}:images", shape=(1, 8, 8), labels=f"{data}:labels", limit=7)
    assert repr(samples) == "<samples: 7 of 50, float32, 1 x 8 x 8 (channel, y, x); with labels>"
    assert "7 of 50: images[0], images[1]" in shown(samples)
    assert "labels 6 different" in shown(samples)


def test_methods_of_a_run(archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = archive["first"]
    assert run.to_dataframe().equals(archive.to_dataframe())
    assert len(run.to_dataframe("sample")) == 24
    assert run.plot().axes[0].get_xlabel().startswith("layer, ")
    run.plot("curve", tmp_path / "curve.svg", width="column")
    assert (tmp_path / "curve.svg").read_text().startswith("<?xml")
    assert run.report(tmp_path / "run.html", title="One run") == tmp_path / "run.html"
    assert "One run" in (tmp_path / "run.html").read_text()
    assert run.report().read_text() == (tmp_path / "report.html").read_text()
    assert run.summary().sentences == onnxinfo.summary(run).sentences


def test_a_run_shows_itself_only(tmp_path):
    path = make(tmp_path / "a.h5", described=schema(metrics=(PROVEN_SID,)))
    make(path, "second", schema(metrics=(PROVEN_SID,), recipe={"alpha": 0.1}))
    with onnxinfo.open(path) as archive:
        archive["second"].report(tmp_path / "run.html")
    assert '"name":"first"' not in (tmp_path / "run.html").read_text()


class Display:
    """Records what IPython's display is called with."""

    def __init__(self):
        self.shown = []

    def __call__(self, data, *, raw, display_id):
        self.shown.append(data)
        return SimpleNamespace(update=lambda data, raw: self.shown.append(data))


def test_a_bar_is_redrawn_in_place_and_not_too_often():
    display, clock = Display(), iter(np.arange(0, 10, 0.05))
    bars = Bars(display, lambda: next(clock))
    for done in range(11):
        bars(onnxinfo.Progress("sid", done, 10, "<relu>", -2.5, 61))
    assert len(display.shown) == 4
    assert display.shown[0]["text/plain"] == "sid: 0 of 10, about 1:01 left, <relu> -2.500"
    assert display.shown[-1]["text/plain"] == "sid: 10 of 10, <relu> -2.500"
    assert 'value="10" max="10"' in display.shown[-1]["text/html"]
    assert "&lt;relu&gt;" in display.shown[-1]["text/html"]
    Balanced(display.shown[-1]["text/html"])


def test_a_script_shows_nothing(capsys):
    reporting(None)(onnxinfo.Progress("sid", 0, 1))
    assert capsys.readouterr() == ("", "")


def test_a_terminal_of_ipython_shows_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace()))
    assert not isinstance(reporting(None), Bars)


def test_a_notebook_shows_bars_by_default(monkeypatch, tmp_path):
    display = Display()
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    inputs = f"{bundled('digits.npz')}:images"
    onnxinfo.analyze(bundled("digits-cnn.onnx"), inputs, tmp_path / "a.h5", layers=["relu"], limit=1)
    assert display.shown[-1]["text/plain"].startswith("sid: 1 of 1, relu -2.")
    seen = []
    reporting(seen.append)(onnxinfo.Progress("sid", 1, 1))
    assert len(seen) == 1
