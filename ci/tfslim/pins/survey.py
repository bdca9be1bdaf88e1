"""Look at every version that comes into question: one wheel at a time, kept only while measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from pydantic import BaseModel, ConfigDict

from tfslim.errors import ConfigError, NetworkError
from tfslim.pins.candidates import cuda_requirements, short_name, shortlist
from tfslim.pins.choice import Candidate
from tfslim.pins.index import PackageIndex, Wheel, requires_dist
from tfslim.pins.measure import Measured, engine_key, measure
from tfslim.pins.scratch import own_folder
from tfslim.pins.store import Store
from tfslim.slim.rules import Policy
from tfslim.ui import Step, Ui, human_bytes

__all__ = ["Library", "Skipped", "Surveyor"]

# Measurements by what they depend on, then by wheel (SHA-256).
_Results = dict[str, dict[str, Measured]]
# A wheel this many times the size of the smallest one is not measured. The largest difference seen
# between a wheel's share and that of what is left of it after slimming for one GPU is 1.6 (cuBLAS
# 12.5 and 12.9).
_TOO_LARGE: Final = 1.75


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Skipped(_Data):
    """A version that was not measured, and why."""

    version: str
    wheel_bytes: int
    why: str


class Library(_Data):
    """A library and what of it was measured.

    Attributes:
        name: Short name, such as "cudnn".
        requirement: What TensorFlow allows.
        candidates: What was measured, oldest first; the last one is the newest allowed.
        skipped: What was not, and why.
    """

    name: str
    requirement: str
    candidates: tuple[Candidate, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class _Shortlist:
    """The wheels of one library, and which of them are measured."""

    requirement: Requirement
    measured: tuple[Wheel, ...]
    skipped: tuple[Skipped, ...]


class Surveyor:
    """Measures the versions that a TensorFlow release allows.

    Args:
        index: Where wheels come from.
        store: What was measured before.
        folder: For one wheel at a time, packed and unpacked.
        ui: Where progress is shown.
        excluded: Versions that are not to be chosen; measured only where it is the newest.
        all_versions: Measure every version, instead of a few of each line.
        keep_wheels: Leave the wheels in `folder` for the next run.
    """

    def __init__(
        self,
        index: PackageIndex,
        store: Store,
        folder: Path,
        ui: Ui,
        *,
        excluded: Sequence[Requirement] = (),
        all_versions: bool = False,
        keep_wheels: bool = False,
    ) -> None:
        self._index = index
        self._store = store
        self._folder = folder
        self._ui = ui
        self._excluded = excluded
        self._all_versions = all_versions
        self._keep_wheels = keep_wheels

    def survey(
        self, tensorflow: str, python: str, policies: Sequence[Policy]
    ) -> list[tuple[Library, ...]]:
        """Return what was measured, for each policy.

        Args:
            tensorflow: Release.
            python: Minor version.
            policies: GPUs and rules to measure for; a wheel is downloaded once for all of them.

        Raises:
            ConfigError: There is no such TensorFlow, or it has no extra `and-cuda`.
            NetworkError: The index fails.
            DiskError: There is not room enough for the largest wheel.
        """
        with own_folder(self._folder, "survey") as scratch:
            with self._ui.step(f"What TensorFlow {tensorflow} allows"):
                lists = self._shortlists(tensorflow, python, scratch)
            wheels = [wheel for item in lists for wheel in item.measured]
            results = self._results(wheels, policies, scratch)
        return [
            tuple(self._library(item, policy, results[engine_key(policy)]) for item in lists)
            for policy in policies
        ]

    def _shortlists(self, tensorflow: str, python: str, scratch: Path) -> list[_Shortlist]:
        offered = {str(wheel.version): wheel for wheel in self._index.wheels("tensorflow")}
        if tensorflow not in offered:
            raise ConfigError(
                f"there is no TensorFlow {tensorflow} for Python {python} on x86-64 Linux",
                why=f"the index has {', '.join(list(offered)[-8:]) or 'none for this Python'}",
            )
        wanted = cuda_requirements(self._requirements(offered[tensorflow], scratch), python)
        if not wanted:
            raise ConfigError(f"TensorFlow {tensorflow} has no NVIDIA wheels to choose (and-cuda)")
        return [self._shortlist(requirement) for requirement in wanted]

    def _requirements(self, wheel: Wheel, scratch: Path) -> list[Requirement]:
        metadata = self._store.load_metadata(wheel.sha256)
        if metadata is None:
            metadata = self._index.metadata(wheel, scratch)
            self._store.save_metadata(wheel.sha256, metadata)
        try:
            return requires_dist(metadata)
        except ValueError as error:
            raise NetworkError(
                f"the metadata of {wheel.filename} cannot be read", why=str(error)
            ) from None

    def _shortlist(self, requirement: Requirement) -> _Shortlist:
        wheels = shortlist(
            requirement, self._index.wheels(requirement.name), all_=self._all_versions
        )
        if not wheels:
            raise ConfigError(
                f"the index has no wheel for {requirement}",
                why="for this Python on x86-64 Linux, with a SHA-256, neither yanked nor early",
            )
        least = min(wheel.size or 0 for wheel in wheels)
        # The newest is what pip would take: measured in any case, to compare with.
        why = {wheel: self._why_skipped(wheel, least) for wheel in wheels[:-1]}
        return _Shortlist(
            requirement,
            tuple(wheel for wheel in wheels if not why.get(wheel)),
            tuple(
                Skipped(version=str(wheel.version), wheel_bytes=wheel.size or 0, why=reason)
                for wheel, reason in why.items()
                if reason
            ),
        )

    def _why_skipped(self, wheel: Wheel, least: int) -> str:
        if not self._all_versions and (wheel.size or 0) > _TOO_LARGE * least:
            return f"not measured: the wheel is more than {_TOO_LARGE} times the smallest one"
        return self._why_excluded(wheel)

    def _why_excluded(self, wheel: Wheel) -> str:
        names = (wheel.project, short_name(wheel.project))
        for wanted in self._excluded:
            if wanted.name in names and wanted.specifier.contains(wheel.version):
                return f"excluded: {wanted}"
        return ""

    def _results(
        self, wheels: Sequence[Wheel], policies: Sequence[Policy], scratch: Path
    ) -> _Results:
        """Return what is known of each wheel for each policy; measure what is not known yet."""
        results: _Results = {engine_key(policy): {} for policy in policies}
        work: list[tuple[Wheel, list[Policy]]] = []
        for wheel in wheels:
            unknown = []
            for policy in policies:
                key = engine_key(policy)
                known = self._store.load(wheel.sha256, key)
                if known is None:
                    unknown.append(policy)
                else:
                    results[key][wheel.sha256] = known
            if unknown:
                work.append((wheel, unknown))
        total = sum(wheel.size or 0 for wheel, _ in work)
        if work:
            title = f"Measure {len(work)} of {len(wheels)} wheels, {human_bytes(total)}"
            with self._ui.step(title, total) as step:
                for wheel, unknown in work:
                    for policy, measured in self._measure(wheel, unknown, scratch, step):
                        results[engine_key(policy)][wheel.sha256] = measured
                    step.advance(wheel.size or 0)
        return results

    def _measure(
        self, wheel: Wheel, policies: Iterable[Policy], scratch: Path, step: Step
    ) -> Iterator[tuple[Policy, Measured]]:
        path = self._index.download(wheel, self._folder if self._keep_wheels else scratch)
        try:
            for policy in policies:
                step.update(f"{wheel.project} {wheel.version} for {policy.targets}")
                measured = measure(path, policy, scratch)
                self._store.save(wheel.sha256, engine_key(policy), measured)
                yield policy, measured
        finally:
            if not self._keep_wheels:
                path.unlink(missing_ok=True)

    def _library(
        self, item: _Shortlist, policy: Policy, results: Mapping[str, Measured]
    ) -> Library:
        last = len(item.measured) - 1
        return Library(
            name=short_name(item.requirement.name),
            requirement=str(item.requirement.specifier),
            candidates=tuple(
                self._candidate(wheel, results[wheel.sha256], policy, newer=last - place)
                for place, wheel in enumerate(item.measured)
            ),
            skipped=item.skipped,
        )

    def _candidate(self, wheel: Wheel, measured: Measured, policy: Policy, newer: int) -> Candidate:
        disk, pull = measured.sizes(policy)
        return Candidate(
            project=wheel.project,
            library=short_name(wheel.project),
            version=str(wheel.version),
            newer=newer,
            sha256=wheel.sha256,
            wheel_bytes=wheel.size or 0,
            disk=disk,
            pull=pull,
            cubins=measured.cubins,
            links=measured.links,
            requires=measured.requires,
            excluded=self._why_excluded(wheel),
        )
