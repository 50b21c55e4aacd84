"""Tables: columns by name, to one input or to several, and files that are damaged or hostile."""

import os
import resource
from pathlib import Path

import duckdb
import numpy as np
import pytest

from onnxinfo import InputError, open_samples
from onnxinfo.inputs import tables
from onnxinfo.inputs.sample_sets import open_inputs

FLOAT, TEXT = np.dtype(np.float32), np.dtype(object)
ROWS = [(20 + i, 40 - i / 2, "ab" if i % 2 else "c,d", i % 3) for i in range(9)]


@pytest.fixture(params=["csv", "parquet"])
def table(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = ["age,Hours per week,job,y", *(f'{a},{h},"{j}",{y}' for a, h, j, y in ROWS)]
    Path("t.csv").write_text("\n".join(lines) + "\n")
    if request.param == "parquet":
        duckdb.sql("COPY (SELECT * FROM read_csv('t.csv')) TO 't.parquet' (FORMAT parquet)")
    return f"t.{request.param}"


def refusal(spec, shape=(2,), **options):
    with pytest.raises(InputError) as caught:
        open_samples(spec, shape=shape, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    return str(caught.value)


def test_columns_become_units_in_the_order_they_are_named(table):
    samples = open_samples(f"{table}:Hours per week,age", shape=(2,), limit=3)
    assert samples.units == ("Hours per week", "age")
    assert samples.batch([2, 0]).tolist() == [[39, 22], [40, 20]]
    assert samples.names == ["t[0]", "t[1]", "t[2]"]
    assert samples.available == len(ROWS)


def test_a_random_choice_reads_the_same_rows(table):
    samples = open_samples(f"{table}:age", shape=(1,), limit=4, shuffle=True, seed=3)
    assert samples.batch(range(4))[:, 0].tolist() == (20 + samples.positions).tolist()


def test_labels_are_a_column_that_the_model_does_not_take(table):
    Path("three.csv").write_text("a,b,class\n1,2,x\n3,4,y\n")
    samples = open_samples("three.csv", shape=(2,), labels="three.csv:class")
    assert (samples.units, samples.labels.tolist(), samples.classes) == (("a", "b"), [0, 1], ["x", "y"])
    assert open_samples(f"{table}:age", shape=(1,), labels=f"{table}:y").labels.tolist() == [y for *_, y in ROWS]


def test_each_input_of_a_model_has_the_column_of_its_name(table):
    declared = {"hours_per_week": ((1,), FLOAT), "job": ((1,), TEXT), "age": ((), np.int64)}
    opened = open_inputs(table, declared)
    feeds = opened.feeds([0, 1])
    assert feeds["hours_per_week"].tolist() == [[40], [39.5]]
    assert feeds["job"].tolist() == [["c,d"], ["ab"]]
    assert feeds["age"].tolist() == [20, 21]
    with pytest.raises(InputError, match=r"no column for input 'wage'; expected a column of that name, got age, "):
        open_inputs(table, {"wage": ((1,), FLOAT), "age": ((1,), FLOAT)})


def test_other_columns_than_the_model_takes_are_named(table):
    assert "has 4 columns, age, Hours per week, job, y; the model takes 2 values" in refusal(table)
    assert "has no column 'Age'; expected one of age" in refusal(f"{table}:Age,y")
    assert "has no column 'nocol'; expected one of age" in refusal(f"{table}:nocol")
    assert f"{table}: 1 column is chosen, age; the model takes 2 values: " in refusal(f"{table}:age")
    assert f"{table}: 3 columns are chosen, age, job, y; the model takes 2 values: " in refusal(f"{table}:age,job,y")
    assert "column 'job'" in (said := refusal(f"{table}:age,job"))
    assert said.endswith(("row 1, is 'c,d'; expected a number", "holds VARCHAR, expected numbers"))
    assert "has one value per column, the model takes 3x8x8" in refusal(table, (3, 8, 8))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("a,b\n", "has no rows"),
        ("1,2\n3,4\n", "begins with numbers"),
        ("a,a\n1,2\n", "has 2 columns named 'a'; give each a name of its own"),
        ("a,b\n1,nan\n", "column 'b', row 1, is NaN or infinite"),
        ("a,b\n1,2\n1,1e999\n", "column 'b', row 2, is NaN or infinite"),
        ("a,b\n1,\n", "column 'b', row 1, is empty; expected a number"),
        ("a,b\n1,=HYPERLINK(1)\n", "is '=HYPERLINK(1)'; expected a number"),
        ("a,b\n1,\x1b[31m\n", r"is '\x1b[31m'"),
        ("a,b\n1\n", "h.csv has 1 value in line 2, expected 2, as many as names in the first line"),
        ("a,b\n1,2\n1," + "2" * 300 + ",3\n", "h.csv has 3 values in line 3, expected 2"),
        ('a,b\n1,2\n3,"4\n' + "5,6\n" * 9, "a quote that is not closed"),
        ("a,b\n1," + "9" * (5 << 20) + "\n", "Maximum line size"),
        ("a" * (5 << 20), "a first line of more than 4 MiB"),
        (",".join(f"c{i}" for i in range(10_001)) + "\n", "has 10001 columns"),
        ("a,b\n1,\udcff\n", "not utf-8"),
        ("a\udcff,b\n1,2\n", "is not UTF-8"),
    ],
)
def test_damaged_and_hostile_csv_is_refused_in_one_line(text, said, tmp_path):
    path = tmp_path / "h.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert said in refusal(path)


