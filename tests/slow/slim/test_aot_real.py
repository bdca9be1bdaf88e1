"""PTX of a real TensorFlow compiled ahead of time by the real ptxas: minutes, no GPU.

    TFSLIM_STOCK_TREE=/path/to/venv pytest -m slow tests/slow/slim/test_aot_real.py

Optional proof by NVIDIA's own tools: CUOBJDUMP=/path/to/cuobjdump and FATBINARY=/path/to/fatbinary
(`pip install nvidia-cuda-cuobjdump nvidia-cuda-nvcc`). TFSLIM_AOT_CACHE names a folder that keeps
what was compiled from one run to the next.
"""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from real import copied, make_driver, output, site_of

from tfslim.slim import scan
from tfslim.slim.aot.ptxas import find_ptxas, in_tree
from tfslim.slim.aot.settings import Settings
from tfslim.slim.aot.wanted import wanted_of
from tfslim.slim.apply import Outcome, apply_plan
from tfslim.slim.archs import parse_targets
from tfslim.slim.elf import Elf
from tfslim.slim.plan import Plan
from tfslim.slim.planning import make_plan
from tfslim.slim.recompress import expanded
from tfslim.slim.rules import make_policy

pytestmark = pytest.mark.slow

CUOBJDUMP = os.environ.get("CUOBJDUMP", "")
FATBINARY = os.environ.get("FATBINARY", "")
NAME = "libtensorflow_cc.so.2"
MODEL = """
import hashlib
import numpy as np
import tensorflow as tf
tf.keras.utils.set_random_seed(5)
tf.config.experimental.enable_op_determinism()
x = np.random.RandomState(0).rand(16, 24, 24, 3).astype("float32")
layers = tf.keras.layers
model = tf.keras.Sequential([
    layers.Input((24, 24, 3)), layers.Conv2D(8, 3, activation="relu"), layers.BatchNormalization(),
    layers.Flatten(), layers.Dense(4, activation="softmax"),
])
print("RESULT", hashlib.sha256(model.predict(x, verbose=0).tobytes()).hexdigest())
"""
LIST_GPUS = "import tensorflow as tf; print('GPUS', tf.config.list_physical_devices('GPU'))"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = os.environ.get("TFSLIM_AOT_CACHE")
    return Path(kept) if kept else tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def slimmed(
    stock: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Plan, Outcome]]:
    """The stock tree for sm_90 with everything compiled, in place on a copy of hard links."""
    with copied(stock, tmp_path_factory.mktemp("aot")) as tree:
        policy = make_policy("arch", parse_targets("90"), also=("aot",), aot=Settings(cache=cache))
        plan = make_plan(tree, policy)
        yield tree, plan, apply_plan(plan, tree)


def entries(library: Path) -> Counter[tuple[str, int]]:
    with Elf(library) as elf:
        found = scan.scan_elf(elf).found
        return Counter((e.kind.label, e.sm) for one in found for e in one.container.entries)


def test_every_module_is_compiled_and_every_file_proved(
    slimmed: tuple[Path, Plan, Outcome],
) -> None:
    tree, plan, outcome = slimmed
    assert not outcome.restored
    assert plan.aot is not None
    (summary,) = plan.aot.archs
    assert (summary.arch, summary.failed) == ("sm_90", 0)
    assert summary.modules >= 1149
    assert plan.jit == {}
    held = entries(site_of(tree) / "tensorflow" / NAME)
    assert held["PTX", 90] == 0
    assert held["cubin", 90] >= 1398


def test_a_gpu_is_listed_and_the_answers_are_the_same(
    slimmed: tuple[Path, Plan, Outcome], stock: Path, tmp_path: Path
) -> None:
    tree, _, _ = slimmed
    driver = make_driver(tmp_path)
    listed = output(tree, "-c", LIST_GPUS, driver=driver, FAKE_GPUS="9.0")
    assert "GPU:0" in listed
    assert output(tree, "-c", MODEL) == output(stock, "-c", MODEL)


def test_nvidia_s_tools_read_and_make_the_same_modules(
    slimmed: tuple[Path, Plan, Outcome], tmp_path: Path
) -> None:
    if not CUOBJDUMP or not FATBINARY:
        pytest.skip("CUOBJDUMP and FATBINARY name no programs")
    tree, _, _ = slimmed
    cubin, module, made = (tmp_path / name for name in ("m.cubin", "module.fatbin", "made.fatbin"))
    with Elf(site_of(tree) / "tensorflow" / NAME) as elf:
        found = [one for one in scan.scan_elf(elf).found if not one.wrapped]
        for one in found[:: max(1, len(found) // 40)]:
            (entry,) = one.container.entries
            module.write_bytes(elf.data[one.container.offset : one.container.end])
            cubin.write_bytes(expanded(elf.data, entry))
            image = f"--image3=kind=elf,sm=90,file={cubin}"
            subprocess.run(
                [FATBINARY, f"--create={made}", "--compress=false", "-64", image], check=True
            )
            assert made.read_bytes() == module.read_bytes()
            listed = subprocess.run(
                [CUOBJDUMP, "-lelf", str(module)], check=True, capture_output=True, text=True
            )
            assert "sm_90.cubin" in listed.stdout


@pytest.mark.parametrize("sm", [100, 120])
def test_blackwell_has_ptx_alone_and_small_modules_compile(stock: Path, sm: int) -> None:
    library = site_of(stock) / "tensorflow" / NAME
    wants = wanted_of((library, (sm,)))
    assert len(wants.modules) >= 1398
    names = (path.relative_to(stock).as_posix() for path in stock.glob("lib/**/ptxas"))
    ptxas = find_ptxas(None, in_tree(stock, names))
    with Elf(library) as elf:
        containers = {one.container.offset: one for one in scan.scan_elf(elf).found}
        for module in sorted(wants.modules, key=lambda one: one.size)[:5]:
            entry = containers[module.container].container.entries[module.entry]
            text = expanded(elf.data, entry).rstrip(b"\0")
            made = ptxas.compile(text, module.arch, module.options, timeout=60)
            assert made.cubin, made.why
