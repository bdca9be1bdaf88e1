"""The whole line, from configuration to measured images; each verb is one call here."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from tfslim import models
from tfslim.bench import coldstart as cold
from tfslim.bench.container import run_once
from tfslim.bench.device import Device, choose_device
from tfslim.bench.loadgen import Scenario
from tfslim.bench.results import ColdStarts
from tfslim.bench.run import Measured, measure
from tfslim.bench.throughput import doubts
from tfslim.build.bake import BuiltImage, build_images
from tfslim.build.bases import Base, ensure_bases
from tfslim.build.builder import find_building_engine
from tfslim.build.push import PushedImage, check_pushable, push_built
from tfslim.compat import compat
from tfslim.config import Config, VariantName
from tfslim.engine.engine import Engine
from tfslim.errors import DiskError, ModelError, TfslimError
from tfslim.images.gpu_use import gpu_use
from tfslim.images.inspect import inspect_source
from tfslim.images.inspection import Inspection
from tfslim.plan import Build, disk_bytes, grouped, lock_file
from tfslim.report.record import ModelRecord, Pins, RunRecord, environment, now, pins_of
from tfslim.ui import Ui, human_bytes

__all__ = ["Line", "Only"]

Only = Literal["full", "sizes", "throughput"]
"""What a run measures: all, sizes alone, or all but cold starts."""

_STATE = Path(".tfslim")
_RESERVE = 4 * 10**9  # bytes that a full group of images must leave free


@dataclass(frozen=True)
class _Served:
    """The model as builds and launches take it: a folder to bake, or one to mount."""

    model: models.Model
    baked: Path | None
    mounted: Path | None
    dropped: dict[str, int]


@dataclass(frozen=True)
class _GroupResult:
    """What was measured of one group of images."""

    measured: Measured
    notes: list[str]
    cold: ColdStarts | None


class Line:
    """One run over a plan. What several steps need (engine, bases, model) is found once.

    Args:
        config: The checked configuration.
        builds: The plan.
        ui: Shows progress.
        setup_engine: Set up the embedded engine where the machine has none.
    """

    def __init__(
        self, config: Config, builds: Sequence[Build], ui: Ui, *, setup_engine: bool
    ) -> None:
        self._config = config
        self._builds = list(builds)
        self._ui = ui
        self._setup = setup_engine

    @cached_property
    def engine(self) -> Engine:
        """The engine that is built with and run on."""
        return find_building_engine(self._ui, self._config.builder, setup=self._setup)

    @cached_property
    def bases(self) -> dict[str, Base]:
        """Every base of the plan."""
        names = [name for build in self._builds for name in build.bases]
        return ensure_bases(self.engine, names, self._config.base_source, self._ui)

    def build(self, builds: Sequence[Build] | None = None) -> list[BuiltImage]:
        """Build images with the model in them (or without, where it is to be mounted).

        Raises:
            TfslimError: See the rooms this passes through.
        """
        chosen = self._builds if builds is None else builds
        served = self._served  # a wrong path is told before anything is set up
        self._tell_missing_lock(chosen)
        self._check_disk(chosen)
        return self._bake(chosen, served)

    def check_push(self, builds: Sequence[Build] | None = None) -> None:
        """Refuse a push that cannot be, before anything is built for it.

        Raises:
            TfslimError: See `push.check_pushable`.
        """
        check_pushable(self.engine, self._builds if builds is None else builds)

    def push(self, built: Sequence[BuiltImage]) -> list[PushedImage]:
        """Push images that `build` returned to `push.repository`, and read them back.

        Each one that arrived is told at once; the first that does not ends it.

        Raises:
            TfslimError: See `push.push_built`.
        """
        served = self._served
        return [
            push_built(
                self.engine,
                image,
                config=self._config,
                bases=self.bases,
                model=served.baked,
                trial=served.baked or served.mounted,
                logs=_STATE / "logs",
                ui=self._ui,
            )
            for image in built
        ]

    def _tell_missing_lock(self, builds: Sequence[Build]) -> None:
        """Say so where the smallest versions were asked for and nobody has looked for them."""
        config = self._config
        named = [build.variant for build in builds if compat().variants[build.variant].pinned]
        if named and config.pins == "smallest" and lock_file(config) is None:
            self._ui.note(
                f"no lock for TensorFlow {config.tensorflow}, Python {config.python} and these "
                f"GPUs: {', '.join(named)} get the newest packages. `tfslim pins` makes a lock."
            )

    def bench(
        self,
        only: Only = "full",
        *,
        folder: Path = _STATE,
        scenarios: Sequence[Scenario] = (),
    ) -> RunRecord:
        """Build, inspect and measure everything; return the record of it.

        Args:
            only: "sizes": nothing is launched; "throughput": no cold starts; "full": all of it.
            folder: Where finished cold starts are kept until all of them are made.
            scenarios: Of MLPerf, for its own load generator.

        Raises:
            TfslimError: See the rooms this passes through.
        """
        started = now()
        device = Device(gpu=False, text="not measured: only sizes were asked for")
        if only != "sizes":
            device = choose_device(self._config.bench.gpu, self.engine)
        self._ui.note(f"GPU: {device.text}")
        images: dict[VariantName, BuiltImage] = {}
        rebuilds: dict[VariantName, BuiltImage] = {}
        sizes: dict[str, Inspection] = {}
        found: list[_GroupResult] = []
        groups = grouped(self._builds, self._room())
        for number, group in enumerate(groups):
            if number:
                self._clear(groups[number - 1], keep=group)
            new = [build for build in group if build.variant not in images]
            images |= {image.build.variant: image for image in self.build(new)}
            rebuilds |= {image.build.variant: image for image in self.build(new)}
            sizes |= {build.variant: self.inspect(build.tag) for build in new}
            if only != "sizes":
                cold = self._cold_starts(group, device, folder) if only == "full" else ([], None)
                measured = self._measure(group, number, device, scenarios)
                notes, starts = cold
                notes = [*notes, *doubts(measured.calls, measured.http)]
                found.append(_GroupResult(measured, notes, starts))
        return RunRecord(
            started=started,
            environment=environment(self.engine, device.text),
            model=self._model_record(),
            images=list(images.values()),
            rebuilds=list(rebuilds.values()),
            sizes=sizes,
            measurements=[one for part in found for one in part.measured.launches],
            http=[one for part in found for one in part.measured.http],
            in_process=[one for part in found for one in part.measured.calls],
            loadgen=[one for part in found for one in part.measured.loadgen],
            cold_starts=_joined([part.cold for part in found if part.cold is not None]),
            budgets=self._config.budgets,
            pins=self._pins(),
            notes=[note for part in found for note in part.notes],
        ).described()

    def _pins(self) -> dict[str, Pins]:
        """Describe the lock of each build that has one."""
        lock = lock_file(self._config)
        if lock is None:
            return {}
        return {build.variant: pins_of(lock) for build in self._builds if build.lock}

    @property
    def model(self) -> models.Model:
        """The model that is served."""
        return self._served.model

    def make_room(self, build: Build) -> None:
        """Remove an image, and what its build left, if another one might not fit beside it."""
        free = self._room()
        if free is not None and free < max(disk_bytes([other]) for other in self._builds):
            self._clear([build], keep=[])

    def inspect(self, source: str) -> Inspection:
        """Measure an image, archive or folder."""
        return inspect_source(source, client=self.engine.client, gpu=gpu_use, ui=self._ui)

    def _measure(
        self,
        group: Sequence[Build],
        number: int,
        device: Device,
        scenarios: Sequence[Scenario],
    ) -> Measured:
        return measure(
            self.engine,
            group,
            self._config.bench,
            group=number,
            model=self._served.mounted,
            gpu=device.gpu,
            ui=self._ui,
            scenarios=scenarios,
        )

    def _cold_starts(
        self, group: Sequence[Build], device: Device, folder: Path
    ) -> tuple[list[str], ColdStarts | None]:
        """Start images cold a few times; a failure becomes a note, and the rest is measured."""
        launches = self._config.bench.cold_launches
        if launches == 0:
            return ["cold starts: not measured: switched off (bench.cold-launches)"], None
        subjects = [
            cold.Subject(b.variant, b.tag, self._served.mounted, b.variables["MODEL_NAME"])
            for b in group
        ]
        try:
            with contextlib.closing(self.engine.client()) as client:
                return [], cold.cold_starts(
                    client,
                    subjects,
                    self._config.bench,
                    cold.Wish(launches=launches),
                    gpu=device.gpu,
                    folder=folder,
                    ui=self._ui,
                )
        except TfslimError as error:
            note = " ".join(f"cold starts: not measured: {error.what} {error.why}".split())
            self._ui.warn(note)
            return [note], None

    def _bake(self, builds: Sequence[Build], served: _Served | None) -> list[BuiltImage]:
        """Build images; without a model where there is none yet."""
        return build_images(
            self.engine,
            builds,
            config=self._config,
            bases=self.bases,
            model=served.baked if served else None,
            trial=(served.baked or served.mounted) if served else None,
            logs=_STATE / "logs",
            ui=self._ui,
        )

    @cached_property
    def _served(self) -> _Served:
        """Find the model, make it where it has to be made, and lay out what is baked."""
        cache = _STATE / "models"
        source = self._config.model.source
        try:
            model = models.resolve_model(source, cache, self._ui)
        except ModelError:
            if source != "demo:mobilenet":
                raise
            self._make_mobilenet(cache)
            model = models.resolve_model(source, cache, self._ui)
        if self._config.model.mode == "mount":
            return _Served(model, baked=None, mounted=model.path, dropped={})
        context = _STATE / "context" / "model"
        dropped = models.bake_context(model, context)
        return _Served(
            model,
            baked=context,
            mounted=None,
            dropped={item.name: item.bytes for item in dropped},
        )

    def _make_mobilenet(self, cache: Path) -> None:
        """Generate the model inside an image of ours, which has TensorFlow; build it first."""
        build = next((b for b in self._builds if b.variant != "workload"), None)
        if build is None:
            raise ModelError(
                "demo:mobilenet is made inside an image, and workload is made for a model",
                way_out="Name another variant, too: tfslim build inference workload",
            )
        self._check_disk([build])
        self._bake([build], None)
        cache.mkdir(parents=True, exist_ok=True)
        with self._ui.step("generate the MobileNetV2 model"):
            client = self.engine.client()
            run_once(client, build.tag, models.mobilenet_command("/out"), mount=cache, at="/out")
            client.close()

    def _model_record(self) -> ModelRecord:
        served = self._served
        return ModelRecord(
            name=self._builds[0].variables["MODEL_NAME"],
            source=served.model.source,
            mode=self._config.model.mode,
            disk_bytes=served.model.bytes,
            dropped=served.dropped,
        )

    def _room(self) -> int | None:
        free = self.engine.free_bytes()
        return None if free is None else free - _RESERVE

    def _check_disk(self, builds: Sequence[Build]) -> None:
        """Refuse to start a build that cannot end well; images that are there cost nothing more."""
        free = self.engine.free_bytes()
        missing = [build for build in builds if not self._exists(build.tag)]
        if free is None or not missing:
            return
        needed = max(disk_bytes([build]) for build in missing)
        if free < needed:
            raise DiskError(
                f"{human_bytes(free)} free for the engine, and building "
                f"{missing[0].variant} takes about {human_bytes(needed)}",
                why=f"the engine keeps its data in {self.engine.data_root}",
                way_out="Free some: `docker image prune`, `docker buildx prune`. Another place for "
                "the\nembedded engine: set TFSLIM_HOME to a folder on a larger disk.",
            )

    def _exists(self, tag: str) -> bool:
        return self.engine.docker(["image", "inspect", tag]).ok

    def _clear(self, done: Sequence[Build], keep: Sequence[Build]) -> None:
        """Make room for the next group; the build cache only where it is the embedded engine's."""
        gone = [build for build in done if build not in keep]
        self._ui.note(f"making room: removing {', '.join(build.variant for build in gone)}")
        for build in gone:
            self.engine.docker(["image", "rm", build.tag])
        if self.engine.embedded and self.engine.driver == "docker":
            self.engine.buildx(["prune", "--force", "--all"])


def _joined(parts: Sequence[ColdStarts]) -> ColdStarts | None:
    """Return the cold starts of all groups as one; None for none."""
    if not parts:
        return None
    launches = tuple(
        launch.model_copy(update={"group": number})
        for number, part in enumerate(parts)
        for launch in part.launches
    )
    notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
    return parts[0].model_copy(update={"launches": launches, "notes": notes})
