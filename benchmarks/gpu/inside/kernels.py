"""TensorFlow's own kernels: most of them are PTX alone in stock TensorFlow on newer GPUs.

The time of each first call with an empty CUDA_CACHE_PATH is what compiling PTX costs a user.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness import Case, Settings, quick, rng

_NEAR = {"float16": 4e-3, "bfloat16": 2e-2, "float32": 4e-6, "float64": 1e-12}
_UNARY = [
    "abs",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "ceil",
    "cos",
    "cosh",
    "digamma",
    "erf",
    "erfc",
    "exp",
    "expm1",
    "floor",
    "is_finite",
    "is_inf",
    "is_nan",
    "lgamma",
    "log",
    "log1p",
    "ndtri",
    "negative",
    "reciprocal",
    "rint",
    "round",
    "rsqrt",
    "sigmoid",
    "sign",
    "sin",
    "sinh",
    "softplus",
    "softsign",
    "sqrt",
    "square",
    "tan",
    "tanh",
]
_BINARY = [
    "add",
    "atan2",
    "divide",
    "equal",
    "floordiv",
    "floormod",
    "greater",
    "less",
    "maximum",
    "minimum",
    "multiply",
    "not_equal",
    "pow",
    "squared_difference",
    "subtract",
    "xdivy",
    "xlogy",
]
_INTEGERS = ("abs", "negative", "sign", "square", "add", "floordiv", "maximum", "multiply", "less")
# Where arguments have to lie for a result that a reference can be held against.
_BETWEEN_0_AND_1 = {"acos", "asin", "atanh", "ndtri", "erfinv"}
_ABOVE_1 = {"acosh"}
# A quotient that is rounded to a short type may land on the other side of a whole number.
_STEPS = {"floordiv", "floormod"}
_POSITIVE = {"log", "log1p", "rsqrt", "sqrt", "lgamma", "digamma", "reciprocal", "pow", "xlogy"}


def cases(tf: Any, np: Any, settings: Settings) -> Iterator[Case]:
    """Yield the suite's cases."""
    yield from quick(settings, _elementwise(tf, np), 30)
    yield from quick(settings, _others(tf, np), 15)


def _values(np: Any, name: str, shape: tuple[int, ...]) -> Any:
    unit = rng(np, name).random(shape)
    if name in _BETWEEN_0_AND_1:
        return unit * 0.9 + 0.05
    if name in _ABOVE_1:
        return unit * 3 + 1.1
    return unit * 3 + 0.1 if name in _POSITIVE else unit * 4 - 2


def _elementwise(tf: Any, np: Any) -> Iterator[Case]:
    for dtype, near in _NEAR.items():
        for name in (*_UNARY, *_BINARY):
            if name in _STEPS and dtype in ("float16", "bfloat16"):
                continue
            count = 2 if name in _BINARY else 1
            given = [
                tf.cast(tf.constant(_values(np, name, (3, 211)) + 0.37 * i), dtype)
                for i in range(count)
            ]
            yield _against_cpu(tf, f"{name} {dtype}", _function(tf, name), given, near * 4)
    for dtype in ("int32", "int64", "int8", "uint8"):
        for name in _INTEGERS:
            if dtype == "uint8" and name in ("abs", "negative", "sign"):
                continue
            count = 2 if name in _BINARY else 1
            draw = rng(np, f"{name} {dtype}").integers(1, 9, (count, 3, 211))
            given = [tf.cast(tf.constant(one), dtype) for one in draw]
            yield _against_cpu(tf, f"{name} {dtype}", _function(tf, name), given, None)


def _function(tf: Any, name: str) -> Any:
    for place in (tf.math, tf.nn, tf):
        if hasattr(place, name):
            return getattr(place, name)
    raise AttributeError(name)


def _against_cpu(tf: Any, name: str, work: Any, given: list[Any], near: Any) -> Case:
    """Compare with the same op on the CPU, in float64 where the type is a floating one."""

    def reference() -> Any:
        with tf.device("/CPU:0"):
            wide = [tf.cast(one, "float64") if one.dtype.is_floating else one for one in given]
            try:
                return work(*map(tf.identity, wide)).numpy()
            except (tf.errors.NotFoundError, tf.errors.InvalidArgumentError):
                return work(*(tf.cast(one, "float32") for one in given)).numpy()

    dtype = str(given[0].dtype.name)
    return Case(name, dtype, lambda: work(*given), reference, near)


