"""Convolutions: shapes, layouts, strides, dilations, groups, types; pooling; normalisation.

With TF_CUDNN_USE_AUTOTUNE, which is on by default, TensorFlow tries every engine that cuDNN names
for a new shape: so each case runs many kernels, not one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness import Case, Settings, quick, rng

TOLERANCE = {"float64": 1e-11, "float32": 1e-5, "tf32": 3e-3, "float16": 3e-3, "bfloat16": 2e-2}
# batch, height, width, channels, filters, kernel, stride, dilation, groups, padding
_SHAPES = (
    (1, 32, 32, 3, 16, 3, 1, 1, 1, "SAME"),
    (4, 56, 56, 64, 64, 3, 1, 1, 1, "SAME"),
    (2, 56, 56, 64, 128, 1, 1, 1, 1, "VALID"),
    (2, 64, 64, 3, 32, 7, 2, 1, 1, "SAME"),
    (1, 28, 28, 32, 32, 3, 1, 2, 1, "VALID"),
    (2, 28, 28, 32, 64, 3, 1, 1, 4, "SAME"),
    (1, 17, 23, 5, 7, 5, 1, 1, 1, "SAME"),
    (8, 14, 14, 48, 24, 3, 2, 1, 1, "VALID"),
)


def cases(tf: Any, np: Any, settings: Settings) -> Iterator[Case]:
    """Yield the suite's cases."""
    for kind in ("float32", "tf32", "float16", "bfloat16"):
        for layout in ("NHWC", "NCHW"):
            found = (_convolution(tf, np, kind, layout, shape) for shape in _SHAPES)
            yield from quick(settings, found, 2)
    yield from quick(settings, _others(tf, np), 4)
    yield Case(
        "channels that do not fit",
        "float32",
        lambda: tf.nn.conv2d(tf.zeros((1, 4, 4, 3)), tf.zeros((3, 3, 2, 1)), 1, "SAME"),
        error="InvalidArgumentError",
        ops=("Conv2D",),
    )


def _pair(tf: Any, np: Any, name: str, kind: str, *shapes: tuple[int, ...]) -> Any:
    random = rng(np, name)
    dtype = "float32" if kind == "tf32" else kind
    tensors = [tf.cast(tf.constant(random.standard_normal(shape)), dtype) for shape in shapes]
    return tensors, [tf.cast(one, "float64").numpy() for one in tensors]


def _convolution(tf: Any, np: Any, kind: str, layout: str, shape: Any) -> Case:
    batch, height, width, channels, filters, kernel, stride, dilation, groups, padding = shape
    name = f"{kind} {layout} {batch}x{height}x{width}x{channels} to {filters}, kernel {kernel}"
    name += f", stride {stride}, dilation {dilation}, groups {groups}, {padding}"
    sizes = (batch, height, width, channels), (kernel, kernel, channels // groups, filters)
    (x, w), (wide_x, wide_w) = _pair(tf, np, name, kind, *sizes)
    given = tf.transpose(x, (0, 3, 1, 2)) if layout == "NCHW" else x

    def reference() -> Any:
        with tf.device("/CPU:0"):
            inputs = np.split(wide_x, groups, axis=3)
            found = [
                tf.nn.conv2d(inputs[i], part, stride, padding, "NHWC", dilation).numpy()
                for i, part in enumerate(np.split(wide_w, groups, axis=3))
            ]
        right = np.concatenate(found, axis=3)
        return right.transpose(0, 3, 1, 2) if layout == "NCHW" else right

    out = -(-height // stride) * -(-width // stride)
    return Case(
        name,
        kind,
        lambda: tf.nn.conv2d(given, w, stride, padding, layout, dilation),
        reference,
        TOLERANCE[kind],
        ("Conv2D",),
        "this layout has no kernel for CPUs" if layout == "NCHW" else "",
        flops=2.0 * batch * out * filters * kernel * kernel * channels / groups,
        tf32=kind == "tf32",
    )


def _others(tf: Any, np: Any) -> Iterator[Case]:
    """What goes with convolutions, each against float64 on the CPU."""
    nn = tf.nn

    def fused(x: Any, w: Any, b: Any) -> Any:
        return nn.relu(nn.bias_add(nn.conv2d(x, w, 1, "SAME"), b))

    def normalised(x: Any, scale: Any, offset: Any) -> Any:
        mean, variance = tf.zeros_like(scale), tf.ones_like(scale) * 2
        return tf.raw_ops.FusedBatchNormV3(
            x=x, scale=scale, offset=offset, mean=mean, variance=variance, is_training=False
        ).y

    image, small = (2, 24, 24, 8), (3, 3, 8, 12)
    yield from (
        _like_cpu(tf, np, name, ops, work, *shapes)
        for name, ops, work, shapes in (
            ("conv, bias and relu, fused", ("Conv2D",), tf.function(fused), (image, small, (12,))),
            ("depthwise", ("DepthwiseConv2dNative",), _depthwise(nn), (image, (3, 3, 8, 2))),
            (
                "transposed",
                ("Conv2DBackpropInput",),
                lambda x, w: nn.conv2d_transpose(x, w, (2, 48, 48, 12), 2, "SAME"),
                (image, (3, 3, 12, 8)),
            ),
            ("1d", ("Conv2D",), lambda x, w: nn.conv1d(x, w, 1, "SAME"), ((2, 99, 8), (5, 8, 6))),
            (
                "3d",
                ("Conv3D",),
                lambda x, w: nn.conv3d(x, w, (1, 1, 1, 1, 1), "SAME"),
                ((1, 8, 10, 10, 4), (3, 3, 3, 4, 6)),
            ),
            ("max pooling", ("MaxPool",), lambda x: nn.max_pool2d(x, 3, 2, "SAME"), (image,)),
            ("mean pooling", ("AvgPool",), lambda x: nn.avg_pool2d(x, 2, 2, "VALID"), (image,)),
            ("batch normalisation", ("FusedBatchNormV3",), normalised, (image, (8,), (8,))),
            ("response normalisation", ("LRN",), lambda x: nn.lrn(x, 3), (image,)),
        )
    )
    yield _gradient(tf, np)


def _depthwise(nn: Any) -> Any:
    return lambda x, w: nn.depthwise_conv2d(x, w, (1, 1, 1, 1), "SAME")


def _like_cpu(tf: Any, np: Any, name: str, ops: tuple, work: Any, *shapes: Any) -> Case:
    tensors, wide = _pair(tf, np, name, "float32", *shapes)

    def reference() -> Any:
        single = ops in (("FusedBatchNormV3",), ("LRN",))  # they have no float64
        with tf.device("/CPU:0"):
            return work(*(tf.constant(one, "float32" if single else "float64") for one in wide))

    near = TOLERANCE["float32"]
    return Case(f"float32 {name}", "float32", lambda: work(*tensors), reference, near, ops)


def _gradient(tf: Any, np: Any) -> Case:
    """Both gradients of a convolution, as training has them."""
    shapes = (2, 20, 20, 6), (3, 3, 6, 10)
    (x, w), (wide_x, wide_w) = _pair(tf, np, "gradient", "float32", *shapes)

    def both(first: Any, second: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch((first, second))
            loss = tf.reduce_sum(tf.square(tf.nn.conv2d(first, second, 2, "SAME")))
        return tape.gradient(loss, (first, second))

    def reference() -> Any:
        with tf.device("/CPU:0"):
            return both(tf.constant(wide_x), tf.constant(wide_w))

    ops = ("Conv2DBackpropInput", "Conv2DBackpropFilter")
    return Case("float32 gradients", "float32", lambda: both(x, w), reference, 5e-5, ops)
