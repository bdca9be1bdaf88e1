"""GPU code of one file for `tfslim inspect`, from the slim engine's scan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tfslim.images.inspection import FileGpuUse, GpuServing
from tfslim.slim.fatbin import Kind
from tfslim.slim.scan import scan_file
from tfslim.slim.serving import DEFAULT_GPUS, serving_by_gpu

__all__ = ["gpu_use"]

_PREFIX = {Kind.PTX.label: "compute", Kind.LTO.label: "lto"}


def gpu_use(path: Path, gpus: Sequence[int] = DEFAULT_GPUS) -> FileGpuUse | None:
    """Return a file's GPU code by architecture and kind; None where it has none.

    Architectures are named as NVIDIA's tools do: sm_90 for cubins, compute_90 for PTX, lto_90 for
    LTO-IR. What looks like GPU code but is not understood is counted as unexplained.

    Args:
        path: The file.
        gpus: Compute capabilities (90 for 9.0) of which to say what they find in it.
    """
    scan = scan_file(path)
    if not scan.has_gpu_code and not scan.unexplained:
        return None
    archs: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for (kind, sm, _region), size in scan.bytes_by.items():
        archs[f"{_PREFIX.get(kind, 'sm')}_{sm}"] += size
        kinds[kind] += size
    return FileGpuUse(
        by_arch_bytes=dict(archs),
        by_kind_bytes=dict(kinds),
        unexplained_bytes=scan.unexplained_bytes,
        by_gpu={
            f"sm_{sm}": GpuServing(**found._asdict())
            for sm, found in serving_by_gpu(scan, gpus).items()
        },
    )
