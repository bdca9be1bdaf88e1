"""The action's inputs: each declared once, read from the step's environment, checked by name.

`action.yml` and the table in the README say the same; a test holds the three together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ValidationError

from tfslim.build.push import with_push
from tfslim.config import Budget, Config, load_config, nearest
from tfslim.errors import ConfigError
from tfslim.github.state import REPORT_ID
from tfslim.slim.rules import profile_names

__all__ = ["INPUTS", "Input", "Inputs", "configuration", "read_inputs", "variable"]

Kind = Literal["text", "choice", "list", "lines", "path", "paths", "limit", "count", "id"]
"""list: by comma or line; lines: by line alone, for values with commas in them; limit: checked with
the configuration, as it says what a size is."""

_MOST: Final = 20_000  # characters of one input


@dataclass(frozen=True)
class Input:
    """One input.

    Attributes:
        name: As in `with:`.
        help: What it is, a sentence or two.
        default: What holds where it is left out or empty.
        kind: How its text is read.
        choices: What a choice may be.
    """

    name: str
    help: str
    default: str = ""
    kind: Kind = "text"
    choices: tuple[str, ...] = ()

    @property
    def field(self) -> str:
        """Its attribute of `Inputs`."""
        return self.name.replace("-", "_")


def _choice(name: str, choices: str, help_: str) -> Input:
    """Declare a choice; the first is the default."""
    known = tuple(choices.split())
    return Input(name, help_, known[0], "choice", known)


INPUTS: Final[tuple[Input, ...]] = (
    _choice(
        "mode",
        "run plan join publish",
        "run: build, measure, report. plan: only the output `matrix`. join: one report of many "
        "jobs' records. publish: comment for a fork's pull request, in a `workflow_run` workflow.",
    ),
    Input("id", "Name of this report: one comment, one artifact for each.", "tfslim", "id"),
    Input("config", "Configuration; `tfslim.yaml` if there is one.", kind="path"),
    Input("image", "Measure this image; pulled if it is not there."),
    Input("dockerfile", "Build your own Dockerfile, and measure what comes out.", kind="path"),
    Input("context", "Folder that the Dockerfile is built in.", ".", "path"),
    Input("target", "Stage of the Dockerfile; the last one if not given."),
    Input("build-args", "NAME=VALUE for the Dockerfile, one a line.", kind="lines"),
    Input("variants", "Without `image` and `dockerfile`: variants to build.", kind="list"),
    _choice(
        "slim",
        "false true",
        "Slim the image of `dockerfile` or `image`, prove that it answers the same, and measure "
        "both side by side: `stock` is yours as it was, `slim` what became of it.",
    ),
    Input(
        "profile",
        "How far slimming goes; the steps of the ladder in docs/slimming.md.",
        "arch",
        "choice",
        tuple(profile_names()),
    ),
    Input("model", "SavedModel that is served, measured and traced."),
    Input("trace-input", "Files (.npz) of real inputs for profile workload.", kind="paths"),
    Input("cuda-archs", "GPUs to be served, such as 80, 90.", kind="list"),
    Input("tensorflow", "TensorFlow release of the variants, such as 2.21.0."),
    Input(
        "python",
        "Python 3.11 or newer that the action itself runs with, as a command or a path. It is "
        "not changed.",
        "auto",
    ),
    Input(
        "baseline",
        "What a run is compared with. auto: the record of the merge base's run, else of the "
        "default branch's newest. build: the merge base, built and measured here. none. Or a "
        "record's file or folder, or git:REF.",
        "auto",
    ),
    Input("max-pull", "Most bytes to pull, such as 800 MB.", kind="limit"),
    Input("max-disk", "Most bytes on disk.", kind="limit"),
    Input("max-growth", "Most growth of either against the baseline: 50 MB or 2 %.", kind="limit"),
    _choice("gpu", "auto required off", "Measure on a GPU. auto: if there is one."),
    _choice(
        "bench",
        "sizes cold-start throughput full",
        "What is measured beside sizes. throughput and cold-start start the image's service.",
    ),
    Input("launches", "Launches of each image; the configuration's if not given.", kind="count"),
    _choice(
        "fail-on",
        "budget regression never",
        "What fails the job. regression: a broken budget, too. Errors always do.",
    ),
    _choice(
        "comment",
        "auto always never",
        "One comment on the pull request, edited in place. auto: where the token may; always: say "
        "so with a warning where it may not.",
    ),
    Input(
        "cache",
        "Build cache. auto: kept between runs, with actions/cache on GitHub's own runners; off; "
        "or a folder.",
        "auto",
    ),
    Input(
        "push",
        "Push what was made to this repository, such as ghcr.io/me/app, with SBOM and provenance; "
        "never what fails the job.",
    ),
    Input("tags", "Tags for it, such as 1.2; -sm90 and so on is added.", kind="list"),
    Input(
        "builder",
        "Name of a buildx builder that is there, or the address of a BuildKit (tcp://…).",
    ),
    Input("records", "For join: the folder that the artifacts were downloaded to.", kind="path"),
    Input("report-dir", "Folder for the report.", "tfslim-report", "path"),
    _choice("upload", "true false", "Upload the report as artifact `tfslim-report-ID`."),
    Input(
        "token",
        "For the comment and for earlier runs' records; masked, never part of a message.",
        "${{ github.token }}",
    ),
)


@dataclass(frozen=True)
class Inputs:
    """All inputs, read; see `INPUTS` for what each means. None and () are for not given."""

    mode: Literal["run", "plan", "join", "publish"]
    id: str
    config: Path | None
    image: str | None
    dockerfile: Path | None
    context: Path
    target: str | None
    build_args: tuple[str, ...]
    variants: tuple[str, ...]
    slim: Literal["true", "false"]
    profile: str
    model: str | None
    trace_input: tuple[Path, ...]
    cuda_archs: tuple[str, ...]
    tensorflow: str | None
    python: str
    baseline: str
    max_pull: str | None
    max_disk: str | None
    max_growth: str | None
    gpu: Literal["auto", "required", "off"]
    bench: Literal["sizes", "cold-start", "throughput", "full"]
    launches: int | None
    fail_on: Literal["budget", "regression", "never"]
    comment: Literal["auto", "always", "never"]
    cache: str
    push: str | None
    tags: tuple[str, ...]
    builder: str | None
    records: Path | None
    report_dir: Path
    upload: Literal["true", "false"]

    @property
    def artifact(self) -> str:
        """Name of the report's artifact."""
        return f"tfslim-report-{self.id}"

    @property
    def slims(self) -> bool:
        """Whether the image is slimmed."""
        return self.slim == "true"

    @property
    def own_image(self) -> bool:
        """Whether the user's own image is measured, and not our variants."""
        return bool(self.image or self.dockerfile)


