"""Malicious archives, one attack each: their targets stay out of reach."""

import os
import resource
import signal
import struct
import sys
import time
import zlib

import h5py
import numpy as np
import pytest
from archive_fakes import make, schema, table_schema
from click.testing import CliRunner

import onnxinfo
from onnxinfo import ArchiveError
from onnxinfo.archive import isolation
from onnxinfo.archive.format import LayerRow
from onnxinfo.archive.writer import RunWriter
from onnxinfo.cli import cli


@pytest.fixture
def path(tmp_path):
    return make(tmp_path / "a.h5")


@pytest.fixture
def secret(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file.create_group("run").attrs["format"] = "onnxinfo"
        file["run/status"] = np.uint8(1)
    return tmp_path / "secret.h5"


def use(path):
    """Read everything in a run."""
    with onnxinfo.open(path) as archive:
        run = archive["first"]
        return run.status, run.values("sid"), run.maps("sid", 0), run.thumbnails


def refused(path, match):
    """Check that reading a run of the archive is refused, and that the validator reports it."""
    with pytest.raises(ArchiveError, match=match):
        use(path)
    violations = onnxinfo.validate(path).violations
    assert violations
    assert not any("onnxinfo.validate" in each.problem for each in violations), "the advice is being followed"


@pytest.mark.parametrize("name", ["status", "sid", "layer", "sample_name", "sid_checksum"])
def test_links_are_not_followed(path, secret, name):
    with h5py.File(path, "r+") as file:
        del file["first"][name]
        file["first"][name] = h5py.ExternalLink(str(secret), "/run/status")
    refused(path, "is missing")


@pytest.mark.parametrize("name", ["thumbnail", "sid_map", "new"])
def test_links_are_reported(path, secret, name):
    with h5py.File(path, "r+") as file:
        if name in file["first"]:
            del file["first"][name]
        file["first"][name] = h5py.ExternalLink(str(secret), "/run/status")
    violations = onnxinfo.validate(path).violations
    assert [(each.where, each.problem) for each in violations][-1] == (
        name,
        "a link to elsewhere, which an archive must not have",
    )


def test_a_run_behind_a_link_is_no_run(path, secret):
    with h5py.File(path, "r+") as file:
        file["linked"] = h5py.ExternalLink(str(secret), "/run")
        file["soft"] = h5py.SoftLink("/first")
    with onnxinfo.open(path) as archive:
        assert archive.runs == ("first",)
    assert [each.where for each in onnxinfo.validate(path).violations] == ["linked", "soft"]


def test_data_in_other_files_is_not_read(path, tmp_path):
    (tmp_path / "secret.bin").write_bytes(bytes(range(192)))
    with h5py.File(path, "r+") as file:
        del file["first"]["sid"]
        file["first"].create_dataset("sid", (4, 6), "<f8", external=[(str(tmp_path / "secret.bin"), 0, 192)])
    refused(path, "keeps its data in another file")


def test_virtual_datasets_are_not_read(path, secret):
    with h5py.File(path, "r+") as file:
        layout = h5py.VirtualLayout((4, 6), "<f8")
        layout[...] = h5py.VirtualSource(str(secret), "run/status", (4, 6))
        del file["first"]["sid"]
        file["first"].create_virtual_dataset("sid", layout)
    refused(path, "keeps its data in another file")


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("layer", (2**40,), "S8"),
        ("sid", (2**20, 2**20), "<f8"),
        ("channel", (2**60,), ">f4"),
        ("layer", (3,), "S2000000000"),
    ],
)
def test_huge_declared_shapes_take_no_memory(path, name, shape, dtype):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with h5py.File(path, "r+") as file:
        del file["first"][name]
        file["first"].create_dataset(name, shape, dtype=dtype)
    refused(path, "shape|declares|missing|lengths|samples of")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


