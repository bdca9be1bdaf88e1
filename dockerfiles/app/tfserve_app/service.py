"""The life of a served model: loading, warming, ready; and predictions with a bounded queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from tfserve_app.backend import Array, Backend, Signature, TensorSpec, default_signature
from tfserve_app.settings import Settings

__all__ = ["NotReadyError", "OverloadedError", "Service", "WarmUp", "warm_up"]

_T = TypeVar("_T")


class NotReadyError(Exception):
    """The model is still loading."""


class OverloadedError(Exception):
    """As many predictions run and wait as the settings allow."""


@dataclass(frozen=True)
class WarmUp:
    """What the warm-up did.

    Attributes:
        seconds: How long it took.
        failed: Signatures that did not answer to a batch of zeros, with the reason. They are
            served all the same: a model may have good reasons to refuse zeros.
    """

    seconds: float
    failed: dict[str, str] = field(default_factory=dict)


class Service:
    """One model behind one HTTP server.

    Args:
        settings: The service's settings.
        version: The model's version, as TensorFlow Serving shows it.
    """

    def __init__(self, settings: Settings, version: str = "1") -> None:
        self.settings = settings
        self.version = version
        self.started = time.monotonic()
        self.warmup: WarmUp | None = None
        self._backend: Backend | None = None
        self._default = ""
        self._pool = ThreadPoolExecutor(settings.max_concurrency, thread_name_prefix="predict")
        self._slots = threading.BoundedSemaphore(settings.max_concurrency + settings.max_queue)

    @property
    def ready(self) -> bool:
        """True once the model is loaded and warm."""
        return self.warmup is not None

    @property
    def backend(self) -> Backend:
        """The loaded model.

        Raises:
            NotReadyError: It is not ready yet.
        """
        if self._backend is None or not self.ready:
            raise NotReadyError
        return self._backend

    @property
    def loaded(self) -> Backend | None:
        """The model as soon as it is loaded, warm or not."""
        return self._backend

    @property
    def default_signature(self) -> str:
        """The signature used when a request names none."""
        return self._default

    def load(self, open_backend: Callable[[], Backend]) -> None:
        """Load the model and warm it; ready afterwards.

        Raises:
            ModelLoadError: It cannot be served.
        """
        self._backend = open_backend()
        self._default = default_signature(self._backend.signatures)
        self.warmup = warm_up(self._backend)

    def submit(self, work: Callable[[], _T]) -> Future[_T]:
        """Run work in a prediction thread.

        Raises:
            OverloadedError: The queue is full.
        """
        if not self._slots.acquire(blocking=False):
            raise OverloadedError
        future = self._pool.submit(work)
        future.add_done_callback(lambda _: self._slots.release())
        return future


def warm_up(backend: Backend) -> WarmUp:
    """Run every signature once on a batch of one, so that no client pays for first use."""
    start = time.monotonic()
    failed: dict[str, str] = {}
    for name, signature in backend.signatures.items():
        try:
            backend.predict(name, zeros(signature))
        except Exception as error:  # noqa: BLE001 (whatever a model raises on zeros is reported)
            failed[name] = f"{type(error).__name__}: {error}"
    return WarmUp(time.monotonic() - start, failed)


def zeros(signature: Signature) -> Mapping[str, Array]:
    """Return a batch of one: zeros, False and empty strings; unknown sizes become 1."""
    return {name: _zero(spec) for name, spec in signature.inputs.items()}


def _zero(spec: TensorSpec) -> Array:
    shape = tuple(1 if size < 0 else size for size in spec.shape or ())
    if spec.dtype == "string":
        return np.full(shape, b"", dtype=object)
    return np.zeros(shape, dtype="float32" if spec.dtype == "bfloat16" else spec.dtype)