def variable(name: str) -> str:
    """Return the variable that holds an input."""
    return "TFSLIM_TOKEN" if name == "token" else f"TFSLIM_INPUT_{name.upper().replace('-', '_')}"


def read_inputs(env: Mapping[str, str]) -> Inputs:
    """Read and check the inputs.

    Args:
        env: The step's environment: TFSLIM_INPUT_MAX_PULL and so on. What is empty is not given.

    Raises:
        ConfigError: One cannot be used; it names each such input and what it may be.
    """
    values: dict[str, Any] = {}
    wrong: list[str] = []
    for one in INPUTS:
        if one.name == "token":
            continue
        try:
            values[one.field] = _read(one, _text(one, env))
        except ValueError as error:
            wrong.append(f"{one.name}: {error}")
    _refuse(wrong)
    inputs = Inputs(**values)
    _refuse(_contradictions(inputs))
    return inputs


def configuration(inputs: Inputs) -> Config:
    """Return the configuration: the file, if there is one, and the inputs over it.

    Raises:
        ConfigError: The file, or what an input says, cannot be used.
    """
    config = load_config(inputs.config)
    given: dict[str, Any] = {
        "variants": list(inputs.variants),
        "cuda-archs": list(inputs.cuda_archs),
        "tensorflow": inputs.tensorflow,
    }
    given = {key: value for key, value in given.items() if value}
    checked = _checked(Config, given)
    bench: dict[str, Any] = {"gpu": inputs.gpu} if inputs.gpu != "auto" else {}
    if inputs.launches is not None:
        bench |= {"launches": inputs.launches, "cold_launches": inputs.launches}
    update: dict[str, Any] = {
        name: getattr(checked, name) for name in (key.replace("-", "_") for key in given)
    }
    if inputs.model:
        update["model"] = config.model.model_copy(update={"source": inputs.model})
    update["bench"] = config.bench.model_copy(update=bench)
    update["cache"] = config.cache.model_copy(update=_cache(inputs.cache))
    update["budgets"] = _budgets(inputs, config, update.get("variants", config.variants))
    if inputs.builder:
        update["builder"] = inputs.builder
    config = config.model_copy(update=update)
    return _with_push(config, inputs) if inputs.push else config


def _with_push(config: Config, inputs: Inputs) -> Config:
    try:
        return with_push(config, inputs.push, inputs.tags)
    except ConfigError as error:
        _refuse([f"push, tags: {error.why or error.what}"])
        raise


def _cache(wanted: str) -> dict[str, Any]:
    """Return the cache's settings; where `auto` keeps it, the setup says with a folder."""
    if wanted == "off":
        return {"local": False}
    return {} if wanted == "auto" else {"local": True, "dir": Path(wanted).absolute()}


def _budgets(inputs: Inputs, config: Config, variants: Sequence[str]) -> dict[str, Budget]:
    """Put the limits of the inputs over those of every image, and of those without any.

    `stock` is what others are compared with, and has limits only where it is all there is.
    """
    given = {
        "max-pull": inputs.max_pull,
        "max-disk": inputs.max_disk,
        "max-growth": inputs.max_growth,
    }
    given = {key: value for key, value in given.items() if value is not None}
    budget = _checked(Budget, given)
    update = {key: getattr(budget, key) for key in (name.replace("-", "_") for name in given)}
    names = ["default", *(variants if list(variants) == ["stock"] else [])]
    budgets: dict[Any, Budget] = dict.fromkeys(names, Budget()) if update else {}
    budgets |= config.budgets
    return {name: one.model_copy(update=update) for name, one in budgets.items()}


