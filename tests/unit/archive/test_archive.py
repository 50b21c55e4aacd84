"""Writing and reading runs: data round-trip, an interrupted run resumes, another recipe is refused."""

import dataclasses
import datetime
from collections.abc import Mapping

import numpy as np
import pytest
from archive_fakes import CONCENTRATION, GRADIENT, METRICS, SID, cell, content, fill, make, schema, table_schema, write

import onnxinfo
from onnxinfo import ArchiveError, UsageError
from onnxinfo.archive import storage
from onnxinfo.archive.format import COMPRESSION, LayerRow, Metric, decode_attribute, encode_attribute
from onnxinfo.archive.means import layer_summary
from onnxinfo.archive.prepare import Request, is_complete
from onnxinfo.archive.writer import RunWriter


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = make(tmp_path_factory.mktemp("archive") / "a.h5")
    with onnxinfo.open(path) as opened:
        yield opened


@pytest.mark.parametrize("described", [schema(), table_schema()], ids=["images", "table"])
def test_description_is_read_as_written(tmp_path, described):
    path = make(tmp_path / "a.h5", described=described)
    with onnxinfo.open(path) as archive:
        run = archive["first"]
        assert (run.layers, run.axes, run.sample_shape) == (
            tuple(described.layers),
            described.axes,
            described.sample_shape,
        )
        assert run.sample_names == described.sample_names
        assert list(run.labels) == list(described.labels)
        assert run.recipe == described.recipe
        assert run.provenance == described.provenance
        assert run.metrics == METRICS
        assert np.array_equal(
            np.broadcast_to(run.unit, run.sample_shape), np.broadcast_to(described.unit, run.sample_shape)
        )
        assert run.status == "complete"
        assert 0 < run.elapsed < 60
        age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(run.created)
        assert age < datetime.timedelta(minutes=5)


def test_thumbnails_are_read_as_written(archive):
    assert np.array_equal(archive["first"].thumbnails, schema().thumbnails)


@pytest.mark.parametrize("compression", COMPRESSION)
@pytest.mark.parametrize("described", [schema(), table_schema()], ids=["images", "table"])
def test_numbers_and_maps_are_read_as_written(tmp_path, described, compression):
    path = make(tmp_path / "a.h5", described=described, compression=compression)
    relative = {"rounded": 2**-16, "lossless": 0, "float16": 2**-11, "none": 0}[compression]
    with onnxinfo.open(path) as archive:
        run = archive["first"]
        for metric in METRICS:
            values = run.values(metric.name)
            for layer, sample in np.ndindex(run.shape):
                map_, expected = cell(metric, layer, sample, described.sample_shape)
                assert {name: values[name][layer, sample] for name in expected} == expected
                if metric.has_map:
                    found = run.map(metric.name, layer, sample)
                    assert found.dtype == np.float32
                    np.testing.assert_allclose(found, map_, rtol=relative, atol=0)


def test_cells_not_written_are_not_numbers(tmp_path):
    described = schema()
    with RunWriter.open(tmp_path / "a.h5", "first", described) as writer:
        writer.set_normalizer("sid", 1, 5.0)
        write(writer, SID, 1, [2, 4], described.sample_shape)
    with onnxinfo.open(tmp_path / "a.h5") as archive:
        run = archive["first"]
        values = run.values("sid")
        assert np.argwhere(values["done"]).tolist() == [[1, 2], [1, 4]]
        assert np.isnan(values["value"][~values["done"]]).all()
        assert not values["converged"][~values["done"]].any()
        assert np.isnan(run.map("sid", 0, 0)).all()
        assert run.normalizer("sid")[1] == 5.0
        assert run.status == "interrupted"
        assert len(archive.to_dataframe("sample")) == 2


def test_a_run_cut_off_goes_on_where_it_stopped(tmp_path):
    described = schema()
    with pytest.raises(KeyboardInterrupt), RunWriter.open(tmp_path / "a.h5", "first", described) as writer:
        fill(writer, described, stop=7)
    with onnxinfo.open(tmp_path / "a.h5") as archive:
        assert archive["first"].status == "interrupted"
    with RunWriter.open(tmp_path / "a.h5", "first", described) as writer:
        assert sum(writer.finished(metric.name).sum() for metric in METRICS) == 14
        assert writer.normalizer("sid", 0) == 2.0
        fill(writer, described)
    make(tmp_path / "b.h5")
    with onnxinfo.open(tmp_path / "a.h5") as resumed, onnxinfo.open(tmp_path / "b.h5") as undisturbed:
        assert content(resumed["first"]) == content(undisturbed["first"])
        assert resumed["first"].status == "complete"


