"""Symmetric matrices in half the memory and at full BLAS-3 speed.

The d x d Gram matrix of the router is symmetric, so only its d(d+1)/2 upper entries are stored, as one flat float64
vector in LAPACK's rectangular full packed format (Gustavson, Wasniewski, Dongarra, Langou: "Rectangular full packed
format for Cholesky's algorithm", ACM TOMS 37(2), 2010; TRANSR='N', UPLO='U'). Adding two matrices is adding two
vectors; rank-k update, Cholesky and inverse run blocked on the packed form. A rank-k update executes n d^2 flop where
a general product would execute 2 n d^2.

With n1 = d // 2 and n2 = d - n1 the vector is a column-major rectangle of n2 columns that holds three blocks:

    rows 0 .. n1-1        A12, whole                     (n1 x n2)
    rows n1 .. d-1        A22, its upper triangle        (n2 x n2)
    rows n1+1 ..          A11 transposed, lower triangle (n1 x n1, in the first n1 columns)

Does not know what the matrices mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas, lapack

from learning.errors import SolveError

Float64 = NDArray[np.float64]

_LAYOUT = {"transr": "N", "uplo": "U"}


def packed_length(dim: int) -> int:
    """Number of stored entries of a symmetric dim x dim matrix."""
    return dim * (dim + 1) // 2


def add_outer(packed: Float64, rows_ND: Float64, alpha: float = 1.0) -> None:
    """packed += alpha * rows^T rows, in place; `rows_ND` is C-contiguous float64[n, d]."""
    count, dim = rows_ND.shape
    if count == 0:
        return
    updated = lapack.dsfrk(dim, count, alpha, rows_ND.T, 1.0, packed, trans="N", overwrite_c=1, **_LAYOUT)
    if not np.shares_memory(updated, packed):  # the wrapper copies what is not aligned float64 of its own
        packed[:] = updated


def add_scaled(target: Float64, source: Float64, weight: float) -> None:
    """target += weight * source, both packed, in place and without a temporary of their size."""
    blas.daxpy(source, target, a=weight)


def blocks(packed: Float64, dim: int) -> tuple[Float64, Float64, Float64]:
    """Views (A11 as lower triangle, A12 whole, A22 as upper triangle) into the packed vector."""
    head = dim // 2
    tail = dim - head
    rectangle = packed.reshape((packed.size // tail, tail), order="F")
    return rectangle[head + 1 : 2 * head + 1, :head], rectangle[:head], rectangle[head : head + tail]


def times(packed: Float64, right_DK: Float64) -> Float64:
    """The product A @ right, float64[d, k]."""
    dim = right_DK.shape[0]
    head = dim // 2
    right = np.asfortranarray(right_DK)
    product = np.empty_like(right, order="F")
    lower11, whole12, upper22 = blocks(packed, dim)
    product[head:] = blas.dsymm(1.0, upper22, right[head:], lower=0)
    if head:
        product[head:] += whole12.T @ right[:head]
        product[:head] = blas.dsymm(1.0, lower11, right[:head], lower=1)
        product[:head] += whole12 @ right[head:]
    return product


def add_diagonal(packed: Float64, dim: int, value: float) -> None:
    """packed += value * I, in place."""
    lower11, _, upper22 = blocks(packed, dim)
    for block in (lower11, upper22):
        index = np.arange(block.shape[1])
        block[index, index] += value


def factor(packed: Float64, dim: int, context: str) -> Float64:
    """Cholesky factor (packed) of a packed positive definite matrix, which it consumes; `context` is for the error.

    Raises `SolveError` when the matrix is not positive definite.
    """
    factored, info = lapack.dpftrf(dim, packed, overwrite_a=1, **_LAYOUT)
    if info != 0:
        raise SolveError(
            f"{context}: matrix of order {dim} is not positive definite (leading minor {info}); "
            "raise the ridge, or look for features that are not finite or astronomically large"
        )
    result: Float64 = factored
    return result


def solve_factored(factored: Float64, right_DK: Float64) -> Float64:
    """Solves A x = right from A's packed Cholesky factor; float64[d, k]."""
    if right_DK.shape[1] == 0:
        return np.zeros(right_DK.shape)
    solution, _ = lapack.dpftrs(right_DK.shape[0], factored, np.asfortranarray(right_DK), **_LAYOUT)
    result: Float64 = solution
    return result


def half_solve(factored: Float64, right_DK: Float64) -> Float64:
    """U^-T right from A's packed Cholesky factor, A = U^T U; float64[d, k]. Its columns' squares sum to r^T A^-1 r."""
    if right_DK.shape[1] == 0:
        return np.zeros(right_DK.shape)
    result: Float64 = lapack.dtfsm(1.0, factored, np.asfortranarray(right_DK), side="L", trans="T", **_LAYOUT)
    return result


def invert_factored(factored: Float64, dim: int) -> Float64:
    """The inverse, packed, from a packed Cholesky factor (which it consumes)."""
    inverse, info = lapack.dpftri(dim, factored, overwrite_a=1, **_LAYOUT)
    if info != 0:
        raise SolveError(f"inverting a factored matrix of order {dim}: zero on the diagonal at {info}; raise the ridge")
    result: Float64 = inverse
    return result
