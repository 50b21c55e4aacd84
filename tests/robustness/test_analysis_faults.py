"""Analyses of a real model, killed, interrupted or out of disk space, lose no finished cell and resume."""

import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import pytest
from archive_fakes import check_finished, content
from processes import Command, context

import onnxinfo
from onnxinfo.cli import main
from onnxinfo.metrics import journal
from onnxinfo.metrics.network import Network
from onnxinfo.models import path as bundled
from onnxinfo.termination import orderly_termination

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills by processor time")

MODEL, RUN = str(bundled("digits-cnn.onnx")), "digits-cnn"
IMAGES = f"{bundled('digits.npz')}:images"
# Blocks of one sample, of the quickest layer: as many moments between finished cells as possible.
OPTIONS = {"layers": ["relu"], "limit": 4, "memory_limit": "1K"}
CELLS = 4
#: Saves of a block that is computed for some time.
SAVES = 5
COMMAND = ["analyze", MODEL, "--inputs", IMAGES, "--limit", "4", "--layers", "relu", "--memory-limit", "1K"]


def points(total, fast):
    """Return case numbers; all but the first are slow tests."""
    return [pytest.param(i, marks=pytest.mark.slow if i >= fast else ()) for i in range(total)]


def analyze(path, ready=None, options=OPTIONS):
    """Run an analysis in a separate process."""
    import torch

    torch.set_num_threads(1)
    # Unfinished work is saved at every moment, so that kills also hit that.
    journal.SAVE_SECONDS = 0
    if ready is not None:
        ready.send(time.process_time())
    onnxinfo.analyze(MODEL, IMAGES, path, **options)
    if ready is not None:
        ready.send(time.process_time())


def start(path):
    """Start an analysis; return its process, the pipe that it reports to, and the CPU time used before it."""
    ours, theirs = context().Pipe()
    process = context().Process(target=analyze, args=(path, theirs))
    process.start()
    theirs.close()
    return process, ours, ours.recv()


def finish(path):
    """Run an analysis to the end and return its CPU time."""
    process, pipe, before = start(path)
    after = pipe.recv()
    process.join()
    assert process.exitcode == 0
    return after - before


def cpu_time(process):
    """Return the CPU time of another process, in seconds."""
    return time.clock_gettime((~process.pid << 3) | 2)


@functools.cache
def undisturbed():
    """Return the results of an undisturbed analysis, and its CPU time."""
    with tempfile.TemporaryDirectory() as name:
        seconds = finish(Path(name) / "a.h5")
        with onnxinfo.open(Path(name) / "a.h5") as archive:
            return content(archive[RUN]), seconds


def check_and_resume(path, expected):
    """Check what must hold for an archive however its writer ended, then resume the run and compare it."""
    complete = False
    if path.exists():
        report = onnxinfo.validate(path)
        assert report.valid, report.violations
        with onnxinfo.open(path) as archive:
            check_finished(archive[RUN], expected)
            # The writer may have been killed between its last write and its report.
            complete = archive[RUN].is_closed
    if complete:
        # It was killed before it released its lock, which nobody needs now.
        path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    else:
        finish(path)
    with onnxinfo.open(path) as archive:
        assert archive[RUN].status == "complete"
        assert content(archive[RUN]) == expected
    report = onnxinfo.validate(path)
    assert report.valid, report.violations
    assert not report.notes
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.fixture
def quick_validation(monkeypatch):
    """The lists of dimensions never change during a run, and reading them takes a process."""
    monkeypatch.setattr("onnxinfo.archive.validate.dimension_names", lambda path, run: {})


@pytest.mark.parametrize("point", points(200, fast=1))
def test_killed_at_any_moment(tmp_path, point, quick_validation):
    expected, seconds = undisturbed()
    path = tmp_path / "a.h5"
    kill(path, random.Random(point).uniform(0, seconds))
    check_and_resume(path, expected)


