"""Several requests in one call of the model: opt-in, for any backend.

A GPU, and often a CPU, takes little longer for eight rows than for one. Requests that wait are
joined along their first dimension, and their answers split again, where all inputs and outputs of
the signature have a first dimension of unknown size. Libraries may choose other kernels for another
batch size, so the last bits of an answer can depend on what it was joined with.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tfserve_app.backend import Array, Backend, BackendInfo, Signature, TensorSpec

__all__ = ["JoiningBackend", "joinable"]

_Key = tuple[str, tuple[tuple[str, str, tuple[int, ...]], ...]]
_Answer = dict[str, Array]


def joinable(signature: Signature) -> bool:
    """Return whether every tensor of a signature has a first dimension of unknown size."""
    specs = [*signature.inputs.values(), *signature.outputs.values()]
    return bool(signature.inputs) and all(map(_open_ended, specs))


def _open_ended(spec: TensorSpec) -> bool:
    return bool(spec.shape) and spec.shape is not None and spec.shape[0] == -1


@dataclass
class _Batch:
    """Requests that are joined, in the order they came; `answers` once they are answered.

    Attributes:
        requests: Their inputs.
        rows: Rows of all of them.
        full: Set when no more fit.
        done: Set when the call has ended.
        answers: One for each request; None where the joined call failed.
    """

    requests: list[Mapping[str, Array]] = field(default_factory=list)
    rows: int = 0
    full: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    answers: list[_Answer] | None = None


class JoiningBackend:
    """A backend whose waiting requests share calls.

    Args:
        backend: Runs the model.
        max_rows: Rows of one call at most; a request with as many goes alone.
        wait_seconds: How long the first request of a call waits for others.
        calls: Calls that run at once.
    """

    def __init__(self, backend: Backend, max_rows: int, wait_seconds: float, calls: int) -> None:
        self._backend = backend
        self._max_rows = max_rows
        self._wait_seconds = wait_seconds
        self._calls = threading.Semaphore(calls)
        self._joinable = {name for name, entry in backend.signatures.items() if joinable(entry)}
        self._lock = threading.Lock()
        self._open: dict[_Key, _Batch] = {}

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The model's serving signatures."""
        return self._backend.signatures

    @property
    def info(self) -> BackendInfo:
        """Versions and devices."""
        return self._backend.info

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds spent in the phases of loading."""
        return self._backend.timings

    @property
    def marks(self) -> Mapping[str, float]:
        """When loading came how far."""
        return self._backend.marks

    def predict(self, signature: str, inputs: Mapping[str, Array]) -> _Answer:
        """Run one signature, joined with others where that is possible; see `Backend.predict`.

        A call that fails is repeated for each of its requests alone, so that one that the model
        refuses harms no other.
        """
        rows = self._rows(signature, inputs)
        if rows is None:
            return self._alone(signature, inputs)
        batch, place, first = self._join(_key(signature, inputs), inputs, rows)
        if first:
            self._lead(signature, batch, _key(signature, inputs))
        else:
            batch.done.wait()
        if batch.answers is None:
            return self._alone(signature, inputs)
        return batch.answers[place]

    def _alone(self, signature: str, inputs: Mapping[str, Array]) -> _Answer:
        with self._calls:
            return self._backend.predict(signature, inputs)

    def _rows(self, signature: str, inputs: Mapping[str, Array]) -> int | None:
        """Return the rows of a request that can be joined, None for one that cannot."""
        if signature not in self._joinable:
            return None
        sizes = {array.shape[0] for array in inputs.values()}
        rows = sizes.pop()
        return rows if not sizes and 0 < rows < self._max_rows else None

    def _join(self, key: _Key, inputs: Mapping[str, Array], rows: int) -> tuple[_Batch, int, bool]:
        """Put a request into the open batch, or open one; return its place and if it leads."""
        with self._lock:
            batch = self._open.get(key)
            if batch is not None and batch.rows + rows > self._max_rows:
                batch.full.set()
                batch = None
            first = batch is None
            if batch is None:
                batch = self._open[key] = _Batch()
            batch.requests.append(inputs)
            batch.rows += rows
            if batch.rows == self._max_rows:
                batch.full.set()
            return batch, len(batch.requests) - 1, first

    def _lead(self, signature: str, batch: _Batch, key: _Key) -> None:
        """Wait for others and for a free call, then run the batch; only its first request does."""
        try:
            batch.full.wait(self._wait_seconds)
            with self._calls:
                with self._lock:  # nobody joins from here on
                    if self._open.get(key) is batch:
                        del self._open[key]
                batch.answers = self._run(signature, batch)
        finally:
            batch.done.set()

    def _run(self, signature: str, batch: _Batch) -> list[_Answer] | None:
        """Return the answer of each request, None where each has to go alone after all."""
        requests = batch.requests
        if len(requests) == 1:
            return None
        try:
            joined = {
                name: np.concatenate([request[name] for request in requests])
                for name in requests[0]
            }
            outputs = self._backend.predict(signature, joined)
        except Exception:  # noqa: BLE001 (each request is repeated alone and meets its own error)
            return None
        if any(array.shape[:1] != (batch.rows,) for array in outputs.values()):
            return None
        ends = np.cumsum([next(iter(request.values())).shape[0] for request in requests])
        starts = [0, *ends[:-1]]
        return [
            {name: array[start:end] for name, array in outputs.items()}
            for start, end in zip(starts, ends, strict=True)
        ]


def _key(signature: str, inputs: Mapping[str, Array]) -> _Key:
    """Return what requests of one call have in common: everything but the rows."""
    tensors = ((name, array.dtype.str, array.shape[1:]) for name, array in inputs.items())
    return signature, tuple(sorted(tensors))
