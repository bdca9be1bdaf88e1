"""Time what CUDA's libraries do for TensorFlow; print seconds per step by name, as JSON.

Run by the Python of the environment that is timed, not by tfslim's: python speed_probe.py DEVICE
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

_WARM_UP = 3
_SECONDS = 0.3


def main() -> None:
    """Time each workload on the device named."""
    device = sys.argv[1]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    tf = importlib.import_module("tensorflow")  # after its settings

    scale = 1 if "GPU" in device else 8
    with tf.device(device):
        times = {name: _seconds(tf, step) for name, step in _workloads(tf, scale).items()}
    json.dump(times, sys.stdout)


def _workloads(tf: Any, scale: int) -> dict[str, Callable[[], Any]]:
    """Return one step of each kind of work; `scale` makes them smaller for a CPU."""
    side, batch = 4096 // scale, 64 // scale
    matrix = tf.random.stateless_normal((side, side), seed=(1, 2))
    half = tf.cast(matrix, tf.float16)
    images = tf.random.stateless_normal((batch, 56, 56, 64), seed=(3, 4))
    kernel = tf.random.stateless_normal((3, 3, 64, 64), seed=(5, 6))
    sequence = tf.random.stateless_normal((batch, 128, 64), seed=(7, 8))
    lstm = tf.keras.layers.LSTM(64, return_sequences=True)
    signal = tf.complex(images, images)
    small = matrix[: side // 8, : side // 8]
    symmetric = small @ tf.transpose(small) + tf.eye(side // 8) * 1e3
    return {
        "matmul": lambda: matrix @ matrix,
        "matmul half": lambda: half @ half,
        "conv": lambda: tf.nn.conv2d(images, kernel, 1, "SAME"),
        "lstm": lambda: lstm(sequence),
        "fft": lambda: tf.signal.fft2d(tf.transpose(signal, (0, 3, 1, 2))),
        "solve": lambda: tf.linalg.cholesky(symmetric),
    }


def _seconds(tf: Any, step: Callable[[], Any]) -> float:
    """Return the seconds of one step, with the results waited for."""
    compiled = tf.function(lambda: tf.reduce_sum(tf.abs(step())))
    for _ in range(_WARM_UP):
        compiled().numpy()
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < _SECONDS:
        compiled().numpy()
        count += 1
    return (time.perf_counter() - start) / count


if __name__ == "__main__":
    main()
