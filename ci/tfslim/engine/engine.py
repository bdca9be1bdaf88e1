"""The one seam to Docker: find an engine, check what it can do, and talk to it.

The Docker a machine has comes first (DOCKER_HOST, the current context, the default socket), then
a running embedded engine, and only when asked a new embedded one. What was found is one frozen
`Engine`; every room that needs Docker gets it and none looks for itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import docker
from docker.context import ContextAPI
from docker.context.config import get_current_context_name
from docker.errors import DockerException

from tfslim import proc
from tfslim.engine import apt, embedded
from tfslim.engine.embedded import Endpoint
from tfslim.errors import EngineError
from tfslim.ui import Ui

__all__ = ["BUILDER", "Driver", "Endpoint", "Engine", "find_engine"]

Driver = Literal["docker", "docker-container", "remote", "kubernetes", "cloud"]

BUILDER = "tfslim"
_MIN_BUILDX = (0, 10)  # named contexts, metadata files and bake as docker-bake.hcl uses them
_CONTAINERD_STORE = ["driver-type", "io.containerd.snapshotter.v1"]
_CALL_SECONDS = 20
_TRANSFER_SECONDS = 600
_SOCKET = Path("/var/run/docker.sock")
_PLUGIN_FOLDERS = (
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)
# The package that holds buildx, by release; Docker's own packages name it docker-buildx-plugin.
_BUILDX_PACKAGES = {
    "trixie": "docker-buildx",
    "sid": "docker-buildx",
    "jammy": "docker-buildx",
    "noble": "docker-buildx",
}
_WAY_OUT = """\
Install Docker Engine with buildx: https://docs.docker.com/engine/install/
or let tfslim set up an engine of its own in a private folder: add --setup-engine (needs root)."""


@dataclass(frozen=True)
class Engine:
    """A Docker engine that answers, with a buildx that can build on it.

    Attributes:
        endpoint: Address and programs.
        embedded: True for the engine that tfslim set up itself.
        server_version: Version of the engine.
        buildx_version: Version of buildx, as numbers and dots.
        driver: buildx's driver: "docker" builds in the engine, "docker-container" beside it
            (results then have to be loaded into the engine); the others elsewhere, likewise.
        builder: Name of the builder that every buildx call uses.
        driver_reason: Why this driver.
        cache_export: True where `--cache-to type=local` works.
        cache_reason: Why it does or does not.
        build_network: Network that build steps need to reach the internet.
        data_root: The engine's data folder, where it lies on this machine.
    """

    endpoint: Endpoint
    embedded: bool
    server_version: str
    buildx_version: str
    driver: Driver
    builder: str
    driver_reason: str
    cache_export: bool
    cache_reason: str
    build_network: Literal["default", "host"]
    data_root: Path | None

    def client(self) -> docker.DockerClient:
        """Return a client of the engine's API; the caller closes it."""
        return _client(self.endpoint)

    def buildx(
        self,
        args: Sequence[str],
        on_line: Callable[[str], None] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float | None = None,
    ) -> proc.Completed:
        """Run `docker buildx ARGS` with this engine's builder.

        Args:
            args: What follows `docker buildx`.
            on_line: Gets each line as it comes; the result then holds the last lines only.
            env: Further variables.
            cwd: Folder to run in.
            timeout: Seconds to wait; only without `on_line`.
        """
        argv = [str(self.endpoint.buildx), *args]
        # The environment chooses the builder, so that subcommands without --builder work too.
        full = {**self.endpoint.env, "BUILDX_BUILDER": self.builder, **(env or {})}
        if on_line is None:
            return proc.run(argv, env=full, cwd=cwd, timeout=timeout)
        return proc.stream(argv, on_line, env=full, cwd=cwd)

    def docker(
        self, args: Sequence[str], on_line: Callable[[str], None] | None = None
    ) -> proc.Completed:
        """Run `docker ARGS`; 127 where the machine has no docker command."""
        argv = [str(self.endpoint.docker or "docker"), *args]
        if on_line is None:
            return proc.run(argv, env=self.endpoint.env)
        return proc.stream(argv, on_line, env=self.endpoint.env)

    def free_bytes(self) -> int | None:
        """Return the free bytes where the engine keeps its data; None when that is elsewhere."""
        if self.data_root is None or not self.data_root.exists():
            return None
        return shutil.disk_usage(self.data_root).free

    def info(self) -> dict[str, Any]:
        """Return the engine's description of itself (`docker info`)."""
        return _info(self.endpoint)

    def version_info(self) -> dict[str, str]:
        """Return the versions that a report names."""
        with contextlib.closing(self.client()) as client:
            components = client.version().get("Components", [])
        versions = {part["Name"].lower(): part["Version"] for part in components}
        return {**versions, "engine": self.server_version, "buildx": self.buildx_version}


