"""Functions that XLA compiles for the device (jit_compile=True), which starts ptxas on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness import Case, Settings, quick, rng


def cases(tf: Any, np: Any, settings: Settings) -> Iterator[Case]:
    """Yield the suite's cases."""
    yield from quick(settings, _all(tf, np), 6)


def _all(tf: Any, np: Any) -> Iterator[Case]:
    random = rng(np, "xla")
    x = random.standard_normal((64, 96)).astype("float32")
    w = random.standard_normal((96, 40)).astype("float32")
    square = (x[:, :64] @ x[:, :64].T / 64 + 3 * np.eye(64)).astype("float32")
    image = random.standard_normal((2, 20, 20, 6)).astype("float32")
    kernel = random.standard_normal((3, 3, 6, 8)).astype("float32")
    wide, wide_w, wide_s = (one.astype("float64") for one in (x, w, square))

    def loop(v: Any) -> Any:
        return tf.while_loop(lambda i, _: i < 5, lambda i, a: (i + 1, tf.sin(a) + a), (0, v))[1]

    def looped() -> Any:
        value = wide
        for _ in range(5):
            value = np.sin(value) + value
        return value

    def convolved() -> Any:
        with tf.device("/CPU:0"):
            return tf.nn.conv2d(image.astype("f8"), kernel.astype("f8"), 1, "SAME").numpy()

    table: tuple[tuple[str, Any, tuple[Any, ...], Any, float, tuple[str, ...]], ...] = (
        (
            "element-wise and a sum",
            lambda v: tf.reduce_sum(tf.exp(-tf.abs(v)) * tf.tanh(v) + 1, axis=1),
            (x,),
            lambda: (np.exp(-np.abs(wide)) * np.tanh(wide) + 1).sum(axis=1),
            1e-5,
            (),
        ),
        (
            "product and gelu",
            lambda a, b: tf.nn.gelu(tf.matmul(a, b), approximate=True),
            (x, w),
            lambda: _gelu(np, wide @ wide_w),
            1e-5,
            ("MatMul",),
        ),
        ("softmax", tf.nn.softmax, (x,), lambda: _softmax(np, wide), 1e-5, ()),
        (
            "layer normalisation",
            lambda v: (v - tf.reduce_mean(v, 1, True)) / tf.math.reduce_std(v, 1, True),
            (x,),
            lambda: (wide - wide.mean(1, keepdims=True)) / wide.std(1, keepdims=True),
            1e-5,
            (),
        ),
        ("loop", loop, (x,), looped, 1e-5, ()),
        ("cumulative sum", lambda v: tf.cumsum(v, 1), (x,), lambda: wide.cumsum(1), 1e-5, ()),
        ("sort", lambda v: tf.sort(v, 1), (x,), lambda: np.sort(x, 1), 0.0, ()),
        ("transpose", lambda v: tf.transpose(v) + 1, (x,), lambda: wide.T + 1, 1e-6, ()),
        ("gather", lambda v: tf.gather(v, [5, 3, 5]), (x,), lambda: x[[5, 3, 5]], 0.0, ()),
        (
            "convolution",
            lambda a, b: tf.nn.conv2d(a, b, 1, "SAME"),
            (image, kernel),
            convolved,
            1e-5,
            ("Conv2D",),
        ),
        (
            "cholesky",
            tf.linalg.cholesky,
            (square,),
            lambda: np.linalg.cholesky(wide_s),
            1e-4,
            ("Cholesky",),
        ),
        (
            "fft",
            lambda v: tf.signal.fft(tf.cast(v, "complex64")),
            (x,),
            lambda: np.fft.fft(wide),
            1e-5,
            ("FFT",),
        ),
        (
            "random numbers, the same for a seed",
            lambda: tf.random.stateless_uniform((1000,), (3, 4), alg="threefry"),
            (),
            lambda: _on_cpu(tf),
            0.0,
            (),
        ),
    )
    for name, work, given, right, near, ops in table:
        compiled = tf.function(work, jit_compile=True)
        yield Case(
            name,
            "float32",
            lambda f=compiled, given=given: f(*map(tf.constant, given)),
            right,
            near,
            (*ops, "@xla"),
        )


def _on_cpu(tf: Any) -> Any:
    work = tf.function(
        lambda: tf.random.stateless_uniform((1000,), (3, 4), alg="threefry"), jit_compile=True
    )
    with tf.device("/CPU:0"):
        return work().numpy()


def _softmax(np: Any, values: Any) -> Any:
    values = np.exp(values - values.max(axis=-1, keepdims=True))
    return values / values.sum(axis=-1, keepdims=True)


def _gelu(np: Any, v: Any) -> Any:
    return 0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)))
