"""Models of public tables that scikit-learn ships, trained and exported: for the benchmarks of trees and tables.

Needs the extra ``models-trees``; without LightGBM, XGBoost or onnxmltools, their models are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn import datasets, ensemble, linear_model, neural_network, svm
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SEED, OPSET, ML_OPSET = 0, 15, 3
ESTIMATORS, DEPTH = 50, 8
#: Tables by name, and whether their target is a class.
TABLES = {"breast_cancer": True, "wine": True, "digits": True, "diabetes": False}


@dataclass(frozen=True)
class Table:
    """A table of float features with a target; `names` are the columns."""

    x: npt.NDArray[np.float32]
    y: npt.NDArray[Any]
    names: tuple[str, ...]
    has_classes: bool


def load_table(name: str) -> Table:
    """Load one of :data:`TABLES`."""
    found = getattr(datasets, f"load_{name}")()
    return Table(found.data.astype(np.float32), found.target, tuple(found.feature_names), TABLES[name])


def _scaled(model: Any) -> Any:
    return make_pipeline(StandardScaler(), model)


def _lightgbm(has_classes: bool) -> Any:
    import lightgbm

    kind = lightgbm.LGBMClassifier if has_classes else lightgbm.LGBMRegressor
    return kind(n_estimators=ESTIMATORS, max_depth=DEPTH, random_state=SEED, n_jobs=1, verbose=-1)


def _xgboost(has_classes: bool) -> Any:
    import xgboost

    kind = xgboost.XGBClassifier if has_classes else xgboost.XGBRegressor
    return kind(n_estimators=ESTIMATORS, max_depth=DEPTH, random_state=SEED, n_jobs=1)


#: Untrained models by name: each function takes whether the target is a class.
MODELS: dict[str, Callable[[bool], Any]] = {
    "random forest": lambda has_classes: (
        ensemble.RandomForestClassifier if has_classes else ensemble.RandomForestRegressor
    )(ESTIMATORS, max_depth=DEPTH, random_state=SEED),
    "gradient boosting": lambda has_classes: (
        ensemble.GradientBoostingClassifier if has_classes else ensemble.GradientBoostingRegressor
    )(n_estimators=ESTIMATORS, random_state=SEED),
    "LightGBM": _lightgbm,
    "XGBoost": _xgboost,
    "SVM": lambda has_classes: _scaled(svm.SVC() if has_classes else svm.SVR(C=100)),
    "linear": lambda has_classes: _scaled(linear_model.LogisticRegression() if has_classes else linear_model.Ridge()),
    "MLP": lambda has_classes: _scaled(
        (neural_network.MLPClassifier if has_classes else neural_network.MLPRegressor)(
            hidden_layer_sizes=(32, 16), max_iter=500, random_state=SEED
        )
    ),
}
_FOREIGN = {"LightGBM": "lightgbm", "XGBoost": "xgboost"}


def is_installed(model: str) -> bool:
    """Whether the packages that train and export a model are installed."""
    return model not in _FOREIGN or all(find_spec(name) for name in (_FOREIGN[model], "onnxmltools"))


def train(model: str, table: Table) -> Any:
    """Train one of :data:`MODELS`."""
    return MODELS[model](table.has_classes).fit(table.x, table.y)


def export(model: str, trained: Any, table: Table) -> onnx.ModelProto:
    """Export a trained model; classifiers return scores, not probabilities, where the exporter can do that."""
    width, name = table.x.shape[1], "features"
    if model in _FOREIGN:
        import onnxmltools
        from onnxmltools.convert.common.data_types import FloatTensorType as Floats

        convert = getattr(onnxmltools, f"convert_{_FOREIGN[model]}")
        return convert(trained, initial_types=[(name, Floats([None, width]))], target_opset=OPSET)
    scores = {"gradient boosting", "SVM", "linear"}
    options = {"raw_scores": True} if table.has_classes and model in scores else {}
    return to_onnx(
        trained,
        initial_types=[(name, FloatTensorType([None, width]))],
        target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET},
        options={id(trained): options} if options else None,
    )
