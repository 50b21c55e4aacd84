"""Archive operations killed at any moment, or next to a writer: nothing is lost or half done.

An operation that is added gets a line in ``OPERATIONS``, and is covered.
"""

import contextlib
import functools
import itertools
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from archive_fakes import content, fill, make, schema, table_schema
from processes import context

import onnxinfo
from onnxinfo import validate
from onnxinfo.archive.writer import RunWriter

POINTS, FAST = 200, 1


@dataclass(frozen=True)
class Operation:
    """An operation in a folder with the archives ``a.h5`` and ``b.h5``, and the files allowed afterwards.

    Attributes
    ----------
    work
        Called in the folder.
    before, after
        Runs in ``a.h5`` that hold the two made ones.
    output
        File that is either absent or whole.
    reads
        Whether it may run beside a writer.
    """

    work: Callable[[], object]
    before: tuple[str, ...] = ("first", "second")
    after: tuple[str, ...] = ("first", "second")
    output: str = ""
    reads: bool = False


OPERATIONS = {
    "delete": Operation(lambda: onnxinfo.delete_run("a.h5", "second"), after=("first",)),
    "rename": Operation(lambda: onnxinfo.rename_run("a.h5", "second", "other"), after=("first", "other")),
    "recover": Operation(lambda: onnxinfo.recover("a.h5")),
    "recover elsewhere": Operation(lambda: onnxinfo.recover("a.h5", "out.h5"), output="out.h5"),
    "merge": Operation(lambda: onnxinfo.merge(["a.h5", "b.h5"], "out.h5"), output="out.h5", reads=True),
    "export netcdf": Operation(lambda: onnxinfo.export("a.h5", "out.nc", run="first"), output="out.nc", reads=True),
    "export csv": Operation(lambda: onnxinfo.export("a.h5", "out.csv", run="first"), output="out.csv", reads=True),
}


@functools.cache
def originals():
    """Return the bytes of the archives, and the content of the runs in them."""
    with tempfile.TemporaryDirectory() as name:
        path = make(Path(name) / "a.h5", "first", schema())
        make(path, "second", table_schema())
        other = make(Path(name) / "b.h5", "third", table_schema())
        with onnxinfo.open(path) as archive:
            contents = [content(archive[run]) for run in ("first", "second")]
        return path.read_bytes(), other.read_bytes(), contents


def prepare(folder):
    a, b, _ = originals()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "a.h5").write_bytes(a)
    (folder / "b.h5").write_bytes(b)


def _perform(folder, name, ready):
    os.chdir(folder)
    ready.set()
    OPERATIONS[name].work()


def start(folder, name):
    ready = context().Event()
    process = context().Process(target=_perform, args=(folder, name, ready))
    process.start()
    ready.wait()
    return process, time.monotonic()


@functools.cache
def undisturbed(name):
    """Return the output of an operation, and its duration in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder) / "work"
        prepare(where)
        process, began = start(where, name)
        process.join()
        assert process.exitcode == 0
        output = OPERATIONS[name].output
        return (where / output).read_bytes() if output else b"", time.monotonic() - began


def check(folder, name):
    """Check that the archive has either its old or its new content, and that the output is complete."""
    operation, (_, b, contents) = OPERATIONS[name], originals()
    report = validate(folder / "a.h5")
    assert report.valid, report.violations
    with onnxinfo.open(folder / "a.h5") as archive:
        assert archive.runs in (operation.before, operation.after)
        assert [content(run) for run in archive.values()] == contents[: len(archive.runs)]
    assert (folder / "b.h5").read_bytes() == b
    output = folder / operation.output if operation.output else None
    if output is not None and output.exists():
        whole, _ = undisturbed(name)
        if output.suffix == ".csv":
            assert output.read_bytes() == whole
        else:
            assert output.stat().st_size == len(whole)
        if output.suffix == ".h5":
            assert validate(output).valid
    known = {"a.h5", "b.h5", operation.output}
    left = [each.name for each in folder.iterdir() if each.name not in known]
    assert all(each.startswith(".") or each.endswith(".lock") for each in left), left


def killed():
    """Return cases (operation, number); all but the first are slow tests."""
    cases = itertools.product(OPERATIONS, range(POINTS))
    return [pytest.param(name, i, marks=pytest.mark.slow if i >= FAST else (), id=f"{name}-{i}") for name, i in cases]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    # The lists of dimensions never change, and reading them takes a process.
    monkeypatch.setattr("onnxinfo.archive.validate.dimension_names", lambda path, run: {})
    return tmp_path / "work"


@pytest.mark.parametrize(("name", "point"), killed())
def test_killed_at_any_moment(folder, name, point):
    prepare(folder)
    _, seconds = undisturbed(name)
    process, began = start(folder, name)
    time.sleep(max(0, random.Random(point).uniform(0, seconds) - (time.monotonic() - began)))
    process.kill()
    process.join()
    check(folder, name)
    # A killed operation can be repeated.
    if OPERATIONS[name].output:
        (folder / OPERATIONS[name].output).unlink(missing_ok=True)
    with onnxinfo.open(folder / "a.h5") as archive:
        done = archive.runs == OPERATIONS[name].after != OPERATIONS[name].before
    if not done:
        process, _ = start(folder, name)
        process.join()
        assert process.exitcode == 0
        check(folder, name)


@pytest.mark.parametrize("name", OPERATIONS)
def test_beside_a_writer(folder, name, monkeypatch):
    """Operations that would replace the archive are refused; read-only ones see its finished cells."""
    prepare(folder)
    monkeypatch.chdir(folder)
    described = schema()
    with RunWriter.open(folder / "a.h5", "live", described) as writer:
        with pytest.raises(KeyboardInterrupt):
            fill(writer, described, stop=2)
        before = (folder / "a.h5").stat().st_ino
        refused = pytest.raises(onnxinfo.ArchiveError, match="being written")
        with contextlib.nullcontext() if OPERATIONS[name].reads else refused:
            OPERATIONS[name].work()
        assert (folder / "a.h5").stat().st_ino == before
        fill(writer, described)
    with onnxinfo.open(folder / "a.h5") as archive:
        assert archive.runs == ("first", "second", "live")
        assert archive["live"].status == "complete"
        assert [content(archive[run]) for run in ("first", "second")] == originals()[2]
    assert validate(folder / "a.h5").valid
