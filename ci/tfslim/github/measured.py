"""From inputs to a record: what is built or fetched, slimmed, and measured in one job."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from docker import DockerClient
from docker.errors import APIError

from tfslim import cli_bench, cli_coldstart, cli_slim, cli_verify
from tfslim.bench.device import choose_device
from tfslim.build.builder import find_building_engine
from tfslim.build.own import OwnBuild, bake_target, build_own
from tfslim.build.push import Proof, PushedImage, push_image
from tfslim.config import Config
from tfslim.engine.engine import Engine
from tfslim.errors import ConfigError, EngineError, NetworkError, TfslimError
from tfslim.github.inputs import Inputs
from tfslim.images.described import GateResult
from tfslim.images.gpu_use import gpu_use
from tfslim.images.inspect import inspect_source, source_kind
from tfslim.parity import gate
from tfslim.parity.verdict import Verdict
from tfslim.pipeline import Line, Only
from tfslim.plan import make_plan
from tfslim.report.measures import YARDSTICK
from tfslim.report.record import RunRecord, environment, now
from tfslim.ui import Ui

__all__ = ["SLIM", "Made", "Wanted", "clean_name", "measure", "name_of"]

SLIM: Final = "slim"
"""What the slimmed image is called in a record; the one it was made from is the yardstick."""

_ONLY_SIZES: Final = "not measured: only sizes were asked for"


@dataclass(frozen=True)
class Wanted:
    """What a job is asked to measure.

    Attributes:
        inputs: The action's inputs.
        config: The configuration, with the inputs over it.
        name: What an own image is called in tables.
        version: Tag of what is built here.
        folder: For what is measured, until the record is written.
    """

    inputs: Inputs
    config: Config
    name: str
    version: str
    folder: Path


@dataclass(frozen=True)
class Made:
    """What came of it.

    Attributes:
        record: Everything measured.
        subject: The image that a workflow's outputs speak of, by its name in the record.
        image: Its reference, or path.
        digest: Of its manifest; empty where nobody knows it.
        push: Sends what was made to `push`, and returns what arrived; what of it the outputs speak
            of is the last.
    """

    record: RunRecord
    subject: str
    image: str
    digest: str
    push: Callable[[], Sequence[PushedImage]] = tuple


def measure(wanted: Wanted, ui: Ui) -> Made:
    """Build or fetch, slim and measure.

    Raises:
        TfslimError: See the rooms this passes through.
    """
    return _OwnImage(wanted, ui).measure() if wanted.inputs.own_image else _variants(wanted, ui)


def name_of(inputs: Inputs, repository: str) -> str:
    """Return what an own image is called, the same in every run.

    Args:
        inputs: What names it.
        repository: OWNER/NAME that the workflow runs in.
    """
    if inputs.image:
        return clean_name(inputs.image)
    return clean_name(inputs.target or repository.rpartition("/")[2])


def clean_name(reference: str) -> str:
    """Return a short name for an image: no registry, no tag, no digest."""
    name = reference.partition("@")[0].rstrip("/").rpartition("/")[2]
    if not Path(reference).exists():
        name = name.partition(":")[0]
    name = re.sub(r"(\.tar)?(\.(gz|zst|tar))?$", "", name)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:40]
    return name if name and name not in (YARDSTICK, SLIM) else "image"


def _logs() -> Path:
    """Return a folder for builds' logs, outside of the checkout where there is one for the job."""
    return Path(os.environ.get("RUNNER_TEMP") or ".tfslim", "logs")


def _as_root() -> bool:
    """Whether an engine may be set up where there is none: that takes root."""
    return os.geteuid() == 0


def _variants(wanted: Wanted, ui: Ui) -> Made:
    """Build and measure our variants, with the user's app and model."""
    config, bench = wanted.config, wanted.inputs.bench
    builds = make_plan(config)
    line = Line(config, builds, ui, setup_engine=_as_root())
    if wanted.inputs.push:
        line.check_push()
    only: Only = "sizes" if bench == "cold-start" else bench
    record = line.bench(only, folder=wanted.folder)
    if bench == "cold-start":
        names = [build.variant for build in builds]
        record = record.model_copy(update=_cold(wanted, names, lambda: line.engine, ui))
    shown = builds[-1]
    digest = next((one.digest for one in record.images if one.build.tag == shown.tag), "")
    return Made(record, shown.variant, shown.tag, digest, lambda: line.push(record.images))


