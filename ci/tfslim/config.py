"""The user's file `tfslim.yaml`: typed, unknown keys rejected, defaults the same as the example.

Every option is declared once, here; the JSON schema (`docs/tfslim.schema.json`) and the checks
derive from it. Keys are written in kebab-case. Sizes are bytes or text such as "2.5 GB" (10^9).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tfslim.errors import ConfigError

__all__ = [
    "BaseSource",
    "BenchConfig",
    "Budget",
    "CacheConfig",
    "Config",
    "ImageConfig",
    "ModelConfig",
    "PushConfig",
    "SecretsConfig",
    "Threshold",
    "VariantName",
    "json_schema",
    "load_config",
    "nearest",
]

VariantName = Literal[
    "stock",
    "approach-a",
    "approach-b",
    "training",
    "inference",
    "inference-debug",
    "workload",
    "inference-native",
    "workload-native",
]
BaseSource = Literal["auto", "registry", "debian"]
DEFAULT_FILE = Path("tfslim.yaml")

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|kB|MB|GB|TB|KiB|MiB|GiB)?", re.ASCII)
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%", re.ASCII)
_UNITS = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}


def _parse_bytes(value: object) -> object:
    """Read "800 MB" as 800000000; leave anything that is not text to pydantic."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError(f"{value!r} is not a size; write bytes or a unit, such as '800 MB'")
    return round(float(match[1]) * _UNITS[match[2] or "B"])


def _parse_share(value: object) -> object:
    """Read "5 %" as 0.05; a plain number is a share already."""
    if not isinstance(value, str):
        return value
    match = _PERCENT.fullmatch(value.strip())
    if match is None:
        raise ValueError(f"{value!r} is not a share; write a percentage, such as '5 %'")
    return float(match[1]) / 100


def _parse_growth(value: object) -> object:
    """Read "50 MB" as bytes, and leave "2 %" as it is."""
    if isinstance(value, str) and _PERCENT.fullmatch(value.strip()):
        return value.strip()
    return _parse_bytes(value)


def _version_text(value: object) -> object:
    """Refuse numbers where a version is meant: YAML reads 3.10 as 3.1."""
    if isinstance(value, (int, float)):
        raise ValueError(f"write the version in quotes: '{value}'")  # noqa: TRY004 (pydantic's way)
    return value


def _arch_text(value: object) -> object:
    """Read 90 as "90"; 9.0, which YAML may turn into something else, has to be quoted."""
    return str(value) if isinstance(value, int) else value


Version = Annotated[str, BeforeValidator(_version_text)]
CudaArch = Annotated[
    str,
    BeforeValidator(_arch_text, json_schema_input_type=int | str),
    Field(pattern=r"^\d+(\.\d+)?[af]?$"),
]
Bytes = Annotated[
    int,
    BeforeValidator(_parse_bytes, json_schema_input_type=int | str),
    Field(gt=0, examples=["800 MB", 2_500_000_000]),
]


Share = Annotated[
    float,
    BeforeValidator(_parse_share, json_schema_input_type=float | str),
    Field(gt=0, le=10, examples=["5 %", 0.05]),
]
Growth = Annotated[
    int | str,
    BeforeValidator(_parse_growth, json_schema_input_type=int | str),
    Field(examples=["50 MB", "2 %"]),
]


