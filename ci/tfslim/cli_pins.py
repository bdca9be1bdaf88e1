"""`tfslim pins`: its options, and its tables as a person reads them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tfslim.config import Config
from tfslim.errors import ConfigError
from tfslim.pins.locks import locks_folder
from tfslim.slim.archs import parse_targets
from tfslim.slim.rules import make_policy
from tfslim.ui import Ui, human_bytes

__all__ = ["Options", "as_data", "render", "run"]


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line; None takes the configuration's value.

    Attributes:
        cuda_arch: Sets of GPUs, each as `tfslim slim --cuda-arch` takes it.
        output: File of the lock, or folder for locks under their usual names.
    """

    tensorflow: str | None
    python: str | None
    cuda_arch: tuple[str, ...]
    profile: str
    keep: tuple[str, ...]
    also: tuple[str, ...]
    objective: Literal["both", "pull", "disk"]
    exclude: tuple[str, ...]
    requirements: Path | None
    output: Path | None
    all_versions: bool
    keep_wheels: bool
    gate: bool
    reference: Path | None
    dry_run: bool


def run(options: Options, config: Config, ui: Ui) -> list[Any]:
    """Choose versions and write their locks; return what was chosen.

    Raises:
        ConfigError: The extra `pins` is not installed, or the options do not go together.
        TfslimError: See `pins.survey_and_choose` and `pins.lock`.
    """
    try:
        from tfslim.pins import pins  # noqa: PLC0415 (an extra)
        from tfslim.pins.gate import Gate  # noqa: PLC0415
        from tfslim.pins.settings import index_settings  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            "`tfslim pins` needs packages that are not installed",
            why=str(error),
            way_out="pip install 'tfslim[pins]'",
        ) from None
    request = pins.Request(
        tensorflow=options.tensorflow or config.tensorflow,
        python=options.python or config.python,
        policies=tuple(
            make_policy(options.profile, parse_targets(text), keep=options.keep, also=options.also)
            for text in options.cuda_arch or (",".join(config.cuda_archs),)
        ),
        objective=options.objective,
        exclude=options.exclude,
        all_versions=options.all_versions,
        keep_wheels=options.keep_wheels,
        service=options.requirements or _service(),
        command=_command(options, config),
    )
    output = options.output or (locks_folder() if locks_folder().is_dir() else Path())
    if len(request.policies) > 1 and not output.is_dir():
        raise ConfigError(f"--output {output} is no folder, and there are several locks to write")
    settings = index_settings()
    chosen = pins.survey_and_choose(request, settings, ui)
    if options.dry_run:
        return list(chosen)
    gate = None
    if options.gate:
        gate = Gate(settings, request.state / "gate", ui, reference=options.reference)
    return [pins.lock(request, one, output, settings, gate) for one in chosen]


def _service() -> Path | None:
    """Return the requirements of the service that the images run, in a checkout."""
    path = locks_folder().parent / "app" / "requirements.txt"
    return path if path.is_file() else None


def _command(options: Options, config: Config) -> str:
    """Return the command that gives the same lock, with what came from the configuration."""
    words = ["tfslim", "pins", "--tensorflow", options.tensorflow or config.tensorflow]
    words += ["--python", options.python or config.python]
    for arch in options.cuda_arch or (",".join(config.cuda_archs),):
        words += ["--cuda-arch", arch]
    words += ["--profile", options.profile, "--objective", options.objective]
    several = {"--keep": options.keep, "--also": options.also, "--exclude": options.exclude}
    words += [word for name, values in several.items() for text in values for word in (name, text)]
    words += ["--all"] if options.all_versions else []
    words += [] if options.gate else ["--no-gate"]
    return shlex.join(words)


def as_data(chosen: list[Any]) -> list[dict[str, Any]]:
    """Return what was chosen as JSON prints it."""
    return [one.model_dump(mode="json") for one in chosen]


def render(chosen: list[Any]) -> RenderableType:
    """Return, for each set of GPUs, a table of all versions, the totals and the checks."""
    return Group(*(part for one in chosen for part in _parts(one)))


def _parts(one: Any) -> list[RenderableType]:
    gpus = ", ".join(f"sm_{sm}" for sm in one.sms)
    title = f"TensorFlow {one.tensorflow}, Python {one.python}, {gpus}, profile {one.profile}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("library", "version", "wheel MB", "disk MB", "pull MB", ""):
        table.add_column(column, justify="right" if column.endswith("MB") else "left")
    for library, rows in one.table.items():
        for place, row in enumerate(rows):
            table.add_row(
                library if place == 0 else "",
                f"{'→ ' if row.chosen else '  '}{row.version}",
                *map(_megabytes, (row.wheel_bytes, row.disk, row.pull)),
                row.why,
                style="bold" if row.chosen else None,
            )
    lines = [
        f"chosen: {_total(one.chosen_total)}",
        f"newest: {_total(one.newest_total)}",
        *(str(check) for check in one.checks),
        *([f"written: {one.lock}"] if one.lock else []),
        "",
    ]
    return [table, Text("\n".join(lines))]


def _megabytes(count: int | None) -> str:
    return "–" if count is None else f"{count / 1e6:.1f}"


def _total(total: Any) -> str:
    return (
        f"wheels {human_bytes(total.wheel_bytes)}, after slimming {human_bytes(total.disk)} on "
        f"disk and {human_bytes(total.pull)} compressed"
    )
