"""What a running container costs: memory, and bytes read from storage."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.models.containers import Container

__all__ = ["Usage", "process_start", "usage", "visible_pid"]


@dataclass(frozen=True)
class Usage:
    """What a container has used; None for what is not known.

    Attributes:
        memory_bytes: Its memory, without page cache that can be dropped.
        rss_bytes: Resident memory of its first process.
        read_bytes: What it read from storage.
    """

    memory_bytes: int | None
    rss_bytes: int | None
    read_bytes: int | None


def usage(client: docker.DockerClient, container: Container) -> Usage:
    """Return what a container has used so far."""
    stats: dict[str, Any] = client.api.stats(str(container.id), stream=False, one_shot=True)
    memory = stats.get("memory_stats", {})
    details = memory.get("stats", {})
    # cgroup v1 and v2 name it differently.
    inactive = details.get("total_inactive_file", details.get("inactive_file", 0))
    pid = visible_pid(container)
    return Usage(
        memory_bytes=int(memory["usage"]) - int(inactive) if "usage" in memory else None,
        rss_bytes=_rss(pid),
        read_bytes=_read(stats, pid),
    )


def visible_pid(container: Container) -> int | None:
    """Return the container's process, if the engine's processes are this machine's."""
    container.reload()
    pid = int(container.attrs["State"]["Pid"])
    try:
        seen = str(container.id) in Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return None
    return pid if seen else None


def process_start(container: Container) -> float | None:
    """Return when a container's process started, on the monotonic clock; None if out of sight.

    Field 22 of /proc/PID/stat is in clock ticks since boot (man 5 proc).
    """
    pid = visible_pid(container)
    if pid is None:
        return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    boot = time.clock_gettime(time.CLOCK_BOOTTIME)
    # The clock since boot also counts suspended time, the monotonic one does not.
    return int(fields[19]) / os.sysconf("SC_CLK_TCK") + time.monotonic() - boot


def _rss(pid: int | None) -> int | None:
    """Return a process's resident memory in bytes, as /proc/PID/status gives it."""
    if pid is None:
        return None
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return None


def _read(stats: Mapping[str, Any], pid: int | None) -> int | None:
    """Return the bytes that a container read from storage.

    By its cgroup where the kernel counts there, which includes every process. Else by its process
    and the children that still are there, ended or not (/proc/PID/io; man 5 proc): a process
    has in its own count those that it has waited for.
    """
    counted = (stats.get("blkio_stats") or {}).get("io_service_bytes_recursive") or []
    if counted:
        return sum(int(item["value"]) for item in counted if item["op"].lower() == "read")
    if pid is None or (own := _read_by(pid)) is None:
        return None
    return own + sum(_read_by(child) or 0 for child in _descendants(pid))


def _read_by(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/io").read_text().splitlines():
            if line.startswith("read_bytes:"):
                return int(line.split()[1])
    return None


def _descendants(pid: int) -> Iterator[int]:
    """Yield the children of a process and theirs, zombies included."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, children.read_text().split()):
                yield child
                yield from _descendants(child)