def test_a_run_goes_on_while_the_archive_is_read(tmp_path):
    described = schema()
    with pytest.raises(KeyboardInterrupt), RunWriter.open(tmp_path / "a.h5", "first", described) as writer:
        fill(writer, described, stop=4)
    with onnxinfo.open(tmp_path / "a.h5") as before:
        with RunWriter.open(tmp_path / "a.h5", "first", described) as writer:
            fill(writer, described)
        assert sum(before["first"].finished(metric.name).sum() for metric in METRICS) == 8
    with onnxinfo.open(tmp_path / "a.h5") as after:
        assert after["first"].status == "complete"


def test_finished_cells_are_not_written_again(tmp_path):
    described = schema()
    with RunWriter.open(tmp_path / "a.h5", "first", described) as writer:
        write(writer, SID, 0, [1], described.sample_shape)
        map_, values = cell(SID, 3, 3, described.sample_shape)
        writer.write("sid", 0, [1], values={name: [value] for name, value in values.items()}, map=map_[None])
    with onnxinfo.open(tmp_path / "a.h5") as archive:
        assert archive["first"].values("sid")["value"][0, 1] == cell(SID, 0, 1, described.sample_shape)[1]["value"]


def test_a_failed_run_says_so(tmp_path):
    with pytest.raises(ZeroDivisionError), RunWriter.open(tmp_path / "a.h5", "first", schema()):
        raise ZeroDivisionError
    with onnxinfo.open(tmp_path / "a.h5") as archive:
        assert archive["first"].status == "failed"


def test_a_live_run_can_be_read(tmp_path):
    described = schema()
    with RunWriter.open(tmp_path / "a.h5", "first", described) as writer:
        with onnxinfo.open(tmp_path / "a.h5") as archive:
            assert archive["first"].status == "running"
            assert archive.to_dataframe("sample").empty
        write(writer, CONCENTRATION, 0, range(3), described.sample_shape)
        with onnxinfo.open(tmp_path / "a.h5") as archive:
            during = archive.to_dataframe("sample")
    with onnxinfo.open(tmp_path / "a.h5") as archive:
        assert archive.to_dataframe("sample").equals(during)
        assert len(during) == 3


def test_the_writers_own_process_reads_a_live_run_without_waiting(tmp_path, monkeypatch):
    def waits(seconds):
        raise AssertionError(f"waited {seconds} s")

    described = schema()
    with RunWriter.open(tmp_path / "a.h5", "first", described) as writer:
        write(writer, SID, 0, range(3), described.sample_shape)
        monkeypatch.setattr(storage.time, "sleep", waits)
        with onnxinfo.open(tmp_path / "a.h5") as archive:
            assert np.isfinite(archive["first"].values("sid")["value"][0, :3]).all()
        monkeypatch.undo()


