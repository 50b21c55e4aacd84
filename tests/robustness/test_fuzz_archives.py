"""Damaged and forged archives: one of our errors or a correct result, within bounded time and memory."""

import json
import os
import random
import shutil
import sys
import time

import h5py
import numpy as np
import pytest
from archive_fakes import SID, fill, make, schema, table_schema
from fuzzing import CPU_SECONDS, Watch, hdf5_blocks, mutate, seal
from places import DATA

import onnxinfo
from onnxinfo import ArchiveError, OnnxinfoError
from onnxinfo.archive import dimensions
from onnxinfo.archive import validate as validation
from onnxinfo.archive.storage import SUPERBLOCK_SIZE, closed_superblock
from onnxinfo.archive.writer import RunWriter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measures memory through /proc")

FOUND = DATA / "fuzz" / "archives"
CASES = 2_000
FAST = 5
#: Number of cases per test.
SHARE = 5


def _seeds(folder):
    """Archives to damage: of images, of rows with several runs, and one left open by its writer."""
    small = {
        "layers": schema().layers[:2],
        "sample_names": ["a", "b"],
        "labels": [0, 1],
        "thumbnails": None,
        "foreground": None,
    }
    make(folder / "images.h5", described=schema(**small))
    make(make(folder / "rows.h5", described=table_schema()), "second", table_schema(layers=schema().layers[:1]))
    described = schema(**small, metrics=(SID,))
    with RunWriter.open(folder / "live.h5", "first", described) as writer:
        try:
            fill(writer, described, stop=1)
        except KeyboardInterrupt:
            shutil.copyfile(folder / "live.h5", folder / "open.h5")
    (folder / "live.h5").unlink()


def _rows(path):
    return [{key: str(value) for key, value in row.items()} for row in onnxinfo.query(path, per="sample")]


def _read(path):
    """Apply every reader to an archive; return what was refused, or the rows."""
    report = _in_time(onnxinfo.validate, path)
    assert all("\n" not in each.problem for each in report.violations)
    rows, *_ = [_outcome(use, path) for use in (_rows, onnxinfo.query, onnxinfo.list_runs, _arrays, _recovered)]
    return rows


def _in_time(use, path):
    began = time.process_time()
    try:
        return use(path)
    finally:
        seconds = time.process_time() - began
        assert seconds < CPU_SECONDS, f"{use.__name__} took {seconds:.1f} s"


def _outcome(use, path):
    """Return the result of one use of an archive; None if it is refused in one line."""
    try:
        return _in_time(use, path)
    except OnnxinfoError as error:
        message = str(error)
    assert "\n" not in message
    return None


def _arrays(path):
    with onnxinfo.open(path) as archive:
        for name in archive:
            run = archive[name]
            run.to_xarray().load()
            run.thumbnails  # noqa: B018


def _recovered(path):
    for old in path.parent.glob("recovered*"):
        old.unlink()
    recovery = onnxinfo.recover(path, path.with_name("recovered.h5"))
    report = onnxinfo.validate(recovery.output)
    assert report.valid, report.violations


