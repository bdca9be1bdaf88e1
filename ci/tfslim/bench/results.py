"""What benchmarks return: plain data, each figure with its unit in its name.

A `subject` is what was measured, as the report shows it: a variant's name, or an image reference.
Subjects with the same `group` took turns on one machine and may be compared; others may not.
Raw samples are kept, so that any statistic can be computed again.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = [
    "COLD_START_PHASES",
    "ColdLaunch",
    "ColdStarts",
    "HttpRun",
    "InProcessRun",
    "LoadgenRun",
    "Pull",
]

COLD_START_PHASES = (
    "create",
    "interpreter",
    "imports",
    "gpu_init",
    "model_load",
    "warm_up",
    "first_answer",
    "second_answer",
)
"""The phases of one launch in their order; `pull` and `unpack` come before them, once an image."""


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True)


class Pull(_Result):
    """One image pulled from a registry on loopback.

    Attributes:
        subject: What was pulled.
        round: Number of the turn, from 0.
        pull_bytes: Bytes that travelled (compressed layers, configuration, manifests).
        pull_s: Seconds until the last byte was there, on loopback.
        unpack_s: Seconds to decompress and write the layers.
        layers: How many layers were pulled.
    """

    subject: str
    round: int
    pull_bytes: int
    pull_s: float
    unpack_s: float
    layers: int


class ColdLaunch(_Result):
    """One start of one image's service.

    Attributes:
        subject: What was started.
        round: Number of the turn, from 0.
        group: Set of subjects that took turns.
        page_cache: Whether the image's files were in the page cache before.
        jit_cache: Whether CUDA's cache of compiled PTX was filled; "none" without a GPU.
        phases_s: Seconds of each phase by name, a subset of `COLD_START_PHASES`; one after the
            other, so that their sum up to `first_answer` is `first_answer_s`.
        first_answer_s: Seconds from asking for the container to the first answer.
        ready_s: Seconds from asking for the container to the service's own `ready`.
        memory_bytes: Memory after the second answer, droppable page cache left out.
        rss_bytes: Resident memory of the service's process; None where it is not known.
        read_bytes: Bytes read from storage until the second answer; None where it is not known.
    """

    subject: str
    round: int
    page_cache: Literal["cold", "warm"]
    jit_cache: Literal["cold", "warm", "none"]
    phases_s: dict[str, float]
    first_answer_s: float
    ready_s: float
    memory_bytes: int | None
    rss_bytes: int | None
    read_bytes: int | None
    group: int = 0


class ColdStarts(_Result):
    """Everything that one run of `tfslim bench --cold-start` measured.

    Attributes:
        device: "CPU", or the names of the GPUs.
        cold_cache: How files were put out of the page cache, or why only warm starts were measured.
        launches: Every start, in the order in which they were made.
        pulls: Every pull.
        notes: What a reader has to know (skipped phases, and why).
    """

    device: str
    cold_cache: str
    launches: tuple[ColdLaunch, ...]
    pulls: tuple[Pull, ...] = ()
    notes: tuple[str, ...] = ()


class InProcessRun(_Result):
    """A model called in one process again and again, without HTTP.

    Attributes:
        subject: What was measured.
        group: Set of subjects that took turns.
        round: Number of the process launch, from 0.
        device: "CPU", or the GPU's name.
        batch_size: Samples a call.
        first_call_s: Seconds of the very first call (PTX is compiled and kernels are chosen in it).
        latencies_s: Seconds of each call after warm-up, in order: those of the last three windows.
        stable: Whether the last three windows agreed within 10 %.
        gpu: Medians of what the driver said meanwhile (utilisation, memory, power, clocks) and
            throttle reasons; empty on a CPU.
        backend: What ran the model: "tensorflow" (Python) or "capi".
        seconds: Wall time of the last three windows; None where it was not kept.
        calls_before: Calls that came before: the first one, warm-up, windows that did not agree.
    """

    subject: str
    group: int
    round: int
    device: str
    batch_size: int
    first_call_s: float
    latencies_s: tuple[float, ...]
    stable: bool
    gpu: dict[str, float | str] = {}
    backend: str = ""
    seconds: float | None = None
    calls_before: int = 0

    @property
    def samples_per_second(self) -> float:
        """Samples per second of wall time."""
        return self.batch_size * len(self.latencies_s) / (self.seconds or sum(self.latencies_s))


class HttpRun(_Result):
    """Load over HTTP against one launch of a service.

    Attributes:
        subject: What was measured.
        group: Set of subjects that took turns.
        round: Number of the launch, from 0.
        device: "CPU", or the GPU's name.
        kind: closed: each client asks again once it is answered; open: requests arrive by a
            Poisson process at `rate`, and latency counts from the moment a request was due.
        batch_size: Samples a request.
        concurrency: Clients of a closed loop; for an open loop the most that were in flight.
        rate: Requests a second that were due; None for a closed loop.
        seconds: Wall time.
        latencies_s: Seconds of each answered request, in the order in which they were due.
        failed: Requests without an answer of status 200, by reason.
        gpu: As for `InProcessRun`.
        limited_by: Why the load generator, and not the service, may have set these figures; empty
            where it did not. Nothing should be claimed from a run that was limited so.
        lag_s: 99th percentile of the seconds by which the generator itself was late; None for a
            closed loop.
        generator_cpu: Processor time of the load generator over wall time; at most about 1.
    """

    subject: str
    group: int
    round: int
    device: str
    kind: Literal["closed", "open"]
    batch_size: int
    concurrency: int
    rate: float | None
    seconds: float
    latencies_s: tuple[float, ...]
    failed: dict[str, int] = {}
    gpu: dict[str, float | str] = {}
    limited_by: str = ""
    lag_s: float | None = None
    generator_cpu: float | None = None

    @property
    def samples_per_second(self) -> float:
        """Samples answered per second of wall time."""
        return self.batch_size * len(self.latencies_s) / self.seconds


class LoadgenRun(_Result):
    """One scenario driven by MLPerf's load generator over HTTP.

    Attributes:
        subject: What was measured.
        device: "CPU", or the GPU's name.
        scenario: As MLPerf names it.
        valid: Whether LoadGen calls the run valid under the settings that were used.
        early_stopping_met: Whether its early stopping criterion is met; None where it has none.
        samples_per_query: More than 1 for MultiStream.
        target_rate: Queries a second that Server was asked for; None for the others.
        figures: LoadGen's own summary: name with unit to value.
        settings: Where the run leaves MLPerf's rules (shorter, other sample sizes), as sentences.
    """

    subject: str
    device: str
    scenario: Literal["SingleStream", "MultiStream", "Server", "Offline"]
    valid: bool
    early_stopping_met: bool | None
    samples_per_query: int
    target_rate: float | None
    figures: dict[str, float]
    settings: tuple[str, ...]