def _checked(model: type[Any], given: Mapping[str, object]) -> Any:
    """Return a part of the configuration made of inputs; what is wrong is told by their names."""
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        found = {str(item["loc"][0]): item for item in reversed(error.errors())}
    wrong = []
    for name, item in found.items():
        expected = str(item.get("ctx", {}).get("expected", ""))
        said = f"it may be {expected}" if expected else item["msg"].removeprefix("Value error, ")
        wrong.append(f"{name}: {item['input']!r} cannot be used: {said}")
    _refuse(wrong)
    raise AssertionError("a validation error names its fields")


def _refuse(wrong: list[str]) -> None:
    """Refuse inputs that cannot be used, all at once."""
    if wrong:
        named = ", ".join(dict.fromkeys(line.partition(":")[0] for line in wrong))
        raise ConfigError(
            f"input {named} cannot be used" if len(wrong) == 1 else f"inputs: {named}",
            why="\n".join(wrong),
            way_out="Correct `with:` of the step; docs/action.md has all inputs.",
        )


def _text(one: Input, env: Mapping[str, str]) -> str:
    return env.get(variable(one.name), "").strip() or one.default


def _read(one: Input, text: str) -> Any:
    """Read an input's text; a ValueError says what is wrong with it."""
    if one.kind == "choice" and text not in one.choices:
        known = ", ".join(one.choices)
        raise ValueError(f"{text!r} is not one of {known}{nearest(text, one.choices)}")
    return _READ[one.kind](text)


def _read_text(text: str) -> str | None:
    if len(text) > _MOST:
        raise ValueError(f"it has {len(text)} characters, and {_MOST} are the most")
    if "\n" in text or "\0" in text:
        raise ValueError("it has several lines, and is one")
    if text.startswith("-"):
        raise ValueError(f"{text!r} begins with '-', and would be taken for an option")
    return text or None


def _read_list(text: str) -> tuple[str, ...]:
    return tuple(part for part in (part.strip() for part in re.split(r"[,\n]", text)) if part)


def _read_lines(text: str) -> tuple[str, ...]:
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    for line in lines:
        if not re.match(r"[A-Za-z_][A-Za-z0-9_]*=", line):
            raise ValueError(f"{line.partition('=')[0]!r} is not NAME=VALUE, one a line")
    return lines


def _read_path(text: str) -> Path | None:
    return Path(told) if (told := _read_text(text)) else None


def _read_paths(text: str) -> tuple[Path, ...]:
    found = tuple(Path(part) for part in _read_list(text))
    for path in found:
        if not path.is_file():
            raise ValueError(f"{path} is not a file")
    return found


def _read_count(text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"[1-9][0-9]?|100", text):
        raise ValueError(f"{text!r} is not a number from 1 to 100")
    return int(text)


def _read_id(text: str) -> str:
    if not re.fullmatch(REPORT_ID, text):
        raise ValueError(f"{text!r} is not made of 1 to 40 of a-z, 0-9 and '-'")
    return text


_READ: Final[Mapping[Kind, Callable[[str], Any]]] = {
    "text": _read_text,
    "limit": _read_text,
    "choice": str,
    "list": _read_list,
    "lines": _read_lines,
    "path": _read_path,
    "paths": _read_paths,
    "count": _read_count,
    "id": _read_id,
}


def _contradictions(inputs: Inputs) -> list[str]:
    """Return what does not go together, and what is missing."""
    variants = "belongs to variants, and `image` or `dockerfile` names an image of yours"
    rules = (
        (bool(inputs.image and inputs.dockerfile), "image: `dockerfile` is given, too; name one"),
        (inputs.own_image and bool(inputs.variants), f"variants: {variants}"),
        (inputs.own_image and bool(inputs.tensorflow), f"tensorflow: {variants}"),
        (bool(inputs.target) and not inputs.dockerfile, "target: it needs `dockerfile`"),
        (bool(inputs.build_args) and not inputs.dockerfile, "build-args: it needs `dockerfile`"),
        (
            inputs.slims and inputs.mode == "run" and not inputs.own_image,
            "slim: it needs `dockerfile` or `image`; variants are slimmed by their own profile",
        ),
        (
            inputs.slims and inputs.profile == "workload" and not inputs.model,
            "model: profile workload leaves what your model reaches, and needs to know it",
        ),
        (inputs.mode == "join" and not inputs.records, "records: mode join needs the folder"),
        (
            inputs.mode == "join" and inputs.baseline == "build",
            "baseline: build is of what this job builds, and mode join builds nothing",
        ),
        (bool(inputs.tags) and not inputs.push, "tags: it needs `push`"),
        (
            inputs.dockerfile is not None and not inputs.dockerfile.is_file(),
            f"dockerfile: {inputs.dockerfile} is not a file here; is the repository checked out?",
        ),
        (
            inputs.dockerfile is not None and not inputs.context.is_dir(),
            f"context: {inputs.context} is not a folder",
        ),
    )
    return [text for broken, text in rules if broken]
