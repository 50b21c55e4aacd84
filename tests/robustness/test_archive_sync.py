"""What must survive a power loss is on disk before anything refers to it: the order of writes, syncs and renames."""

import os

import numpy as np
import pytest
from archive_fakes import fill, make, schema, table_schema

import onnxinfo
from onnxinfo.archive.unfinished import Item, Unfinished
from onnxinfo.archive.writer import RunWriter


class Disk:
    """Notes what was synced, in order, by the identity of the file."""

    def __init__(self, monkeypatch):
        self.events = []
        replace = os.replace

        def sync(handle):
            found = os.fstat(handle)
            self.events.append(("sync", found.st_ino, found.st_size))

        def renamed(source, target):
            found = os.stat(source)
            self.events.append(("rename", found.st_ino, found.st_size, os.stat(os.path.dirname(target)).st_ino))
            replace(source, target)

        monkeypatch.setattr(os, "fsync", sync)
        monkeypatch.setattr(os, "replace", renamed)

    def check(self):
        """Each renamed file was synced as it is, and its folder afterwards."""
        renames = [(i, event) for i, event in enumerate(self.events) if event[0] == "rename"]
        assert renames
        for i, (_, file, size, folder) in renames:
            assert ("sync", file, size) in self.events[:i]
            assert folder in [event[1] for event in self.events[i:] if event[0] == "sync"]


def analyze_nothing(folder):
    with RunWriter.open(folder / "new.h5", "run", schema()):
        pass


OPERATIONS = {
    "begin a run": analyze_nothing,
    "delete": lambda folder: onnxinfo.delete_run(folder / "a.h5", "second"),
    "rename": lambda folder: onnxinfo.rename_run(folder / "a.h5", "second", "other"),
    "recover": lambda folder: onnxinfo.recover(folder / "a.h5", folder / "out.h5"),
    "merge": lambda folder: onnxinfo.merge([folder / "a.h5"], folder / "out.h5"),
    "export netcdf": lambda folder: onnxinfo.export(folder / "a.h5", folder / "out.nc", run="first"),
    "export csv": lambda folder: onnxinfo.export(folder / "a.h5", folder / "out.csv", run="first"),
    "unfinished work": lambda folder: Unfinished.beside(folder / "a.h5", "run", "ab" * 32).save(
        "a", [Item({}, [np.ones(3)])]
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_file_is_on_disk_before_it_gets_its_name(name, tmp_path, monkeypatch, trusted_archives):
    make(tmp_path / "a.h5", "first", table_schema())
    make(tmp_path / "a.h5", "second", table_schema())
    disk = Disk(monkeypatch)
    OPERATIONS[name](tmp_path)
    disk.check()


@pytest.mark.parametrize("described", [schema(), table_schema()], ids=["chunked maps", "contiguous maps"])
def test_a_cell_is_on_disk_before_its_mark(described, tmp_path, monkeypatch):
    """The bytes at the last sync hold every number and checksum of a cell that is marked finished after it."""
    path, synced, seen = tmp_path / "a.h5", [b""], []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.__setitem__(0, path.read_bytes() if path.exists() else b""))
    put = RunWriter._put

    def checked(writer, name, where, data):
        if name.endswith("_done"):
            metric = writer._metrics[name.removesuffix("_done")]
            names = [metric.dataset(column.name) for column in metric.columns]
            names += [f"{metric.name}_checksum", *([f"{metric.name}_map_checksum"] if metric.has_map else [])]
            names += [f"{metric.name}_normalizer"] if f"{metric.name}_normalizer" in writer._group else []
            for each in names:
                dataset = writer._dataset(each)
                start = dataset.id.get_offset()
                on_disk = synced[0][start : start + dataset.size * dataset.dtype.itemsize]
                stored = np.frombuffer(on_disk, dataset.dtype).reshape(dataset.shape)
                cells = where[0] if each.endswith("_normalizer") else where
                assert np.array_equal(stored[cells], dataset[cells], equal_nan=True), each
                seen.append(each)
        put(writer, name, where, data)

    monkeypatch.setattr(RunWriter, "_put", checked)
    with pytest.raises(KeyboardInterrupt), RunWriter.open(path, "run", described) as writer:
        fill(writer, described, stop=2)
    assert {"sid", "sid_checksum", "sid_map_checksum", "sid_normalizer"} <= set(seen)


def test_a_run_is_on_disk_before_the_file_is_closed_and_afterwards(tmp_path, monkeypatch):
    path, synced = tmp_path / "a.h5", []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(path.read_bytes() if path.exists() else b""))
    # The file that was written, before it is replaced by one for other programs.
    monkeypatch.setattr("onnxinfo.archive.writer.finish", lambda path, run: None)
    with RunWriter.open(path, "run", table_schema()) as writer:
        fill(writer, table_schema())
        places = {name: writer._dataset(name) for name in ("status", "sid_done")}
        spans = {name: (each.id.get_offset(), each.id.get_storage_size()) for name, each in places.items()}
    closed = path.read_bytes()
    assert synced[-1] == closed
    for start, size in spans.values():
        assert synced[-2][start : start + size] == closed[start : start + size]


def test_a_new_folder_of_unfinished_work_is_on_disk(tmp_path, monkeypatch):
    disk = Disk(monkeypatch)
    work = Unfinished.beside(tmp_path / "a.h5", "run", "ab" * 32)
    for _ in range(2):
        work.save("a", [Item({}, [np.ones(3)])])
    assert work.folder.is_dir()
    assert [event[1] for event in disk.events].count(tmp_path.stat().st_ino) == 1
