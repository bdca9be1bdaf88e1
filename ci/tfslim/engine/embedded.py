"""The embedded engine: a real dockerd with buildx in a private folder, for machines without one.

The programs are Debian's (or Ubuntu's) own packages, unpacked but not installed. The engine has
its own socket, data, bridge and log below one home folder, and leaves firewall rules and
forwarding alone, so that an engine beside it is not disturbed. Therefore containers on its bridge
reach the machine only: builds and runs that need the internet use the host's network.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tfslim import proc
from tfslim.engine import apt
from tfslim.errors import EngineError
from tfslim.ui import Ui

__all__ = ["Endpoint", "Home", "Status", "down", "purge", "running", "status", "up"]

_DEFAULT_HOME = Path("/var/lib/tfslim/engine")
_START_SECONDS = 90.0
_STOP_SECONDS = 60
# The longest socket path is containerd's, which refuses one of more than 104 characters.
_LONGEST_SOCKET = Path("containerd/containerd-debug.sock")
_SOCKET_PATH_LIMIT = 104

# tini holds docker-init, which `docker run --init` needs.
_TRIXIE_ENGINE = apt.Source(
    ("docker.io", "docker-cli", "docker-buildx", "containerd", "tini"), "trixie"
)
_RUNC = apt.Source(("runc",))
# Debian 12's docker.io (20.10) has no buildx and cannot export a local cache; trixie's runs on
# Debian 12 with Debian 12's own runc (trixie's wants a newer C library).
_SOURCES: dict[str, tuple[apt.Source, ...]] = {
    "bookworm": (_TRIXIE_ENGINE, _RUNC),
    "trixie": (apt.Source((*_TRIXIE_ENGINE.packages, "runc")),),
    "jammy": (apt.Source(("docker.io", "docker-buildx", "containerd", "runc")),),
    "noble": (apt.Source(("docker.io", "docker-buildx", "containerd", "runc")),),
}
_NO_DOCKER = "Install Docker Engine with buildx: https://docs.docker.com/engine/install/"


@dataclass(frozen=True)
class Endpoint:
    """How to reach an engine: its address and the programs and settings that talk to it.

    Attributes:
        host: Address as DOCKER_HOST takes it.
        docker: The docker command; None where there is none.
        buildx: The buildx program, which also runs without the docker command; None likewise.
        env: Variables to add to the environment of both.
    """

    host: str
    docker: Path | None
    buildx: Path | None
    env: dict[str, str]


@dataclass(frozen=True)
class Status:
    """What stands of the embedded engine: `packages` is empty before it is set up."""

    home: Path
    running: bool
    pid: int | None
    packages: tuple[str, ...]
    disk_bytes: int


@dataclass(frozen=True)
class Home:
    """Paths of an embedded engine, all below one folder."""

    path: Path

    @classmethod
    def default(cls) -> Home:
        """Return the home named by TFSLIM_HOME, or the system-wide one."""
        named = os.environ.get("TFSLIM_HOME")
        return cls(Path(named).resolve() / "engine" if named else _DEFAULT_HOME)

    @property
    def root(self) -> Path:
        """The unpacked packages."""
        return self.path / "root"

    @property
    def data(self) -> Path:
        """The engine's images, containers and build cache."""
        return self.path / "data"

    @property
    def exec_root(self) -> Path:
        """The engine's running state: containerd's sockets, network namespaces."""
        return self.path / "exec"

    @property
    def socket(self) -> Path:
        """The engine's own socket."""
        return self.path / "docker.sock"

    @property
    def pidfile(self) -> Path:
        """Process id of the running dockerd."""
        return self.path / "dockerd.pid"

    @property
    def log(self) -> Path:
        """What dockerd and containerd say."""
        return self.path / "dockerd.log"

    @property
    def manifest(self) -> Path:
        """Names and versions of the unpacked packages; written last, so it proves completeness."""
        return self.root / "packages.json"

    @property
    def docker(self) -> Path:
        """The unpacked docker command."""
        return self.root / "usr/bin/docker"

    @property
    def buildx(self) -> Path:
        """The buildx plugin, in a folder that serves as DOCKER_CONFIG."""
        return self.path / "cli/cli-plugins/docker-buildx"

    @property
    def bridge(self) -> str:
        """Name of this home's own bridge; an interface's name has at most 15 characters."""
        return f"tfslim-{zlib.crc32(str(self.path).encode()):08x}"

    def endpoint(self) -> Endpoint:
        """Return how to reach this home's engine."""
        return Endpoint(
            host=f"unix://{self.socket}",
            docker=self.docker,
            buildx=self.buildx,
            env={
                "DOCKER_HOST": f"unix://{self.socket}",
                "BUILDX_CONFIG": str(self.path / "buildx"),
            },
        )