def has_ended(pipe):
    """Whether a process reported that it was ready; the end of a pipe does not count."""
    try:
        return bool(pipe.recv())
    except EOFError:
        return False


def kill(path, delay):
    """Kill an analysis after some CPU time; if it finishes earlier, start again with less time."""
    while True:
        path.unlink(missing_ok=True)
        process, pipe, before = start(path)
        try:
            while cpu_time(process) < before + delay:
                time.sleep(0.0005)
        except OSError:
            pass
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL and not has_ended(pipe):
            return
        delay *= 0.8


def test_a_killed_analysis_continues_within_a_cell(tmp_path, monkeypatch):
    """What was computed up to the last save is not computed again."""
    call, counts = Network.__call__, []

    def counted(network, x, rows):
        counts[-1] += len(x)
        return call(network, x, rows)

    monkeypatch.setattr(Network, "__call__", counted)
    path, options = tmp_path / "a.h5", {"layers": ["relu"], "limit": 4}
    for each in (tmp_path / "whole.h5", path):
        if each == path:
            process = context().Process(target=analyze, args=(path, None, options))
            process.start()
            # Far into the only block of samples.
            while len([*tmp_path.glob(".a.h5.*.unfinished/measuring-*")]) < SAVES:
                assert process.is_alive()
                time.sleep(0.0005)
            process.kill()
            process.join()
            assert cells(path) == 0
        counts.append(0)
        onnxinfo.analyze(MODEL, IMAGES, each, **options)
    assert counts[1] < 0.9 * counts[0]
    contents = []
    for each in (tmp_path / "whole.h5", path):
        with onnxinfo.open(each) as archive:
            contents.append(content(archive[RUN]))
    assert contents[0] == contents[1]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.h5", "whole.h5"]


@pytest.mark.parametrize("point", points(20, fast=1))
def test_power_lost_at_any_moment(tmp_path, point, quick_validation):
    """A copy of the file taken while it is written represents the disk's state after a power loss."""
    expected, seconds = undisturbed()
    path, copy = tmp_path / "a.h5", tmp_path / "copy" / "a.h5"
    copy.parent.mkdir()
    process, pipe, before = start(path)
    delay = random.Random(point).uniform(0, seconds)
    while not pipe.poll() and (cpu_time(process) < before + delay or not path.exists()):
        time.sleep(0.0005)
    with path.open("rb") as source, copy.open("wb") as target:
        shutil.copyfileobj(source, target, 512)
    process.kill()
    process.join()
    pipe.close()
    onnxinfo.recover(copy)
    for kept in copy.parent.glob("*.damaged*"):
        kept.unlink()
    with onnxinfo.open(copy) as archive:
        if archive[RUN].is_closed:
            assert content(archive[RUN]) == expected
            return
    check_and_resume(copy, expected)


@pytest.mark.parametrize(
    "options", [pytest.param([], marks=pytest.mark.slow, id=""), pytest.param(["--quiet"], id="quiet")]
)
def test_ctrl_c_keeps_what_is_finished_and_says_where(tmp_path, tmp_path_factory, options):
    expected, _ = undisturbed()
    path, printed = tmp_path / "out.h5", tmp_path_factory.mktemp("printed")
    arguments = [*options, *COMMAND, "-o", str(path)]
    command = Command(arguments, printed)
    while command.process.is_alive() and not cells(path):
        time.sleep(0.02)
    seen = cells(path)
    command.send(signal.SIGINT)
    code, _, said = command.wait()
    assert code == 130
    assert f"interrupted: finished cells are in {path}; rerun the same command to resume" in said
    assert "Traceback" not in said
    assert 0 < seen <= cells(path) < CELLS
    assert onnxinfo.list_runs(path)[0].status == "interrupted"
    assert Command(arguments, printed).wait()[0] == 0
    with onnxinfo.open(path) as archive:
        assert content(archive[RUN]) == expected
    assert [each.name for each in tmp_path.iterdir()] == ["out.h5"]


