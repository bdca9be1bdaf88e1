"""Whether a run measures on GPUs or on the CPU; found, never assumed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tfslim.engine.engine import Engine
from tfslim.errors import EngineError
from tfslim.gpu import container_access, find_gpus

__all__ = ["Device", "choose_device"]


@dataclass(frozen=True)
class Device:
    """What containers are given, and how a report says it."""

    gpu: bool
    text: str


def choose_device(wish: Literal["auto", "required", "off"], engine: Engine) -> Device:
    """Return whether containers are given the machine's GPUs.

    Raises:
        EngineError: A GPU is required, and there is none or the engine cannot give it.
    """
    if wish == "off":
        return Device(gpu=False, text="not measured: switched off (bench.gpu)")
    found = find_gpus()
    client = engine.client()
    try:
        access = container_access(client.info())
    finally:
        client.close()
    if found.gpus and access:
        names = ", ".join(f"{gpu.name} (driver {gpu.driver})" for gpu in found.gpus)
        return Device(gpu=True, text=f"{names}; {access}")
    why = "the engine has no NVIDIA container toolkit or CDI" if found.gpus else found.why_none
    if wish == "required":
        raise EngineError(
            "a GPU is required, and containers cannot be given one",
            why=why,
            way_out="`tfslim doctor` says what is missing; `--gpu auto` measures on the CPU.",
        )
    return Device(gpu=False, text=f"not measured: no GPU ({why})")
