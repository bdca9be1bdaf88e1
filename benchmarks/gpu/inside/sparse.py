"""Sparse matrices: TensorFlow's own kernels, CSR matrices (cuSPARSE), tridiagonal systems."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness import Case, Settings, quick, rng


def cases(tf: Any, np: Any, settings: Settings) -> Iterator[Case]:
    """Yield the suite's cases."""
    yield from quick(settings, _all(tf, np), 4)


def _made(tf: Any, np: Any, shape: tuple[int, int], dtype: str) -> Any:
    random = rng(np, f"{shape} {dtype}")
    dense = random.standard_normal(shape) * (random.random(shape) < 0.15)
    dense = dense.astype(dtype)
    places = np.argwhere(dense != 0)
    return tf.SparseTensor(places, dense[tuple(places.T)], shape), dense.astype("float64")


def _csr(tf: Any, sparse: Any) -> Any:
    return tf.raw_ops.SparseTensorToCSRSparseMatrix(
        indices=sparse.indices, values=sparse.values, dense_shape=sparse.dense_shape
    )


def _all(tf: Any, np: Any) -> Iterator[Case]:
    raw = tf.raw_ops
    for dtype, near in (("float32", 1e-5), ("float64", 1e-12)):
        a, wide_a = _made(tf, np, (120, 90), dtype)
        b, wide_b = _made(tf, np, (90, 70), dtype)
        right = tf.constant(rng(np, "right").standard_normal((90, 33)), dtype)
        wide = right.numpy().astype("float64")
        yield Case(
            f"sparse times dense {dtype}",
            dtype,
            lambda a=a, r=right: tf.sparse.sparse_dense_matmul(a, r),
            lambda a=wide_a, r=wide: a @ r,
            near,
            ("SparseTensorDenseMatMul",),
        )
        yield Case(
            f"csr times dense {dtype}",
            dtype,
            lambda a=a, r=right: raw.SparseMatrixMatMul(a=_csr(tf, a), b=r),
            lambda a=wide_a, r=wide: a @ r,
            near,
            ("SparseMatrixMatMul", "SparseTensorToCSRSparseMatrix"),
        )
        yield Case(
            f"csr transposed times dense {dtype}",
            dtype,
            lambda a=b, r=right: raw.SparseMatrixMatMul(a=_csr(tf, a), b=r, transpose_a=True),
            lambda a=wide_b, r=wide: a.T @ r,
            near,
            ("SparseMatrixMatMul",),
        )
        yield Case(
            f"csr times csr {dtype}",
            dtype,
            lambda a=a, b=b, t=dtype: raw.CSRSparseMatrixToDense(
                sparse_input=raw.SparseMatrixSparseMatMul(
                    a=_csr(tf, a), b=_csr(tf, b), type=tf.as_dtype(t)
                ),
                type=tf.as_dtype(t),
            ),
            lambda a=wide_a, b=wide_b: a @ b,
            near,
            ("SparseMatrixSparseMatMul",),
        )
        yield Case(
            f"csr sum {dtype}",
            dtype,
            lambda a=a, t=dtype: raw.CSRSparseMatrixToDense(
                sparse_input=raw.SparseMatrixAdd(
                    a=_csr(tf, a),
                    b=_csr(tf, a),
                    alpha=tf.constant(2.0, t),
                    beta=tf.constant(-0.5, t),
                ),
                type=tf.as_dtype(t),
            ),
            lambda a=wide_a: 1.5 * a,
            near,
            ("SparseMatrixAdd",),
        )
        yield from _tridiagonal(tf, np, dtype, near)


def _tridiagonal(tf: Any, np: Any, dtype: str, near: float) -> Iterator[Case]:
    random = rng(np, f"tridiagonal {dtype}")
    diagonals = random.standard_normal((3, 50)).astype(dtype)
    diagonals[1] += 6
    full = np.diag(diagonals[1]).astype("float64")
    full += np.diag(diagonals[0][:-1], 1) + np.diag(diagonals[2][1:], -1)
    right = random.standard_normal((50, 4)).astype(dtype)
    for pivoting in (True, False):
        yield Case(
            f"tridiagonal system {dtype}, pivoting {pivoting}",
            dtype,
            lambda p=pivoting: tf.linalg.tridiagonal_solve(
                tf.constant(diagonals), tf.constant(right), "compact", partial_pivoting=p
            ),
            lambda: np.linalg.solve(full, right.astype("float64")),
            near,
            ("TridiagonalSolve",),
        )
