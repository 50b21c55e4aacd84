"""Train scikit-learn's perceptrons on tabular data and export them through skl2onnx.

Run ``python -m models.export_sklearn`` in the repository, with the extra ``models-sklearn`` installed.
"""

from __future__ import annotations

import onnx
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from .datasets import SEED, Array, diabetes, wine
from .export import report_accuracy, report_r2, save_model

OPSET = 18


def fit(network: MLPClassifier | MLPRegressor, x: Array, y: Array) -> Pipeline:
    """Return the network fitted after a scaler, so that the exported graph takes features in their original units."""
    return make_pipeline(StandardScaler(), network).fit(x, y)


def main() -> None:
    """Train, export and report."""
    data = wine()
    classifier = fit(
        MLPClassifier(hidden_layer_sizes=(32, 16), max_iter=500, random_state=SEED), data.x_train, data.y_train
    )
    path = save_model(_onnx(classifier, zipmap=False), "sklearn-wine-mlp.onnx")
    report_accuracy(path, {"features": data.x_test}, data.y_test, "probabilities")

    data = diabetes()
    network = MLPRegressor(
        hidden_layer_sizes=(16,),
        alpha=100,
        learning_rate_init=0.01,
        early_stopping=True,
        max_iter=1000,
        random_state=SEED,
    )
    regressor = fit(network, data.x_train, data.y_train)
    path = save_model(_onnx(regressor), "sklearn-diabetes-mlp.onnx")
    report_r2(path, {"features": data.x_test}, data.y_test, "variable")


def _onnx(pipeline: Pipeline, **options: bool) -> onnx.ModelProto:
    width = pipeline.n_features_in_
    model: onnx.ModelProto = to_onnx(
        pipeline,
        initial_types=[("features", FloatTensorType([None, width]))],
        target_opset=OPSET,
        options={id(pipeline): options} if options else None,
    )
    return model


if __name__ == "__main__":
    main()
