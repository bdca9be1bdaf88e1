"""TensorFlow ↔ Python ↔ CUDA ↔ cuDNN: what works with what, read from `compat.yaml`.

`check` refuses an impossible combination with its reason before anything is downloaded.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Literal

import yaml
from packaging.specifiers import SpecifierSet
from pydantic import BaseModel, ConfigDict, Field

from tfslim.config import BaseSource, VariantName, nearest
from tfslim.errors import ConfigError

__all__ = ["BaseRole", "Compat", "CudaBase", "PythonBase", "TensorFlowRow", "check", "compat"]

BaseRole = Literal["python", "cuda-runtime", "cuda-devel"]


class _Row(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=lambda name: name.replace("_", "-")
    )


class BuiltWith(_Row):
    """The versions a TensorFlow wheel was compiled against."""

    cuda: str
    cudnn: str


class TensorFlowRow(_Row):
    """One TensorFlow release and what it goes with."""

    python: tuple[str, ...]
    built_with: BuiltWith
    compiled_archs: tuple[str, ...]
    system_cuda: str
    constraints: tuple[str, ...]
    wheels_on_system_cuda: tuple[str, ...]
    training_extras: tuple[str, ...]


class PythonBase(_Row):
    """A slim Python base image."""

    name: str
    debian: bool


class CudaPython(_Row):
    """The Python that the distribution of a CUDA base offers; None where there is no such base."""

    registry: str
    debian: str | None


class CudaBase(_Row):
    """The CUDA runtime and devel images of one CUDA release."""

    runtime: str
    devel: str
    python: CudaPython


class VariantRow(_Row):
    """What a variant is made from, and by which rules; see compat.yaml."""

    bases: tuple[BaseRole, ...]
    pinned: bool = False
    profile: str | None = None
    native: bool = False
    disk_gb: float = Field(gt=0)


class Compat(_Row):
    """The whole table."""

    tensorflow: dict[str, TensorFlowRow]
    python_bases: dict[str, PythonBase]
    cuda_bases: dict[str, CudaBase]
    wheels_gb: float
    variants: dict[VariantName, VariantRow]


@cache
def compat() -> Compat:
    """Return the table that ships with tfslim."""
    text = files("tfslim").joinpath("compat.yaml").read_text(encoding="utf-8")
    return Compat.model_validate(yaml.safe_load(text))


def check(variant: VariantName, tensorflow: str, python: str, cuda: str, source: BaseSource) -> str:
    """Check that a variant can be built from these versions, before any download.

    Args:
        variant: Name of the variant.
        tensorflow: TensorFlow release, such as "2.21.0".
        python: Python minor version asked for; approach-a uses the one of its CUDA base instead.
        cuda: CUDA release of the CUDA bases.
        source: Where base images come from.

    Returns:
        The Python minor version that the image will hold ("3.10 or 3.13" where that depends on
        which source answers).

    Raises:
        ConfigError: The combination cannot work; `why` says which rule of the table it breaks.
    """
    table = compat()
    row = table.tensorflow.get(tensorflow)
    if row is None:
        raise ConfigError(
            f"unknown TensorFlow version {tensorflow!r}{nearest(tensorflow, table.tensorflow)}",
            why=f"compat.yaml has rows for: {', '.join(table.tensorflow)}",
            way_out="Set `tensorflow:` to one of them, or add a row to ci/tfslim/compat.yaml.",
        )
    roles = table.variants[variant].bases
    if "cuda-runtime" in roles or "cuda-devel" in roles:
        _check_cuda(variant, tensorflow, row, cuda, source)
    if "python" in roles:
        _check_python(variant, tensorflow, row, python, source)
        return python
    offered = table.cuda_bases[cuda].python
    possible = {"registry": [offered.registry], "debian": [offered.debian or ""]}.get(
        source, [offered.registry, *filter(None, [offered.debian])]
    )
    fitting = [version for version in possible if version in row.python]
    if not fitting:
        raise ConfigError(
            f"{variant} cannot be built with TensorFlow {tensorflow} on CUDA {cuda} bases",
            why=f"the base brings Python {' or '.join(possible)}, and TensorFlow {tensorflow} has "
            f"wheels for {', '.join(row.python)}",
            way_out="Use `base-source: registry`, another `tensorflow:`, or leave the variant out.",
        )
    return " or ".join(fitting)


def _check_python(
    variant: str, tensorflow: str, row: TensorFlowRow, python: str, source: BaseSource
) -> None:
    bases = compat().python_bases
    if python not in row.python:
        raise ConfigError(
            f"{variant}: TensorFlow {tensorflow} does not exist for Python {python}",
            why=f"its wheels are for Python {', '.join(row.python)}",
            way_out=f"Set `python:` to '{row.python[-1]}', or choose another `tensorflow:`.",
        )
    if python not in bases:
        raise ConfigError(
            f"{variant}: no base image is known for Python {python}",
            why=f"compat.yaml knows bases for: {', '.join(bases)}",
        )
    if source == "debian" and not bases[python].debian:
        able = [version for version, base in bases.items() if base.debian and version in row.python]
        raise ConfigError(
            f"{variant}: {bases[python].name} cannot be built from Debian packages",
            why=f"no Debian release in use has Python {python}",
            way_out=f"Set `python:` to {' or '.join(able)}, or `base-source: registry`.",
        )


def _check_cuda(
    variant: str, tensorflow: str, row: TensorFlowRow, cuda: str, source: BaseSource
) -> None:
    bases = compat().cuda_bases
    if cuda not in bases:
        raise ConfigError(
            f"{variant}: no base images are known for CUDA {cuda}{nearest(cuda, bases)}",
            why=f"compat.yaml knows: {', '.join(bases)}",
        )
    if cuda not in SpecifierSet(row.system_cuda):
        raise ConfigError(
            f"{variant}: TensorFlow {tensorflow} does not work with CUDA {cuda}",
            why=f"it was built with CUDA {row.built_with.cuda} and works with {row.system_cuda}",
            way_out="Set `cuda:` to a version in that range.",
        )
    if source == "debian" and bases[cuda].python.debian is None:
        able = [version for version, base in bases.items() if base.python.debian]
        raise ConfigError(
            f"{variant}: the CUDA {cuda} bases cannot be built from Debian packages",
            why=f"Debian has CUDA {', '.join(able)}",
            way_out=f"Set `cuda:` to {able[-1]!r}, or `base-source: registry`.",
        )