def find_engine(ui: Ui, *, setup: bool, make_builder: bool = True) -> Engine:
    """Return the engine to use.

    Args:
        ui: Where the choice of driver is told.
        setup: Set the embedded engine up where there is no other.
        make_builder: Make the container builder where it is needed; without it (`doctor`) it is
            only said that one would be made.

    Raises:
        EngineError: No engine, one that does not answer, or none with a usable buildx.
        NetworkError: The embedded engine's packages cannot be fetched.
    """
    endpoint, info = _reach(ui, setup=setup)
    version = _checked_buildx(endpoint)
    is_embedded = endpoint.host == embedded.Home.default().endpoint().host
    choice = _choose_driver(endpoint, info, ui, make_builder=make_builder)
    ui.note(f"Docker at {endpoint.host}; buildx {version}, driver {choice.driver}: {choice.reason}")
    return Engine(
        endpoint=endpoint,
        embedded=is_embedded,
        server_version=str(info.get("ServerVersion", "unknown")),
        buildx_version=version,
        driver=choice.driver,
        builder=choice.builder,
        driver_reason=choice.reason,
        cache_export=choice.cache_export,
        cache_reason=choice.cache_reason,
        # The embedded engine leaves forwarding off: its bridge does not reach the internet.
        build_network="host" if is_embedded else "default",
        data_root=_data_root(endpoint, info),
    )


def _reach(ui: Ui, *, setup: bool) -> tuple[Endpoint, dict[str, Any]]:
    """Return the first endpoint that answers, with what it says of itself."""
    own = _machine_endpoint()
    if own is not None:
        return own, _info(own)
    home = embedded.Home.default()
    if setup:
        endpoint = embedded.up(ui, home)
    elif embedded.running(home):
        endpoint = home.endpoint()
    else:
        raise EngineError(
            "no Docker engine on this machine",
            why="DOCKER_HOST is not set, the docker context is the default one, and there is no "
            f"socket at {_SOCKET}. An embedded engine is not running either.",
            way_out=_WAY_OUT,
        )
    return endpoint, _info(endpoint)


def _machine_endpoint() -> Endpoint | None:
    """Return the engine the machine is set up with; None where there is no sign of one."""
    home = embedded.Home.default().endpoint()
    host = os.environ.get("DOCKER_HOST")
    if host == home.host:
        return home
    if host:
        return Endpoint(host, _docker_command(), _buildx_program(), {})
    context = os.environ.get("DOCKER_CONTEXT") or get_current_context_name()
    if context != "default":
        return _context_endpoint(context)
    if not _SOCKET.exists():
        return None
    return Endpoint(f"unix://{_SOCKET}", _docker_command(), _buildx_program(), {})


def _context_endpoint(name: str) -> Endpoint:
    context = ContextAPI.get_context(name)
    if context is None:
        raise EngineError(
            f"docker context '{name}' does not exist",
            way_out="docker context ls lists them; docker context use default returns to the "
            "machine's own engine.",
        )
    return Endpoint(
        str(context.Host), _docker_command(), _buildx_program(), {"DOCKER_CONTEXT": name}
    )


def _docker_command() -> Path | None:
    found = shutil.which("docker")
    return Path(found) if found else None


def _buildx_program() -> Path | None:
    """Return the buildx plugin where docker itself would look for it, or from PATH."""
    config = Path(os.environ.get("DOCKER_CONFIG", "~/.docker")).expanduser()
    for folder in (config / "cli-plugins", *map(Path, _PLUGIN_FOLDERS)):
        if os.access(folder / "docker-buildx", os.X_OK):
            return folder / "docker-buildx"
    found = shutil.which("docker-buildx") or shutil.which("buildx")
    return Path(found) if found else None


def _client(endpoint: Endpoint, timeout: int = _TRANSFER_SECONDS) -> docker.DockerClient:
    """Return an API client for an endpoint, with its TLS settings where it has any.

    Args:
        endpoint: What to talk to.
        timeout: Seconds of silence after which a call fails.
    """
    name = endpoint.env.get("DOCKER_CONTEXT")
    ssh = endpoint.host.startswith("ssh://")
    if not name and not endpoint.host.startswith("unix://"):
        return docker.from_env(version="auto", timeout=timeout, use_ssh_client=ssh)
    tls = ContextAPI.get_context(name).TLSConfig if name else None
    return docker.DockerClient(
        base_url=endpoint.host,
        version="auto",
        timeout=timeout,
        tls=tls or False,
        use_ssh_client=ssh,
    )


def _info(endpoint: Endpoint) -> dict[str, Any]:
    """Return the engine's description of itself, or say why it does not answer."""
    try:
        client = _client(endpoint, _CALL_SECONDS)
        with contextlib.closing(client):
            return dict(client.info())
    except (DockerException, OSError) as error:
        raise _no_answer(endpoint, error) from error


