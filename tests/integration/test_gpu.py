"""Analyses on an NVIDIA GPU: the CPU's values within the stated errors, in bounded memory, without reads in a pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import onnxinfo
from onnxinfo.analysis.job import Job, prepare
from onnxinfo.config import SidConfig
from onnxinfo.metrics.budget import fit
from onnxinfo.metrics.input_provider import InputProvider, open_samples_of
from onnxinfo.models import path

pytestmark = pytest.mark.gpu

DIGITS, TOKENS, WINE = "digits.npz:images", "text.npz:tokens", "wine.npz:features"
NETWORKS = {
    "digits-cnn.onnx": DIGITS,
    "keras-digits-cnn.onnx": DIGITS,
    "keras-digits-gru.onnx": DIGITS,
    "torch-digits-lstm.onnx": DIGITS,
    "jax-digits-cnn.onnx": DIGITS,
    "torch-text-transformer.onnx": TOKENS,
    "keras-text-transformer.onnx": TOKENS,
    "sklearn-wine-mlp.onnx": WINE,
}
TRAINING: dict[str, Any] = {"decoder_inputs": f"{path('digits.npz')}:images", "decoder_limit": 64, "decoder_steps": 50}
#: Memory budget in bytes, and share of it that allocations may take.
MEMORY, SHARE = 256 * 2**20, 1.2


def samples(name: str) -> str:
    file, _, key = name.partition(":")
    return f"{path(file)}:{key}"


def values(output: Path, model: str, inputs: str, metric: str, **options: Any) -> dict[str, npt.NDArray[Any]]:
    layers = [layer.name for layer in onnxinfo.select_layers(onnxinfo.list_layers(path(model)))]
    layer = layers[-2] if metric == "cam" else layers[-1]
    given = {"limit": 4, **options}
    onnxinfo.analyze(path(model), samples(inputs), output, metrics=[metric], layers=[layer], run="run", **given)
    with onnxinfo.open(output) as archive:
        return dict(archive["run"].values(metric))


def job_of(model: str, inputs: str, count: int) -> Job:
    loaded = onnxinfo.load(path(model))
    (tensor, *_) = onnxinfo.perturbed_tensors(loaded)
    provider = InputProvider(loaded, open_samples_of(loaded, samples(inputs), limit=count), tensor)
    return prepare(provider, onnxinfo.select_layers(onnxinfo.list_layers(loaded)), SidConfig(), torch.device("cuda"))


@pytest.mark.parametrize(("model", "inputs"), NETWORKS.items())
def test_sid_agrees_with_the_cpu(model: str, inputs: str, tmp_path: Path) -> None:
    """The noise differs, so values differ by their errors, and by what both may lie below the optimum."""
    there, here = (values(tmp_path / f"{name}.h5", model, inputs, "sid", device=name) for name in ("cuda", "cpu"))
    both = there["converged"] & here["converged"]
    assert (there["converged"] != here["converged"]).sum() <= 1
    allowed = 4 * np.hypot(there["stderr"], here["stderr"]) + np.maximum(there["gap"], here["gap"])
    assert (np.abs(there["value"] - here["value"]) <= allowed)[both].all()


@pytest.mark.parametrize("metric", ["gradient", "gradcam", "cam"])
def test_metrics_without_noise_agree_with_the_cpu(metric: str, tmp_path: Path) -> None:
    found = [
        values(tmp_path / f"{name}.h5", "digits-cnn.onnx", DIGITS, metric, device=name) for name in ("cuda", "cpu")
    ]
    for name, there in found[0].items():
        np.testing.assert_allclose(there, found[1][name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_concentration(tmp_path: Path) -> None:
    masks = np.zeros((50, 8, 8), np.uint8)
    masks[:, 2:6, 2:6] = 1
    np.save(tmp_path / "masks.npy", masks)
    given = {"foreground": str(tmp_path / "masks.npy")}
    there, here = (
        values(tmp_path / f"{name}.h5", "digits-cnn.onnx", DIGITS, "concentration", device=name, **given)
        for name in ("cuda", "cpu")
    )
    np.testing.assert_allclose(there["value"], here["value"], atol=0.1)


def test_ru(tmp_path: Path) -> None:
    found = values(tmp_path / "out.h5", "digits-cnn.onnx", DIGITS, "ru", device="cuda", **TRAINING)
    assert np.isfinite(found["value"]).all()


def test_coherency(tmp_path: Path) -> None:
    layers = [layer.name for layer in onnxinfo.list_layers(path("digits-cnn.onnx"))][:2]
    changes = onnxinfo.coherency(
        path("digits-cnn.onnx"),
        samples(DIGITS),
        tmp_path / "a.h5",
        metrics=["sid"],
        layers=layers,
        limit=2,
        device="cuda",
    ).changes
    assert all(np.isfinite([change.before, change.after]).all() for change in changes)


def test_robustness(tmp_path: Path) -> None:
    pytest.importorskip("art")
    labels = f"{path('digits.npz')}:labels"
    robust = onnxinfo.robustness(
        path("digits-cnn.onnx"), samples(DIGITS), tmp_path / "b.h5", labels=labels, limit=2, device="cuda"
    )
    assert np.isfinite(robust.value)


def test_the_recipe_names_the_gpu(tmp_path: Path) -> None:
    values(tmp_path / "out.h5", "digits-cnn.onnx", DIGITS, "sid", device="auto", limit=1)
    with onnxinfo.open(tmp_path / "out.h5") as archive:
        assert torch.cuda.get_device_name() in str(archive["run"].provenance["device"])


def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    beyond = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(onnxinfo.UsageError, match=beyond):
        values(tmp_path / "out.h5", "digits-cnn.onnx", DIGITS, "sid", device=beyond)


def test_two_workers_share_a_gpu(tmp_path: Path) -> None:
    alone, shared = (
        values(tmp_path / f"{workers}.h5", "digits-cnn.onnx", DIGITS, "sid", device="cuda", workers=workers)
        for workers in (1, 2)
    )
    np.testing.assert_allclose(shared["value"], alone["value"], atol=1e-3)


def test_the_largest_batch_stays_within_the_memory() -> None:
    job = job_of("digits-cnn.onnx", DIGITS, 1)
    x, rows = job.inputs([0])
    batch = fit(job.network, x, rows, MEMORY)
    many = x.repeat(batch, 1, 1, 1), rows.repeat(batch)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    leaf = many[0].requires_grad_(True)
    torch.autograd.grad(sum(feature.sum() for feature in job.network(leaf, many[1])), leaf)
    assert torch.cuda.max_memory_allocated() - before <= SHARE * MEMORY


@pytest.mark.parametrize(("model", "inputs"), NETWORKS.items())
def test_a_pass_does_not_wait_for_the_gpu(model: str, inputs: str) -> None:
    job = job_of(model, inputs, 2)
    x, rows = job.inputs(range(2))
    network = job.network.part([len(job.layers) - 1])
    for mode in ("default", "error"):
        # The first time, kernels are loaded.
        torch.cuda.set_sync_debug_mode(mode)
        try:
            leaf = x.clone().requires_grad_(True)
            torch.autograd.grad(network(leaf, rows)[0].sum(), leaf)
        finally:
            torch.cuda.set_sync_debug_mode("default")
