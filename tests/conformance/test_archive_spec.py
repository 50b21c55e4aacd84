"""The specification (docs/format.md) and real files name exactly the same items, and the examples run."""

import re
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from archive_fakes import PROVEN_SID, make, schema, table_schema
from places import DOCS
from torch.utils.data import DataLoader, TensorDataset

import onnxinfo
from onnxinfo.archive.format import COMPRESSION, MARKS, PROOF, STATUS, VERSION
from onnxinfo.inputs.parts import InputPart
from onnxinfo.models import path as bundled

SPEC = (DOCS / "format.md").read_text(encoding="utf-8")
TYPES = {
    **{"text": "S", "int64": "<i8", "float64": "<f8", "uint8": "|u1", "uint32": "<u4", "uint64": "<u8"},
    **{"float32": "<f4", "float16": "<f2"},
}
# HDF5's and netCDF's own.
DIMENSION_ATTRIBUTES = {"CLASS", "NAME", "REFERENCE_LIST", "DIMENSION_LIST", "_Netcdf4Dimid"}


def tables():
    """Return the spec's tables as (heading of the first column, rows)."""
    for block in re.findall(r"(?:^\|.*\n)+", SPEC, re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines()]
        yield head, rows


def named(*headings):
    """Return the rows, by name, of the tables whose first heading is one of these."""
    return {
        name: row
        for head, rows in tables()
        if head[0] in headings
        for row in rows
        for name in re.findall(r"`([^`]+)`", row[0])
    }


def test_no_name_is_described_twice():
    for _, rows in tables():
        names = [name for row in rows for name in re.findall(r"`([^`]+)`", row[0])]
        assert [name for name in {*names} if names.count(name) > 1] == []


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spec")
    made = make(folder / "made.h5")
    make(made, "half", compression="float16")
    proven = schema(metrics=(PROVEN_SID,))
    make(made, "retried", proven)
    make(made, "retried", schema(metrics=(PROVEN_SID,), provenance=proven.provenance | {"retry_unproven": True}))
    make(made, "named", table_schema(unit_names=[f"column {i}" for i in range(12)]))
    parts = InputPart("image", ("y", "x"), (3, 3)), InputPart("row", ("feature",), (2,)), InputPart("rate", (), ())
    make(made, "joint", table_schema(inputs=parts))
    analyzed = onnxinfo.analyze(
        replace(onnxinfo.load(bundled("digits-cnn.onnx")), exported="torch 2.11"),
        DataLoader(TensorDataset(torch.from_numpy(np.load(bundled("digits.npz"))["images"])), shuffle=True),
        folder / "real.h5",
        layers=["relu_4", "relu_4[0]"],
        limit=2,
        tag={"study": "depth"},
    )
    moved = folder / "moved.h5"
    onnxinfo.sensitivity(bundled("digits-cnn.onnx"), f"{bundled('digits.npz')}:images", moved, layers=["-1"], limit=2)
    return made, analyzed.archive, moved


def runs(files):
    for path in files:
        with h5py.File(path) as file:
            yield from ((file, run) for run in file.values())


def text(value):
    return value.decode() if isinstance(value, bytes) else value


def spec_name(run, name):
    """Return the spec's name for a dataset."""
    if name in text(run.attrs["axes"]).split():
        return "AXIS"
    for metric in text(run.attrs["metrics"]).split():
        if name == metric or name.startswith(f"{metric}_"):
            return "M" + name.removeprefix(metric)
    return name


def test_every_dataset_is_in_the_spec_and_in_a_file(files):
    found = {spec_name(run, name) for _, run in runs(files) for name in run}
    assert set(named("dimension", "dataset")) <= found
    assert found <= set(named("dimension", "dataset", "field", "former field"))


def test_metrics_and_their_fields_are_those_of_the_spec():
    from onnxinfo.registry import METRICS

    metrics = [METRICS.get(name).metric for name in METRICS.names()]
    expected = {metric.name: [metric.units, "yes" if metric.has_map else "no"] for metric in metrics}
    assert {name: row[1:3] for name, row in named("metric").items()} == expected
    fields = {f"M_{field.name}": [field.dtype, field.units] for metric in metrics for field in metric.fields}
    fields |= {f"M_{field.name}": [field.dtype, field.units] for field in PROOF}
    assert {name: [TYPES[row[1]], row[2]] for name, row in named("field").items()} == fields


