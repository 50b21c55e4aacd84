"""``onnxinfo.query`` and the command: filters, sorting, groups, SQL, formats."""

import csv
import io
import json
import time
from dataclasses import replace
from functools import partial

import archive_fakes as fakes
import duckdb
import numpy as np
import pytest
from click.testing import CliRunner

import onnxinfo
from onnxinfo.archive.format import LayerRow
from onnxinfo.archive.writer import RunWriter
from onnxinfo.cli import cli
from onnxinfo.cli.tables import render
from onnxinfo.errors import UsageError
from onnxinfo.views.query import Arrangement, QueryOptions
from onnxinfo.views.selection import Selected


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return fakes.make(tmp_path_factory.mktemp("query") / "a.h5")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return fakes.make(tmp_path_factory.mktemp("query") / "b.h5", "second", fakes.table_schema(metrics=(fakes.SID,)))


def value(metric, layer, sample, shape=fakes.IMAGE):
    return float(fakes.cell(metric, layer, sample, shape)[1]["value"])


def command(*arguments):
    result = CliRunner().invoke(cli, ["query", *map(str, arguments)], obj={}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_rows_hold_what_was_computed(archive):
    rows = onnxinfo.query(archive, per="sample", metrics="sid", layers="6-6", samples=[1])
    assert rows == [
        {
            "run": "first",
            "model": "fake",
            "layer": "/layer2/é/Relu_output_0",
            "layer_index": 6,
            "op": "Relu",
            "depth": 9,
            "sample": 1,
            "sample_name": "sample 1.png",
            "label": 1,
            "metric": "sid",
            "value": pytest.approx(value(fakes.SID, 2, 1)),
            "stderr": pytest.approx(0.02),
            "gap": pytest.approx(np.nan, nan_ok=True),
            "mark": None,
            "converged": False,
        }
    ]


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        ({"run": "first", "metrics": ["gradient"]}, 24),
        ({"layers": ["*layer1*"]}, 18),
        ({"exclude": ["*layer1*"]}, 54),
        ({"ops": "relu"}, 72),
        ({"samples": ["0-1"]}, 24),
        ({"samples": ["* 3.png", -1]}, 24),
        ({"labels": [2]}, 24),
        ({"converged": True}, 69),
    ],
)
def test_filters(archive, wanted, kept):
    assert len(onnxinfo.query(archive, per="sample", **wanted)) == kept


def test_values_are_filtered_sorted_and_cut(archive):
    rows = onnxinfo.query(archive, per="sample", minimum=-3.02, maximum=-2.98, sort="value")
    values = [row["value"] for row in rows]
    assert values == sorted(values)
    assert values[0] >= -3.02
    assert values[-1] <= -2.98
    everything = [row["value"] for row in onnxinfo.query(archive, per="sample")]
    assert [row["value"] for row in onnxinfo.query(archive, per="sample", top=3)] == sorted(everything)[::-1][:3]


def test_groups_are_over_samples(archive):
    (first, *_) = rows = onnxinfo.query(archive, metrics="sid", group_by="label", aggregate=["median", "q90", "mean"])
    cells = [value(fakes.SID, layer, sample) for layer in range(4) for sample in (0, 3)]
    assert [row["label"] for row in rows] == [0, 1, 2]
    assert first["median"] == pytest.approx(np.median(cells))
    assert first["q90"] == pytest.approx(np.percentile(cells, 90))
    assert first["mean"] == pytest.approx(np.mean(cells))
    assert (first["n"], first["n_converged"]) == (8, 8)
    assert rows[1]["n_converged"] == 7


def test_averages_are_over_all_cells_whatever_is_filtered(archive):
    """Convergence of cells depends on their values: a mean of proven cells alone would be biased."""
    everything = onnxinfo.query(archive, metrics="sid", group_by="label")
    assert [(row["n"], row["n_converged"]) for row in everything] == [(8, 8), (8, 7), (8, 8)]
    proven = onnxinfo.query(archive, metrics="sid", group_by="label", converged=True)
    assert proven == [everything[0], everything[2]]