def test_deflate_bombs_are_not_inflated(path):
    # The maximum size of a chunk's stored bytes, and a thousand times that when inflated.
    bomb = zlib.compress(bytes(8 << 20), 9)
    with h5py.File(path, "r+") as file:
        file["first"]["sid_map"].id.write_direct_chunk((0, 0, 0, 0, 0), bomb)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path, "inflates to more than")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_text_of_variable_length_is_not_read(path):
    with h5py.File(path, "r+") as file:
        file["first"].attrs["metrics"] = "sid"
        file["first"].attrs["alpha"] = "variable"
    with onnxinfo.open(path) as archive:
        assert archive["first"].metrics == ()
        assert "alpha" not in archive["first"].recipe


def test_a_file_too_short_for_its_superblock_is_refused(path):
    data = path.read_bytes()
    path.write_bytes(data[:8] + b"\x03\x08\x08\x01" + struct.pack("<4Q", 0, 2**64 - 1, 2**63, 48))
    with pytest.raises(ArchiveError):
        onnxinfo.open(path)


ESCAPES = "\x1b[31mred\x1b]0;title\x07\u202egnp.\u2066"
HTML = "<script>alert(1)</script>"


@pytest.mark.parametrize("command", [["runs"], ["query"], ["query", "--per", "sample"], ["validate"]], ids=" ".join)
@pytest.mark.parametrize("format", ["table", "json", "markdown"])
def test_names_do_not_reach_the_terminal_as_escapes(tmp_path, command, format):
    if command == ["validate"]:
        format = {"table": "text", "json": "json"}.get(format) or pytest.skip("validate prints text or JSON")
    path = tmp_path / "a.h5"
    names = [f"{ESCAPES}{i}" for i in range(6)]
    layers = [LayerRow(f"{ESCAPES}{HTML}{i}", i, ESCAPES, ESCAPES, i, 0, ESCAPES) for i in range(4)]
    described = table_schema(layers=layers, sample_names=names, provenance={"model_name": ESCAPES})
    make(path, "run", described)
    with h5py.File(path, "r+") as file:
        file.move("run", f"run {ESCAPES}")
    shown = CliRunner().invoke(cli, [*command, str(path), "--format", format])
    assert shown.exit_code == 0, shown.output
    assert shown.output
    # JSON is for programs: it escapes control characters and leaves other text unchanged.
    allowed = "\n\u202e\u2066" if format == "json" else "\n"
    assert not {c for c in shown.output if not c.isprintable()} - set(allowed)


def test_errors_name_hostile_names_in_one_printable_line(tmp_path):
    layers = [LayerRow(f"{ESCAPES}\n{i}", i, "Relu", "", i, 0, "") for i in range(4)]
    path = make(tmp_path / "a.h5", "run", schema(layers=layers))
    with h5py.File(path, "r+") as file:
        file["run"]["sid"][0, 0] = 5.0
        file.move("run", "ru\nn\x1b[0m")
    with onnxinfo.open(path) as archive, pytest.raises(ArchiveError) as caught:
        archive["ru\nn\x1b[0m"].values("sid")
    assert str(caught.value).isprintable()
    assert all(each.problem.isprintable() for each in onnxinfo.validate(path).violations)
    with pytest.raises(onnxinfo.UsageError) as asked:
        RunWriter.open(path, "ru\nn\x1b[0m", schema())
    assert str(asked.value).isprintable()


def _crash():
    os.kill(os.getpid(), signal.SIGSEGV)


def _compute_for_ever():
    while True:
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux")
def test_what_hdf5_would_do_to_the_process_is_found_out_in_another_one(monkeypatch):
    monkeypatch.setattr(isolation, "CPU_SECONDS", 1)
    assert isolation.survives(lambda: None)
    assert isolation.survives(lambda: os.stat("/does/not/exist"))
    assert not isolation.survives(_crash)
    assert not isolation.survives(_compute_for_ever)
    assert isolation.survives(lambda: np.empty(isolation.MEMORY_BYTES // 2, np.uint8))
    assert not isolation.survives(lambda: np.empty(2 * isolation.MEMORY_BYTES, np.uint8))


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux")
def test_one_that_waits_is_given_up(monkeypatch):
    monkeypatch.setattr(isolation, "WAITING_SECONDS", 0.2)
    assert isolation.survives(lambda: time.sleep(60))