class _Section(BaseModel):
    """A part of the file: unknown keys are errors, values cannot change after loading."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
    )


class ModelConfig(_Section):
    """The model that is served and measured."""

    source: str = Field(
        "demo:basic-pitch",
        description="A SavedModel folder, or demo:basic-pitch or demo:mobilenet. For images that "
        "the C API serves also the folder of a frozen model.",
    )
    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name in /v1/models/NAME; taken from the source when not given.",
    )
    mode: Literal["bake", "mount"] = Field(
        "bake",
        description="bake: the model is the image's last layer; mount: bound in at run time.",
    )
    freeze: bool = Field(
        False,
        description="Bake a graph whose variables are constants: a faster start, and answers that "
        "may differ in the last bits. For images of inference and workload with backend capi.",
    )


class CacheConfig(_Section):
    """The local build cache that buildx exports and imports, for engines that are short-lived."""

    local: bool = Field(
        True, description="Export the cache after each build, where the driver can."
    )
    dir: Path = Field(Path(".tfslim/cache"), description="One folder per variant is kept in here.")
    mode: Literal["min", "max"] = Field(
        "min", description="min: layers of the images; max: layers of the builder stages, too."
    )
    max_bytes: Bytes = Field(
        20 * 10**9, description="The least recently used variants are dropped beyond this."
    )


class ImageConfig(_Section):
    """How images are named and compressed."""

    repository: str = Field(
        "tfslim",
        pattern=r"^[a-z0-9]+([._/:-][a-z0-9]+)*$",
        description="Tags are REPOSITORY/VARIANT:TENSORFLOW-pyPYTHON.",
    )
    compression: Literal["zstd", "gzip"] = "zstd"
    compression_level: int = Field(3, ge=0, le=22)
    jupyter: bool = Field(False, description="Add JupyterLab to the training image.")


class PushConfig(_Section):
    """Where images go with `tfslim build --push`, and what is attested of them there."""

    repository: str | None = Field(
        None,
        pattern=r"^[a-z0-9](?:[a-z0-9._-]|\{variant\})*(?::[0-9]+)?"
        r"(?:/(?:[a-z0-9._-]|\{variant\})+)*(?::[A-Za-z0-9._-]+)?$",
        description="Images go to REPOSITORY/VARIANT; {variant} in it puts the name elsewhere.",
    )
    tags: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}$")], ...] = Field(
        (),
        description="Such as 1.2 and 1; -sm90 is added where an image holds GPU code for these "
        "architectures alone. The local tag's version if none is given.",
    )
    provenance: Literal["max", "min", "off"] = Field(
        "max", description="How the image was made, as BuildKit attests it (SLSA)."
    )
    sbom: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@-]*$")] = Field(
        "auto",
        description="auto: a list of packages made by a generator of tfslim's own (syft), or by "
        "BuildKit's where builds run outside the engine; off: none; else a generator's image.",
    )
    level: int | None = Field(
        None,
        ge=1,
        le=22,
        description="zstd level at which layers are packed anew for the push, with a window of "
        "128 MB (`tfslim repack`): 19 takes minutes and a fifth off a pull. If none is given, "
        "they go as BuildKit packs them.",
    )
    annotations: dict[str, str] = Field(
        default_factory=dict, description="Added to those that tfslim writes, or in their place."
    )


class SecretsConfig(_Section):
    """Files given to builds as BuildKit secrets: used by pip there, never part of an image."""

    ca: Path | None = Field(
        None,
        description="CA bundle for a private index or proxy; PIP_CERT or SSL_CERT_FILE if not set.",
    )
    pip_conf: Path | None = Field(None, description="pip.conf with a private index and its login.")


class BenchConfig(_Section):
    """How images are measured."""

    launches: int = Field(5, ge=1, le=100, description="Process launches of each image.")
    batch_sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 32), min_length=1)
    seconds: float = Field(5.0, gt=0, le=600, description="Each load in each launch.")
    concurrency: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field(
        (1, 4),
        min_length=1,
        description="Clients of closed loops over HTTP: all batch sizes with the first number, the "
        "first batch size with all of them.",
    )
    rate: Literal["auto", "off"] | Annotated[float, Field(gt=0)] = Field(
        "auto",
        description="Requests a second of an open loop; auto: half of what the first image "
        "answered in closed loops; off: none.",
    )
    margin: float = Field(
        0.03, gt=0, lt=1, description="Share by which two images may differ and still be the same."
    )
    cold_launches: int = Field(
        5, ge=0, le=100, description="Cold starts of each image in a whole run; 0: none."
    )
    runtime: Literal["auto", "docker", "rootfs"] = Field(
        "auto",
        description="docker: images of an engine; rootfs: folders and archives, entered with "
        "bubblewrap or chroot; auto: whichever fits what is named.",
    )
    gpu: Literal["auto", "required", "off"] = Field(
        "auto", description="auto: a GPU where one can be given, else CPU."
    )
    ready_timeout: float = Field(180.0, gt=0, description="Seconds to wait for /ready.")


class Budget(_Section):
    """Limits of one image; a broken one fails the run after the report is written."""

    max_pull: Bytes | None = Field(None, description="Compressed bytes of all layers.")
    max_disk: Bytes | None = Field(None, description="Bytes of the unpacked file system.")
    max_cold_start: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Seconds from asking for a container to the first answer: with a cold page "
        "cache where that was measured, else with a warm one.",
    )
    min_throughput: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Samples a second, in the best of the batch sizes that were measured."
    )
    max_growth: Growth | None = Field(
        None, description="How much pull and disk may each grow against the baseline."
    )
    libraries: dict[str, Bytes] = Field(
        default_factory=dict, description="Bytes of a shared library by its file name."
    )


class Threshold(_Section):
    """From which change on a measure counts. In each name `*` stands for any text."""

    variant: str = "*"
    machine: str = Field("*", description="Key of a machine, as a record has it.")
    measure: str = Field("*", description="Name of a measure, see docs/record.md.")
    change: Share = Field(description="Relative change.")
    least_bytes: Annotated[
        int, BeforeValidator(_parse_bytes, json_schema_input_type=int | str), Field(ge=0)
    ] = Field(1_000_000, description="Of a size: a smaller change never counts.")


class Config(_Section):
    """The whole file. Every key has a default, so an empty file is a valid one."""

    variants: tuple[VariantName, ...] = Field(
        ("stock", "approach-a", "approach-b", "training", "inference"), min_length=1
    )
    tensorflow: Version = Field("2.21.0", pattern=r"^\d+\.\d+\.\d+$")
    python: Version = Field("3.13", pattern=r"^3\.\d+$")
    cuda: Version = Field(
        "12.4.1",
        pattern=r"^\d+\.\d+\.\d+$",
        description="CUDA of the base images of approach-a, and of the compiler of training.",
    )
    cuda_archs: tuple[CudaArch, ...] = Field(
        ("90",),
        min_length=1,
        description="GPU architectures the images are for, as compute capabilities (90 or 9.0).",
    )
    slim: Literal["none", "safe", "arch"] = Field(
        "arch",
        description="Profile of the slim engine in approach-a, approach-b and training: arch keeps "
        "GPU code for cuda-archs alone. The others have the profile of their name.",
    )
    keep: tuple[Annotated[str, Field(pattern=r"^[a-z0-9-]+$")], ...] = Field(
        (),
        description="What slimming leaves in after all, by the word that `tfslim slim --explain` "
        "gives for each rule.",
    )
    also: tuple[Annotated[str, Field(pattern=r"^[a-z0-9-]+$")], ...] = Field(
        (),
        description="Optional rules that inference and workload follow, too, by the same words.",
    )
    aot: bool = Field(
        False,
        description="Compile while slimming what cuda-archs would compile from PTX at first use; "
        "in all images whose GPU code is slimmed (docs/aot.md).",
    )
    trace: Path | None = Field(
        None,
        description="What the models of workload reach, made with `tfslim trace`; without it, "
        "model is traced in the build.",
    )
    pins: Literal["smallest", "newest"] | Path = Field(
        "smallest",
        description="Versions of all packages. smallest: the lock of dockerfiles/locks for these "
        "versions and GPUs; newest: what pip finds; else a lock of your own (`tfslim pins`).",
    )
    bytecode: Literal["unchecked", "sourceless"] = Field(
        "unchecked",
        description="In inference and workload. unchecked: complete, beside the sources, never "
        "compared with them; sourceless: in place of them.",
    )
    host_code: Literal["whole", "cold"] = Field(
        "whole",
        description="In inference and workload. cold: code of TensorFlow that models rarely run "
        "lies compressed beside it and comes back when it is touched (docs/host-code.md).",
    )
    gate: bool = Field(
        True,
        description="What was slimmed is finished only if it answers as the packages do before it.",
    )
    backend: Literal["tensorflow", "capi"] = Field(
        "tensorflow",
        description="What serves in all images but stock and the native ones. tensorflow: Python's "
        "TensorFlow; capi: its C API, for SavedModels with signatures (the native ones always).",
    )
    base_source: BaseSource = Field(
        "auto",
        description="registry: pull bases; debian: build them; auto: the first, else the second.",
    )
    app: Path | None = Field(
        None, description="Folder of your own service; the one shipped with tfslim if not set."
    )
    model: ModelConfig = ModelConfig()
    image: ImageConfig = ImageConfig()
    cache: CacheConfig = CacheConfig()
    secrets: SecretsConfig = SecretsConfig()
    builder: str | None = Field(
        None,
        description="A builder of buildx by name, or the address of a BuildKit (tcp://…, unix://…, "
        "kubernetes://NAMESPACE); by default the engine's own, or a container beside it.",
    )
    push: PushConfig = PushConfig()
    bench: BenchConfig = BenchConfig()
    budgets: dict[VariantName | Literal["default"], Budget] = Field(
        default_factory=dict,
        description="By variant. default: what the others but stock do not set themselves.",
    )
    thresholds: tuple[Threshold, ...] = Field(
        (), description="For comparing with a baseline; the last that fits is taken."
    )
    baseline: str | None = Field(
        None, description="What `tfslim report` compares with, as its option --baseline takes it."
    )


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of `tfslim.yaml`, for editors and for validation elsewhere."""
    schema = Config.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the closest known name, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def load_config(path: Path | None) -> Config:
    """Read and check the configuration.

    Relative paths in the file are taken from the file's folder.

    Args:
        path: The file; without one, `tfslim.yaml` here if there is one, else the defaults.

    Raises:
        ConfigError: The file is missing, is not YAML, or says something it cannot say.
    """
    if path is None:
        if not DEFAULT_FILE.exists():
            return Config()
        path = DEFAULT_FILE
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}",
            way_out="Name a file with --config, or leave the option out to use the defaults.",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML", why=str(error)) from error
    try:
        config = Config.model_validate({} if data is None else data)
    except ValidationError as error:
        raise ConfigError(
            f"{path} says something tfslim cannot use",
            why="\n".join(_describe(dict(item), node) for item in error.errors()),
            way_out="All keys with their defaults: tfslim.yaml in the repository, or "
            "`tfslim config schema`.",
        ) from error
    return _anchored(config, path.parent)


