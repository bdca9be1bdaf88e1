"""NVIDIA's PTX assembler, `ptxas`: the one place where it is found, asked and run."""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tfslim import proc
from tfslim.errors import SlimError
from tfslim.slim.elf import FormatRefusedError
from tfslim.slim.fatbin import cubin_sm

__all__ = ["Compiled", "Ptxas", "find_ptxas", "in_tree"]

_ASK_SECONDS: Final = 60.0
_RELEASE: Final = re.compile(r"release \d+\.\d+, V(?P<version>[\d.]+)")
_ARCH: Final = re.compile(r"'sm_(?P<sm>\d+[af]?)'")
_KERNEL: Final = re.compile(rb"\.entry\s+([A-Za-z0-9_$%.]+)")
_TIMED_OUT: Final = 124
# The first compiler that knows an architecture (CUDA's release notes).
_FIRST_RELEASE: Final = {100: "12.8", 120: "12.8", 103: "12.9", 121: "12.9"}
_IN_WHEEL: Final = re.compile(r"(^|/)nvidia/(cuda_nvcc|cu\d+)/bin/ptxas$")
_WHEEL: Final = "nvidia-cuda-nvcc-cu12"


@dataclass(frozen=True)
class Compiled:
    """What became of one PTX.

    Attributes:
        cubin: The code; None where there is none.
        why: Why there is none.
    """

    cubin: bytes | None
    why: str = ""


@dataclass(frozen=True)
class Ptxas:
    """A compiler that answered.

    Attributes:
        path: Where it is.
        version: As in 12.9.86.
        archs: What it compiles for, as in "90", "90a".
    """

    path: Path
    version: str
    archs: frozenset[str]

    def compile(
        self,
        ptx: bytes,
        arch: str,
        options: Iterable[str] = (),
        *,
        timeout: float,
        stop: threading.Event | None = None,
    ) -> Compiled:
        """Compile one PTX as the driver would: everything but the architecture by default.

        Args:
            ptx: The text.
            arch: As in "sm_90a".
            options: More of the compiler's options.
            timeout: Seconds after which it is ended.
            stop: When this is set, it is ended.
        """
        with tempfile.TemporaryDirectory(prefix="tfslim-aot-") as folder:
            source, target = Path(folder, "module.ptx"), Path(folder, "module.cubin")
            source.write_bytes(ptx)
            argv = [str(self.path), f"-arch={arch}", *options, str(source), "-o", str(target)]
            done = proc.run(argv, timeout=timeout, stop=stop)
            if not done.ok:
                return Compiled(None, _why(done, timeout))
            cubin = target.read_bytes() if target.is_file() else b""
        return _checked(cubin, ptx, arch)

    def check(self, archs: Iterable[str]) -> None:
        """Refuse architectures that it does not know.

        Raises:
            SlimError: There is one.
        """
        unknown = sorted(arch for arch in archs if arch.removeprefix("sm_") not in self.archs)
        if not unknown:
            return
        sm = int(re.sub(r"\D", "", unknown[0]))
        first = _FIRST_RELEASE.get(sm, "the release that brought it")
        raise SlimError(
            f"ptxas {self.version} cannot compile for {', '.join(unknown)}",
            why=f"It is {self.path}; {unknown[0]} needs one of CUDA {first} or newer.",
            way_out="Give a newer one, which is used for compiling alone:\n"
            f"pip install --target /tmp/nvcc '{_WHEEL}>={_FIRST_RELEASE.get(sm, '12.9')}'\n"
            "--ptxas /tmp/nvcc/nvidia/cuda_nvcc/bin/ptxas",
        )


def _why(done: proc.Completed, timeout: float) -> str:
    if done.returncode == _TIMED_OUT:
        return f"ptxas was still at it after {timeout:.0f} s"
    if done.returncode < 0:
        return f"ptxas was ended by signal {-done.returncode}"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    said = next((line for line in lines if "error" in line or "fatal" in line), "")
    # "ptxas /tmp/…/module.ptx, line 3; error   : …": without a name that differs each time
    said = re.sub(r"^ptxas \S+, line", "ptxas: line", said or (lines[0] if lines else ""))
    return " ".join(said.split())[:160] or f"ptxas failed with exit status {done.returncode}"


def _checked(cubin: bytes, ptx: bytes, arch: str) -> Compiled:
    """Return the code, if it is what was asked for: for this architecture, with every kernel."""
    try:
        sm = cubin_sm(cubin)
    except FormatRefusedError as refusal:
        return Compiled(None, f"ptxas wrote something else: {refusal}")
    if sm != int(re.sub(r"\D", "", arch)):
        return Compiled(None, f"ptxas wrote code for sm_{sm}")
    missing = [name for name in _KERNEL.findall(ptx) if b".text." + name + b"\0" not in cubin]
    return Compiled(None, "ptxas left out a kernel") if missing else Compiled(cubin)


def in_tree(tree: Path, names: Iterable[str]) -> Path | None:
    """Return the compiler that a tree has from NVIDIA's wheel, given the tree's files."""
    found = sorted(name for name in names if _IN_WHEEL.search(name))
    return tree / found[0] if found else None


def find_ptxas(given: Path | None, own: Path | None) -> Ptxas:
    """Ask the compiler what it is.

    Args:
        given: The one that the user names.
        own: The one in the tree, where there is one.

    Raises:
        SlimError: There is none, or it does not run.
    """
    path = given or own
    if path is None:
        raise SlimError(
            "there is no ptxas to compile with",
            why=f"The tree has none from NVIDIA's wheel ({_WHEEL}).",
            way_out=f"pip install --target /tmp/nvcc {_WHEEL}\n"
            "--ptxas /tmp/nvcc/nvidia/cuda_nvcc/bin/ptxas",
        )
    said = proc.run([str(path), "--version"], timeout=_ASK_SECONDS)
    match = _RELEASE.search(said.stdout)
    known = proc.run([str(path), "--help"], timeout=_ASK_SECONDS)
    archs = frozenset(found["sm"] for found in _ARCH.finditer(known.stdout))
    if match is None or not archs:
        raise SlimError(
            f"{path} does not answer as ptxas does",
            why=said.tail,
            way_out="In a tree that was slimmed before it may be a stand-in: slim from the stock "
            "tree, or give one with --ptxas.",
        )
    return Ptxas(path, match["version"], archs)
