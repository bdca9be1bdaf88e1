"""Measure the images that a plan builds, side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tfslim.bench.container import Launch, launch
from tfslim.bench.load import Load
from tfslim.bench.loadgen import Scenario
from tfslim.bench.ready import Running
from tfslim.bench.results import HttpRun, InProcessRun, LoadgenRun
from tfslim.bench.scenarios import measure_scenarios
from tfslim.bench.throughput import Launched, Subject, measure_calls, measure_services
from tfslim.config import BenchConfig, VariantName
from tfslim.engine.engine import Engine
from tfslim.parity.containers import ImageTarget
from tfslim.plan import Build
from tfslim.ui import Ui

__all__ = ["Measured", "Measurement", "image_subject", "measure"]


class Measurement(BaseModel):
    """One launch of one image.

    Attributes:
        variant: Name of the variant.
        group: Images with the same group number were launched in turn and may be compared.
        round: Number of the turn, from 0.
        device: "CPU", or the names of the GPUs the service used.
        phases_s: Seconds since the container was asked for: created, started, alive, ready,
            first_answer, second_answer.
        service_s: The service's own phases, as it logged them.
        memory_bytes: Memory of the container after the second answer, droppable cache left out.
        loads: Closed loops of records of version 1, one per batch size; now in `HttpRun`.
    """

    model_config = ConfigDict(frozen=True)

    variant: VariantName
    group: int
    round: int
    device: str
    phases_s: dict[str, float]
    service_s: dict[str, float]
    memory_bytes: int | None
    loads: tuple[Load, ...] = ()


@dataclass(frozen=True)
class Measured:
    """What came of it: launches, load over HTTP, runs in a process, MLPerf's scenarios."""

    launches: list[Measurement]
    http: list[HttpRun]
    calls: list[InProcessRun]
    loadgen: list[LoadgenRun]


def measure(
    engine: Engine,
    builds: Sequence[Build],
    settings: BenchConfig,
    *,
    group: int,
    model: Path | None,
    gpu: bool,
    ui: Ui,
    scenarios: Sequence[Scenario] = (),
) -> Measured:
    """Launch each image `settings.launches` times, in turn, and measure each launch.

    Args:
        engine: Where the images are.
        builds: The images to compare.
        settings: How many launches, how much load.
        group: Number for this set of images.
        model: Folder to mount as /model; None where the model is in the images.
        gpu: Ask the engine for GPUs.
        ui: Shows progress.
        scenarios: Of MLPerf, for its own load generator.

    Raises:
        ServiceError: An image does not serve.
        EngineError: The engine cannot run it.
    """
    subjects = [
        image_subject(
            engine,
            build.variant,
            build.tag,
            model=model,
            model_name=build.variables["MODEL_NAME"],
            gpu=gpu,
            ready_timeout=settings.ready_timeout,
        )
        for build in builds
    ]
    variants = {build.variant: build.variant for build in builds}
    launches, http = measure_services(subjects, settings, group=group, gpu=gpu, ui=ui)
    calls = measure_calls(subjects, settings, group=group, gpu=gpu, ui=ui)
    return Measured(
        [_measurement(one, variants[one.subject], group) for one in launches],  # type: ignore[index]
        http,
        calls,
        measure_scenarios(subjects, scenarios, seconds=settings.seconds, ui=ui),
    )


def image_subject(
    engine: Engine,
    name: str,
    image: str,
    *,
    model: Path | None,
    model_name: str,
    gpu: bool,
    ready_timeout: float,
) -> Subject:
    """Return an image of the engine as something to measure."""
    spec = Launch(image, model, model_name, gpu, ready_timeout)

    @contextmanager
    def serve() -> Iterator[Running]:
        with contextlib.closing(engine.client()) as client, launch(client, spec) as service:
            yield service

    return Subject(name, ImageTarget(image, engine.client), model, model_name, serve)


def _measurement(one: Launched, variant: VariantName, group: int) -> Measurement:
    return Measurement(
        variant=variant,
        group=group,
        round=one.round,
        device=one.device,
        phases_s=one.phases_s,
        service_s=one.service_s,
        memory_bytes=one.memory_bytes,
    )
