"""Oracles of SID: single layers with a known answer."""

import math

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxinfo

C = 0.5 * math.log(2 * math.pi * math.e)
ALPHA = 1.5e-4
FLOOR = 0.5 * math.log(ALPHA) + C


def gemm(weight, shape=None):
    """A model of one linear layer, y = x W^T, on flat inputs or on inputs that it flattens first."""
    outputs, units = weight.shape
    nodes = [helper.make_node("Gemm", ["flat", "weight"], ["y"], transB=1)]
    if shape is None:
        nodes[0].input[0] = "x"
    else:
        nodes.insert(0, helper.make_node("Flatten", ["x"], ["flat"]))
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *(shape or [units])])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", outputs])],
        [numpy_helper.from_array(weight.astype(np.float32), "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def sid(model, inputs, folder, name="run", **options):
    """Pixel-level SID (layers, samples, ...) and the numbers of all cells."""
    onnxinfo.analyze(model, inputs, folder / "out.h5", run=name, std=1.0, **options)
    with onnxinfo.open(folder / "out.h5") as archive:
        run = archive[name]
        return np.stack([run.maps("sid", layer) for layer in range(run.shape[0])]), run.values("sid")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("outputs", [20, 300])
@pytest.mark.parametrize("normalize_by", ["dataset", "sample"])
def test_linear_layer_has_the_closed_form(tmp_path, outputs, normalize_by):
    weight = normal(outputs, 48) * np.linspace(0.5, 3, 48)
    maps, values = sid(gemm(weight), normal(3, 48), tmp_path, normalize_by=normalize_by)
    norms = np.square(weight).sum(0)
    expected = 0.5 * np.log(ALPHA * norms.sum() / (48 * norms)) + C
    assert np.abs(maps[0] - expected).mean() < 0.005
    assert values["converged"].all()


def test_capped_units_share_the_budget_by_water_filling(tmp_path):
    weight = normal(30, 40) * np.concatenate([np.zeros(3), np.full(8, 1e-3), np.linspace(1, 2, 29)])
    cap = 0.5
    maps, values = sid(gemm(weight), normal(2, 40), tmp_path, sigma_max=cap)
    norms = np.square(weight.astype(np.float32)).sum(0).astype(np.float64)
    budget = ALPHA * norms.sum()
    level, capped = 0.0, np.zeros(40, bool)
    for _ in range(40):
        level = (budget - cap**2 * norms[capped].sum()) / (~capped).sum()
        capped = capped | (level >= cap**2 * norms)
    expected = np.where(capped, math.log(cap), 0.5 * np.log(level / np.maximum(norms, 1e-30))) + C
    assert np.abs(maps[0] - expected).max() < 0.005
    assert values["capped"] == pytest.approx(np.full((1, 2), capped.mean()))
    assert capped.sum() == 11


@pytest.mark.parametrize(("tie", "cells"), [("pixel", 16), ("grid:2", 4)])
def test_tied_units_share_one_sigma(tmp_path, tie, cells):
    weight = normal(25, 48) * np.linspace(0.5, 3, 48)
    maps, _ = sid(gemm(weight, [3, 4, 4]), normal(2, 3, 4, 4), tmp_path, share_sigma=tie)
    side = int(math.sqrt(cells))
    group = np.broadcast_to(np.add.outer(np.arange(4) * side // 4 * side, np.arange(4) * side // 4), (3, 4, 4)).reshape(
        -1
    )
    norms = np.square(weight.astype(np.float32)).sum(0)
    of_group = np.bincount(group, norms)
    size = np.bincount(group)
    expected = 0.5 * np.log(size * ALPHA * norms.sum() / (48 * of_group)) + C
    assert np.abs(maps[0].reshape(2, -1) - expected[group]).max() < 0.005


def test_orthogonal_layer_is_the_floor(tmp_path):
    orthogonal, _ = np.linalg.qr(normal(200, 200))
    maps, _ = sid(gemm(orthogonal), normal(3, 200), tmp_path)
    assert maps.mean() == pytest.approx(FLOOR, abs=0.003)
    assert pytest.approx(-2.9835, abs=1e-4) == FLOOR


def test_sum_of_all_inputs_treats_them_alike(tmp_path):
    maps, _ = sid(gemm(np.ones((1, 30))), normal(2, 30), tmp_path)
    assert np.ptp(maps) < 1e-4
