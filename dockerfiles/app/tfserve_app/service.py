"""The life of a served model: loading, warming, ready; and predictions with a bounded queue."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from tfserve_app.backend import Array, Backend, Signature, TensorSpec, default_signature
from tfserve_app.batching import JoiningBackend
from tfserve_app.settings import Settings

__all__ = ["NotReadyError", "OverloadedError", "Service", "StoppingError", "WarmUp", "warm_up"]

_T = TypeVar("_T")


class NotReadyError(Exception):
    """The model is still loading."""


class StoppingError(Exception):
    """The service was told to end."""


class OverloadedError(Exception):
    """As many predictions run and wait as the settings allow, or one waited too long."""


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

    Attributes:
        stopping: Set once the service was told to end; `/ready` says so.
    """

    def __init__(self, settings: Settings, version: str = "1") -> None:
        self.settings = settings
        self.version = version
        self.started = time.monotonic()
        self.warmup: WarmUp | None = None
        self._backend: Backend | None = None
        self._default = ""
        self.stopping = False
        self._pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="predict")
        self._free = asyncio.Semaphore(settings.threads)
        self._pending = 0

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
        backend = open_backend()
        settings = self.settings
        if settings.max_batch:
            wait = settings.batch_wait_ms / 1000
            backend = JoiningBackend(backend, settings.max_batch, wait, settings.max_concurrency)
        self._backend = backend
        self._default = default_signature(backend.signatures)
        self.warmup = warm_up(backend, settings.warmup_batches)

    def check_room(self) -> None:
        """Check that a prediction would find a place in the queue.

        Raises:
            OverloadedError: It is full.
        """
        if self._pending >= self.settings.admitted:
            raise OverloadedError

    async def run(self, work: Callable[[], _T]) -> _T:
        """Run work in a prediction thread; cancelled while it waits, it never starts.

        Waiting is done here and not in the pool's own queue, where what is cancelled would stay,
        with its request's body, until a thread is free.

        Raises:
            OverloadedError: The queue is full, or no thread was free within QUEUE_SECONDS.
        """
        self.check_room()
        self._pending += 1
        try:
            async with asyncio.timeout(self.settings.queue_seconds):
                await self._free.acquire()
        except BaseException as error:
            self._pending -= 1
            if isinstance(error, TimeoutError):
                seconds = self.settings.queue_seconds
                raise OverloadedError(f"no prediction could start within {seconds} s") from None
            raise
        loop = asyncio.get_running_loop()
        future = self._pool.submit(work)
        # Not when this coroutine ends: its client may go while the thread still works.
        future.add_done_callback(lambda _: self._give_back(loop))
        return await asyncio.wrap_future(future)

    def _give_back(self, loop: asyncio.AbstractEventLoop) -> None:
        def release() -> None:
            self._pending -= 1
            self._free.release()

        with contextlib.suppress(RuntimeError):  # the loop has ended: so does the process
            loop.call_soon_threadsafe(release)


def warm_up(backend: Backend, batches: Sequence[int] = (1,)) -> WarmUp:
    """Run every signature once on each size of batch, so that no client pays for first use."""
    start = time.monotonic()
    failed: dict[str, str] = {}
    for name, signature in backend.signatures.items():
        for rows in batches:
            try:
                backend.predict(name, zeros(signature, rows))
            except Exception as error:  # noqa: BLE001 (what a model raises on zeros is reported)
                failed[name] = f"{type(error).__name__}: {error}"
    return WarmUp(time.monotonic() - start, failed)


def zeros(signature: Signature, rows: int = 1) -> Mapping[str, Array]:
    """Return a batch of zeros, False and empty strings.

    Args:
        signature: What the batch is for.
        rows: Size of an unknown first dimension; other unknown sizes become 1.
    """
    return {name: _zero(spec, rows) for name, spec in signature.inputs.items()}


def _zero(spec: TensorSpec, rows: int) -> Array:
    sizes = spec.shape or ()
    shape = tuple((1 if axis else rows) if size < 0 else size for axis, size in enumerate(sizes))
    if spec.dtype == "string":
        return np.full(shape, b"", dtype=object)
    return np.zeros(shape, dtype="float32" if spec.dtype == "bfloat16" else spec.dtype)