def test_a_run_that_opens_while_it_is_looked_at_can_be_read(tmp_path, monkeypatch):
    flags, looked = storage._flags, []

    def late(superblock):
        looked.append(superblock)
        return 0 if len(looked) <= 2 else flags(superblock)

    with RunWriter.open(tmp_path / "a.h5", "first", schema()):
        monkeypatch.setattr(storage, "_flags", late)
        with onnxinfo.open(tmp_path / "a.h5") as archive:
            assert archive["first"].status == "running"
    assert len(looked) > 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"recipe": schema().recipe | {"alpha": 1e-3}}, "alpha is 0.00015 there, 0.001 now"),
        ({"recipe": schema().recipe | {"extra": True}}, "extra is absent there, true now"),
        ({"recipe": {k: v for k, v in schema().recipe.items() if k != "cap"}}, "sigma_max is null there, absent now"),
        ({"recipe": schema().recipe | {"tie": "image"}}, "share_sigma is unit there, image now"),
        ({"recipe": schema().recipe | {"normalizer": "image"}}, "normalize_by is absent there, sample now"),
        ({"layers": schema().layers[:2]}, "other layers"),
        (
            {"sample_names": [f"other {i}" for i in range(6)]},
            "it has other samples: 6 there, of which some are not among the 6 now",
        ),
        ({"labels": None}, "other labels"),
        ({"metrics": (SID,)}, "other metrics"),
        ({"unit": np.ones((1, 1, 1))}, "other input unit"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_incomplete_run_of_another_recipe_is_refused(tmp_path, change, reason):
    with RunWriter.open(tmp_path / "a.h5", "first", schema()):
        pass
    before = (tmp_path / "a.h5").read_bytes()
    with pytest.raises(UsageError, match=f"another recipe \\({reason}\\)"):
        RunWriter.open(tmp_path / "a.h5", "first", schema(**change))
    assert (tmp_path / "a.h5").read_bytes() == before


def test_provenance_may_differ_when_a_run_resumes(tmp_path):
    with RunWriter.open(tmp_path / "a.h5", "first", schema()):
        pass
    with RunWriter.open(tmp_path / "a.h5", "first", schema(provenance={"onnxinfo": "9"})) as writer:
        fill(writer, schema())


def test_a_complete_run_has_nothing_to_compute(tmp_path):
    path, same = make(tmp_path / "a.h5"), Request(schema())
    assert is_complete(path, "first", same)
    assert not is_complete(path, "second", same)
    assert not is_complete(tmp_path / "b.h5", "first", same)
    assert not is_complete(path, "first", dataclasses.replace(same, overwrite=True))
    with RunWriter.open(path, "first", schema()) as writer:
        assert writer.finished("sid").all()
    with pytest.raises(UsageError, match=r"choose another run=\.\.\., or replace it with overwrite=True"):
        is_complete(path, "first", Request(schema(recipe={"alpha": 1.0})))


def test_an_unfinished_run_of_another_recipe_is_refused_before_anything_is_computed(tmp_path):
    path = tmp_path / "a.h5"
    with RunWriter.open(path, "first", schema()):
        pass
    assert not is_complete(path, "first", Request(schema()))
    with pytest.raises(UsageError, match="another recipe"):
        is_complete(path, "first", Request(schema(recipe={"alpha": 1.0})))


def test_the_old_run_is_kept_until_the_new_one_is_complete(tmp_path):
    path, changed = make(tmp_path / "a.h5"), schema(recipe={"alpha": 1.0})
    with pytest.raises(KeyboardInterrupt), RunWriter.open(path, "first", changed, overwrite=True) as writer:
        fill(writer, changed, stop=3)
    with onnxinfo.open(path) as archive:
        assert archive.runs == ("first~", "first")
        assert archive["first~"].status == "complete"
    with RunWriter.open(path, "first", changed, overwrite=True) as writer:
        assert writer.finished("sid").any()
        fill(writer, changed)
    with onnxinfo.open(path) as archive:
        assert archive.runs == ("first",)
        assert archive["first"].recipe == {"alpha": 1.0}


def test_several_runs_share_a_file(tmp_path):
    path = make(make(tmp_path / "a.h5"), "second", table_schema())
    with onnxinfo.open(path) as archive:
        assert archive.runs == tuple(archive) == ("first", "second")
        assert len(archive) == 2
        assert "second" in archive
        assert [archive[name].status for name in archive] == ["complete", "complete"]
        with pytest.raises(UsageError, match="has no run 'third'; it has first, second"):
            archive["third"]
        assert isinstance(archive, Mapping)
        assert [*archive.keys()] == [run.name for run in archive.values()] == [name for name, _ in archive.items()]
        assert archive.get("third") is None
        with pytest.raises(KeyError) as raised:
            archive["third"]
        # One line like every error, not the key in quotes.
        assert str(raised.value).endswith("it has first, second")
        with pytest.raises(UsageError, match="has no metric 'ru'; it has sid, gradient, concentration"):
            archive["first"].values("ru")
        with pytest.raises(UsageError, match=r"'concentration' of .* has no maps"):
            archive["first"].map("concentration", 0, 0)


def test_a_second_writer_is_refused(tmp_path):
    with (
        RunWriter.open(tmp_path / "a.h5", "first", schema()),
        pytest.raises(ArchiveError, match="is being written by another process"),
    ):
        RunWriter.open(tmp_path / "a.h5", "second", schema())
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


@pytest.mark.parametrize("name", ["", "a/b", ".", "..", ".a", " a", "a ", "a\n", "a\x1b[31m", "a~", "x" * 300])
def test_impossible_run_names_are_refused(tmp_path, name):
    with pytest.raises(UsageError, match="run name"):
        RunWriter.open(tmp_path / "a.h5", name, schema())
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"layers": []}, {}),
        ({"sample_names": []}, {}),
        ({"axes": ("y", "x")}, {}),
        ({"axes": ("layer", "y", "x")}, {}),
        ({"axes": ("sid_map", "y", "x")}, {}),
        ({"metrics": (SID, SID)}, {}),
        ({"metrics": (SID, Metric("sid_map"))}, {}),
        ({"metrics": (SID, Metric("sid_retried"))}, {}),
        ({"metrics": (Metric("Sid"),)}, {}),
        ({"recipe": {"format": 1}}, {}),
        ({}, {"compression": "zip"}),
    ],
    ids=str,
)
def test_impossible_runs_are_refused(tmp_path, changes, options):
    with pytest.raises(UsageError):
        RunWriter.open(tmp_path / "a.h5", "first", schema(**changes), **options)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": {}}, "expected"),
        ({"map": None}, "a map expected"),
        ({"map": np.zeros((1, 3, 24, 25))}, "maps of shape"),
        ({"samples": [0, 1]}, "shape"),
        ({"nan_map": True}, "a map that converged is not finite"),
        ({"nan_value": True}, "a value that converged is not finite"),
    ],
    ids=str,
)
def test_cells_that_do_not_fit_are_refused(tmp_path, changes, message):
    described = schema()
    map_, values = cell(SID, 0, 0, described.sample_shape)
    call = {"samples": [0], "map": map_[None].copy(), "values": {name: [value] for name, value in values.items()}}
    if changes.pop("nan_map", False):
        call["map"][0, 1, 2, 3] = np.nan
    if changes.pop("nan_value", False):
        call["values"]["value"] = [np.inf]
    with RunWriter.open(tmp_path / "a.h5", "first", described) as writer:
        call |= changes
        with pytest.raises(ValueError, match=message):
            writer.write("sid", 0, call["samples"], values=call["values"], map=call["map"])
        assert not writer.finished("sid").any()


