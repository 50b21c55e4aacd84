"""Distributions built from the sources, and the claims of their metadata."""

import ast
import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile

import pytest
from places import ROOT

import onnxinfo

pytest.importorskip("setuptools")

IGNORED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "demo", "site")
# Setuptools writes to sys.argv.
BUILD = "import sys, build_backend as b; to = sys.argv[1]; b.build_wheel(to); b.build_sdist(to)"
EXPORTERS = {"models-torch", "models-tensorflow", "models-jax", "models-paddle", "models-sklearn", "models-trees"}


def test_reports_need_no_extra():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split("[<>=!; ]", each)[0] for each in declared["dependencies"]}
    assert "jinja2" in names
    assert declared["optional-dependencies"]["report"] == []


def build(source, target):
    """Build wheel and source archive of a tree."""
    environment = {**os.environ, "PYTHONPATH": str(source / "tools"), "SOURCE_DATE_EPOCH": "1700000000"}
    subprocess.run(
        [sys.executable, "-c", BUILD, target], cwd=source, env=environment, check=True, capture_output=True, timeout=300
    )
    (wheel,), (archive,) = target.glob("*.whl"), target.glob("*.tar.gz")
    return wheel, archive


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The same sources built twice, in different folders and with different file times and permissions."""
    pairs = []
    for i in range(2):
        folder = tmp_path_factory.mktemp("build")
        source = shutil.copytree(ROOT, folder / f"tree{i}", ignore=IGNORED)
        for path in source.rglob("*"):
            if path.is_file():
                path.chmod(0o644 if i else 0o664)
                os.utime(path, (time.time() - 1000 * i,) * 2)
        pairs.append(build(source, folder))
    return pairs


@pytest.fixture(scope="module")
def wheel(built):
    with zipfile.ZipFile(built[0][0]) as opened:
        yield opened


@pytest.fixture(scope="module")
def metadata(wheel):
    (name,) = [each for each in wheel.namelist() if each.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(wheel.read(name))


def test_the_same_sources_give_the_same_bytes(built):
    (wheel_a, sdist_a), (wheel_b, sdist_b) = built
    assert wheel_a.read_bytes() == wheel_b.read_bytes()
    assert sdist_a.read_bytes() == sdist_b.read_bytes()


def test_a_source_archive_builds_the_same_wheel(built, tmp_path):
    with tarfile.open(built[0][1]) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    again, _ = build(source, tmp_path)
    assert again.read_bytes() == built[0][0].read_bytes()


def test_a_source_archive_names_no_builder(built):
    with tarfile.open(built[0][1]) as archive:
        for member in archive.getmembers():
            assert (member.uid, member.gid, member.uname, member.gname, member.mtime) == (0, 0, "", "", 1700000000)


def test_a_wheel_has_one_package_and_its_data(wheel):
    names = set(wheel.namelist())
    assert {name.split("/")[0] for name in names} == {"onnxinfo", f"onnxinfo-{onnxinfo.__version__}.dist-info"}
    assert {
        "onnxinfo/py.typed",
        "onnxinfo/models/digits-cnn.onnx",
        "onnxinfo/models/digits.npz",
        "onnxinfo/views/report/report.html",
        "onnxinfo/views/report/scripts/main.js",
        "onnxinfo/views/report/report.css",
    } <= names


@pytest.mark.parametrize(("folder", "package"), [("onnxinfo", "onnxinfo"), ("cli", "onnxinfo/cli")])
def test_a_wheel_has_every_module(folder, package, wheel):
    modules = {f"{package}/{path.relative_to(ROOT / folder).as_posix()}" for path in (ROOT / folder).rglob("*.py")}
    assert modules <= set(wheel.namelist())


def test_extras_are_declared(metadata):
    assert {"report", "studies", "ray", "test", "dev"} | EXPORTERS <= set(metadata.get_all("Provides-Extra"))


def test_metadata_says_what_it_is_and_where_it_runs(metadata):
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata["Requires-Python"].split(",")) == {">=3.11", "<3.14"}
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_metadata_passes_twine(built):
    pytest.importorskip("twine")
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *built[0]], capture_output=True, text=True, timeout=120
    )
    assert checked.returncode == 0, checked.stdout


def test_every_dependency_has_a_lower_bound_and_a_pin():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = {
        line.split("==")[0].lower().replace("-", "_") for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    for requirement in [*declared["dependencies"], *declared["optional-dependencies"]["report"]]:
        name, _, bound = re.split("(>=)", requirement.split(";")[0].strip())
        assert bound
        # One of the two ONNX Runtimes is installed, and the pins are for the platform with GPU wheels.
        assert name.replace("-", "_") in pins or name == "onnxruntime"


def test_the_library_imports_what_it_declares():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = declared["optional-dependencies"]
    requirements = [
        *declared["dependencies"],
        *extras["report"],
        *extras["robustness"],
        *extras["ray"],
        *extras["audio"],
        *extras["text"],
    ]
    known = {re.split("[><=]", requirement)[0].strip().lower().replace("-", "_") for requirement in requirements}
    # Imported under another name than installed, or a dependency of a declared package: onnx.
    known |= {"pil", "art", "onnxinfo", "google", *(name.lower() for name in sys.stdlib_module_names)}
    for path in [*(ROOT / "onnxinfo").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in names:
                assert name.split(".")[0].lower() in known, f"{path}: {name}"


def test_the_version_is_the_same_everywhere(metadata):
    version = onnxinfo.__version__
    assert metadata["Version"] == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\nARG VERSION={version}\n" in (ROOT / "Dockerfile").read_text()
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text()
