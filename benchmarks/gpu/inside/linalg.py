"""Factorisations and systems of equations (cuSOLVER, cuBLAS), judged by what they are for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness import Case, Settings, quick, rng

_TOLERANCE = {"float32": 2e-4, "float64": 1e-10, "complex64": 2e-4}
_SHAPES = ((8, 8), (65, 65), (3, 24, 24), (160, 160))


def cases(tf: Any, np: Any, settings: Settings) -> Iterator[Case]:
    """Yield the suite's cases."""
    for dtype in _TOLERANCE:
        yield from quick(settings, _of(tf, np, dtype), 6)
    bad = tf.constant([[1.0, 2.0], [2.0, 1.0]])
    yield Case(
        "inverse of a singular matrix",
        "float32",
        lambda: tf.linalg.inv(tf.ones((3, 3))),
        ops=("MatrixInverse",),
        error="InvalidArgumentError",
    )
    yield Case(
        "right side of another size",
        "float32",
        lambda: tf.linalg.solve(bad, tf.ones((3, 1))),
        ops=("MatrixSolve",),
        error="InvalidArgumentError",
    )


def _matrix(tf: Any, np: Any, dtype: str, shape: Any) -> Any:
    """Return a well conditioned matrix, and a positive definite one."""
    random = rng(np, f"{dtype} {shape}")
    a = random.standard_normal(shape)
    if dtype == "complex64":
        a = a + 1j * random.standard_normal(shape)
    size = shape[-1]
    a = a / np.sqrt(size) + 3 * np.eye(size)
    square = a @ np.conj(np.swapaxes(a, -1, -2))
    return tf.constant(a, dtype), tf.constant(square, dtype)


def _of(tf: Any, np: Any, dtype: str) -> Iterator[Case]:
    linalg, near = tf.linalg, _TOLERANCE[dtype]
    wide = "complex128" if dtype == "complex64" else "float64"
    for shape in _SHAPES:
        a, square = _matrix(tf, np, dtype, shape)
        b = tf.constant(rng(np, "b").standard_normal((*shape[:-1], 5)), dtype)
        wide_a, wide_s, wide_b = (one.numpy().astype(wide) for one in (a, square, b))

        def case(name: str, op: str, run: Any, right: Any) -> Case:
            return Case(f"{name} {dtype} {shape}", dtype, run, right, near, (op,))  # noqa: B023

        yield case(
            "cholesky",
            "Cholesky",
            lambda s=square: linalg.cholesky(s),
            lambda s=wide_s: np.linalg.cholesky(s),
        )
        yield case(
            "inverse", "MatrixInverse", lambda a=a: linalg.inv(a), _call(np.linalg.inv, wide_a)
        )
        yield case(
            "solve",
            "MatrixSolve",
            lambda a=a, b=b: linalg.solve(a, b),
            _call(np.linalg.solve, wide_a, wide_b),
        )
        yield case(
            "qr, put together",
            "Qr",
            lambda a=a: linalg.matmul(*linalg.qr(a)),
            lambda a=wide_a: a,
        )
        yield case(
            "singular values",
            "Svd",
            lambda a=a: linalg.svd(a, compute_uv=False),
            lambda a=wide_a: np.linalg.svd(a, compute_uv=False),
        )
        yield case(
            "eigenvalues",
            "SelfAdjointEigV2",
            lambda s=square: tf.math.real(linalg.eigvalsh(s)),
            lambda s=wide_s: np.linalg.eigvalsh(s),
        )
        yield case(
            "determinant's logarithm",
            "LogMatrixDeterminant",
            lambda a=a: tf.math.real(linalg.slogdet(a)[1]),
            lambda a=wide_a: np.linalg.slogdet(a)[1],
        )
        yield case("lu, put together", "Lu", lambda a=a: _lu(tf, a), lambda a=wide_a: a)
        lower = np.linalg.cholesky(wide_s)
        below = tf.constant(lower, dtype)
        yield case(
            "triangular solve",
            "MatrixTriangularSolve",
            lambda low=below, b=b: linalg.triangular_solve(low, b),
            _call(np.linalg.solve, lower, wide_b),
        )


def _call(function: Any, *arguments: Any) -> Any:
    return lambda: function(*arguments)


def _lu(tf: Any, a: Any) -> Any:
    lower_upper, permutation = tf.linalg.lu(a)
    return tf.linalg.lu_reconstruct(lower_upper, permutation)