def _names(path, run):
    """Read the lists of dimensions as the validator does, but in a process that has imported its modules already."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            dimensions._limit()
            os.write(theirs, json.dumps(dimensions._read(str(path), run)).encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(theirs)
    with open(ours, "rb") as file:
        found = file.read()
    if os.waitpid(child, 0)[1]:
        raise ArchiveError("the dimension lists cannot be read")
    return json.loads(found)


def _case(case, folder):
    """Make a case and read it in the watched process."""
    folder = folder / "work"
    # Not in every case: a fresh interpreter takes most of a case's time.
    real = case is None or isinstance(case, str) or case % 20 == 0
    validation.dimension_names = dimensions.dimension_names if real else _names
    if case is None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        _seeds(folder)
        _read(folder / "images.h5")
        return ""
    path = folder / "case.h5"
    path.unlink(missing_ok=True)
    if isinstance(case, str):
        shutil.copyfile(case, path)
        return str(_read(path) is not None)
    chance = random.Random(case)
    seed = folder / chance.choice(["images.h5", "rows.h5", "open.h5"])
    data = seed.read_bytes()
    how = chance.choice(["damaged", "sealed", "sealed", "forged"])
    if how == "forged":
        shutil.copyfile(seed, path)
        _forge(path, chance)
        _read(path)
        return how
    blocks = hdf5_blocks(data)
    changed = mutate(data, chance, [(block.start, block.end) for block in blocks])
    path.write_bytes(seal(changed, blocks) if how == "sealed" else changed)
    rows = _read(path)
    if how == "damaged" and rows is not None:
        right = _rows(seed)
        assert all(row in right for row in rows), "a wrong answer"
    return how


def _forge(path, chance):
    """Change an archive through HDF5 in a way that its writer never does."""
    # If the file was left open, its flags are cleared first.
    data = path.read_bytes()
    head, _ = closed_superblock(data[:SUPERBLOCK_SIZE], len(data))
    path.write_bytes(head + data[SUPERBLOCK_SIZE:])
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        for _ in range(chance.choice([1, 1, 2, 4])):
            run = file[chance.choice(list(file))]
            if isinstance(run, h5py.Group) and len(run):
                forge, name = chance.choice(FORGERIES), chance.choice(list(run))
                # An earlier change may have left a dangling link.
                if run.get(name) is not None:
                    forge(run, name, chance)


def _attribute(run, name, chance):
    target = run if chance.random() < 0.5 else run[name]
    key = chance.choice([*(key for key in target.attrs if key not in ("DIMENSION_LIST", "REFERENCE_LIST")), "new"])
    odd = [
        *(np.nan, -1, 2**62, "x" * 10_000, "a b", "[" * 5000, '{"a": 1}', "\x1b[31m<script>", np.zeros(1000)),
        *(np.array(["vlen", "text"], dtype=h5py.string_dtype()), np.zeros((), dtype="S0"), h5py.Empty("f4")),
        *(np.array([(1, 2.0)], dtype="i4,f8"), "sid " * 50, "1" * 5000, np.float32(1), True, b"\xff\xfe"),
    ]
    if key in target.attrs and chance.random() < 0.2:
        del target.attrs[key]
    else:
        target.attrs[key] = chance.choice(odd)


def _other_dataset(run, name, chance):
    shape, dtype = getattr(run[name], "shape", ()), getattr(run[name], "dtype", "f8")
    made = chance.choice(["shape", "dtype", "huge", "sparse", "filters", "virtual", "external", "text", "compound"])
    del run[name]
    size = chance.choice([0, 1, 10**6, 2**40, 2**62])
    if made == "shape":
        run.create_dataset(name, data=np.zeros(chance.choice([(), (1,), (3, 2), (1,) * 30, (0, 0)]), dtype="f8"))
    elif made == "dtype":
        odd = chance.choice([">f8", "<f2", "<i2", "<u8", "S1000", bool, "c16", h5py.string_dtype(), "V5"])
        run.create_dataset(name, shape, dtype=odd)
    elif made == "huge":
        run.create_dataset(name, (size,) * max(1, min(len(shape), 2)), dtype=dtype, chunks=True) if size else None
    elif made == "sparse":
        run.create_dataset(name, (size,), dtype="u1")
    elif made == "filters":
        options = chance.choice(
            [{"compression": "lzf"}, {"scaleoffset": 2}, {"fletcher32": True}, {"compression": "gzip"}]
        )
        run.create_dataset(name, data=np.zeros(shape or (2,), dtype="f4"), chunks=True, **options)
    elif made == "virtual":
        layout = h5py.VirtualLayout(shape or (1,), dtype="f8")
        layout[...] = h5py.VirtualSource("/etc/passwd", "x", shape or (1,))
        run.create_virtual_dataset(name, layout)
    elif made == "external":
        run.create_dataset(name, shape or (1,), dtype="u1", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])
    elif made == "text":
        run[name] = np.array([chance.choice(["a", "\x1b]0;title\x07"]).encode()] * 3)
    else:
        run.create_dataset(name, shape or (1,), dtype="i4,f8")


def _other_member(run, name, chance):
    made = chance.choice(["gone", "soft", "external", "group", "type", "loop", "many", "renamed"])
    if made == "renamed":
        run.move(name, chance.choice(["sid", "layer", "other", "a" * 200, "é\x1b[1m"]) + "_")
        return
    del run[name]
    if made == "soft":
        run[name] = h5py.SoftLink(chance.choice(["/", ".", name, "/first/sid", "/none"]))
    elif made == "external":
        run[name] = h5py.ExternalLink(chance.choice(["/etc/passwd", "case.h5", ""]) or "x", "/")
    elif made == "group":
        run.create_group(name)
    elif made == "type":
        run[name] = np.dtype("f8")
    elif made == "loop":
        run[name] = run.file["/"]
    elif made == "many":
        for number in range(300):
            run.create_group(f"{name}{number}")


def _values(run, name, chance):
    found = run[name]
    if isinstance(found, h5py.Dataset) and 0 < found.size < 10**6 and found.dtype.kind in "fiu":
        with np.errstate(all="ignore"):
            found[...] = np.array(chance.choice([0, 1, 2, 255, -1, np.nan, np.inf, 2**53])).astype(found.dtype)


FORGERIES = (_attribute, _attribute, _other_dataset, _other_dataset, _other_member, _values)


@pytest.fixture(scope="module")
def watch(tmp_path_factory):
    # A case is read in six ways, each with its own time limit.
    watched = Watch(_case, tmp_path_factory.mktemp("fuzz"), 6 * CPU_SECONDS)
    yield watched
    watched.close()
    print(f"at most {watched.worst_seconds:.1f} s and {watched.worst_bytes >> 20} MiB a case")


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(first, marks=pytest.mark.slow if first >= FAST else (), id=f"{first}-{first + SHARE - 1}")
        for first in range(0, CASES, SHARE)
    ],
)
def test_any_archive_is_read_or_refused(watch, first):
    failures = [outcome for outcome in map(watch.run, range(first, first + SHARE)) if outcome.failure]
    assert not failures, "\n".join(f"case {each.case}: {each.failure}" for each in failures)


@pytest.mark.parametrize("path", sorted(FOUND.glob("*.h5")), ids=lambda path: path.stem)
def test_what_was_found_before(watch, path):
    outcome = watch.run(str(path))
    assert not outcome.failure, outcome.failure


def test_the_watch_sees_faults(tmp_path):
    watched = Watch(_faulty, tmp_path, cpu_seconds=1)
    said = {case: watched.run(case) for case in ("right", "raises", "memory", "crash", "hang")}
    watched.close()
    assert said["right"].said == "fine"
    assert not said["right"].failure
    assert "ZeroDivisionError" in said["raises"].failure
    assert "MiB" in said["memory"].failure
    assert "ended with -11" in said["crash"].failure
    assert "hangs" in said["hang"].failure


def _faulty(case, folder):
    if case == "raises":
        return str(1 // 0)
    if case == "memory":
        return str(np.empty(3 << 30, dtype=np.uint8).size)
    if case == "crash":
        import os
        import signal

        os.kill(os.getpid(), signal.SIGSEGV)
    while case == "hang":
        pass
    return "fine"
