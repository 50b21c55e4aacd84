"""Analysis, plots and report in one call."""

import pytest
from click.testing import CliRunner

import onnxinfo
from onnxinfo.cli import cli
from onnxinfo.models import path

OPTIONS = ["--limit", "2", "--layers", "relu_4"]


def run(model, inputs, folder):
    arguments = ["oneshot", str(path(model)), "--inputs", f"{path(inputs)}:images", "-o", str(folder), *OPTIONS]
    return CliRunner().invoke(cli, ["-q", *arguments], catch_exceptions=False)


def test_everything_is_in_the_folder(tmp_path):
    folder = tmp_path / "new" / "folder"
    assert run("digits-cnn.onnx", "digits.npz", folder).exit_code == 0
    made = {each.name for each in folder.iterdir() if not each.name.endswith(".lock")}
    assert made == {"digits-cnn.h5", "digits-cnn-curve.png", "digits-cnn-maps.png", "digits-cnn.html"}
    onnxinfo.validate(folder / "digits-cnn.h5")
    assert "relu_4" in (folder / "digits-cnn.html").read_text()


def test_one_folder_holds_several_models(tmp_path):
    run("digits-cnn.onnx", "digits.npz", tmp_path)
    model = tmp_path / "other.onnx"
    model.write_bytes(path("digits-cnn.onnx").read_bytes())
    made = onnxinfo.oneshot(model, f"{path('digits.npz')}:images", tmp_path, limit=1, layers=["relu_4"])
    assert made.result.archive == tmp_path / "other.h5"
    assert all(each.is_file() for each in (*made.plots, made.report))
    assert (tmp_path / "digits-cnn.h5").is_file()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(onnxinfo.ArchiveError, match="cannot make folder"):
        onnxinfo.oneshot(path("digits-cnn.onnx"), "x", tmp_path / "file" / "folder")
