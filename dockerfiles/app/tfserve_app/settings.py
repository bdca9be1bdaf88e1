"""What the service can be told, all through environment variables."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tfserve_app.errors import SettingsError

__all__ = ["Settings"]

_MODEL_NAME = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Settings:
    """The service's settings.

    Attributes:
        model_path: `TFSLIM_MODEL_PATH`: a SavedModel folder, or a folder of numbered versions.
        model_name: `MODEL_NAME`: the {name} in `/v1/models/{name}`.
        host: `HOST`: address to listen on.
        port: `PORT`: port to listen on; 0 takes a free one (the log says which).
        max_body_bytes: `MAX_BODY_BYTES`: larger requests are answered with 413.
        max_concurrency: `MAX_CONCURRENCY`: predictions run at once; TensorFlow itself uses every
            core for one prediction, so more than a few only wait for each other.
        max_queue: `MAX_QUEUE`: predictions that may wait; beyond it the answer is 503.
        grace_seconds: `GRACE_SECONDS`: time that requests in flight get after SIGTERM; below
            the 10 seconds after which `docker stop` kills.
    """

    model_path: Path = Path("/model")
    model_name: str = "model"
    host: str = "0.0.0.0"  # noqa: S104 (a container's port is published by whoever runs it)
    port: int = 8080
    max_body_bytes: int = 64 * 1024 * 1024
    max_concurrency: int = 2
    max_queue: int = 32
    grace_seconds: int = 8

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
            host=env.get("HOST") or cls.host,
            port=_number(env, "PORT", cls.port, 0, 65535),
            max_body_bytes=_number(env, "MAX_BODY_BYTES", cls.max_body_bytes, 1, 2**40),
            max_concurrency=_number(env, "MAX_CONCURRENCY", cls.max_concurrency, 1, 1024),
            max_queue=_number(env, "MAX_QUEUE", cls.max_queue, 0, 2**20),
            grace_seconds=_number(env, "GRACE_SECONDS", cls.grace_seconds, 0, 3600),
        )


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
