"""What TensorFlow lists of the machine's GPUs; nothing is computed.

python listing.py --out FILE
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0")
start = time.perf_counter()
import tensorflow as tf  # type: ignore # noqa: E402

imported = time.perf_counter()
found = []
for gpu in tf.config.list_physical_devices("GPU"):
    details = tf.config.experimental.get_device_details(gpu)
    major, minor = details.get("compute_capability", (0, 0))
    found.append(f"{details.get('device_name', gpu.name)}, compute capability {major}.{minor}")
build = tf.sysconfig.get_build_info()
data = {
    "gpus": found,
    "import_s": imported - start,
    "versions": {
        "python": sys.version.split()[0],
        "tensorflow": tf.__version__,
        "cuda": str(build.get("cuda_version", "")),
        "cudnn": str(build.get("cudnn_version", "")),
    },
}
Path(sys.argv[sys.argv.index("--out") + 1]).write_text(json.dumps(data), encoding="utf-8")
sys.stdout.flush()
os._exit(0)
