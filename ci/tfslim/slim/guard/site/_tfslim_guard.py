"""The part of `_tfslim` that is read when it is needed: GPUs, drivers, and what is gone.

It asks NVIDIA's management library (NVML) and not CUDA: a process that has initialised CUDA can no
longer fork children that use it.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import textwrap
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

# sysexits.h: something is configured wrongly. In docs/exit-codes.md.
EXIT_CODE = 78
_MODES = ("exit", "warn", "off")
_TEXT_BYTES = 96
_CUDA_MAJOR = 1000
# Set where it was said that kernels are compiled at first use.
_SAID = "TFSLIM_JIT_SAID"


class Gpu(NamedTuple):
    """A GPU as NVML shows it; `sm` is its compute capability, as in 90."""

    number: int
    name: str
    uuid: str
    sm: int


class Machine(NamedTuple):
    """GPUs in NVML's order (by bus), the driver's version, and the CUDA it is for, as in 12040."""

    gpus: list[Gpu]
    driver: str
    cuda: int


@lru_cache(maxsize=1)
def data() -> dict[str, Any]:
    """Return what tfslim wrote down about this environment.

    TensorFlow tries some fifty modules that are not there: it is read once for all of them.
    """
    text = Path(__file__).with_name("_tfslim.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def explain(name: str) -> str:
    """Return why a module is not there; empty for modules that tfslim did not remove."""
    known = data()
    rule = _rule_for(name, known["modules"])
    if not rule:
        return ""
    keep = known["rules"][rule]["keep"]
    return (
        f"No module named {name!r}: tfslim removed it from this environment (rule {rule}); slim "
        f"with --keep {keep} to have it"
    )


def _rule_for(name: str, modules: dict[str, str]) -> str:
    """Return the rule that removed a module, a package above it, or everything that was in it."""
    part = name
    while part:
        if part in modules:
            return modules[part]
        part = part.rpartition(".")[0]
    return next((rule for key, rule in modules.items() if key.startswith(f"{name}.")), "")


def check() -> str:
    """Return why this environment cannot compute here; empty where it can, or nobody can tell.

    What is only a warning goes to standard error. TFSLIM_GUARD=warn makes everything one.
    """
    mode = os.environ.get("TFSLIM_GUARD", "exit").strip().lower()
    if mode == "off" or os.environ.get("NVIDIA_VISIBLE_DEVICES") in ("", "void", "none"):
        return ""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return ""
    machine = look()
    line, fatal = judge(data(), machine) if machine else ("", False)
    if line and fatal and mode != "warn":
        return line
    if not line and machine:
        line = compiles(data(), machine)
    if line:
        say(line)
    return ""


def compiles(known: dict[str, Any], machine: Machine) -> str:
    """Return one line where the driver will compile PTX at first use; empty where it will not.

    It is said once: not by the processes that this one starts.
    """
    if os.environ.get(_SAID):
        return ""
    for gpu in visible(machine.gpus):
        much = _compiled_at_first_use(known, gpu.sm)
        if much:
            os.environ[_SAID] = "1"
            return (
                f"GPU {gpu.number} ({gpu.name}, sm_{gpu.sm}): {much} compiled from PTX at first "
                "use, and kept in the driver's cache if that lasts; slim with --cuda-arch "
                f"{gpu.sm} --aot to have it done (TFSLIM_GUARD=off says nothing)"
            )
    return ""


def _compiled_at_first_use(known: dict[str, Any], sm: int) -> str:
    """Return what a GPU's driver has to compile, in words; empty for nothing."""
    near = [one for one in known["served"] if one // 10 == sm // 10 and one <= sm]
    if not near:
        return "all its kernels are" if serves(known, sm) else ""
    count = known.get("jit", {}).get(str(max(near)), 0)
    return f"{count} modules with kernels are" if count else ""


def leave(line: str) -> None:
    """Say it in one line and end the process, from whatever thread this is."""
    say(f"{line} (TFSLIM_GUARD=warn goes on all the same)")
    if threading.current_thread() is threading.main_thread():
        raise SystemExit(EXIT_CODE)
    # In another thread that would end the thread alone.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_CODE)


def say(line: str) -> None:
    """Print one line on standard error, if there is one."""
    if sys.stderr is not None:
        print(f"tfslim: {line}", file=sys.stderr, flush=True)


def judge(known: dict[str, Any], machine: Machine) -> tuple[str, bool]:
    """Return what does not fit in one line (empty: all fits), and whether nothing can run."""
    cuda = known["cuda"]
    if machine.gpus and cuda and machine.cuda // _CUDA_MAJOR < cuda:
        version = f"{machine.cuda // _CUDA_MAJOR}.{machine.cuda % _CUDA_MAJOR // 10}"
        return (
            f"this image needs a driver for CUDA {cuda} ({known['driver']} or newer); driver "
            f"{machine.driver} is for CUDA {version}: update the driver"
        ), True
    zstd = known.get("zstd")
    if machine.gpus and zstd and machine.cuda < zstd["cuda"]:
        return (
            f"this image stores GPU code with zstd, for driver {zstd['driver']} or newer; driver "
            f"{machine.driver} is older: update it, or slim without --also zstd"
        ), True
    seen = visible(machine.gpus)
    other = [gpu for gpu in seen if not serves(known, gpu.sm)]
    if not other or not _newest(known):
        return "", False
    more = f" and {len(other) - 1} more" if len(other) > 1 else ""
    gpu = other[0]
    served = ", ".join(f"sm_{sm}" for sm in known["served"]) or "no GPU that was named"
    wanted = ",".join(map(str, sorted({*known["served"], *(gpu.sm for gpu in other)})))
    return (
        f"this image serves {served}; GPU {gpu.number} ({gpu.name}, sm_{gpu.sm}){more} cannot run "
        f"it: slim with --cuda-arch {wanted}"
    ), len(other) == len(seen)


def serves(known: dict[str, Any], sm: int) -> bool:
    """True when code for one of the capabilities served runs on a GPU of capability `sm`.

    A cubin runs on its own major version from its own minor version on; of PTX, the newest is kept,
    and the driver compiles it for what is newer.
    https://docs.nvidia.com/cuda/cuda-c-programming-guide/#application-compatibility
    """
    cubin = any(one // 10 == sm // 10 and one <= sm for one in known["served"])
    return cubin or bool(known["ptx"] and 0 < _newest(known) < sm)


def _newest(known: dict[str, Any]) -> int:
    """Return the newest GPU served; of several runs with none in common, the newest that one named.

    0 where no GPU was named, and nothing of their code was taken.
    """
    newest: int = max(known["served"], default=known.get("newest", 0))
    return newest


def visible(gpus: list[Gpu]) -> list[Gpu]:
    """Return the GPUs that a CUDA program may see; all where CUDA_VISIBLE_DEVICES leaves it open.

    https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables
    """
    text = os.environ.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return gpus
    entries = [entry.strip() for entry in text.split(",")]
    by_bus = os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    alike = len({gpu.sm for gpu in gpus}) == 1
    if any(entry.isdecimal() for entry in entries) and not (by_bus or alike):
        # CUDA counts from the fastest on, and NVML does not say which that is.
        return gpus
    chosen: list[Gpu] = []
    for entry in entries:
        one = _named(entry, gpus)
        if one is None:  # CUDA, too, stops at the first that it does not know
            break
        chosen.append(one)
    return chosen


def _named(entry: str, gpus: list[Gpu]) -> Gpu | None:
    """Return the GPU of an entry: an index, or the beginning of its UUID; None for MIG slices."""
    if entry.isdecimal():
        return gpus[int(entry)] if int(entry) < len(gpus) else None
    found = [gpu for gpu in gpus if entry.startswith("GPU-") and gpu.uuid.startswith(entry)]
    return found[0] if len(found) == 1 else None


def look() -> Machine | None:
    """Return this machine's GPUs and driver; None where there is none to be asked.

    https://docs.nvidia.com/deploy/nvml-api/
    """
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    if nvml.nvmlInit_v2() != 0:
        return None
    try:
        count = ctypes.c_uint()
        nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        asked = [_gpu(nvml, index) for index in range(count.value)]
        driver = ctypes.create_string_buffer(_TEXT_BYTES)
        nvml.nvmlSystemGetDriverVersion(driver, ctypes.c_uint(_TEXT_BYTES))
        cuda = ctypes.c_int()
        # It asks libcuda.so.1, without initialising it, which may be newer than the driver itself:
        # NVIDIA's "forward compatibility" packages.
        if nvml.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(cuda)) != 0:
            return None
        return Machine([gpu for gpu in asked if gpu], _text(driver), cuda.value)
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: ctypes.CDLL, index: int) -> Gpu | None:
    """Return one GPU; None where this process may not see it."""
    handle = ctypes.c_void_p()
    if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) != 0:
        return None
    major, minor = ctypes.c_int(), ctypes.c_int()
    if nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor)):
        return None
    name, uuid = (ctypes.create_string_buffer(_TEXT_BYTES) for _ in range(2))
    nvml.nvmlDeviceGetName(handle, name, ctypes.c_uint(_TEXT_BYTES))
    nvml.nvmlDeviceGetUUID(handle, uuid, ctypes.c_uint(_TEXT_BYTES))
    return Gpu(index, _text(name), _text(uuid), 10 * major.value + minor.value)


