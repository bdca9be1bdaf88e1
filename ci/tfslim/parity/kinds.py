"""Errors by kind, where Python's TensorFlow answers on one side and its C API on the other.

Python checks inputs before the model runs and names its errors otherwise; the native backend is
given what the service has checked. What a caller sees is the same: refused, too much, or failed.
"""

from __future__ import annotations

from typing import Final, Literal

__all__ = ["REFUSED", "kind_of"]

Kind = Literal["refused", "busy", "failed"]

# What native.py says of inputs that the service refuses before it asks its backend.
REFUSED: Final = "RefusedError"

_KINDS: Final[dict[str, Kind]] = {
    # Of Python, from binding inputs to a signature.
    "TypeError": "refused",
    "ValueError": "refused",
    # Of native.py and the service, for the same.
    REFUSED: "refused",
    "InputRejectedError": "refused",
    # Of TensorFlow (tf.errors), by either way: what the service answers with 400, and 503.
    "InvalidArgumentError": "refused",
    "FailedPreconditionError": "refused",
    "ResourceExhaustedError": "busy",
    "BackendBusyError": "busy",
    "MemoryError": "busy",
}


def kind_of(error_type: str) -> Kind:
    """Return the kind of an error, given its type's name."""
    return _KINDS.get(error_type, "failed")
