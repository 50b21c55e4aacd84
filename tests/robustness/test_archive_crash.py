"""A writer killed, or a file copied, at any moment: finished cells are there, and the run resumes."""

import functools
import itertools
import os
import random
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from archive_fakes import check_finished, content, fill, make, schema, table_schema
from processes import context

import onnxinfo
from onnxinfo import validate
from onnxinfo.archive.writer import RunWriter

KINDS = {"images": schema, "table": table_schema}


def points(total, fast):
    """Return cases (kind, number); all but the first are slow tests."""
    kinds = itertools.cycle(KINDS)
    return [
        pytest.param(kind, i, marks=pytest.mark.slow if i >= fast else (), id=f"{kind}-{i}")
        for kind, i in zip(kinds, range(total), strict=False)
    ]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An in-memory folder if available: a kill loses nothing that was written, on disk or in memory."""
    # The lists of dimensions never change, and reading them takes a process.
    monkeypatch.setattr("onnxinfo.archive.validate.dimension_names", lambda path, run: {})
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


def analyze(path, run, kind, ready=None):
    """Write a run in a separate process."""
    if ready is not None:
        ready.set()
    described = KINDS[kind]()
    with RunWriter.open(path, run, described) as writer:
        fill(writer, described)


@functools.cache
def undisturbed(kind):
    """Return the content of an undisturbed run, and its duration in seconds."""
    with tempfile.TemporaryDirectory() as name:
        seconds = min(_timed(Path(name) / f"{i}.h5", kind) for i in range(3))
        path = make(Path(name) / "a.h5", "run", KINDS[kind]())
        with onnxinfo.open(path) as archive:
            return content(archive["run"]), seconds


def _timed(path, kind):
    process, began = _start(path, "run", kind)
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - began


def _start(path, run, kind):
    ready = context().Event()
    process = context().Process(target=analyze, args=(path, run, kind, ready))
    process.start()
    ready.wait()
    return process, time.monotonic()


def _check(path, run, kind, expected):
    """Check what must hold for an archive however its writer ended, then resume the run and compare it."""
    if not path.exists():
        assert not list(path.parent.glob("*.h5"))
    else:
        report = validate(path)
        assert report.valid, report.violations
        with onnxinfo.open(path) as archive:
            if run in archive:
                check_finished(archive[run], expected)
    analyze(path, run, kind)
    with onnxinfo.open(path) as archive:
        assert archive[run].status == "complete"
        assert content(archive[run]) == expected
    report = validate(path)
    assert report.valid, report.violations
    assert not report.notes
    assert [each.name for each in path.parent.iterdir() if each.is_file()] == [path.name]


def _kill(path, kind, point, seconds, reset):
    """Kill a writer at a random moment; if it finishes earlier, start again with less time."""
    delay = random.Random(point).uniform(0, seconds)
    while True:
        reset()
        process, began = _start(path, "run", kind)
        time.sleep(max(0, delay - (time.monotonic() - began)))
        process.kill()
        process.join()
        if not _is_closed(path):
            return
        delay *= 0.8


def _is_closed(path):
    if not path.exists():
        return False
    with onnxinfo.open(path) as archive:
        return "run" in archive and archive["run"].is_closed


@pytest.mark.parametrize(("kind", "point"), points(200, fast=8))
def test_killed_at_any_moment(folder, kind, point):
    expected, seconds = undisturbed(kind)
    path = folder / "a.h5"
    _kill(path, kind, point, seconds, lambda: path.unlink(missing_ok=True))
    _check(path, "run", kind, expected)


@pytest.mark.parametrize(("kind", "point"), points(50, fast=4))
def test_killed_while_a_second_run_is_added(folder, kind, point):
    expected, seconds = undisturbed(kind)
    path, other = folder / "a.h5", folder / "other" / "a.h5"
    other.parent.mkdir()
    make(other, "other")
    with onnxinfo.open(other) as archive:
        before = content(archive["other"])
    _kill(path, kind, point, seconds, lambda: shutil.copyfile(other, path))
    with onnxinfo.open(path) as archive:
        assert archive["other"].status == "complete"
        assert content(archive["other"]) == before
    _check(path, "run", kind, expected)
    with onnxinfo.open(path) as archive:
        assert content(archive["other"]) == before


@pytest.mark.parametrize(("kind", "point"), points(50, fast=4))
def test_power_lost_at_any_moment(folder, kind, point):
    """A block-by-block copy of the file taken while it is written represents the disk's state after a power loss."""
    expected, seconds = undisturbed(kind)
    path, copy = folder / "a.h5", folder / "copy" / "a.h5"
    copy.parent.mkdir()
    process, began = _start(path, "run", kind)
    time.sleep(max(0, random.Random(point).uniform(0, seconds) - (time.monotonic() - began)))
    if path.exists():
        with path.open("rb") as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target, 512)
    process.join()
    if copy.exists():
        # Blocks may be older than their references: recovery finds out what is intact.
        onnxinfo.recover(copy)
        for kept in copy.parent.glob("*.damaged*"):
            kept.unlink()
        if _is_closed(copy):
            return
    _check(copy, "run", kind, expected)


