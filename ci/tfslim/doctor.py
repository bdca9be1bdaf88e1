"""What this machine can do for tfslim: one check a line, each with the way out.

Pure data: nothing is printed, installed or changed here.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tfslim.build.builder import look_at_builder
from tfslim.engine import embedded
from tfslim.engine.engine import Engine
from tfslim.errors import EngineError, TfslimError
from tfslim.gpu import Gpu, Gpus, container_access, find_gpus
from tfslim.ui import human_bytes

__all__ = ["Check", "Status", "diagnose"]

Status = Literal["ok", "warn", "fail"]

# CUDA 12 runs on any driver from this one on (minor version compatibility):
# https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
_MIN_DRIVER = (525, 60, 13)
_TOOLKIT = """\
Install NVIDIA's container toolkit and register it:
https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/install-guide.html
sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"""


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: What was looked at.
        status: `ok`; `warn`: works with less; `fail`: builds cannot run.
        detail: What was found, and why.
        way_out: What the user can do; empty where nothing needs to be done.
    """

    name: str
    status: Status
    detail: str
    way_out: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the check as `--json` prints it."""
        return asdict(self)


def diagnose(
    engine: Engine | TfslimError,
    *,
    gpus: Gpus | None = None,
    disk_bytes: int,
    builder: str | None = None,
) -> list[Check]:
    """Check everything that a run depends on.

    Args:
        engine: The engine that a run would use, or the error that finding it raised.
        gpus: What the driver says; asked for when not given.
        disk_bytes: Free disk that the builds need.
        builder: Name or address of the builder that builds are sent to; None for the engine's own.
    """
    found = find_gpus() if gpus is None else gpus
    checks = [_python()]
    info: dict[str, Any] = {}
    if isinstance(engine, Engine):
        checks.extend(_engine(engine))
        if builder is None or builder == engine.builder:
            checks.extend(_own_builder(engine))
        else:
            checks.append(_named_builder(engine, builder))
        info = engine.info()
    else:
        checks.append(_failed("engine", engine))
    checks.append(_disk(engine, disk_bytes))
    checks.append(_gpu(found))
    if found.gpus:
        checks.append(_driver(found.gpus[0]))
        checks.append(_containers(info, isinstance(engine, Engine)))
    return checks


def _python() -> Check:
    return Check(
        "Python", "ok", f"{platform.python_version()} ({platform.python_implementation()})"
    )


def _failed(name: str, error: TfslimError) -> Check:
    detail = f"{error.what}\n{error.why}" if error.why else error.what
    return Check(name, "fail", detail, error.way_out)


def _engine(engine: Engine) -> Iterator[Check]:
    kind = "tfslim's own" if engine.embedded else "this machine's"
    yield Check("engine", "ok", f"{kind}: {engine.server_version} at {engine.endpoint.host}")
    yield Check("buildx", "ok", f"{engine.buildx_version} ({engine.endpoint.buildx})")


def _own_builder(engine: Engine) -> Iterator[Check]:
    yield Check("driver", "ok", f"{engine.driver}: {engine.driver_reason}")
    if engine.cache_export:
        yield Check("cache export", "ok", engine.cache_reason)
    else:
        yield Check(
            "cache export",
            "warn",
            f"not possible: {engine.cache_reason}",
            'Set {"features": {"containerd-snapshotter": true}} in /etc/docker/daemon.json and '
            "restart docker. Without it builds work, but keep no cache outside the engine.",
        )


def _named_builder(engine: Engine, wanted: str) -> Check:
    """Look at the builder that builds are sent to, as it is: it is neither made nor started."""
    try:
        found = look_at_builder(engine, wanted)
    except EngineError as error:
        return _failed("builder", error)
    if found is None:
        return Check("builder", "warn", f"{wanted}: not reached yet; the first build tries it")
    detail = f"{wanted}: driver {found.driver} at {', '.join(found.endpoints)}"
    if found.asleep:
        return Check(
            "builder",
            "warn",
            f"{detail}; {', '.join(found.asleep)} does not run, and a build would start it",
            f"To try it now: docker buildx inspect --bootstrap {found.name}",
        )
    return Check("builder", "ok", f"{detail}, BuildKit {', '.join(found.buildkit) or '?'}")


def _disk(engine: Engine | TfslimError, needed: int) -> Check:
    if isinstance(engine, Engine):
        folder, free = engine.data_root, engine.free_bytes()
    else:
        folder = _existing(embedded.Home.default().path)
        free = shutil.disk_usage(folder).free
    want = f"all variants need about {human_bytes(needed)}"
    if free is None:
        return Check("disk", "warn", f"the engine's data are not on this machine; {want}")
    detail = f"{human_bytes(free)} free at {folder}; {want}"
    if free >= needed:
        return Check("disk", "ok", detail)
    return Check(
        "disk",
        "warn",
        detail,
        "Free some (docker system prune), build one variant at a time, or move the engine's data "
        '("data-root" in /etc/docker/daemon.json; TFSLIM_HOME for tfslim\'s own engine).',
    )


def _existing(path: Path) -> Path:
    """Return the path or its nearest parent that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _gpu(found: Gpus) -> Check:
    if found.gpus:
        names = ", ".join(
            f"{gpu.name} (sm_{gpu.sm}, {human_bytes(gpu.memory_bytes)})" for gpu in found.gpus
        )
        return Check("GPU", "ok", names)
    way_out = "Install or repair the NVIDIA driver." if found.broken else ""
    detail = f"{found.why_none}; images are built all the same, and measured on the CPU"
    return Check("GPU", "warn", detail, way_out)


def _driver(gpu: Gpu) -> Check:
    numbers = tuple(int(part) for part in gpu.driver.split(".") if part.isdigit())
    if numbers >= _MIN_DRIVER:
        return Check("driver of the GPU", "ok", gpu.driver)
    least = ".".join(map(str, _MIN_DRIVER))
    return Check(
        "driver of the GPU",
        "fail",
        f"{gpu.driver}: CUDA 12 needs {least} or newer",
        f"Update the NVIDIA driver to {least} or newer.",
    )


def _containers(info: dict[str, Any], has_engine: bool) -> Check:
    if not has_engine:
        return Check("GPU in containers", "warn", "not checked: there is no engine")
    how = container_access(info)
    if how:
        return Check("GPU in containers", "ok", how)
    return Check(
        "GPU in containers",
        "warn",
        "the engine has no nvidia runtime, and there is no CDI specification",
        _TOOLKIT,
    )
