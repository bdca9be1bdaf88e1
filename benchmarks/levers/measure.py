"""What each start lever gains in the service's image: its starts with and without it, in turn.

Usage: python measure.py IMAGE [--against IMAGE] [--rounds 7] [--cold 5] [-o FOLDER]

A start counts from the process's first moment to the service's own `ready` (model loaded and
warm), by the marks that it logs. Levers are switched off by environment variables; what cannot be
(hidden symbols) is seen against another image. Then a plain `import tensorflow` is taken apart, as
`tfslim bench --explain-cold-start IMAGE` does. Writes levers.json (every start), explain.json and
levers.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import docker
from docker.models.containers import Container

from tfslim.bench.explain import Explanation
from tfslim.bench.pagecache import choose
from tfslim.bench.stats import Ratio, ratio_of_medians, summarize
from tfslim.cli_explain import ExplainOptions, perform
from tfslim.engine.engine import find_engine
from tfslim.ui import Ui

NOTHING: dict[str, str] = {}
NO_BYTECODE = {"PYTHONPYCACHEPREFIX": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
# What each row leaves out; "all levers" is the image as it is.
WITHOUT = {
    "all levers": NOTHING,
    "without the collector's rest": {"TFSLIM_GC": "off"},
    "without imports on first use": {"TFSLIM_LAZY": "off"},
    "without lean models": {"TFSLIM_LEAN": "off"},
    "without read-ahead": {"TFSLIM_PREFETCH": "off"},
    "without bytecode": NO_BYTECODE,
}
READY_SECONDS = 300.0


@dataclass(frozen=True)
class Start:
    """One start of one image.

    Attributes:
        way: What was left out, or the name of another image.
        cache: Whether the page cache was empty before.
        seconds: From the start of the process to `ready`.
        cpu_seconds: Processor time of the container up to then.
        stop_seconds: From the request to stop to the end of the container.
    """

    way: str
    cache: str
    seconds: float
    cpu_seconds: float
    stop_seconds: float


def main() -> None:
    """Measure, and write what was found."""
    options = arguments()
    ui = Ui()
    engine = find_engine(ui, setup=False)
    cache = choose("drop" if options.cold else "off", [Path("/")])
    with contextlib.closing(engine.client()) as client:
        starts = list(measured(client, options, warm=True, ui=ui))
        if cache.way == "drop":
            starts += measured(client, options, warm=False, ui=ui)
        else:
            ui.note(f"cold starts: {cache.text}")
    asked = ExplainOptions(options.image, cold=options.cold)
    told = perform(asked, engine.client, launches=options.rounds, ui=ui)
    text = markdown(starts, options) + "\n" + plain(told)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "explain.json").write_text(told.model_dump_json(indent=1) + "\n")
    document = {"machine": machine(), "image": options.image, "against": options.against}
    document["starts"] = [asdict(start) for start in starts]
    (options.output / "levers.json").write_text(json.dumps(document, indent=1) + "\n")
    (options.output / "levers.md").write_text(text)
    print(text)


def arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description="Starts with and without each lever.")
    parser.add_argument("image", help="an image with the service, such as tfslim/inference:…")
    parser.add_argument("--against", help="another one, such as tfslim/stock:…")
    parser.add_argument("--rounds", type=int, default=7, help="warm starts of each kind")
    parser.add_argument("--cold", type=int, default=5, help="cold starts of each kind")
    default = Path(__file__).parent / "results"
    parser.add_argument("-o", "--output", type=Path, default=default)
    return parser.parse_args()


def measured(
    client: docker.DockerClient, options: argparse.Namespace, *, warm: bool, ui: Ui
) -> Iterator[Start]:
    """Yield every start: all kinds in each round, beginning with another one each time."""
    kinds = [(way, options.image, env) for way, env in WITHOUT.items()]
    if options.against:
        kinds.append((options.against, options.against, NOTHING))
    rounds = options.rounds if warm else options.cold
    if warm:  # the first start of each fills the page cache
        for _, image, env in kinds:
            start(client, "", image, env, warm=True)
    with ui.step("warm starts" if warm else "cold starts", total=rounds * len(kinds)) as step:
        for turn in range(rounds):
            first = turn % len(kinds)
            for way, image, env in kinds[first:] + kinds[:first]:
                step.update(way)
                yield start(client, way, image, env, warm=warm)
                step.advance(1)


def start(
    client: docker.DockerClient, way: str, image: str, env: dict[str, str], *, warm: bool
) -> Start:
    """Start an image's service, wait until it is ready, stop it."""
    with created(client, image, env) as container:
        if not warm:
            choose("drop", [Path("/")]).empty([])
        container.start()
        ready = ready_line(container)
        marks = ready["marks"]
        stats: Any = container.stats(stream=False)
        asked = time.monotonic()
        container.stop(timeout=30)
        return Start(
            way=way,
            cache="warm" if warm else "cold",
            seconds=marks["warm"] - marks["process_start"],
            cpu_seconds=stats["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9,
            stop_seconds=time.monotonic() - asked,
        )


@contextmanager
def created(client: docker.DockerClient, image: str, env: dict[str, str]) -> Iterator[Container]:
    """Make a container, and remove it in any case."""
    container = client.containers.create(image, environment=env, network_mode="none")
    try:
        yield container
    finally:
        container.remove(force=True, v=True)


def ready_line(container: Container) -> dict[str, Any]:
    """Return the service's `ready` event once it is logged."""
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        for line in container.logs(stderr=False).decode(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if event.get("event") == "ready":
                    return dict(event)
        container.reload()
        if container.status == "exited":
            sys.exit(f"{container.image} ended: {container.logs().decode()[-2000:]}")
        time.sleep(0.1)
    sys.exit(f"{container.image} was not ready in {READY_SECONDS:.0f} s")


def markdown(starts: Sequence[Start], options: argparse.Namespace) -> str:
    """Return one table for each state of the page cache."""
    lines = [f"`{options.image}`, {machine()}. Median seconds from the process's start to ready;"]
    lines += ["× is the ratio to the row `all levers`, with its 95 % interval over starts.", ""]
    for cache in ("warm", "cold"):
        some = [one for one in starts if one.cache == cache]
        if not some:
            lines.append(f"Starts with a {cache} page cache: not measured.\n")
            continue
        lines += [f"| page cache {cache} | n | seconds | × | processor s | × | stop s |"]
        lines += ["|---|---|---|---|---|---|---|"]
        lines += [row(some, way) for way in dict.fromkeys(one.way for one in some)] + [""]
    return "\n".join(lines)


def plain(told: Explanation) -> str:
    """Return one table for a plain program without any service."""
    lines = [f"`{told.code}` alone, in the same image:", ""]
    lines += ["| lever | state | × seconds | × processor s | how |", "|---|---|---|---|---|"]
    for one in told.levers:
        gains = f"{shown(one.gain)} | {shown(one.gain_cpu)}"
        lines.append(f"| {one.name} | {one.state} | {gains} | {one.measured} |")
    return "\n".join(lines) + "\n"


def row(starts: Sequence[Start], way: str) -> str:
    """Return one row of a table."""
    mine = [one for one in starts if one.way == way]
    base = [one for one in starts if one.way == "all levers"]
    cells = [way, str(len(mine))]
    for key in ("seconds", "cpu_seconds"):
        values = [getattr(one, key) for one in mine]
        cells += [median(values), shown(ratio_of_medians(values, [getattr(b, key) for b in base]))]
    cells.append(median([one.stop_seconds for one in mine]))
    return f"| {' | '.join(cells)} |"


def median(values: Sequence[float]) -> str:
    """Return a median as text."""
    summary = summarize(values)
    return f"{summary.median:.2f}" if summary else "·"


def shown(ratio: Ratio | None) -> str:
    """Return a ratio with its interval."""
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]" if ratio else "·"


def machine() -> str:
    """Return what the machine is, without its name."""
    return f"{os.cpu_count()} processors, Linux {platform.release().split('-')[0]}"


if __name__ == "__main__":
    main()
