"""A builder that the user names: buildx's drivers remote, kubernetes and docker-container.

By default images are built by the engine's own BuildKit, or in a container beside it. A name or an
address in `builder` sends the work elsewhere; results come back into the engine, where they are
measured. What a builder says of itself is checked before anything is sent to it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import get_args
from urllib.parse import urlsplit

from tfslim.engine.engine import BUILDER, Driver, Engine, find_engine
from tfslim.errors import EngineError
from tfslim.ui import Ui

__all__ = ["Builder", "find_building_engine", "look_at_builder", "parse_builder", "use_builder"]

_START_SECONDS = 180.0
_CALL_SECONDS = 20.0
_MIN_BUILDKIT = (0, 11)  # attestations; zstd and levels came before
# Schemes of buildx's remote driver: https://docs.docker.com/build/builders/drivers/remote/
_REMOTE = ("tcp", "unix", "docker-container", "kube-pod", "ssh", "podman-container")


@dataclass(frozen=True)
class Builder:
    """What `buildx inspect` says of a builder.

    Attributes:
        name: Its name.
        driver: Its driver.
        status: Of its nodes, by their names.
        errors: What is wrong with it.
        platforms: What it builds for.
        buildkit: Versions of its BuildKits; some builds of Docker tell none.
        endpoints: Where its nodes are.
    """

    name: str = ""
    driver: str = ""
    status: Mapping[str, str] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    buildkit: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()

    @property
    def asleep(self) -> tuple[str, ...]:
        """Names of the nodes that do not run."""
        return tuple(name for name, status in self.status.items() if status != "running")


def look_at_builder(engine: Engine, wanted: str) -> Builder | None:
    """Return what is known of a builder that builds are to be sent to; nothing is made or started.

    Args:
        engine: Whose buildx is asked.
        wanted: Name of a builder, or address of a BuildKit.

    Returns:
        What buildx says of it, its nodes running or asleep; None where the first build makes it
        for its address.

    Raises:
        EngineError: There is no such builder, or it cannot do what is needed.
    """
    by_address = "://" in wanted
    name = _name_for(wanted) if by_address else wanted
    if by_address:
        _create_options(wanted)  # refuses what is no address
    done = engine.buildx(["inspect", name], timeout=_CALL_SECONDS)
    if not done.ok:
        if by_address:
            return None
        raise _not_started(engine, name, wanted, done.tail)
    found = parse_builder(done.stdout)
    _check(found, wanted, started=False)
    return found


def find_building_engine(ui: Ui, wanted: str | None, *, setup: bool) -> Engine:
    """Return the engine to use, with its builds sent where they are wanted.

    Args:
        ui: Shows progress.
        wanted: Name of a builder, or address of a BuildKit; None for the engine's own, which is
            made only then.
        setup: Set the embedded engine up where there is no other.

    Raises:
        TfslimError: See `find_engine` and `use_builder`.
    """
    engine = find_engine(ui, setup=setup, make_builder=wanted in (None, BUILDER))
    return use_builder(engine, wanted, ui)


def use_builder(engine: Engine, wanted: str | None, ui: Ui) -> Engine:
    """Return the engine with its builds sent to another builder.

    Args:
        engine: Where images are wanted, and measured.
        wanted: Name of a builder, or address of a BuildKit; None leaves the engine as it is.
        ui: Shows progress.

    Raises:
        EngineError: There is no such builder, it does not start, or cannot do what is needed.
    """
    if wanted is None or wanted == engine.builder:
        return engine
    name = _made(engine, wanted, ui) if "://" in wanted else wanted
    with ui.step(f"start the builder {name}") as step:
        step.update(wanted)
        done = engine.buildx(["inspect", "--bootstrap", name], timeout=_START_SECONDS)
    if not done.ok:
        raise _not_started(engine, name, wanted, done.tail)
    found = parse_builder(done.stdout)
    _check(found, wanted, started=True)
    driver: Driver = found.driver  # type: ignore[assignment]  # _check has looked
    reason = f"builder: {wanted}"
    ui.note(f"builds run on {name} (driver {driver}, BuildKit {', '.join(found.buildkit) or '?'})")
    return replace(
        engine,
        driver=driver,
        builder=name,
        driver_reason=reason,
        cache_export=True,
        cache_reason=f"the driver {driver} exports a local cache",
        build_network="default",  # the host's network would need a right that builders rarely give
    )


def parse_builder(text: str) -> Builder:
    """Read what `buildx inspect` prints: `Key: value` lines, nodes after `Nodes:`."""
    top: dict[str, str] = {}
    nodes: list[dict[str, str]] = []
    for line in text.splitlines():
        match = re.match(r"([A-Z][A-Za-z ]*?):\s*(.*)$", line)
        if match is None:
            continue
        key, value = match[1].lower(), match[2].strip()
        if key == "name" and top.get("nodes") is not None:
            nodes.append({})
        (nodes[-1] if nodes else top).setdefault(key, value)
    errors = [part["error"] for part in [top, *nodes] if part.get("error")]
    return Builder(
        name=top.get("name", ""),
        driver=top.get("driver", ""),
        status={node.get("name", ""): node.get("status", "") for node in nodes},
        errors=tuple(errors),
        platforms=tuple(
            platform.strip("* ")
            for node in nodes
            if node.get("platforms")  # a node that sleeps tells none
            for platform in node["platforms"].split(",")
        ),
        buildkit=tuple(
            version
            for node in nodes
            if (version := node.get("buildkit version") or node.get("buildkit") or "")
        ),
        endpoints=tuple(node.get("endpoint", "") for node in nodes),
    )


def _check(found: Builder, wanted: str, *, started: bool) -> None:
    """Refuse a builder that cannot build TensorFlow images.

    Args:
        found: What it says of itself.
        wanted: What the user calls it.
        started: It was started: nodes that do not run now never will.

    Raises:
        EngineError: Says what it cannot do.
    """
    if found.driver == "docker":
        raise EngineError(
            f"builder {wanted!r} is another engine's own",
            why="Its images would stay in that engine.",
            way_out="Choose the engine itself: DOCKER_CONTEXT or DOCKER_HOST.",
        )
    if found.driver not in get_args(Driver):
        raise EngineError(
            f"builder {wanted!r} has the driver {found.driver or 'unknown'!r}",
            why=f"tfslim knows {', '.join(get_args(Driver))}.",
        )
    if found.errors or not found.status or (started and found.asleep):
        raise EngineError(
            f"builder {wanted!r} is not running",
            why="\n".join(found.errors)
            or f"nodes that do not run: {', '.join(found.asleep) or 'all'}",
            way_out=f"docker buildx inspect --bootstrap {found.name or wanted}",
        )
    if found.platforms and not any(p.startswith("linux/amd64") for p in found.platforms):
        raise EngineError(
            f"builder {wanted!r} does not build for linux/amd64",
            why=f"it builds for {', '.join(found.platforms)}; TensorFlow's wheels with CUDA are "
            "for x86-64.",
        )
    for version in found.buildkit:
        numbers = re.match(r"v?(\d+)\.(\d+)", version)
        if numbers and (0, 0) < (int(numbers[1]), int(numbers[2])) < _MIN_BUILDKIT:
            raise EngineError(
                f"builder {wanted!r} runs BuildKit {version}",
                why=f"{'.'.join(map(str, _MIN_BUILDKIT))} or newer is needed: zstd, attestations.",
                way_out="Make the builder anew with a newer image (moby/buildkit).",
            )


def _made(engine: Engine, address: str, ui: Ui) -> str:
    """Make a builder for an address, once; return its name.

    Raises:
        EngineError: The address is none, or buildx refuses it.
    """
    name = _name_for(address)
    if engine.buildx(["inspect", name], timeout=_CALL_SECONDS).ok:
        return name
    done = engine.buildx(
        ["create", "--name", name, *_create_options(address)], timeout=_CALL_SECONDS
    )
    if not done.ok:
        raise EngineError(f"buildx makes no builder for {address}", why=done.tail)
    ui.note(f"made builder {name} for {address}; `docker buildx rm {name}` forgets it")
    return name


def _name_for(address: str) -> str:
    return f"tfslim-{hashlib.sha256(address.encode()).hexdigest()[:8]}"


def _create_options(address: str) -> list[str]:
    parts = urlsplit(address)
    if parts.scheme == "kubernetes":
        namespace = ["--driver-opt", f"namespace={parts.netloc}"] if parts.netloc else []
        return ["--driver", "kubernetes", *namespace]
    if parts.scheme in _REMOTE:
        return ["--driver", "remote", address]
    raise EngineError(
        f"builder: {address!r} is no address of a BuildKit",
        why=f"known are {', '.join(f'{scheme}://' for scheme in (*_REMOTE, 'kubernetes'))}",
        way_out="With certificates or other options, make the builder yourself "
        "(docker buildx create …)\nand give its name.",
    )


def _not_started(engine: Engine, name: str, wanted: str, said: str) -> EngineError:
    if re.search(r"no builder|not found", said, re.IGNORECASE):
        listed = engine.buildx(["ls"], timeout=_CALL_SECONDS).stdout
        return EngineError(
            f"there is no builder {wanted!r}",
            why=f"buildx knows:\n{listed}",
            way_out="docker buildx create --name NAME --driver …, or give the address of a "
            "BuildKit.\ntfslim's own engine keeps its own list (BUILDX_CONFIG).",
        )
    return EngineError(
        f"the builder {name} does not start",
        why=said,
        way_out=f"docker buildx inspect --bootstrap {name}\n"
        "Is the BuildKit there, can this machine reach it, and are its certificates right?",
    )
