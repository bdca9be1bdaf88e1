"""Configuration and compatibility in, the list of independent builds out. Pure: nothing is run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tfslim.compat import BaseRole, check, compat
from tfslim.config import Config, VariantName, nearest
from tfslim.errors import ConfigError
from tfslim.models import names_frozen
from tfslim.pins.locks import find_lock
from tfslim.slim.rules import load_profile

__all__ = ["Build", "disk_bytes", "grouped", "lock_file", "make_plan", "matrix", "model_name"]


class Build(BaseModel):
    """One image to build: everything that decides what comes out, apart from the bases' digests.

    Attributes:
        variant: Name of the variant, and of its target in `docker-bake.hcl`.
        tag: Full image reference.
        tensorflow: TensorFlow release.
        python: Python minor version (for approach-a, what its base may bring).
        cuda: CUDA release of the bases; None where CUDA comes as wheels.
        cuda_archs: GPU architectures the image is for.
        bases: FROM names, in the order of the Dockerfile.
        lock: Name of the lock that its packages come from; None where pip takes the newest.
        variables: Values for the variables of `docker-bake.hcl`.
        disk_bytes: Rough disk needed to build and keep the image.
    """

    model_config = ConfigDict(frozen=True)

    variant: VariantName
    tag: str
    tensorflow: str
    python: str
    cuda: str | None
    cuda_archs: tuple[str, ...]
    bases: tuple[str, ...]
    lock: str | None = None
    variables: dict[str, str]
    disk_bytes: int


def make_plan(config: Config, only: Sequence[str] = ()) -> list[Build]:
    """Return the builds of a configuration.

    Args:
        config: The checked configuration.
        only: Names of variants; all of the configuration's when empty.

    Raises:
        ConfigError: A name is unknown, a path is missing or a combination is impossible.
    """
    known = list(compat().variants)
    for name in only:
        if name not in known:
            raise ConfigError(
                f"unknown variant {name!r}{nearest(name, known)}",
                why=f"the variants are: {', '.join(known)}",
            )
    _check_paths(config)
    _check_words(config)
    _check_native(config)
    chosen = [name for name in known if name in (only or config.variants)]
    if names_frozen(config.model.source):
        _check_frozen(config, chosen)
    return [_build(config, name) for name in chosen]


def matrix(builds: Sequence[Build]) -> dict[str, list[dict[str, Any]]]:
    """Return the builds as a `strategy.matrix` of GitHub Actions."""
    return {
        "include": [
            {
                "variant": build.variant,
                "image": build.tag,
                "tensorflow": build.tensorflow,
                "python": build.python,
                "cuda": build.cuda or "wheels",
                "cuda-archs": ",".join(build.cuda_archs),
                "bases": list(build.bases),
                "disk-bytes": build.disk_bytes,
            }
            for build in builds
        ]
    }


def grouped(builds: Sequence[Build], free_bytes: int | None) -> list[list[Build]]:
    """Split the builds into groups that fit on the disk together, to be measured side by side.

    `stock` is in every group, because the others are compared with it.

    Args:
        builds: What is to be built and measured.
        free_bytes: Free disk of the engine; None where it is not known (one group then).

    Returns:
        At least one group for each build that is not `stock`; a build that fits nowhere has a
        group of its own, and the engine will say so.
    """
    reference = [build for build in builds if build.variant == "stock"]
    others = [build for build in builds if build.variant != "stock"]
    groups: list[list[Build]] = [[*reference]]
    for build in others:
        if free_bytes is not None and len(groups[-1]) > len(reference):
            together = disk_bytes([*groups[-1], build])
            if together > free_bytes:
                groups.append([*reference])
        groups[-1].append(build)
    return groups


def disk_bytes(builds: Sequence[Build]) -> int:
    """Return roughly the disk that building and keeping these images takes in the engine."""
    table = compat()
    wheels = any("python" in table.variants[build.variant].bases for build in builds)
    return sum(build.disk_bytes for build in builds) + wheels * round(table.wheels_gb * 10**9)


def _build(config: Config, variant: VariantName) -> Build:
    table = compat()
    python = check(variant, config.tensorflow, config.python, config.cuda, config.base_source)
    row = table.tensorflow[config.tensorflow]
    made = table.variants[variant]
    roles = made.bases
    names = {role: _base_name(config, role) for role in roles}
    lock = lock_file(config)
    suffix = "cu" + config.cuda if "cuda-runtime" in roles else "py" + config.python
    return Build(
        variant=variant,
        tag=f"{config.image.repository}/{variant}:{config.tensorflow}-{suffix}",
        tensorflow=config.tensorflow,
        python=python,
        cuda=config.cuda if "cuda-runtime" in roles else None,
        cuda_archs=config.cuda_archs,
        bases=tuple(names[role] for role in roles),
        lock=lock.name if lock and made.pinned else None,
        variables={
            "TENSORFLOW_VERSION": config.tensorflow,
            **{role.replace("-", "_").upper(): names[role] for role in roles},
            "CONSTRAINTS": " ".join(row.constraints),
            "SYSTEM_CUDA_WHEELS": " ".join(row.wheels_on_system_cuda),
            "TRAINING_EXTRAS": " ".join(
                [*row.training_extras, *(["jupyterlab>=4,<5"] if config.image.jupyter else [])]
            ),
            "CUDA_ARCHS": ",".join(arch.replace(".", "") for arch in config.cuda_archs),
            "SLIM_PROFILE": config.slim,
            "AOT": "--aot" if _compiles(config, made.profile) else "",
            "SLIM_OPTIONS": " ".join(_slim_options(config, made.profile)),
            "LOCK": lock.name if lock else "",
            "TRACE": config.trace.name if config.trace else "",
            "BYTECODE": config.bytecode,
            "HOST_CODE": config.host_code,
            "GATE": "on" if config.gate else "off",
            "BACKEND": config.backend,
            "FREEZE": "on" if _freezes(config, variant) else "off",
            "MODEL_NAME": model_name(config),
        },
        disk_bytes=round(made.disk_gb * 10**9),
    )


def _freezes(config: Config, variant: VariantName) -> bool:
    """Return whether the model is frozen in a variant: only the C API serves a frozen one.

    One that is frozen already is baked as it is.
    """
    wanted = config.model.freeze and config.model.mode == "bake"
    can = compat().variants[variant].profile is not None and _is_native(config, variant)
    return wanted and can and not names_frozen(config.model.source)


def _is_native(config: Config, variant: VariantName) -> bool:
    """Return whether TensorFlow's C API serves in a variant; never in stock."""
    return compat().variants[variant].native or (variant != "stock" and config.backend == "capi")


