"""``onnxinfo analyze`` and ``demo`` from the user's side: exit codes, one-line errors, files."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import onnxinfo
from onnxinfo.cli import main
from onnxinfo.models import path

MODEL = str(path("digits-cnn.onnx"))
IMAGES = f"{path('digits.npz')}:images"


def run(monkeypatch, capsys, *arguments):
    """Return exit code, standard output and standard error of a command line."""
    monkeypatch.setattr(sys, "argv", ["onnxinfo", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.out, captured.err


def analyze(tmp_path, *options, model=MODEL, inputs=IMAGES, output=None):
    target = output or tmp_path / "out.h5"
    return ["analyze", model, "--inputs", inputs, "-o", target, "--limit", "2", "--layers", "relu_4", *options]


def test_a_table_on_screen_and_an_archive(monkeypatch, capsys, tmp_path):
    code, out, _ = run(monkeypatch, capsys, *analyze(tmp_path, "--labels", f"{path('digits.npz')}:labels"))
    assert code == 0
    assert "relu_4" in out
    code, out, _ = run(monkeypatch, capsys, "query", tmp_path / "out.h5", "--per", "sample", "--format", "json")
    rows = json.loads(out)
    assert code == 0
    assert [row["sample"] for row in rows] == [0, 1]
    assert {"run", "layer", "layer_index", "op", "depth", "metric", "value", "stderr", "converged"} <= set(rows[0])


def text_file(folder):
    file = folder / "model.onnx"
    file.write_text("This is no model.\n")
    return {"model": file}


def truncated_model(folder):
    file = folder / "model.onnx"
    file.write_bytes(path("digits-cnn.onnx").read_bytes()[:-1000])
    return {"model": file}


def empty_folder(folder):
    (folder / "empty").mkdir()
    return {"inputs": folder / "empty"}


def wrong_channels(folder):
    np.save(folder / "two.npy", np.zeros((3, 2, 8, 8), np.float32))
    return {"inputs": folder / "two.npy"}


def not_finite(folder):
    np.save(folder / "nan.npy", np.full((3, 1, 8, 8), np.inf, np.float32))
    return {"inputs": folder / "nan.npy"}


def constant(folder):
    np.save(folder / "ones.npy", np.ones((3, 1, 8, 8), np.float32))
    return {"inputs": folder / "ones.npy"}


def no_such_folder(folder):
    return {"output": folder / "absent" / "out.h5"}


def text_output(folder):
    (folder / "out.h5").write_text("keep me")
    return {}


@pytest.mark.parametrize(
    ("prepare", "options", "code"),
    [
        (text_file, [], 1),
        (truncated_model, [], 1),
        (empty_folder, [], 1),
        (wrong_channels, [], 1),
        (not_finite, [], 1),
        (constant, [], 1),
        (no_such_folder, [], 2),
        (text_output, [], 1),
        (lambda folder: {}, ["--layers", "relu_44"], 2),
        (lambda folder: {}, ["--device", "cuda:99"], 2),
        (lambda folder: {}, ["--share-sigma", "grid"], 2),
        (lambda folder: {}, ["--mean", "a,b"], 2),
        (lambda folder: {}, ["--no-such-option"], 2),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(monkeypatch, capsys, tmp_path, prepare, options, code):
    given = prepare(tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    found, _, err = run(monkeypatch, capsys, *analyze(tmp_path, *options, **given))
    assert found == code
    assert "Traceback" not in err
    message = err.strip().splitlines()
    assert len([line for line in message if "rror" in line]) == 1
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_taken_run_name_leaves_the_archive_as_it_is(monkeypatch, capsys, tmp_path):
    assert run(monkeypatch, capsys, "--quiet", *analyze(tmp_path))[0] == 0
    before = (tmp_path / "out.h5").read_bytes()
    code, _, err = run(monkeypatch, capsys, "--quiet", *analyze(tmp_path, "--seed", "1"))
    assert code == 2
    assert "digits-cnn" in err
    assert (tmp_path / "out.h5").read_bytes() == before
    assert run(monkeypatch, capsys, "--quiet", *analyze(tmp_path, "--seed", "1", "--overwrite"))[0] == 0


def test_a_broken_image_is_named_and_the_others_are_used(monkeypatch, capsys, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i, image in enumerate(np.load(path("digits.npz"))["images"][:3]):
        Image.fromarray(image).save(folder / f"{i}.png")
    (folder / "0-broken.png").write_bytes(b"not an image")
    code, out, err = run(monkeypatch, capsys, *analyze(tmp_path, inputs=folder))
    assert code == 0
    assert "0-broken.png" in out + err


def test_starting_imports_nothing_heavy():
    script = (
        "import sys, onnxinfo.cli; from click.testing import CliRunner;"
        "CliRunner().invoke(onnxinfo.cli.cli, ['--help']);"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'matplotlib', 'pandas') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_nothing_named_cli_or_models_is_installed(tmp_path):
    script = "import importlib.util as u; print(u.find_spec('cli'), u.find_spec('models'))"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
    )
    assert found.stdout.split() == ["None", "None"]


def test_the_module_runs_as_a_program():
    found = subprocess.run([sys.executable, "-m", "onnxinfo", "--version"], capture_output=True, text=True, check=True)
    assert onnxinfo.__version__ in found.stdout
