"""The levers that make a start of Python fast: which an image uses, and what each gains there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from tfslim.bench.stats import Ratio, ratio_of_medians, summarize

__all__ = ["Lever", "levers_of"]

State = Literal["used", "not used", "in part", "not applicable", "not known"]

_ELSEWHERE = "not measured on this image; docs/start-levers.md has figures of ours"
# docs/start-levers.md, "Relocations": 7 times each in turn, on 2 processors.
_HIDING = (
    "not measured on this image: it cannot be switched; where we measured it, opening TensorFlow's "
    "library took ×0.32 of the processor time (docs/start-levers.md)"
)
_FIXED = "not measured: it cannot be switched"
# Stock TensorFlow 2.21 looks up some 570,000; with hidden symbols some 100,000 are left.
_MANY_LOOKUPS = 250_000
_DEBIANS = ("debian", "ubuntu")
_BUILT = "interpreter built with PGO and LTO"


class Lever(BaseModel):
    """One thing that makes starts faster.

    Attributes:
        name: What it is.
        state: Whether the image uses it.
        detail: What was found, and what to do.
        gain: Seconds of a start with it by seconds without, where both were measured here.
        gain_cpu: The same of processor time, which other programs on the machine disturb less.
        measured: How the gain was measured, or why it was not.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    state: State
    detail: str
    gain: Ratio | None = None
    gain_cpu: Ratio | None = None
    measured: str = _ELSEWHERE


def levers_of(
    found: Mapping[str, Any], cold: Mapping[str, Sequence[Mapping[str, float]]]
) -> tuple[Lever, ...]:
    """Return what makes starts faster, and whether it is used.

    Args:
        found: What the probe returned.
        cold: Cold starts with ("on") and without ("off") read-ahead.
    """
    return (
        _bytecode(found),
        _collector(found),
        _first_use(found),
        _teardown(found),
        _read_ahead(found, cold),
        _hiding(found),
        _built(found),
        _native(found),
    )


def _start(launch: Mapping[str, float]) -> float:
    return launch["interpreter_s"] + launch["code_s"]


def _whole(launch: Mapping[str, float]) -> float:
    return _start(launch) + launch["teardown_s"]


def _gain(
    found: Mapping[str, Any], with_it: str, without: str, *, teardown: bool = False
) -> dict[str, Any]:
    """Return a lever's gains as fields: ratios of medians, and how they were measured."""
    a, b = (found["times"].get(way, []) for way in (with_it, without))
    seconds, cpu = (_whole, "cpu_s") if teardown else (_start, "code_cpu_s")
    what = "with teardown" if teardown else "up to the end of the code"
    if not a or not b:
        return {}
    return {
        "gain": ratio_of_medians([seconds(one) for one in a], [seconds(one) for one in b]),
        "gain_cpu": ratio_of_medians([one[cpu] for one in a], [one[cpu] for one in b]),
        "measured": f"here: {len(a)} starts with, {len(b)} without, {what}",
    }


def _bytecode(found: Mapping[str, Any]) -> Lever:
    kinds: dict[str, int] = found["counts"]["bytecode"]
    total = sum(kinds.values())
    bad = kinds.get("missing", 0) + kinds.get("stale", 0)
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    name = "complete bytecode, never checked"
    if bad:
        return Lever(
            name=name,
            state="in part" if bad < total else "not used",
            detail=f"{listed}: compile when building "
            "(python -m compileall --invalidation-mode unchecked-hash)",
            **_gain(found, "all bytecode", "as it is"),
        )
    return Lever(
        name=name,
        state="used" if kinds.get("unchecked", 0) == total else "in part",
        detail=f"{listed} (checked ones cost a look at each source)",
        **_gain(found, "as it is", "no bytecode"),
    )


def _collector(found: Mapping[str, Any]) -> Lever:
    used = found["interpreter"]["collector_rests"]
    counts = found["counts"]
    name = "garbage collector rests during import"
    if used:
        return Lever(
            name=name,
            state="used",
            detail=f"{counts['collections']} collections in a start; TFSLIM_GC=off lets it work",
            **_gain(found, "as it is", "collector works", teardown=True),
        )
    return Lever(
        name=name,
        state="not used",
        detail=f"{counts['collections']} collections take {counts['collector_s']:.2f} s; "
        "tfslim slim puts the lever in place, or call gc.disable() first and gc.freeze() after",
        **_gain(found, "collector rests", "as it is"),
    )


