"""Options that would do nothing are refused in one line, unless they come from a file or the environment."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import archive_fakes as fakes
import numpy as np
import pytest
from click.testing import CliRunner

import onnxinfo
from onnxinfo.cli import cli, main
from onnxinfo.config import Config, SelectionConfig, configure, read_settings
from onnxinfo.models import path
from onnxinfo.workflows.idle import refuse_idle_keywords

CNN, IMAGES = str(path("digits-cnn.onnx")), f"{path('digits.npz')}:images"
LEAKAGE = ("leakage", CNN, "--inputs", IMAGES, "--no-accuracy")
SENSITIVITY = ("sensitivity", CNN, "--inputs", IMAGES)
BITS = ("recommend", "bits", CNN, "--inputs", IMAGES, "--mean-bits", "4")
ANALYZE = ("analyze", CNN, "--inputs", IMAGES, "-o", "out.onnx")
LABELS = f"{path('digits.npz')}:labels"


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
        (
            [*LEAKAGE, "--tokenizer", "nothere.json", "--rate", "16000", "--fit-length", "cut"],
            "--tokenizer, --rate and --fit-length have no effect on arrays and images; leave them out",
        ),
        (["check", CNN, "--inputs", "images", "--rate", "8"], "--rate has no effect on arrays and images; leave it"),
        (["doctor", CNN, "--inputs", f"image={IMAGES}", "--tokenizer", "a.json"], "--tokenizer has no effect on arr"),
        ([*ANALYZE, "--shuffle-seed", "4"], "--shuffle-seed has no effect without --shuffle; give that, or leave it"),
        ([*LEAKAGE, "--foreground", "images"], "--foreground has no effect without --crop-to-box; give that"),
        ([*SENSITIVITY, "--foreground", "images"], "--foreground has no effect without --crop-to-box"),
        ([*BITS, "--foreground", "images"], "--foreground has no effect without --crop-to-box"),
        ([*LEAKAGE, "--labels", LABELS], "--labels has no effect where no accuracy is measured; leave it out"),
        ([*SENSITIVITY, "--labels", LABELS], "--labels has no effect where no accuracy is measured"),
        ([*BITS, "--labels", LABELS], "--labels has no effect where no accuracy is measured"),
        ([*ANALYZE, "--shuffle"], "--shuffle has no effect without --limit; give that, or leave it out"),
        ([*LEAKAGE, "--shuffle"], "--shuffle has no effect without --limit"),
        (
            [*ANALYZE, "--target", "logits", "--change", ".1"],
            "--target and --change have no effect without the metric sensitivity; give --metric sensitivity, or leave",
        ),
        ([*ANALYZE, "--decoder-steps", "5"], "--decoder-steps has no effect without the metric ru; give --metric ru"),
        (
            ["oneshot", *ANALYZE[1:4], "-o", "out.onnx", "--metric", "cka", "--error-reference", "input"],
            "--error-reference has no effect without the metric ru",
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
    Path("images").mkdir()
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
        (lambda: onnxinfo.leakage(CNN, IMAGES, accuracy=False, shuffle_seed=4), "shuffle_seed=... has no effect witho"),
        (lambda: onnxinfo.leakage(CNN, IMAGES, accuracy=False, labels=LABELS), "labels=... has no effect where no ac"),
        (lambda: onnxinfo.leakage(CNN, np.zeros((2, 1, 8, 8)), rate=8), "rate=... has no effect on arrays and images"),
        (lambda: onnxinfo.similarity(CNN, CNN, IMAGES, foreground="images"), "foreground=... has no effect without"),
        (lambda: onnxinfo.sensitivity(CNN, {"image": IMAGES}, tokenizer="a.json"), "tokenizer=... has no effect on a"),
        (lambda: onnxinfo.recommend_bits(CNN, IMAGES, mean_bits=4, labels=LABELS), "labels=... has no effect where n"),
        (lambda: onnxinfo.recommend_channels(CNN, IMAGES, shuffle=True), "shuffle=... has no effect without limit"),
        (
            lambda: onnxinfo.analyze(CNN, IMAGES, "new.h5", change=0.1),
            "change=... has no effect without the metric",
        ),
        (
            lambda: onnxinfo.analyze(CNN, IMAGES, "new.h5", decoder_steps=5),
            "decoder_steps=... has no effect without the",
        ),
        (
            lambda: onnxinfo.sweep(CNN, IMAGES, "new.h5", [0.1, 1], probes=8),
            "probes=... has no effect without the metric",
        ),
        (lambda: onnxinfo.oneshot(CNN, IMAGES, "new", rate=8), "rate=... has no effect on arrays and images"),
        (lambda: onnxinfo.robustness(CNN, IMAGES, "new.h5", labels=LABELS, target="a"), "target=... has no effect wit"),
        (lambda: onnxinfo.check_model(CNN, IMAGES, fit_length="cut"), "fit_length=... has no effect on arrays and im"),
    ],
)
def test_idle_keywords_are_refused(call, message):
    with pytest.raises(onnxinfo.UsageError, match=message):
        call()


def test_keywords_that_may_have_an_effect_are_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defaults, objects, and settings of metrics that are measured or that another package may add."""
    monkeypatch.chdir(tmp_path)
    defaults = {"shuffle_seed": 0, "shuffle": False, "rate": None, "labels": None}
    base = configure(Config(input=onnxinfo.InputConfig(shuffle_seed=4)), defaults)
    refuse_idle_keywords("leakage", defaults, base, inputs=IMAGES)
    for metrics, flat in (("ru", "decoder_steps"), ("sensitivity", "probes"), ("other", "probes")):
        given = configure(Config(SelectionConfig(metrics=(metrics,))), {flat: 7})
        refuse_idle_keywords("analyze", {flat: 7}, given, inputs=IMAGES, output="new.h5")
    given = configure(Config(), {"shuffle": True, "limit": 3})
    refuse_idle_keywords("analyze", {"shuffle": True, "limit": 3}, given, inputs=IMAGES, output="new.h5")
    # Training samples are chosen by it, too.
    drawn = {"shuffle": True, "decoder_limit": 3}
    refuse_idle_keywords("leakage", drawn, configure(Config(), drawn), inputs=IMAGES, attack=True)


