"""Channels removed from whole networks, from the command line and from public packages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import onnxinfo
from onnxinfo.cli import cli
from onnxinfo.cli.early import _CHECKS
from onnxinfo.cli.rendering import as_options
from onnxinfo.errors import OnnxinfoError, UsageError
from onnxinfo.graph.channel_removal import Removal
from onnxinfo.graph.channels import declared_axes
from onnxinfo.models import path

ZOO = {
    "digits-cnn.onnx": 5, "torch-digits-cnn.onnx": 5, "keras-digits-cnn.onnx": 5, "paddle-digits-cnn.onnx": 1,
    "sklearn-wine-mlp.onnx": 2, "torch-text-transformer.onnx": 2,
}  # fmt: skip


def removable(model: onnxinfo.Model) -> dict[str, dict[int, list[int]]]:
    """Every third channel of each default layer that can lose channels alone."""
    found: dict[str, dict[int, list[int]]] = {}
    layers = [layer.name for layer in onnxinfo.list_layers(model) if layer.default]
    for name, axes in zip(layers, declared_axes(model, layers), strict=True):
        if axes.channel is None:
            continue
        spec = {name: {axes.channel + 1: [*range(0, (model.flow.shape(name) or ())[axes.channel + 1], 3)]}}
        try:
            Removal(model, spec)
        except UsageError:
            continue
        found |= spec
    return found


@pytest.mark.parametrize("name", ZOO)
def test_bundled_networks(name: str) -> None:
    model = onnxinfo.load(path(name))
    spec = removable(model)
    assert len(spec) == ZOO[name]
    pruned = onnxinfo.prune_channels(model, spec)
    onnx.checker.check_model(pruned.proto, full_check=True)
    assert onnxinfo.check_model(pruned).error is None


def test_the_command_writes_a_smaller_model(tmp_path: Path) -> None:
    spec, smaller = tmp_path / "channels.json", tmp_path / "smaller.onnx"
    spec.write_text(json.dumps({"relu_1": {"1": [0, 3, 4]}, "relu_3": {"-3": [7]}}))
    samples = ["--inputs", f"{path('digits.npz')}:images"]
    arguments = ["prune", str(path("digits-cnn.onnx")), "--channels", str(spec), "-o", str(smaller), *samples]
    done = CliRunner().invoke(cli, arguments, obj={})
    assert done.exit_code == 0, done.output
    assert "45590 of 46890 parameters" in done.output
    assert smaller.stat().st_size < path("digits-cnn.onnx").stat().st_size
    loaded = onnxinfo.load(smaller)
    (record,) = [json.loads(e.value) for e in loaded.proto.metadata_props if e.key == "onnxinfo_pruned_channels"]
    assert record["channels"] == {"relu_1": {"1": [0, 3, 4]}, "relu_3": {"1": [7]}}
    assert record["parameters"] == [46890, 45590]
    assert record["difference"] < 1e-6


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "give one of --keep and --channels"),
        (["--keep", "0.5", "--channels", "a.json"], "give one of --keep and --channels"),
        (["--channels", "a.json", "--scope", "layer"], "leave it out with --channels"),
        (["--keep", "0.5", "--inputs", "digits.npz:images"], "leave it out with --keep"),
    ],
)
def test_the_command_refuses_contradictions(
    options: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path("digits.npz").parent)
    monkeypatch.setitem(_CHECKS, "channels", lambda spec: None)
    arguments = ["prune", str(path("digits-cnn.onnx")), "-o", str(tmp_path / "new.onnx"), *options]
    done = CliRunner().invoke(cli, arguments, obj={})
    assert isinstance(done.exception, OnnxinfoError)
    assert reason in as_options(str(done.exception), cli.get_command(None, "prune"))  # type: ignore[arg-type]
    assert not (tmp_path / "new.onnx").exists()


def test_a_missing_specification_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    arguments = ["prune", str(path("digits-cnn.onnx")), "-o", str(tmp_path / "new.onnx"), "--channels", "missing.json"]
    done = CliRunner().invoke(cli, arguments, obj={})
    assert isinstance(done.exception, onnxinfo.InputError)
    assert str(done.exception).startswith("channels 'missing.json' cannot be read: No such file or directory")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "alone", "share"), [("resnet18", 8, 0.75), ("mobilenet_v2", 37, 0.7), ("densenet121", 120, 0.6)]
)
def test_public_networks(name: str, alone: int, share: float, tmp_path: Path) -> None:
    torch, torchvision = pytest.importorskip("torch"), pytest.importorskip("torchvision")
    torch.manual_seed(0)
    net = getattr(torchvision.models, name)(weights=None).eval()
    torch.onnx.export(
        net, (torch.rand(1, 3, 64, 64),), tmp_path / "net.onnx", dynamo=False, opset_version=17,
        input_names=["x"], output_names=["y"], dynamic_axes={"x": {0: "N"}},
    )  # fmt: skip
    model = onnxinfo.load(tmp_path / "net.onnx")
    spec = removable(model)
    assert len(spec) == alone
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    pruned = onnxinfo.prune_channels(model, spec, images)
    (record,) = [json.loads(e.value) for e in pruned.proto.metadata_props if e.key == "onnxinfo_pruned_channels"]
    before, after = record["parameters"]
    assert after < share * before
