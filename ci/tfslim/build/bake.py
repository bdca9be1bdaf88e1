"""Build images with `docker buildx bake`: the file a person would run, plus what this run adds.

Tags, base contexts, secrets and caches go into a small JSON file that bake merges with
`docker-bake.hcl`; nothing is rewritten.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tfslim.build.bases import Base
from tfslim.build.cache import LocalCache
from tfslim.config import Config
from tfslim.engine.engine import Engine
from tfslim.errors import BuildFailedError, ConfigError, DiskError, NetworkError, TfslimError
from tfslim.plan import Build, lock_file
from tfslim.ui import Step, Ui

__all__ = [
    "BuildLog",
    "BuiltImage",
    "bake_cached",
    "bake_definition",
    "build_failure",
    "build_images",
    "dockerfiles",
    "engine_output",
    "run_bake",
    "secrets",
]

_CACHED = re.compile(r"^#(\d+) CACHED$")
# "#12 [venv 2/4] RUN …": what a Dockerfile's line does; bases and contexts are not steps.
_STEP = re.compile(r"^#(\d+) \[[^\]]*\d+/\d+\] (?!FROM )")
_NO_SPACE = re.compile(r"no space left on device", re.IGNORECASE)
_NO_NETWORK = re.compile(
    r"failed to resolve|name resolution|network is unreachable|connection (refused|reset|timed out)"
    r"|no such host|certificate verify failed|Max retries exceeded|i/o timeout",
    re.IGNORECASE,
)


class BuiltImage(BaseModel):
    """An image that a build left in the engine.

    Attributes:
        build: What was asked for.
        digest: The manifest's digest.
        seconds: Wall time of the build, export and unpack included.
        steps: Steps of the Dockerfile that ran or were found in the cache.
        cached_steps: Those found in the cache; equal to `steps` when nothing was done anew.
        bases: Where each base came from and what pins it.
    """

    model_config = ConfigDict(frozen=True)

    build: Build
    digest: str
    seconds: float
    steps: int
    cached_steps: int
    bases: dict[str, Base]


def build_images(
    engine: Engine,
    builds: Sequence[Build],
    *,
    config: Config,
    bases: Mapping[str, Base],
    model: Path | None,
    trial: Path | None,
    logs: Path,
    ui: Ui,
) -> list[BuiltImage]:
    """Build images one after the other, so that disk and log stay readable.

    Args:
        engine: The engine to build with.
        builds: What to build.
        config: For image, cache and secret settings.
        bases: Where each FROM name comes from.
        model: Folder to bake as /model; None leaves it to be mounted.
        trial: The model that images are tried with while they are built, baked or not.
        logs: Folder for the whole log of each build.
        ui: Shows progress.

    Raises:
        BuildFailedError: A step failed; with the end of the log.
        DiskError: The engine ran out of disk.
        NetworkError: A registry or package index could not be reached.
    """
    cache = LocalCache(config.cache)
    return [
        _build_one(
            engine,
            build,
            definition=bake_definition(build, config, bases, {"model": model, "trial": trial}),
            cache=cache,
            bases={name: bases[name] for name in build.bases},
            logs=logs,
            ui=ui,
        )
        for build in builds
    ]


def _build_one(
    engine: Engine,
    build: Build,
    *,
    definition: dict[str, Any],
    cache: LocalCache,
    bases: dict[str, Base],
    logs: Path,
    ui: Ui,
) -> BuiltImage:
    start = time.monotonic()
    digest, log = bake_cached(
        engine,
        build.variant,
        definition,
        title=f"build {build.variant}",
        cache=cache,
        logs=logs,
        ui=ui,
        variables=build.variables,
    )
    return BuiltImage(
        build=build,
        digest=digest,
        seconds=time.monotonic() - start,
        steps=len(log.steps),
        cached_steps=len(log.cached & log.steps),
        bases=bases,
    )


def bake_cached(
    engine: Engine,
    name: str,
    definition: dict[str, Any],
    *,
    title: str,
    cache: LocalCache,
    logs: Path,
    ui: Ui,
    **how: Any,
) -> tuple[str, BuildLog]:
    """Bake one target from the local cache, and export the cache where the image is another one.

    Args:
        engine: Builds it.
        name: The target.
        definition: A bake file with that target; where the cache lies is added to it.
        title: What the step is called.
        cache: The local cache.
        logs: Folder for the logs.
        ui: Shows progress.
        **how: See `run_bake`, which also says what is raised.

    Returns:
        The image's digest, and the log of its build.
    """
    target = definition["target"][name]
    usable = cache.usable(engine, ui)
    if usable:
        target["cache-from"] = cache.sources(name)
    with ui.step(title) as step:
        log = BuildLog(step, logs / f"{name}.log")
        made = run_bake(engine, name, definition, log, **how)
    digest = str(made.get("containerimage.digest", ""))
    ui.note(
        f"{target['tags'][0]}: {len(log.cached & log.steps)} of {len(log.steps)} steps from the "
        "cache"
    )
    # A second, fully cached run exports the cache, so that an unchanged image exports nothing.
    if usable and not cache.holds(name, digest):
        with (
            ui.step(f"export the cache of {name}") as step,
            cache.export(name, digest) as destination,
        ):
            target["cache-to"], target["output"] = [destination], ["type=cacheonly"]
            run_bake(engine, name, definition, BuildLog(step, logs / f"{name}-cache.log"), **how)
    return digest, log


class BuildLog:
    """What buildx's plain progress says: which steps there are, and which were cached.

    All of it is kept in a file, because an error shows only the end.
    """

    def __init__(self, step: Step, path: Path) -> None:
        self.steps: set[str] = set()
        self.cached: set[str] = set()
        self.path = path
        self._step = step
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("", encoding="utf-8")

    def __call__(self, line: str) -> None:
        """Take the next line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        if match := _STEP.match(line):
            self.steps.add(match[1])
        elif match := _CACHED.match(line):
            self.cached.add(match[1])
        self._step.update(line)


