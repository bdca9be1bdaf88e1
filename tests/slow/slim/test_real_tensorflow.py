"""The engine on a real TensorFlow install with its CUDA libraries: minutes, gigabytes, no GPU.

    TFSLIM_STOCK_TREE=/path/to/venv pytest -m slow tests/slow/slim

Optional proof by NVIDIA's own tool: CUOBJDUMP=/path/to/cuobjdump (`pip install
nvidia-cuda-cuobjdump`).
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from real import copied, make_driver, output, start

from tfslim.slim import scan
from tfslim.slim.apply import Outcome, apply_plan
from tfslim.slim.archs import parse_targets
from tfslim.slim.plan import Plan
from tfslim.slim.planning import make_plan
from tfslim.slim.rules import make_policy

pytestmark = pytest.mark.slow

CUOBJDUMP = os.environ.get("CUOBJDUMP", "")

MODEL = """
import hashlib, os
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
import tensorflow as tf
tf.keras.utils.set_random_seed(5)
tf.config.experimental.enable_op_determinism()
digest = hashlib.sha256()
layers = tf.keras.layers
model = tf.keras.Sequential([
    layers.Input((24, 24, 3)), layers.Conv2D(8, 3, activation="relu"), layers.BatchNormalization(),
    layers.Reshape((22 * 22, 8)), layers.LSTM(6), layers.Dense(4, activation="softmax"),
])
model.compile("adam", "sparse_categorical_crossentropy")
x = np.random.RandomState(0).rand(16, 24, 24, 3).astype("float32")
model.fit(x, np.arange(16) % 4, epochs=2, verbose=0)
digest.update(model.predict(x, verbose=0).tobytes())
matrix = tf.reshape(tf.range(64.0), (8, 8))
digest.update(tf.function(tf.linalg.svd)(matrix)[0].numpy().tobytes())
digest.update(tf.signal.fft(tf.cast(matrix, tf.complex64)).numpy().tobytes())
print("RESULT", digest.hexdigest())
"""

LIST_GPUS = "import tensorflow as tf; print('GPUS', tf.config.list_physical_devices('GPU'))"


@pytest.fixture(scope="module")
def slimmed(
    stock: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Plan, Outcome]]:
    """The stock tree with profile arch for sm_90, made in place on a copy of hard links."""
    with copied(stock, tmp_path_factory.mktemp("slim")) as tree:
        plan = make_plan(tree, make_policy("arch", parse_targets("90")))
        yield tree, plan, apply_plan(plan, tree)


def libraries(tree: Path) -> list[Path]:
    return [p for p in sorted(tree.rglob("*.so*")) if p.is_file() and not p.is_symlink()]


def test_every_file_is_proved_and_the_sizes_are_reached(
    slimmed: tuple[Path, Plan, Outcome],
) -> None:
    _, plan, outcome = slimmed
    assert not outcome.restored
    assert outcome.tree_after == plan.tree_bytes - plan.saved
    assert outcome.tree_after <= 3.45e9
    assert {f.loader for f in outcome.files if f.path.endswith("libtensorflow_cc.so.2")} == {"same"}


def test_nothing_is_unexplained(slimmed: tuple[Path, Plan, Outcome]) -> None:
    _, plan, _ = slimmed
    assert not [note for note in plan.notes if "symbol tables" not in note.why]


def test_what_is_left_serves_the_gpu(slimmed: tuple[Path, Plan, Outcome]) -> None:
    """All cubins that remain are for 9.0, or stand in for emptied containers: few bytes."""
    tree, _, _ = slimmed
    cubins: Counter[int] = Counter()
    for path in libraries(tree):
        for (kind, sm, _), size in scan.scan_file(path).bytes_by.items():
            if kind.startswith("cubin"):
                cubins[sm] += size
    assert cubins[90] > 300e6
    assert sum(size for sm, size in cubins.items() if sm != 90) < 0.01 * cubins[90]


def test_a_second_run_finds_nothing(slimmed: tuple[Path, Plan, Outcome]) -> None:
    tree, _, _ = slimmed
    assert make_plan(tree, make_policy("arch", parse_targets("90"))).files == ()


def test_results_on_the_cpu_are_the_same_bit_for_bit(
    stock: Path, slimmed: tuple[Path, Plan, Outcome]
) -> None:
    answers = [output(tree, "-c", MODEL).split("RESULT ")[1] for tree in (stock, slimmed[0])]
    assert answers[0] == answers[1]


def test_tensorflow_still_lists_a_gpu(slimmed: tuple[Path, Plan, Outcome], tmp_path: Path) -> None:
    """With a stand-in for the driver; TensorFlow opens every CUDA library it needs."""
    done = start(slimmed[0], "-c", LIST_GPUS, driver=make_driver(tmp_path))
    assert "GPU:0" in done.stdout, done.stderr[-3000:]


needs_cuobjdump = pytest.mark.skipif(not CUOBJDUMP, reason="CUOBJDUMP names no cuobjdump")


def listed(path: Path) -> set[str]:
    done = subprocess.run(
        [CUOBJDUMP, "-lelf", "-lptx", str(path)], capture_output=True, text=True, check=False
    )
    assert "fatal" not in done.stderr, done.stderr
    return set(re.findall(r"sm_\d+[af]?", done.stdout))


@needs_cuobjdump
@pytest.mark.parametrize(
    "name",
    [
        "libcublas.so.12",
        "libcublasLt.so.12",
        "libnccl.so.2",
        "libcusolver.so.11",
        "libcurand.so.10",
    ],
)
def test_nvidias_tool_lists_only_what_was_kept(
    name: str, slimmed: tuple[Path, Plan, Outcome]
) -> None:
    (path,) = [p for p in libraries(slimmed[0]) if p.name == name]
    left = listed(path)
    assert "sm_90" in left
    assert len(left - {"sm_90", "sm_90a"}) <= 1  # the placeholder


def extracted(path: Path, folder: Path) -> Counter[str]:
    """Digests of the sm_90 cubins that NVIDIA's tool takes out of a library."""
    folder.mkdir()
    subprocess.run(
        [CUOBJDUMP, "-xelf", "sm_90", str(path)], cwd=folder, capture_output=True, check=True
    )
    return Counter(hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir())


@needs_cuobjdump
@pytest.mark.parametrize("name", ["libcudnn_ops.so.9", "libcublas.so.12", "libcusparse.so.12"])
def test_nvidias_tool_extracts_identical_cubins(
    name: str, stock: Path, slimmed: tuple[Path, Plan, Outcome], tmp_path: Path
) -> None:
    (before,) = [p for p in libraries(stock) if p.name == name]
    (after,) = [p for p in libraries(slimmed[0]) if p.name == name]
    original = extracted(before, tmp_path / "before")
    assert extracted(after, tmp_path / "after") == original
    assert original.total() > 10
