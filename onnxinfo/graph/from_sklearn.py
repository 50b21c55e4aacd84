"""Export a scikit-learn estimator through skl2onnx.

An estimator of numbers gets one input for all columns. One that was fitted on a DataFrame with columns of text gets an
input for each column, under its name: noise is added to the numbers, and texts are held.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UsageError
from .exported import Array, Exported, failure, needed

OPSET = 18
#: Version of the operators of ai.onnx.ml: skl2onnx exports isolation forests in none newer.
ML_OPSET = 3
_ROWS = 32
#: Trees compare in float32, so that single rows beside a threshold may take the other branch.
_SHARE = 0.9
INPUT = "features"
_NEIGHBORS = ("KNeighborsClassifier", "KNeighborsRegressor")


def export_sklearn(estimator: Any, example: Any) -> Exported:
    """Export a fitted estimator or pipeline that takes a table.

    Parameters
    ----------
    estimator
        The estimator.
    example
        Rows of its input, on which the exported model is checked; default: generated numbers. Columns of text are only
        known from a DataFrame.

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
    classifies = hasattr(estimator, "predict_proba") or hasattr(estimator, "decision_function")
    options = _neighbors_options(estimator)
    # Mixtures have probabilities, too, but no classes.
    if hasattr(estimator, "predict_proba") and hasattr(estimator, "classes_"):
        options[id(estimator)] = options.get(id(estimator), {}) | {"zipmap": False}
    tables = _tables(estimator, example, int(width), types)
    for table in tables:
        try:
            proto = converter.to_onnx(
                estimator,
                initial_types=table.types,
                target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET},
                options=options or None,
            )
            expected = _expected(estimator, table.rows, classifies)
            break
        except Exception as error:
            if table is tables[-1]:
                raise failure(f"skl2onnx cannot export {name}", error, _remedy(estimator, table)) from None
    # Of a classifier, only the label and the probabilities are known; other outputs are not compared.
    expected += [None] * (len(proto.graph.output) - len(expected))
    how = f"scikit-learn {_version()}, skl2onnx {converter.__version__}, opset {OPSET}"
    return Exported(proto, name, how, table.feeds, expected[: len(proto.graph.output)], _SHARE)


def _neighbors_options(estimator: Any) -> dict[int, dict[str, Any]]:
    """Options that export Euclidean distances to neighbors as one operator, 17 times as fast as a loop over rows."""
    parts = [estimator, *(step for _, step in getattr(estimator, "steps", ()))]
    near = [part for part in parts if type(part).__name__ in _NEIGHBORS]
    return {id(part): {"optim": "cdist"} for part in near if part.effective_metric_ == "euclidean"}


def _remedy(estimator: Any, table: _Table) -> str:
    own = "export it yourself and give the ONNX file"
    is_named = INPUT in table.feeds and hasattr(estimator, "feature_names_in_")
    return (
        f"if it takes columns by name or text, give a DataFrame as samples or example; else {own}" if is_named else own
    )


@dataclass(frozen=True)
class _Table:
    """An example: what the estimator and the exported model take, and the types of the latter's inputs."""

    rows: Any
    feeds: dict[str, Array]
    types: list[tuple[str, Any]]


def _tables(estimator: Any, example: Any, width: int, types: Any) -> list[_Table]:
    """Return the forms in which a table may be taken: numbers in one input, or the columns of a DataFrame."""
    known = list(getattr(estimator, "feature_names_in_", ()))
    named = bool(known) and all(name in getattr(example, "columns", ()) for name in known)
    columns = [_columns(example[known][:_ROWS], types)] if named else []
    if columns and any(feed.dtype.kind not in "f" for feed in columns[0].feeds.values()):
        return columns
    chosen = example[known][:_ROWS] if named else example
    given = _rows(chosen, width, type(estimator).__name__)
    # An estimator that knows names warns of arrays.
    rows = chosen if named else given.astype(np.float64)
    numbers = _Table(rows, {INPUT: given}, [(INPUT, types.FloatTensorType([None, width]))])
    return [numbers, *columns]


def _columns(rows: Any, types: Any) -> _Table:
    """Return the columns of a DataFrame, each for an input of its own."""
    feeds: dict[str, Array] = {}
    kinds: list[tuple[str, Any]] = []
    for name in rows.columns:
        column = np.asarray(rows[name])
        is_number = column.dtype.kind in "biuf"
        feeds[name] = column.astype(np.float32 if is_number else str).reshape(-1, 1)
        kinds.append((name, (types.FloatTensorType if is_number else types.StringTensorType)([None, 1])))
    return _Table(rows, feeds, kinds)


def _rows(example: Any, width: int, name: str) -> Array:
    if example is None:
        return np.random.default_rng(0).standard_normal((_ROWS, width)).astype(np.float32)
    try:
        found = np.asarray(example, dtype=np.float32)
    except (TypeError, ValueError):
        raise UsageError(f"{name} does not accept the example: give rows of {width} numbers") from None
    if found.ndim != 2 or found.shape[1] != width:
        raise UsageError(f"{name} does not accept an example of shape {found.shape}; give rows of {width} numbers")
    return found


def _expected(estimator: Any, rows: Any, classifies: bool) -> list[Array | None]:
    """Return what the estimator computes, from float64; some that were fitted to float32 accept nothing else."""
    try:
        return _outputs(estimator, rows, classifies)
    except ValueError:
        if not isinstance(rows, np.ndarray):
            raise
        return _outputs(estimator, rows.astype(np.float32), classifies)


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