def test_what_an_average_leaves_out_is_counted(archive):
    cells = [value(fakes.SID, layer, sample) for layer in range(4) for sample in (1, 4)]
    high = [number for number in cells if number >= -3]
    assert 0 < len(high) < len(cells)
    rows = {row["label"]: row for row in onnxinfo.query(archive, metrics="sid", group_by="label", minimum=-3)}
    assert rows[1]["mean"] == pytest.approx(np.mean(high))
    assert (rows[1]["n"], rows[1]["n_excluded"]) == (len(high), len(cells) - len(high))
    assert "n_excluded" not in onnxinfo.query(archive, metrics="sid", group_by="label")[0]


def test_a_misspelt_option_is_named(archive):
    with pytest.raises(TypeError, match="did you mean 'minimum'"):
        onnxinfo.query(archive, minimun=0)


def test_texts_and_numbers_are_sorted_as_such(archive):
    by_name = [row["sample_name"] for row in onnxinfo.query(archive, per="sample", sort="sample_name", descending=True)]
    assert by_name == sorted(by_name, reverse=True)
    sql = "SELECT * FROM (VALUES (10, 'a'), (9, 'b'), (NULL, 'c')) AS t(number, \"the text\")"
    assert [row["number"] for row in onnxinfo.query(archive, sql=sql, sort="number")] == [9, 10, None]
    assert [row["number"] for row in onnxinfo.query(archive, sql=sql, sort="number", descending=True)] == [10, 9, None]
    assert onnxinfo.query(archive, sql=sql, sort="the text", descending=True, top=1)[0]["the text"] == "c"


def test_what_sql_selects_can_be_grouped(archive):
    sql = "SELECT metric, op, 10.5 * layer_index AS value, converged FROM results"
    (row, *_) = onnxinfo.query(archive, metrics="sid", sql=sql, group_by="op", aggregate=["mean", "max"])
    assert (row["op"], row["n"], row["mean"], row["max"]) == ("Relu", 24, 10.5 * 4.5, 94.5)
    with pytest.raises(UsageError, match="cannot be aggregated"):
        onnxinfo.query(archive, sql="SELECT metric, op AS value, converged FROM results", group_by="metric")


def test_the_options_are_the_selections_and_the_arrangements():
    fields = [*Selected.__annotations__, *Arrangement.__annotations__]
    assert [*QueryOptions.__annotations__] == [*fields, "fields"]


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ({"layers": "/layer2/é/Relu_output_1"}, "did you mean.*Relu_output_0"),
        ({"run": "frist"}, "did you mean 'first'"),
        ({"metrics": "sdi"}, "did you mean 'sid'"),
        ({"ops": "Rel"}, "did you mean 'Relu'"),
        ({"labels": [7]}, "there is '0', '1', '2'"),
        ({"samples": ["sample 9.png"]}, "did you mean 'sample"),
        ({"samples": [9]}, "run 'first' has no sample 9; it has 6, 0 to 5"),
        ({"samples": ["0-9"]}, "run 'first' has no sample 9; it has 6, 0 to 5"),
        ({"samples": ["0-6"]}, "run 'first' has no sample 6; it has 6, 0 to 5"),
        ({"samples": ["0", "7-9"]}, "run 'first' has no sample 9; it has 6, 0 to 5"),
        ({"sort": "valeu"}, "did you mean 'value'"),
        ({"group_by": "labell"}, "did you mean 'label'"),
        ({"group_by": "label", "aggregate": ["q120"]}, "no aggregate 'q120'"),
    ],
)
def test_near_misses_are_named(archive, wanted, hint):
    with pytest.raises(UsageError, match=hint):
        onnxinfo.query(archive, **wanted)


def test_several_archives_are_one_table(archive, other):
    rows = onnxinfo.query([archive, other], metrics="sid")
    assert {(row["archive"], row["run"]) for row in rows} == {(str(archive), "first"), (str(other), "second")}


