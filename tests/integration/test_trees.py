"""Ensembles that scikit-learn, LightGBM and XGBoost train and their exporters write."""

import numpy as np
import pytest

import onnxinfo
from onnxinfo.archive.format import mark_code

UNITS = 5
UNIT = {"mean": [0.0], "std": [1.0], "threads": 1}


def table():
    """The class depends on the first column, and a little on the second."""
    x = np.random.default_rng(0).normal(size=(200, UNITS)).astype(np.float32)
    return x, (x[:, 0] + 0.3 * x[:, 1] > 0.2).astype(int)


def from_sklearn():
    ensemble, skl2onnx = pytest.importorskip("sklearn.ensemble"), pytest.importorskip("skl2onnx")
    x, y = table()
    forest = ensemble.RandomForestClassifier(4, max_depth=2, max_features=None, random_state=0).fit(x, y)
    return forest.feature_importances_, skl2onnx.to_onnx(forest, x[:1], target_opset={"": 15, "ai.onnx.ml": 3})


def from_lightgbm():
    lightgbm, onnxmltools = pytest.importorskip("lightgbm"), pytest.importorskip("onnxmltools")
    model = lightgbm.LGBMClassifier(n_estimators=4, max_depth=2, n_jobs=1, verbose=-1).fit(*table())
    return model.feature_importances_, onnxmltools.convert_lightgbm(model, initial_types=floats(), target_opset=15)


def from_xgboost():
    xgboost, onnxmltools = pytest.importorskip("xgboost"), pytest.importorskip("onnxmltools")
    model = xgboost.XGBClassifier(n_estimators=4, max_depth=2, n_jobs=1).fit(*table())
    return model.feature_importances_, onnxmltools.convert_xgboost(model, initial_types=floats(), target_opset=15)


def floats():
    types = pytest.importorskip("onnxmltools.convert.common.data_types")
    return [("x", types.FloatTensorType([None, UNITS]))]


@pytest.mark.parametrize("train", [from_sklearn, from_lightgbm, from_xgboost])
def test_ignored_features_are_at_the_cap(tmp_path, train, caplog):
    importances, proto = train()
    x, _ = table()
    found = []
    for seed in (0, 1):
        onnxinfo.analyze(proto, x, tmp_path / "trees.h5", run=f"{seed}", limit=1, seed=seed, budget=0.005, **UNIT)
        with onnxinfo.open(tmp_path / "trees.h5") as archive:
            run = archive[f"{seed}"]
            found.append(run.values("sid"))
            maps = run.maps("sid", 0)
    assert "no gradient reaches" in caplog.text
    assert all(each["converged"].all() for each in found)
    assert abs(found[0]["value"] - found[1]["value"]).max() < 0.02
    cap = 0.5 * np.log(2 * np.pi * np.e)
    assert maps[:, importances == 0] == pytest.approx(cap, abs=1e-4)
    assert (importances == 0).any()
    assert (maps[:, 0] < cap - 0.01).all()
    assert not (found[0]["mark"] == mark_code("saturated")).any()


def test_reconstruction_is_refused_in_one_line(tmp_path):
    _, proto = from_sklearn()
    with pytest.raises(onnxinfo.OnnxinfoError, match="no gradient reaches layer 'probabilities'") as raised:
        onnxinfo.analyze(proto, table()[0], tmp_path / "trees.h5", limit=2, metrics=["sid", "ru"])
    assert "\n" not in str(raised.value)
