"""`tfslim bench --cold-start`: its options, what it measures, and its files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import docker

from tfslim.bench import coldtext
from tfslim.bench.coldfind import Find
from tfslim.bench.coldstart import Subject, Wish, cold_starts, forget, model_name_of
from tfslim.bench.device import choose_device
from tfslim.bench.registry import find_tools, measure_pull
from tfslim.bench.results import ColdStarts, Pull
from tfslim.cli_options import gathered
from tfslim.cli_report import keep_cold_starts
from tfslim.config import Config
from tfslim.errors import ConfigError, TfslimError
from tfslim.files import write_whole
from tfslim.pipeline import Line
from tfslim.plan import Build, make_plan
from tfslim.report.machine import environment
from tfslim.ui import Ui

__all__ = ["ColdOptions", "options", "perform"]

_LAUNCHES = 7


@dataclass(frozen=True)
class ColdOptions:
    """What the options of `--cold-start` say; None where one was not given."""

    pulls: int | None = None
    cold_cache: Literal["auto", "drop", "evict", "off"] | None = None
    port: int | None = None
    path: str | None = None
    ready_text: str | None = None


_OPTIONS = (
    click.option(
        "--cold-start",
        is_flag=True,
        help="Measure nothing but the way from a registry to the first answer, phase by phase. "
        "Images of the engine may be named, too (anything with a '/' or ':'), and be given a name: "
        "NAME=IMAGE.",
    ),
    click.option(
        "--pulls",
        type=click.IntRange(0, 100),
        help="With --cold-start: pulls of each image from a registry on loopback; 1 if not given.",
    ),
    click.option(
        "--cold-cache",
        type=click.Choice(["auto", "drop", "evict", "off"]),
        help="With --cold-start: how files are put out of memory. drop: the machine's whole page "
        "cache; evict: the image's files; auto: the first that is permitted; off: warm only.",
    ),
    click.option(
        "--port",
        type=click.IntRange(1, 65535),
        help="With --cold-start: port of an image of your own; what it exposes if not given.",
    ),
    click.option(
        "--path", help="With --cold-start: asked by GET where an image has no /predict of ours."
    ),
    click.option(
        "--ready-text",
        metavar="TEXT",
        help="With --cold-start: an image answers once it prints a line with TEXT.",
    ),
)


def _asked(
    *,
    cold_start: bool,
    pulls: int | None,
    cold_cache: Literal["auto", "drop", "evict", "off"] | None,
    port: int | None,
    path: str | None,
    ready_text: str | None,
) -> ColdOptions | None:
    """Return what the options say; None without --cold-start.

    Raises:
        ConfigError: Others of them are there without it.
    """
    asked = ColdOptions(pulls, cold_cache, port, path, ready_text)
    given = [name for name, value in vars(asked).items() if value is not None]
    if given and not cold_start:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(
            f"{named} says something about cold starts alone",
            way_out="Add --cold-start, or leave it out.",
        )
    return asked if cold_start else None


options = gathered("cold", _asked, _OPTIONS)
"""Give the verb `bench` these options; it gets them as `cold`, None without --cold-start."""


def perform(
    config: Config,
    names: Sequence[str],
    options: ColdOptions,
    *,
    launches: int | None,
    folder: Path,
    setup_engine: bool,
    ui: Ui,
) -> ColdStarts:
    """Build what is named and not there, start it again and again, and write the results.

    Args:
        config: The checked configuration, with the command line's values over it.
        names: Variants and references of images, in the order of the results; the first is what
            the others are compared with. NAME=REFERENCE gives an image a name of its own. Without
            any, the configuration's variants.
        options: What the options of `--cold-start` say.
        launches: Starts of each image in each state; 7 if not given.
        folder: Gets coldstart.json and coldstart.md, and launches.jsonl until the run is complete;
            the results go into its report.json, too, with what is there from the same machine.
        setup_engine: Set up the embedded engine where the machine has none.
        ui: Shows progress.

    Raises:
        TfslimError: See the rooms this passes through; finished launches are kept in `folder`.
    """
    variants = [name for name in names if not _is_reference(name)]
    builds = {build.variant: build for build in _plan(config, names, variants)}
    line = Line(config, list(builds.values()), ui, setup_engine=setup_engine)
    device = choose_device(config.bench.gpu, line.engine)
    ui.note(f"GPU: {device.text}")
    if builds:
        line.build()
    with _client(line) as client:
        chosen = list(dict.fromkeys(names or builds))
        subjects = [_subject(name, builds, line, config, client) for name in chosen]
        wish = Wish(
            launches=launches or _LAUNCHES,
            cold_cache=options.cold_cache or "auto",
            find=Find(options.port, options.path or "/", options.ready_text),
        )
        result = cold_starts(
            client, subjects, config.bench, wish, gpu=device.gpu, folder=folder, ui=ui
        )
        _write(result, folder)  # pulls take long, and may be interrupted
        count = 1 if options.pulls is None else options.pulls
        result = _with_pulls(result, client, subjects, count, ui)
    _write(result, folder)
    record = keep_cold_starts(result, environment(line.engine, device.text), folder)
    ui.note(f"in the run record, too: {record}")
    forget(folder)
    return result


def _is_reference(name: str) -> bool:
    return "/" in name or ":" in name


def _plan(config: Config, names: Sequence[str], variants: Sequence[str]) -> list[Build]:
    """Return what is to be built: nothing where only images are named."""
    return make_plan(config, variants) if variants or not names else []


@contextmanager
def _client(line: Line) -> Iterator[docker.DockerClient]:
    client = line.engine.client()
    try:
        yield client
    finally:
        client.close()


def _subject(
    name: str,
    builds: dict[Any, Build],
    line: Line,
    config: Config,
    client: docker.DockerClient,
) -> Subject:
    """Return a variant's or a reference's image as a subject."""
    build = builds.get(name)
    if build is None:
        shown, _, reference = name.rpartition("=")
        return Subject(shown or reference, reference, model_name=model_name_of(client, reference))
    mounted = line.model.path if config.model.mode == "mount" else None
    return Subject(name, build.tag, mounted, build.variables["MODEL_NAME"])


def _with_pulls(
    result: ColdStarts,
    client: docker.DockerClient,
    subjects: Sequence[Subject],
    count: int,
    ui: Ui,
) -> ColdStarts:
    """Add pulls; one that cannot be measured becomes a note, and the launches stay."""
    pulls: list[Pull] = []
    notes: list[str] = []
    if count == 0:
        return result
    try:
        tools = find_tools(ui)
    except TfslimError as error:
        notes = [f"pull and unpack are not measured: {_line_of(error)}"]
        return result.model_copy(update={"notes": (*result.notes, *notes)})
    with ui.step("pulls", total=count * len(subjects)) as step:
        for turn in range(count):
            for one in subjects:
                try:
                    pull = measure_pull(
                        tools, client, one.image, subject=one.name, turn=turn, step=step
                    )
                    pulls.append(pull)
                except TfslimError as error:
                    notes.append(f"{one.name}: pull and unpack not measured: {_line_of(error)}")
                    ui.warn(notes[-1])
                step.advance(1)
    return result.model_copy(
        update={"pulls": tuple(pulls), "notes": (*result.notes, *dict.fromkeys(notes))}
    )


def _line_of(error: TfslimError) -> str:
    return " ".join(f"{error.what} {error.why}".split())[:300]


def _write(result: ColdStarts, folder: Path) -> None:
    """Write the results, each file whole."""
    write_whole(folder / "coldstart.json", result.model_dump_json(indent=1))
    write_whole(folder / "coldstart.md", coldtext.markdown(result))
