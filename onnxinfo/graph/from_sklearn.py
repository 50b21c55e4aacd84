"""Export a scikit-learn estimator through skl2onnx."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import UsageError
from .exported import Array, Exported, failure, needed

OPSET = 18
_ROWS = 32
#: Trees compare in float32, so that single rows beside a threshold may take the other branch.
_SHARE = 0.9
INPUT = "features"


def export_sklearn(estimator: Any, example: Any) -> Exported:
    """Export a fitted estimator or pipeline that takes a table of numbers.

    Parameters
    ----------
    estimator
        The estimator.
    example
        Rows of its input, on which the exported model is checked; default: generated.

    Raises
    ------
    UsageError
        The estimator is not fitted, or skl2onnx is not installed.
    ModelError
        It cannot be exported.
    """
    name = type(estimator).__name__
    converter = needed("skl2onnx", "scikit-learn estimators")
    width = getattr(estimator, "n_features_in_", None)
    if width is None:
        raise UsageError(f"the estimator {name} is not fitted: call fit, then give it again")
    types = needed("skl2onnx.common.data_types", "scikit-learn estimators")
    given = _rows(example, int(width), name)
    classifies = hasattr(estimator, "predict_proba") or hasattr(estimator, "decision_function")
    options: Any = {id(estimator): {"zipmap": False}} if hasattr(estimator, "predict_proba") else None
    try:
        proto = converter.to_onnx(
            estimator,
            initial_types=[(INPUT, types.FloatTensorType([None, int(width)]))],
            target_opset=OPSET,
            options=options,
        )
        expected = _outputs(estimator, given.astype(np.float64), classifies)
    except Exception as error:
        raise failure(f"skl2onnx cannot export {name}", error) from None
    # Of a classifier, only the label and the probabilities are known; other outputs are not compared.
    expected += [None] * (len(proto.graph.output) - len(expected))
    how = f"scikit-learn {_version()}, skl2onnx {converter.__version__}, opset {OPSET}"
    return Exported(proto, name, how, {INPUT: given}, expected[: len(proto.graph.output)], _SHARE)


def _rows(example: Any, width: int, name: str) -> Array:
    if example is None:
        return np.random.default_rng(0).standard_normal((_ROWS, width)).astype(np.float32)
    found = np.asarray(example, dtype=np.float32)
    if found.ndim != 2 or found.shape[1] != width:
        raise UsageError(f"{name} does not accept an example of shape {found.shape}; give rows of {width} numbers")
    return found


def _outputs(estimator: Any, rows: Array, classifies: bool) -> list[Array | None]:
    """Return what the estimator computes, in the order of skl2onnx's outputs."""
    if hasattr(estimator, "predict_proba"):
        return [np.asarray(estimator.predict(rows)), np.asarray(estimator.predict_proba(rows))]
    if classifies:
        return [np.asarray(estimator.predict(rows)), None]
    if hasattr(estimator, "predict"):
        found = np.asarray(estimator.predict(rows))
        return [found.reshape(len(rows), -1)]
    return [np.asarray(estimator.transform(rows))]


def _version() -> str:
    return str(needed("sklearn", "scikit-learn estimators").__version__)
