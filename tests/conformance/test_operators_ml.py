"""Operators of the domain ai.onnx.ml against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from nodes import assert_same, floats, gradcheck, node_model, output_info, run_onnxruntime

from onnxinfo import ConversionError, convert

ML = "ai.onnx.ml"
X = floats(5, 4)


def declared(*shape: int) -> list[Any]:
    return [output_info("output_0", "tensor(float)", shape)]


def both(op_type: str, inputs: list[Any], **settings: Any) -> None:
    assert_same(op_type, inputs, domain=ML, **settings)
    gradcheck(op_type, inputs, domain=ML, **settings)


@pytest.mark.parametrize("scale", [[0.5, 2.0, 3.0, 0.1], [4.0]])
def test_scaler(scale: list[float]) -> None:
    offset = [0.3 * (i + 1) for i in range(len(scale))]
    both("Scaler", [X], scale=scale, offset=offset, declared=declared(5, 4))


def test_scaler_of_integers() -> None:
    values = np.arange(12).reshape(3, 4)
    assert_same("Scaler", [values], domain=ML, scale=[0.5], offset=[1.0], declared=declared(3, 4))


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
def test_normalizer(norm: str) -> None:
    rows = np.abs(X) + 0.1 if norm == "MAX" else X
    both("Normalizer", [rows], norm=norm, declared=declared(5, 4))


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
def test_normalizer_leaves_empty_rows(norm: str) -> None:
    rows = np.abs(X)
    rows[2] = 0
    assert_same("Normalizer", [rows], domain=ML, norm=norm, declared=declared(5, 4))


@pytest.mark.parametrize("missing", [np.nan, -7.0])
@pytest.mark.parametrize("imputed", [[1.0, 2.0, 3.0, 4.0], [0.5]])
def test_imputer(missing: float, imputed: list[float]) -> None:
    values = X.copy()
    values[1, 2] = values[3, 0] = missing
    settings = {"replaced_value_float": missing, "imputed_value_floats": imputed, "declared": declared(5, 4)}
    assert_same("Imputer", [values], domain=ML, **settings)


def test_imputed_values_have_no_gradient() -> None:
    settings = {"replaced_value_float": float("nan"), "imputed_value_floats": [9.0], "declared": declared(1, 3)}
    module = convert(node_model("Imputer", [np.zeros((1, 3), np.float32)], domain=ML, **settings), fallback=False)
    x = torch.tensor([[1.0, torch.nan, 2.0]], requires_grad=True)
    (y,) = module(x)
    y.sum().backward()
    assert y.tolist() == [[1, 9, 2]]
    assert x.grad is not None
    assert x.grad.tolist() == [[1, 0, 1]]


def test_feature_vectorizer() -> None:
    both("FeatureVectorizer", [X, floats(5, 2, seed=1)], inputdimensions=[4, 2], declared=declared(5, 6))


def test_array_feature_extractor() -> None:
    both("ArrayFeatureExtractor", [X, np.array([[2, 0, 2]])], constants=[1], declared=declared(5, 3))
    assert_same("ArrayFeatureExtractor", [X[0], np.array([3])], domain=ML, declared=declared(1, 1))


@pytest.mark.parametrize("intercepts", [[], [0.5, -1.0]])
def test_linear_regressor(intercepts: list[float]) -> None:
    coefficients = floats(8, seed=2).tolist()
    settings = {"intercepts": intercepts} if intercepts else {}
    both("LinearRegressor", [X], coefficients=coefficients, targets=2, declared=declared(5, 2), **settings)


def test_linear_regressor_with_another_last_step_is_refused() -> None:
    model = node_model(
        "LinearRegressor", [X], domain=ML, coefficients=[1.0] * 4, post_transform="PROBIT", declared=declared(5, 1)
    )
    with pytest.raises(ConversionError, match="PROBIT"):
        convert(model, fallback=False)(torch.from_numpy(X))


TRANSFORMS = ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"]


def classifier(op_type: str, classes: int, strings: bool, **settings: Any) -> None:
    """Compare labels and scores with ONNX Runtime, and check the gradient of the scores."""
    names = [f"class {i}" for i in range(classes)]
    labels = {"classlabels_strings": names} if strings else {"classlabels_ints": list(range(3, 3 + classes))}
    kind = "tensor(string)" if strings else "tensor(int64)"
    outputs = [output_info("output_0", kind, [5]), output_info("output_1", "tensor(float)", [5, None])]
    model = node_model(op_type, [X], 2, domain=ML, declared=outputs, **labels, **settings)
    expected = run_onnxruntime(model, {"input_0": X})
    label, scores = convert(model, fallback=False)(torch.from_numpy(X))
    assert np.asarray(label).tolist() == expected[0].tolist()
    np.testing.assert_allclose(scores.numpy(), expected[1], rtol=1e-5, atol=1e-6)
    module = convert(model, ["output_1"], fallback=False).double()
    x = torch.from_numpy(X).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: module(x)[0], [x], fast_mode=True)


@pytest.mark.parametrize("strings", [False, True])
@pytest.mark.parametrize("post_transform", TRANSFORMS)
@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (2, 2), (3, 3)])
def test_linear_classifier(rows: int, classes: int, post_transform: str, strings: bool) -> None:
    weights = {"coefficients": floats(rows * 4, seed=2).tolist(), "intercepts": floats(rows, seed=3).tolist()}
    classifier("LinearClassifier", classes, strings, post_transform=post_transform, **weights)


def machine(vectors: int, kernel: str) -> dict[str, Any]:
    return {
        "support_vectors": floats(vectors * 4, seed=4).tolist(),
        "kernel_type": kernel,
        "kernel_params": [0.3, 0.5, 3.0],
    }


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("kernel", ["LINEAR", "POLY", "RBF", "SIGMOID"])
@pytest.mark.parametrize("sizes", [[2, 3], [2, 1, 3]])
def test_support_vector_classifier(sizes: list[int], kernel: str, probabilities: bool) -> None:
    classes, count = len(sizes), sum(sizes)
    pairs = classes * (classes - 1) // 2
    settings = {
        **machine(count, kernel),
        "coefficients": floats(count * (classes - 1), seed=5).tolist(),
        "rho": floats(pairs, seed=6).tolist(),
        "vectors_per_class": sizes,
    }
    if probabilities:
        settings |= {"prob_a": [-1.0, -0.7, -1.3][:pairs], "prob_b": [0.1, -0.2, 0.3][:pairs]}
    classifier("SVMClassifier", classes, strings=kernel == "RBF", **settings)


@pytest.mark.parametrize("kernel", ["LINEAR", "POLY", "RBF", "SIGMOID"])
def test_support_vector_regressor(kernel: str) -> None:
    coefficients = floats(6, seed=5).tolist()
    settings = {**machine(6, kernel), "coefficients": coefficients, "n_supports": 6, "rho": [0.4]}
    both("SVMRegressor", [X], declared=declared(5, 1), **settings)
    assert_same("SVMRegressor", [X], domain=ML, declared=declared(5, 1), one_class=1, **settings)


def test_support_vector_regressor_without_vectors() -> None:
    settings = {"coefficients": [0.5, -1.0, 2.0, 0.1], "rho": [0.4], "kernel_params": [0.0, 0.0, 0.0]}
    both("SVMRegressor", [X], declared=declared(5, 1), **settings)


@pytest.mark.parametrize("post_transform", ["LOGISTIC", "SOFTMAX"])
def test_linear_regressor_with_a_last_step(post_transform: str) -> None:
    settings = {"coefficients": floats(8, seed=2).tolist(), "targets": 2, "post_transform": post_transform}
    both("LinearRegressor", [X], declared=declared(5, 2), **settings)