@pytest.mark.parametrize("signature", [b"FADB", b"TREE"], ids=["while it is written", "when it is complete"])
def test_a_lost_index_of_maps_does_not_lose_maps(tmp_path, monkeypatch, signature):
    """HDF5's chunk index is a block of several pages, which a power loss may leave half written."""
    if signature == b"FADB":
        monkeypatch.setattr("onnxinfo.archive.writer.finish", lambda path, run: None)
    path = make(tmp_path / "a.h5")
    with onnxinfo.open(path) as archive:
        before = content(archive["first"])
    data = bytearray(path.read_bytes())
    blocks = [i for i in range(len(data)) if data[i : i + 4] == signature]
    assert blocks
    for block in blocks:
        # In a node of a tree, the address of its first child.
        data[block + (20 if signature == b"FADB" else 24 + 8 * 7)] ^= 0xFF
    path.write_bytes(data)
    assert not validate(path).valid
    recovery = onnxinfo.recover(path)
    assert not recovery.lost
    with onnxinfo.open(path) as archive:
        assert content(archive["first"]) == before


@pytest.mark.timeout(60)
def test_a_damaged_file_that_was_left_open_does_not_make_anybody_wait(tmp_path):
    """HDF5 rereads a damaged block indefinitely if it believes that a writer is active."""
    path, described = tmp_path / "a.h5", schema()
    with RunWriter.open(tmp_path / "live.h5", "run", described) as writer:
        with pytest.raises(KeyboardInterrupt):
            fill(writer, described, stop=4)
        data = bytearray((tmp_path / "live.h5").read_bytes())
    # Of the dataset that was created last, the time spent.
    data[data.rindex(b"OHDR") + 40] ^= 1
    path.write_bytes(data)
    assert not validate(path).valid
    with pytest.raises(onnxinfo.ArchiveError, match=r"/run/elapsed of \S+a\.h5 cannot be read"):
        RunWriter.open(path, "run", described)
    with pytest.raises(onnxinfo.ArchiveError, match="no run of"):
        onnxinfo.recover(path)
    assert path.read_bytes() == data


def test_a_killed_writer_leaves_no_lock(tmp_path):
    process, _ = _start(tmp_path / "a.h5", "run", "images")
    while not (tmp_path / "a.h5.lock").exists():
        time.sleep(0.001)
    process.kill()
    process.join()
    make(tmp_path / "a.h5", "run")


def test_a_second_process_is_refused(tmp_path):
    with RunWriter.open(tmp_path / "a.h5", "run", schema()):
        before = (tmp_path / "a.h5").stat()
        process = context().Process(target=_expect_refusal, args=(tmp_path / "a.h5",))
        process.start()
        process.join()
        assert process.exitcode == 0
        after = (tmp_path / "a.h5").stat()
    assert (before.st_ino, before.st_size, before.st_mtime_ns) == (after.st_ino, after.st_size, after.st_mtime_ns)


def _expect_refusal(path):
    try:
        analyze(path, "run", "images")
    except onnxinfo.ArchiveError as error:
        os._exit(0 if "is being written by another process" in str(error) else 1)
    os._exit(1)