def _anchored(config: Config, folder: Path) -> Config:
    """Resolve relative paths against the folder the file is in."""

    def at(path: Path | None) -> Path | None:
        return None if path is None else folder / path

    source = config.model.source
    if not source.startswith("demo:"):
        source = str(folder / source)
    return config.model_copy(
        update={
            "app": at(config.app),
            "trace": at(config.trace),
            "pins": at(config.pins) if isinstance(config.pins, Path) else config.pins,
            "model": config.model.model_copy(update={"source": source}),
            "cache": config.cache.model_copy(update={"dir": folder / config.cache.dir}),
            "secrets": config.secrets.model_copy(
                update={"ca": at(config.secrets.ca), "pip_conf": at(config.secrets.pip_conf)}
            ),
        }
    )


def _describe(item: dict[str, Any], node: yaml.Node | None) -> str:
    """Say one validation error as: line, key, value, what is wrong, the nearest known name."""
    loc: tuple[str | int, ...] = item["loc"]
    name = ".".join(str(part) for part in loc if part != "[key]") or "the file"
    line = _line_of(node, loc)
    where = f"line {line}: " if line else ""
    match item["type"]:
        case "extra_forbidden":
            hint = nearest(str(loc[-1]), _keys_at(loc[:-1]))
            return f"{where}unknown key {name!r}{hint}"
        case "literal_error":
            given = item["input"]
            known = [word.strip("' ") for word in re.split(r",| or ", item["ctx"]["expected"])]
            hint = nearest(str(given), known)
            return f"{where}{name}: {given!r} is not one of {', '.join(known)}{hint}"
        case _:
            message = item["msg"].removeprefix("Value error, ")
            return f"{where}{name}: {message} (got {item['input']!r})"


def _keys_at(loc: tuple[str | int, ...]) -> list[str]:
    """Return the keys that the section at `loc` knows."""
    section: type[BaseModel] = Config
    for part in loc:
        field = next((f for f in section.model_fields.values() if f.alias == part), None)
        if field is None:  # a key of a mapping, such as budgets.inference
            continue
        kinds = [field.annotation, *get_args(field.annotation)]
        section = next(
            (k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), section
        )
    return [field.alias or name for name, field in section.model_fields.items()]


def _line_of(node: yaml.Node | None, loc: tuple[str | int, ...]) -> int | None:
    """Return the line (from 1) of the key or item that `loc` leads to, as far as it leads."""
    line = None
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line
