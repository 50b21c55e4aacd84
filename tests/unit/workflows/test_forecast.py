"""An analysis says how long it takes, and about what it finds, before the first cell is finished."""

import math
import os
import time
from types import SimpleNamespace

import graphs
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from rich.progress import Progress as Bars

import onnxinfo
from cli import progress
from cli.time_left import TimeLeft, expected_end
from onnxinfo.analysis.blocks import Measure
from onnxinfo.archive.format import Metric
from onnxinfo.cli import cli
from onnxinfo.workflows import resources
from onnxinfo.workflows.estimate import trains
from onnxinfo.workflows.resources import disk_bytes, typical_map_bytes

X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def network(*last):
    nodes = [graphs.node("MatMul", "x w", "z"), graphs.node("Tanh", "z", "t"), graphs.node("MatMul", "t v", "y"), *last]
    weights = [graphs.weight("w", 4, 5), graphs.weight("v", 5, 3)]
    return graphs.model(nodes, [graphs.value("x")], [graphs.value(nodes[-1].output[0], None)], weights)


def reports(tmp_path, proto, **options):
    found = []
    onnxinfo.analyze(proto, X, tmp_path / "r.h5", progress=found.append, device="cpu", **options)
    return found


@pytest.fixture(scope="module")
def gradients(tmp_path_factory):
    return reports(tmp_path_factory.mktemp("forecast"), network(), layers=["t", "y"])


def test_every_stage_begins_with_the_time_that_it_takes(gradients):
    begun = {report.stage: report for report in reversed(gradients)}
    assert set(begun) == {"normalizer", "sid"}
    assert all(report.done == 0 and report.remaining > 0 for report in begun.values())
    assert all(math.isfinite(report.remaining) for report in gradients)
    assert gradients[-1].remaining == 0


def test_the_first_report_alone_states_memory_and_disk(gradients, tmp_path):
    first, *others = gradients
    assert 1e7 < first.memory_bytes < 1e11
    assert 0 < first.disk_bytes < 1e5
    assert not any(report.memory_bytes or report.disk_bytes for report in others)
    options = {"layers": ["t", "y"], "device": "cpu"}
    assert first.disk_bytes == pytest.approx(
        onnxinfo.estimate(network(), X, tmp_path / "r.h5", **options).disk_bytes, rel=0.1
    )


@pytest.mark.parametrize(
    ("shape", "compression", "least", "most"),
    [
        ((3, 8), "rounded", 96, 96),
        ((3, 32, 32), "none", 12288, 12288),
        ((3, 32, 32), "lossless", 9500, 12288),
        ((3, 32, 32), "rounded", 5000, 8500),
        ((3, 32, 32), "float16", 4500, 6144),
        ((3, 320, 320), "rounded", 500_000, 850_000),
    ],
)
def test_a_typical_map_has_the_size_of_noise(shape, compression, least, most):
    assert least <= typical_map_bytes(shape, compression) <= most


def test_cells_without_maps_take_no_space_for_them():
    with_map, without = (Metric("m", has_map=has_map) for has_map in (True, False))
    sizes = [disk_bytes({"m": each}, {"m": 10}, 1000.0) for each in (with_map, without)]
    assert sizes[0] - sizes[1] == 10_000


def test_memory_that_is_not_known_stays_so(monkeypatch):
    monkeypatch.setattr(resources, "peak_memory", lambda job: 0)
    assert resources.expected_memory(None) == 0


def test_a_metric_of_a_trained_one_is_not_estimated():
    usual = {"prepare": Measure.prepare, "needs": ()}
    kinds = {"trained": {"prepare": None}, "of_it": {"needs": ("trained",)}, "other": {}}
    made = {name: type(name, (), usual | own)() for name, own in kinds.items()}
    worker = SimpleNamespace(measures=made)
    assert [name for name in made if trains(worker, name)] == ["trained", "of_it"]


def test_the_first_line_of_progress_states_memory_and_disk(capsys):
    with progress._lines() as report:
        report(onnxinfo.Progress("sid", 0, 8, remaining=90.0, memory_bytes=812_300_000, disk_bytes=64_000))
        report(onnxinfo.Progress("normalizer", 0, 2, remaining=2.0))
    first, second = capsys.readouterr().err.splitlines()
    assert first == (
        "sid: 0 of 8 (0%), about 1:30 left, 0:00 so far; memory about 812.3 MB in each process, disk about 64.0 kB"
    )
    assert "memory" not in second


