"""Send finished images to a registry: zstd layers, annotations, attestations; and read them back.

BuildKit pushes what it has just built, so the attestations are its own: a variant is baked once
more, from the cache, with the registry as its output. An image that tfslim did not build (or that
`tfslim slim` made) is pushed as a build of one line, `FROM` it. What arrived is then read back and
compared with what was asked for. The registry's login is Docker's own (`docker login`); it is never
read here. A push that ended half-way is run again: what a registry has is not sent twice, and a
name is written last.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from docker.errors import DockerException, ImageNotFound
from pydantic import BaseModel, ConfigDict, ValidationError

from tfslim.build.bake import BuildLog, BuiltImage, bake_definition, build_failure, run_bake
from tfslim.build.bases import Base, image_context
from tfslim.build.sbom import DEFAULT_GENERATOR, sbom_generator
from tfslim.compat import compat
from tfslim.config import Config, PushConfig
from tfslim.engine.engine import Engine
from tfslim.errors import ConfigError, EngineError, NetworkError, PushError, TfslimError
from tfslim.images.pushed import Stored, read_stored
from tfslim.images.repack import Repacking, repack_image
from tfslim.plan import Build
from tfslim.ui import Ui, human_bytes

__all__ = [
    "Destination",
    "Proof",
    "PushedImage",
    "check_pushable",
    "destination",
    "push_built",
    "push_image",
    "with_push",
]

Proof = Literal["gate", "not slimmed"]
"""Why an image may be pushed: its answers were compared with stock's, or nothing is gone."""