def test_sigterm_closes_the_archive(tmp_path, tmp_path_factory):
    path = tmp_path / "out.h5"
    command = Command([*COMMAND, "-o", str(path)], tmp_path_factory.mktemp("printed"))
    while command.process.is_alive() and not cells(path):
        time.sleep(0.02)
    command.send(signal.SIGTERM)
    code, _, said = command.wait()
    assert code == 128 + signal.SIGTERM
    assert "Traceback" not in said
    assert onnxinfo.list_runs(path)[0].status == "interrupted"
    with h5py.File(path) as file:
        assert list(file) == [RUN]
    assert [each.name for each in tmp_path.iterdir()] == ["out.h5"]


def test_a_programs_own_handler_of_sigterm_stays():
    def own(number, frame):
        raise AssertionError

    before = signal.signal(signal.SIGTERM, own)
    try:
        with orderly_termination():
            assert signal.getsignal(signal.SIGTERM) is own
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with pytest.raises(SystemExit) as ended, orderly_termination():
            signal.raise_signal(signal.SIGTERM)
        assert ended.value.code == 143
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def cells(path):
    """Return the number of finished cells."""
    return onnxinfo.list_runs(path)[0].finished if path.exists() else 0


def test_rows_queried_on_the_command_line_during_an_analysis_are_rows_of_the_finished_one(tmp_path, tmp_path_factory):
    path, printed = tmp_path / "out.h5", tmp_path_factory.mktemp("printed")
    query = ["query", str(path), "--per", "sample", "--format", "json"]
    command = Command([*COMMAND, "-o", str(path)], printed)
    while not cells(path):
        assert command.process.is_alive()
        time.sleep(0.02)
    # Stopped, not ended: the query must be answered while the writer has the file open.
    command.send(signal.SIGSTOP)
    status = onnxinfo.list_runs(path)[0].status
    code, during, _ = Command(query, printed).wait()
    assert code == 0
    command.send(signal.SIGCONT)
    assert command.wait()[0] == 0
    code, after, _ = Command(query, printed).wait()
    assert code == 0
    during, after = json.loads(during), json.loads(after)
    assert status == "running"
    assert 0 < len(during) < len(after) == CELLS
    assert all(row in after for row in during)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """An archive with the first cell of an analysis."""
    path = tmp_path_factory.mktemp("interrupted") / "out.h5"
    with pytest.raises(KeyboardInterrupt):
        onnxinfo.analyze(MODEL, IMAGES, path, **OPTIONS, progress=_interrupt)
    return path


@pytest.mark.parametrize("change", [["--alpha", "1e-3"], ["--seed", "1"], ["--limit", "3"]], ids=lambda c: c[0])
def test_another_analysis_under_the_same_name_is_refused(tmp_path, interrupted, change, monkeypatch, capsys):
    path = tmp_path / "out.h5"
    path.write_bytes(before := interrupted.read_bytes())
    monkeypatch.setattr(sys, "argv", ["onnxinfo", *COMMAND, "-o", str(path), *change])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "has another recipe" in capsys.readouterr().err
    assert path.read_bytes() == before


def _interrupt(progress):
    if progress.layer and not progress.provisional:
        raise KeyboardInterrupt


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_stops_an_analysis_in_one_line_and_it_goes_on(tmp_path):
    expected, _ = undisturbed()
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting needs root")
    try:
        command = [*COMMAND, "-o", str(folder / "a.h5")]
        code, _, said = Command(command, tmp_path).wait()
        assert code == 1
        errors = [line for line in said.splitlines() if line.startswith("onnxinfo: error: ")]
        assert len(errors) == 1
        assert "No space left on device" in errors[0]
        subprocess.run(["mount", "-o", "remount,size=8m", folder], check=True)
        assert Command(command, tmp_path).wait()[0] == 0
        with onnxinfo.open(folder / "a.h5") as archive:
            assert content(archive[RUN]) == expected
    finally:
        subprocess.run(["umount", folder], check=True)
