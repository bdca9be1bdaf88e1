"""Cold starts of several images, taking turns: with their files in memory, and without."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import docker
from docker.errors import ImageNotFound

from tfslim.bench.coldcontainer import Spec, no_image, warm_engine
from tfslim.bench.coldfind import Find, Found, find_out
from tfslim.bench.coldjournal import Journal
from tfslim.bench.coldlaunch import Timeline, launch_cold
from tfslim.bench.pagecache import PageCache, choose, largest_files, resident_share
from tfslim.bench.results import ColdLaunch, ColdStarts
from tfslim.bench.turns import rotated
from tfslim.config import BenchConfig
from tfslim.errors import TfslimError
from tfslim.ui import Ui, human_bytes

__all__ = ["State", "Subject", "Wish", "cold_starts", "forget", "model_name_of", "states"]

_JOURNAL = "launches.jsonl"
_STILL_IN_MEMORY = 0.05  # share of the largest files from which "cold" has to be qualified
_READ_WHILE_WARM = 32 * 10**6  # bytes from which "warm" has to be qualified


@dataclass(frozen=True)
class Subject:
    """An image to be started.

    Attributes:
        name: As results show it.
        image: Its reference.
        model: Folder to mount as /model; None where the model is in the image.
        model_name: Name in /v1/models/NAME; None where it is not known.
    """

    name: str
    image: str
    model: Path | None = None
    model_name: str | None = None


@dataclass(frozen=True)
class Wish:
    """What a user asked for.

    Attributes:
        launches: Starts of each image in each state.
        cold_cache: How files are put out of memory; see `pagecache.choose`.
        find: What was said about images that are not ours.
    """

    launches: int
    cold_cache: Literal["auto", "drop", "evict", "off"] = "auto"
    find: Find = field(default_factory=Find)


@dataclass(frozen=True)
class State:
    """What an image finds on the machine when it is started."""

    page_cache: Literal["cold", "warm"]
    jit_cache: Literal["cold", "warm", "none"]


@dataclass(frozen=True)
class _Runner:
    """What every launch of a run needs.

    Attributes:
        probed: The largest files of each image, in which is looked for what stayed in memory.
        notes: What a reader has to know.
        rest: The most that was found there before a cold launch, as a share.
    """

    client: docker.DockerClient
    settings: BenchConfig
    gpu: bool
    cache: PageCache
    jit: Path
    found: dict[str, Found]
    probed: dict[str, tuple[Path, ...]]
    notes: list[str]
    rest: dict[str, float]
    journal: Journal


def states(*, cold: bool, gpu: bool) -> tuple[State, ...]:
    """Return the states that each image is started in, in their order within a turn.

    A warm start follows another start of the same image, so that its files really are in memory.
    Compiled PTX is of interest on a GPU alone: there a fresh node (all cold), a new container on a
    node that knows the image (files warm), and a restart (all warm) are three things.
    """
    jit: Literal["cold", "none"] = "cold" if gpu else "none"
    found = [State("cold", jit)] if cold else []
    found.append(State("warm", jit))
    if gpu:
        found.append(State("warm", "warm"))
    return tuple(found)


def model_name_of(client: docker.DockerClient, image: str) -> str | None:
    """Return the MODEL_NAME that an image sets; None where it sets none.

    Raises:
        InputError: There is no such image.
    """
    try:
        config = client.images.get(image).attrs.get("Config") or {}
    except ImageNotFound as error:
        raise no_image(image) from error
    named = [entry.partition("=")[2] for entry in config.get("Env") or [] if "MODEL_NAME=" in entry]
    return next((name for name in named if name), None)


def cold_starts(
    client: docker.DockerClient,
    subjects: Sequence[Subject],
    settings: BenchConfig,
    wish: Wish,
    *,
    gpu: bool,
    folder: Path,
    ui: Ui,
) -> ColdStarts:
    """Start each image again and again, in turn, and measure each start.

    Args:
        client: Of the engine that has the images.
        subjects: The images; the first is the one that others are compared with.
        settings: How long a service may take.
        wish: How often, and how.
        gpu: Ask the engine for GPUs.
        folder: Where finished launches are kept, for a run that goes on; see `forget`.
        ui: Shows progress.

    Raises:
        TfslimError: An image does not serve, or the engine refused; what was measured is kept.
    """
    with _scratch() as jit:
        path = folder / _JOURNAL
        journal = Journal.open(path, _identity(client, subjects, wish, gpu=gpu))
        if journal.done:
            ui.note(
                f"going on with an interrupted run: {len(journal.done)} launches are there "
                f"(delete {path} to begin anew)"
            )
        runner = _prepare(client, subjects, settings, wish, journal, gpu=gpu, jit=jit, ui=ui)
        _run(runner, subjects, wish.launches, ui)
    gpus = next((found.gpus for found in runner.found.values() if found.gpus), ())
    return ColdStarts(
        device=", ".join(gpus) or "CPU",
        cold_cache=runner.cache.text,
        launches=tuple(journal.done),
        notes=tuple(dict.fromkeys([*runner.notes, *_rest(runner), *_doubts(journal.done)])),
    )


def forget(folder: Path) -> None:
    """Delete what an interrupted run would go on with: the run is complete, its results kept."""
    (folder / _JOURNAL).unlink(missing_ok=True)


def _prepare(
    client: docker.DockerClient,
    subjects: Sequence[Subject],
    settings: BenchConfig,
    wish: Wish,
    journal: Journal,
    *,
    gpu: bool,
    jit: Path,
    ui: Ui,
) -> _Runner:
    """Start each image once without counting it, and find out how it is measured."""
    found: dict[str, Found] = {}
    with ui.step("first starts, not counted", total=len(subjects)) as step:
        for subject in subjects:
            step.update(subject.name)
            spec = _spec(subject, settings, gpu=gpu, jit=_jit(jit, subject) if gpu else None)
            found[subject.name] = find_out(client, spec, wish.find)
            step.advance(1)
    shared = [one.folders for one in found.values()]
    folders = tuple(folder for one in shared for folder in one) if all(shared) else ()
    cache = choose(wish.cold_cache, folders)
    ui.note(f"cold page cache: {cache.text}")
    notes = [note for one in found.values() for note in one.notes]
    for note in notes:
        ui.note(note)
    probed = {name: largest_files(one.folders) for name, one in found.items()}
    return _Runner(client, settings, gpu, cache, jit, found, probed, notes, {}, journal)


def _run(runner: _Runner, subjects: Sequence[Subject], launches: int, ui: Ui) -> None:
    """Make every launch that is not made yet; each is kept as soon as it is made."""
    journal = runner.journal
    turn = states(cold=runner.cache.way != "off", gpu=runner.gpu)
    done = {(one.subject, one.round, one.page_cache, one.jit_cache) for one in journal.done}
    planned = [
        (number, subject, state)
        for number in range(launches)
        for subject in rotated(subjects, number)
        for state in turn
        if (subject.name, number, state.page_cache, state.jit_cache) not in done
    ]
    names = ", ".join(subject.name for subject in subjects)
    with ui.step(f"cold starts of {names}", total=len(planned)) as step:
        for number, subject, state in planned:
            step.update(f"{subject.name}, {state.page_cache}, launch {number + 1} of {launches}")
            with _kept(journal):
                journal.add(_launch(runner, subject, state, number))
            step.advance(1)


@contextmanager
def _kept(journal: Journal) -> Iterator[None]:
    """Add to an error where the launches before it are."""
    try:
        yield
    except TfslimError as error:
        kept = f"{len(journal.done)} launches before it are kept in {journal.path}"
        error.way_out = f"{error.way_out}\n{kept}; the same command goes on with them.".strip()
        raise


def _launch(runner: _Runner, subject: Subject, state: State, number: int) -> ColdLaunch:
    """Bring the machine into a state, start the image, and measure."""
    found = runner.found[subject.name]
    with _jit_folder(runner, subject, state) as jit:
        if state.page_cache == "cold":
            runner.cache.empty(found.folders)
            if runner.cache.way == "drop":
                warm_engine(runner.client, subject.image)
            _note_rest(runner, subject)
        spec = _spec(subject, runner.settings, gpu=runner.gpu, jit=jit)
        timeline = launch_cold(runner.client, spec, found.ask)
    if not timeline.same_clock:
        runner.notes.append(
            f"{subject.name}: the container's clock is another machine's; its marks are placed by "
            "the moment at which its ready line arrived"
        )
    return _result(subject, state, number, timeline)


def _result(subject: Subject, state: State, number: int, timeline: Timeline) -> ColdLaunch:
    return ColdLaunch(
        subject=subject.name,
        round=number,
        page_cache=state.page_cache,
        jit_cache=state.jit_cache,
        phases_s={name: round(value, 6) for name, value in timeline.phases_s.items()},
        first_answer_s=round(timeline.first_answer_s, 6),
        ready_s=round(timeline.ready_s, 6),
        memory_bytes=timeline.usage.memory_bytes,
        rss_bytes=timeline.usage.rss_bytes,
        read_bytes=timeline.usage.read_bytes,
    )


def _note_rest(runner: _Runner, subject: Subject) -> None:
    """Look how much of what was put out of memory is still in it."""
    share = resident_share(runner.probed[subject.name])
    if share is None:
        runner.notes.append(f"{subject.name}: not checked that its files were out of memory")
    else:
        runner.rest[subject.name] = max(share, runner.rest.get(subject.name, 0.0))


def _rest(runner: _Runner) -> list[str]:
    """Return what a reader has to know about cold launches that were not quite cold."""
    return [
        f"{name}: {share:.0%} of its largest files were still in memory before a cold launch: "
        "another process has them open"
        for name, share in runner.rest.items()
        if share > _STILL_IN_MEMORY
    ]


def _doubts(launches: Sequence[ColdLaunch]) -> list[str]:
    """Return what a reader has to know about warm launches that were not quite warm."""
    notes = []
    for name in dict.fromkeys(one.subject for one in launches):
        read = [
            one.read_bytes
            for one in launches
            if one.subject == name and one.page_cache == "warm" and one.read_bytes is not None
        ]
        if read and statistics.median(read) > _READ_WHILE_WARM:
            notes.append(
                f"{name}: warm launches still read {human_bytes(statistics.median(read))} from "
                "storage: memory is too small to keep its files"
            )
    return notes


def _spec(subject: Subject, settings: BenchConfig, *, gpu: bool, jit: Path | None) -> Spec:
    return Spec(
        image=subject.image,
        model=subject.model,
        model_name=subject.model_name,
        gpu=gpu,
        jit=jit,
        ready_timeout=settings.ready_timeout,
    )


def _identity(
    client: docker.DockerClient, subjects: Sequence[Subject], wish: Wish, *, gpu: bool
) -> dict[str, object]:
    """Return what makes two runs the same, so that one may go on with the other's launches."""
    images = {one.name: str(client.images.get(one.image).id) for one in subjects}
    return {"images": images, "cold_cache": wish.cold_cache, "find": str(wish.find), "gpu": gpu}


@contextmanager
def _scratch() -> Iterator[Path]:
    """Yield a folder that containers of any user may write to."""
    with tempfile.TemporaryDirectory(prefix="tfslim-cold-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def _jit(jit: Path, subject: Subject) -> Path:
    """Return the folder that keeps a subject's compiled PTX from launch to launch."""
    # A name may hold what a path in a mount may not, such as a colon.
    folder = jit / f"{zlib.crc32(subject.name.encode()):08x}"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o1777)  # images run as different users
    return folder


@contextmanager
def _jit_folder(runner: _Runner, subject: Subject, state: State) -> Iterator[Path | None]:
    """Yield the folder for compiled PTX that a state asks for."""
    if state.jit_cache == "none":
        yield None
    elif state.jit_cache == "warm":
        yield _jit(runner.jit, subject)
    else:
        fresh = Path(tempfile.mkdtemp(dir=runner.jit))
        fresh.chmod(0o1777)
        try:
            yield fresh
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
