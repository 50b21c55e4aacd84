"""Archives read by other programs: xarray, plain h5py, pyfive, h5wasm, h5dump, netCDF readers."""

import csv
import json
import os
import shutil
import subprocess

import h5netcdf
import h5py
import numpy as np
import pytest
import xarray
from archive_fakes import SID, cell, make, table_schema
from places import DATA, SUPPORT

import onnxinfo
from onnxinfo import UsageError

#: Made by analyses of bundled models; see ``make.py`` beside it.
ANALYZED = DATA / "archives" / "1" / "archive.h5"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = make(tmp_path_factory.mktemp("interop") / "a.h5")
    return make(path, "second", table_schema())


def test_xarray_sees_named_dimensions_and_text(path):
    with xarray.open_datatree(path, engine="h5netcdf") as tree:
        run = tree["first"].to_dataset()
        assert run.sid_map.dims == ("layer", "sample", "channel", "y", "x")
        assert run.sid.dims == ("layer", "sample")
        assert tree["second"].to_dataset().sid_map.dims == ("layer", "sample", "feature")
        assert run.layer.values.tolist() == [f"/layer{i}/é/Relu_output_0" for i in range(4)]
        expected = {"layer_index", "op", "node", "depth", "parameters", "layer_shape", "sample_name", "label"}
        assert expected | {"layer", "sample"} == set(run.coords)
        assert run.sid.attrs["units"] == "nats"
        assert run.attrs["alpha"] == 1.5e-4
        map_, values = cell(SID, 1, 2, (3, 24, 24))
        picked = run.sel(layer="/layer1/é/Relu_output_0", sample=2)
        assert picked.sid == values["value"]
        np.testing.assert_allclose(picked.sid_map, map_, rtol=1e-4)


def test_xarray_opens_one_run(path):
    with xarray.open_dataset(path, group="second", engine="h5netcdf") as run:
        assert run.label.values.tolist() == list("abcdef")


def test_plain_h5py_sees_named_dimensions(path):
    with h5py.File(path) as file:
        run = file["first"]
        assert [dim[0].name for dim in run["sid_map"].dims] == [
            f"/first/{name}" for name in ("layer", "sample", "channel", "y", "x")
        ]
        assert run["layer"].asstr()[1] == "/layer1/é/Relu_output_0"
        assert run["sid_map"].attrs["long_name"].decode() == "strict information discarding per input unit"
        np.testing.assert_allclose(run["sid_map"][3, 4], cell(SID, 3, 4, (3, 24, 24))[0], rtol=1e-4)


def test_netcdf_readers_see_no_invented_dimensions(path):
    # Would raise on a dataset without dimension scales, as phony_dims is not given.
    with h5netcdf.File(path) as file:
        assert {name: each.size for name, each in file["first"].dimensions.items()} == {
            **{"layer": 4, "sample": 6, "channel": 3, "y": 24, "x": 24},
            **{"thumb_y": 8, "thumb_x": 8, "rgb": 3},
        }
        for variable in file["first"].variables.values():
            assert len(variable.dimensions) == len(variable.shape)


def test_every_dataset_is_read_without_the_hdf5_library(path):
    """pyfive is written in Python, and knows no chunk index newer than that of HDF5 1.8."""
    pyfive = pytest.importorskip("pyfive")
    with pyfive.File(path) as file, h5py.File(path) as expected:
        assert dict(file.attrs)["title"].decode() == expected.attrs["title"].decode()
        for run in expected:
            assert {*dict(file[run].attrs)} == {*expected[run].attrs}
            for name, dataset in expected[run].items():
                assert file[run][name][()].tobytes() == dataset[()].tobytes(), name


def folder_of_h5wasm():
    """Return the folder of the package h5wasm, which H5WASM names or npm installed globally."""
    npm = shutil.which("npm")
    if "H5WASM" not in os.environ and npm is not None:
        found = subprocess.run([npm, "root", "-g"], capture_output=True, text=True, check=False).stdout.strip()
        return f"{found}/h5wasm"
    return os.environ.get("H5WASM", "")


