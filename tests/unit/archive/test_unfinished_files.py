"""Files of unfinished work: read back as written, or ignored."""

import numpy as np
import pytest

from onnxinfo.archive.unfinished import Item, Unfinished

ITEMS = [
    Item({"place": [0, 1]}, [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(3, np.int64)]),
    Item({"place": [1]}, [np.zeros((0, 4)), np.array([True, False])]),
]


@pytest.fixture
def unfinished(tmp_path):
    return Unfinished.beside(tmp_path / "a.h5", "run", "ab" * 32)


def same(one, other):
    return all(
        a.described == b.described and all(np.array_equal(x, y) for x, y in zip(a.arrays, b.arrays, strict=True))
        for a, b in zip(one, other, strict=True)
    )


def test_items_are_read_in_the_order_in_which_they_were_saved(unfinished):
    assert unfinished.save("task", ITEMS[:1])
    assert unfinished.save("task", ITEMS[1:])
    assert same([*unfinished.items("task")], ITEMS)
    assert [*unfinished.items("tas")] == []


def test_a_task_is_discarded_with_its_parts_and_nothing_else(unfinished):
    for name in ("task", "task+0-3", "task2"):
        unfinished.save(name, ITEMS)
    unfinished.discard("task")
    assert [path.name for path in unfinished.folder.iterdir()] == ["task2.000000"]


def test_only_own_files_are_removed(unfinished):
    unfinished.save("task", ITEMS)
    (unfinished.folder / "notes.txt").write_text("mine")
    unfinished.remove()
    assert [path.name for path in unfinished.folder.iterdir()] == ["notes.txt"]
    (unfinished.folder / "notes.txt").unlink()
    unfinished.remove()
    assert not unfinished.folder.exists()


def test_what_a_run_left_before_it_was_grown_is_removed_with_it(unfinished, tmp_path):
    others = [("a.h5", "other run"), ("b.h5", "run"), ("a.h5.h5", "run")]
    kept = [Unfinished.beside(tmp_path / archive, run, "cd" * 32) for archive, run in others]
    stale = Unfinished.beside(tmp_path / "a.h5", "run", "cd" * 32)
    for each in (unfinished, stale, *kept):
        each.save("task", ITEMS)
    unfinished.remove()
    assert {*tmp_path.iterdir()} == {each.folder for each in kept}


def test_a_damaged_file_is_ignored(unfinished):
    unfinished.save("task", ITEMS)
    (path,) = unfinished.folder.iterdir()
    data = path.read_bytes()
    for position in range(len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])
        assert [*unfinished.items("task")] == []
        path.write_bytes(data[:position])
        assert [*unfinished.items("task")] == []
    path.write_bytes(data)
    assert same([*unfinished.items("task")], ITEMS)


def test_work_of_another_analysis_is_ignored(unfinished):
    unfinished.save("task", ITEMS)
    assert [*Unfinished(unfinished.folder, "cd" * 32, "").items("task")] == []


def test_what_cannot_be_saved_is_no_error(tmp_path, caplog):
    (tmp_path / "file").touch()
    assert not Unfinished(tmp_path / "file", "ab" * 32, "").save("task", ITEMS)
    assert "cannot be saved" in caplog.text
