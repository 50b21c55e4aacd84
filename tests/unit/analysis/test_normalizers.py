"""Budgets that are relative to the feature's variance, or to nothing, for the solver that takes gradients."""

import math

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxinfo

C = 0.5 * math.log(2 * math.pi * math.e)
WEIGHT = (np.random.default_rng(0).normal(size=(12, 20)) * np.linspace(0.5, 3, 20)).astype(np.float32)
X = np.random.default_rng(1).normal(size=(6, 20)).astype(np.float32)


def linear(weight=WEIGHT):
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "W"], ["y"], transB=1), helper.make_node("Mul", ["y", "two"], ["z"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", weight.shape[1]])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", weight.shape[0]])],
        [numpy_helper.from_array(weight, "W"), numpy_helper.from_array(np.float32(2), "two")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def closed(budget, weight=WEIGHT):
    norms = np.square(weight.astype(float)).sum(0)
    return 0.5 * np.log(budget / (len(norms) * norms)) + C


def run_of(folder, x=X, weight=WEIGHT, name="run", **options):
    model = linear(weight)
    result = onnxinfo.analyze(model, x, folder / "out.h5", run=name, mean=[0.0], std=[1.0], **options)
    with onnxinfo.open(result.archive) as archive:
        run = archive[name]
        return run.values("sid"), run.maps("sid", 0), run.normalizer("sid"), run.recipe


@pytest.mark.parametrize(("alpha", "share"), [(None, 0.01), (0.002, 0.002)])
def test_a_budget_relative_to_the_variance_has_the_closed_form(tmp_path, alpha, share):
    values, maps, normalizer, recipe = run_of(tmp_path, normalize_by="feature", layers=["y"], alpha=alpha)
    variance = (X @ WEIGHT.T).astype(float).var(0).sum()
    assert normalizer == pytest.approx([variance])
    assert np.abs(maps - closed(share * variance)).max() < 1e-4
    assert values["converged"].all()
    assert (values["stderr"] == 0).all()
    assert (recipe["normalizer"], recipe["alpha"]) == ("feature", share)


@pytest.mark.parametrize(("budget", "total"), [(0.5, 0.5), ("0.05/unit", 0.6)])
def test_an_absolute_budget_is_in_total_or_for_each_entry(tmp_path, budget, total):
    values, maps, normalizer, recipe = run_of(tmp_path, budget=budget, layers=["y"])
    assert normalizer == pytest.approx([total])
    assert np.abs(maps - closed(total)).max() < 1e-4
    assert values["converged"].all()
    assert (recipe["normalizer"], recipe["budget"]) == ("absolute", budget)
    assert "alpha" not in recipe


def test_each_layer_has_its_own_variance(tmp_path):
    values, _, normalizer, _ = run_of(tmp_path, normalize_by="feature", layers=["y", "z"])
    assert normalizer[1] == pytest.approx(4 * normalizer[0])
    assert values["value"][0] == pytest.approx(values["value"][1], abs=1e-4)


@pytest.mark.parametrize(
    ("x", "weight", "said"),
    [
        (X[:1], WEIGHT, "layer 'y' has variance 0 over 1 sample, so its budget would be 0: give more samples, or"),
        (X, 0 * WEIGHT, "layer 'y' has variance 0 over 6 samples, so its budget would be 0: leave the layer out"),
    ],
)  # fmt: skip
def test_no_variance_is_an_error_that_names_the_budget(tmp_path, x, weight, said):
    with pytest.raises(onnxinfo.UsageError) as raised:
        run_of(tmp_path, x, weight, normalize_by="feature", layers=["y"])
    assert said in str(raised.value)
    assert "budget=..." in str(raised.value)
    assert "\n" not in str(raised.value)
    # An absolute budget needs no variance.
    values, *_ = run_of(tmp_path, x, weight, budget=0.1, layers=["y"], name="absolute")
    assert values["converged"].all()


@pytest.mark.parametrize("budget", [1e4, 1e40], ids=["large", "beyond float32"])
def test_a_budget_that_the_cap_does_not_reach_is_exact(tmp_path, budget):
    values, maps, *_ = run_of(tmp_path, budget=budget, layers=["y"])
    assert values["converged"].all()
    assert (values["capped"] == 1).all()
    assert np.allclose(maps, C)


def test_results_of_different_normalizers_are_not_compared(tmp_path):
    options = {"layers": ["y"], "limit": 4}
    run_of(tmp_path, name="D", **options)
    run_of(tmp_path, name="variance", normalize_by="feature", **options)
    run_of(tmp_path, name="as much", normalize_by="feature", alpha=1.5e-4, **options)
    run_of(tmp_path, name="absolute", budget=1, **options)
    for other in ("variance", "as much", "absolute"):
        with pytest.raises(onnxinfo.UsageError, match="normalize_by is dataset in one and"):
            onnxinfo.compare(tmp_path / "out.h5", run=["D", other])
        for kind in ("curve", "difference", "distribution"):
            with pytest.raises(onnxinfo.UsageError, match="budget of one is relative to D averaged over the samples"):
                onnxinfo.plot(tmp_path / "out.h5", kind, tmp_path / "figure.svg", run=["D", other])
    with pytest.raises(onnxinfo.UsageError, match="relative to D averaged"):
        onnxinfo.report(tmp_path / "out.h5", tmp_path / "report.html")
    onnxinfo.plot(tmp_path / "out.h5", "curve", tmp_path / "figure.svg", run=["variance", "as much"])


def test_a_resumed_run_keeps_its_variance(tmp_path):
    class Stopped(Exception):
        pass

    def stop(progress):
        if progress.stage == "sid" and progress.done == 6:
            raise Stopped

    options = {"normalize_by": "feature", "layers": ["y", "z"]}
    with pytest.raises(Stopped):
        run_of(tmp_path, progress=stop, **options)
    resumed = run_of(tmp_path, **options)
    whole = run_of(tmp_path, name="whole", **options)
    assert (resumed[2] == whole[2]).all()
    assert (resumed[0]["value"] == whole[0]["value"]).all()