def _first_use(found: Mapping[str, Any]) -> Lever:
    """Keras and other packages of names, imported when somebody asks for them."""
    name = "packages imported on first use"
    if not found["tensorflow"]:
        return Lever(name=name, state="not applicable", detail="no TensorFlow in Python")
    # The same file of a slim tree does both.
    if not found["interpreter"]["collector_rests"]:
        return Lever(name=name, state="not used", detail="tfslim slim puts the lever in place")
    return Lever(
        name=name,
        state="used",
        detail="TFSLIM_LAZY=off imports them at once",
        **_gain(found, "as it is", "imports at once"),
    )


def _teardown(found: Mapping[str, Any]) -> Lever:
    summary = summarize([one["teardown_s"] for one in found["times"]["as it is"]])
    seconds = f"{summary.median:.2f} s" if summary else "not measured"
    return Lever(
        name="no teardown at the end",
        state="not known",
        detail=f"the interpreter takes {seconds} to end; a service that ends with os._exit(0) "
        "after its last answer stops at once (ours does)",
        **_gain(found, "no teardown", "as it is", teardown=True),
    )


def _read_ahead(
    found: Mapping[str, Any], cold: Mapping[str, Sequence[Mapping[str, float]]]
) -> Lever:
    used = found["interpreter"]["prefetch"]
    ratio = ratio_of_medians(
        *([one["start_s"] for one in cold.get(way, [])] for way in ("on", "off"))
    )
    rounds = len(cold.get("off", []))
    detail = "TFSLIM_PREFETCH=off starts without" if used else "recorded when our images are built"
    measured = f"here: {rounds} cold starts with and without" if ratio else _ELSEWHERE
    return Lever(
        name="files read ahead (cold starts)",
        state="used" if used else "not used",
        detail=detail,
        gain=ratio,
        measured=measured if used else _ELSEWHERE,
    )


def _hiding(found: Mapping[str, Any]) -> Lever:
    name = "symbols hidden that nobody asks for"
    looked_up = found["relocations"]["looked_up"] + found["relocations"]["from_cache"]
    detail = f"{looked_up:,} symbol relocations ({found['relocations']['looked_up']:,} lookups)"
    if not (found["tensorflow"] or found["interpreter"]["native"]):
        return Lever(name=name, state="not applicable", detail=f"no TensorFlow in Python; {detail}")
    if not looked_up:
        return Lever(name=name, state="not known", detail="the loader tells nothing (not glibc?)")
    hidden = found["interpreter"]["hidden"] or looked_up < _MANY_LOOKUPS
    way = "" if hidden else "; tfslim slim --profile inference hides them"
    state: State = "used" if hidden else "not used"
    return Lever(name=name, state=state, detail=f"{detail}{way}", measured=_HIDING)


def _built(found: Mapping[str, Any]) -> Lever:
    known = found["interpreter"]
    by_distribution = known["distribution"] in _DEBIANS and known["base"].startswith("/usr/bin/")
    flags = f"PGO {_yes(known['pgo'])}, LTO {_yes(known['lto'])} by sysconfig"
    if known["pgo"]:
        return Lever(name=_BUILT, state="used", detail=flags, measured=_FIXED)
    if by_distribution:
        detail = "Debian builds its python3 with both (debian/rules) and takes the flags out again"
        return Lever(name=_BUILT, state="used", detail=detail, measured=_FIXED)
    detail = f"{flags}; docker.io/library/python has both"
    return Lever(name=_BUILT, state="not known", detail=detail, measured=_FIXED)


def _yes(value: object) -> str:
    return "yes" if value else "no"


def _native(found: Mapping[str, Any]) -> Lever:
    name = "served without Python TensorFlow"
    if found["interpreter"]["native"]:
        detail = "the image has no Python TensorFlow; its library was opened, and nothing imported"
        return Lever(name=name, state="used", detail=detail)
    if not found["tensorflow"]:
        detail = "there is no Python TensorFlow to leave out"
        return Lever(name=name, state="not applicable", detail=detail)
    gain = _gain(found, "library alone", "as it is")
    if gain:
        gain["measured"] += ": the library opened alone, by import tensorflow"
    detail = "backend: capi serves a SavedModel through TensorFlow's C API"
    return Lever(name=name, state="not used", detail=detail, **gain)
