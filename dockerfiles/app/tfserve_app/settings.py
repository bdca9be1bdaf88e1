"""What the service can be told, all through environment variables."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tfserve_app.errors import SettingsError

__all__ = ["Settings"]

_BACKENDS = ("tensorflow", "capi")
_MODEL_NAME = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Settings:
    """The service's settings.

    Attributes:
        model_path: `TFSLIM_MODEL_PATH`: a SavedModel folder, or a folder of numbered versions.
        model_name: `MODEL_NAME`: the {name} in `/v1/models/{name}`.
        backend: `BACKEND`: "tensorflow" imports TensorFlow; "capi" runs its library without
            Python's TensorFlow, which starts several times faster.
        host: `HOST`: address to listen on.
        port: `PORT`: port to listen on; 0 takes a free one (the log says which).
        max_body_bytes: `MAX_BODY_BYTES`: larger requests are answered with 413.
        max_held_bytes: `MAX_HELD_BYTES`: bytes of bodies and answers held at once, over all
            clients; beyond it 503. 0: eight times `max_body_bytes`.
        max_connections: `MAX_CONNECTIONS`: beyond it a new connection takes the place of one whose
            client is silent, or is answered with 503.
        max_concurrency: `MAX_CONCURRENCY`: predictions run at once; TensorFlow itself uses every
            core for one prediction, so more than a few only wait for each other.
        max_queue: `MAX_QUEUE`: predictions that may wait; beyond it the answer is 503.
        queue_seconds: `QUEUE_SECONDS`: a prediction that has waited this long gets 503.
        max_batch: `MAX_BATCH`: rows that waiting requests are joined to for one call of the model;
            0 joins none.
        batch_wait_ms: `BATCH_WAIT_MS`: how long a call waits for more rows.
        warmup_batches: `WARMUP_BATCHES`: sizes of the batches that are run before ready.
        read_seconds: `READ_SECONDS`: time a client has to send a request.
        write_seconds: `WRITE_SECONDS`: time a client has to take an answer.
        keep_alive_seconds: `KEEP_ALIVE_SECONDS`: idle connections are closed after this.
        drain_seconds: `DRAIN_SECONDS`: after SIGTERM `/ready` answers 503 at once, and requests are
            still taken for this long.
        grace_seconds: `GRACE_SECONDS`: time that requests in flight get after that; together
            below the 10 seconds after which `docker stop` kills.
    """

    model_path: Path = Path("/model")
    model_name: str = "model"
    backend: str = "tensorflow"
    host: str = "0.0.0.0"  # noqa: S104 (a container's port is published by whoever runs it)
    port: int = 8080
    max_body_bytes: int = 64 * 1024 * 1024
    max_held_bytes: int = 0
    max_connections: int = 512
    max_concurrency: int = 2
    max_queue: int = 32
    queue_seconds: int = 30
    max_batch: int = 0
    batch_wait_ms: int = 2
    warmup_batches: tuple[int, ...] = (1,)
    read_seconds: int = 30
    write_seconds: int = 30
    keep_alive_seconds: int = 5
    drain_seconds: int = 0
    grace_seconds: int = 8

    @property
    def held_limit(self) -> int:
        """Bytes of bodies and answers held at once."""
        return self.max_held_bytes or 8 * self.max_body_bytes

    @property
    def admitted(self) -> int:
        """Predictions that run or wait."""
        return self.max_concurrency + self.max_queue

    @property
    def threads(self) -> int:
        """Threads that read, predict and serialise; those of a joined call wait for it together."""
        return min(self.max_concurrency * max(self.max_batch, 1), self.admitted)

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings; an empty variable counts as not set.

        Raises:
            SettingsError: A value is not what its variable takes.
        """
        name = env.get("MODEL_NAME") or cls.model_name
        if not _MODEL_NAME.fullmatch(name):
            raise SettingsError(f"MODEL_NAME={name!r}: letters, digits, '_', '.' and '-' only")
        return cls(
            model_path=Path(env.get("TFSLIM_MODEL_PATH") or cls.model_path),
            model_name=name,
            backend=_backend(env, cls.backend),
            host=env.get("HOST") or cls.host,
            port=_number(env, "PORT", cls.port, 0, 65535),
            max_body_bytes=_number(env, "MAX_BODY_BYTES", cls.max_body_bytes, 1, 2**40),
            max_held_bytes=_number(env, "MAX_HELD_BYTES", cls.max_held_bytes, 0, 2**43),
            max_connections=_number(env, "MAX_CONNECTIONS", cls.max_connections, 1, 2**20),
            max_concurrency=_number(env, "MAX_CONCURRENCY", cls.max_concurrency, 1, 1024),
            max_queue=_number(env, "MAX_QUEUE", cls.max_queue, 0, 2**20),
            queue_seconds=_number(env, "QUEUE_SECONDS", cls.queue_seconds, 1, 3600),
            max_batch=_number(env, "MAX_BATCH", cls.max_batch, 0, 2**20),
            batch_wait_ms=_number(env, "BATCH_WAIT_MS", cls.batch_wait_ms, 0, 10_000),
            warmup_batches=_batches(env, cls.warmup_batches),
            read_seconds=_number(env, "READ_SECONDS", cls.read_seconds, 1, 3600),
            write_seconds=_number(env, "WRITE_SECONDS", cls.write_seconds, 1, 3600),
            keep_alive_seconds=_number(env, "KEEP_ALIVE_SECONDS", cls.keep_alive_seconds, 1, 3600),
            drain_seconds=_number(env, "DRAIN_SECONDS", cls.drain_seconds, 0, 3600),
            grace_seconds=_number(env, "GRACE_SECONDS", cls.grace_seconds, 0, 3600),
        )


def _backend(env: Mapping[str, str], default: str) -> str:
    backend = env.get("BACKEND") or default
    if backend not in _BACKENDS:
        raise SettingsError(f"BACKEND={backend!r}: {' or '.join(_BACKENDS)} is expected")
    return backend


def _number(env: Mapping[str, str], key: str, default: int, low: int, high: int) -> int:
    """Return a whole number from the environment, checked against its range."""
    text = env.get(key) or str(default)
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise SettingsError(f"{key}={text!r}: a whole number from {low} to {high} is expected")
    return value


def _batches(env: Mapping[str, str], default: tuple[int, ...]) -> tuple[int, ...]:
    """Return the batch sizes of `WARMUP_BATCHES`, "1,8" for example."""
    text = env.get("WARMUP_BATCHES")
    if not text:
        return default
    sizes = text.replace(" ", "").split(",")
    if not all(size.isdecimal() and 0 < int(size) <= 2**20 for size in sizes):
        raise SettingsError(f"WARMUP_BATCHES={text!r}: whole numbers from 1, as in 1,8")
    return tuple(int(size) for size in sizes)
