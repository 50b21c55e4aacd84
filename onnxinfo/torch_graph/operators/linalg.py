"""Matrix products."""

from __future__ import annotations

import torch

from .table import operator


@operator(versions=(7, None))
def Gemm(A, B, C=None, *, alpha=1.0, beta=1.0, transA=0, transB=0):
    A = A.t() if transA else A
    B = B.t() if transB else B
    if C is None:
        return A @ B if alpha == 1 else alpha * (A @ B)
    if A.is_floating_point():
        return torch.addmm(C, A, B, beta=beta, alpha=alpha)
    return ((A @ B) * alpha + C * beta).to(A.dtype)


@operator("Gemm", versions=(1, 6))
def Gemm_1(A, B, C, *, alpha=1.0, beta=1.0, broadcast=0, transA=0, transB=0):
    return Gemm(A, B, C, alpha=alpha, beta=beta, transA=transA, transB=transB)


@operator()
def MatMul(A, B):
    return torch.matmul(A, B)


@operator()
def Einsum(*Inputs, equation):
    return torch.einsum(equation, *Inputs)


@operator()
def Det(X):
    return torch.linalg.det(X)