def test_a_normalizer_with_finished_cells_cannot_change(tmp_path):
    with RunWriter.open(tmp_path / "a.h5", "first", schema()) as writer:
        writer.set_normalizer("sid", 0, 2.0)
        write(writer, SID, 0, [0], schema().sample_shape)
        writer.set_normalizer("sid", 0, 2.0)
        with pytest.raises(ValueError, match=r"finished under normalizer 2\.0"):
            writer.set_normalizer("sid", 0, 3.0)


def test_names_of_any_text_survive(tmp_path):
    names = ["a\0b", "tab\t", "日本語", "\x1b[31mred", "<script>alert(1)</script>", "lone \udc80 surrogate"]
    layers = [LayerRow.of(layer) for layer in _layers(names)]
    with RunWriter.open(tmp_path / "a.h5", "first", schema(layers=layers, sample_names=names)):
        pass
    with onnxinfo.open(tmp_path / "a.h5") as archive:
        expected = ["a\\x00b", *names[1:5], "lone \\udc80 surrogate"]
        assert [layer.name for layer in archive["first"].layers] == expected
        assert archive["first"].sample_names == expected
    with RunWriter.open(tmp_path / "a.h5", "first", schema(layers=layers, sample_names=names)):
        pass


def _layers(names):
    from onnxinfo import Layer

    return [Layer(i, name, "Relu", name, (None, "n", 3), 0, i, True) for i, name in enumerate(names)]


@pytest.mark.parametrize(
    "value",
    [None, True, False, 0, -5, 2**70, 1.5, "", "text", "null", '"', "[1]", "{", "é\n", [1, "a", None], {"a": [1]}, []],
    ids=repr,
)
def test_recipe_values_survive(value):
    encoded = encode_attribute(value)
    assert isinstance(encoded, str | int | float)
    assert decode_attribute(encoded) == value


def test_table_per_sample(archive):
    table = archive.to_dataframe(per="sample")
    assert list(table.columns) == [
        *("run", "layer", "layer_index", "op", "depth", "sample", "sample_name", "label"),
        *("metric", "value", "stderr", "gap", "mark", "converged"),
    ]
    assert len(table) == 4 * 6 * 3
    assert table.equals(table.sort_values(["layer_index", "sample"], kind="stable"))
    row = table[(table.metric == "gradient") & (table.layer_index == 6) & (table["sample"] == 1)].iloc[0]
    assert (row.run, row.layer, row.op, row.depth) == ("first", "/layer2/é/Relu_output_0", "Relu", 9)
    assert (row.sample_name, row.label, row.converged) == ("sample 1.png", 1, False)
    assert row.value == cell(GRADIENT, 2, 1, (3, 24, 24))[1]["value"]


