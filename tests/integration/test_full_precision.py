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
from onnxinfo.torch_graph.full_precision import full_precision

MODEL, DIGITS = str(path("digits-cnn.onnx")), f"{path('digits.npz')}:images"
CALLS: dict[str, Callable[[Path], Any]] = {
    "analyze": lambda folder: onnxinfo.analyze(MODEL, DIGITS, folder / "a.h5", layers=["-1"], limit=1),
    "estimate": lambda folder: onnxinfo.estimate(MODEL, DIGITS, folder / "a.h5", layers=["-1"], limit=1),
    "sensitivity": lambda _: onnxinfo.sensitivity(MODEL, DIGITS, limit=2),
    "sensitivity in an archive": lambda folder: onnxinfo.sensitivity(MODEL, DIGITS, output=folder / "a.h5", limit=2),
    "leakage": lambda _: onnxinfo.leakage(MODEL, DIGITS, accuracy=False, limit=2),
    "recommend_bits": lambda _: onnxinfo.recommend_bits(MODEL, DIGITS, mean_bits=4, limit=2),
    "recommend_channels": lambda _: onnxinfo.recommend_channels(MODEL, DIGITS, limit=2),
    "train_decoder": lambda folder: onnxinfo.train_decoder(
        MODEL, DIGITS, folder, layers=["-1"], limit=4, width=4, steps=1
    ),
    "check_model": lambda _: onnxinfo.check_model(MODEL),
}


def _parts() -> tuple[Any, ...]:
    backends: Any = torch.backends
    matmul, cudnn, mkldnn = backends.cuda.matmul, backends.cudnn, backends.mkldnn
    return matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn


def _settings() -> list[str]:
    return [part.fp32_precision for part in _parts()]


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


def _tf32_by_the_older_setting() -> object:
    try:
        return torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return "contradicts the newer ones"


@pytest.mark.parametrize("state", ["as torch starts", "older setting off", "newer setting off", "everything rounded"])
def test_every_state_is_restored(state: str) -> None:
    cudnn: Any = torch.backends.cudnn
    before = _settings()
    try:
        if state == "older setting off":
            cudnn.allow_tf32 = False
        elif state == "newer setting off":
            cudnn.conv.fp32_precision = "ieee"
        elif state == "everything rounded":
            torch.set_float32_matmul_precision("medium")
        found = _settings(), _tf32_by_the_older_setting(), torch.get_float32_matmul_precision()
        with full_precision():
            assert set(_settings()) == {"ieee"}
            # Other packages do so, and torch itself.
            with cudnn.flags(enabled=False):
                pass
            assert cudnn.allow_tf32 in (True, False)
        assert (_settings(), _tf32_by_the_older_setting(), torch.get_float32_matmul_precision()) == found
    finally:
        torch.set_float32_matmul_precision("highest")
        cudnn.allow_tf32 = True
        for part, precision in zip(_parts(), before, strict=True):
            part.fp32_precision = precision


def test_recurrent_networks(loose: list[str], tmp_path: Path) -> None:
    """Their kernels run without cuDNN, which must not change how the rest is computed."""
    seen = []
    with full_precision():
        module = onnxinfo.convert(path("torch-digits-lstm.onnx"))
        module.register_forward_hook(lambda *_: seen.append(_settings()))
        module(torch.zeros(2, 8, 8))
    assert seen == [["ieee"] * 6]
    assert torch.backends.cudnn.enabled


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
