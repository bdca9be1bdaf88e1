"""Measure images side by side: their launches take turns, so that a drifting machine is fair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tfslim.bench.container import Launch, Service, launch
from tfslim.bench.load import Load, closed_loop, make_request, predict
from tfslim.config import BenchConfig, VariantName
from tfslim.engine.engine import Engine
from tfslim.plan import Build
from tfslim.ui import Ui

__all__ = ["Measurement", "measure"]


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
        loads: Closed loops, one per batch size.
    """

    model_config = ConfigDict(frozen=True)

    variant: VariantName
    group: int
    round: int
    device: str
    phases_s: dict[str, float]
    service_s: dict[str, float]
    memory_bytes: int | None
    loads: tuple[Load, ...]


def measure(
    engine: Engine,
    builds: Sequence[Build],
    settings: BenchConfig,
    *,
    group: int,
    model: Path | None,
    gpu: bool,
    ui: Ui,
) -> list[Measurement]:
    """Launch each image `settings.launches` times, in turn, and measure each launch.

    Args:
        engine: Where the images are.
        builds: The images to compare.
        settings: How many launches, how much load.
        group: Number for this set of images.
        model: Folder to mount as /model; None where the model is in the images.
        gpu: Ask the engine for GPUs.
        ui: Shows progress.

    Raises:
        ServiceError: An image does not serve.
        EngineError: The engine cannot run it.
    """
    names = ", ".join(build.variant for build in builds)
    results: list[Measurement] = []
    client = engine.client()
    try:
        with ui.step(f"measure {names}", total=settings.launches * len(builds)) as step:
            for turn in range(settings.launches):
                for build in _rotated(builds, turn):
                    step.update(f"{build.variant}, launch {turn + 1} of {settings.launches}")
                    spec = Launch(
                        image=build.tag,
                        model=model,
                        model_name=build.variables["MODEL_NAME"],
                        gpu=gpu,
                        ready_timeout=settings.ready_timeout,
                    )
                    with launch(client, spec) as service:
                        measured = _measured(service, spec, settings)
                    results.append(
                        Measurement(variant=build.variant, group=group, round=turn, **measured)
                    )
                    step.advance(1)
    finally:
        client.close()
    return results


def _measured(service: Service, spec: Launch, settings: BenchConfig) -> dict[str, Any]:
    """Measure a service that has just become ready; the fields of its `Measurement`."""
    request = make_request(service.http, spec.model_name, 1)
    # Making the request was the benchmark's own time, so the answers' times are added to `ready`.
    first = service.marks["ready"] + predict(service.http, request)
    second = first + predict(service.http, request)
    return {
        "phases_s": {**service.marks, "first_answer": first, "second_answer": second},
        "memory_bytes": service.memory_bytes(),
        "device": ", ".join(service.http.get("/health").json()["gpus"] or []) or "CPU",
        "service_s": service.ready_event(),
        "loads": tuple(
            closed_loop(
                service.http, make_request(service.http, spec.model_name, size), settings.seconds
            )
            for size in settings.batch_sizes
        ),
    }


def _rotated(builds: Sequence[Build], turn: int) -> list[Build]:
    """Start each turn with another image, so that none always follows the same one."""
    start = turn % len(builds)
    return [*builds[start:], *builds[:start]]
