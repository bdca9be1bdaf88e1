"""The line of `tfslim pins`: survey, choose, try, lock."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import Version
from pydantic import BaseModel, ConfigDict

from tfslim import __version__
from tfslim.compat import compat
from tfslim.errors import ConfigError, InputError
from tfslim.pins.choice import Candidate, Cost, Objective, best_sets, costs
from tfslim.pins.couplings import conflict, unfit
from tfslim.pins.gate import Check, Gate, refuse
from tfslim.pins.index import PackageIndex
from tfslim.pins.lockfile import Resolution, parse_lock, resolve, write_lock
from tfslim.pins.locks import lock_name
from tfslim.pins.settings import IndexSettings
from tfslim.pins.store import Store
from tfslim.pins.survey import Library, Surveyor
from tfslim.slim.rules import Policy
from tfslim.ui import Ui, human_bytes

__all__ = ["PinSet", "Request", "Row", "Total", "lock", "survey_and_choose"]

# Slimming's share: what is compared is the sum over libraries of what is left of each.
_OBJECTIVES: Final = {
    "both": "compressed bytes (zstd, level 10) and half the bytes on disk",
    "pull": "compressed bytes (zstd, level 10)",
    "disk": "bytes on disk",
}


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        tensorflow: Release.
        python: Minor version.
        policies: GPUs and rules; one lock for each.
        objective: What is minimised.
        exclude: Versions that are not to be chosen, such as `cudnn<9.10`.
        all_versions: Measure every version.
        keep_wheels: Leave the wheels for the next run.
        service: Requirements that are locked together with TensorFlow.
        state: Folder for measurements and scratch.
        command: What the user typed, for the lock's header.
    """

    tensorflow: str
    python: str
    policies: tuple[Policy, ...]
    objective: Objective
    exclude: tuple[str, ...] = ()
    all_versions: bool = False
    keep_wheels: bool = False
    service: Path | None = None
    state: Path = Path(".tfslim/pins")
    command: str = "tfslim pins"


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Row(_Data):
    """One version in the table: sizes in bytes, and why it was chosen or not."""

    version: str
    wheel_bytes: int
    disk: int | None = None
    pull: int | None = None
    chosen: bool = False
    why: str


class Total(_Data):
    """Bytes of a whole set: of its wheels, and after slimming."""

    wheel_bytes: int
    disk: int
    pull: int

    @classmethod
    def of(cls, candidates: Iterable[Candidate]) -> Total:
        """Add a set up."""
        listed = list(candidates)
        return cls(
            wheel_bytes=sum(item.wheel_bytes for item in listed),
            disk=sum(item.disk for item in listed),
            pull=sum(item.pull for item in listed),
        )


class PinSet(_Data):
    """The versions chosen for some GPUs, with all that they were chosen from.

    Attributes:
        pins: Versions by package.
        newest: The newest versions allowed, by package: what pip takes.
        sha256: Of the chosen wheels, by package.
        chosen_total: Sizes of the chosen set.
        newest_total: Sizes of the newest one.
        table: Every version that came into question, by library.
        checks: What the gate found; empty where it was not asked.
        lock: Where the lock was written; empty where it was not.
    """

    tfslim: str = __version__
    command: str
    date: str
    tensorflow: str
    python: str
    sms: tuple[int, ...]
    profile: str
    objective: Objective
    pins: dict[str, str]
    newest: dict[str, str]
    sha256: dict[str, str]
    chosen_total: Total
    newest_total: Total
    table: dict[str, tuple[Row, ...]]
    checks: tuple[Check, ...] = ()
    lock: str = ""


def survey_and_choose(request: Request, settings: IndexSettings, ui: Ui) -> list[PinSet]:
    """Measure what TensorFlow allows and choose, for each of the request's GPUs.

    Raises:
        ConfigError: There is no such TensorFlow, or no versions that go together.
        NetworkError: The index fails.
        DiskError: A wheel does not fit.
    """
    with PackageIndex(settings, request.python, ui) as index:
        surveyor = Surveyor(
            index,
            Store(request.state / "measured"),
            request.state / "wheels",
            ui,
            excluded=[_requirement(text) for text in request.exclude],
            all_versions=request.all_versions,
            keep_wheels=request.keep_wheels,
        )
        surveyed = surveyor.survey(request.tensorflow, request.python, request.policies)
    return [
        _choose(request, policy, libraries)
        for policy, libraries in zip(request.policies, surveyed, strict=True)
    ]


def _requirement(text: str) -> Requirement:
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        raise ConfigError(
            f"--exclude {text!r} names no versions",
            why=str(error),
            way_out="For example: --exclude 'cudnn<9.10'",
        ) from None