def test_sql_sees_the_table(archive):
    found = onnxinfo.query(
        archive, per="sample", sql="SELECT metric, avg(value) AS v FROM results GROUP BY ALL ORDER BY 1"
    )
    assert [row["metric"] for row in found] == ["concentration", "gradient", "sid"]
    cells = [value(fakes.SID, layer, sample) for layer in range(4) for sample in range(6)]
    assert found[2]["v"] == pytest.approx(np.mean(cells))


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM '{csv}'",
        "SELECT * FROM read_csv('{csv}')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM glob('/*')",
        "COPY results TO '{csv}.out'",
        "ATTACH '{csv}.db'",
        "SELECT 1; DROP TABLE results",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "SELECT getenv('HOME')",
        "SELECT * FROM columns",
        "SELEC",
    ],
)
def test_sql_sees_nothing_else(archive, tmp_path, statement):
    file = tmp_path / "secret.csv"
    file.write_text("a,b\n1,2\n")
    with pytest.raises(UsageError):
        onnxinfo.query(archive, sql=statement.format(csv=file))
    assert [*tmp_path.iterdir()] == [file]


def test_formats_hold_the_same(archive, tmp_path):
    # Unknown numbers are null, as JSON requires.
    expected = [row | {"gap": None} for row in onnxinfo.query(archive, per="sample", metrics="sid")]
    arguments = (archive, "--per", "sample", "--metric", "sid", "--format")
    assert json.loads(command(*arguments, "json")) == expected
    assert [json.loads(line) for line in command(*arguments, "jsonl").splitlines()] == expected
    read = [*csv.DictReader(io.StringIO(command(*arguments, "csv")))]
    assert [float(row["value"]) for row in read] == [row["value"] for row in expected]
    command(*arguments, "parquet", "-o", tmp_path / "it's.parquet")
    with duckdb.connect() as database:
        stored = database.execute("SELECT value, layer, converged FROM read_parquet(?)", [f"{tmp_path}/it's.parquet"])
        assert stored.fetchall() == [(row["value"], row["layer"], row["converged"]) for row in expected]
    lines = command(archive, "--metric", "sid", "--format", "markdown").splitlines()
    assert lines[2].startswith("| first | /layer0/é/Relu\\_output\\_0 |")
    assert command(*arguments, "csv", "-o", "-") == command(*arguments, "csv")


def test_tables_fit_the_terminal(archive):
    rows = onnxinfo.query(archive, metrics="sid")
    columns = [*rows[0]]
    wide, narrow = ("".join(render(rows, columns, "table", width)).splitlines() for width in (300, 110))
    assert max(map(len, wide)) > 110 >= max(map(len, narrow[:-1]))
    assert "/layer2/é/Relu_output_0" in wide[4]
    assert "…" in narrow[4]
    assert "*" in wide[4]
    assert "some samples are unproven; means are over all that have a value" in wide[-1]


def test_columns_are_chosen(archive):
    out = command(archive, "--columns", "layer,value", "--format", "csv", "--metric", "sid")
    assert out.splitlines()[0] == "layer,value"


def test_completion_names_runs_and_layers(archive):
    def complete(words, incomplete):
        line = " ".join(["onnxinfo", *map(str, words), incomplete])
        environment = {"_ONNXINFO_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) + 1)}
        result = CliRunner().invoke(cli, env=environment, prog_name="onnxinfo", complete_var="_ONNXINFO_COMPLETE")
        return [line.partition(",")[2] for line in result.output.splitlines()]

    assert complete(["query", archive, "--run"], "fi") == ["first"]
    assert complete(["query", archive, "--layers"], "/layer2") == ["/layer2/é/Relu_output_0"]
    assert "--group-by" in complete(["query", archive], "--gr")
    assert "query" in complete([], "que")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell):
    result = CliRunner().invoke(cli, ["completion", shell])
    assert "_ONNXINFO_COMPLETE" in result.output


