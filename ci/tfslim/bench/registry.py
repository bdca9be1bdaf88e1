"""Pull an image as a fresh node does: from a real registry into a store that has no layer of it.

The registry is Debian's docker-registry on loopback. The store is a containerd of its own, in a
folder of its own, so that no image of the engine is removed and no layer that the engine shares
between images is missed: a pull into the engine itself would find them there. The engine is only
asked to push. Fetching and unpacking are two commands, so that their times are told apart; an
engine that pulls overlaps them in part.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import httpx
from docker.errors import APIError, DockerException

from tfslim import proc
from tfslim.bench.results import Pull
from tfslim.engine import apt, embedded
from tfslim.errors import DiskError, EngineError
from tfslim.ui import Step, Ui, human_bytes

__all__ = ["Tools", "find_tools", "measure_pull", "pull_seconds"]

_RESERVE = 5 * 10**9  # bytes that a measurement must leave free: others write meanwhile
_START_SECONDS = 20.0
_CONTAINERD_STORE = ["driver-type", "io.containerd.snapshotter.v1"]
_NAMESPACE = "tfslim"
_MANIFEST_BYTES = 1 << 20
# What a store needs none of: the interface to Kubernetes, and snapshotters of other file systems.
_NOT_NEEDED = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.tracing",
    "io.containerd.nri.v1.nri",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
]


@dataclass(frozen=True)
class Tools:
    """Programs of a pull, and the folder in which it takes place.

    Attributes:
        registry: docker-registry.
        containerd: containerd.
        ctr: containerd's own client.
        folder: Emptied before and after each pull; images are written to it.
    """

    registry: Path
    containerd: Path
    ctr: Path
    folder: Path


def find_tools(ui: Ui) -> Tools:
    """Return the programs; docker-registry is unpacked privately where the machine has none.

    Raises:
        EngineError: Not root, or there is no containerd or no registry.
        NetworkError: The package cannot be fetched.
    """
    apt.require_root("Measuring a pull (a store of layers, mounted)")
    home = embedded.Home.default()
    private = home.path.parent / "registry"
    containerd = _program("containerd", home.root)
    ctr = _program("ctr", home.root)
    if containerd is None or ctr is None:
        raise EngineError(
            "there is no containerd on this machine",
            way_out="apt-get install containerd, or use the embedded engine (--setup-engine).",
        )
    registry = _program("docker-registry", private / "root")
    if registry is None:
        apt.unpack(apt.Source(("docker-registry",)), private / "root", private / "apt", ui)
        shutil.rmtree(private / "apt", ignore_errors=True)
        registry = _program("docker-registry", private / "root")
    if registry is None:
        raise EngineError("the package docker-registry holds no docker-registry")
    return Tools(registry, containerd, ctr, private / "pull")


def measure_pull(
    tools: Tools, client: docker.DockerClient, image: str, *, subject: str, turn: int, step: Step
) -> Pull:
    """Push an image to a registry on loopback, and pull it into an empty store.

    Args:
        tools: See `find_tools`.
        client: Of the engine that has the image.
        image: Its reference.
        subject: As results show it.
        turn: Number of the turn, from 0.
        step: Shows what is being done.

    Raises:
        DiskError: There is no room.
        EngineError: The engine does not reach the registry, or a program failed.
    """
    _check_room(tools, client, image)
    with _emptied(tools.folder), _registry(tools) as address:
        step.update(f"{subject}: push")
        reference = _push(client, image, address)
        with _store(tools) as ctr:
            step.update(f"{subject}: pull")
            pull_s = _timed(lambda: ctr(["content", "fetch", "--plain-http", reference]))
            size, layers = _fetched(tools)
            # The registry's copy has been read; the unpacked files need its room.
            shutil.rmtree(tools.folder / "registry", ignore_errors=True)
            step.update(f"{subject}: unpack")
            unpack_s = _timed(lambda: _unpack(tools, ctr, reference))
    return Pull(
        subject=subject,
        round=turn,
        pull_bytes=size,
        pull_s=round(pull_s, 3),
        unpack_s=round(unpack_s, 3),
        layers=layers,
    )


def pull_seconds(pull: Pull, bits_per_second: float) -> tuple[float, float]:
    """Return how long a pull over a slower network takes: computed, not measured.

    An engine unpacks a layer while it fetches the next, so the time lies between the longer of the
    two (perfect overlap) and their sum (none, as with one large layer).
    """
    travel = max(pull.pull_bytes * 8 / bits_per_second, pull.pull_s)
    return max(travel, pull.unpack_s), travel + pull.unpack_s


def _program(name: str, root: Path) -> Path | None:
    """Return a program below a private root, or else the machine's."""
    private = root / "usr/bin" / name
    if private.exists():
        return private
    found = shutil.which(name)
    return Path(found) if found else None