def test_marks_are_those_of_the_spec():
    expected = {str(code): [m.name, m.meaning, "yes" if m.proven else "no"] for code, m in MARKS.items()}
    assert {code: row[1:] for code, row in named("mark").items()} == expected


def test_types_units_and_dimensions_are_those_of_the_spec(files):
    rows = named("dataset", "field")
    checked = 0
    for _, run in runs(files):
        for name, dataset in run.items():
            row = rows.get(spec_name(run, name))
            if row is None:
                continue
            kinds = [TYPES[kind] for kind in row[1].split(" or ")]
            assert dataset.dtype.str in kinds or (dataset.dtype.kind == "S" and "S" in kinds), name
            if len(row) == 5:
                assert sorted(dims(dataset)) == sorted(expected_dims(run, row[2])), name
            units = text(dataset.attrs["units"]) if "units" in dataset.attrs else ""
            if row[-2] != "of M":
                assert units == row[-2], name
            checked += 1
    assert checked > 60


def dims(dataset):
    return [dim[0].name.rsplit("/", 1)[-1] for dim in dataset.dims if len(dim)]


def expected_dims(run, said):
    axes = text(run.attrs["axes"]).split()
    if said == "none":
        return []
    if said.startswith("the axes"):
        return text(run["input_unit"].attrs["axes"]).split()
    return [dim for part in said.split(", ") for dim in (axes if part in ("AXIS", "then all AXIS") else [part])]


def test_every_attribute_is_in_the_spec_and_in_a_file(files):
    on_files, on_runs, on_datasets = set(), set(), set()
    for file, run in runs(files):
        on_files |= {*file.attrs}
        if file.filename.endswith("real.h5"):
            on_runs |= {*run.attrs}
        on_datasets |= {key for dataset in run.values() for key in dataset.attrs}
    assert on_files == set(named("attribute of the file"))
    assert set(named("attribute of a run")) <= on_runs <= set(named("attribute of a run", "recipe", "provenance"))
    assert on_datasets == set(named("attribute of a dataset"))
    assert on_datasets >= DIMENSION_ATTRIBUTES


def test_recipe_and_provenance_are_what_the_spec_says(files):
    with onnxinfo.open(files[1]) as archive:
        run = archive["digits-cnn"]
        always = {name for name, row in named("recipe").items() if "MAY" not in row[1]}
        assert always <= set(run.recipe) <= set(named("recipe"))
        provenance = set(run.provenance)
    with onnxinfo.open(files[0]) as archive:
        provenance |= set(archive["retried"].provenance)
    with onnxinfo.open(files[2]) as archive:
        provenance |= set(archive["digits-cnn"].provenance)
    assert provenance == set(named("provenance"))


def test_everything_has_a_long_name(files):
    for _, run in runs(files):
        for name, dataset in run.items():
            bare = text(dataset.attrs.get("NAME", b"")).startswith("This is a netCDF dimension but not a netCDF")
            assert bare or "long_name" in dataset.attrs, name


def test_constants_are_those_of_the_spec():
    assert f"# The archive format, version {VERSION}\n" in SPEC
    assert ", ".join(f"{number} {name}" for number, name in enumerate(STATUS)) in SPEC
    rows = named("`compression`")
    assert set(rows) == set(COMPRESSION)
    for name, (dtype, bits, level) in COMPRESSION.items():
        filters = "none" if level is None else f"shuffle, deflate {level}"
        assert [TYPES[rows[name][1]], int(rows[name][2]), rows[name][3]] == [dtype, bits, filters]


def test_links_within_the_spec_lead_somewhere():
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.*)", SPEC, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]*)\)", SPEC)) <= headings


@pytest.mark.parametrize("example", re.findall(r"```python\n(.*?)```", SPEC, re.DOTALL)[:2], ids=["xarray", "h5py"])
def test_examples_run(example, tmp_path, monkeypatch, capsys):
    pytest.importorskip("h5netcdf")
    make(tmp_path / "result.h5", "resnet20")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/format.md", "exec"), {})
    with onnxinfo.open("result.h5") as archive:
        value = archive["resnet20"].values("sid")["value"][3, 2]
    shown = capsys.readouterr().out
    assert repr(float(value)) in shown
    assert "(3, 24, 24)" in shown
    assert np.isfinite(value)