def test_table_per_layer_keeps_what_did_not_converge(archive):
    table = archive.to_dataframe(per="layer")
    row = table[(table.metric == "sid") & (table.layer_index == 6)].iloc[0]
    kept = [cell(SID, 2, sample, (3, 24, 24))[1]["value"] for sample in range(6)]
    assert (row.n, row.n_converged, row.n_missing, row.converged) == (6, 5, 0, False)
    assert row.value == pytest.approx(np.mean(kept, dtype=np.float64), abs=1e-12)
    assert table[table.layer_index != 6].converged.all()


def test_layer_summary_combines_errors():
    spread = layer_summary(_values([[1.0, 2.0, 3.0, 4.0]], 0.01))
    assert spread["stderr"][0] == pytest.approx(np.std([1, 2, 3, 4], ddof=1) / 2)
    noise = layer_summary(_values([[1.0, 1.0, 1.0, 1.0]], 0.2))
    assert noise["stderr"][0] == pytest.approx(0.1)
    single = layer_summary(_values([[1.0]], 0.3))
    assert (single["value"][0], single["stderr"][0]) == (1.0, 0.3)
    unknown = layer_summary(_values([[1.0]], np.nan))
    assert np.isnan(unknown["stderr"][0])
    unproven = layer_summary(_values([[1.0, 2.0, np.nan]], 0.1) | {"converged": np.zeros((1, 3), dtype=bool)})
    assert unproven["value"][0] == 1.5
    assert [unproven[key][0] for key in ("n", "n_converged", "n_missing", "converged")] == [3, 0, 1, False]
    nothing = layer_summary(_values([[np.nan]], 0.1))
    assert np.isnan(nothing["value"][0])


def _values(values, stderr):
    values = np.array(values)
    yes = np.ones(values.shape, dtype=bool)
    return {"value": values, "stderr": np.full(values.shape, stderr), "converged": yes, "done": yes}


def test_labeled_arrays(archive):
    dataset = archive.to_xarray()["first"].to_dataset()
    assert dataset.sid_map.dims == ("layer", "sample", "channel", "y", "x")
    picked = dataset.sid_map.sel(layer="/layer1/é/Relu_output_0").isel(sample=[0, 5], y=3, x=slice(2, 9, 3))
    expected = np.stack([archive["first"].map("sid", 1, sample)[:, 3, 2:9:3] for sample in (0, 5)])
    assert np.array_equal(picked.values, expected)
    assert dataset.sid_map.shape == (4, 6, 3, 24, 24)
    assert dataset.sid.attrs["units"] == "nats"
    assert dataset.sid_converged.dtype == bool
    assert dataset.label.values.tolist() == [0, 1, 2, 0, 1, 2]
    assert dataset.input_unit.dims == ("channel",)


@pytest.mark.parametrize("content", [b"", b"text", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + bytes(200)])
def test_files_that_are_no_archives_are_refused(tmp_path, content):
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(ArchiveError, match=r"a\.h5"):
        onnxinfo.open(tmp_path / "a.h5")
    with pytest.raises(ArchiveError, match=r"a\.h5"):
        RunWriter.open(tmp_path / "a.h5", "first", schema())
    assert (tmp_path / "a.h5").read_bytes() == content


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(ArchiveError, match="No such file"):
        onnxinfo.open(tmp_path / "a.h5")
    with pytest.raises(ArchiveError, match="directory"):
        onnxinfo.open(tmp_path)
    with pytest.raises(UsageError, match="not a regular file"):
        RunWriter.open(tmp_path, "first", schema())
    with pytest.raises(UsageError, match="does not exist"):
        RunWriter.open(tmp_path / "none" / "a.h5", "first", schema())


def test_archives_and_runs_say_what_they_are(tmp_path):
    path = make(tmp_path / "a.h5")
    with onnxinfo.open(path) as archive:
        assert repr(archive) == f"<archive {path}: 'first'>"
        run = archive["first"]
        assert repr(run) == f"<run 'first' of {path}: layers: 4, samples: 6, metrics: sid, gradient, concentration>"
    assert repr(archive) == f"<closed archive {path}>"
    assert repr(run).startswith("<run 'first'")


def test_a_damaged_archive_says_that_it_is_damaged(archive, monkeypatch):
    """Whatever shows it, such as a debugger, goes on."""

    def damaged(*arguments):
        raise ArchiveError("damaged")

    monkeypatch.setattr("onnxinfo.archive.guard.members", damaged)
    assert repr(archive) == f"<damaged archive {archive.path}>"
    monkeypatch.setattr("onnxinfo.archive.guard.attribute", damaged)
    assert archive.history == ()
