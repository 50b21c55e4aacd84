"""Recordings: folders, patterns and lists of WAV and FLAC files, and those that are refused."""

import numpy as np
import pytest

from onnxinfo import InputError, open_samples

soundfile = pytest.importorskip("soundfile")


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for number, name in enumerate(["no/1.wav", "no/3.flac", "yes/0.wav", "yes/2.flac"]):
        path = tmp_path / "w" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.uniform(-1, 1, 1000) / (number + 1), 16_000)
    (tmp_path / "w" / "notes.txt").write_text("no sound")
    return tmp_path / "w"


def refusal(spec, shape=(None,), **options):
    with pytest.raises(InputError) as caught:
        open_samples(spec, shape=shape, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("shape", "axes"), [((None,), ("time",)), ((1, None), ("channel", "time"))])
def test_a_folder_is_a_sample_for_each_file(folder, shape, axes):
    samples = open_samples(folder, shape=shape, rate=16_000)
    assert samples.names == ["no/1.wav", "no/3.flac", "yes/0.wav", "yes/2.flac"]
    assert (samples.labels.tolist(), samples.classes) == ([0, 0, 1, 1], ["no", "yes"])
    assert samples.layout == axes
    assert samples.unit.size == 1
    expected, _ = soundfile.read(folder / "yes/0.wav", dtype="float32")
    assert np.array_equal(samples.batch([2]).ravel(), expected)
    assert np.abs(samples.batch(range(4))).max() <= 1


def test_patterns_lists_and_single_files(folder):
    assert open_samples(f"{folder}/*/*.wav", shape=(1000,)).names == ["no/1.wav", "yes/0.wav"]
    listed = [folder / "yes/2.flac", folder / "no/1.wav"]
    assert open_samples(listed, shape=(1000,)).names == ["yes/2.flac", "no/1.wav"]
    assert open_samples(folder / "no/1.wav", shape=(1000,)).names == ["1.wav"]
    labelled = open_samples(listed, shape=(1000,), labels=[7, 8])
    assert labelled.labels.tolist() == [7, 8]


@pytest.mark.parametrize(
    ("shape", "fit_length", "length"),
    [
        ((900,), "cut", 900),
        ((1100,), "pad", 1100),
        ((None,), "pad", 1000),
        ((None,), "cut", 500),
        ((700,), "both", 700),
    ],
)
def test_lengths_are_fitted_only_when_asked(folder, shape, fit_length, length):
    if shape != (900,) and shape != (1100,):
        soundfile.write(folder / "yes/short.wav", np.full(500, 0.5), 16_000)
    assert refusal(folder, shape)
    samples = open_samples(folder, shape=shape, fit_length=fit_length)
    assert samples.shape == (length,)
    if length == 1100:
        assert not samples.batch([0])[0, 1000:].any()


def test_what_is_refused_says_what_was_expected(folder):
    assert "no/1.wav has 1000 values, the model takes 900" in refusal(folder, (900,))
    assert "is sampled at 16000 Hz, expected 8000 Hz" in refusal(folder, rate=8000)
    assert "takes 80x30" in refusal(folder, (80, 30))
    assert "takes no key" in refusal(f"{folder}/no/1.wav:left")
    soundfile.write(folder / "no/2.wav", np.zeros(1000), 8000)
    assert "is sampled at 8000 Hz, 1.wav has 16000 Hz" in refusal(folder)
    stereo = folder.parent / "stereo.wav"
    soundfile.write(stereo, np.zeros((10, 2)), 16_000)
    assert "has 2 channels, expected one" in refusal(stereo)
    empty = folder.parent / "empty.wav"
    soundfile.write(empty, np.zeros(0), 16_000)
    assert "holds no sound" in refusal(empty)


def test_damaged_files(folder):
    whole = bytearray((folder / "yes/2.flac").read_bytes())
    lying = folder.parent / "lying.flac"
    whole[21:26] = b"\xff" * 5
    lying.write_bytes(whole)
    assert "take over 256 MiB" in refusal(lying)
    noise = folder.parent / "noise.wav"
    noise.write_bytes(b"RIFF" + b"\xff" * 40)
    assert "cannot be read as sound" in refusal(noise)
    cut = folder.parent / "cut.flac"
    cut.write_bytes((folder / "yes/2.flac").read_bytes()[:300])
    assert refusal(cut)
