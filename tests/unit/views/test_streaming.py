"""Tables of large archives are written some layers at a time: memory does not grow with the archive."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archive_fakes import PROVEN_SID, table_schema
from click.testing import CliRunner

import onnxinfo
from onnxinfo.archive.format import LayerRow, mark_code
from onnxinfo.archive.writer import RunWriter
from onnxinfo.cli import cli
from onnxinfo.views.query import query, stream
from onnxinfo.views.report.data import MAP_BYTES, json_pieces, run_data
from onnxinfo.views.run_view import RunView


def large(path: Path, layers: int, samples: int) -> Path:
    """Write a run of random numbers."""
    described = replace(
        table_schema(
            layers=[LayerRow(f"/layer{i}/Relu", i, "Relu", "", i, 100, "16") for i in range(layers)],
            sample_names=[f"sample {i}" for i in range(samples)],
            metrics=(PROVEN_SID,),
        ),
        labels=None,
    )
    random = np.random.default_rng(0)
    with RunWriter.open(path, "run", described) as writer:
        for layer in range(layers):
            writer.set_normalizer("sid", layer, 2.0)
            maps = random.standard_normal((samples, 12)).astype(np.float32)
            values = {"value": maps.mean(1), "stderr": np.full(samples, 0.01), "converged": np.ones(samples, bool)}
            values |= {field.name: np.ones(samples) for field in PROVEN_SID.fields}
            values["mark"] = np.full(samples, mark_code("converged"))
            writer.write("sid", layer, [*range(samples)], values=values, map=maps)
    return path


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return large(tmp_path_factory.mktemp("large") / "a.h5", 40, 100)


def peak(work: Callable[[], Any]) -> int:
    """Largest number of bytes that Python and numpy allocated at once."""
    work()
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


OPTIONS: list[dict[str, Any]] = [
    {},
    {"per": "sample"},
    {"per": "unit"},
    {"per": "sample", "minimum": 0.0, "layers": ["2-30"], "samples": ["3-50"]},
    {"per": "sample", "sort": "value", "top": 5},
    {"group_by": ["op"]},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ", ".join(options) or "default")
def test_the_rows_are_those_of_a_query(options: dict[str, Any], archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxinfo.views.query._CELLS", 300)
    found, expected = [*stream(archive, **options)], query(archive, **options)
    assert len(found) == len(expected) > 0
    assert repr(found) == repr(expected)


@pytest.mark.parametrize("per", ["layer", pytest.param("sample", marks=pytest.mark.slow)])
def test_memory_is_that_of_some_layers(per: str, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = peak(lambda: query(archive, per=per))
    monkeypatch.setattr("onnxinfo.views.query._CELLS", 200)
    assert peak(lambda: all(stream(archive, per=per))) < everything / 3


@pytest.mark.parametrize("format", ["csv", *(pytest.param(each, marks=pytest.mark.slow) for each in ("json", "jsonl"))])
def test_a_command_writes_while_it_reads(
    format: str, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["query", str(archive), "--per", "sample", "--format", format, "-o", str(tmp_path / "out")]
    everything = peak(lambda: query(archive, per="sample"))
    monkeypatch.setattr("onnxinfo.views.query._CELLS", 200)
    assert peak(lambda: CliRunner().invoke(cli, command, catch_exceptions=False)) < everything / 2


@pytest.mark.parametrize("format", ["csv", "json", "jsonl"])
def test_damage_in_the_last_layer_is_found_before_the_first_row(
    format: str, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that reads the rows gets all of them or none."""
    monkeypatch.setattr("onnxinfo.views.query._CELLS", 200)
    with onnxinfo.open(archive) as opened:
        value = opened["run"].values("sid")["value"][-1, -1]
    data = bytearray(archive.read_bytes())
    data[data.index(np.float64(value).tobytes()) + 2] ^= 1
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(data)
    result = CliRunner().invoke(cli, ["query", str(damaged), "--per", "sample", "--format", format])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "sid of layer '/layer39/Relu', sample 99 in run 'run'" in str(result.exception)


def test_a_part_of_the_numbers_is_that_part(archive: Path) -> None:
    with onnxinfo.open(archive) as opened:
        run = opened["run"]
        every, some = run.values("sid"), run.values("sid", range(3, 7))
    assert all(np.array_equal(some[name], every[name][3:7]) for name in every)


def test_a_report_is_written_in_pieces(archive: Path) -> None:
    """No piece holds more than a layer's numbers, and together they are what JSON says."""
    with onnxinfo.open(archive) as opened:
        data = run_data(RunView(opened["run"]), MAP_BYTES)
    pieces = [*json_pieces(data)]
    text = "".join(pieces)
    numbers = json.loads(text)["metrics"][0]["values"]
    assert (len(numbers), len(numbers[0])) == (40, 100)
    data.pop("gallery")
    assert max(map(len, json_pieces(data))) < len(text) / 50
    assert "".join(json_pieces({"a": [1, {}], "b": [], "ü": None})) == '{"a":[1,{}],"b":[],"ü":null}'


GROWTH = """
import resource, sys
from onnxinfo.cli import cli
def run(archive):
    cli.main([*sys.argv[3:], "--force", "-o", sys.argv[2] + ".out", archive], standalone_mode=False)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
small = run(sys.argv[2])
print(run(sys.argv[1]) - small)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "most"),
    [(["query", "--format", "csv"], 40), (["query", "--format", "csv", "--per", "sample"], 60), (["report"], 150)],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_the_largest_archives(command: list[str], most: int, tmp_path: Path) -> None:
    """Mebibytes that 500 layers x 1000 samples take, beyond a small archive; their numbers alone take 60."""
    big, small = large(tmp_path / "big.h5", 500, 1000), large(tmp_path / "small.h5", 4, 4)
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(big), str(small), *command], capture_output=True, text=True, check=True
    )
    assert float(done.stdout.split()[-1]) < most