def test_the_bars_state_memory_and_disk_above_them(capsys):
    with progress._bars() as report:
        report(onnxinfo.Progress("sid", 0, 8, remaining=90.0, memory_bytes=812_300_000, disk_bytes=64_000))
        report(onnxinfo.Progress("sid", 8, 8, remaining=0.0))
    assert capsys.readouterr().err.count("memory about 812.3 MB in each process, disk about 64.0 kB") == 1


def test_each_layer_has_a_first_estimate(gradients):
    cells = [report for report in gradients if report.stage == "sid" and report.layer]
    assert [(report.layer, report.provisional) for report in cells] == [
        (name, provisional) for name in ("t", "y") for provisional in (True, False)
    ]
    for first, final in zip(cells[::2], cells[1::2], strict=True):
        assert first.done < final.done
        assert first.value == pytest.approx(final.value, abs=0.3)


def test_also_without_gradients(tmp_path):
    (first, *_, last) = reports(tmp_path, network(), layers=["y"], limit=2, solver="forward", share_sigma="grid:1")
    assert (first.stage, first.done) == ("sid", 0)
    assert first.remaining > 0
    assert last.remaining == 0


@pytest.mark.parametrize(("done", "expected"), [(0, "about 0:01:30"), (1, "0:01:30"), (4, "")])
def test_the_bar_counts_the_time_down(done, expected):
    with Bars(disable=True) as bars:
        task = bars.add_task("sid", total=4, until=expected_end(90))
        bars.update(task, completed=done)
        assert str(TimeLeft().render(bars.tasks[task])) == expected


def test_the_bar_estimates_what_the_analysis_does_not():
    with Bars(disable=True) as bars:
        task = bars.add_task("decoder", total=4, until=math.nan)
        assert str(TimeLeft().render(bars.tasks[task])) == "-:--:--"
        for _ in range(2):
            time.sleep(0.01)
            bars.advance(task)
        assert str(TimeLeft().render(bars.tasks[task])) == "0:00:01"


def test_an_estimate_counts_open_cells_and_writes_nothing(tmp_path):
    archive, asked = tmp_path / "r.h5", {"layers": ["t", "y"], "device": "cpu"}
    before = onnxinfo.estimate(network(), X, archive, **asked)
    assert (before.cells, before.open_cells, before.left_out) == (6, 6, ())
    assert not [*tmp_path.iterdir()]
    onnxinfo.analyze(network(), X, archive, layers=["y"], device="cpu")
    grown = onnxinfo.estimate(network(), X, archive, **asked)
    assert (grown.cells, grown.open_cells) == (6, 3)
    assert grown.seconds > 0
    assert 0 < before.disk_bytes < 1e5 < before.memory_bytes < 1e11
    done = onnxinfo.estimate(network(), X, archive, layers=["y"], device="cpu")
    assert (done.open_cells, done.seconds, done.disk_bytes) == (0, 0, 0)


def test_an_estimate_of_what_cannot_be_written_is_refused(tmp_path, monkeypatch):
    archive = tmp_path / "r.h5"
    onnxinfo.analyze(network(), X, archive, layers=["y"], metrics=["gradient"], device="cpu")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(onnxinfo.ArchiveError, match="write-protected"):
        onnxinfo.estimate(network(), X, archive, layers=["y"], run="other", device="cpu")


def test_a_dry_run_prints_an_estimate(tmp_path):
    np.save(tmp_path / "x.npy", X)
    onnx.save(network(), tmp_path / "m.onnx")
    for command, output in (("analyze", "r.h5"), ("oneshot", "results")):
        line = [command, str(tmp_path / "m.onnx"), "--inputs", str(tmp_path / "x.npy"), "-o", str(tmp_path / output)]
        result = CliRunner().invoke(cli, [*line, "--dry-run", "--layers", "y"])
        assert result.exit_code == 0, result.output
        assert [row.split()[0] for row in result.stdout.splitlines()] == ["cells:", "time:", "memory:", "disk:"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["m.onnx", "x.npy"]


def test_decoders_are_not_estimated(tmp_path):
    rows, asked = np.concatenate([X, X + 0.1]), {"layers": ["y"], "metrics": ["gradient", "ru"]}
    found = onnxinfo.estimate(network(), rows, tmp_path / "r.h5", **asked, device="cpu")
    assert (found.left_out, found.open_cells) == (("ru",), 12)