def run_bake(
    engine: Engine,
    target: str,
    definition: dict[str, Any],
    log: BuildLog,
    *,
    variables: Mapping[str, str],
    ours: bool = True,
    options: Sequence[str] = ("--provenance=false",),
    failure: Callable[[str, str, Path], TfslimError] | None = None,
) -> dict[str, Any]:
    """Run bake for one target.

    Args:
        engine: What to build with.
        target: Name of the target.
        definition: What this run adds to it, or all of it; a bake file.
        log: Gets what is said.
        variables: Values of variables of `docker-bake.hcl`.
        ours: The target is one of `docker-bake.hcl`.
        options: Further options. Without provenance, equal images have equal digests: its
            timestamps are left out.
        failure: Makes an error from the target, the end of the log and the log's path; by default
            `build_failure`.

    Returns:
        What bake tells of the result.

    Raises:
        TfslimError: What `failure` makes of it.
    """
    with tempfile.TemporaryDirectory(prefix="tfslim-") as scratch:
        folder = Path(scratch)
        (folder / "override.json").write_text(json.dumps(definition), encoding="utf-8")
        # Only Compose files can name a network in every release of bake; what else Compose wants
        # to say here is overridden by the files after it.
        network = {"build": {"context": ".", "network": engine.build_network}}
        (folder / "network.yaml").write_text(
            json.dumps({"services": {target: network}}), encoding="utf-8"
        )
        done = engine.buildx(
            [
                "bake",
                *("-f", str(folder / "network.yaml")),
                *(("-f", str(dockerfiles() / "docker-bake.hcl")) if ours else ()),
                *("-f", str(folder / "override.json")),
                *("--metadata-file", str(folder / "metadata.json")),
                *("--progress", "plain"),
                *options,
                target,
            ],
            on_line=log,
            env={**variables, "BUILDX_BAKE_ENTITLEMENTS_FS": "0"},
            cwd=dockerfiles().parent if ours else folder,
        )
        if not done.ok:
            raise (failure or build_failure)(target, done.tail, log.path)
        metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    return dict(metadata[target])