def _no_answer(endpoint: Endpoint, error: Exception) -> EngineError:
    if "Permission denied" in str(error) or "PermissionError" in repr(error):
        way_out = (
            "Run this with sudo, or join the docker group: sudo usermod -aG docker $USER, then "
            "log in again."
        )
    elif endpoint.env.get("DOCKER_CONTEXT") or os.environ.get("DOCKER_HOST"):
        way_out = (
            "Start that engine, or choose another: unset DOCKER_HOST; docker context use default."
        )
    else:
        way_out = (
            "Start it: sudo systemctl start docker\n"
            "or remove the stale socket and add --setup-engine (needs root)."
        )
    return EngineError(
        f"the Docker engine at {endpoint.host} does not answer", why=str(error), way_out=way_out
    )


def _checked_buildx(endpoint: Endpoint) -> str:
    """Return the version of buildx; refuse a missing or too old one, naming the package."""
    if endpoint.buildx is None:
        raise EngineError(
            f"the Docker engine at {endpoint.host} answers, but there is no buildx",
            why="The images are built by BuildKit, which docker drives through its buildx plugin.",
            way_out=f"{_install_buildx()}\nor use tfslim's own engine: stop this one, then add "
            "--setup-engine.",
        )
    said = proc.run([str(endpoint.buildx), "version"], env=endpoint.env, timeout=_CALL_SECONDS)
    numbers = re.search(r"\bv?(\d+)\.(\d+)(?:\.(\d+))?", said.stdout)
    if not said.ok or numbers is None:
        raise EngineError(
            f"{endpoint.buildx} does not run", why=said.tail, way_out=_install_buildx()
        )
    if (int(numbers[1]), int(numbers[2])) < _MIN_BUILDX:
        raise EngineError(
            f"buildx {numbers[0]} is too old",
            why=f"tfslim needs {'.'.join(map(str, _MIN_BUILDX))} or newer.",
            way_out=_install_buildx(),
        )
    return numbers[0].lstrip("v")


def _install_buildx() -> str:
    """Return how this machine gets buildx."""
    if not apt.missing(["docker-ce"]):
        return "apt-get install docker-buildx-plugin"
    try:
        package = _BUILDX_PACKAGES.get(apt.machine_release().codename)
    except EngineError:
        package = None
    if package:
        return f"apt-get install {package}"
    return (
        "This release has no package with buildx; Docker's own has it (docker-buildx-plugin): "
        "https://docs.docker.com/engine/install/"
    )


@dataclass(frozen=True)
class _Choice:
    driver: Literal["docker", "docker-container"]
    builder: str
    reason: str
    cache_export: bool
    cache_reason: str


def _choose_driver(
    endpoint: Endpoint, info: Mapping[str, Any], ui: Ui, *, make_builder: bool
) -> _Choice:
    """Choose buildx's driver by whether it can export a local cache."""
    default = endpoint.env.get("DOCKER_CONTEXT", "default")
    if _CONTAINERD_STORE in (info.get("DriverStatus") or []):
        return _Choice(
            "docker",
            default,
            "the engine keeps images in containerd, so its own BuildKit can do everything",
            True,
            "the docker driver exports a local cache with the containerd image store",
        )
    why_not = (
        f"the docker driver cannot export a local cache with the {info.get('Driver', 'classic')} "
        "image store"
    )
    if not make_builder:
        reason = f"{why_not}; a build would use a docker-container builder named {BUILDER}"
        return _Choice("docker-container", BUILDER, reason, True, reason)
    failure = _make_builder(endpoint, default, ui)
    if failure is None:
        return _Choice(
            "docker-container",
            BUILDER,
            why_not,
            True,
            f"the container builder {BUILDER} exports a local cache",
        )
    ui.warn(f"No local cache: {why_not}, and a container builder cannot start ({failure}).")
    return _Choice(
        "docker",
        default,
        f"a docker-container builder cannot start: {failure}",
        False,
        f'{why_not}; set {{"features": {{"containerd-snapshotter": true}}}} in '
        "/etc/docker/daemon.json and restart docker",
    )


def _make_builder(endpoint: Endpoint, context: str, ui: Ui) -> str | None:
    """Make and start the container builder where it is not there; return why it failed, or None."""
    buildx = str(endpoint.buildx)
    if not proc.run([buildx, "inspect", BUILDER], env=endpoint.env, timeout=_CALL_SECONDS).ok:
        create = ["create", "--name", BUILDER, "--driver", "docker-container", context]
        made = proc.run([buildx, *create], env=endpoint.env, timeout=_CALL_SECONDS)
        if not made.ok:
            return made.tail
    with ui.step(f"Start the buildx builder {BUILDER}") as step:
        argv = [buildx, "inspect", "--bootstrap", BUILDER]
        started = proc.stream(argv, step.update, env=endpoint.env)
    return None if started.ok else started.tail.splitlines()[-1]


def _data_root(endpoint: Endpoint, info: Mapping[str, Any]) -> Path | None:
    """Return the engine's data folder; a remote engine's or a virtual machine's is not here."""
    root = Path(str(info.get("DockerRootDir", "")))
    return root if endpoint.host.startswith("unix://") and root.is_dir() else None