def _text(buffer: ctypes.Array[ctypes.c_char]) -> str:
    return buffer.value.decode("utf-8", "replace")


def tell() -> None:
    """Print what this environment serves, what is gone, why, and how to have it."""
    known = data()
    none = "none that was named" if _newest(known) else "any"
    served = ", ".join(f"sm_{sm}" for sm in known["served"]) or none
    ptx = ", newer ones through PTX" if known["ptx"] else ""
    driver = f"; driver {known['driver']} or newer" if known["driver"] else ""
    print(f"Slimmed by tfslim, profile {known['profile']}. GPUs served: {served}{ptx}{driver}.")
    for sm, count in sorted(known.get("jit", {}).items()):
        print(f"Compiled from PTX at first use on sm_{sm}: {count} modules; --aot has it done.")
    for name, rule in sorted(known["rules"].items()):
        gone = sorted(key for key, value in known["modules"].items() if value == name)
        gone += sorted(key for key, value in known["libraries"].items() if value == name)
        print(f"\n{name} (--keep {rule['keep']})")
        ops = known["ops"].get(name, [])
        refused = f"Models with these ops are refused: {', '.join(ops)}" if ops else ""
        listed = f"Gone: {', '.join(gone)}" if gone else ""
        for text in (rule["why"], rule["breaks"], refused, listed):
            if text:
                print(textwrap.indent(textwrap.fill(text, 96), "    "))
