"""Import TensorFlow and say that it worked; where the guard ends the process, it does not."""

from __future__ import annotations

import os
import sys

import tensorflow as tf  # type: ignore

sys.stdout.write(f"computes {tf.__version__}\n")
sys.stdout.flush()
os._exit(0)