def test_large_archives_answer_fast(tmp_path):
    layers = [LayerRow(f"layer{i}", i, "Relu", f"n{i}", i, 10, "16x8x8") for i in range(16)]
    samples = [f"s{i}" for i in range(5000)]
    metric = fakes.Metric("sid", fields=(), has_map=False)
    schema = fakes.schema(
        layers=layers, metrics=(metric,), sample_names=samples, labels=np.arange(5000) % 10, thumbnails=None
    )
    path = tmp_path / "big.h5"
    values = {"value": np.arange(5000.0), "stderr": np.ones(5000), "converged": np.ones(5000, bool)}
    with RunWriter.open(path, "big", schema) as writer:
        for layer in range(16):
            writer.set_normalizer("sid", layer, 1.0)
            writer.write("sid", layer, range(5000), values=values, map=None)
    began = time.process_time()
    rows = onnxinfo.query(path, per="sample", sql="SELECT layer, max(value) AS top FROM results GROUP BY layer")
    seconds = time.process_time() - began
    assert [row["top"] for row in rows] == [4999.0] * 16
    assert seconds < 2


def test_fields_of_metrics_are_columns(tmp_path):
    path = fakes.make(tmp_path / "a.h5", "one")
    with onnxinfo.open(path) as archive:
        run = archive["one"]
        values, normalizer = run.values("sid"), run.normalizer("sid")
    rows = onnxinfo.query(path, metrics="sid", fields=["normalizer", "ratio"])
    assert [*rows[0]][-2:] == ["normalizer", "ratio"]
    assert [row["normalizer"] for row in rows] == normalizer.tolist()
    np.testing.assert_allclose([row["ratio"] for row in rows], values["ratio"].mean(1))
    one = onnxinfo.query(path, metrics="sid", fields="ratio", per="sample", samples=["1"])
    assert [row["ratio"] for row in one] == values["ratio"][:, 1].tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"fields": "rato"}, "did you mean 'ratio'"), ({"fields": "ratio", "per": "unit"}, "leave one of them out")],
)
def test_fields_that_do_not_exist_are_refused(options, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        onnxinfo.query(fakes.make(tmp_path / "a.h5", "one"), **options)


@pytest.fixture
def sizes(tmp_path):
    """An archive with two runs of the same 6 samples, and one with a run of the first 4."""
    whole = fakes.table_schema()
    for name in ("a", "b"):
        fakes.make(tmp_path / "whole.h5", name, whole)
    few = replace(whole, sample_names=whole.sample_names[:4], labels=list("abcd"))
    fakes.make(tmp_path / "few.h5", "few", few)
    return tmp_path


COMMANDS = {
    "compare": ("compare", "whole.h5"),
    "gate": ("compare", "whole.h5", "--fail-if", "sid>+9"),
    "power": ("power", "whole.h5", "--run", "a"),
    "ranking": ("ranking", "whole.h5"),
    "plot": ("plot", "whole.h5", "maps", "-o", "figure.svg"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_range_of_samples_that_a_run_lacks_is_refused(sizes, monkeypatch, name):
    monkeypatch.chdir(sizes)
    line = list(COMMANDS[name])
    assert CliRunner().invoke(cli, [*line, "--samples", "0-5"], obj={}).exit_code == 0
    for given in ("6", "0-6"):
        result = CliRunner().invoke(cli, [*line, "--samples", given], obj={})
        assert isinstance(result.exception, UsageError)
        assert str(result.exception) == "run 'a' has no sample 6; it has 6, 0 to 5"


@pytest.mark.parametrize("samples", [[4], ["4"], ["0-4"]])
def test_a_run_that_lacks_a_sample_is_left_out(sizes, samples):
    files = [sizes / "whole.h5", sizes / "few.h5"]
    assert {row["run"] for row in onnxinfo.query(files, samples=samples)} == {"a", "b"}
    for compared in (onnxinfo.compare, onnxinfo.ranking, partial(onnxinfo.plot, kind="difference")):
        with pytest.raises(UsageError, match="run 'few' has no sample 4; it has 4, 0 to 3"):
            compared(files, run=["a", "few"], samples=samples)