def up(ui: Ui, home: Home | None = None) -> Endpoint:
    """Set the embedded engine up where it is not yet, start it where it is not running.

    Raises:
        EngineError: Not root, an unsupported system, or the engine does not start.
        NetworkError: The packages cannot be fetched.
    """
    home = home or Home.default()
    if _pid(home) and _answers(home):
        return home.endpoint()
    apt.require_root("An embedded Docker engine")
    longest = str(home.exec_root / _LONGEST_SOCKET)
    if len(longest) > _SOCKET_PATH_LIMIT:
        raise EngineError(
            f"{home.path} is too long for the path of a socket",
            why=f"{longest} has {len(longest)} characters; the limit is {_SOCKET_PATH_LIMIT}.",
            way_out="Set TFSLIM_HOME to a shorter path.",
        )
    home.path.mkdir(parents=True, exist_ok=True)
    with _locked(home):
        if not home.manifest.exists():
            _set_up(home, ui)
        if not (_pid(home) and _answers(home)):
            _start(home, ui)
    return home.endpoint()


def down(ui: Ui, home: Home | None = None) -> bool:
    """Stop the engine and take away what it leaves: its bridge and mounts.

    Returns:
        True where an engine was running.
    """
    home = home or Home.default()
    if not home.path.exists():
        return False
    was_running = _pid(home) is not None
    if was_running:
        apt.require_root("Stopping the embedded engine")
        with ui.step("Stop the embedded engine"):
            _stop(home)
    _unmount(home)
    home.socket.unlink(missing_ok=True)
    shutil.rmtree(home.exec_root, ignore_errors=True)
    if _bridge_address(home.bridge) is not None:
        proc.run(["ip", "link", "delete", home.bridge, "type", "bridge"])
    return was_running


def running(home: Home | None = None) -> bool:
    """True while the embedded engine's dockerd runs."""
    return _pid(home or Home.default()) is not None


def status(home: Home | None = None) -> Status:
    """Return what stands of the embedded engine; changes nothing."""
    home = home or Home.default()
    packages: tuple[str, ...] = ()
    with contextlib.suppress(OSError, ValueError):
        packages = tuple(json.loads(home.manifest.read_text()))
    pid = _pid(home)
    used = proc.run(["du", "-sxB1", str(home.path)]).stdout.split()
    return Status(home.path, pid is not None, pid, packages, int(used[0]) if used else 0)


def purge(ui: Ui, home: Home | None = None) -> None:
    """Stop the engine and delete its folder with all its images and caches."""
    home = home or Home.default()
    down(ui, home)
    left = _mounts(home)
    if left:
        raise EngineError(
            f"{home.path} still has mounts and was not deleted",
            why="\n".join(map(str, left)),
            way_out=f"umount -R {left[0]}, then run this again.",
        )
    if home.path.exists():
        with ui.step(f"Delete {home.path}"):
            shutil.rmtree(home.path)


