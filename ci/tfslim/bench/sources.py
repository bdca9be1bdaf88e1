"""From command line arguments to subjects: images of an engine, archives, folders, trees."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tfslim.bench import enter
from tfslim.bench.device import Device, choose_device, choose_root_device
from tfslim.bench.ready import Running
from tfslim.bench.rootfs import RootTarget, open_root, serve_root
from tfslim.bench.run import image_subject
from tfslim.bench.throughput import Subject
from tfslim.config import BenchConfig
from tfslim.engine.engine import Engine
from tfslim.errors import ConfigError, ModelError
from tfslim.images.inspect import source_kind
from tfslim.parity.trees import TreeTarget
from tfslim.ui import Ui

__all__ = ["Opened", "is_source", "open_subjects"]

_MODEL_NAME = "model"
_NAMED = re.compile(r"([\w.-]+)=(.+)")
_TREE_SERVES_NOT = "a tree is no image: it has no service"


@dataclass(frozen=True)
class Opened:
    """What is measured, and on which device."""

    subjects: list[Subject]
    device: Device


def is_source(name: str) -> bool:
    """Return whether an argument is a path or an image's reference, not the name of a variant."""
    return "/" in name or ":" in name or name.endswith((".tar", ".gz", ".zst"))


@contextmanager
def open_subjects(
    arguments: Sequence[str],
    settings: BenchConfig,
    *,
    model: Path | None,
    engine: Callable[[], Engine],
    ui: Ui,
) -> Iterator[Opened]:
    """Make everything ready that is named; what was unpacked vanishes at the end.

    Args:
        arguments: Images of the engine, archives, OCI layouts, unpacked images, virtual
            environments; NAME=SOURCE gives one a name.
        settings: Runtime, GPU and patience.
        model: SavedModel for all of them; without it, the one in each image.
        engine: Gives the engine; called only where an image of one is named.
        ui: Shows progress.

    Raises:
        ConfigError: The runtime that was asked for cannot run one of them.
        ModelError: A tree is named, and no model.
        InputError: One is none of these, or damaged.
        EngineError: There is no engine, or no GPU where one is required.
    """
    named = [_named(argument) for argument in arguments]
    names = _told_apart([name for name, _ in named])
    sources = [source for _, source in named]
    in_engine = [source_kind(source) == "engine" for source in sources]
    _check_runtime(settings, sources, in_engine)
    devices = []
    if any(in_engine):
        devices.append(choose_device(settings.gpu, engine()))
    if not all(in_engine):
        devices.append(choose_root_device(settings.gpu))
    device = next((found for found in devices if not found.gpu), devices[-1])
    ui.note(f"GPU: {device.text}")
    for line in device.driver.describe() if device.driver else ():
        ui.note(line)
    if len(devices) > 1:
        ui.warn("containers and unpacked images are run differently: what differs may be that")
    with ExitStack() as held:
        subjects = []
        for name, source, from_engine in zip(names, sources, in_engine, strict=True):
            if from_engine:
                subjects.append(
                    image_subject(
                        engine(),
                        name,
                        source,
                        model=model,
                        model_name=_MODEL_NAME,
                        gpu=device.gpu,
                        ready_timeout=settings.ready_timeout,
                    )
                )
            else:
                opened = _local_subject(
                    name, source, model=model, device=device, settings=settings, ui=ui
                )
                subjects.append(held.enter_context(opened))
        yield Opened(subjects, device)


@contextmanager
def _local_subject(
    name: str,
    source: str,
    *,
    model: Path | None,
    device: Device,
    settings: BenchConfig,
    ui: Ui,
) -> Iterator[Subject]:
    """Give a folder or an archive as something to measure."""
    path = Path(source)
    if (path / "bin" / "python").exists() and not (path / "usr").is_dir():
        if model is None:
            raise ModelError(f"{source} holds no model", way_out="Name one: --model FOLDER.")
        tree = TreeTarget(source, path.absolute())
        yield Subject(name, tree, model, _MODEL_NAME, None, _TREE_SERVES_NOT)
        return
    with open_root(source, ui) as root:
        target = RootTarget(root, enter.choose_tool(), device.driver)
        ui.note(f"{source}: entered with {target.tool}, as this user")

        def serve() -> AbstractContextManager[Running]:
            return serve_root(
                target,
                model=model,
                model_name=_MODEL_NAME,
                gpu=device.gpu,
                ready_timeout=settings.ready_timeout,
            )

        why = "" if root.argv else "it does not say what it starts, and has no /app of tfslim"
        yield Subject(name, target, model, _MODEL_NAME, serve if root.argv else None, why)


def _check_runtime(
    settings: BenchConfig, sources: Sequence[str], in_engine: Sequence[bool]
) -> None:
    for source, from_engine in zip(sources, in_engine, strict=True):
        if settings.runtime == "rootfs" and from_engine:
            raise ConfigError(
                f"{source} is no folder and no archive, and the runtime is rootfs",
                way_out=f"docker save {source} -o image.tar, and name image.tar.",
            )
        if settings.runtime == "docker" and not from_engine:
            raise ConfigError(
                f"{source} is not an image of the engine, and the runtime is docker",
                way_out="docker load -i FILE, and name the image; or --runtime rootfs.",
            )


def _named(argument: str) -> tuple[str, str]:
    """Split NAME=SOURCE; a source without a name is its own."""
    found = _NAMED.fullmatch(argument)
    return (found[1], found[2]) if found else (argument, argument)


def _told_apart(names: Sequence[str]) -> list[str]:
    """Return names of which each is there once; the same one again is another side."""
    told: list[str] = []
    for index, name in enumerate(names):
        again = list(names[:index]).count(name)
        told.append(f"{name} ({again + 1})" if again else name)
    return told
