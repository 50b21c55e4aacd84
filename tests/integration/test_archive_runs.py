"""Listing, renaming, deleting, merging and recovering runs, in Python and on the command line."""

import json

import h5py
import pytest
from archive_fakes import content, fill, make, schema, table_schema
from click.testing import CliRunner

import onnxinfo
from onnxinfo import ArchiveError, OnnxinfoError, UsageError, validate
from onnxinfo.archive.unfinished import Unfinished
from onnxinfo.archive.writer import RunWriter
from onnxinfo.cli import cli


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    path = make(tmp_path_factory.mktemp("runs") / "a.h5")
    return make(path, "second", table_schema()).read_bytes()


@pytest.fixture
def path(tmp_path, two_runs):
    (tmp_path / "a.h5").write_bytes(two_runs)
    return tmp_path / "a.h5"


def contents(path):
    with onnxinfo.open(path) as archive:
        return {name: content(archive[name]) for name in archive.runs}


def invoke(*arguments):
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if isinstance(result.exception, OnnxinfoError):
        raise result.exception
    return result


def test_list(path):
    first, second = onnxinfo.list_runs(path)
    assert (first.run, first.status, first.model) == ("first", "complete", "fake")
    assert (first.layers, first.samples, first.finished, first.cells) == (4, 6, 72, 72)
    assert first.metrics == ("sid", "gradient", "concentration")
    assert first.size > second.size > 4 * 6 * 12 * 4


def test_list_shows_how_far_a_run_is(tmp_path):
    with pytest.raises(KeyboardInterrupt), RunWriter.open(tmp_path / "a.h5", "first", schema()) as writer:
        fill(writer, schema(), stop=2)
    summary = onnxinfo.list_runs(tmp_path / "a.h5")[0]
    assert (summary.status, summary.finished, summary.cells) == ("interrupted", 4, 72)


def test_rename(path):
    before = contents(path)
    onnxinfo.rename_run(path, "first", "renamed")
    assert contents(path) == {"renamed": before["first"], "second": before["second"]}
    assert validate(path).valid


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [("none", "new", "has no run 'none'"), ("first", "second", "already"), ("first", "a/b", "run name")],
)
def test_rename_refuses(path, two_runs, old, new, reason):
    with pytest.raises(UsageError, match=reason):
        onnxinfo.rename_run(path, old, new)
    assert path.read_bytes() == two_runs


def test_delete_gives_space_back(path):
    before, size = contents(path), path.stat().st_size
    onnxinfo.delete_run(path, "first")
    assert contents(path) == {"second": before["second"]}
    assert path.stat().st_size < 0.6 * size
    onnxinfo.delete_run(path, "second")
    assert contents(path) == {}
    assert validate(path).valid


def test_unfinished_work_is_deleted_and_renamed_with_its_run(path):
    first, second = (Unfinished.beside(path, run, "ab" * 32) for run in ("first", "second"))
    for each in (first, second):
        assert each.save("measuring", [])
    onnxinfo.rename_run(path, "first", "third")
    assert not first.folder.exists()
    assert Unfinished.beside(path, "third", "ab" * 32).folder.is_dir()
    onnxinfo.delete_run(path, "second")
    assert not second.folder.exists()
    onnxinfo.delete_run(path, "third")
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_unfinished_work_takes_the_place_of_what_an_earlier_run_of_the_name_left(path):
    first, earlier = (Unfinished.beside(path, run, "ab" * 32) for run in ("first", "third"))
    assert first.save("measuring", [])
    assert earlier.save("other", [])
    onnxinfo.rename_run(path, "first", "third")
    assert not first.folder.exists()
    assert [each.stem for each in earlier.folder.iterdir()] == ["measuring"]


def test_merge_keeps_every_run(path, tmp_path):
    before = contents(path)
    other = make(tmp_path / "other.h5", "first", table_schema())
    named = onnxinfo.merge([path, other], tmp_path / "merged.h5")
    assert named == {f"{path}:first": "first", f"{path}:second": "second", f"{other}:first": "first (other)"}
    assert contents(tmp_path / "merged.h5") == before | {"first (other)": contents(other)["first"]}
    assert validate(tmp_path / "merged.h5").valid


