"""`tfslim bench`: its options, and what is measured without a plan: images, archives, folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, cast

import click
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tfslim.bench.loadgen import SCENARIOS, Scenario, check_loadgen
from tfslim.bench.results import HttpRun, InProcessRun, LoadgenRun
from tfslim.bench.scenarios import measure_scenarios
from tfslim.bench.sources import is_source, open_subjects
from tfslim.bench.throughput import (
    Compared,
    compare_runs,
    doubts,
    measure_calls,
    measure_services,
)
from tfslim.cli_options import gathered
from tfslim.config import Config
from tfslim.engine.engine import Engine, find_engine
from tfslim.errors import ConfigError
from tfslim.files import write_whole
from tfslim.models import resolve_model
from tfslim.pipeline import Line, Only
from tfslim.report.record import RunRecord, environment, now
from tfslim.ui import Ui

__all__ = [
    "Wish",
    "keep_verdicts",
    "measure_sources",
    "measure_variants",
    "options",
    "verdicts",
    "wants_sources",
]

_CONFIGURED = ("gpu", "launches", "seconds", "runtime", "concurrency", "rate", "batch_sizes")


@dataclass(frozen=True)
class Wish:
    """What the options say; None where one was not given and the configuration decides."""

    gpu: Literal["auto", "required", "off"] | None = None
    launches: int | None = None
    seconds: float | None = None
    runtime: Literal["auto", "docker", "rootfs"] | None = None
    concurrency: tuple[int, ...] | None = None
    rate: float | Literal["auto", "off"] | None = None
    batch_sizes: tuple[int, ...] | None = None
    only: Literal["full", "sizes", "cold-start", "throughput", "calls", "http"] = "full"
    loadgen: bool = False
    model: str | None = None

    @property
    def scenarios(self) -> tuple[Scenario, ...]:
        """The scenarios for LoadGen; none without --loadgen."""
        return SCENARIOS if self.loadgen else ()

    def over(self, config: Config) -> Config:
        """Return the configuration with these values put over its own."""
        given = {name: getattr(self, name) for name in _CONFIGURED}
        update = {name: value for name, value in given.items() if value is not None}
        return config.model_copy(update={"bench": config.bench.model_copy(update=update)})


def _numbers(text: str) -> tuple[int, ...]:
    """Read numbers with commas between them."""
    try:
        numbers = tuple(int(part) for part in str(text).split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise click.BadParameter(f"{text!r} is not a list such as 1,4,16")
    return numbers


def _rate(text: str) -> float | str:
    """Read a number above zero, "auto" or "off"."""
    if text in ("auto", "off"):
        return text
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise click.BadParameter(f"{text!r} is not a rate such as 50, and neither auto nor off")
    return rate


_OPTIONS = (
    click.option(
        "--only",
        type=click.Choice(["full", "sizes", "cold-start", "throughput", "calls", "http"]),
        default="full",
        show_default=True,
        help="sizes: build and inspect; cold-start: as --cold-start; throughput: calls in a "
        "process and load over HTTP; calls or http: one of them, for images and folders named.",
    ),
    click.option(
        "--gpu", type=click.Choice(["auto", "required", "off"]), help="Overrides bench.gpu."
    ),
    click.option("--launches", type=click.IntRange(1, 100), help="Overrides bench.launches."),
    click.option("--seconds", type=click.FloatRange(0.1, 600), help="Overrides bench.seconds."),
    click.option(
        "--concurrency", type=_numbers, metavar="1,4", help="Overrides bench.concurrency."
    ),
    click.option("--rate", type=_rate, metavar="NUMBER", help="Overrides bench.rate."),
    click.option(
        "--batch", "batch_sizes", type=_numbers, metavar="1,32", help="Overrides batch-sizes."
    ),
    click.option(
        "--runtime",
        type=click.Choice(["auto", "docker", "rootfs"]),
        help="Overrides bench.runtime: rootfs runs archives and unpacked images without an engine.",
    ),
    click.option(
        "--loadgen", is_flag=True, help="Also MLPerf's four scenarios, by its own load generator."
    ),
    click.option(
        "--model",
        metavar="FOLDER",
        help="SavedModel for images and folders that are named; by default the one in them.",
    ),
)


options = gathered("wish", Wish, _OPTIONS)
"""Give the verb `bench` these options; it gets them as `wish`."""


def wants_sources(names: Sequence[str], wish: Wish) -> bool:
    """Return whether images and folders are named, and not variants.

    Raises:
        ConfigError: Both are, or an option fits only the other.
    """
    sources = [name for name in names if is_source(name)]
    if sources and len(sources) < len(names):
        other = next(name for name in names if not is_source(name))
        raise ConfigError(
            f"{other} is a variant, and {sources[0]} an image or a folder",
            way_out="Name variants, which are built, or images and folders, which are there: a "
            "path has a '/' in it, a reference a '/' or ':'.",
        )
    if not sources:
        _refuse_for_variants(wish)
    elif wish.only in ("sizes", "cold-start"):
        raise ConfigError(
            f"--only {wish.only} builds variants, and {sources[0]} is none",
            way_out=f"`tfslim inspect {sources[0]}`, or `tfslim bench --cold-start {sources[0]}`.",
        )
    return bool(sources)


def measure_sources(
    names: Sequence[str], config: Config, wish: Wish, *, setup_engine: bool, ui: Ui
) -> RunRecord:
    """Measure images, archives and folders side by side; return the record of it.

    Raises:
        TfslimError: See the rooms this passes through.
    """
    started = now()
    if wish.loadgen:
        check_loadgen()
    model = resolve_model(wish.model, Path(".tfslim/models"), ui).path if wish.model else None

    @cache
    def engine() -> Engine:
        return find_engine(ui, setup=setup_engine, make_builder=False)  # nothing is built

    settings = config.bench
    with open_subjects(names, settings, model=model, engine=engine, ui=ui) as opened:
        subjects, gpu = opened.subjects, opened.device.gpu
        calls: list[InProcessRun] = []
        runs: list[HttpRun] = []
        if wish.only != "http":
            calls = measure_calls(subjects, settings, group=0, gpu=gpu, ui=ui)
        if wish.only != "calls":
            runs = measure_services(subjects, settings, group=0, gpu=gpu, ui=ui)[1]
        scenarios = measure_scenarios(subjects, wish.scenarios, seconds=settings.seconds, ui=ui)
        used = engine() if engine.cache_info().currsize else None
        return RunRecord(
            started=started,
            environment=environment(used, opened.device.text),
            in_process=calls,
            http=runs,
            loadgen=scenarios,
            notes=doubts(calls, runs),
        )


def measure_variants(line: Line, wish: Wish, folder: Path) -> RunRecord:
    """Build and measure the variants of a plan; `folder` keeps what an interrupted run measured.

    Raises:
        TfslimError: See the rooms this passes through.
    """
    if wish.loadgen:
        check_loadgen()
    only: Only = "full"
    if wish.only in ("sizes", "throughput"):
        only = cast("Only", wish.only)
    return line.bench(only, folder=folder, scenarios=wish.scenarios)


def verdicts(record: RunRecord, margin: float) -> RenderableType:
    """Return how each subject does against the first one, as a table for a terminal."""
    compared = compare_runs(record.in_process, record.http, margin)
    parts: list[RenderableType] = []
    if compared:
        parts = [_verdict_table(compared), Text(_legend(margin), style="dim")]
        parts += [Text(note, style="dim") for note in _notes(compared)]
    parts += [_scenario_text(run) for run in record.loadgen]
    return Group(*parts)


def keep_verdicts(record: RunRecord, margin: float, folder: Path) -> Path:
    """Write the same as data, beside the record: `side-by-side.json`."""
    compared = compare_runs(record.in_process, record.http, margin)
    data = [item.model_dump(mode="json") for item in compared]
    return write_whole(folder / "side-by-side.json", json.dumps(data, indent=1) + "\n")


def _refuse_for_variants(wish: Wish) -> None:
    if wish.only in ("calls", "http"):
        raise ConfigError(
            f"--only {wish.only} is for images and folders that are there",
            way_out="Name some, or take --only throughput.",
        )
    if wish.runtime == "rootfs":
        raise ConfigError(
            "--runtime rootfs needs archives or unpacked images, and variants are built",
            way_out="tfslim bench --runtime rootfs image.tar ./folder",
        )
    if wish.model:
        raise ConfigError(
            "--model is for images and folders that are there",
            way_out="Variants serve the configuration's model: set model.source.",
        )


def _verdict_table(compared: Sequence[Compared]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("against the first", "measure", "ratio [95 %]", "verdict", "launches"):
        table.add_column(title)
    for item in compared:
        ratio, launches = item.comparison.ratio, item.comparison.launches
        shown = f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]" if ratio else "–"
        cells = [item.subject, item.measure, shown, item.comparison.verdict]
        table.add_row(*map(Text, cells), f"{launches[0]} : {launches[1]}")
    return table


def _legend(margin: float) -> str:
    return (
        f"same: the whole interval lies within ±{margin:.0%}; faster, slower: it leaves 1 out and "
        f"the ratio is beyond ±{margin:.0%}; else inconclusive."
    )


def _notes(compared: Sequence[Compared]) -> list[str]:
    lines = [
        f"{item.subject}, {item.measure}: {note}"
        for item in compared
        for note in item.comparison.notes
    ]
    return list(dict.fromkeys(lines))


def _scenario_text(run: LoadgenRun) -> Text:
    state = "valid" if run.valid else "not valid"
    figures = ", ".join(f"{name} {value:g}" for name, value in list(run.figures.items())[:3])
    left = "; ".join(run.settings)
    return Text(f"MLPerf {run.scenario}, {run.subject}: {state}; {figures} ({left})")
