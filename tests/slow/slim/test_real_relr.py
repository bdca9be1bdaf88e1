"""Relative relocations of real libraries are packed: a minute, a gigabyte, no GPU.

TFSLIM_STOCK_TREE=/path/to/venv pytest -m slow tests/slow/slim/test_real_relr.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from real import site_of

from tfslim.slim import relr
from tfslim.slim.apply import write_pieces
from tfslim.slim.cuts import FileCuts
from tfslim.slim.elf import Elf
from tfslim.slim.layout import lay_out
from tfslim.slim.verify import verify_file

pytestmark = pytest.mark.slow

PACKED = FileCuts(packed=True)
# Library → a function of it that needs no GPU.
LIBRARIES = {
    "nvidia/cublas/lib/libcublasLt.so.12": "cublasLtGetVersion",
    "nvidia/cuda_nvrtc/lib/libnvrtc.so.12": "nvrtcGetErrorString",
    "nvidia/nvjitlink/lib/libnvJitLink.so.12": "nvJitLinkVersion",
}

# What is in memory that the loader wrote: every packed place must hold base + addend, in both.
MEMORY = """
import ctypes, sys
path, function = sys.argv[1:]
library = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
maps = [line for line in open("/proc/self/maps") if line.rstrip().endswith(path)]
base = min(int(line.split("-")[0], 16) for line in maps)
wrong = 0
for line in sys.stdin:
    where, addend = map(int, line.split())
    found = ctypes.c_uint64.from_address(base + where).value
    wrong += found != base + addend
print(wrong, bool(getattr(library, function)))
"""


@pytest.fixture(scope="module")
def site() -> Path:
    tree = os.environ.get("TFSLIM_STOCK_TREE")
    if not tree:
        pytest.skip("TFSLIM_STOCK_TREE is not set")
    return site_of(Path(tree))


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_loader_writes_the_same(site: Path, tmp_path: Path, name: str) -> None:
    """In constant data: what a constructor changes at once is not compared."""
    library, new = site / name, tmp_path / Path(name).name
    with Elf(library) as elf:
        write_pieces(library, lay_out(elf, PACKED).pieces, new)
        _, saved = relr.saving(elf)
        pairs = constant_pointers(elf)
    assert len(pairs) > 1000
    assert verify_file(library, new, PACKED) == []
    assert library.stat().st_size - new.stat().st_size > saved - 8 * 4096
    for path in (library, new):
        assert written(path, LIBRARIES[name], pairs) == "0 True"


def constant_pointers(elf: Elf) -> list[tuple[int, int]]:
    """Return (address, addend) of relative relocations that fill in constant data."""
    (constant,) = (s for s in elf.sections if s.name == ".data.rel.ro")
    found = elf.relocations
    inside = (found.where >= constant.addr) & (found.where < constant.addr + constant.size)
    chosen = inside & (found.kind == 8)
    return list(zip(found.where[chosen].tolist(), found.addend[chosen].tolist(), strict=True))


def written(path: Path, function: str, pairs: list[tuple[int, int]]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path), function],
        input="\n".join(f"{where} {addend}" for where, addend in pairs),
        env={"LD_LIBRARY_PATH": str(path.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
