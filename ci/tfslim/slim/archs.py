"""Which GPU code serves which GPU. Pure: no files, no bytes.

The rules are CUDA's own compatibility rules (CUDA C++ Programming Guide, "Binary Compatibility" and
"PTX Compatibility"): a cubin runs on GPUs of its major version with the same or a higher minor
one; "a" code runs on exactly its architecture; "f" code on its family; PTX is compiled by the
driver for any GPU at or above it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from tfslim.errors import SlimError
from tfslim.gpu import find_gpus
from tfslim.slim.fatbin import Kind

__all__ = ["ALL_MAJOR", "Code", "Targets", "jit_source", "parse_targets", "select", "serves"]

# The x.0 GPU of every major version that CUDA 11 to 13 compile for.
ALL_MAJOR: Final = (50, 60, 70, 80, 90, 100, 120)

_ARCH: Final = re.compile(
    r"(?:sm_?|cc)?(?P<major>\d{1,2})\.?(?P<minor>\d)(?P<suffix>[af]?)(?P<ptx>\+ptx)?", re.IGNORECASE
)
_WAY_OUT: Final = (
    "Give compute capabilities: --cuda-arch 90, --cuda-arch 8.6,9.0, --cuda-arch native (the GPUs "
    "of this machine) or --cuda-arch all-major."
)


class Code(Protocol):
    """What selection needs to know of a piece of GPU code (see `fatbin.Entry`)."""

    @property
    def kind(self) -> Kind:
        """Cubin, PTX or LTO-IR."""

    @property
    def sm(self) -> int:
        """The architecture it was made for (90 for 9.0)."""

    @property
    def specific(self) -> bool:
        """True for code of exactly one architecture ("sm_90a")."""

    @property
    def family(self) -> bool:
        """True for code of one family of architectures ("sm_100f")."""


@dataclass(frozen=True)
class Targets:
    """The GPUs that must still be served.

    Attributes:
        sms: Compute capabilities as NVIDIA writes them (90 for 9.0), ascending.
        text: What the user asked for.
        keep_ptx: Whether one PTX is kept for GPUs not named, unless told otherwise.
    """

    sms: tuple[int, ...]
    text: str
    keep_ptx: bool = False

    def __str__(self) -> str:
        """Return them as a list of `sm_NN`."""
        return ",".join(f"sm_{sm}" for sm in self.sms)


def parse_targets(text: str) -> Targets:
    """Read what follows `--cuda-arch`.

    Knows `90`, `9.0`, `sm_90`, `90a` (the same GPU as 90), a list of them, `90+PTX`, `native` and
    `all-major`. One PTX is kept by default for `all-major` and `+PTX` alone.

    Raises:
        SlimError: It is none of these, or no GPU answers for `native`.
    """
    plain = text.strip().lower()
    if plain == "native":
        return Targets(_native(), text)
    if plain == "all-major":
        return Targets(ALL_MAJOR, text, keep_ptx=True)
    words = [word for word in re.split(r"[,;\s]+", plain) if word]
    if not words:
        raise SlimError("no CUDA architecture was given", way_out=_WAY_OUT)
    matches = [_match(word, text) for word in words]
    sms = {int(match["major"] + match["minor"]) for match in matches}
    return Targets(tuple(sorted(sms)), text, keep_ptx=any(match["ptx"] for match in matches))


def _match(word: str, text: str) -> re.Match[str]:
    match = _ARCH.fullmatch(word)
    if match is None or not 20 <= int(match["major"] + match["minor"]) <= 299:
        raise SlimError(
            f"{word!r} in --cuda-arch {text!r} is not a GPU's compute capability",
            why="PTX ('compute_90') and architecture names ('hopper') are not GPUs.",
            way_out=_WAY_OUT,
        )
    return match


def _native() -> tuple[int, ...]:
    seen = find_gpus()
    if not seen.gpus:
        raise SlimError(
            "--cuda-arch native: no GPU answers on this machine",
            why=seen.why_none,
            way_out=_WAY_OUT,
        )
    return tuple(sorted({int(gpu.sm) for gpu in seen.gpus}))


def serves(code: Code, sm: int) -> bool:
    """True when a GPU of compute capability `sm` can use the code, by what is documented."""
    if code.specific:
        return code.sm == sm
    if code.kind is Kind.CUBIN or code.family:
        return code.sm // 10 == sm // 10 and code.sm <= sm
    return code.sm <= sm


def jit_source(entries: Sequence[Code], sm: int) -> int | None:
    """Return the index of the PTX that the driver would compile for a GPU; None where it would not.

    It would not where any cubin serves the GPU, or no PTX does.
    """
    if _best(entries, sm, Kind.CUBIN)[0]:
        return None
    best = _best(entries, sm, Kind.PTX)[0]
    return max(best, key=lambda i: (entries[i].sm, entries[i].specific, -i), default=None)


def select(
    entries: Sequence[Code],
    targets: Iterable[int],
    *,
    keep_ptx: bool,
    compiled: Collection[int] = (),
) -> frozenset[int]:
    """Return the indices of a container's entries that the targets need.

    Per target: the best cubin; without one, the best PTX; and the best LTO-IR besides, which a
    linker asks for by itself. "Best" is the highest architecture that serves it. Family code whose
    reach is not certain never displaces plain code: both stay.

    Args:
        entries: The container's entries.
        targets: Compute capabilities.
        keep_ptx: Also keep the newest plain PTX, for GPUs yet to come.
        compiled: Targets that get code compiled ahead of time, and therefore need no PTX.
    """
    keep: set[int] = set()
    for sm in targets:
        cubins, certain = _best(entries, sm, Kind.CUBIN)
        keep |= cubins
        if not certain and sm not in compiled:
            keep |= _best(entries, sm, Kind.PTX)[0]
        keep |= _best(entries, sm, Kind.LTO)[0]
    if keep_ptx:
        plain = [
            (code.sm, index)
            for index, code in enumerate(entries)
            if code.kind is Kind.PTX and not code.specific and not code.family
        ]
        newest = max(plain, default=(0, 0))[0]
        keep |= {index for sm, index in plain if sm == newest}
    return frozenset(keep)


def _best(entries: Sequence[Code], sm: int, kind: Kind) -> tuple[set[int], bool]:
    """Return the indices of the best code of a kind for a GPU, and whether it certainly serves.

    Several indices where they tie, or where family code of another member comes on top.
    """
    usable = [(i, code) for i, code in enumerate(entries) if code.kind is kind and serves(code, sm)]
    certain = max((c.sm for _, c in usable if not c.family or c.sm == sm), default=0)
    best = {i for i, c in usable if c.sm == certain or (c.family and c.sm > certain)}
    return best, bool(certain)
