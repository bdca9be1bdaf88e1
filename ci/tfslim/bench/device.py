"""Whether a run measures on GPUs or on the CPU; found, never assumed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tfslim.bench.driver import Driver, find_driver
from tfslim.engine.engine import Engine
from tfslim.errors import EngineError
from tfslim.gpu import Gpus, container_access, find_gpus

__all__ = ["Device", "Wish", "choose_device", "choose_root_device"]

Wish = Literal["auto", "required", "off"]
_OFF = "not measured: switched off (bench.gpu)"


@dataclass(frozen=True)
class Device:
    """What the measured processes are given, and how a report says it.

    Attributes:
        gpu: Whether they are given the machine's GPUs.
        text: The GPUs and how they are given, or why there are none.
        driver: What is bound into an unpacked image; None for containers, and without a GPU.
    """

    gpu: bool
    text: str
    driver: Driver | None = None


def choose_device(wish: Wish, engine: Engine) -> Device:
    """Return whether containers are given the machine's GPUs.

    Raises:
        EngineError: A GPU is required, and there is none or the engine cannot give it.
    """
    if wish == "off":
        return Device(gpu=False, text=_OFF)
    found = find_gpus()
    client = engine.client()
    try:
        access = container_access(client.info())
    finally:
        client.close()
    if found.gpus and access:
        return Device(gpu=True, text=f"{_names(found)}; {access}")
    why = "the engine has no NVIDIA container toolkit or CDI" if found.gpus else found.why_none
    return _without(wish, "containers cannot be given one", why)


def choose_root_device(
    wish: Wish, look: Callable[[], Driver] = find_driver, ask: Callable[[], Gpus] = find_gpus
) -> Device:
    """Return whether processes in unpacked images, or in trees, are given the machine's GPUs.

    Args:
        wish: What the user wants.
        look: Finds the driver's files.
        ask: Asks the driver for its GPUs.

    Raises:
        EngineError: A GPU is required, and there is none or its driver is incomplete.
    """
    if wish == "off":
        return Device(gpu=False, text=_OFF)
    found, driver = ask(), look()
    if found.gpus and driver.usable:
        count = len(driver.libraries)
        text = f"{_names(found)}; {count} driver libraries bound in"
        return Device(gpu=True, text=text, driver=driver)
    why = f"the driver is incomplete: {driver.why_not}" if found.gpus else found.why_none
    return _without(wish, "programs cannot be given one", why)


def _names(found: Gpus) -> str:
    return ", ".join(f"{gpu.name} (driver {gpu.driver})" for gpu in found.gpus)


def _without(wish: Wish, what: str, why: str) -> Device:
    if wish == "required":
        raise EngineError(
            f"a GPU is required, and {what}",
            why=why,
            way_out="`tfslim doctor` says what is missing; `--gpu auto` measures on the CPU.",
        )
    return Device(gpu=False, text=f"not measured: no GPU ({why})")
