"""What an image's bytes are for, from its inspection: a split whose parts add up to the whole."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tfslim.images.inspection import FileUse, Inspection

__all__ = ["CAUSES", "by_cause", "is_library", "library_name"]

CAUSES = {
    "gpu": "GPU code",  # of an image whose GPUs are not known
    "gpu-own": "GPU code for its GPUs",
    "gpu-other": "GPU code for other GPUs",
    "gpu-portable": "PTX and LTO-IR",
    "host-tensorflow": "TensorFlow, host code",
    "host-cuda": "CUDA libraries, host code",
    "host-rest": "other libraries and programs",
    "headers": "headers and static libraries",
    "python": "Python code and bytecode",
    "rest": "everything else",
}
"""Why bytes are there, in the order of the bars."""

_KINDS = {
    "shared library": "host-rest",
    "executable": "host-rest",
    "headers": "headers",
    "static library": "headers",
    "source code": "headers",
    "bytecode": "python",
    "python source": "python",
    "type stubs": "python",
}
_CUBIN = re.compile(r"sm_(\d+)(\d)([af]?)", re.ASCII)
_GPU = re.compile(r"(\d{1,2})\.?(\d)[af]?", re.ASCII)
# Owners of NVIDIA's libraries: wheels, and Debian's or NVIDIA's packages.
_CUDA_OWNER = re.compile(r"nvidia-|libcu|libnv|libnccl|libnpp|cuda-", re.ASCII)
_LIBRARY = re.compile(r"(?:^|/)(lib[^/]*?|[^/]+?)\.so(?:\.[\d.]+)?$", re.ASCII)


def by_cause(size: Inspection, gpus: Sequence[str]) -> dict[str, int]:
    """Split an image's bytes on disk by why they are there.

    GPU code is counted as it is stored, and taken out of the libraries that hold it. Whose a
    library is, is known for the largest files; smaller ones count as other libraries.

    Args:
        size: The inspection.
        gpus: Compute capabilities that the image is for, such as "90"; empty where that is not
            known.
    """
    parts = dict.fromkeys(CAUSES, 0)
    for kind in size.kinds:
        parts[_KINDS.get(kind.kind, "rest")] += max(kind.disk_bytes, 0)
    in_file = {} if size.gpu is None else size.gpu.by_library
    for arch, stored in ({} if size.gpu is None else size.gpu.by_arch_bytes).items():
        parts[_gpu_cause(arch, gpus)] += max(stored, 0)
        parts["host-rest"] -= max(stored, 0)
    for file in filter(is_library, size.largest_files):
        owner = _owner(file)
        if owner is not None:
            gpu = in_file[file.path].total_bytes if file.path in in_file else 0
            host = max(file.disk_bytes - gpu, 0)
            parts[owner] += host
            parts["host-rest"] -= host
    # Records of damaged images may disagree with themselves: nothing is less than nothing.
    return {cause: max(count, 0) for cause, count in parts.items()}


def is_library(file: FileUse) -> bool:
    """Return whether a file is a shared library, by its name."""
    return _LIBRARY.search(file.path) is not None


def library_name(path: str) -> str:
    """Return a library's name without folder and version: the same in every image."""
    match = _LIBRARY.search(path)
    return match[1] if match else path.rpartition("/")[2]


def _owner(file: FileUse) -> str | None:
    if file.owner.startswith("tensorflow"):
        return "host-tensorflow"
    return "host-cuda" if _CUDA_OWNER.match(file.owner) else None


def _gpu_cause(arch: str, gpus: Sequence[str]) -> str:
    """Return the cause of GPU code: a cubin runs on its major version, same or higher minor."""
    code = _CUBIN.fullmatch(arch)
    if code is None:
        return "gpu-portable"
    if not gpus:
        return "gpu"
    for text in gpus:
        gpu = _GPU.fullmatch(text)
        if gpu is None or gpu[1] != code[1]:
            continue
        if int(gpu[2]) == int(code[2]) or (int(gpu[2]) > int(code[2]) and not code[3]):
            return "gpu-own"
    return "gpu-other"
