"""The container's files, as far as they can be tested without building the image."""

import contextlib
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, distributions, requires

import numpy as np
import pytest
from packaging.requirements import Requirement
from places import ROOT

from onnxinfo.models import path

REQUIRES = (
    "numpy>=2.0",
    "onnxruntime-gpu>=1.22; sys_platform == 'linux'",
    "onnxruntime>=1.22; sys_platform != 'linux'",
)


@pytest.fixture
def batch():
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["batch"]


def run_batch(batch, folder, models, options=""):
    """Run the service's shell command with an onnxinfo that records its arguments and fails on bad.onnx."""
    (folder / "in").mkdir()
    for model in models:
        (folder / "in" / model).touch()
    fake = folder / "bin" / "onnxinfo"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nprintf "%s|" "$@" >> calls\necho >> calls\n[ "$2" != in/bad.onnx ]\n')
    fake.chmod(0o755)
    # Compose writes $ as $$.
    command = [*batch["entrypoint"], *(each.replace("$$", "$") for each in batch["command"])]
    environment = {"PATH": f"{fake.parent}:{os.defpath}", "INPUTS": "in/images", "ONESHOT_OPTIONS": options}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=30)
    calls = folder / "calls"
    return done, calls.read_text().splitlines() if calls.exists() else []


def test_a_batch_analyzes_every_model_of_the_folder(batch, tmp_path):
    done, calls = run_batch(batch, tmp_path, ["a.onnx", "b c.onnx", "note.txt"], options="--limit 4")
    assert done.returncode == 0
    assert calls == [f"oneshot|in/{name}|--inputs|in/images|-o|out|--limit|4|" for name in ("a.onnx", "b c.onnx")]


def test_a_batch_goes_on_after_a_model_that_fails_and_names_it(batch, tmp_path):
    done, calls = run_batch(batch, tmp_path, ["a.onnx", "bad.onnx", "c.onnx"])
    assert done.returncode == 1
    assert len(calls) == 3
    assert done.stderr == "failed: in/bad.onnx\n"


def test_a_batch_without_models_says_so(batch, tmp_path):
    done, calls = run_batch(batch, tmp_path, [])
    assert done.returncode == 1
    assert not calls
    assert done.stderr == "no *.onnx in ./in\n"


def test_a_batch_is_confined(batch):
    assert batch["network_mode"] == "none"
    assert batch["read_only"] is True
    assert batch["cap_drop"] == ["ALL"]
    assert batch["user"] == "${OWNER:-1000:1000}"
    assert batch["volumes"] == ["./in:/data/in:ro", "./out:/data/out"]


@pytest.fixture
def requirements():
    return runpy.run_path(str(ROOT / "docker" / "requirements.py"))["requirements"]


@pytest.fixture
def wheel(tmp_path):
    lines = [*REQUIRES, "jinja2>=3.1; extra == 'report'", "ray>=2; extra == 'ray'"]
    with zipfile.ZipFile(tmp_path / "some.whl", "w") as opened:
        opened.writestr("some-1.dist-info/METADATA", "\n".join(f"Requires-Dist: {line}" for line in lines))
    return str(tmp_path / "some.whl")


def test_an_image_installs_what_the_wheel_requires_and_the_extras_named(requirements, wheel):
    assert requirements(wheel, ["report"], cpu=False) == [*REQUIRES, "jinja2>=3.1"]


def test_an_image_without_gpu_takes_the_other_runtime_on_every_platform(requirements, wheel):
    assert requirements(wheel, [], cpu=True) == ["numpy>=2.0", "onnxruntime>=1.22"]


def test_what_only_a_gpu_needs_is_removed_and_nothing_else(tmp_path):
    removed = ["nvidia/cudnn/lib/libcudnn_ops.so.9", "nvidia/cu13/include/cuda.h", "triton/_C/libtriton.so"]
    kept = ["nvidia/cudnn/lib/libcudnn.so.9", "nvidia/cu13/lib/libcublas.so.13", "torch/lib/libtorch_cuda.so"]
    for name in [*removed, *kept]:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"12345")
    assert runpy.run_path(str(ROOT / "docker" / "without_cuda.py"))["remove"](tmp_path) == 15
    assert sorted(each.relative_to(tmp_path).as_posix() for each in tmp_path.rglob("*") if each.is_file()) == sorted(
        kept
    )


def test_docker_sends_only_what_the_wheel_is_built_from():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    for line in lines:
        if line.startswith("!"):
            assert (ROOT / line[1:]).exists(), line


LOCKS = sorted((ROOT / "docker").glob("requirements-*.lock"))


def locked(lock):
    """Version and hashes by package."""
    entries = lock.read_text().replace("\\\n", " ").splitlines()
    found = {}
    for pinned, *hashes in map(str.split, entries):
        name, version = pinned.split("==")
        found[name] = version, hashes
    return found