def _set_up(home: Home, ui: Ui) -> None:
    """Unpack the packages aside and rename, so that an interrupted setup leaves nothing usable."""
    release = apt.machine_release()
    sources = _SOURCES.get(release.codename)
    if sources is None:
        raise EngineError(
            f"no recipe for an embedded engine on {release.id} {release.codename}",
            why=f"There are recipes for: {', '.join(_SOURCES)}.",
            way_out=_NO_DOCKER,
        )
    apt.install(_system_packages(), "the embedded engine", ui)
    names = " ".join(name for source in sources for name in source.packages)
    ui.print(f"Setting up an embedded Docker engine in {home.path} (unpacked there only: {names})")
    aside = home.path / "root.new"
    shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(home.root, ignore_errors=True)
    state = home.path / "apt"
    unpacked = [deb for source in sources for deb in apt.unpack(source, aside, state, ui)]
    shutil.rmtree(state, ignore_errors=True)
    (aside / home.manifest.name).write_text(json.dumps(sorted(unpacked), indent=1))
    aside.rename(home.root)
    _link_plugin(home)


def _system_packages() -> list[str]:
    """Return what has to be installed: programs the engine runs that cannot be private."""
    packages = ["ca-certificates", "iproute2"]
    apparmor = Path("/sys/module/apparmor/parameters/enabled")
    if apparmor.exists() and apparmor.read_text().strip() == "Y":
        packages.append("apparmor")  # dockerd loads its profile with apparmor_parser
    return packages


def _link_plugin(home: Home) -> None:
    """Make a DOCKER_CONFIG folder in which `docker buildx` finds the unpacked plugin."""
    link = home.buildx
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    found = [
        path
        for folder in ("libexec", "lib")
        for path in (home.root / "usr" / folder / "docker/cli-plugins").glob("docker-buildx")
    ]
    if not found:
        raise EngineError("the docker-buildx package holds no buildx", way_out=_NO_DOCKER)
    link.symlink_to(found[0])


def _start(home: Home, ui: Ui) -> None:
    """Start dockerd in the background and wait until it answers."""
    down(ui, home)  # what a killed engine left behind would be in the way
    home.exec_root.mkdir(parents=True, exist_ok=True)
    _make_bridge(home.bridge)
    settings = home.path / "daemon.json"
    settings.write_text(json.dumps(_daemon_settings(home), indent=1))
    folders = [home.root / "usr/sbin", home.root / "usr/bin"]
    path = os.pathsep.join([*map(str, folders), os.environ.get("PATH", ""), "/usr/sbin:/sbin"])
    dockerd = shutil.which("dockerd", path=path)
    if dockerd is None:
        raise EngineError("the docker.io package holds no dockerd", way_out=_NO_DOCKER)
    # A shell redirects its output: start-stop-daemon's --output is not in every release.
    script = 'exec "$0" --config-file "$1" >>"$2" 2>&1'
    command = ["/bin/sh", "--", "-c", script, dockerd, str(settings), str(home.log)]
    with ui.step("Start the embedded engine") as step:
        # Not --exec: it would start nothing while any other process runs the same shell.
        unless = ["--pidfile", str(home.pidfile), "--startas"]
        argv = ["start-stop-daemon", "--start", "--background", *unless, *command]
        proc.run(argv, env={"PATH": path})
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(home):
            if time.monotonic() > deadline or _gave_up(home):
                raise _not_started(home)
            step.update("waiting for its answer")
            time.sleep(0.25)


def _daemon_settings(home: Home) -> dict[str, object]:
    """Return dockerd's settings: everything private, nothing of the machine's network changed."""
    return {
        "hosts": [f"unix://{home.socket}"],
        "data-root": str(home.data),
        "exec-root": str(home.exec_root),
        "pidfile": str(home.pidfile),
        "bridge": home.bridge,
        "iptables": False,
        "ip6tables": False,
        "ip-masq": False,
        "ip-forward": False,
        "features": {"containerd-snapshotter": True, "cdi": True},
        # BuildKit's own limit is a tenth of the disk: less than the environments that variants
        # share, which would then be installed again for each.
        "builder": {"gc": {"enabled": True, "defaultKeepStorage": _cache_limit(home.path)}},
    }


