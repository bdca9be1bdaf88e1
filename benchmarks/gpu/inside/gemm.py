"""Products of matrices: shapes, types, transposes, batches, what is fused into them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness import Case, Settings, quick, rng

# Inputs are rounded to the type before the reference is computed from them, so a tolerance is for
# the computation alone. TF32 keeps 10 bits of each factor, bfloat16 8 of each result.
TOLERANCE = {
    "float64": 1e-12,
    "float32": 2e-6,
    "tf32": 2e-3,
    "float16": 2e-3,
    "bfloat16": 1.5e-2,
    "complex64": 2e-6,
}
_SHAPES = (
    (64, 64, 64),
    (1, 4096, 1024),
    (4096, 64, 1),
    (1000, 333, 77),
    (128, 512, 256),
    (2048, 2048, 64),
    (33, 65, 129),
    (1024, 1024, 1024),
)
_SWEEP = 60


def cases(tf: Any, np: Any, settings: Settings) -> Iterator[Case]:
    """Yield the suite's cases."""
    for kind in TOLERANCE:
        found = (_product(tf, np, kind, shape) for shape in _SHAPES)
        yield from quick(settings, found, 2)
    for kind in ("float32", "float16", "bfloat16"):
        yield from quick(settings, _variants(tf, np, kind), 2)
        if not settings.quick:
            yield _sweep(tf, np, settings, kind)
    yield from _float8(tf, np)
    yield Case(
        "shapes that do not fit",
        "float32",
        lambda: tf.matmul(tf.zeros((2, 3)), tf.zeros((2, 3))),
        error="InvalidArgumentError",
        ops=("MatMul",),
    )


def _dtype(kind: str) -> str:
    return "float32" if kind == "tf32" else kind


def _values(tf: Any, np: Any, label: str, kind: str, *shapes: tuple[int, ...]) -> Any:
    """Return tensors of a type on the device, and what they hold as NumPy's widest."""
    random = rng(np, label)
    arrays = [random.standard_normal(shape) for shape in shapes]
    if kind == "complex64":
        arrays = [array + 1j * random.standard_normal(array.shape) for array in arrays]
    tensors = [tf.cast(tf.constant(array), _dtype(kind)) for array in arrays]
    wide = "complex128" if kind == "complex64" else "float64"
    return tensors, [tf.cast(one, wide).numpy() for one in tensors]


def _product(tf: Any, np: Any, kind: str, shape: tuple[int, int, int]) -> Case:
    rows, inner, columns = shape
    name = f"{kind} {rows}x{inner}x{columns}"
    (a, b), (wide_a, wide_b) = _values(tf, np, name, kind, (rows, inner), (inner, columns))
    return Case(
        name,
        kind,
        lambda: tf.matmul(a, b),
        lambda: wide_a @ wide_b,
        TOLERANCE[kind],
        ("MatMul",),
        flops=2.0 * rows * inner * columns,
        tf32=kind == "tf32",
    )


def _variants(tf: Any, np: Any, kind: str) -> Iterator[Case]:
    (a, b), (wide_a, wide_b) = _values(tf, np, f"variants {kind}", kind, (96, 160), (160, 96))
    for flip_a, flip_b in ((True, False), (False, True), (True, True)):
        first, wide_first = (tf.transpose(a), wide_a) if flip_a else (a, wide_a)
        second, wide_second = (tf.transpose(b), wide_b) if flip_b else (b, wide_b)
        yield Case(
            f"{kind} transposed {int(flip_a)}{int(flip_b)}",
            kind,
            lambda f=first, s=second, x=flip_a, y=flip_b: tf.matmul(
                f, s, transpose_a=x, transpose_b=y
            ),
            lambda f=wide_first, s=wide_second: f @ s,
            TOLERANCE[kind],
            ("MatMul",),
        )
    batch = _values(tf, np, f"batch {kind}", kind, (12, 48, 80), (12, 80, 40))
    yield Case(
        f"{kind} batch of 12",
        kind,
        lambda: tf.matmul(*batch[0]),
        lambda: np.matmul(*batch[1]),
        TOLERANCE[kind],
        ("BatchMatMulV2",),
    )
    shared = _values(tf, np, f"broadcast {kind}", kind, (6, 1, 32, 64), (1, 5, 64, 16))
    yield Case(
        f"{kind} broadcast batch",
        kind,
        lambda: tf.matmul(*shared[0]),
        lambda: np.matmul(*shared[1]),
        TOLERANCE[kind],
        ("BatchMatMulV2",),
    )
    yield from _fused(tf, np, kind)


def _fused(tf: Any, np: Any, kind: str) -> Iterator[Case]:
    """Dense layers as graphs have them: Grappler fuses bias and activation into the product."""
    shapes = ((64, 256), (256, 128), (128,))
    (x, w, bias), (wide_x, wide_w, wide_bias) = _values(tf, np, f"fused {kind}", kind, *shapes)
    activations = {
        "relu": (tf.nn.relu, lambda v: np.maximum(v, 0)),
        "tanh": (tf.tanh, np.tanh),
        "sigmoid": (tf.sigmoid, lambda v: 1 / (1 + np.exp(-v))),
        "gelu": (
            lambda v: tf.nn.gelu(v, approximate=True),
            lambda v: 0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3))),
        ),
    }
    for name, (activation, right) in activations.items():
        work = tf.function(lambda a, b, c, f=activation: f(tf.nn.bias_add(tf.matmul(a, b), c)))
        yield Case(
            f"{kind} dense, bias and {name}",
            kind,
            lambda work=work: work(x, w, bias),
            lambda right=right: right(wide_x @ wide_w + wide_bias),
            TOLERANCE[kind] * 5,  # the activation may be a fast one
            ("MatMul",),
        )


def _sweep(tf: Any, np: Any, settings: Settings, kind: str) -> Case:
    """Many shapes in one case: which kernel cuBLASLt takes depends on the shape."""
    random = rng(np, f"sweep {kind}")
    top = 700 if settings.gpu else 160
    shapes = [tuple(int(v) for v in random.integers(1, top, 3)) for _ in range(_SWEEP)]
    made = [
        _values(tf, np, f"sweep {kind} {shape}", kind, shape[:2], shape[1:]) for shape in shapes
    ]

    def run() -> Any:
        return [tf.matmul(*tensors) for tensors, _ in made]

    return Case(
        f"{kind} sweep of {_SWEEP} shapes",
        kind,
        run,
        lambda: [first @ second for _, (first, second) in made],
        TOLERANCE[kind],
        ("MatMul",),
        flops=sum(2.0 * a * b * c for a, b, c in shapes),
    )


def _float8(tf: Any, np: Any) -> Iterator[Case]:
    """FP8 factors with a bfloat16 result, through XLA, which has cuBLASLt multiply them."""
    types = getattr(tf.dtypes, "experimental", None)
    for name in ("float8_e4m3fn", "float8_e5m2"):
        dtype = getattr(types, name, None)
        if dtype is None:
            continue
        (a, b), _ = _values(tf, np, name, "float32", (128, 256), (256, 64))
        small = [tf.cast(one, dtype) for one in (a, b)]
        wide = [tf.cast(one, "float32").numpy().astype("float64") for one in small]

        @tf.function(jit_compile=True)
        def product(x: Any, y: Any) -> Any:
            return tf.matmul(tf.cast(x, "bfloat16"), tf.cast(y, "bfloat16"))

        yield Case(
            f"{name} 128x256x64",
            name,
            lambda small=small, product=product: product(*small),
            lambda wide=wide: wide[0] @ wide[1],
            TOLERANCE["bfloat16"],
            ("MatMul", "@xla"),
        )