def test_settings_of_other_commands_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("onnxinfo.toml").write_text(
        '[ru.decoder]\nsteps = 5\n[execution]\nworkers = 2\n[output]\nrun = "a"\n[input]\nrate = 8\nshuffle_seed = 3\n'
        "[sensitivity]\nprobes = 9\n"
    )
    monkeypatch.setenv("ONNXINFO_DECODER_WIDTH", "8")
    monkeypatch.setenv("ONNXINFO_LIMIT", "2")
    for line in (LEAKAGE, SENSITIVITY, ("prune", CNN, "--keep", ".5", "-o", "out.onnx")):
        result = CliRunner().invoke(cli, [*line])
        assert result.exit_code == 0, result.output


def test_settings_of_a_file_do_no_harm_in_python(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[ru.decoder]\nsteps = 5\n[input]\nlimit = 2\nrate = 8\nshuffle_seed = 3\n")
    given = read_settings(file) | {"layers": ["logits"], "metrics": ["gradient"]}
    onnxinfo.analyze(CNN, IMAGES, tmp_path / "new.h5", **given)
    with pytest.raises(onnxinfo.UsageError, match="has no effect"):
        onnxinfo.analyze(CNN, IMAGES, tmp_path / "new.h5", **{str(name): value for name, value in given.items()})
    file.write_text("[ru.decoder]\nsteps = 5\n[input]\nlimit = 2\nshuffle_seed = 3\n")
    assert onnxinfo.leakage(CNN, IMAGES, accuracy=False, layers="logits", **read_settings(file)).samples == 2


def test_options_that_may_have_an_effect_are_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels in a table are no input, a folder may hold recordings, and a run with ru in the archive may grow."""
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    for name in ("a.csv", "folder/a.wav"):
        Path(name).touch()
    fakes.make(Path("ru.h5"), "digits-cnn", fakes.schema(metrics=(fakes.SID, replace(fakes.SID, name="ru"))))
    fakes.make(Path("sid.h5"), "digits-cnn", fakes.schema(metrics=(fakes.SID,)))
    tried = []
    monkeypatch.setattr(onnxinfo, "sensitivity", lambda *_, **options: tried.append(options) or 1 / 0)
    monkeypatch.setattr(onnxinfo, "analyze", lambda *_, **options: tried.append(options) or 1 / 0)
    allowed = [
        ["sensitivity", CNN, "--inputs", "a.csv", "--labels", "a.csv:b"],
        ["sensitivity", CNN, "--inputs", "folder", "--rate", "8"],
        ["sensitivity", CNN, "--inputs", "a.csv", "--tokenizer", "b.json"],
        [*SENSITIVITY, "--labels", LABELS, "--foreground", "folder", "-o", "new.h5"],
        [*SENSITIVITY, "--foreground", "folder", "--crop-to-box", "1.5"],
        [*SENSITIVITY, "--shuffle-seed", "4", "--shuffle", "--limit", "3"],
        ["analyze", CNN, "--inputs", IMAGES, "-o", "ru.h5", "--decoder-steps", "5"],
        ["analyze", CNN, "--inputs", IMAGES, "-o", "sid.h5", "--decoder-steps", "5", "--metric", "ru"],
    ]
    for line in allowed:
        assert isinstance(CliRunner().invoke(cli, line).exception, ZeroDivisionError), line
    assert len(tried) == len(allowed)
    refused = CliRunner().invoke(cli, ["analyze", CNN, "--inputs", IMAGES, "-o", "sid.h5", "--decoder-steps", "5"])
    assert "without the metric ru" in str(refused.exception)