def test_merge_refuses(path, tmp_path, two_runs):
    with pytest.raises(UsageError, match="exists"):
        onnxinfo.merge([path], path)
    with pytest.raises(UsageError, match=r"two runs would be named 'first \(a\)'"):
        onnxinfo.merge([path, path, path], tmp_path / "b.h5")
    both = tmp_path / "both.h5"
    make(make(both, "first", table_schema()), "first (both)", table_schema())
    with pytest.raises(UsageError, match=r"two runs would be named 'first \(both\)'"):
        onnxinfo.merge([path, both], tmp_path / "b.h5")
    assert path.read_bytes() == two_runs
    assert not (tmp_path / "b.h5").exists()


def test_a_live_archive_is_left_alone(path, two_runs):
    with RunWriter.open(path, "third", schema()):
        before = path.read_bytes()
        for change in (
            lambda: onnxinfo.rename_run(path, "first", "other"),
            lambda: onnxinfo.delete_run(path, "first"),
            lambda: onnxinfo.recover(path),
        ):
            with pytest.raises(ArchiveError, match="is being written by another process"):
                change()
        assert path.read_bytes() == before
        assert [run.status for run in onnxinfo.list_runs(path)] == ["complete", "complete", "running"]


def test_recover_keeps_a_whole_archive(path):
    before = contents(path)
    recovery = onnxinfo.recover(path)
    assert (recovery.runs, recovery.lost, recovery.unreadable, recovery.original) == (("first", "second"), (), (), None)
    assert contents(path) == before
    assert [each.name for each in path.parent.iterdir()] == ["a.h5"]


def damage(path, run, dataset, position):
    """Change one stored number."""
    import h5py

    with h5py.File(path) as file:
        found = file[run][dataset]
        offset = found.id.get_offset() if found.chunks is None else found.id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[offset + position] ^= 1
    path.write_bytes(data)


def test_recover_drops_what_is_damaged_and_keeps_the_original(path):
    before = contents(path)
    damage(path, "first", "sid", 8 * 7)
    damage(path, "first", "gradient_map", 100)
    damaged = path.read_bytes()
    with pytest.raises(ArchiveError, match=r"sid of layer '/layer1/é/Relu_output_0', sample 1 in run 'first'.*recover"):
        contents(path)
    with pytest.raises(ArchiveError, match="has damaged cells"):
        onnxinfo.rename_run(path, "first", "other")
    assert path.read_bytes() == damaged
    recovery = onnxinfo.recover(path)
    assert [(lost.metric, lost.layer, lost.sample) for lost in recovery.lost] == [
        ("sid", "/layer1/é/Relu_output_0", 1),
        ("gradient", "/layer0/é/Relu_output_0", 0),
    ]
    assert recovery.original.read_bytes() == damaged
    assert validate(path).valid
    assert onnxinfo.list_runs(path)[0].status == "incomplete"
    with RunWriter.open(path, "first", schema()) as writer:
        fill(writer, schema())
    assert contents(path) == before


@pytest.mark.parametrize("dataset", ["sid_ratio", "sid_checksum", "sid_done", "sid_map", "sid_normalizer"])
def test_recover_keeps_the_other_metrics_of_a_run_with_a_damaged_one(dataset, path, tmp_path):
    """The header of one dataset is damaged, which HDF5 then refuses to open."""
    before = contents(path)
    with h5py.File(path) as file:
        header = h5py.h5o.get_info(file["first"][dataset].id).addr
    data = bytearray(path.read_bytes())
    data[header + 12] ^= 1
    path.write_bytes(data)
    result = CliRunner().invoke(cli, ["recover", str(path)])
    assert result.exit_code == 0, result.output
    assert "lost: sid of run first: " in result.stdout
    assert "validate" not in result.stdout
    assert path.with_name("a.h5.damaged").read_bytes() == data
    assert validate(path).valid
    with onnxinfo.open(path) as archive:
        assert [metric.name for metric in archive["first"].metrics] == ["gradient", "concentration"]
    found = contents(path)
    assert set(found["first"]) < set(before["first"])
    assert found["second"] == before["second"]


def test_recover_to_another_file_leaves_the_original_alone(path, tmp_path):
    damage(path, "second", "layer_index", 0)
    damaged = path.read_bytes()
    recovery = onnxinfo.recover(path, tmp_path / "b.h5")
    assert recovery.runs == ("first",)
    assert [run for run, _ in recovery.unreadable] == ["second"]
    assert path.read_bytes() == damaged
    assert list(contents(tmp_path / "b.h5")) == ["first"]
    with pytest.raises(UsageError, match="exists"):
        onnxinfo.recover(path, tmp_path / "b.h5")


