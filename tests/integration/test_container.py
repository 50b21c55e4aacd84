"""The container's files, as far as they can be tested without building the image."""

import os
import runpy
import subprocess
import zipfile

import pytest
from places import ROOT

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
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")
    assert runpy.run_path(str(ROOT / "docker" / "without_cuda.py"))["remove"](tmp_path) == 15
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()) == sorted(
        kept
    )


def test_docker_sends_only_what_the_wheel_is_built_from():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    for line in lines:
        if line.startswith("!"):
            assert (ROOT / line[1:]).exists(), line
