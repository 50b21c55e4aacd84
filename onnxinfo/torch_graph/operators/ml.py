"""Operators of the domain ``ai.onnx.ml`` that scikit-learn pipelines put before and after a network."""

from __future__ import annotations

import torch

from ..host import like
from .ml_classifiers import as_float, post_transformed
from .table import operator

_ML = "ai.onnx.ml"


@operator(domain=_ML)
def Scaler(X, *, offset, scale):
    X = as_float(X)
    return (X - like(X, offset)) * like(X, scale)


@operator(domain=_ML)
def Normalizer(X, *, norm="MAX"):
    X = as_float(X)
    if norm == "MAX":
        size = X.amax(-1, keepdim=True)
    else:
        size = torch.linalg.vector_norm(X, {"L1": 1, "L2": 2}[norm], -1, keepdim=True)
    # Rows of norm zero are left unchanged.
    return X / torch.where(size == 0, torch.ones_like(size), size)


@operator(domain=_ML)
def Imputer(X, *, imputed_value_floats=(), imputed_value_int64s=(), replaced_value_float=0.0, replaced_value_int64=0):
    is_float = X.is_floating_point()
    values = like(X, imputed_value_floats if is_float else imputed_value_int64s)
    replaced = replaced_value_float if is_float else replaced_value_int64
    missing = X.isnan() if replaced != replaced else X == replaced
    return torch.where(missing, values, X)


@operator(domain=_ML)
def FeatureVectorizer(*X, inputdimensions):
    return torch.cat([as_float(x).reshape(len(x), -1)[:, :n] for x, n in zip(X, inputdimensions, strict=True)], 1)


@operator(domain=_ML)
def ArrayFeatureExtractor(X, Y):
    X = X.unsqueeze(0) if X.dim() == 1 else X
    return X.index_select(-1, torch.as_tensor(Y, device=X.device).reshape(-1))


@operator(domain=_ML)
def LinearRegressor(X, *, coefficients=(), intercepts=(), post_transform="NONE", targets=1):
    X = as_float(X)
    Y = X @ like(X, coefficients).reshape(targets, -1).T
    return post_transformed(Y + like(X, intercepts) if intercepts else Y, post_transform)
