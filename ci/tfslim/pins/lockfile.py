"""Make a lock: uv resolves, this checks the answer, heads it and puts it in place.

A lock is a plain requirements file with hashes: `pip install --require-hashes -r LOCK` needs
nothing else. It names no index and no path.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from tfslim import proc
from tfslim.errors import ConfigError, InputError, NetworkError, TfslimError
from tfslim.files import write_whole
from tfslim.pins.settings import IndexSettings

__all__ = ["Locked", "Resolution", "parse_lock", "resolve", "write_lock"]

# glibc of the oldest base that images are built on (Debian 12 has 2.36, Ubuntu 22.04 has 2.35) is
# newer; manylinux_2_28 is what current wheels need at most.
_PLATFORM: Final = "x86_64-manylinux_2_28"
_TENSORFLOW: Final = "tensorflow.txt"
_SERVICE: Final = "service.txt"
_PINS: Final = "pins.txt"
_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})\b")
_NO_NETWORK: Final = re.compile(
    r"error sending request|failed to fetch|dns error|certificate|connection|timed out",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Resolution:
    """What a lock is resolved from.

    Attributes:
        tensorflow: Release, such as "2.21.0".
        python: Minor version, such as "3.13".
        pins: Versions of NVIDIA's packages by name.
        constraints: Further constraints of the compatibility table.
        service: A requirements file that is locked together with TensorFlow; None for none.
    """

    tensorflow: str
    python: str
    pins: Mapping[str, str]
    constraints: Sequence[str] = ()
    service: Path | None = None


@dataclass(frozen=True)
class Locked:
    """One package of a lock: its version and the SHA-256 of every file that may be installed."""

    version: str
    hashes: frozenset[str]


def resolve(wanted: Resolution, index: IndexSettings) -> str:
    """Return the body of a lock: every package with its hashes, as uv resolves it.

    Raises:
        ConfigError: uv is missing, or there is no such combination.
        NetworkError: The index cannot be reached.
        InputError: The service's requirements cannot be read, or the answer is no lock.
    """
    with tempfile.TemporaryDirectory(prefix="tfslim-") as scratch:
        folder = Path(scratch)
        files = _write_inputs(wanted, folder)
        done = proc.run(
            [
                *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config"),
                *("--python", sys.executable, "--python-version", wanted.python),
                *("--python-platform", _PLATFORM),
                *("--default-index", index.url, "--only-binary", ":all:"),
                *("--generate-hashes", "--no-header", "--annotation-style", "line"),
                *("--constraints", _PINS, "--output-file", "lock.txt"),
                *files,
            ],
            # A person's own settings of uv would let other indexes and files in.
            env={**index.environment(), "UV_INDEX": "", "UV_FIND_LINKS": "", "UV_CONSTRAINT": ""},
            cwd=folder,
        )
        if not done.ok:
            raise _failure(wanted, done)
        body = (folder / "lock.txt").read_text(encoding="utf-8")
    _check(body, wanted)
    return body


def _write_inputs(wanted: Resolution, folder: Path) -> list[str]:
    """Write what uv reads, under names that may stand in the lock; return the requirements."""
    lines = [f"{name}=={version}" for name, version in sorted(wanted.pins.items())]
    (folder / _PINS).write_text("\n".join([*lines, *wanted.constraints, ""]), "utf-8")
    (folder / _TENSORFLOW).write_text(f"tensorflow[and-cuda]=={wanted.tensorflow}\n", "utf-8")
    if wanted.service is None:
        return [_TENSORFLOW]
    try:
        (folder / _SERVICE).write_text(wanted.service.read_text("utf-8"), "utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{wanted.service} cannot be read", why=str(error)) from None
    return [_TENSORFLOW, _SERVICE]


def _failure(wanted: Resolution, done: proc.Completed) -> TfslimError:
    if "No module named uv" in done.stderr:
        return ConfigError(
            "making a lock needs uv, and it is not installed",
            way_out="pip install 'tfslim[pins]'",
        )
    if _NO_NETWORK.search(done.stderr):
        return NetworkError(
            "the package index could not be reached while resolving",
            why=done.tail,
            way_out="Check network and proxy. A private index and CA: PIP_INDEX_URL and PIP_CERT.",
        )
    return ConfigError(
        f"there is no set of packages for TensorFlow {wanted.tensorflow} and Python "
        f"{wanted.python} with these versions",
        why=done.tail,
    )


def parse_lock(text: str) -> dict[str, Locked]:
    """Return the packages of a lock by canonical name.

    Raises:
        InputError: A line is no pinned requirement with hashes.
    """
    found: dict[str, Locked] = {}
    for line in text.replace("\\\n", " ").splitlines():
        entry = line.split("#", 1)[0].strip()
        if not entry:
            continue
        hashes = frozenset(_HASH.findall(entry))
        try:
            wanted = Requirement(_HASH.sub("", entry).strip())
        except InvalidRequirement as error:
            raise InputError(f"not a line of a lock: {entry[:80]!r}", why=str(error)) from None
        pinned = [item.version for item in wanted.specifier if item.operator == "=="]
        if wanted.url or len(pinned) != 1 or not hashes:
            raise InputError(f"not pinned with a hash: {entry[:80]!r}")
        found[canonicalize_name(wanted.name)] = Locked(pinned[0], hashes)
    return found


def _check(body: str, wanted: Resolution) -> None:
    """Refuse a lock that does not say what was asked for."""
    locked = parse_lock(body)
    expected = {**wanted.pins, "tensorflow": wanted.tensorflow}
    for name, version in expected.items():
        held = locked.get(canonicalize_name(name))
        if held is None or held.version != version:
            raise ConfigError(
                f"TensorFlow {wanted.tensorflow} does not take {name} {version}",
                why=f"the resolved set holds {held.version if held else 'none'}",
            )


def write_lock(path: Path, header: Sequence[str], body: str) -> None:
    """Write a lock aside and put it in place."""
    comments = "".join(f"# {line}".rstrip() + "\n" for line in header)
    write_whole(path, f"{comments}\n{body}")