def lock_file(config: Config) -> Path | None:
    """Return the lock that `pins` asks for; None where pip is to take the newest."""
    if isinstance(config.pins, Path):
        return config.pins
    if config.pins == "newest":
        return None
    return find_lock(config.tensorflow, config.python, config.cuda_archs)


def _slim_options(config: Config, profile: str | None) -> list[str]:
    """Return `keep` and `also` as options, as far as a variant's own profile has such rules."""
    known = load_profile(profile).keep_names if profile else ()
    return [
        f"--{option}={word}"
        for option, words in (("keep", config.keep), ("also", config.also))
        for word in words
        if word in known
    ]


def _compiles(config: Config, profile: str | None) -> bool:
    """Return whether PTX is compiled ahead of time: where GPU code is slimmed at all."""
    own = profile or (config.slim if config.slim != "none" else None)
    return config.aot and own is not None and load_profile(own).gpu_rule is not None


def _base_name(config: Config, role: BaseRole) -> str:
    """Return the FROM name of a base; `check` has made sure that there is one."""
    table = compat()
    match role:
        case "python":
            return table.python_bases[config.python].name
        case "cuda-runtime":
            return table.cuda_bases[config.cuda].runtime
        case "cuda-devel":
            return table.cuda_bases[config.cuda].devel


def model_name(config: Config) -> str:
    """Return the name the model is served under: the one set, else one from the source."""
    if config.model.name:
        return config.model.name
    path = Path(config.model.source.removeprefix("demo:"))
    folder = path.parent.name if path.name.isdigit() else path.name  # …/NAME/1: a version
    return re.sub(r"[^A-Za-z0-9._-]+", "-", folder).strip("-.") or "model"


def _check_paths(config: Config) -> None:
    if config.app is not None and not config.app.is_dir():
        raise ConfigError(
            f"app folder {config.app} is not there",
            way_out="Correct `app:`, or leave it out to use the service shipped with tfslim.",
        )
    pins = config.pins if isinstance(config.pins, Path) else None
    for key, path in (
        ("secrets.ca", config.secrets.ca),
        ("secrets.pip-conf", config.secrets.pip_conf),
        ("trace", config.trace),
        ("pins", pins),
    ):
        if path is not None and not path.is_file():
            hint = nearest(path.name, ("smallest", "newest")) if path is pins else ""
            raise ConfigError(f"{key}: {path} is not a file{hint}")


def _check_words(config: Config) -> None:
    """Refuse words for rules that no profile has; each profile holds the rules of those before."""
    known = load_profile("workload").keep_names
    for key, word in [("keep", w) for w in config.keep] + [("also", w) for w in config.also]:
        if word not in known:
            raise ConfigError(
                f"{key}: no rule is called {word!r}{nearest(word, known)}",
                why=f"the words are: {', '.join(known)}",
            )


def _check_native(config: Config) -> None:
    """Refuse what contradicts itself about the native backend."""
    if "native" in config.also and config.backend != "capi":
        raise ConfigError(
            "also: native takes out Python's TensorFlow, and backend: tensorflow needs it",
            way_out="Build inference-native or workload-native, or set backend: capi.",
        )
    if "native" in config.keep:
        raise ConfigError(
            "keep: native would keep Python's TensorFlow in the native images",
            way_out="Build inference or workload, with backend: capi.",
        )
    if config.model.freeze and config.model.mode == "mount":
        raise ConfigError(
            "model.freeze: a model that is mounted is served as it is",
            way_out="Set model.mode: bake, or freeze it yourself: "
            "python -m tfserve_app.freeze MODEL FOLDER",
        )


def _check_frozen(config: Config, variants: Sequence[VariantName]) -> None:
    """Refuse a frozen model where Python's TensorFlow would serve or trace it."""
    source = config.model.source
    if others := [name for name in variants if not _is_native(config, name)]:
        raise ConfigError(
            f"model.source: {source} is a frozen model, which only TensorFlow's C API serves",
            why=f"Python's TensorFlow serves in: {', '.join(others)}.",
            way_out="Build with backend: capi and without stock, or name the native images:\n"
            "  tfslim build inference-native\n"
            "To have both side by side: as model.source the SavedModel that was frozen, and "
            "model.freeze: true.",
        )
    traced = [name for name in variants if compat().variants[name].profile == "workload"]
    if traced and config.trace is None:
        raise ConfigError(
            f"model.source: {source} is a frozen model, and {', '.join(traced)} would trace it",
            why="Models are traced with Python's TensorFlow, which does not load a frozen one.",
            way_out="As model.source the SavedModel that was frozen, and model.freeze: true; or "
            "trace that one and set trace:\n"
            "  tfslim trace STOCK --model SAVED_MODEL -o trace.json",
        )