def test_browsers_read_it(path):
    """h5wasm is the HDF5 library compiled for browsers."""
    folder = folder_of_h5wasm()
    if shutil.which("node") is None or not os.path.isdir(folder):
        pytest.skip("needs node, and h5wasm: npm install -g h5wasm, or its folder in the variable H5WASM")
    command = ["node", SUPPORT / "h5wasm_reader.mjs", folder, path, "first"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    with h5py.File(path) as file:
        run = file["first"]
        assert found["title"] == file.attrs["title"].decode()
        assert found["layers"] == run["layer"].asstr()[()].tolist()
        assert found["sid"] == run["sid"][()].ravel().tolist()
        assert found["shape"] == [*run["sid_map"].shape]
        assert np.array(found["map"], dtype="<f4").tobytes() == run["sid_map"][3, 2].tobytes()


needs_h5dump = pytest.mark.skipif(shutil.which("h5dump") is None, reason="needs h5dump (Debian package hdf5-tools)")


def dumped(path, dataset):
    """Return the numbers of a dataset as h5dump prints them."""
    command = ["h5dump", "-d", dataset, "-m", "%.17g", "-y", "-w", "1", path]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    block = text.partition("DATA {")[2].partition("}")[0]
    return [float(number) for number in block.replace(",", " ").split()]


@needs_h5dump
def test_h5dump_reads_everything(path):
    shown = subprocess.run(["h5dump", "--contents=1", path], capture_output=True, text=True, check=True).stdout
    assert ["dataset", "/first/sid_map"] in [line.split() for line in shown.splitlines()]
    with onnxinfo.open(path) as archive:
        expected = archive["first"].values("sid")["value"].ravel().tolist()
    assert dumped(path, "/first/sid") == expected
    with h5py.File(path) as file:
        assert dumped(path, "/first/sid_map") == file["first/sid_map"][()].ravel().tolist()
    everything = subprocess.run(["h5dump", path], capture_output=True, text=True, check=True).stdout
    assert "/layer1/é/Relu_output_0" in everything.replace("\\37777777703\\37777777651", "é")


@needs_h5dump
@pytest.mark.parametrize("name", ["digits-cnn", "images", "half"])
def test_an_analyzed_archive_reads_alike_in_every_program(name):
    with onnxinfo.open(ANALYZED) as archive:
        expected = archive[name].values("sid")["value"]
        map_ = archive[name].maps("sid", 0)[1]
    with xarray.open_datatree(ANALYZED, engine="h5netcdf") as tree:
        assert (tree[name].sid.values == expected).all()
        assert (tree[name].sid_map.isel(layer=0, sample=1).values == map_).all()
    with h5py.File(ANALYZED) as file:
        assert (file[name]["sid"][()] == expected).all()
        assert (file[name]["sid_map"][0, 1] == map_).all()
    assert dumped(ANALYZED, f"/{name}/sid") == expected.ravel().tolist()


def test_dimensions_are_numbered_in_the_whole_file(path):
    with h5py.File(path) as file:
        numbers = [
            int(each.attrs["_Netcdf4Dimid"])
            for run in file.values()
            for each in run.values()
            if "_Netcdf4Dimid" in each.attrs
        ]
    assert sorted(numbers) == list(range(8 + 3))


@pytest.mark.skipif(shutil.which("ncdump") is None, reason="needs ncdump (Debian package netcdf-bin)")
def test_ncdump_sees_each_run_with_its_own_dimensions(path):
    shown = subprocess.run(["ncdump", "-h", path], capture_output=True, text=True, check=True).stdout
    first, second = shown.split("group: ")[1:]
    assert "channel = 3 ;" in first
    assert "feature = " not in first
    assert "float sid_map(layer, sample, channel, y, x) ;" in first
    assert "float sid_map(layer, sample, feature) ;" in second
    assert 'sid_map:units = "nats" ;' in first


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="needs R with rhdf5 (Debian package r-bioc-rhdf5)")
def test_r_reads_it_in_reversed_order(path):
    script = (
        "library(rhdf5); f <- commandArgs(TRUE); cat(dim(h5read(f, 'first/sid_map')), h5read(f, 'first/sid')[3, 2])"
    )
    done = subprocess.run(
        ["Rscript", "-e", f"library(rhdf5); {script}", path], capture_output=True, text=True, check=False
    )
    if "no package called" in done.stderr:
        pytest.skip("needs rhdf5 (Debian package r-bioc-rhdf5)")
    *shape, value = done.stdout.split()
    assert shape == ["24", "24", "3", "6", "4"]
    assert float(value) == pytest.approx(cell(SID, 1, 2, (3, 24, 24))[1]["value"], rel=1e-6)


def test_export_to_netcdf_holds_the_maps(path, tmp_path):
    onnxinfo.export(path, tmp_path / "a.nc", run="first")
    with xarray.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as exported, onnxinfo.open(path) as archive:
        xarray.testing.assert_equal(exported.load(), archive["first"].to_xarray().load())


@pytest.mark.parametrize("per", ["layer", "sample"])
def test_export_to_csv(path, tmp_path, per):
    onnxinfo.export(path, tmp_path / "a.csv", run="second", per=per)
    with onnxinfo.open(path) as archive:
        expected = archive["second"].table(per)
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(expected)
    assert [float(row["value"]) for row in rows] == expected["value"]
    assert [row["layer"] for row in rows] == expected["layer"]


def test_export_to_parquet(path, tmp_path):
    import duckdb

    onnxinfo.export(path, tmp_path / "a.parquet", run="first")
    with onnxinfo.open(path) as archive:
        expected = archive["first"].table("sample")
    found = duckdb.sql(f"SELECT * FROM '{tmp_path / 'a.parquet'}'")
    assert found.columns == [*expected]
    columns = dict(zip(found.columns, zip(*found.fetchall(), strict=True), strict=True))
    assert [*columns["layer"]] == expected["layer"]
    assert [*columns["value"]] == expected["value"]
    assert [*columns["converged"]] == expected["converged"]


def test_export_refuses_what_it_cannot_do(path, tmp_path):
    with pytest.raises(UsageError, match="name a file that ends in"):
        onnxinfo.export(path, tmp_path / "a.txt", run="first")
    with pytest.raises(UsageError, match="has 2 runs"):
        onnxinfo.export(path, tmp_path / "a.csv")
    assert not any(tmp_path.iterdir())


def test_rows_queried_during_a_run_are_rows_of_the_finished_archive(tmp_path):
    from archive_fakes import fill, schema

    from onnxinfo.archive.writer import RunWriter

    described, during = schema(), []
    with RunWriter.open(tmp_path / "a.h5", "first", described) as writer:
        for stop in (1, 9, 17):
            with pytest.raises(KeyboardInterrupt):
                fill(writer, described, stop=stop)
            during.append(json.dumps(onnxinfo.query(tmp_path / "a.h5", per="sample")))
        fill(writer, described)
    after = [json.dumps(row) for row in onnxinfo.query(tmp_path / "a.h5", per="sample")]
    assert [len(json.loads(rows)) for rows in during] == [2, 20, 54]
    for rows in during:
        assert all(json.dumps(row) in after for row in json.loads(rows))
