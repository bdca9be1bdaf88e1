"""Every error a user can meet: what happened, why, the way out, and the exit code.

A room raises one of these and never prints; `cli.main` prints it in one screen and exits with
its code. Anything else that escapes is a defect of tfslim and shows its traceback.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BuildFailedError",
    "ConfigError",
    "DiskError",
    "EngineError",
    "InputError",
    "ModelError",
    "NetworkError",
    "PushError",
    "ServiceError",
    "SlimError",
    "TfslimError",
    "VerifyError",
]


class TfslimError(Exception):
    """Base of all errors that are shown to a user.

    Args:
        what: One sentence naming the thing and its value ("unknown variant 'foo'").
        why: What lies behind it, possibly several lines (a tool's last output, a limit).
        way_out: What the user can do now, as commands or settings where there are any.
    """

    exit_code: ClassVar[int] = 1
    label: ClassVar[str] = "error"

    def __init__(self, what: str, *, why: str = "", way_out: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.way_out = way_out

    def __str__(self) -> str:
        """Return all parts as plain text, for logs and tests."""
        return "\n".join(part for part in (self.what, self.why, self.way_out) if part)

    def as_dict(self) -> dict[str, str | int]:
        """Return the error as `--json` prints it."""
        return {
            "error": self.label,
            "what": self.what,
            "why": self.why,
            "way_out": self.way_out,
            "exit_code": self.exit_code,
        }


class ConfigError(TfslimError):
    """The configuration, an option or a combination of versions cannot be used."""

    exit_code = 2
    label = "configuration"


class EngineError(TfslimError):
    """There is no usable Docker engine or buildx, or it refused."""

    exit_code = 3
    label = "engine"


class DiskError(TfslimError):
    """There is not enough free disk for what was asked."""

    exit_code = 4
    label = "disk"


class NetworkError(TfslimError):
    """A registry, package index or GitHub's API cannot be reached, or refuses."""

    exit_code = 5
    label = "network"


class ModelError(TfslimError):
    """A path is not a model that can be served."""

    exit_code = 6
    label = "model"


class BuildFailedError(TfslimError):
    """An image build failed; `why` holds the end of its log."""

    exit_code = 7
    label = "build"


class ServiceError(TfslimError):
    """A container that should serve did not: it exited, or was never ready."""

    exit_code = 8
    label = "service"


class InputError(TfslimError):
    """A file, folder, archive or image given to be read is missing or not what it should be."""

    exit_code = 9
    label = "input"


class SlimError(TfslimError):
    """Slimming was refused before anything was changed (a stale plan, an unusable target)."""

    exit_code = 10
    label = "slim"


class VerifyError(TfslimError):
    """At least one file failed its proof and was restored to what it was."""

    exit_code = 11
    label = "verify"


class PushError(TfslimError):
    """A registry refused an image, holds something else than was pushed, or must not get it."""

    exit_code = 12
    label = "push"
