"""What built images would compile at first use, as the guard in them has it written down."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Final

from docker.errors import DockerException
from pydantic import BaseModel, Field, ValidationError

from tfslim.build.bake import BuiltImage

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["first_use_warnings"]

_DATA: Final = "/opt/venv/lib/python{python}/site-packages/_tfslim.json"
_LARGEST: Final = 4 << 20  # bytes


def first_use_warnings(
    client: Callable[[], DockerClient], built: Iterable[BuiltImage]
) -> list[str]:
    """Say for which images and GPUs kernels would be compiled from PTX at first use.

    Nothing is said of an image that cannot be looked into: one that was pushed and is not here, or
    that has no guard.

    Args:
        client: Gives the engine that has the images.
        built: What was built.
    """
    lines: list[str] = []
    try:
        engine = client()
    except DockerException:
        return lines
    try:
        for image in built:
            counts = _counts(engine, image)
            lines += [
                f"{image.build.tag}: {count} modules of GPU code would be compiled from PTX on "
                f"sm_{sm} at first use; `aot: true` compiles them in the build (docs/aot.md)"
                for sm, count in counts
            ]
    finally:
        engine.close()
    return lines


def _counts(engine: DockerClient, image: BuiltImage) -> Iterator[tuple[str, int]]:
    """Yield the GPUs that compile, and how many modules."""
    try:
        container = engine.containers.create(image.build.tag, command=["none"])
    except DockerException:
        return
    try:
        path = _DATA.format(python=".".join(image.build.python.split(".")[:2]))
        chunks, status = container.get_archive(path)
        if status is None or status["size"] > _LARGEST:
            return
        said = _said(b"".join(chunks))
    except (DockerException, tarfile.TarError, ValidationError):
        return
    finally:
        container.remove(force=True)
    yield from sorted(said.jit.items())


class _Said(BaseModel):
    """The part of the guard's record that is read here."""

    jit: dict[Annotated[str, Field(pattern=r"^\d{2,3}$")], int] = {}


def _said(archive: bytes) -> _Said:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        member = tar.next()
        file = tar.extractfile(member) if member else None
        return _Said.model_validate_json(file.read() if file else b"{}")