def _check_room(tools: Tools, client: docker.DockerClient, image: str) -> None:
    """Refuse to begin what would fill the disk.

    At its end there are the compressed and the unpacked layers: what an engine with containerd's
    store calls an image's size. The older store counts the unpacked ones alone.
    """
    tools.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(tools.folder).free
    store = (client.info().get("DriverStatus") or []) == [_CONTAINERD_STORE]
    size = client.images.get(image).attrs["Size"] * (1.05 if store else 1.6)
    needed = int(size) + _RESERVE
    if free < needed:
        raise DiskError(
            f"{human_bytes(free)} free in {tools.folder}, and pulling {image} takes up to "
            f"{human_bytes(needed)} for a while",
            way_out="Free some, or leave pulls out: --pulls 0.",
        )


@contextmanager
def _emptied(folder: Path) -> Iterator[None]:
    """Begin with an empty folder, and leave nothing in it; one process at a time.

    Raises:
        EngineError: Another process measures a pull.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EngineError(f"another process measures a pull in {folder}") from error
        proc.run(["umount", "-q", str(folder / "mount")])  # of a run that was killed
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _registry(tools: Tools) -> Iterator[str]:
    """Run a registry on a free port of loopback; yield its address."""
    port = _free_port()
    settings = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(tools.folder / "registry")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    # JSON is YAML, too.
    config = tools.folder / "registry.yml"
    config.write_text(json.dumps(settings))
    log = tools.folder / "registry.log"
    with proc.background([str(tools.registry), "serve", str(config)], log) as status:
        _wait(lambda: _answers(f"http://127.0.0.1:{port}/v2/"), status, log, "the registry")
        yield f"127.0.0.1:{port}"


@contextmanager
def _store(tools: Tools) -> Iterator[Callable[[list[str]], None]]:
    """Run a containerd with nothing in it; yield a function that runs ctr on it."""
    address = tools.folder / "c.sock"
    disabled = ", ".join(f'"{name}"' for name in _NOT_NEEDED)
    config = tools.folder / "containerd.toml"
    config.write_text(
        f'version = 2\nroot = "{tools.folder}/store"\nstate = "{tools.folder}/state"\n'
        f'disabled_plugins = [{disabled}]\n[grpc]\naddress = "{address}"\n'
    )
    log = tools.folder / "containerd.log"
    base = [str(tools.ctr), "--address", str(address), "--namespace", _NAMESPACE]

    def ctr(args: list[str]) -> None:
        done = proc.run([*base, *args])
        if not done.ok:
            raise EngineError(f"ctr {' '.join(args[:2])} failed", why=done.tail)

    with proc.background([str(tools.containerd), "--config", str(config)], log) as status:
        _wait(lambda: proc.run([*base, "version"]).ok, status, log, "containerd")
        yield ctr


def _unpack(tools: Tools, ctr: Callable[[list[str]], None], reference: str) -> None:
    """Unpack a fetched image: containerd does so to mount it."""
    mount = tools.folder / "mount"
    mount.mkdir()
    try:
        ctr(["images", "mount", reference, str(mount)])
    finally:
        proc.run(["umount", str(mount)])


def _wait(
    answers: Callable[[], bool], status: Callable[[], int | None], log: Path, name: str
) -> None:
    """Wait until a server answers.

    Raises:
        EngineError: It ended, or did not answer in time.
    """
    deadline = time.monotonic() + _START_SECONDS
    while not answers():
        if status() is not None or time.monotonic() > deadline:
            lines = log.read_text(errors="replace").splitlines()
            raise EngineError(f"{name} did not start", why="\n".join(lines[-8:]))
        time.sleep(0.05)


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url).status_code == httpx.codes.OK
    return False


def _push(client: docker.DockerClient, image: str, address: str) -> str:
    """Push an image under a name on loopback, which the engine forgets again; return the name."""
    repository, tag = f"{address}/tfslim/subject", "measured"
    client.images.get(image).tag(repository, tag)
    try:
        for event in client.images.push(repository, tag, stream=True, decode=True):
            _check_pushed(event, image)
    except (APIError, DockerException) as error:
        raise EngineError(
            f"{image} cannot be pushed to a registry on loopback", why=str(error)
        ) from error
    finally:
        with contextlib.suppress(DockerException):
            client.images.remove(f"{repository}:{tag}", noprune=True)
    return f"{repository}:{tag}"


def _check_pushed(event: Mapping[str, Any], image: str) -> None:
    if "error" in event:
        raise EngineError(
            f"{image} cannot be pushed to a registry on loopback",
            why=str(event["error"]),
            way_out="An engine on another machine cannot reach it: --pulls 0.",
        )


def _fetched(tools: Tools) -> tuple[int, int]:
    """Return the bytes of everything in the store, and how many layers they are.

    Only what travelled is in it: the manifest, the configuration and the layers.
    """
    blobs = tools.folder / "store/io.containerd.content.v1.content/blobs/sha256"
    sizes = {path: path.stat().st_size for path in blobs.iterdir()}
    layers = 0
    for path in (path for path, size in sizes.items() if size < _MANIFEST_BYTES):
        with contextlib.suppress(ValueError):
            content = json.loads(path.read_bytes())
            found = content.get("layers") if isinstance(content, dict) else None
            layers += len(found) if isinstance(found, list) else 0
    return sum(sizes.values()), layers


def _timed(work: Callable[[], None]) -> float:
    """Return the seconds that work takes; what others have still to write is written before."""
    os.sync()
    start = time.monotonic()
    work()
    return time.monotonic() - start


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