def _others(tf: Any, np: Any) -> Iterator[Case]:
    """Reductions, sorting, indexing, images: each against the CPU."""
    x = tf.constant(rng(np, "others").standard_normal((6, 128)), "float32")
    image = tf.constant(rng(np, "image").random((2, 16, 18, 3)), "float32")
    index = tf.constant(rng(np, "index").integers(0, 6, 40))
    table: dict[str, tuple[Any, list[Any], Any]] = {
        "sum": (lambda v: tf.reduce_sum(v, 1), [x], 1e-5),
        "mean of all": (lambda v: tf.reduce_mean(v)[None], [x], 1e-5),
        "largest": (lambda v: tf.reduce_max(v, 0), [x], None),
        "product": (lambda v: tf.reduce_prod(v[:, :9], 1), [x], 1e-5),
        "all of": (lambda v: tf.reduce_all(v > -9, 1), [x], None),
        "argmax": (lambda v: tf.argmax(v, 1), [x], None),
        "top 5": (lambda v: tf.math.top_k(v, 5).values, [x], None),
        "sort": (lambda v: tf.sort(v, 1), [x], None),
        "cumulative sum": (lambda v: tf.cumsum(v, 1), [x], 1e-5),
        "cumulative product": (lambda v: tf.math.cumprod(v[:, :20], 1), [x], 1e-5),
        "softmax": (tf.nn.softmax, [x], 1e-5),
        "log softmax": (tf.nn.log_softmax, [x], 1e-5),
        "l2 normalise": (lambda v: tf.nn.l2_normalize(v, 1), [x], 1e-5),
        "leaky relu": (tf.nn.leaky_relu, [x], 1e-6),
        "elu": (tf.nn.elu, [x], 1e-5),
        "selu": (tf.nn.selu, [x], 1e-5),
        "bias": (lambda v: tf.nn.bias_add(v, tf.ones(128, v.dtype)), [x], 1e-6),
        "gather": (tf.gather, [x, index], None),
        "gather nd": (lambda v, i: tf.gather_nd(v, i[:, None]), [x, index], None),
        "scatter": (lambda v: tf.scatter_nd([[3], [1]], v[:2], (6, 128)), [x], 1e-6),
        "segment sum": (
            lambda v: tf.math.unsorted_segment_sum(v, [0, 1, 0, 2, 2, 1], 3),
            [x],
            1e-5,
        ),
        "one hot": (lambda i: tf.one_hot(i, 6), [index], None),
        "where": (lambda v: tf.where(v > 0, v, -v), [x], None),
        "places": (lambda v: tf.where(v > 1), [x], None),
        "strided slice": (lambda v: v[::2, 5:90:3], [x], None),
        "reverse": (lambda v: tf.reverse(v, [1]), [x], None),
        "roll": (lambda v: tf.roll(v, 7, 1), [x], None),
        "tile": (lambda v: tf.tile(v, (2, 3)), [x], None),
        "pad": (lambda v: tf.pad(v, ((1, 2), (3, 4))), [x], None),
        "transpose": (tf.transpose, [x], None),
        "concatenate": (lambda v: tf.concat((v, v, -v), 0), [x], None),
        "split": (lambda v: tf.concat(tf.split(v, 4, 1), 0), [x], None),
        "clip": (lambda v: tf.clip_by_value(v, -1, 1), [x], None),
        "cast to half and back": (lambda v: tf.cast(tf.cast(v, "float16"), "float32"), [x], 1e-3),
        "resize bilinear": (lambda v: tf.image.resize(v, (31, 9)), [image], 1e-5),
        "resize nearest": (
            lambda v: tf.image.resize(v, (31, 9), method="nearest"),
            [image],
            1e-6,
        ),
        "crop and resize": (
            lambda v: tf.image.crop_and_resize(v, [[0.1, 0.1, 0.9, 0.8]], [0], (7, 7)),
            [image],
            1e-4,
        ),
        "hue": (lambda v: tf.image.adjust_hue(v, 0.2), [image], 1e-4),
        "space to depth": (lambda v: tf.nn.space_to_depth(v, 2), [image], None),
        "stateless random, philox": (
            lambda v: tf.random.stateless_uniform((999,), (1, 2), alg="philox") + 0 * v[0, 0],
            [x],
            1e-6,
        ),
        "stateless normal, philox": (
            lambda v: tf.random.stateless_normal((999,), (1, 2), alg="philox") + 0 * v[0, 0],
            [x],
            1e-5,
        ),
    }
    for name, (work, given, near) in table.items():
        yield _same_on_cpu(tf, name, work, given, near)


def _same_on_cpu(tf: Any, name: str, work: Any, given: list[Any], near: Any) -> Case:
    def reference() -> Any:
        with tf.device("/CPU:0"):
            return work(*map(tf.identity, given)).numpy()

    return Case(name, str(given[0].dtype.name), lambda: work(*given), reference, near)