def _cache_limit(folder: Path) -> str:
    """Return what the build cache may hold: half of the disk. Runs make room when it is tight."""
    return f"{shutil.disk_usage(folder).total // 2}B"


def _stop(home: Home) -> None:
    """End dockerd by SIGTERM, by force only after a minute."""
    retry = f"TERM/{_STOP_SECONDS}/KILL/10"
    argv = ["start-stop-daemon", "--stop", "--retry", retry, "--pidfile", str(home.pidfile)]
    done = proc.run([*argv, "--name", "dockerd"])
    home.pidfile.unlink(missing_ok=True)
    if not done.ok:
        raise EngineError(
            "the embedded engine did not stop",
            why=done.tail,
            way_out=f"See {home.log}; its process id was in {home.pidfile}.",
        )


def _pid(home: Home) -> int | None:
    """Return the id of the running dockerd; a stale pid file (a reboot) counts as none."""
    try:
        pid = int(home.pidfile.read_text())
        command = Path(f"/proc/{pid}/comm").read_text()
    except (OSError, ValueError):
        return None
    return pid if command.strip() == "dockerd" else None


def _answers(home: Home) -> bool:
    """True when the engine serves its API."""
    if not home.socket.exists():
        return False
    argv = [str(home.docker), "version", "--format", "{{.Server.Version}}"]
    return proc.run(argv, env=home.endpoint().env, timeout=10).ok


def _gave_up(home: Home) -> bool:
    """True when dockerd said that it failed to start."""
    with contextlib.suppress(OSError):
        return "failed to start daemon" in _log_tail(home)
    return False


def _log_tail(home: Home, size: int = 6000) -> str:
    with home.log.open("rb") as log:
        log.seek(max(0, home.log.stat().st_size - size))
        return log.read().decode(errors="replace")


def _not_started(home: Home) -> EngineError:
    lines = _log_tail(home).splitlines() if home.log.exists() else ["(no log)"]
    return EngineError(
        "the embedded engine did not start",
        why="\n".join(line[:240] for line in lines[-8:]),
        way_out=f"The whole log: {home.log}\nIt needs root with the right to mount "
        f"(a container needs --privileged). {_NO_DOCKER}",
    )


def _make_bridge(name: str) -> None:
    """Make the engine's bridge with a free /24 of its own, where it is not there yet."""
    if _bridge_address(name):
        return
    taken = proc.run(["ip", "-o", "-4", "addr", "show"]).stdout
    subnet = next(f"10.217.{n}" for n in range(256) if f" 10.217.{n}." not in taken)
    proc.run(["ip", "link", "add", name, "type", "bridge"])
    proc.run(["ip", "addr", "add", f"{subnet}.1/24", "dev", name])
    done = proc.run(["ip", "link", "set", name, "up"])
    if not done.ok:
        raise EngineError(
            f"the engine's bridge {name} cannot be made",
            why=done.tail,
            way_out="It needs root with CAP_NET_ADMIN (a container needs --privileged).",
        )


def _bridge_address(name: str) -> str | None:
    """Return the bridge's addresses as `ip` lists them; None where there is no such bridge."""
    shown = proc.run(["ip", "-o", "-4", "addr", "show", "dev", name])
    return shown.stdout if shown.ok else None


def _mounts(home: Home) -> list[Path]:
    """Return mount points below the home, the deepest first."""
    prefix = f"{home.path}/"
    lines = Path("/proc/self/mounts").read_text().splitlines()
    points = [line.split(" ")[1] for line in lines]
    return [Path(point) for point in reversed(points) if point.startswith(prefix)]


def _unmount(home: Home) -> None:
    for point in _mounts(home):
        proc.run(["umount", "--lazy", str(point)])


@contextlib.contextmanager
def _locked(home: Home) -> Iterator[None]:
    """Hold the home for one process: a second setup waits for the first."""
    with (home.path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
