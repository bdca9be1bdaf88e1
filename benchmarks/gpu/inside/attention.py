"""Attention as transformers have it: products, masks and softmax, in the types that serve."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness import Case, Settings, quick, rng

_NEAR = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}


def cases(tf: Any, np: Any, settings: Settings) -> Iterator[Case]:
    """Yield the suite's cases."""
    yield from quick(settings, _all(tf, np), 4)


def _all(tf: Any, np: Any) -> Iterator[Case]:
    for dtype, near in _NEAR.items():
        for batch, heads, steps, width in ((1, 2, 16, 8), (2, 8, 128, 64), (1, 12, 77, 64)):
            for causal in (False, True):
                name = f"{dtype} {batch}x{heads}x{steps}x{width}{', causal' * causal}"
                shape = (batch, heads, steps, width)
                random = rng(np, name)
                q, k, v = (
                    tf.cast(tf.constant(random.standard_normal(shape)), dtype) for _ in range(3)
                )
                wide = [tf.cast(one, "float64").numpy() for one in (q, k, v)]
                for way in ("ops", "graph", "xla"):
                    work = _attention(tf, causal)
                    if way != "ops":
                        work = tf.function(work, jit_compile=way == "xla")
                    yield Case(
                        f"{name}, {way}",
                        dtype,
                        lambda work=work, q=q, k=k, v=v: work(q, k, v),
                        lambda wide=wide, causal=causal: _right(np, *wide, causal=causal),
                        near,
                        ("BatchMatMulV2", "Softmax", *(["@xla"] if way == "xla" else [])),
                    )


def _attention(tf: Any, causal: bool) -> Any:
    def work(q: Any, k: Any, v: Any) -> Any:
        steps = q.shape[-2]
        scores = tf.matmul(q, k, transpose_b=True) / tf.cast(q.shape[-1] ** 0.5, q.dtype)
        if causal:
            mask = tf.linalg.band_part(tf.ones((steps, steps), q.dtype), -1, 0)
            scores = scores * mask - 1e4 * (1 - mask)
        return tf.matmul(tf.nn.softmax(scores), v)

    return work


def _right(np: Any, q: Any, k: Any, v: Any, *, causal: bool) -> Any:
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1])
    if causal:
        mask = np.tril(np.ones(scores.shape[-2:]))
        scores = scores * mask - 1e4 * (1 - mask)
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return scores / scores.sum(axis=-1, keepdims=True) @ v