def _cold(
    wanted: Wanted, names: Sequence[str], engine: Callable[[], Engine], ui: Ui
) -> dict[str, Any]:
    """Measure cold starts, and return what changes in the record."""
    starts = cli_coldstart.perform(
        wanted.config,
        names,
        cli_coldstart.ColdOptions(pulls=0),
        launches=wanted.config.bench.cold_launches or None,
        folder=wanted.folder,
        setup_engine=_as_root(),
        ui=ui,
    )
    device = choose_device(wanted.config.bench.gpu, engine())
    return {"cold_starts": starts, "environment": environment(engine(), device.text)}


class _OwnImage:
    """An image of the user's: built from a Dockerfile, or there already.

    Args:
        wanted: What is asked for.
        ui: Shows progress.
    """

    def __init__(self, wanted: Wanted, ui: Ui) -> None:
        self._wanted = wanted
        self._ui = ui
        self._engine = cache(self._found)
        self._target: dict[str, Any] | None = None  # what the image was built from
        self._proof: Proof | None = "not slimmed"

    def measure(self) -> Made:
        """Return what was measured of it, and of what slimming made of it."""
        started = now()
        source, digest = self._source()
        images = {self._wanted.name: source}
        parity: dict[str, list[GateResult]] = {}
        if self._wanted.inputs.slims:
            slim, digest, gates = self._slim(source)
            images = {YARDSTICK: source, SLIM: slim}
            parity = {SLIM: gates}
        sizes = {
            name: inspect_source(image, client=self._client, gpu=gpu_use, ui=self._ui)
            for name, image in images.items()
        }
        subject = list(images)[-1]
        facts = sizes[subject].image
        used = self._engine() if self._engine.cache_info().currsize else None
        record = RunRecord(
            started=started,
            environment=environment(used, _ONLY_SIZES),
            sizes=sizes,
            budgets={k: v for k, v in self._wanted.config.budgets.items() if k == "default"},
        )
        record = record.model_copy(update=self._timed(images)).described()
        # What an image says of itself was said before it was slimmed here.
        record = record.model_copy(update={"parity": {**record.parity, **parity}})
        digest = (facts.manifest_digest if facts else None) or digest
        return Made(record, subject, images[subject], digest, lambda: [self._push(images[subject])])

    def _found(self) -> Engine:
        return find_building_engine(self._ui, self._wanted.config.builder, setup=_as_root())

    def _push(self, image: str) -> PushedImage:
        slims = self._wanted.inputs.slims
        return push_image(
            self._engine(),
            image,
            config=self._wanted.config,
            proof=self._proof,
            archs=self._wanted.config.cuda_archs if slims and self._archs_matter else (),
            target=None if slims else self._target,
            logs=_logs(),
            ui=self._ui,
        )

    @property
    def _archs_matter(self) -> bool:
        return self._wanted.inputs.profile != "safe"

    def _client(self) -> DockerClient:
        return self._engine().client()

    def _source(self) -> tuple[str, str]:
        """Return the image to measure, and its digest where a build told it."""
        inputs = self._wanted.inputs
        if inputs.dockerfile is not None:
            build = OwnBuild(
                name=f"own-{re.sub('[^A-Za-z0-9_-]+', '-', self._wanted.name)}",
                tag=f"tfslim-action/{self._wanted.name.lower()}:{self._wanted.version}",
                dockerfile=inputs.dockerfile,
                context=inputs.context,
                target=inputs.target,
                args=dict(_pair(line) for line in inputs.build_args),
            )
            self._target = bake_target(build, self._wanted.config)
            return build.tag, build_own(
                self._engine(), build, self._wanted.config, self._ui, logs=_logs()
            )
        image = str(inputs.image)
        if source_kind(image) == "engine":
            self._fetch(image)
        return image, ""

    def _fetch(self, image: str) -> None:
        """Pull an image that the engine does not have."""
        with contextlib.closing(self._client()) as client, contextlib.suppress(APIError):
            client.images.get(image)  # an error: it is not there, or its name is none
            return
        with self._ui.step(f"pull {image}") as step:
            pulled = self._engine().docker(["pull", image], on_line=step.update)
            if not pulled.ok:
                raise NetworkError(
                    f"image {image} is not on this runner, and cannot be pulled",
                    why=pulled.tail[-2000:],
                    way_out="Check its name. For a private registry put docker/login-action or "
                    "`docker login` before this step.",
                )

    def _slim(self, source: str) -> tuple[str, str, list[GateResult]]:
        """Slim it, compare its answers, and return the new image, its digest and the answers'."""
        inputs, config = self._wanted.inputs, self._wanted.config
        if source_kind(source) != "engine":
            raise ConfigError(
                f"slim: {source} is a file or a folder, and what is slimmed has to run",
                way_out=f"Load it in a step before this one (docker load -i {source}), and name "
                "the image.",
            )
        workload = inputs.profile == "workload"
        request = cli_slim.Request(
            source=source,
            cuda_arch=",".join(config.cuda_archs) if self._archs_matter else None,
            profile=inputs.profile,
            keep=config.keep,
            also=config.also if inputs.profile in ("inference", "workload") else (),
            models=(inputs.model,) if inputs.model and workload else (),
            trace_inputs=inputs.trace_input if workload else (),
            tag=f"{_without_tag(source)}:{self._wanted.version}-slim",
            gate=config.gate,
        )
        done = cli_slim.perform(request, self._client, self._ui)
        for line in cli_slim.summary(done):
            self._ui.note(line)
        error = done.error()
        if error is not None:
            raise error
        gates = [_gate_result("model" if workload else "zoo", done.gate)]
        if inputs.model and not workload and isinstance(done.gate, Verdict):
            gates.append(self._asked_with_model(request, inputs.model))
        if done.plan.files:
            self._proof = "gate" if all(one.outcome == "passed" for one in gates) else None
        return str(request.tag), (done.image.manifest_digest if done.image else ""), gates

    def _asked_with_model(self, request: cli_slim.Request, model: str) -> GateResult:
        """Compare the answers to the user's own model, too."""
        both = gate.Request(request.source, str(request.tag), (model,))
        verdict = gate.verify(both, self._client, self._ui)
        error = cli_verify.error_of(verdict)
        if error is not None:
            raise error
        return _gate_result("model", verdict)

    def _timed(self, images: Mapping[str, str]) -> dict[str, Any]:
        """Measure what takes time, as far as it was asked for."""
        bench = self._wanted.inputs.bench
        named = [f"{name}={image}" for name, image in images.items()]
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "throughput": lambda: self._throughput(named),
            "cold-start": lambda: _cold(self._wanted, named, self._engine, self._ui),
        }
        if bench == "sizes":
            return {}
        if bench != "full":
            return parts[bench]()
        found: dict[str, Any] = {}
        notes: list[str] = []
        for name, part in parts.items():
            try:
                found |= part()
            except TfslimError as error:  # the rest is still worth knowing
                if isinstance(error, EngineError) and self._wanted.inputs.gpu == "required":
                    raise  # there is no GPU to be had
                notes.append(" ".join(f"{name}: not measured: {error.what} {error.why}".split()))
                self._ui.warn(notes[-1])
        return {**found, "notes": [*found.get("notes", []), *notes]}

    def _throughput(self, named: Sequence[str]) -> dict[str, Any]:
        wish = cli_bench.Wish(only="throughput", model=self._wanted.inputs.model)
        record = cli_bench.measure_sources(
            named, self._wanted.config, wish, setup_engine=_as_root(), ui=self._ui
        )
        names = ("environment", "in_process", "http", "notes")
        return {name: getattr(record, name) for name in names}


def _gate_result(name: str, found: Verdict | str) -> GateResult:
    """Return what the parity gate said, as a record keeps it."""
    if isinstance(found, str):
        return GateResult(name=name, outcome="not asked", why=found[:1000])
    models = {model.name[:100]: model.outcome for model in found.models[:1000]}
    return GateResult(name=name, outcome=found.outcome, why=found.reason[:1000], models=models)


def _pair(line: str) -> tuple[str, str]:
    name, _, value = line.partition("=")
    return name, value


def _without_tag(reference: str) -> str:
    """Return a reference without tag and digest; a port's colon stays."""
    name = reference.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}"
