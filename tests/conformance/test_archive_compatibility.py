"""Archives of every format version are read bit for bit; newer versions are refused by number."""

import importlib.util
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from places import LATEST, VERSIONS

import onnxinfo
from onnxinfo import ArchiveError
from onnxinfo.archive.format import VERSION


def read(path, version):
    """Return everything read from an archive, in the form recorded when the archive was made."""
    spec = importlib.util.spec_from_file_location("make", version / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return json.loads(json.dumps(module.expected(path)))


def expected(version):
    return json.loads((version / "expected.json").read_text(encoding="utf-8"))


def test_a_file_of_every_version_is_kept():
    assert [version.name for version in VERSIONS] == [str(number) for number in range(1, VERSION + 1)]


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_old_archives_are_read_to_the_last_bit(version, tmp_path):
    path = shutil.copy(version / "archive.h5", tmp_path)
    assert read(path, version) == expected(version)
    assert onnxinfo.validate(path).valid
    assert len(onnxinfo.query(path, per="sample")) == sum(len(run["table"]) for run in expected(version).values())
    onnxinfo.rename_run(path, "digits-cnn", "digits-cnn again")
    renamed = expected(version)
    renamed = {f"{name} again" if name == "digits-cnn" else name: run for name, run in renamed.items()}
    assert read(path, version) == renamed
    assert onnxinfo.validate(path).valid


@pytest.fixture
def path(tmp_path):
    return Path(shutil.copy(LATEST, tmp_path))


def test_a_newer_file_is_refused_by_version(path):
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = VERSION + 1
    message = f"format version {VERSION + 1}, this onnxinfo reads up to {VERSION}; update onnxinfo"
    with pytest.raises(ArchiveError, match=message):
        onnxinfo.open(path)
    assert message in onnxinfo.validate(path).violations[0].problem
    for change in (onnxinfo.recover, lambda path: onnxinfo.delete_run(path, "images")):
        before = path.read_bytes()
        with pytest.raises(ArchiveError, match=message):
            change(path)
        assert path.read_bytes() == before


def test_a_newer_run_is_refused_by_version_and_the_others_are_read(path):
    with h5py.File(path, "r+") as file:
        file["images"].attrs["format_version"] = VERSION + 1
    with onnxinfo.open(path) as archive:
        assert archive["half"].status == "complete"
        with pytest.raises(ArchiveError, match=f"run 'images' .* has format version {VERSION + 1}"):
            archive["images"]


def test_unknown_extras_are_ignored(path):
    with h5py.File(path, "r+") as file:
        file.attrs["later"] = "text"
        file.create_group("index")["numbers"] = np.arange(3)
        for run in ("images", "half"):
            file[run].attrs["later_list"] = np.arange(3)
            file[run].create_dataset("extra", data=np.zeros((2, 2)))
            file[run].create_dataset("sid_extra", data=np.zeros((5, 5)), chunks=True)
            file[run].create_group("details")
            file[run]["sid"].attrs["valid_range"] = [-3.0, 9.0]
    assert read(path, VERSIONS[-1]) == expected(VERSIONS[-1])
    report = onnxinfo.validate(path)
    assert report.valid, report.violations
