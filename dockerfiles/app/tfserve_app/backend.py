"""The seam between HTTP and whatever runs the model: NumPy arrays in, NumPy arrays out.

Nothing here imports TensorFlow, nor NumPy, without which the native backend loads a model. A
backend is loaded once, and then predicts from several threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Array",
    "Backend",
    "BackendInfo",
    "Signature",
    "TensorSpec",
    "default_signature",
]

if TYPE_CHECKING:
    Array = NDArray[np.generic]
else:
    Array = Any
"""A tensor; strings are object arrays of `bytes`, bfloat16 travels as float32."""


@dataclass(frozen=True)
class TensorSpec:
    """What a signature takes or gives.

    Attributes:
        dtype: TensorFlow's name of the type ("float32", "string", "bfloat16").
        shape: Dimensions, -1 where any size fits; None where the rank is unknown too.
    """

    dtype: str
    shape: tuple[int, ...] | None

    def __str__(self) -> str:
        """Return it as errors show it: `float32[?,224,224,3]`."""
        if self.shape is None:
            return f"{self.dtype}[...]"
        return f"{self.dtype}[{','.join('?' if size < 0 else str(size) for size in self.shape)}]"

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether a tensor of this shape is accepted."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            want in (-1, got) for want, got in zip(self.shape, shape, strict=True)
        )

    def as_dict(self) -> dict[str, object]:
        """Return it as JSON shows it."""
        return {"dtype": self.dtype, "shape": None if self.shape is None else list(self.shape)}


@dataclass(frozen=True)
class Signature:
    """One callable entry of a model: named tensors in, named tensors out."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]

    def as_dict(self) -> dict[str, dict[str, dict[str, object]]]:
        """Return it as JSON shows it."""
        return {
            "inputs": {name: spec.as_dict() for name, spec in self.inputs.items()},
            "outputs": {name: spec.as_dict() for name, spec in self.outputs.items()},
        }


@dataclass(frozen=True)
class BackendInfo:
    """What `/health` tells about a loaded backend.

    Attributes:
        name: Which backend this is.
        tensorflow_version: Version of the TensorFlow that runs the model.
        gpus: The GPUs it uses, by name; empty on a CPU.
        details: What else a backend has to tell, added to the answer as it is.
    """

    name: str
    tensorflow_version: str
    gpus: tuple[str, ...]
    details: Mapping[str, object] = field(default_factory=dict)


class Backend(Protocol):
    """A loaded model. `predict` must be safe to call from several threads."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The model's serving signatures, at least one."""

    @property
    def info(self) -> BackendInfo:
        """Versions and devices."""

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds spent in the phases of loading (`import_s`, `load_s`)."""

    @property
    def marks(self) -> Mapping[str, float]:
        """When loading came how far: `tensorflow_imported`, `gpu_initialised`, `model_loaded`.

        Seconds on CLOCK_MONOTONIC. A backend without one of these phases leaves its name out.
        """

    def predict(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run one signature on inputs that fit its specification.

        Raises:
            errors.InputRejectedError: The model's graph refused these inputs.
            errors.BackendBusyError: Not enough memory for them.
        """


def default_signature(signatures: Mapping[str, Signature]) -> str:
    """Return the signature used when a request names none.

    `serving_default`, as in TensorFlow Serving; without it the first by name.
    """
    return "serving_default" if "serving_default" in signatures else min(signatures)