def bake_definition(
    build: Build,
    config: Config,
    bases: Mapping[str, Base],
    models: Mapping[str, Path | None],
) -> dict[str, Any]:
    """Return what this run adds to the target of `docker-bake.hcl`, as a bake file."""
    contexts = {base.name: base.context for base in bases.values() if base.context}
    contexts["app"] = str((config.app or dockerfiles() / "app").resolve())
    contexts |= {name: str(path.resolve()) for name, path in models.items() if path}
    if build.lock and (lock := lock_file(config)):
        contexts["locks"] = str(lock.resolve().parent)
    if build.variables["TRACE"] and config.trace:
        contexts["traces"] = str(config.trace.resolve().parent)
    return {
        "target": {
            build.variant: {
                "contexts": contexts,
                "tags": [build.tag],
                "labels": {
                    "io.tfslim.cuda-archs": ",".join(build.cuda_archs),
                    "io.tfslim.bases": ", ".join(
                        f"{name}@{bases[name].pin}" for name in build.bases
                    ),
                },
                "secret": secrets(config),
                "output": [engine_output(config)],
            }
        }
    }


def engine_output(config: Config) -> str:
    """Return the output of a build that leaves its image in the engine."""
    image = config.image
    return (
        f"type=docker,oci-mediatypes=true,compression={image.compression},"
        f"compression-level={image.compression_level}"
    )


def dockerfiles() -> Path:
    """Return the folder of the Dockerfiles: beside the package in a checkout.

    Raises:
        ConfigError: tfslim was installed without its checkout.
    """
    folder = Path(__file__).resolve().parents[3] / "dockerfiles"
    if not (folder / "docker-bake.hcl").is_file():
        raise ConfigError(
            "the Dockerfiles are not here",
            why=f"{folder} does not exist: tfslim was installed without its repository",
            way_out="Clone the repository and run `bash ci/start.sh bench` there.\n"
            "`tfslim slim` and `tfslim inspect` work without it.",
        )
    return folder


def secrets(config: Config) -> list[str]:
    """Return the BuildKit secrets: a CA bundle (the machine's own by default) and a pip.conf."""
    ca = config.secrets.ca or next(
        (Path(os.environ[name]) for name in ("PIP_CERT", "SSL_CERT_FILE") if os.environ.get(name)),
        None,
    )
    found = {"ca": ca, "pip_conf": config.secrets.pip_conf}
    return [f"id={name},src={path}" for name, path in found.items() if path is not None]


def build_failure(variant: str, said: str, log: Path) -> TfslimError:
    """Tell from the end of a failed build's log what kind of failure it was."""
    tail = "\n".join(said.splitlines()[-25:])
    if _NO_SPACE.search(said):
        return DiskError(
            f"the disk is full while building {variant}",
            why=tail,
            way_out="Free some: `docker buildx prune`, `docker image prune`, or build fewer\n"
            "variants at a time (`tfslim build VARIANT`); `tfslim doctor` shows the figures.",
        )
    if _NO_NETWORK.search(said):
        return NetworkError(
            f"a registry or package index could not be reached while building {variant}",
            why=tail,
            way_out="Check the network and proxy. For a private index or CA: `secrets.pip-conf`\n"
            "and `secrets.ca` in tfslim.yaml. Without a registry: `base-source: debian`.",
        )
    return BuildFailedError(
        f"the build of {variant} failed",
        why=tail,
        way_out=f"The end of the log is above, the whole of it in {log}.\n"
        "Correct the Dockerfile or its inputs; finished steps are kept.",
    )
