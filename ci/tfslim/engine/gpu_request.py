"""What to ask of an engine so that a container gets the machine's GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from docker import DockerClient
from docker.types import DeviceRequest

from tfslim.gpu import container_access

__all__ = ["gpu_options"]

_CDI_NAME = "nvidia.com/gpu=all"  # as `nvidia-ctk cdi generate` names all GPUs together


def gpu_options(client: DockerClient) -> dict[str, Any]:
    """Return options of `containers.create` for all GPUs: through CDI where that is the only way.

    `docker run --gpus all` is a device request for the NVIDIA runtime or hook; an engine that has
    only a CDI specification takes the name of a device in it.
    """
    info: Mapping[str, Any] = client.info()
    if container_access(info).startswith("a CDI specification"):
        request = DeviceRequest(driver="cdi", device_ids=[_CDI_NAME])
    else:
        request = DeviceRequest(count=-1, capabilities=[["gpu"]])
    return {"device_requests": [request]}
