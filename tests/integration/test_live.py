"""Reading a run while it is computed: other processes see finished cells, and the writer continues."""

import json
import os

import archive_fakes as fakes
import pytest
from processes import Command

import onnxinfo
from onnxinfo.archive.writer import RunWriter

#: State when the other processes read: SID of layer 0 complete, of layer 1 some samples, nothing else.
FINISHED = [(0, range(6)), (1, range(2))]


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """An archive that this process is writing."""
    path = tmp_path_factory.mktemp("live") / "a.h5"
    described = fakes.schema()
    with RunWriter.open(path, "first", described) as writer:
        for metric in (fakes.SID, fakes.GRADIENT):
            for layer, samples in FINISHED:
                writer.set_normalizer(metric.name, layer, 2.0 + layer)
                fakes.write(writer, metric, layer, samples, described.sample_shape)
        yield path
        fakes.fill(writer, described)
    undisturbed = fakes.make(path.with_name("b.h5"), "first", described)
    with onnxinfo.open(path) as archive, onnxinfo.open(undisturbed) as other:
        assert archive["first"].status == "complete"
        assert fakes.content(archive["first"]) == fakes.content(other["first"])


def onnxinfo_process(folder, *arguments):
    code, out, err = Command(arguments, folder, environment=os.environ | {"NO_COLOR": "1"}).wait()
    assert (code, err) == (0, "")
    return out


def test_the_list_says_how_far_it_is(live):
    (row,) = json.loads(onnxinfo_process(live.parent, "runs", live.name, "--format", "json"))
    assert (row["status"], row["finished"], row["cells"]) == ("running", 16, 72)


def test_finished_cells_are_queried(live):
    arguments = ("query", live.name, "--metric", "sid", "--per", "sample", "--format", "json")
    rows = json.loads(onnxinfo_process(live.parent, *arguments))
    assert [(row["layer_index"], row["sample"]) for row in rows] == [(0, i) for i in range(6)] + [(3, 0), (3, 1)]
    expected = [float(fakes.cell(fakes.SID, layer, i, fakes.IMAGE)[1]["value"]) for layer, s in FINISHED for i in s]
    assert [row["value"] for row in rows] == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["curve", "maps", "distribution", "certificate", "coherency"])
def test_finished_cells_are_drawn(live, kind):
    onnxinfo_process(live.parent, "plot", live.name, kind, "-o", f"{kind}.svg")
    assert (live.parent / f"{kind}.svg").stat().st_size > 1000


def test_the_report_says_that_cells_are_missing(live):
    onnxinfo_process(live.parent, "report", live.name, "-o", "r.html")
    text = (live.parent / "r.html").read_text()
    assert "cells are missing" in text
