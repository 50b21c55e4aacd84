"""Tables for other programs: no text is a formula or contains an escape sequence, unless requested."""

import csv
import io
import json
from dataclasses import replace

import archive_fakes as fakes
import pytest
from click.testing import CliRunner

import onnxinfo
from onnxinfo.archive.format import LayerRow
from onnxinfo.cli import cli
from onnxinfo.text import spreadsheet_text

NAMES = ["=HYPERLINK(1)", "@SUM(A1)", "-1+cmd\x1b[31m\x9b", "/relu=1"]
SHOWN = ["'=HYPERLINK(1)", "'@SUM(A1)", r"'-1+cmd\x1b[31m\x9b", "/relu=1"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    described = fakes.table_schema()
    layers = [replace(LayerRow.of(row), name=name) for row, name in zip(described.layers, NAMES, strict=True)]
    return fakes.make(tmp_path_factory.mktemp("tables") / "a.h5", "first", replace(described, layers=layers))


def rows(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_what_is_a_formula():
    begun = ["=1", "+1", "-1", "@a", " =1", "\uff1d1", "\uff201"]
    assert [spreadsheet_text(text) for text in begun] == [f"'{text}" for text in begun]
    assert [spreadsheet_text(text) for text in ("\t=1", "\r=1", "\n=1")] == [r"\t=1", r"\r=1", r"\n=1"]
    for value in ("a=1", "", "5", -1, -1.5, None, True):
        assert spreadsheet_text(value) == value


@pytest.mark.parametrize(("more", "expected"), [([], SHOWN), (["--raw"], NAMES)])
def test_query(archive, more, expected):
    done = CliRunner().invoke(cli, ["query", str(archive), "--metric", "sid", "--format", "csv", *more])
    assert done.exit_code == 0, done.output
    found = rows(done.stdout)
    assert [row["layer"] for row in found] == expected
    assert all(float(row["value"]) < 1e9 for row in found)


@pytest.mark.parametrize(("raw", "expected"), [(False, SHOWN), (True, NAMES)])
def test_export(archive, tmp_path, raw, expected):
    arguments = ["export", str(archive), "-o", str(tmp_path / "a.csv"), "--per", "layer", *["--raw"][: int(raw)]]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        assert [row["layer"] for row in csv.DictReader(file) if row["metric"] == "sid"] == expected


@pytest.mark.parametrize("per", ["layer", "sample"])
def test_exported_truth_values_are_those_of_queries(archive, tmp_path, per):
    onnxinfo.export(archive, tmp_path / "a.csv", per=per)
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        exported = [row["converged"] for row in csv.DictReader(file) if row["metric"] == "sid"]
    arguments = ["query", str(archive), "--metric", "sid", "--per", per, "--format", "csv"]
    assert exported == [row["converged"] for row in rows(CliRunner().invoke(cli, arguments).stdout)]


@pytest.mark.parametrize("format", ["json", "jsonl", "markdown", "table"])
def test_no_other_table_holds_an_escape_sequence(archive, format):
    done = CliRunner().invoke(cli, ["query", str(archive), "--metric", "sid", "--format", format, "--raw"])
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.stdout
    assert "\x9b" not in done.stdout
    if format == "jsonl":
        assert [json.loads(line)["layer"] for line in done.stdout.splitlines()] == NAMES


def test_raw_is_for_csv(archive, tmp_path):
    with pytest.raises(onnxinfo.UsageError, match=r"raw=True is for \.csv"):
        onnxinfo.export(archive, tmp_path / "a.nc", raw=True)
