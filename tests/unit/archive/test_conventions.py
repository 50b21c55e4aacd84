"""What a file says about itself, and the format of HDF5 that it has."""

import re

import h5py
import pytest
from archive_fakes import fill, make, schema, table_schema

import onnxinfo
from onnxinfo.archive import conventions
from onnxinfo.archive.writer import RunWriter


def changes(path):
    """Return the lines of the history without date and version."""
    with onnxinfo.open(path) as archive:
        lines = archive.history
    start = rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00 onnxinfo {re.escape(onnxinfo.__version__)}: "
    assert all(re.match(start, line) for line in lines), lines
    return [re.sub(start, "", line) for line in lines]


def superblock(path):
    return path.read_bytes()[8]


@pytest.fixture
def path(tmp_path):
    return make(tmp_path / "a.h5")


def test_a_file_says_what_it_is_and_how_to_read_it(path):
    with h5py.File(path) as file:
        about = {name: value.decode() for name, value in file.attrs.items() if name != "format_version"}
        runs = [*file.values()]
    assert about["Conventions"] == "onnxinfo-1"
    assert about["title"]
    for reader in ("h5py.File", "xarray.open_dataset", "onnxinfo.open", "MATLAB", "rhdf5", "h5dump"):
        assert reader in about["readme"]
    assert len(runs) == 1
    assert str(path.parent) not in "".join(about.values())


def test_the_lines_for_python_of_the_readme_run(path):
    lines = re.findall(r"^(?:Python)? +((?:onnxinfo|xarray|h5py)\..*)$", conventions.README, re.MULTILINE)
    assert len(lines) == 3
    names = {"FILE": str(path), "RUN": "first", "layer": 3, "sample": 2}
    names |= {"onnxinfo": onnxinfo, "h5py": h5py, "xarray": pytest.importorskip("xarray")}
    whole, one, value = (eval(line, names) for line in lines)
    assert float(whole.sid[3, 2]) == float(one.sid[3, 2]) == value
    one.close()


def test_each_change_adds_a_line(path, tmp_path):
    assert changes(path) == ["began run 'first'", "completed run 'first'"]
    make(path, "second", table_schema())
    onnxinfo.rename_run(path, "first", "one")
    onnxinfo.delete_run(path, "second")
    since = ["began run 'second'", "completed run 'second'", "renamed run 'first' to 'one'", "deleted run 'second'"]
    assert changes(path)[2:] == since
    make(tmp_path / "b.h5", "other")
    onnxinfo.merge([path, tmp_path / "b.h5"], tmp_path / "both.h5")
    onnxinfo.recover(tmp_path / "both.h5")
    lines = changes(tmp_path / "both.h5")
    assert {*changes(path)} | {*changes(tmp_path / "b.h5")} == {*lines[:-2]}
    assert lines[-2:] == ["merged 2 archives", "recovered what could be read"]


def test_growth_and_resumption_have_their_words(tmp_path):
    path, fewer = tmp_path / "a.h5", schema(layers=schema().layers[:2])
    make(path, described=fewer)
    with pytest.raises(KeyboardInterrupt), RunWriter.open(path, "first", schema()) as writer:
        fill(writer, schema(), stop=1)
    assert changes(path)[2:] == ["added 2 layers to run 'first'"]
    make(path)
    assert changes(path)[3:] == ["completed run 'first'"]


def test_a_long_history_keeps_its_newest_lines(path, monkeypatch):
    monkeypatch.setattr(conventions, "MAX_LINES", 2)
    onnxinfo.rename_run(path, "first", "one")
    assert changes(path) == ["completed run 'first'", "renamed run 'first' to 'one'"]


def test_files_of_earlier_releases_have_no_history(path):
    with h5py.File(path, "r+") as file:
        del file.attrs["history"]
    assert changes(path) == []
    onnxinfo.rename_run(path, "first", "one")
    assert changes(path) == ["renamed run 'first' to 'one'"]


def test_a_history_of_another_kind_is_none(path):
    with h5py.File(path, "r+") as file:
        file.attrs["history"] = 3
    assert changes(path) == []


def test_complete_archives_have_the_format_that_most_programs_read(tmp_path):
    path = tmp_path / "a.h5"
    with RunWriter.open(path, "first", schema()):
        assert superblock(path) == 3
    assert superblock(path) == 3
    make(path)
    assert superblock(path) == 2
    # The signature of the version 1 B-tree, the index of chunks in HDF5 1.8.
    assert b"TREE" in path.read_bytes()
    make(path, "second", table_schema())
    onnxinfo.rename_run(path, "second", "other")
    assert superblock(path) == 2


def test_an_unfinished_run_in_a_file_at_rest_is_resumed(tmp_path):
    path, described = tmp_path / "a.h5", schema()
    with pytest.raises(KeyboardInterrupt), RunWriter.open(path, "first", described) as writer:
        fill(writer, described, stop=3)
    onnxinfo.rename_run(path, "first", "one")
    assert superblock(path) == 2
    with RunWriter.open(path, "one", described) as writer:
        assert writer.finished("sid").sum() == 6
        fill(writer, described)
    assert changes(path)[-2:] == ["continued run 'one'", "completed run 'one'"]
    assert onnxinfo.validate(path).valid


def test_chunks_are_copied_without_deflating_them_again(path, monkeypatch):
    def refused(*arguments):
        raise AssertionError("deflated")

    monkeypatch.setattr("onnxinfo.archive.format.chunk_bytes", refused)
    with onnxinfo.open(path) as archive:
        before = archive["first"].maps("sid", 3)
    onnxinfo.rename_run(path, "first", "one")
    with onnxinfo.open(path) as archive:
        assert (archive["one"].maps("sid", 3) == before).all()


def test_chunks_with_a_skipped_filter_are_copied_as_maps(path):
    with h5py.File(path, "r+") as file:
        maps = file["first/sid_map"]
        raw = maps[3, 2]
        maps.id.write_direct_chunk((3, 2, 0, 0, 0), raw.tobytes(), filter_mask=3)
    onnxinfo.rename_run(path, "first", "one")
    with onnxinfo.open(path) as archive:
        assert (archive["one"].map("sid", 3, 2) == raw).all()
    assert onnxinfo.validate(path).valid


def test_chunks_with_other_filters_are_copied_as_maps(path):
    """Other programs may rewrite a dataset."""
    with h5py.File(path, "r+") as file:
        run, maps = file["first"], file["first/sid_map"][...]
        options = {"chunks": (1, 1, *maps.shape[2:]), "compression": "gzip", "fillvalue": float("nan")}
        del run["sid_map"]
        run.create_dataset("sid_map", data=maps, **options)
    onnxinfo.rename_run(path, "first", "one")
    with onnxinfo.open(path) as archive:
        assert (archive["one"].maps("sid", 3) == maps[3]).all()
