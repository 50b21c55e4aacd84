"""Requests that cannot be met are refused in one line that names what was given, and empty results are explained."""

import sys

import archive_fakes as fakes
import pytest

from onnxinfo.archive.writer import RunWriter
from onnxinfo.cli import main
from onnxinfo.models import path

MODEL = str(path("digits-cnn.onnx"))
IMAGES = f"{path('digits.npz')}:images"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command line in a folder with the archive a.h5; return exit code, output and lines of messages."""
    monkeypatch.chdir(tmp_path)
    fakes.make(tmp_path / "a.h5", "first")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["onnxinfo", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err.splitlines()

    return call


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("query", "a.h5", "--min", "nan"), "invalid value for '--min': 'nan' is not a finite number"),
        (("query", "a.h5", "--max", "inf"), "invalid value for '--max': 'inf' is not a finite number"),
        (("power", "a.h5", "--difference", "nan"), "invalid value for '--difference': 'nan' is not a finite number"),
        (("query", "a.h5", "--format", "parquet"), "parquet is no text and is written only to a file: give -o "),
        (
            ("query", "a.h5", "--group-by", "layer", "--aggregate", "q101"),
            "no aggregate 'q101'; give mean, median, std, min, max or a quantile from q0 to q100, such as q25",
        ),
        (("plot", "a.h5", "-o", "-"), "'-' is not a file name in --output; give a name, or ./- for a file"),
        (("merge", "a.h5", "a.h5", "-o", "-"), "'-' is not a file name in --output"),
        (("analyze", MODEL, "--inputs", IMAGES, "-o", "-"), "'-' is not a file name in --output"),
        (("oneshot", MODEL, "--inputs", IMAGES, "-o", "-"), "'-' is not a file name in --output"),
    ],
    ids=lambda each: " ".join(each[-2:]) if isinstance(each, tuple) else "",
)
def test_what_cannot_be_done_is_one_line(run, arguments, said):
    code, out, lines = run(*arguments)
    assert (code, out, len(lines)) == (2, "", 1)
    assert said in lines[0]


def test_a_minus_that_is_documented_or_a_path_is_no_error(run, tmp_path):
    assert run("query", "a.h5", "-o", "-")[1].startswith("run ")
    assert run("merge", "a.h5", "-o", "./-")[0] == 0
    assert (tmp_path / "-").is_file()


def test_a_setting_in_place_of_a_table_is_named(run, tmp_path):
    (tmp_path / "c.toml").write_text('input = "x"\n')
    code, _, lines = run("check", MODEL, "--config", "c.toml")
    assert code == 2
    assert lines == [
        "onnxinfo: error: 'input' in 'c.toml' is 'x', expected a table; put settings below [input]",
    ]


def test_a_wrong_value_in_the_environment_is_told_by_the_variable(run, monkeypatch):
    monkeypatch.setenv("ONNXINFO_LIMIT", "abc")
    (line,) = run("check", MODEL, "--inputs", IMAGES)[2]
    assert "invalid value for 'ONNXINFO_LIMIT': 'abc'; give an integer of at least 1" in line
    (line,) = run("check", MODEL, "--inputs", IMAGES, "--limit", "x")[2]
    assert "invalid value for '--limit': 'x'" in line


def test_an_empty_table_is_explained(run, tmp_path):
    assert run("query", "a.h5", "--min", "99")[2] == ["no rows: no finished cell meets all conditions"]
    with RunWriter.open(tmp_path / "a.h5", "second", fakes.schema()):
        pass
    code, out, lines = run("query", "a.h5", "--run", "second", "--format", "json")
    assert (code, out) == (0, "[]\n")
    assert lines == ["no rows: no finished cells in the chosen runs; other runs: 'first'"]


def test_a_file_without_content_is_not_called_damaged(run, tmp_path):
    (tmp_path / "zero.h5").touch()
    code, _, lines = run("recover", "zero.h5")
    assert code == 1
    assert lines == [
        f"onnxinfo: error: {tmp_path / 'zero.h5'} is not an HDF5 file; name a file written by 'onnxinfo analyze'"
    ]
