"""MLPerf's scenarios over several subjects, one launch of each."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from tfslim.bench.load import make_request, predict
from tfslim.bench.loadgen import Scenario, run_scenario
from tfslim.bench.results import LoadgenRun
from tfslim.bench.throughput import Subject
from tfslim.ui import Ui

__all__ = ["measure_scenarios"]

_REQUESTS = 7  # to find out how fast a service is, about


def measure_scenarios(
    subjects: Sequence[Subject], scenarios: Sequence[Scenario], *, seconds: float, ui: Ui
) -> list[LoadgenRun]:
    """Launch each subject's service once and let LoadGen drive it through all scenarios.

    The first subject's speed sets what Server asks of all of them.

    Raises:
        ConfigError: LoadGen is not installed.
        ServiceError: A service, or LoadGen, failed.
    """
    found: list[LoadgenRun] = []
    rate: float | None = None
    served = [subject for subject in subjects if subject.serve is not None]
    if not scenarios:
        return []
    with ui.step("MLPerf's scenarios", total=len(served) * len(scenarios)) as step:
        for subject in served:
            assert subject.serve is not None  # noqa: S101 (filtered above)
            with subject.serve() as service:
                request = make_request(service.http, subject.model_name, 1)
                times = [predict(service.http, request) for _ in range(_REQUESTS)]
                rate = rate or 1 / statistics.median(times)
                gpus = service.http.get("/health").json()["gpus"] or []
                for scenario in scenarios:
                    step.update(f"{subject.name}: {scenario}")
                    run = run_scenario(
                        scenario,
                        subject=subject.name,
                        device=", ".join(gpus) or "CPU",
                        host=service.http.base_url.host,
                        port=service.http.base_url.port or 80,
                        request=request,
                        seconds=seconds,
                        rate=rate,
                    )
                    found.append(run)
                    step.advance(1)
    return found
