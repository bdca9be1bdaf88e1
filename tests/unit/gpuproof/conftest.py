"""A virtual environment with a stand-in for TensorFlow, in which suites of cases really run."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

TENSORFLOW = """
    import os
    import numpy as np

    __version__ = "9.9.9"

    class Tensor:
        def __init__(self, value, device="/device:CPU:0"):
            self.value, self.device = np.asarray(value), device

        def numpy(self):
            return self.value

    class device:
        name = "GPU:0"
        def __init__(self, name): ...
        def __enter__(self): ...
        def __exit__(self, *what): ...

    class _Experimental:
        tf32 = None
        @staticmethod
        def enable_tensor_float_32_execution(on):
            _Experimental.tf32 = on
        @staticmethod
        def enable_op_determinism(): ...
        @staticmethod
        def get_device_details(gpu):
            return {"device_name": "Fake GPU", "compute_capability": (9, 0)}
        @staticmethod
        def sync_devices(): ...

    class config:
        experimental = _Experimental
        @staticmethod
        def list_physical_devices(kind):
            hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == "-1"
            return [] if hidden else [device] * int(os.environ.get("FAKE_TF_GPUS", "0"))

    class test:
        experimental = _Experimental

    class random:
        @staticmethod
        def set_seed(seed): ...

    class sysconfig:
        @staticmethod
        def get_build_info():
            return {"cuda_version": "12.5", "cudnn_version": "9"}

    def constant(value):
        return Tensor(value)
"""
SUITE = """
    import os, time
    import numpy as np
    from harness import Case

    class Wrong(Exception): ...

    def cases(tf, np, settings):
        def raises():
            raise Wrong("on purpose")

        yield Case("right", "float32", lambda: tf.constant([1.0, 2.0]),
                   lambda: np.array([1.0, 2.0]), 1e-6, flops=8.0)
        yield Case("an error that has to be", "float32", raises, error="Wrong")
        yield Case("only on a GPU", "float32", lambda: tf.constant(1.0), gpu_only="a reason")
        mood = open(MOOD).read()
        if mood == "wrong":
            yield Case("wrong", "float32", lambda: tf.constant([1.0, 3.0]),
                       lambda: np.array([1.0, 2.0]), 1e-6)
        if mood == "crash":
            yield Case("crashing", "float32", os.abort)
        if mood == "hang":
            yield Case("hanging", "float32", lambda: time.sleep(60))
        yield Case("the last", "float32", lambda: tf.constant([np.nan, 5.0]),
                   lambda: np.array([np.nan, 5.0]), 1e-6)
"""


@pytest.fixture
def mood(tmp_path: Path) -> Path:
    """What the suite does this time: well, wrong, crash, hang."""
    path = tmp_path / "mood"
    path.write_text("well")
    return path


@pytest.fixture
def tree(tmp_path: Path, mood: Path) -> Path:
    """The environment."""
    root = tmp_path / "tree"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root], check=True)
    (site,) = root.glob("lib/python3*/site-packages")
    (site / "numpy.pth").write_text(str(Path(np.__file__).parents[1]))
    (site / "tensorflow").mkdir()
    (site / "tensorflow" / "__init__.py").write_text(textwrap.dedent(TENSORFLOW))
    suite = textwrap.dedent(SUITE).replace("MOOD", repr(str(mood)))
    (site / "fakesuite.py").write_text(suite)
    return root