def test_there_is_a_lock_for_each_variant():
    variants = re.findall(r"^FROM \S+ AS for-(\w+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert [lock.name for lock in LOCKS] == [f"requirements-{variant}.lock" for variant in sorted(variants)]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_has_the_pinned_versions_and_a_hash_of_each(lock):
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {name.lower().replace("_", "-"): version for name, version in (line.split("==") for line in lines)}
    pins["onnxruntime"] = pins["onnxruntime-gpu"]
    for name, (version, hashes) in locked(lock).items():
        assert version == pins[name]
        assert hashes
        assert all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", each) for each in hashes)
    assert "://" not in lock.read_text()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_has_everything_that_is_required(lock):
    """Of the packages installed here; pip does not check this when it installs with --no-deps."""
    names = set(locked(lock))
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*declared["dependencies"], *declared["optional-dependencies"]["report"]]
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            lines += requires(name) or []
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            name = requirement.name.lower().replace("_", "-")
            assert name in names or (name == "onnxruntime-gpu" and "onnxruntime" in names)


def test_an_image_installs_nothing_without_a_hash():
    commands = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    installs = [each for line in commands for each in re.split("&&|;", line) if "pip install" in each]
    assert len(installs) == 3
    # The wheel that the first stage built has no dependencies installed with it.
    assert [each.strip() for each in installs if "--require-hashes" not in each] == [
        "/opt/onnxinfo/bin/pip install --quiet --no-cache-dir --no-deps /dist/*.whl"
    ]


def test_the_bill_of_materials_lists_what_is_installed():
    bill = runpy.run_path(str(ROOT / "docker" / "sbom.py"))["bill"]([*distributions()])
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "onnxinfo"
    listed = {each["name"]: each for each in bill["components"]}
    assert listed["numpy"]["version"] == np.__version__
    assert listed["numpy"]["purl"] == f"pkg:pypi/numpy@{np.__version__}"
    depends = {each["ref"]: each["dependsOn"] for each in bill["dependencies"]}
    assert "numpy" in depends["h5py"]
    assert set(depends) == {*listed, "onnxinfo"}


def fake_audit(folder, monkeypatch, body):
    (folder / "fake_pip_audit.py").write_text(body)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    audit = runpy.run_path(str(ROOT / "docker" / "audit.py"))["audit"]
    return audit(LOCKS[0], module="fake_pip_audit")


def test_an_audit_is_skipped_where_it_cannot_run(tmp_path, monkeypatch):
    audit = runpy.run_path(str(ROOT / "docker" / "audit.py"))["audit"]
    assert audit(LOCKS[0], module="not_installed_here") == (0, "skipped: pip-audit is not installed")
    offline = "raise ConnectionError('Max retries exceeded')"
    assert fake_audit(tmp_path, monkeypatch, offline)[1] == "skipped: the database of vulnerabilities cannot be reached"


def test_an_audit_fails_for_a_known_vulnerability(tmp_path, monkeypatch):
    assert fake_audit(tmp_path, monkeypatch, "print('CVE-1 in numpy'); raise SystemExit(1)") == (1, "CVE-1 in numpy")


def test_known_vulnerabilities():
    audit = runpy.run_path(str(ROOT / "docker" / "audit.py"))["audit"]
    for lock in LOCKS:
        code, said = audit(lock)
        if said.startswith("skipped"):
            pytest.skip(said)
        assert not code, said


@pytest.mark.slow
def test_the_command_needs_no_network_and_a_read_only_root(tmp_path):
    """As in the image: no network, a read-only root file system, scratch files in /tmp, results in one folder."""
    data = tmp_path / "data"
    data.mkdir()
    python = shlex.quote(sys.executable)
    script = f"""
    mount --bind {shlex.quote(str(data))} /mnt && mount -t tmpfs tmpfs /tmp && mount -o remount,bind,ro / || exit 99
    cd /mnt
    ! touch /root-is-writable 2>/dev/null || exit 98
    ! {python} -c 'import socket; socket.create_connection(("1.1.1.1", 53), 2)' 2>/dev/null || exit 97
    exec {python} -m onnxinfo --quiet oneshot {shlex.quote(str(path("digits-cnn.onnx")))} \
        --inputs {shlex.quote(str(path("digits.npz")))}:images --limit 2 --layers logits -o out
    """
    environment = os.environ | {"HOME": "/tmp", "MPLCONFIGDIR": "/tmp/matplotlib", "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTHONPATH"] = str(ROOT)
    command = ["unshare", "--map-root-user", "--net", "--mount", "sh", "-c", script]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment, check=False)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip(f"namespaces cannot be used here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert {each.suffix for each in (data / "out").iterdir()} == {".h5", ".html", ".png"}
