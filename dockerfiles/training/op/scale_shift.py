"""ScaleShift as a TensorFlow function with its gradient.

Put this folder on PYTHONPATH, or run the file: it then checks itself against plain TensorFlow.
"""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

_op = tf.load_op_library(str(Path(__file__).with_name("scale_shift.so")))


def scale_shift(x: tf.Tensor, alpha: float = 1.0, beta: float = 0.0) -> tf.Tensor:
    """Return alpha * x + beta for a float32 tensor of any shape."""

    @tf.custom_gradient
    def call(value: tf.Tensor) -> tuple[tf.Tensor, object]:
        return _op.scale_shift(x=value, alpha=alpha, beta=beta), lambda grad: alpha * grad

    return call(x)


if __name__ == "__main__":
    x = tf.random.stateless_normal((257, 3), seed=(1, 2))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = scale_shift(x, alpha=2.5, beta=-1.0)
    tf.debugging.assert_near(y, 2.5 * x - 1.0)
    tf.debugging.assert_near(tape.gradient(y, x), tf.fill(x.shape, 2.5))
    device = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    print(f"scale_shift: op and gradient agree with TensorFlow on the {device}")