def test_integers_are_not_rounded(tmp_path):
    path = tmp_path / "i.csv"
    path.write_text("a\n9007199254740993\n")
    assert open_samples(path, shape=(1,), dtype=np.int64).batch([0]).tolist() == [[9007199254740993]]
    path.write_text("a\n2.5\n")
    assert "is '2.5'; expected an integer" in refusal(path, (1,), dtype=np.int64)


@pytest.mark.parametrize("text", ["a;b\n1;2\n", "a\tb\r\n1\t2\r\n", "\ufeffa|b\n1|2\n", 'a,"b"\n"1",2'])
def test_separators_marks_and_line_ends(text, tmp_path):
    path = tmp_path / "s.csv"
    path.write_bytes(text.encode())
    samples = open_samples(path, shape=(2,))
    assert (samples.units, samples.batch([0]).tolist()) == (("a", "b"), [[1, 2]])


@pytest.mark.parametrize("name", ["x[1].csv", "q'uote.csv", "star*.csv", "{a,b}.csv", "sp ace.csv"])
def test_a_name_is_no_pattern_and_no_sql(name, tmp_path):
    for each in ("x1.csv", "starry.csv", "a.csv"):
        (tmp_path / each).write_text("a,b\n8,9\n")
    (tmp_path / name).write_text("a,b\n1,2\n")
    assert open_samples(tmp_path / name, shape=(2,)).batch([0]).tolist() == [[1, 2]]


def test_a_parquet_file_that_lies(tmp_path):
    good = tmp_path / "good.parquet"
    duckdb.sql(f"COPY (SELECT i::DOUBLE AS a, i AS b FROM range(60) t(i)) TO '{good}' (FORMAT parquet)")
    data, bad = good.read_bytes(), tmp_path / "bad.parquet"
    outcomes = set()
    for position in range(0, len(data), 61):
        changed = bytearray(data)
        changed[position] ^= 0xFF
        bad.write_bytes(changed)
        try:
            opened = open_samples(bad, shape=(2,))
            outcomes.add(opened.batch(range(len(opened))).shape[1])
        except InputError as error:
            outcomes.add("refused" if "\n" not in str(error) else "refused in lines")
    assert "refused" in outcomes
    assert "refused in lines" not in outcomes
    bad.write_bytes(data[:100])
    assert "cannot be read" in refusal(bad)
    nested = tmp_path / "nested.parquet"
    duckdb.sql(f"COPY (SELECT [i] AS a, {{'k': i}} AS b FROM range(5) t(i)) TO '{nested}' (FORMAT parquet)")
    assert "column 'a' holds BIGINT[], expected numbers" in refusal(nested)


def test_more_cells_than_memory_should_hold_are_refused(tmp_path):
    path = tmp_path / "many.parquet"
    duckdb.sql(f"COPY (SELECT repeat('x', 20000) AS a FROM range(20000) t(i)) TO '{path}' (FORMAT parquet)")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "take more than 1024 MiB; give limit=..." in refusal(path, (1,), dtype=object)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_500_000
    assert open_samples(path, shape=(1,), dtype=object, limit=2).batch([1])[0, 0] == "x" * 20_000


def test_duckdb_reads_the_table_alone(tmp_path):
    own, other = tmp_path / "own.csv", tmp_path / "other.csv"
    for path in (own, other):
        path.write_text("a\n1\n")
    with duckdb.connect(":memory:") as connection:
        tables.close_off(connection, os.fspath(own))
        assert connection.execute(f"SELECT count(*) FROM read_csv('{own}')").fetchone() == (1,)
        for statement in (
            f"SELECT * FROM read_csv('{other}')",
            f"SELECT * FROM glob('{tmp_path}/*')",
            "SELECT * FROM read_csv('http://localhost:9/x.csv')",
            f"COPY (SELECT 1) TO '{tmp_path}/new.csv'",
            "INSTALL httpfs",
            f"ATTACH '{tmp_path}/new.db'",
            "SET enable_external_access = true",
        ):
            with pytest.raises(duckdb.Error):
                connection.execute(statement).fetchall()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.csv", "own.csv"]


def test_arrays_and_lists_of_text(tmp_path):
    samples = open_samples([["a"], ["bb"]], shape=(1,), dtype=object)
    assert samples.batch([1]).tolist() == [["bb"]]
    with pytest.raises(InputError, match="expected samples of text"):
        open_samples(np.ones((2, 1)), shape=(1,), dtype=object)