def _choose(request: Request, policy: Policy, libraries: Sequence[Library]) -> PinSet:
    reasons = {
        (library.name, item.version): item.excluded or unfit(item, library.candidates, policy.sms)
        for library in libraries
        for item in library.candidates
    }
    offered = {
        library.name: [c for c in library.candidates if not reasons[library.name, c.version]]
        for library in libraries
    }
    chosen = next(best_sets(offered, conflict, request.objective), None)
    if chosen is None:
        refused = [f"{name} {number}: {why}" for (name, number), why in reasons.items() if why]
        raise ConfigError(
            "no versions go together",
            why="\n".join(refused) or "each combination lacks names that its libraries import",
            way_out="Try --all, fewer --exclude, or other --cuda-arch.",
        )
    newest = {library.name: library.candidates[-1] for library in libraries}
    return PinSet(
        command=request.command,
        date=time.strftime("%Y-%m-%d", time.gmtime(_now())),
        tensorflow=request.tensorflow,
        python=request.python,
        sms=policy.sms,
        profile=policy.profile.profile,
        objective=request.objective,
        pins={item.project: item.version for item in chosen.values()},
        newest={item.project: item.version for item in newest.values()},
        sha256={item.project: item.sha256 for item in chosen.values()},
        chosen_total=Total.of(chosen.values()),
        newest_total=Total.of(newest.values()),
        table={
            library.name: tuple(_rows(library, chosen, offered, reasons, request.objective))
            for library in libraries
        },
    )


def _rows(
    library: Library,
    chosen: Mapping[str, Candidate],
    offered: Mapping[str, Sequence[Candidate]],
    reasons: Mapping[tuple[str, str], str],
    objective: Objective,
) -> list[Row]:
    """Return the table of one library, oldest first."""
    taken = chosen[library.name]
    others = [item for name, item in chosen.items() if name != library.name]
    price = costs(offered[library.name], objective)
    rows = [
        Row(version=item.version, wheel_bytes=item.wheel_bytes, why=item.why)
        for item in library.skipped
    ]
    for item in library.candidates:
        why = reasons[library.name, item.version]
        if item is taken:
            why = _why_taken(item, price)
        elif not why and price[item.name] < price[taken.name]:
            why = next(filter(None, (conflict(item, other) for other in others)), "")
        row = Row(
            version=item.version,
            wheel_bytes=item.wheel_bytes,
            disk=item.disk,
            pull=item.pull,
            chosen=item is taken,
            why=why,
        )
        rows.append(row)
    return sorted(rows, key=lambda row: Version(row.version))


def _why_taken(item: Candidate, price: Mapping[tuple[str, str], Cost]) -> str:
    size, _ = price[item.name]
    sizes = [other for other, _ in price.values()]
    if len(sizes) == 1:
        return "the only one"
    if min(sizes) < size:
        return "the smallest that goes with the others"
    if max(sizes) == size:
        return "the newest: all are the same size"
    return "the newest of the smallest" if sizes.count(size) > 1 else "the smallest"


def _now() -> float:
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    return float(epoch) if epoch.isdecimal() else time.time()


def lock(
    request: Request, chosen: PinSet, path: Path, settings: IndexSettings, gate: Gate | None
) -> PinSet:
    """Try a set and write its lock.

    Args:
        request: What was asked for.
        chosen: The set.
        path: Where the lock goes; a folder gets it under its usual name.
        settings: Where packages come from.
        gate: Tries it; None writes a lock that says that nothing was tried.

    Raises:
        VerifyError: A check failed; nothing is written.
        TfslimError: Something cannot be had.
    """
    row = compat().tensorflow.get(request.tensorflow)
    wanted = Resolution(
        tensorflow=request.tensorflow,
        python=request.python,
        pins=chosen.pins,
        constraints=row.constraints if row else (),
        service=request.service,
    )
    body = resolve(wanted, settings)
    _check_hashes(chosen, body)
    checks = gate.check(wanted, chosen.newest) if gate else []
    error = refuse(checks)
    if error is not None:
        raise error
    if path.is_dir():
        path = path / lock_name(request.tensorflow, request.python, chosen.sms)
    done = chosen.model_copy(update={"checks": tuple(checks), "lock": path.name})
    write_lock(path, _header(done), body)
    return done


def _check_hashes(chosen: PinSet, body: str) -> None:
    """Refuse a lock that would install another file than the one that was measured."""
    locked = parse_lock(body)
    for project, digest in chosen.sha256.items():
        if digest not in locked[project].hashes:
            raise InputError(
                f"{project} {chosen.pins[project]}: the index changed its files while this ran",
                why=f"the wheel that was measured has sha256 {digest}",
                way_out="Run the same command again.",
            )


def _header(chosen: PinSet) -> list[str]:
    gpus = ", ".join(f"sm_{sm}" for sm in chosen.sms)
    ours, newest = chosen.chosen_total, chosen.newest_total
    return [
        f"TensorFlow {chosen.tensorflow}, Python {chosen.python}: the NVIDIA wheels that are "
        f"smallest for {gpus} after slimming.",
        f"  pip install --require-hashes -r {chosen.lock}",
        f"Made by tfslim {chosen.tfslim} on {chosen.date}: {chosen.command}",
        f"Smallest in {_OBJECTIVES[chosen.objective]}, slim profile {chosen.profile}:",
        f"  wheels {_sizes(ours.wheel_bytes, newest.wheel_bytes)}",
        f"  on disk after slimming {_sizes(ours.disk, newest.disk)}",
        f"  compressed after slimming {_sizes(ours.pull, newest.pull)}",
        "Checks:",
        *(f"  {check}" for check in chosen.checks),
        *(() if chosen.checks else ("  not run (--no-gate)",)),
    ]


def _sizes(ours: int, newest: int) -> str:
    return f"{human_bytes(ours)}; the newest versions: {human_bytes(newest)}"