_IMAGE = "image"  # bake's target for an image that is no variant
_PROVENANCE = "https://slsa.dev/provenance/"
_SBOM = "https://spdx.dev/Document"
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
# What registries and BuildKit say, most telling first: (pattern, what, way out).
_REFUSALS = (
    (
        r"x509|certificate signed by unknown|tls: failed to verify",
        "its certificate is not trusted",
        "Add the registry's CA for Docker (/etc/docker/certs.d/HOST/ca.crt) and for a builder of\n"
        "its own (buildkitd.toml, [registry.HOST] ca); docs/air-gapped.md.",
    ),
    (
        r"server gave HTTP response to HTTPS client",
        "it speaks plain HTTP",
        'Allow it: "insecure-registries" in /etc/docker/daemon.json, or for a builder of its own\n'
        "buildkitd.toml with [registry.HOST] http = true. On 127.0.0.1 nothing is needed.",
    ),
    (
        r"\b401\b|\b403\b|unauthorized|\bdenied\b|insufficient_scope|no basic auth"
        r"|authentication required|authorization failed",
        "it asks for another login",
        "docker login HOST, as somebody who may write there. In GitHub Actions, for ghcr.io: a\n"
        "step with `docker login` before, and `permissions: packages: write`.",
    ),
    (
        r"name unknown|NAME_UNKNOWN|repository .*not (found|exist)|\b404\b",
        "it has no such repository",
        "Make the repository first, or correct push.repository; some registries make none "
        "by themselves.",
    ),
    (
        r"toomanyrequests|\b429\b|quota|\b413\b",
        "it takes no more for now",
        "Wait, then run the same command again; what has arrived is not sent twice.",
    ),
)
# Of a log, only these lines speak of the registry: a step that fails may say "denied" as well.
_ERROR_LINE = re.compile(r"^(#\d+ )?ERROR: (?!.*(did not complete successfully|resolve source))")
_NO_ATTESTATION = re.compile(
    r"attestations? (are|is) not supported|unknown .*attest", re.IGNORECASE
)
_NO_GENERATOR = re.compile(r"resolve image config for docker-image://(\S*(?:scanner|sbom)\S*)")
_BROKEN_OFF = re.compile(
    r"failed to (do request|push|copy)|connection (refused|reset)|broken pipe|i/o timeout"
    r"|\b50[0234]\b|no such host|unexpected EOF|\bEOF$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Destination:
    """Where an image goes.

    Attributes:
        repository: Registry and name, without a tag.
        tags: Its tags there; the first one names it in messages.
        version: The first tag without GPU architectures.
    """

    repository: str
    tags: tuple[str, ...]
    version: str

    @property
    def references(self) -> tuple[str, ...]:
        """All names, in full."""
        return tuple(f"{self.repository}:{tag}" for tag in self.tags)


class PushedImage(BaseModel):
    """An image in a registry, read back from there.

    Attributes:
        source: The image of the engine that was pushed.
        variant: Its variant; None for images that are none.
        references: Names in the registry.
        digest: Digest that `repository@digest` pulls: of the index where there are attestations.
        image_digest: Digest of the image's own manifest; None where it could not be read back.
        pull_bytes: Compressed bytes of its layers; None likewise.
        layers: Media types of its layers.
        attestations: Types of the predicates that are attested of it.
        annotations: Of the index, or of the manifest where there is no index.
        same_layers: Whether its unpacked layers are those of `source`; None where unknown.
        seconds: Wall time.
        notes: What a reader should know.
    """

    model_config = ConfigDict(frozen=True)

    source: str
    variant: str | None
    references: tuple[str, ...]
    digest: str
    image_digest: str | None
    pull_bytes: int | None
    layers: tuple[str, ...]
    attestations: tuple[str, ...]
    annotations: dict[str, str]
    same_layers: bool | None
    seconds: float
    notes: tuple[str, ...]

    @property
    def pinned(self) -> str:
        """The name that never changes its meaning: REPOSITORY@DIGEST."""
        return f"{self.references[0].rpartition(':')[0]}@{self.digest}"


def with_push(config: Config, repository: str | None, tags: Sequence[str] = ()) -> Config:
    """Return a configuration with another destination.

    Args:
        config: The checked configuration.
        repository: In place of `push.repository`; None or "" leaves it.
        tags: In place of `push.tags`; none leaves them.

    Raises:
        ConfigError: A name or tag cannot be used, or there is no repository at all.
    """
    given: dict[str, Any] = config.push.model_dump(by_alias=True)
    given |= {"repository": repository} if repository else {}
    given |= {"tags": list(tags)} if tags else {}
    try:
        push = PushConfig.model_validate(given)
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError("push: this destination cannot be used", why=said) from error
    if push.repository is None:
        raise ConfigError(
            "there is no repository to push to",
            way_out="tfslim build --push ghcr.io/ORG/NAME, or push.repository in tfslim.yaml.",
        )
    return config.model_copy(update={"push": push})


def destination(
    settings: PushConfig, *, name: str | None, version: str, archs: Sequence[str]
) -> Destination:
    """Return where an image goes.

    Args:
        settings: Repository and tags.
        name: The variant; None puts the image at the repository itself.
        version: The tag where settings have none.
        archs: GPU architectures, where the image holds GPU code for these alone; each becomes
            a part of the tag (`1.2-sm80-sm90`): no platform of OCI tells them apart.

    Raises:
        ConfigError: The repository ends in a tag, or a tag would be too long.
    """
    repository = settings.repository or ""
    if ":" in repository.rpartition("/")[2]:
        raise ConfigError(
            f"push.repository: {repository!r} ends in a tag",
            way_out="Tags stand in push.tags (`--tag`), so that each gets its GPU architectures.",
        )
    if name is not None and "{variant}" not in repository:
        repository = f"{repository}/{name}"
    suffix = "".join(f"-sm{arch}" for arch in _sorted(archs))
    plain = settings.tags or (version,)
    tags = tuple(dict.fromkeys(tag + suffix for tag in plain))
    for tag in tags:
        if not _TAG.fullmatch(tag):
            raise ConfigError(f"push.tags: {tag!r} is not a tag", why="at most 128 of A-Za-z0-9_.-")
    return Destination(repository.replace("{variant}", name or "image"), tags, plain[0])


def check_pushable(engine: Engine, builds: Sequence[Build]) -> None:
    """Refuse what must not be pushed, before anything is built.

    Raises:
        EngineError: This engine's builder cannot push what is asked for.
        PushError: The parity gate is off for an image that was slimmed.
    """
    _check_engine(engine)
    for build in builds:
        _proof(build)


def push_built(
    engine: Engine,
    image: BuiltImage,
    *,
    config: Config,
    bases: Mapping[str, Base],
    model: Path | None,
    trial: Path | None,
    logs: Path,
    ui: Ui,
) -> PushedImage:
    """Push a variant that was built; the arguments are those it was built with.

    Raises:
        PushError: It must not be pushed, the registry refused it, or holds something else.
        EngineError: This engine's builder cannot push what is asked for.
        NetworkError: The registry or the generator of the SBOM cannot be reached.
        TfslimError: See `bake.build_failure`.
    """
    build = image.build
    archs = build.cuda_archs if _profile(build) not in ("none", "safe") else ()
    proof = _proof(build)
    layer_bytes = None
    if config.push.level:
        definition, layer_bytes = _repacked(engine, build.tag, build.variant, config, ui)
    else:
        definition = bake_definition(build, config, bases, {"model": model, "trial": trial})
    job = _Job(
        source=build.tag,
        variant=build.variant,
        to=destination(
            config.push, name=build.variant, version=build.tag.rpartition(":")[2], archs=archs
        ),
        definition=definition,
        variables={} if config.push.level else build.variables,
        annotations=_variant_annotations(build, archs, proof),
        copied=bool(config.push.level),
        layer_bytes=layer_bytes,
    )
    return _push(engine, job, config=config, logs=logs, ui=ui)


def push_image(
    engine: Engine,
    source: str,
    *,
    config: Config,
    proof: Proof | None,
    archs: Sequence[str] = (),
    target: Mapping[str, Any] | None = None,
    logs: Path,
    ui: Ui,
) -> PushedImage:
    """Push an image of the engine that is no variant, such as one that `tfslim slim` made.

    Args:
        engine: The engine that has it.
        source: Its reference.
        config: For the destination, compression and attestations.
        proof: Why it may be pushed; None refuses it.
        archs: GPU architectures, where it was slimmed to these.
        target: The target of bake that it was built from, so that its provenance tells of that
            build. Without one, the provenance says only which image it was made from.
        logs: Folder for the log.
        ui: Shows progress.

    Raises:
        PushError: It must not be pushed, the registry refused it, or holds something else.
        EngineError: There is no such image, or this engine's builder cannot push.
        NetworkError: The registry or the generator of the SBOM cannot be reached.
    """
    if proof is None:
        raise _unproved(source)
    _check_engine(engine)
    version = source.rpartition(":")[2] if ":" in source.rpartition("/")[2] else "latest"
    to = destination(config.push, name=None, version=version, archs=archs)
    layer_bytes = None
    if config.push.level:
        definition, layer_bytes = _repacked(engine, source, _IMAGE, config, ui)
    elif target is None:
        definition = _copy(engine, source, _IMAGE, ui)
    else:
        definition = {"target": {_IMAGE: dict(target)}}
    job = _Job(
        source=source,
        variant=None,
        to=to,
        definition=definition,
        copied=target is None or bool(config.push.level),
        layer_bytes=layer_bytes,
        variables={},
        annotations={
            "org.opencontainers.image.title": to.repository.rpartition("/")[2],
            **_gpu_annotations(archs, proof),
        },
    )
    return _push(engine, job, config=config, logs=logs, ui=ui)


@dataclass(frozen=True)
class _Job:
    """One push: what bake is told, and what is said of the image."""

    source: str
    variant: str | None
    to: Destination
    definition: dict[str, Any]
    variables: Mapping[str, str]
    annotations: dict[str, str]
    copied: bool = False  # it is `FROM` the source, and nothing else
    layer_bytes: int | None = None  # of its layers as they were packed anew for this push

    @property
    def target(self) -> str:
        return self.variant or _IMAGE


def _copy(engine: Engine, source: str, target: str, ui: Ui) -> dict[str, Any]:
    """Return what bake makes of an image of the engine: that image."""
    contexts = {"subject": image_context(engine, source, ui)}
    return {"target": {target: {"dockerfile-inline": "FROM subject\n", "contexts": contexts}}}


def _repacked(
    engine: Engine, source: str, target: str, config: Config, ui: Ui
) -> tuple[dict[str, Any], int]:
    """Pack an image's layers anew in the engine; return what sends them so, and their bytes."""
    packed = repack_image(source, Repacking(level=config.push.level), client=engine.client, ui=ui)
    return _copy(engine, source, target, ui), packed.after_bytes


def _push(engine: Engine, job: _Job, *, config: Config, logs: Path, ui: Ui) -> PushedImage:
    start = time.monotonic()
    settings = config.push
    local = _diff_ids(engine, job.source)
    attest = _attest(engine, config, ui)
    version = {"org.opencontainers.image.version": job.to.version}
    annotations = {**_origin(os.environ), **version, **job.annotations, **settings.annotations}
    target = job.definition["target"][job.target]
    target["tags"] = list(job.to.references)
    target["attest"] = attest
    target["output"] = [_output(config, annotations, indexed=bool(attest))]
    with (
        ui.step(f"push {job.to.references[0]}") as step,
        _names_removed(engine, job.to.references),
    ):
        made = run_bake(
            engine,
            job.target,
            job.definition,
            BuildLog(step, logs / f"{job.target}-push.log"),
            variables=job.variables,
            ours=job.variant is not None and not job.copied,
            options=() if settings.provenance != "off" else ("--provenance=false",),
            failure=_failure(job.to),
        )
    digest = str(made.get("containerimage.digest", ""))
    stored, notes = _read_back(engine, job, digest, ui)
    if stored is not None:
        _check(stored, job, config, annotations, indexed=bool(attest))
    same = stored.diff_ids == local if stored is not None and local else None
    pushed = PushedImage(
        source=job.source,
        variant=job.variant,
        references=job.to.references,
        digest=digest,
        image_digest=stored.image_digest if stored else None,
        pull_bytes=stored.pull_bytes if stored else None,
        layers=stored.layers if stored else (),
        attestations=stored.attestations if stored else (),
        annotations=annotations,
        same_layers=same,
        seconds=round(time.monotonic() - start, 1),
        notes=(*notes, *_differs(job, same)),
    )
    size = "" if pushed.pull_bytes is None else f", {human_bytes(pushed.pull_bytes)}"
    ui.note(f"pushed {pushed.pinned}{size}")
    return pushed


def _differs(job: _Job, same: bool | None) -> tuple[str, ...]:
    """Say so where the layers in the registry are not those of the engine's image.

    Raises:
        PushError: Nothing was to be built: another image of this name was pushed.
    """
    if same is not False:
        return ()
    if job.copied:
        raise PushError(
            f"{job.to.references[0]} has other layers than {job.source} of this engine",
            why="The builder took the name from somewhere else.",
            way_out="Tag the image with a name that no registry has, and push that.",
        )
    return (
        "steps were built anew for the push (their cache was gone), so the layers are not those of "
        "the image in the engine; where there is a gate, it compared the answers of these",
    )


def _read_back(
    engine: Engine, job: _Job, digest: str, ui: Ui
) -> tuple[Stored | None, tuple[str, ...]]:
    """Return what the registry holds; a registry that only buildx' builder reaches is said."""
    try:
        return read_stored(engine, job.to.repository, digest), ()
    except NetworkError as error:
        note = " ".join(f"not read back: {error.what}: {error.why}".split())
        ui.warn(note)
        return None, (note,)


def _check(
    stored: Stored, job: _Job, config: Config, annotations: Mapping[str, str], *, indexed: bool
) -> None:
    """Hold what arrived against what was asked for.

    Raises:
        PushError: Something is missing.
    """
    missing = []
    if config.image.compression == "zstd" and not stored.all_zstd:
        missing.append(f"zstd layers (they are {', '.join(sorted(set(stored.layers)))})")
    if job.layer_bytes is not None and stored.pull_bytes != job.layer_bytes:
        missing.append(
            f"layers as they were packed for it ({human_bytes(job.layer_bytes)}; they are "
            f"{human_bytes(stored.pull_bytes)})"
        )
    for wanted, word in (
        (_PROVENANCE, config.push.provenance),
        (_SBOM, config.push.sbom),
    ):
        if word != "off" and not any(kind.startswith(wanted) for kind in stored.attestations):
            missing.append(f"an attestation {wanted}")
    for where, found in (
        ("manifest", stored.annotations),
        *((("index", stored.index_annotations),) if indexed else ()),
    ):
        lost = [key for key, value in annotations.items() if found.get(key) != value]
        if lost:
            missing.append(f"annotations of the {where}: {', '.join(lost)}")
    if missing:
        raise PushError(
            f"{job.to.references[0]} was pushed, and the registry holds it without a part",
            why="missing: " + "; ".join(missing),
            way_out="A newer buildx and BuildKit may keep it (BuildKit 0.11 or newer is needed), "
            "or\nask for less: push.provenance, push.sbom.",
        )


# What may be pushed, and with what.


def _profile(build: Build) -> str:
    """Return the slim profile that a build has followed; "none" where nothing was taken out."""
    own = compat().variants[build.variant].profile
    if build.variant == "stock":
        return "none"
    return own or build.variables["SLIM_PROFILE"]


def _proof(build: Build) -> Proof:
    """Return why a build may be pushed.

    The gate is a step of the build: with it on, an image that exists has passed it.

    Raises:
        PushError: It was slimmed, and the gate is off.
    """
    if _profile(build) == "none":
        return "not slimmed"
    if build.variables["GATE"] != "on":
        raise _unproved(build.variant)
    return "gate"


def _unproved(name: str) -> PushError:
    return PushError(
        f"{name} is not pushed: its answers were not compared with the stock ones",
        why="An image that was slimmed is pushed only if it has passed the parity gate.",
        way_out="Leave `gate: true` in tfslim.yaml (and out `--no-gate`).",
    )


def _check_engine(engine: Engine) -> None:
    if engine.driver == "docker" and not engine.cache_export:
        raise EngineError(
            "this engine's own BuildKit cannot push zstd layers or attestations",
            why=engine.cache_reason,
            way_out='Set {"features": {"containerd-snapshotter": true}} in '
            "/etc/docker/daemon.json and\nrestart docker, or name another builder: --builder.",
        )


def _attest(engine: Engine, config: Config, ui: Ui) -> list[str]:
    """Return the attestations that BuildKit is asked for."""
    wanted = []
    if config.push.provenance != "off":
        wanted.append(f"type=provenance,mode={config.push.provenance}")
    match config.push.sbom:
        case "off":
            pass
        case "auto" if engine.driver == "docker":
            wanted.append(f"type=sbom,generator={sbom_generator(engine, config, ui)}")
        case "auto":
            wanted.append("type=sbom")
        case image:
            wanted.append(f"type=sbom,generator={image}")
    return wanted


def _output(config: Config, annotations: Mapping[str, str], *, indexed: bool) -> str:
    """Return bake's output: fields as CSV, as values may hold commas."""
    image = config.image
    fields = [
        "type=registry",
        "oci-mediatypes=true",
        f"compression={image.compression}",
        f"compression-level={image.compression_level}",
        # Layers of a base, too; packed anew, they are all as they should be.
        *(() if config.push.level else ("force-compression=true",)),
    ]
    for key, value in annotations.items():
        fields.append(f"annotation-manifest.{key}={value}")
        if indexed:  # an index exists only with attestations
            fields.append(f"annotation-index.{key}={value}")
    row = io.StringIO()
    csv.writer(row, lineterminator="").writerow(fields)
    return row.getvalue()


# What is said of an image: https://specs.opencontainers.org/image-spec/annotations/


def _variant_annotations(build: Build, archs: Sequence[str], proof: Proof) -> dict[str, str]:
    capabilities = ", ".join(_capability(arch) for arch in _sorted(archs))
    gpus = f" for GPUs of compute capability {capabilities}" if archs else ""
    return {
        "org.opencontainers.image.title": build.variant,
        "org.opencontainers.image.description": f"TensorFlow {build.tensorflow}{gpus}",
        "io.tfslim.variant": build.variant,
        "io.tfslim.tensorflow": build.tensorflow,
        "io.tfslim.profile": _profile(build),
        **_gpu_annotations(archs, proof),
    }


def _gpu_annotations(archs: Sequence[str], proof: Proof) -> dict[str, str]:
    """Return which GPUs an image is for, as registries and deployments may read it."""
    ordered = _sorted(archs)
    return {
        "io.tfslim.cuda-archs": ",".join(ordered) or "all",
        "io.tfslim.compute-capabilities": ",".join(_capability(arch) for arch in ordered) or "all",
        "io.tfslim.gate": "passed" if proof == "gate" else "not slimmed",
    }


def _origin(env: Mapping[str, str]) -> dict[str, str]:
    """Return where the sources are, as far as GitHub Actions says it."""
    found = {}
    if env.get("GITHUB_REPOSITORY"):
        server = env.get("GITHUB_SERVER_URL") or "https://github.com"
        found["org.opencontainers.image.source"] = f"{server}/{env['GITHUB_REPOSITORY']}"
    if env.get("GITHUB_SHA"):
        found["org.opencontainers.image.revision"] = env["GITHUB_SHA"]
    return found


def _sorted(archs: Sequence[str]) -> list[str]:
    """Return architectures as numbers without a dot, smallest first."""
    plain = {arch.replace(".", "") for arch in archs}
    return sorted(plain, key=lambda arch: (int(arch.rstrip("af")), arch))


def _capability(arch: str) -> str:
    """Return 90 as 9.0, 90a as 9.0a and 120 as 12.0."""
    match = re.fullmatch(r"(\d+)(\d)([af]?)", arch)
    return f"{match[1]}.{match[2]}{match[3]}" if match else arch


# The engine's side of it.


def _diff_ids(engine: Engine, source: str) -> tuple[str, ...]:
    """Return the digests of the unpacked layers of an image of the engine.

    Raises:
        EngineError: It has no such image.
    """
    with contextlib.closing(engine.client()) as client:
        try:
            layers = client.images.get(source).attrs.get("RootFS", {}).get("Layers") or ()
        except ImageNotFound as error:
            raise EngineError(
                f"the engine has no image {source}", way_out="Build or load it first."
            ) from error
        except DockerException as error:
            raise EngineError(f"{source} cannot be inspected", why=str(error)) from error
    return tuple(layers)


@contextlib.contextmanager
def _names_removed(engine: Engine, references: Sequence[str]) -> Iterator[None]:
    """Take away the names that a push leaves in the engine, unless they were there before."""
    if engine.driver != "docker":
        yield
        return
    with contextlib.closing(engine.client()) as client:
        new = [name for name in references if not client.images.list(name=name)]
        try:
            yield
        finally:
            for name in new:
                with contextlib.suppress(DockerException):
                    client.images.remove(name, noprune=True)


class _Failure:
    """Tells from the end of a push's log what kind of failure it was."""

    def __init__(self, to: Destination) -> None:
        self._to = to

    def __call__(self, target: str, said: str, log: Path) -> TfslimError:
        tail = "\n".join(said.splitlines()[-12:])
        host = self._to.repository.partition("/")[0]
        if _NO_ATTESTATION.search(said):
            return EngineError(
                "this builder cannot attest anything",
                why=tail,
                way_out="Use BuildKit 0.11 or newer (--builder), or set push.provenance and "
                "push.sbom to off.",
            )
        if match := _NO_GENERATOR.search(said):
            return _no_generator(match[1].rstrip(":"), tail)
        errors = "\n".join(line for line in said.splitlines() if _ERROR_LINE.match(line))
        for pattern, what, way_out in _REFUSALS:
            if re.search(pattern, errors, re.IGNORECASE):
                return PushError(
                    f"{host} refuses {self._to.references[0]}: {what}",
                    why=tail,
                    way_out=way_out.replace("HOST", host),
                )
        if _BROKEN_OFF.search(errors):
            return NetworkError(
                f"the push of {self._to.references[0]} broke off",
                why=tail,
                way_out=f"Check that {host} can be reached from the builder, then run the same "
                "command again:\nwhat has arrived is not sent twice.",
            )
        return build_failure(target, said, log)


def _failure(to: Destination) -> _Failure:
    return _Failure(to)


def _no_generator(name: str, tail: str) -> NetworkError:
    return NetworkError(
        f"the generator of the SBOM, {name}, cannot be had by the builder",
        why=tail,
        way_out="Nothing was pushed. Name an image that it reaches (push.sbom: REGISTRY/IMAGE; "
        f"mirror\n{DEFAULT_GENERATOR}), or leave the list of packages out (push.sbom: off).",
    )
