"""Options that would do nothing are refused in one line, unless they come from a file or the environment."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import onnxinfo
from onnxinfo.cli import cli, main
from onnxinfo.models import path

CNN, IMAGES = str(path("digits-cnn.onnx")), f"{path('digits.npz')}:images"
LEAKAGE = ("leakage", CNN, "--inputs", IMAGES, "--no-accuracy")
SENSITIVITY = ("sensitivity", CNN, "--inputs", IMAGES)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ([*LEAKAGE, "--decoder-steps", "5"], "--decoder-steps has no effect without --attack; give that, or leave it"),
        (
            [*LEAKAGE, "--decoder-width", "8", "--decoder-inputs", IMAGES, "--decoder-horizontal-flip"],
            "--decoder-width, --decoder-inputs and --decoder-horizontal-flip have no effect without --attack",
        ),
        ([*LEAKAGE, "--workers", "2"], "no such option '--workers'"),
        (["recommend", "bits", CNN, "--inputs", IMAGES, "--engine", "ray"], "no such option '--engine'"),
        (["recommend", "channels", CNN, "--inputs", IMAGES, "--threads", "2"], "no such option '--threads'"),
        (["similarity", CNN, CNN, "--inputs", IMAGES, "--workers", "2"], "no such option '--workers'"),
        ([*SENSITIVITY, "--run", "a", "--tag", "b=c"], "--run and --tag have no effect without --output"),
        ([*SENSITIVITY, "--threads", "2"], "--threads has no effect on a measurement in one process; leave it out"),
        (
            ["prune", CNN, "--keep", ".5", "-o", "out.onnx", "--limit", "3", "--seed", "0", "--timeout", "60"],
            "--limit, --seed and --timeout have no effect with --keep; give --channels, or leave them out",
        ),
        (
            ["prune", CNN, "--channels", "c.json", "-o", "out.onnx", "--preset", "imagenet"],
            "--preset has no effect on random inputs; give --inputs, or leave it out",
        ),
    ],
)
def test_idle_options_are_refused(
    line: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.json").write_text('{"relu_1": {"1": [0]}}')
    monkeypatch.setattr(sys, "argv", ["onnxinfo", *line])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert message in error
    assert not Path("out.onnx").exists()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: onnxinfo.leakage(CNN, IMAGES, accuracy=False, decoder_width=8), r"decoder_width=\.\.\. has no effect"),
        (lambda: onnxinfo.leakage(CNN, IMAGES, accuracy=False, ru=onnxinfo.RuConfig()), r"ru=\.\.\. has no effect"),
        (
            lambda: onnxinfo.leakage(CNN, IMAGES, attack=True, decoders="folder"),
            r"decoders=\.\.\. has no effect on an attack, which trains decoders of its own",
        ),
        (lambda: onnxinfo.leakage(CNN, IMAGES, accuracy=False, workers=2), r"workers=\.\.\. has no effect on a meas"),
        (lambda: onnxinfo.recommend_bits(CNN, IMAGES, mean_bits=4, alpha=0.1), r"alpha=\.\.\. has no effect on a reco"),
        (lambda: onnxinfo.recommend_channels(CNN, IMAGES, change=0.1, workers=1), r"workers=\.\.\. has no effect"),
        (lambda: onnxinfo.similarity(CNN, CNN, IMAGES, threads=1), r"threads=\.\.\. has no effect"),
        (
            lambda: onnxinfo.sensitivity(CNN, IMAGES, compression="none"),
            r"compression=\.\.\. has no effect without out",
        ),
    ],
)
def test_idle_keywords_are_refused(call, message):
    with pytest.raises(onnxinfo.UsageError, match=message):
        call()


def test_settings_of_other_commands_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("onnxinfo.toml").write_text('[ru.decoder]\nsteps = 5\n[execution]\nworkers = 2\n[output]\nrun = "a"\n')
    monkeypatch.setenv("ONNXINFO_DECODER_WIDTH", "8")
    monkeypatch.setenv("ONNXINFO_LIMIT", "2")
    for line in (LEAKAGE, SENSITIVITY, ("prune", CNN, "--keep", ".5", "-o", "out.onnx")):
        result = CliRunner().invoke(cli, [*line])
        assert result.exit_code == 0, result.output
