"""Where a push goes, what it says of an image, and what it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner

from tfslim.build.bake import BuiltImage
from tfslim.build.bases import Base
from tfslim.build.push import (
    PushedImage,
    check_pushable,
    destination,
    push_built,
    push_image,
    with_push,
)
from tfslim.cli import cli
from tfslim.cli_build import Result, Wish
from tfslim.config import Config, PushConfig
from tfslim.engine.engine import Engine
from tfslim.errors import (
    BuildFailedError,
    ConfigError,
    EngineError,
    NetworkError,
    PushError,
    TfslimError,
)
from tfslim.plan import Build, make_plan
from tfslim.proc import Completed
from tfslim.ui import Ui

INDEX = "sha256:" + "1" * 64
IMAGE = "sha256:" + "2" * 64
ATTESTED = "sha256:" + "3" * 64
LAYER = "application/vnd.oci.image.layer.v1.tar+zstd"
PREDICATES = ("https://spdx.dev/Document", "https://slsa.dev/provenance/v0.2")
UI = Ui(quiet=True)


class FakeImages:
    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine

    def get(self, name: str) -> Any:
        layers = self._engine.local_layers
        return type("Image", (), {"attrs": {"RootFS": {"Layers": layers}}, "labels": {}})()

    def list(self, name: str) -> list[str]:
        return [name] if name in self._engine.known else []

    def remove(self, name: str, noprune: bool) -> None:
        self._engine.removed.append(name)


class FakeEngine:
    """Plays buildx and a registry that keeps the last thing it was pushed."""

    driver = "docker"
    cache_export = True
    cache_reason = "the classic store"
    build_network = "default"

    def __init__(self, said: str = "", *, layer: str = LAYER, lost: Sequence[str] = ()) -> None:
        self.said = said
        self.layer = layer
        self.lost = lost
        self.local_layers = ["sha256:a"]
        self.known: list[str] = []
        self.removed: list[str] = []
        self.definition: dict[str, Any] = {}
        self.args: list[str] = []
        self.annotations: dict[str, dict[str, str]] = {}
        self.attested: list[str] = []

    def client(self) -> Any:
        return type("Client", (), {"images": FakeImages(self), "close": lambda _: None})()

    def buildx(
        self,
        args: Sequence[str],
        on_line: Callable[[str], None] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float | None = None,
    ) -> Completed:
        if args[0] == "imagetools":
            return Completed(("buildx",), 0, json.dumps(self._stored(args)), "")
        self.args = list(args)
        files = [Path(args[i + 1]) for i, arg in enumerate(args) if arg == "-f"]
        self.definition = json.loads(files[-1].read_text())["target"][args[-1]]
        fields = next(csv.reader(self.definition["output"]))
        for kind in ("index", "manifest"):
            found = [f.removeprefix(f"annotation-{kind}.") for f in fields if f"-{kind}." in f]
            self.annotations[kind] = {f.partition("=")[0]: f.partition("=")[2] for f in found}
        self.attested = [a for a in self.definition["attest"] if a not in self.lost]
        metadata = {args[-1]: {"containerimage.digest": INDEX if self.attested else IMAGE}}
        Path(args[args.index("--metadata-file") + 1]).write_text(json.dumps(metadata))
        return Completed(("buildx",), 1 if self.said else 0, self.said, "")

    def _stored(self, args: Sequence[str]) -> dict[str, Any]:
        digest = args[2].partition("@")[2]
        if "--format" in args:
            return {"rootfs": {"diff_ids": ["sha256:a"]}}
        if digest == INDEX:
            return {
                "annotations": self.annotations["index"],
                "manifests": [
                    {
                        "digest": IMAGE,
                        "size": 1,
                        "platform": {"os": "linux", "architecture": "amd64"},
                    },
                    {
                        "digest": ATTESTED,
                        "size": 1,
                        "platform": {"os": "unknown", "architecture": "unknown"},
                        "annotations": {
                            "vnd.docker.reference.digest": IMAGE,
                            "vnd.docker.reference.type": "attestation-manifest",
                        },
                    },
                ],
            }
        if digest == ATTESTED:
            kinds = [PREDICATES["provenance" in wanted] for wanted in self.attested]
            return {"layers": [_layer("x", {"in-toto.io/predicate-type": kind}) for kind in kinds]}
        return {"layers": [_layer(self.layer)], "annotations": self.annotations["manifest"]}


def _layer(media_type: str, annotations: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "mediaType": media_type,
        "digest": "sha256:b",
        "size": 7,
        "annotations": annotations or {},
    }


def config(**push: object) -> Config:
    given = {"repository": "ghcr.io/org/models", "sbom": "org/scanner:1", **push}
    return Config(push=PushConfig.model_validate(given))


def plan(settings: Config, variant: str) -> Build:
    (build,) = make_plan(settings, [variant])
    return build


def push(
    tmp_path: Path, engine: FakeEngine, settings: Config, variant: str = "inference"
) -> PushedImage:
    build = plan(settings, variant)
    bases = {n: Base(n, "registry", f"docker-image://{n}", "p", (), None) for n in build.bases}
    image = BuiltImage(build=build, digest="x", seconds=1, steps=1, cached_steps=1, bases=bases)
    return push_built(
        cast("Engine", engine),
        image,
        config=settings,
        bases=bases,
        model=None,
        trial=None,
        logs=tmp_path,
        ui=UI,
    )


@pytest.mark.parametrize(
    ("repository", "tags", "archs", "expected"),
    [
        ("ghcr.io/org/m", ("1.2",), ("90",), ["ghcr.io/org/m/inference:1.2-sm90"]),
        ("ghcr.io/org/m", ("1.2",), ("9.0", "80"), ["ghcr.io/org/m/inference:1.2-sm80-sm90"]),
        ("ghcr.io/org/m", (), ("120", "90a"), ["ghcr.io/org/m/inference:2.21.0-sm90a-sm120"]),
        ("org/m-{variant}", ("1", "1.2"), (), ["org/m-inference:1", "org/m-inference:1.2"]),
        ("127.0.0.1:5000/m", ("a",), (), ["127.0.0.1:5000/m/inference:a"]),
    ],
)
def test_a_tag_names_the_gpus_that_the_image_has_code_for(
    repository: str, tags: tuple[str, ...], archs: tuple[str, ...], expected: list[str]
) -> None:
    settings = PushConfig(repository=repository, tags=tags)
    found = destination(settings, name="inference", version="2.21.0", archs=archs)
    assert list(found.references) == expected


def test_a_repository_with_a_tag_is_refused_as_each_tag_gets_its_gpus() -> None:
    settings = PushConfig(repository="ghcr.io/org/m:1.2")
    with pytest.raises(ConfigError, match="ends in a tag"):
        destination(settings, name="inference", version="1", archs=())


@pytest.mark.parametrize("repository", ["ghcr.io/Org/m", "https://ghcr.io/m", "-m", "a b"])
def test_a_name_that_no_registry_takes_is_refused_with_the_key_named(repository: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used") as refused:
        with_push(Config(), repository)
    assert "repository" in refused.value.why


def test_a_push_to_nowhere_says_where_the_repository_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no repository") as refused:
        Wish(push=True).over(Config())
    assert "push.repository" in refused.value.way_out


def test_a_variant_is_pushed_with_zstd_layers_attestations_and_notes_on_both_levels(
    tmp_path: Path,
) -> None:
    engine = FakeEngine()
    pushed = push(tmp_path, engine, config(annotations={"org.example": "a, b"}))
    fields = next(csv.reader(engine.definition["output"]))
    assert {"type=registry", "compression=zstd", "force-compression=true"} <= set(fields)
    assert engine.definition["attest"] == [
        "type=provenance,mode=max",
        "type=sbom,generator=org/scanner:1",
    ]
    assert "--provenance=false" not in engine.args
    assert engine.annotations["index"] == engine.annotations["manifest"] == pushed.annotations
    assert pushed.annotations["io.tfslim.cuda-archs"] == "90"
    assert pushed.annotations["io.tfslim.gate"] == "passed"
    assert pushed.annotations["org.example"] == "a, b"
    assert pushed.references == ("ghcr.io/org/models/inference:2.21.0-py3.13-sm90",)
    assert pushed.pinned == f"ghcr.io/org/models/inference@{INDEX}"
    assert (pushed.image_digest, pushed.pull_bytes, pushed.same_layers) == (IMAGE, 7, True)


def test_stock_holds_code_for_all_gpus_and_its_tag_says_none(tmp_path: Path) -> None:
    pushed = push(tmp_path, FakeEngine(), config(tags=["1"]), "stock")
    assert pushed.references == ("ghcr.io/org/models/stock:1",)
    assert pushed.annotations["io.tfslim.compute-capabilities"] == "all"
    assert pushed.annotations["io.tfslim.gate"] == "not slimmed"


def test_names_that_a_push_leaves_in_the_engine_are_taken_away_and_others_stay(
    tmp_path: Path,
) -> None:
    engine = FakeEngine()
    name = "ghcr.io/org/models/inference"
    engine.known = [f"{name}:mine-sm90"]
    push(tmp_path, engine, config(tags=["mine", "new"]))
    assert engine.removed == [f"{name}:new-sm90"]


def test_without_attestations_nothing_is_said_on_an_index_that_is_not_there(
    tmp_path: Path,
) -> None:
    engine = FakeEngine()
    pushed = push(tmp_path, engine, config(provenance="off", sbom="off"))
    assert engine.annotations["index"] == {}
    assert "--provenance=false" in engine.args
    assert (pushed.digest, pushed.attestations) == (IMAGE, ())


@pytest.mark.parametrize(
    ("engine", "missing"),
    [
        (FakeEngine(layer="application/vnd.oci.image.layer.v1.tar+gzip"), "zstd layers"),
        (FakeEngine(lost=["type=provenance,mode=max"]), "slsa.dev/provenance"),
        (FakeEngine(lost=["type=sbom,generator=org/scanner:1"]), "spdx.dev"),
    ],
)
def test_what_arrived_without_a_part_is_an_error(
    tmp_path: Path, engine: FakeEngine, missing: str
) -> None:
    with pytest.raises(PushError, match="without a part") as failed:
        push(tmp_path, engine, config())
    assert missing in failed.value.why


def test_an_image_that_was_slimmed_without_the_gate_is_not_pushed() -> None:
    settings = config().model_copy(update={"gate": False})
    engine = cast("Engine", FakeEngine())
    with pytest.raises(PushError, match="not compared"):
        check_pushable(engine, [plan(settings, "stock"), plan(settings, "inference")])
    check_pushable(engine, [plan(settings, "stock")])
    with pytest.raises(PushError, match="not compared"):
        push_image(engine, "x:1", config=settings, proof=None, logs=Path(), ui=UI)


def test_an_image_of_another_name_s_layers_is_an_error_where_nothing_was_built(
    tmp_path: Path,
) -> None:
    engine = FakeEngine()
    engine.local_layers = ["sha256:other"]
    with pytest.raises(PushError, match="other layers"):
        push_image(
            cast("Engine", engine), "x:1", config=config(), proof="gate", logs=tmp_path, ui=UI
        )
    assert "built anew" in " ".join(push(tmp_path, engine, config()).notes)


def test_an_engine_whose_buildkit_cannot_attest_is_refused_before_anything_is_built() -> None:
    engine = FakeEngine()
    engine.cache_export = False
    with pytest.raises(EngineError, match="cannot push") as refused:
        check_pushable(cast("Engine", engine), [])
    assert "containerd-snapshotter" in refused.value.way_out


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (
            "ERROR: unexpected status from POST request: 401 Unauthorized",
            PushError,
            "docker login ghcr",
        ),
        (
            "ERROR: denied: requested access to the resource is denied",
            PushError,
            "docker login ghcr",
        ),
        ("#6 ERROR: name unknown: The repository does not exist", PushError, "push.repository"),
        ("ERROR: x509: certificate signed by unknown authority", PushError, "certs.d/ghcr.io"),
        (
            "ERROR: http: server gave HTTP response to HTTPS client",
            PushError,
            "insecure-registries",
        ),
        ("ERROR: toomanyrequests: slow down", PushError, "run the same command again"),
        ("ERROR: failed to do request: Put …: write: broken pipe", NetworkError, "run the same"),
        (
            "ERROR: unexpected status from PUT request: 503 Service Unavailable",
            NetworkError,
            "again",
        ),
        (
            "resolve image config for docker-image://docker.io/docker/buildkit-syft-scanner:stable-1:\n"
            "ERROR: failed to do request: no such host",
            NetworkError,
            "push.sbom: off",
        ),
        ("attestations are not supported by the current BuildKit daemon", EngineError, "0.11"),
        ("no space left on device", TfslimError, "prune"),
        (
            "#9 31.401 mkdir: Permission denied\n"
            'ERROR: failed to solve: process "/bin/sh mkdir" did not complete successfully: 1',
            BuildFailedError,
            "Correct the Dockerfile",
        ),
        (
            "ERROR: failed to resolve source metadata for docker.io/library/python: no such host",
            NetworkError,
            "base-source: debian",
        ),
    ],
)
def test_a_failure_is_told_apart_by_what_was_said(
    tmp_path: Path, said: str, kind: type[TfslimError], words: str
) -> None:
    with pytest.raises(kind) as failed:
        push(tmp_path, FakeEngine(said), config())
    assert words in failed.value.way_out
    assert said.splitlines()[-1] in failed.value.why


def test_github_s_variables_say_where_the_sources_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_REPOSITORY", "org/app")
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.example")
    monkeypatch.setenv("GITHUB_SHA", "c" * 40)
    found = push(tmp_path, FakeEngine(), config()).annotations
    assert found["org.opencontainers.image.source"] == "https://github.example/org/app"
    assert found["org.opencontainers.image.revision"] == "c" * 40


def test_json_of_a_build_has_what_was_pushed_beside_each_image(tmp_path: Path) -> None:
    settings = config()
    build = plan(settings, "inference")
    image = BuiltImage(build=build, digest="x", seconds=1, steps=1, cached_steps=1, bases={})
    result = Result([image], [push(tmp_path, FakeEngine(), settings)])
    (item,) = result.as_data()
    assert item["pushed"]["pinned"] == f"ghcr.io/org/models/inference@{INDEX}"
    assert any("ghcr.io/org/models/inference:" in line for line in result.lines())
    assert "pushed" not in Result([image]).as_data()[0]


class FakeLine:
    """Notes what the verb asks for, in order; `refuses` as check_push does."""

    asked: list[str] = []  # noqa: RUF012 (each test sets its own)
    refuses = False
    engine = FakeEngine()

    def __init__(self, config: Config, *_: object, **__: object) -> None:
        self.asked.append(str(config.push.repository))

    def check_push(self) -> None:
        self.asked.append("check")
        if self.refuses:
            raise PushError("no")

    def build(self) -> list[BuiltImage]:
        self.asked.append("build")
        return []

    def push(self, built: Sequence[BuiltImage]) -> list[PushedImage]:
        self.asked.append("push")
        return []


@pytest.mark.parametrize(
    ("args", "refuses", "asked"),
    [
        (["stock"], False, ["None", "build"]),
        (["stock", "--push-to", "ghcr.io/o/m"], False, ["ghcr.io/o/m", "check", "build", "push"]),
        (["stock", "--push-to", "ghcr.io/o/m"], True, ["ghcr.io/o/m", "check"]),
        (["stock", "--push"], False, []),
    ],
)
def test_build_refuses_a_push_that_cannot_be_before_it_builds(
    args: list[str],
    refuses: bool,
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tfslim.pipeline.Line", FakeLine)
    monkeypatch.setattr(FakeLine, "asked", [])
    monkeypatch.setattr(FakeLine, "refuses", refuses)
    result = CliRunner().invoke(cli, ["build", *args])
    assert FakeLine.asked == asked
    ended_well = asked[-1:] in (["build"], ["push"])
    assert (result.exception is None) == ended_well
