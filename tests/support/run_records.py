"""Small run records for tests of comparing, budgets, history and dashboards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfslim.report.record import RunRecord

__all__ = ["document", "http_run", "inspection", "make", "start", "starts", "write"]

MACHINE = {
    "tfslim": "0.1.0",
    "machine": "x86_64",
    "kernel": "6.1",
    "cpu": "A CPU",
    "cpus": 2,
    "memory_bytes": 8 * 2**30,
    "engine": {"engine": "26.1.5"},
    "builder": "docker: it can",
    "gpu": "not measured: no GPU (no NVIDIA driver)",
}


def document(**changes: Any) -> dict[str, Any]:
    """Return a record's JSON, with changes put over it; `environment` is merged."""
    where = {**MACHINE, **changes.pop("environment", {})}
    return {
        "schema_version": 2,
        "started": "2026-01-02T03:04:00Z",
        "environment": where,
        **changes,
    }


def make(**changes: Any) -> RunRecord:
    """Return a record; `environment` is merged, everything else replaced."""
    return RunRecord.parse(json.dumps(document(**changes)).encode(), name="test")


def inspection(
    pull: int | None = 1_000_000_000,
    disk: int = 3_000_000_000,
    *,
    layers: Sequence[tuple[str, str, int]] = (),
    packages: Mapping[str, tuple[str, int]] | None = None,
    libraries: Mapping[str, int] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Return an inspection's JSON.

    Args:
        pull: Compressed bytes.
        disk: Unpacked bytes.
        layers: Digest, command and unpacked bytes of each.
        packages: Version and bytes by name.
        libraries: Bytes by path.
        changes: Put over it.
    """
    return {
        "source": "an image",
        "source_kind": "engine",
        "image": None,
        "pull_bytes": pull,
        "pull_bytes_source": "manifest" if pull else "unknown",
        "pull_bytes_note": "",
        "disk_bytes": disk,
        "allocated_bytes": None,
        "files": 3,
        "layers": [
            {
                "digest": digest,
                "compression": "zstd",
                "pull_bytes": size // 2,
                "unpacked_bytes": size,
                "files": 1,
                "wasted_bytes": 0,
                "created_by": command,
            }
            for digest, command, size in layers
        ],
        "packages": [
            {"kind": "python", "name": name, "version": version, "disk_bytes": size, "files": 1}
            for name, (version, size) in (packages or {}).items()
        ],
        "kinds": [],
        "waste": {"wasted_bytes": 0, "efficiency": 1, "dive_wasted_bytes": 0, "largest": []},
        "duplicates": {"extra_bytes": 0, "groups": 0, "largest": []},
        "largest_files": [],
        "gpu": None,
        "libraries": [
            {"path": path, "disk_bytes": size, "owner": "somebody", "layer": 0}
            for path, size in (libraries or {}).items()
        ],
        **changes,
    }


def start(subject: str, seconds: float, turn: int = 0, cache: str = "cold") -> dict[str, Any]:
    """Return one cold start's JSON."""
    return {
        "subject": subject,
        "round": turn,
        "page_cache": cache,
        "jit_cache": "none",
        "phases_s": {"imports": seconds * 0.7, "first_answer": seconds * 0.3},
        "first_answer_s": seconds,
        "ready_s": seconds * 0.9,
        "memory_bytes": 400_000_000,
        "rss_bytes": 350_000_000,
        "read_bytes": 100_000_000,
    }


def starts(**seconds: Sequence[float]) -> dict[str, Any]:
    """Return cold starts by subject, as they took turns on a CPU."""
    launches = [
        start(subject.replace("_", "-"), value, turn)
        for subject, values in seconds.items()
        for turn, value in enumerate(values)
    ]
    return {"device": "CPU", "cold_cache": "dropped", "launches": launches}


def http_run(
    subject: str, seconds: float, turn: int = 0, *, requests: int = 20, batch: int = 1
) -> dict[str, Any]:
    """Return a closed loop of four clients whose requests took so many seconds each."""
    return {
        "subject": subject,
        "group": 0,
        "round": turn,
        "device": "CPU",
        "kind": "closed",
        "batch_size": batch,
        "concurrency": 4,
        "rate": None,
        "seconds": seconds * requests / 4,
        "latencies_s": [seconds] * requests,
    }


def write(path: Path, **changes: Any) -> Path:
    """Write a record's JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document(**changes)), encoding="utf-8")
    return path
