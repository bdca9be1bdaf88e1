"""`tfslim pack` and `tfslim unpack`: what a person names, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from pydantic import TypeAdapter, ValidationError

from tfslim.config import Bytes
from tfslim.errors import InputError
from tfslim.images.inspect import source_kind
from tfslim.images.opened import unpacked_image
from tfslim.pack.manifest import ImageConfig
from tfslim.pack.read import Unpacked, read_marker
from tfslim.pack.write import Packed, pack_tree
from tfslim.ui import Ui, human_bytes

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["as_data", "pack_source", "packed_text", "piece_size", "unpacked_text"]

_SIZE: TypeAdapter[int] = TypeAdapter(Bytes)


@dataclass(frozen=True)
class _Tree:
    path: Path
    config: ImageConfig | None


def piece_size(_context: click.Context, _parameter: click.Parameter, text: str) -> int:
    """Read "60MB" as bytes."""
    try:
        return _SIZE.validate_python(text)
    except ValidationError:
        raise click.BadParameter(f"{text!r} is not a size such as 60MB") from None


def pack_source(
    source: str,
    output: Path,
    *,
    piece_bytes: int,
    level: int,
    client: Callable[[], DockerClient],
    ui: Ui,
) -> Packed:
    """Pack a folder, an archive or an image of the engine.

    Raises:
        TfslimError: See `unpacked_image` and `pack_tree`.
    """
    with _opened(source, client, ui) as tree:
        packed = pack_tree(
            tree.path,
            output,
            name=source,
            piece_bytes=piece_bytes,
            level=level,
            config=tree.config,
            ui=ui,
        )
    for path, what in packed.manifest.left_out.items():
        ui.warn(f"left out: {path} ({what})")
    return packed


@contextmanager
def _opened(source: str, client: Callable[[], DockerClient], ui: Ui) -> Iterator[_Tree]:
    if source_kind(source) != "directory":
        with unpacked_image(source, client=client, ui=ui) as image:
            config = ImageConfig.of(image.image.config.get("config") or {})
            yield _Tree(image.tree.root, config)
        return
    path = Path(source)
    if not path.is_dir():
        raise InputError(f"there is no folder {source}")
    marker = read_marker(path)
    yield _Tree(path, marker.config if marker else None)


def as_data(result: Packed | Unpacked) -> dict[str, object]:
    """Return a result as `--json` prints it."""
    manifest = result.manifest
    return {
        "manifest_sha256": result.digest,
        "pieces": len(manifest.pieces),
        "reused": result.reused,
        "packed_bytes": manifest.packed_bytes,
        "largest_piece_bytes": max(piece.bytes for piece in manifest.pieces),
        "tree_bytes": manifest.tree_bytes,
        "names": len(manifest.entries),
        "left_out": manifest.left_out,
    }


def packed_text(packed: Packed, output: Path) -> str:
    """Say what was packed, and how it is unpacked."""
    manifest = packed.manifest
    largest = max(piece.bytes for piece in manifest.pieces)
    there = f", {packed.reused} of them there already" if packed.reused else ""
    return (
        f"{manifest.name}: {human_bytes(manifest.tree_bytes)} in {len(manifest.entries)} names → "
        f"{human_bytes(manifest.packed_bytes)} in {len(manifest.pieces)} pieces{there}, the "
        f"largest {human_bytes(largest)}\n"
        f"manifest sha256:{packed.digest}\n"
        f"tfslim unpack {output} DEST --digest sha256:{packed.digest}"
    )


def unpacked_text(unpacked: Unpacked, dest: Path) -> str:
    """Say what is there now."""
    manifest, digest = unpacked.manifest, f"manifest sha256:{unpacked.digest}"
    if unpacked.already:
        return f"{dest}: {manifest.name} is there already ({digest})"
    size = f"{human_bytes(manifest.tree_bytes)} in {len(manifest.entries)} names"
    return f"{dest}: {manifest.name} unpacked, {size}; every digest fits ({digest})"
