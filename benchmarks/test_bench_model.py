"""A served model in this process, called as the service calls it; needs TensorFlow.

TFSLIM_BENCH_MODEL names a SavedModel to call in place of the small one that is made here.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tfserve_app.backend import Backend, default_signature
from tfslim.bench.calls import make_inputs

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None,
    reason="TensorFlow is not installed in this environment",
)
BATCHES = (1, 8, 32)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SavedModel that is named, or a small convolutional one."""
    named = os.environ.get("TFSLIM_BENCH_MODEL")
    if named:
        return Path(named)
    import tensorflow as tf  # noqa: PLC0415

    class Small(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            random = tf.random.Generator.from_seed(7)
            self.kernels = [
                tf.Variable(random.normal((3, 3, inner, outer)) * 0.1)
                for inner, outer in ((3, 16), (16, 32), (32, 64))
            ]

        @tf.function(input_signature=[tf.TensorSpec((None, 64, 64, 3), tf.float32, name="image")])
        def serve(self, image: Any) -> dict[str, Any]:
            """Three convolutions and a mean."""
            for kernel in self.kernels:
                image = tf.nn.relu(tf.nn.conv2d(image, kernel, strides=2, padding="SAME"))
            return {"features": tf.reduce_mean(image, axis=(1, 2))}

    folder = tmp_path_factory.mktemp("model") / "1"
    small = Small()
    tf.saved_model.save(small, str(folder), signatures={"serving_default": small.serve})
    return folder


@pytest.fixture(scope="session")
def backend(model: Path) -> Backend:
    """The service's own backend, loaded once."""
    from tfserve_app.tensorflow_backend import TensorFlowBackend  # noqa: PLC0415

    return TensorFlowBackend(model, lambda _: None)


@pytest.mark.parametrize("batch_size", BATCHES)
def test_predict(benchmark: BenchmarkFixture, backend: Backend, batch_size: int) -> None:
    """Predict a batch; samples per second are batch_size times the operations per second."""
    name = default_signature(backend.signatures)
    inputs = make_inputs(backend.signatures[name].inputs, batch_size)
    benchmark.extra_info |= {"batch_size": batch_size, "gpus": list(backend.info.gpus)}
    answer = benchmark(backend.predict, name, inputs)
    assert answer
