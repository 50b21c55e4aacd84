"""Analyze fitted scikit-learn estimators, LightGBM, XGBoost and CatBoost as they are: which work, and how fast.

Each is trained on a table that scikit-learn ships, standardized, and given to ``onnxinfo.analyze`` with six rows and
default settings, in a process of its own with a limit of CPU time. Estimators in the results file are not run again::

    python benchmarks/estimators.py --results estimators.jsonl
    python benchmarks/estimators.py --results estimators.jsonl --show

Needs the extra ``models-trees``, and CatBoost; what is not installed is left out. Times are CPU seconds per sample.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import os
import re
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import (
    calibration,
    cluster,
    decomposition,
    discriminant_analysis,
    ensemble,
    feature_selection,
    gaussian_process,
    linear_model,
    mixture,
    multiclass,
    naive_bayes,
    neighbors,
    neural_network,
    preprocessing,
    svm,
    tree,
)
from sklearn.pipeline import make_pipeline
from trained import DEPTH, ESTIMATORS, MODELS, Table, load_table

from onnxinfo.models.studies.script import as_script

ROWS, SEED = 6, 0
_RANDOM: dict[str, Any] = {"random_state": SEED}


def _before_logistic(step: Any) -> Any:
    return make_pipeline(step, linear_model.LogisticRegression(max_iter=1000))


def _stacked() -> Any:
    parts = [
        ("tree", tree.DecisionTreeClassifier(max_depth=4, **_RANDOM)),
        ("linear", linear_model.LogisticRegression()),
    ]
    return ensemble.StackingClassifier(parts)


#: Untrained estimators by name. LightGBM and its like are exported by onnxmltools or by themselves.
KINDS: dict[str, Callable[[], Any]] = {
    "LogisticRegression": linear_model.LogisticRegression,
    "RidgeClassifier": linear_model.RidgeClassifier,
    "Perceptron": lambda: linear_model.Perceptron(**_RANDOM),
    "SGDClassifier, hinge": lambda: linear_model.SGDClassifier(**_RANDOM),
    "SGDClassifier, log loss": lambda: linear_model.SGDClassifier(loss="log_loss", **_RANDOM),
    "OneVsRestClassifier": lambda: multiclass.OneVsRestClassifier(linear_model.LogisticRegression()),
    "CalibratedClassifierCV": lambda: calibration.CalibratedClassifierCV(svm.LinearSVC()),
    "LinearSVC": svm.LinearSVC,
    "SVC": svm.SVC,
    "SVC, probabilities": lambda: svm.SVC(probability=True, **_RANDOM),
    "OneClassSVM": lambda: svm.OneClassSVM(nu=0.1),
    "LinearDiscriminantAnalysis": discriminant_analysis.LinearDiscriminantAnalysis,
    "QuadraticDiscriminantAnalysis": lambda: discriminant_analysis.QuadraticDiscriminantAnalysis(reg_param=0.1),
    "GaussianNB": naive_bayes.GaussianNB,
    "BernoulliNB": naive_bayes.BernoulliNB,
    "KNeighborsClassifier": neighbors.KNeighborsClassifier,
    "KNeighborsRegressor": neighbors.KNeighborsRegressor,
    "GaussianProcessRegressor": lambda: gaussian_process.GaussianProcessRegressor(alpha=0.1),
    "GaussianProcessClassifier": lambda: gaussian_process.GaussianProcessClassifier(**_RANDOM),
    "MLPClassifier": lambda: neural_network.MLPClassifier((32, 16), max_iter=500, **_RANDOM),
    "KMeans": lambda: cluster.KMeans(5, n_init=1, **_RANDOM),
    "GaussianMixture": lambda: mixture.GaussianMixture(3, **_RANDOM),
    "PCA": lambda: decomposition.PCA(3),
    "PCA, LogisticRegression": lambda: _before_logistic(decomposition.PCA(5)),
    "SelectKBest, LogisticRegression": lambda: _before_logistic(feature_selection.SelectKBest(k=5)),
    "PolynomialFeatures, LogisticRegression": lambda: _before_logistic(preprocessing.PolynomialFeatures(2)),
    "PowerTransformer, LogisticRegression": lambda: _before_logistic(preprocessing.PowerTransformer()),
    "Normalizer, LogisticRegression": lambda: _before_logistic(preprocessing.Normalizer()),
    "KBinsDiscretizer, LogisticRegression": lambda: _before_logistic(
        preprocessing.KBinsDiscretizer(5, encode="onehot-dense", quantile_method="averaged_inverted_cdf")
    ),
    "QuantileTransformer, LogisticRegression": lambda: _before_logistic(
        preprocessing.QuantileTransformer(n_quantiles=50)
    ),
    "DecisionTreeClassifier": lambda: tree.DecisionTreeClassifier(**_RANDOM),
    "RandomForestClassifier": lambda: MODELS["random forest"](True),
    "ExtraTreesClassifier": lambda: ensemble.ExtraTreesClassifier(ESTIMATORS, max_depth=DEPTH, **_RANDOM),
    "BaggingClassifier": lambda: ensemble.BaggingClassifier(n_estimators=20, **_RANDOM),
    "IsolationForest": lambda: ensemble.IsolationForest(n_estimators=20, **_RANDOM),
    "AdaBoostClassifier": lambda: ensemble.AdaBoostClassifier(n_estimators=30, **_RANDOM),
    "AdaBoostRegressor": lambda: ensemble.AdaBoostRegressor(n_estimators=10, **_RANDOM),
    "GradientBoostingClassifier": lambda: MODELS["gradient boosting"](True),
    "HistGradientBoostingClassifier": lambda: ensemble.HistGradientBoostingClassifier(max_iter=ESTIMATORS, **_RANDOM),
    "StackingClassifier": _stacked,
    "LightGBM": lambda: MODELS["LightGBM"](True),
    "XGBoost": lambda: MODELS["XGBoost"](True),
    "CatBoost": lambda: _catboost(),
}
_PACKAGES = {"LightGBM": "lightgbm", "XGBoost": "xgboost", "CatBoost": "catboost"}


def _catboost() -> Any:
    import catboost

    return catboost.CatBoostClassifier(
        iterations=ESTIMATORS, depth=6, random_state=SEED, verbose=False, thread_count=1, allow_writing_files=False
    )


def standardized(name: str) -> Table:
    """Load a table with standardized columns."""
    table = load_table(name)
    x = preprocessing.StandardScaler().fit_transform(table.x).astype(np.float32)
    return Table(x, table.y, table.names, table.has_classes)


def trained_model(kind: str, table: Table, folder: Path) -> Any:
    """Train an estimator; return it, or its export where onnxinfo does not export it."""
    fitted = KINDS[kind]().fit(table.x, table.y)
    if kind == "CatBoost":
        fitted.save_model(str(folder / "model.onnx"), format="onnx")
        return str(folder / "model.onnx")
    if kind not in _PACKAGES:
        return fitted
    from trained import export

    return export(kind, fitted, table)


def analyzed(kind: str, name: str, folder: Path) -> dict[str, Any]:
    """Analyze one estimator; return the cells of its layers, or why there are none."""
    import onnxinfo

    table = standardized(name)
    rows = table.x[[round(i * (len(table.x) - 1) / (ROWS - 1)) for i in range(ROWS)]]
    try:
        model = trained_model(kind, table, folder)
        began = time.process_time()
        onnxinfo.analyze(model, rows, folder / "a.h5", seed=SEED)
        seconds = (time.process_time() - began) / ROWS
    except Exception as error:
        return {"reason": f"{type(error).__name__}: {error}"}
    layers: dict[str, list[tuple[float, float, str, bool]]] = collections.defaultdict(list)
    with onnxinfo.open(folder / "a.h5") as opened:
        (run,) = opened.values()
        found = run.table("sample")
        for row in zip(*(found[key] for key in ("layer", "value", "gap", "mark", "converged")), strict=True):
            layers[str(row[0])].append((float(row[1]), float(row[2]), str(row[3]), bool(row[4])))
        solver = "forward" if run.recipe.get("solver") == "forward" else "gradients"
    return {"seconds": seconds, "layers": layers, "solver": solver}


def sweep(results: Path, name: str, only: str, seconds: int) -> None:
    """Run the estimators that are missing from the results, each in a process of its own."""
    done = {record["kind"] for record in read(results) if record["table"] == name}
    for kind in KINDS:
        if kind in done or not re.search(only, kind) or (kind in _PACKAGES and not find_spec(_PACKAGES[kind])):
            continue
        with tempfile.TemporaryDirectory() as folder:
            noted = Path(folder) / "found.json"
            child = os.fork()
            if not child:
                resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
                noted.write_text(json.dumps(analyzed(kind, name, Path(folder))))
                os._exit(0)
            os.waitpid(child, 0)
            found = json.loads(noted.read_text()) if noted.exists() else {"reason": f"not done in {seconds} s"}
        record = {"kind": kind, "table": name, **found}
        with results.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(*row(record), sep=" | ", flush=True)


def read(results: Path) -> list[dict[str, Any]]:
    """Read the records of a results file; of duplicates, the last counts."""
    lines = results.read_text().splitlines() if results.exists() else []
    return list({(each["kind"], each["table"]): each for each in map(json.loads, lines)}.values())


def row(record: Mapping[str, Any]) -> list[str]:
    """Return the cells of a record's row."""
    if "reason" in record:
        return [record["kind"], "", "", "", "", "", record["reason"][:200]]
    cells = [cell for each in record["layers"].values() for cell in each]
    means = " ".join(f"{sum(cell[0] for cell in each) / len(each):.2f}" for each in record["layers"].values())
    good = [cell[1] for cell in cells if cell[3] and math.isfinite(cell[1])]
    marks = collections.Counter(cell[2] for cell in cells if not cell[3])
    remarks = ", ".join(f"{count} {mark}" for mark, count in marks.items())
    layers = ", ".join(f"`{name}`" for name in record["layers"])
    proven = f"{sum(cell[3] for cell in cells)}/{len(cells)}"
    return [record["kind"], layers, means, proven, f"{max(good, default=0):.3f}", f"{record['seconds']:.1f}", remarks]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("estimators.jsonl"))
    parser.add_argument("--data", default="breast_cancer", help="a table in trained.py")
    parser.add_argument("--only", default="", metavar="REGEX", help="only estimators whose name matches")
    parser.add_argument("--seconds", type=int, default=120, help="CPU time limit for each estimator")
    parser.add_argument("--show", action="store_true", help="print the table of results instead of running")
    arguments = parser.parse_args()
    if arguments.show:
        print("| estimator | default layers | SID | proven | gap | seconds | remark |")
        print("| --- | --- | ---: | ---: | ---: | ---: | --- |")
        records = {each["kind"]: each for each in read(arguments.results) if each["table"] == arguments.data}
        for kind in KINDS:
            if kind in records:
                print("| " + " | ".join(row(records[kind])) + " |")
    else:
        warnings.simplefilter("ignore")
        sweep(arguments.results, arguments.data, arguments.only, arguments.seconds)


if __name__ == "__main__":
    as_script(main)
