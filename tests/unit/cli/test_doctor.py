"""``doctor`` prints the card and the command to use; warnings appear whatever the verbosity."""

import json
import shlex

import numpy as np
from click.testing import CliRunner
from PIL import Image

import onnxinfo
from onnxinfo.cli import cli
from onnxinfo.models import path

MODEL = str(path("digits-cnn.onnx"))
IMAGES, LABELS = (f"{path('digits.npz')}:{key}" for key in ("images", "labels"))


def run(*arguments):
    result = CliRunner().invoke(cli, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result


def test_doctor_prints_the_card_and_a_command_that_is_right():
    output = run("doctor", MODEL, "--inputs", IMAGES, "--labels", LABELS, "--scale", "5", "--limit", "9").stdout
    assert "WARNING: accuracy is 0.70, and would be 1.00 with the default preprocessing" in output
    command = shlex.split(output.splitlines()[-1].removeprefix("use: onnxinfo "))
    assert command == [
        "analyze", MODEL, "--inputs", IMAGES, "--labels", LABELS, "--limit", "9", "-o", "result.h5"
    ]  # fmt: skip


def test_doctor_says_why_an_analysis_would_fail(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros((1, 1, 8, 8), dtype=np.float32))
    result = run("doctor", MODEL, "--inputs", tmp_path / "one.npy")
    assert result.stdout.splitlines()[-1].startswith("an analysis would fail: the only sample is constant")
    assert result.stdout.endswith("give other samples, or --std\n")
    found = json.loads(run("doctor", MODEL, "--inputs", tmp_path / "one.npy", "--format", "json").stdout)
    assert (found["command"], found["obstacle"][:19]) == ("", "the only sample is ")
    assert (
        run("doctor", MODEL, "--inputs", tmp_path / "one.npy", "--std", "1")
        .stdout.splitlines()[-1]
        .startswith("next: ")
    )


def test_the_card_is_shown_once(tmp_path):
    options = ("--inputs", IMAGES, "--limit", "2", "--metric", "gradient", "--layers", "logits", "--labels", LABELS)
    result = run("analyze", MODEL, *options, "-o", tmp_path / "a.h5", "--scale", "5", "--shuffle")
    assert result.output.count("preprocessing: ") == 1
    assert "preprocessing: " in result.stderr
    assert "WARNING: accuracy is" in result.stdout


def test_doctor_as_json():
    arguments = ("--labels", LABELS, "--limit", "3", "--set", "y=1,2", "--format", "json")
    output = CliRunner().invoke(cli, ["doctor", MODEL, "--inputs", IMAGES, *arguments]).stdout
    assert not output  # no such input to set
    found = json.loads(run("doctor", MODEL, "--inputs", IMAGES, *arguments[:4], *arguments[6:]).stdout)
    assert found["accuracy"] == 1
    assert found["predicted"] == [1, 4, 5]
    assert found["command"].startswith("onnxinfo analyze ")


def with_a_bad_image(tmp_path):
    """Fill a folder with two images and a file that is none."""
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "good.png")
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8).T).save(tmp_path / "other.png")
    (tmp_path / "bad.png").write_bytes(b"not an image")


def test_samples_that_are_left_out_are_told(tmp_path):
    with_a_bad_image(tmp_path)
    line = "sample 'bad.png' is left out: not an image"
    assert f"WARNING: {line}" in run("doctor", MODEL, "--inputs", tmp_path).stdout.splitlines()
    assert json.loads(run("doctor", MODEL, "--inputs", tmp_path, "--format", "json").stdout)["warnings"] == [line]
    checked = run("check", MODEL, "--inputs", tmp_path)
    assert checked.stderr.splitlines() == [f"warning: {line}"]
    options = ("--target", "relu_1", "--layers", "relu", "--probes", "2", "--no-measure")
    assert run("sensitivity", MODEL, "--inputs", tmp_path, *options).stderr.count(line) == 1
    many = ("empty.png", *(f"more{number}.png" for number in range(11)))
    for name in many:
        (tmp_path / name).touch()
    assert onnxinfo.doctor(MODEL, str(tmp_path)).warnings[-1] == "3 more samples are left out"


def test_warnings_stay_with_quiet(tmp_path):
    with_a_bad_image(tmp_path)
    options = ("--inputs", tmp_path, "--layers", "relu", "--limit", "2")
    result = run("-q", "analyze", MODEL, *options, "-o", tmp_path / "a.h5")
    assert "warning: sample 'bad.png' is left out: not an image" in result.stderr
    assert not result.stdout
    assert "preprocessing" not in result.stderr
