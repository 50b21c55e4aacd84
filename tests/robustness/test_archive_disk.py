"""Full disks, unwritable files, file systems without locks: one of our errors, and nothing lost."""

import errno
import os
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
from archive_fakes import SID, content, fill, make, schema
from places import SUPPORT

import onnxinfo
from onnxinfo import ArchiveError, validate
from onnxinfo.archive.format import RunSchema
from onnxinfo.archive.writer import RunWriter

IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0

# Runs in a separate process, which must exit normally: HDF5 would crash if it met the full disk itself.
FILL = """
import resource, sys
import archive_fakes
import onnxinfo
if sys.argv[2] != "0":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    archive_fakes.make(sys.argv[1])
except onnxinfo.ArchiveError as error:
    print(error)
    sys.exit(1)
"""


def run_out_of_space(path, limit=0):
    done = subprocess.run(
        [sys.executable, "-c", FILL, path, str(limit)],
        env=os.environ | {"PYTHONPATH": str(SUPPORT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with onnxinfo.open(make(tmp_path_factory.mktemp("whole") / "a.h5")) as archive:
        return content(archive["first"])


@pytest.fixture
def small_disk(tmp_path):
    """Yield a function that mounts a file system of a given size."""
    mounted = []

    def mount(size):
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if not IS_ROOT or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting needs root")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("size", [4096, 40_000, 100_000, 400_000])
def test_full_disk(small_disk, whole, size):
    folder = small_disk(size)
    message = run_out_of_space(folder / "a.h5")
    assert "No space left on device" in message
    _goes_on(folder, whole, lambda: subprocess.run(["mount", "-o", "remount,size=8m", folder], check=True))


@pytest.mark.parametrize("size", [1000, 40_000, 100_000, 400_000])
def test_file_size_limit(tmp_path, whole, size):
    message = run_out_of_space(tmp_path / "a.h5", size)
    assert "File too large" in message
    _goes_on(tmp_path, whole, lambda: None)


def _goes_on(folder, whole, make_room):
    """Check that the archive is valid, and that the same analysis resumes once there is room."""
    path = folder / "a.h5"
    assert [each.name for each in folder.iterdir()] in ([], ["a.h5"])
    if path.exists():
        assert validate(path).valid
    make_room()
    with RunWriter.open(path, "first", schema()) as writer:
        fill(writer, schema())
    with onnxinfo.open(path) as archive:
        assert content(archive["first"]) == whole


def test_full_disk_when_a_run_is_complete(tmp_path, whole, monkeypatch, caplog):
    """The run is not lost for want of the room to rewrite it for other programs."""

    def full(path, libver=None):
        raise OSError(errno.ENOSPC, "No space left on device")

    described, path = schema(), tmp_path / "a.h5"
    with RunWriter.open(path, "first", described) as writer:
        fill(writer, described)
        monkeypatch.setattr("onnxinfo.archive.copying.create_file", full)
    monkeypatch.undo()
    assert "run 'first' is complete, but" in caplog.text
    assert "No space left on device" in caplog.text
    with onnxinfo.open(path) as archive:
        assert archive["first"].status == "complete"
        assert content(archive["first"]) == whole
    onnxinfo.recover(path)
    assert path.read_bytes()[8] == 2
    assert [each.name for each in tmp_path.iterdir()] == ["a.h5"]


def test_full_disk_when_a_run_is_added(small_disk, whole):
    folder = small_disk(600_000)
    make(folder / "a.h5")
    subprocess.run(["mount", "-o", "remount,size=400k", folder], check=True)
    before = (folder / "a.h5").read_bytes()
    for change in (
        lambda: RunWriter.open(folder / "a.h5", "second", schema()),
        lambda: onnxinfo.rename_run(folder / "a.h5", "first", "other"),
        lambda: onnxinfo.merge([folder / "a.h5"], folder / "b.h5"),
        lambda: onnxinfo.recover(folder / "a.h5"),
        lambda: onnxinfo.export(folder / "a.h5", folder / "a.nc"),
    ):
        with pytest.raises(ArchiveError, match=r"No space left on device|write"):
            change()
        assert (folder / "a.h5").read_bytes() == before
        assert [each.name for each in folder.iterdir()] == ["a.h5"]


@pytest.mark.skipif(not IS_ROOT, reason="mounting needs root")
def test_read_only_file_system(small_disk, whole):
    folder = small_disk("4m")
    make(folder / "a.h5")
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    with onnxinfo.open(folder / "a.h5") as archive:
        assert content(archive["first"]) == whole
    assert validate(folder / "a.h5").valid
    with pytest.raises(ArchiveError, match="Read-only file system"):
        RunWriter.open(folder / "a.h5", "second", schema())
    with pytest.raises(ArchiveError, match="Read-only file system"):
        onnxinfo.delete_run(folder / "a.h5", "first")


@pytest.mark.skipif(IS_ROOT, reason="root may write everything")
def test_read_only_file(tmp_path, whole):
    path = make(tmp_path / "a.h5")
    path.chmod(0o444)
    tmp_path.chmod(0o555)
    with onnxinfo.open(path) as archive:
        assert content(archive["first"]) == whole
    with pytest.raises(ArchiveError, match="Permission denied"):
        RunWriter.open(path, "second", schema())
    tmp_path.chmod(0o755)


NO_LOCKS = """
#include <errno.h>
int flock(int file, int operation) { errno = ENOLCK; return -1; }
"""


@pytest.mark.skipif(shutil.which("cc") is None or sys.platform != "linux", reason="needs a C compiler and ld.so")
def test_a_file_system_without_locks(tmp_path, whole):
    """Simulates a file system without locks, such as NFS mounted with ``nolock``."""
    (tmp_path / "nolock.c").write_text(NO_LOCKS)
    library = tmp_path / "nolock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "nolock.c"], check=True)
    path = tmp_path / "a.h5"
    script = "import sys, archive_fakes as f, onnxinfo; f.make(sys.argv[1]); print(onnxinfo.open(sys.argv[1]).runs)"
    done = subprocess.run(
        [sys.executable, "-c", script, path],
        env=os.environ | {"PYTHONPATH": str(SUPPORT), "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "('first',)\n"
    assert "the file system offers no locks (No locks available); take care that one process writes" in done.stderr
    with onnxinfo.open(path) as archive:
        assert content(archive["first"]) == whole


def test_room_is_given_back(tmp_path):
    described = schema()
    with RunWriter.open(tmp_path / "a.h5", "first", described) as writer:
        fill(writer, described)
        during = (tmp_path / "a.h5").stat().st_size
    after = (tmp_path / "a.h5").stat().st_size
    with onnxinfo.open(tmp_path / "a.h5") as archive:
        size = archive["first"].size
    assert during - after > 200_000
    assert after - size < 80_000


@pytest.mark.slow
def test_fifty_images_and_sixteen_layers_take_less_than_500_megabytes(tmp_path):
    shape, layers, samples = (3, 224, 224), schema().layers * 4, 50
    described = schema(
        layers=layers, sample_shape=shape, sample_names=[str(i) for i in range(samples)], metrics=(SID,),
        labels=None, thumbnails=np.zeros((samples, 96, 96, 3), np.uint8), foreground=None,
    )  # fmt: skip
    assert isinstance(described, RunSchema)
    with RunWriter.open(tmp_path / "a.h5", "first", described) as writer:
        fill(writer, described, batch=10)
    assert (tmp_path / "a.h5").stat().st_size < 300e6
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2 << 20
