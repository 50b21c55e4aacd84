"""Every command computes in float32, whatever a process allows, and restores what it allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import onnxinfo
from onnxinfo.engines import processes
from onnxinfo.models import path

MODEL, DIGITS = str(path("digits-cnn.onnx")), f"{path('digits.npz')}:images"
CALLS: dict[str, Callable[[Path], Any]] = {
    "analyze": lambda folder: onnxinfo.analyze(MODEL, DIGITS, folder / "a.h5", layers=["-1"], limit=1),
    "estimate": lambda folder: onnxinfo.estimate(MODEL, DIGITS, folder / "a.h5", layers=["-1"], limit=1),
    "sensitivity": lambda _: onnxinfo.sensitivity(MODEL, DIGITS, limit=2),
    "sensitivity in an archive": lambda folder: onnxinfo.sensitivity(MODEL, DIGITS, output=folder / "a.h5", limit=2),
    "leakage": lambda _: onnxinfo.leakage(MODEL, DIGITS, accuracy=False, limit=2),
    "recommend_bits": lambda _: onnxinfo.recommend_bits(MODEL, DIGITS, mean_bits=4, limit=2),
    "train_decoder": lambda folder: onnxinfo.train_decoder(
        MODEL, DIGITS, folder, layers=["-1"], limit=4, width=4, steps=1
    ),
    "check_model": lambda _: onnxinfo.check_model(MODEL),
}


def _settings() -> list[str]:
    backends = torch.backends.cuda.matmul, torch.backends.cudnn, torch.backends.mkldnn
    matmul, cudnn, mkldnn = backends
    parts = matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn
    return [part.fp32_precision for part in parts]


@pytest.fixture
def loose() -> Iterator[list[str]]:
    """Let torch round where it may, as programs that train do."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield _settings()
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_commands(
    call: Callable[[Path], Any], loose: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    evaluate = torch.fx.GraphModule.__call__

    def recorded(module: torch.fx.GraphModule, *operands: Any, **more: Any) -> Any:
        seen.append(_settings())
        return evaluate(module, *operands, **more)

    monkeypatch.setattr(torch.fx.GraphModule, "__call__", recorded)
    call(tmp_path)
    assert {setting for each in seen for setting in each} == {"ieee"}
    assert _settings() == loose


def test_new_commands_compute_so_too() -> None:
    """Whoever limits the time of ONNX Runtime, and so computes, does it by the context that also sets the precision."""
    folder = Path(onnxinfo.__file__).parent / "workflows"
    assert [file.name for file in folder.glob("*.py") if "time_limit" in file.read_text()] == ["computing.py"]


def test_settings_are_restored_after_an_error(loose: list[str], tmp_path: Path) -> None:
    with pytest.raises(onnxinfo.OnnxinfoError):
        onnxinfo.analyze(MODEL, tmp_path / "none.npy", tmp_path / "a.h5")
    assert _settings() == loose


def test_worker_processes(loose: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Reading:
        def perform(self, worker: Any) -> list[str]:
            return _settings()

    monkeypatch.setattr(processes, "_worker", object())
    assert set(processes._perform(Reading())) == {"ieee"}  # type: ignore[arg-type]


def test_values_do_not_depend_on_what_the_process_allows(loose: list[str], tmp_path: Path) -> None:
    found = []
    for precision in ("medium", "highest"):
        torch.set_float32_matmul_precision(precision)
        output = tmp_path / f"{precision}.h5"
        onnxinfo.analyze(MODEL, DIGITS, output, layers=["-1"], limit=1, run="run")
        with onnxinfo.open(output) as archive:
            found.append(archive["run"].values("sid")["value"])
    np.testing.assert_array_equal(*found)