def test_recover_saves_the_first_part_of_a_file_cut_off(tmp_path):
    path = make(tmp_path / "a.h5")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    with pytest.raises(ArchiveError, match=r"truncated.*onnxinfo\.recover"):
        onnxinfo.open(path)
    recovery = onnxinfo.recover(path)
    summary = onnxinfo.list_runs(path)[0]
    assert summary.finished == 72 - len(recovery.lost)
    assert 36 < summary.finished < 72
    assert validate(path).valid


def test_recover_refuses_what_is_beyond_repair(path):
    data = path.read_bytes()
    path.write_bytes(data[:700])
    with pytest.raises(ArchiveError):
        onnxinfo.recover(path)
    assert path.read_bytes() == data[:700]
    assert [each.name for each in path.parent.iterdir()] == ["a.h5"]


def test_a_symbolic_link_stays_one(path, tmp_path):
    (tmp_path / "link.h5").symlink_to(path)
    onnxinfo.delete_run(tmp_path / "link.h5", "first")
    assert (tmp_path / "link.h5").is_symlink()
    assert list(contents(path)) == ["second"]


def test_command_runs(path):
    shown = invoke("runs", path).output
    assert "first" in shown
    assert "72/72" in shown
    rows = json.loads(invoke("runs", path, "--format", "json").output)
    assert [(row["run"], row["status"], row["finished"]) for row in rows] == [
        ("first", "complete", 72),
        ("second", "complete", 72),
    ]


def test_command_runs_neutralises_control_characters(tmp_path):
    make(tmp_path / "a.h5", described=table_schema(provenance={"model_name": "\x1b[31mred\x07"}))
    assert "\x1b" not in invoke("runs", tmp_path / "a.h5").output


def test_commands_change_archives(path, tmp_path):
    assert invoke("rename", path, "first", "renamed").exit_code == 0
    assert invoke("delete", path, "renamed", "--yes").exit_code == 0
    assert list(contents(path)) == ["second"]
    assert "-> second" in invoke("merge", path, "-o", tmp_path / "m.h5").output
    assert invoke("export", path, "-o", tmp_path / "m.csv").exit_code == 0
    assert (tmp_path / "m.csv").read_text().startswith("run,layer,")
    assert "runs: 1; cells lost: 0" in invoke("recover", path).output


def test_command_delete_asks(path, two_runs):
    result = CliRunner().invoke(cli, ["delete", str(path), "first"], input="n\n")
    assert result.exit_code == 1
    assert path.read_bytes() == two_runs


def test_command_recover_tells_what_is_lost(path):
    damage(path, "first", "sid", 0)
    shown = invoke("recover", path).output
    assert "lost: run first, sid of /layer0/é/Relu_output_0, sample 0; the next analysis recomputes it" in shown
    assert "a.h5.damaged" in shown


def test_command_validate(path):
    good = invoke("validate", path)
    assert (good.exit_code, good.output.endswith("valid; runs: 2; cells checked: 144\n")) == (0, True)
    damage(path, "second", "concentration", 0)
    bad = invoke("validate", path)
    assert bad.exit_code == 1
    assert "violation: run second: concentration: concentration of layer '/layer0" in bad.output
    report = json.loads(invoke("validate", path, "--format", "json").output)
    assert (report["valid"], report["violations"][0]["run"]) == (False, "second")


def _newer(file):
    file.attrs["format_version"] = 99


def _damaged_map(file):
    file["first/sid_map"][0] = 0


def _without_names(file):
    del file["first/sample_name"]


def _newer_run(file):
    file["first"].attrs["format_version"] = 99


@pytest.mark.parametrize("name", ["a.h5", "of é"])
@pytest.mark.parametrize(
    ("change", "violation"),
    [
        (_newer, "violation: file: has format version 99, this"),
        (
            _damaged_map,
            "violation: run first: sid_map[0, 0]: sid map of layer '/layer0/é/Relu_output_0', sample 0 is damaged",
        ),
        (_without_names, "violation: run first: run: /first/sample_name is missing\n"),
        (_newer_run, "violation: run first: run: has format version 99, this"),
        (None, "violation: file: is not an HDF5 file; name"),
        ("missing", "violation: file: cannot be read: No such file"),
    ],
)
def test_validate_names_the_archive_once(tmp_path, two_runs, name, change, violation):
    path = tmp_path / name
    if change is None:
        path.write_text("text")
    elif change != "missing":
        path.write_bytes(two_runs)
        with h5py.File(path, "r+") as file:
            change(file)
    result = CliRunner().invoke(cli, ["validate", str(path)])
    assert result.exit_code == 1
    assert violation in result.output
    assert result.output.count(str(path)) == 1
    assert f"\n{path}: " in result.output
