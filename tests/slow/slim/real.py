"""What the slow tests do with real trees: copies of hard links, programs run in them, a driver."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree

FAKE_DRIVER = Path(__file__).parents[2] / "fixtures" / "fake-driver"


@contextmanager
def copied(tree: Path, folder: Path) -> Iterator[Path]:
    """Give a copy of hard links: to be slimmed in place, which replaces files and changes none."""
    copy = folder / "tree"
    subprocess.run(["cp", "-al", str(tree), str(copy)], check=True)
    try:
        yield copy
    finally:
        rmtree(copy)


def site_of(tree: Path) -> Path:
    (site,) = tree.glob("lib/python3*/site-packages")
    return site


def make_driver(folder: Path) -> Path:
    """Compile the stand-ins for NVIDIA's driver libraries."""
    for source, name in (("cuda.c", "libcuda.so.1"), ("nvml.c", "libnvidia-ml.so.1")):
        command = ["gcc", "-shared", "-fPIC", "-w", "-o", str(folder / name)]
        subprocess.run([*command, str(FAKE_DRIVER / source)], check=True)
    return folder


def start(
    tree: Path, *arguments: str, driver: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a tree's Python to its end, whatever that is."""
    folders = [*([driver] if driver else []), *sorted(site_of(tree).glob("nvidia/*/lib"))]
    return subprocess.run(
        [str(tree / "bin" / "python"), "-B", *arguments],
        env={
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/tmp"),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "LD_LIBRARY_PATH": os.pathsep.join(map(str, folders)),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def output(tree: Path, *arguments: str, driver: Path | None = None, **options: str) -> str:
    """Run a tree's Python and return what it printed."""
    done = start(tree, *arguments, driver=driver, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
