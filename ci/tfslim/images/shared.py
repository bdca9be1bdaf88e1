"""What several images share: which layers, what a machine pulls for all of them, what each adds.

A registry sends a layer once, by its digest. Engines keep unpacked layers by what lies below them
(the OCI image specification's chain ID): a layer is stored again where the layers below it differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from tfslim.errors import ConfigError, InputError
from tfslim.images.inspect import layer_pull_bytes, read_image, source_kind
from tfslim.images.inspection import ImageShare, Shared, SharedLayer
from tfslim.images.layer_table import Layer, Look
from tfslim.ui import Ui

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["inspect_shared", "shared_layers"]

_Chain = tuple[str, ...]  # digests from the base up


def inspect_shared(sources: Sequence[str], *, client: Callable[[], DockerClient], ui: Ui) -> Shared:
    """Read the layers of images and say what they have in common.

    Args:
        sources: Images of the engine, archives, OCI layouts, in the order they would be pulled.
        client: Gives the engine; called only for image references.
        ui: Shows progress.

    Raises:
        ConfigError: Fewer than two different images.
        InputError: One is a folder, is not there, or is damaged.
        EngineError: The engine failed while it sent an image.
    """
    names = list(dict.fromkeys(sources))
    if len(names) < 2:
        raise ConfigError(
            "--shared compares images", way_out="Name two or more: tfslim inspect --shared A B"
        )
    for name in names:
        if source_kind(name) == "directory":
            raise InputError(f"{name} is a folder: it has no layers", way_out="Name images.")
    return shared_layers([(name, _layers(name, client, ui)) for name in names])


def shared_layers(images: Sequence[tuple[str, Sequence[Layer]]]) -> Shared:
    """Return what images share, given (name, layers from the base up) in the order of pulling."""
    layers: dict[str, Layer] = {}
    users: dict[str, list[str]] = {}
    unpacked: dict[_Chain, int] = {}
    shares: list[ImageShare] = []
    for name, stack in images:
        own = {layer.digest: layer for layer in stack}
        chains = {
            tuple(layer.digest for layer in stack[: number + 1]): layer.unpacked_bytes
            for number, layer in enumerate(stack)
        }
        shares.append(
            ImageShare(
                source=name,
                pull_bytes=_pull(own.values()),
                unpacked_bytes=sum(chains.values()),
                adds_pull_bytes=_pull(own[digest] for digest in own.keys() - layers.keys()),
                adds_unpacked_bytes=sum(chains[key] for key in chains.keys() - unpacked.keys()),
            )
        )
        layers |= own
        unpacked |= chains
        for digest in own:
            users.setdefault(digest, []).append(name)
    return Shared(
        pull_bytes=_pull(layers.values()),
        unpacked_bytes=sum(unpacked.values()),
        images=shares,
        layers=[
            SharedLayer(
                digest=digest,
                pull_bytes=layer_pull_bytes(layer),
                unpacked_bytes=layer.unpacked_bytes,
                stored=sum(chain[-1] == digest for chain in unpacked),
                created_by=layer.created_by,
                images=users[digest],
            )
            for digest, layer in layers.items()
        ],
    )


def _layers(name: str, client: Callable[[], DockerClient], ui: Ui) -> Sequence[Layer]:
    look = Look(estimate=True)  # nothing of the files, only sizes
    with ui.step(f"Reading the layers of {name}"):
        engine = client if source_kind(name) == "engine" else None
        return read_image(name, look, client=engine).layers


def _pull(layers: Iterable[Layer]) -> int:
    return sum(layer_pull_bytes(layer) or 0 for layer in layers)
