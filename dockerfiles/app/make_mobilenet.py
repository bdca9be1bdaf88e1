"""Write a MobileNetV2-shaped SavedModel with reproducible random weights.

    python make_mobilenet.py OUT_FOLDER

Needs TensorFlow only, no download: the weights come from a fixed seed. The architecture, and so
the work of a prediction, is MobileNetV2's (224 by 224 pixels in three channels, 1000 classes).
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

SEED = 0


def main() -> int:
    """Build, export aside, and move into place."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    out = Path(sys.argv[1])
    if out.exists():
        print(f"{out} exists already", file=sys.stderr)
        return 1
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        export(aside)
        aside.chmod(0o755)
        aside.rename(out)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    print(out)
    return 0


def export(folder: Path) -> None:
    """Write the SavedModel; its signature `serving_default` takes float32[?,224,224,3]."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf  # type: ignore[import-untyped]  # noqa: PLC0415

    tf.keras.utils.set_random_seed(SEED)
    model = tf.keras.applications.MobileNetV2(weights=None)
    # Without statistics of its own, an untrained network of this depth answers the same to all.
    for layer in model.layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(tf.random.stateless_uniform([8, 224, 224, 3], seed=[SEED, 1]), training=True)
    model.export(str(folder))


if __name__ == "__main__":
    sys.exit(main())
