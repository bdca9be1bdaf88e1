"""Requests for any model: the same bytes for every image that is compared."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass

import httpx
import numpy as np
from pydantic import BaseModel, ConfigDict

from tfslim.errors import ServiceError

__all__ = ["Load", "RequestBody", "make_request", "predict"]

_SEED = 20211


@dataclass(frozen=True)
class RequestBody:
    """A prediction request: the same bytes for every image that is compared."""

    content: bytes
    content_type: str
    batch_size: int


class Load(BaseModel):
    """What one closed loop measured, as records of version 1 have it; now `HttpRun`.

    Attributes:
        batch_size: Samples in each request.
        seconds: Wall time of the loop.
        latencies_s: Seconds of every request, in order.
    """

    model_config = ConfigDict(frozen=True)

    batch_size: int
    seconds: float
    latencies_s: tuple[float, ...]

    @property
    def samples_per_second(self) -> float:
        """Samples answered per second of wall time."""
        return self.batch_size * len(self.latencies_s) / self.seconds


def make_request(http: httpx.Client, model_name: str, batch_size: int) -> RequestBody:
    """Return a request that fits the model's default signature, filled from a fixed seed.

    The first dimension is the batch; other unknown dimensions are 1.

    Raises:
        ServiceError: The service does not describe its model, or has an input without a shape.
    """
    try:
        answer = http.get(f"/v1/models/{model_name}/metadata")
    except httpx.TransportError as error:
        raise _gone(error) from error
    if answer.status_code != httpx.codes.OK:
        raise ServiceError(
            f"the service does not describe the model {model_name!r}",
            why=f"GET /v1/models/{model_name}/metadata: {answer.status_code} {answer.text[:300]}",
        )
    described = answer.json()
    inputs = described["signatures"][described["default_signature"]]["inputs"]
    random = np.random.default_rng(_SEED)
    arrays = {
        name: _tensor(name, spec, batch_size, random) for name, spec in sorted(inputs.items())
    }
    buffer = io.BytesIO()
    if len(arrays) == 1:
        np.save(buffer, next(iter(arrays.values())), allow_pickle=False)
        return RequestBody(buffer.getvalue(), "application/x-npy", batch_size)
    np.savez(buffer, allow_pickle=False, **arrays)
    return RequestBody(buffer.getvalue(), "application/x-npz", batch_size)


def predict(http: httpx.Client, request: RequestBody) -> float:
    """Send one request and return its seconds.

    Raises:
        ServiceError: The answer is not 200.
    """
    start = time.perf_counter()
    headers = {"Content-Type": request.content_type}
    try:
        answer = http.post("/predict", content=request.content, headers=headers)
    except httpx.TransportError as error:
        raise _gone(error) from error
    elapsed = time.perf_counter() - start
    if answer.status_code != httpx.codes.OK:
        raise ServiceError(
            f"a prediction with batch size {request.batch_size} failed",
            why=f"{answer.status_code} {answer.text[:500]}",
            way_out="Set `bench.batch-sizes` to sizes that the model takes.",
        )
    return elapsed


def _gone(error: httpx.TransportError) -> ServiceError:
    return ServiceError(
        "the service does not answer any more",
        why=f"{type(error).__name__}: {error}",
        way_out="Its process may have ended, for example for lack of memory: try a smaller batch "
        "size (bench.batch-sizes).",
    )


def _tensor(
    name: str, spec: dict[str, object], batch_size: int, random: np.random.Generator
) -> np.ndarray:
    shape = spec["shape"]
    if not isinstance(shape, list):
        raise ServiceError(
            f"the model's input {name!r} has no known rank",
            way_out="The benchmark cannot make an input for it.",
        )
    sizes = [
        batch_size if axis == 0 and size == -1 else max(int(size), 1)
        for axis, size in enumerate(shape)
    ]
    if spec["dtype"] == "string":
        return np.full(sizes, b"tfslim", dtype="S6")
    kind = np.dtype(str(spec["dtype"]))
    if kind.kind == "f":
        return random.standard_normal(sizes).astype(kind)
    return random.integers(0, 2, sizes).astype(kind)
