"""The GPUs that sessions get, by the names of the cards."""

from __future__ import annotations

import ctypes

from tfserve_app.capi.library import Library
from tfserve_app.capi.options import SessionOptions
from tfserve_app.capi.session import open_empty

__all__ = ["gpu_names"]

_NAME_BYTES = 256


def gpu_names(library: Library, options: SessionOptions) -> tuple[str, ...]:
    """Initialise the GPUs and return their names; none on a machine without.

    Raises:
        StatusError: A GPU cannot be initialised.
    """
    session = open_empty(library, options)
    try:
        gpus = [name for name, kind in session.devices() if kind == "GPU"]
    finally:
        session.close()
    chosen = [entry for entry in options.gpu_devices.split(",") if entry.strip().isdecimal()]
    return tuple(
        _card(int(chosen[index]) if index < len(chosen) else index) or name
        for index, name in enumerate(gpus)
    )


def _card(index: int) -> str:
    """Return a card's name as CUDA knows it, in CUDA's order; empty where it does not tell.

    The session has initialised the driver before.
    https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__DEVICE.html
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        device, name = ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES)
        refused = driver.cuDeviceGet(ctypes.byref(device), index) or driver.cuDeviceGetName(
            name, _NAME_BYTES, device
        )
    except (OSError, AttributeError):
        return ""
    return "" if refused else name.value.decode("utf-8", "replace")
