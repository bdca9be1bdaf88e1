"""What a push leaves in a real registry, and what a person sees who may not push."""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from loopback import Door, buildkit_at, registry
from tfslim.build.bake import build_images
from tfslim.build.bases import Base, image_context
from tfslim.build.builder import use_builder
from tfslim.build.push import PushedImage, push_built, push_image, with_push
from tfslim.config import CacheConfig, Config, ImageConfig, PushConfig
from tfslim.engine.engine import Engine
from tfslim.errors import NetworkError, PushError
from tfslim.images.pushed import read_stored
from tfslim.plan import make_plan
from tfslim.ui import Ui

pytestmark = pytest.mark.image

TINY = "tfslim-test/tiny:1"
LARGE = "tfslim-test/large:1"  # of three megabytes, in three layers
PASSWORD = "$2b$05$o9uQ2rAyD5H3gPTud60sM.eN296NRTTLCvmWFP51MxpuHMEg1bNKu"  # of "secret"
UI = Ui(quiet=True)


def settings(repository: str, **push: object) -> Config:
    config = Config(push=PushConfig.model_validate({"sbom": "off", **push}))
    return with_push(config, repository, ["1.2", "latest"])


def push(engine: Engine, source: str, config: Config, logs: Path) -> PushedImage:
    return push_image(
        engine, source, config=config, proof="gate", archs=("90", "8.0"), logs=logs, ui=UI
    )


@pytest.fixture(scope="module")
def images(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Two images whose layers are gzip, as those of most bases are."""
    folder = tmp_path_factory.mktemp("images")
    for name in "abc":
        (folder / name).write_bytes(os.urandom(1_000_000))
    (folder / "small").write_text("few bytes\n")
    (folder / "large.Dockerfile").write_text("FROM scratch\nCOPY a /\nCOPY b /\nCOPY c /\n")
    (folder / "tiny.Dockerfile").write_text("FROM scratch\nCOPY small /\n")
    for tag, name in ((TINY, "tiny"), (LARGE, "large")):
        done = engine.buildx(
            [
                *("build", "-q", "-t", tag, "-f", str(folder / f"{name}.Dockerfile")),
                *("--output", "type=docker,compression=gzip,force-compression=true", str(folder)),
            ]
        )
        assert done.ok, done.tail
    yield
    for tag in (TINY, LARGE):
        engine.docker(["image", "rm", tag])


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


def test_an_image_arrives_with_zstd_layers_tags_annotations_and_its_provenance(
    engine: Engine,
    images: None,
    address: str,
    client: docker.DockerClient,
    tmp_path: Path,
) -> None:
    config = settings(f"{address}/models/tiny", annotations={"org.example": "commas, too"})
    pushed = push(engine, TINY, config, tmp_path)
    assert pushed.references == (
        f"{address}/models/tiny:1.2-sm80-sm90",
        f"{address}/models/tiny:latest-sm80-sm90",
    )
    assert pushed.same_layers is True
    for reference in pushed.references:
        raw = engine.buildx(["imagetools", "inspect", "--raw", reference])
        index = json.loads(raw.stdout)
        assert index["annotations"]["io.tfslim.compute-capabilities"] == "8.0,9.0"
        assert index["annotations"]["org.example"] == "commas, too"
        assert index["annotations"]["org.opencontainers.image.version"] == "1.2"
    stored = read_stored(engine, f"{address}/models/tiny", pushed.digest)
    assert stored.layers == ("application/vnd.oci.image.layer.v1.tar+zstd",)
    assert stored.annotations["io.tfslim.cuda-archs"] == "80,90"
    assert [kind.rpartition("/")[0] for kind in stored.attestations] == [
        "https://slsa.dev/provenance"
    ]
    assert not client.images.list(name=pushed.references[0]), "no name is left in the engine"


def test_a_variant_is_built_and_pushed_from_the_cache_with_its_own_provenance(
    engine: Engine, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way of a variant, with a bake file whose `stock` is a few bytes."""
    folder = tmp_path / "dockerfiles"
    (folder / "stock").mkdir(parents=True)
    (folder / "app").mkdir()
    (folder / "app" / "code").write_text("few bytes\n")
    (folder / "docker-bake.hcl").write_text('target "stock" { context = "dockerfiles/stock" }\n')
    (folder / "stock" / "Dockerfile").write_text("FROM scratch\nCOPY --from=app code /\n")
    monkeypatch.setattr("tfslim.build.bake.dockerfiles", lambda: folder)
    config = settings(f"{address}/models").model_copy(
        update={
            "image": ImageConfig(repository="tfslim-test"),
            "cache": CacheConfig(local=False),
        }
    )
    builds = make_plan(config, ["stock"])
    names = builds[0].bases
    given: dict[str, Any] = {
        "config": config,
        "bases": {name: Base(name, "registry", "", "sha256:0", (), None) for name in names},
        "model": None,
        "trial": None,
        "logs": tmp_path,
        "ui": UI,
    }
    (built,) = build_images(engine, builds, **given)
    try:
        pushed = push_built(engine, built, **given)
    finally:
        engine.docker(["image", "rm", builds[0].tag])
    assert pushed.same_layers is True
    assert pushed.references[0] == f"{address}/models/stock:1.2"
    shown = engine.buildx(
        ["imagetools", "inspect", pushed.pinned, "--format", "{{json .Provenance}}"]
    )
    told = json.loads(shown.stdout)["SLSA"]["metadata"]
    (source,) = told["https://mobyproject.org/buildkit@v1#metadata"]["source"]["infos"]
    assert b"COPY --from=app code /" in base64.b64decode(source["data"])


def test_the_list_of_packages_names_what_is_in_the_image(
    engine: Engine, images: None, address: str, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY site /site\n")
    info = tmp_path / "site" / "lib" / "site-packages" / "thing-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thing\nVersion: 1.5\n")
    (info / "RECORD").write_text("thing-1.5.dist-info/METADATA,,\n")
    source = "tfslim-test/packages:1"
    assert engine.buildx(["build", "-q", "-t", source, "--load", str(tmp_path)]).ok
    try:
        config = settings(f"{address}/models/packages", sbom="auto")
        pushed = push(engine, source, config, tmp_path)
    finally:
        engine.docker(["image", "rm", source])
    assert "https://spdx.dev/Document" in pushed.attestations
    shown = engine.buildx(
        ["imagetools", "inspect", pushed.references[0], "--format", "{{json .SBOM}}"]
    )
    packages = json.loads(shown.stdout)["SPDX"]["packages"]
    assert ("thing", "1.5") in {(p["name"], p.get("versionInfo")) for p in packages}


def test_layers_packed_anew_are_what_is_pulled_and_the_image_is_the_same(
    engine: Engine, address: str, client: docker.DockerClient, tmp_path: Path
) -> None:
    """Twice the same 12 MB, further apart than what BuildKit packs looks back."""
    tag, folder = "tfslim-test/alike:1", tmp_path / "context"
    folder.mkdir()
    half = os.urandom(12_000_000)
    for name in ("one", "two"):
        (folder / name).write_bytes(half)
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY one two /\n")
    done = engine.buildx(["build", "-q", "-t", tag, "--output", "type=docker", str(folder)])
    assert done.ok, done.tail
    before = client.api.inspect_image(tag)["RootFS"]["Layers"]
    try:
        pushed = push(engine, tag, settings(f"{address}/models/alike", level=3), tmp_path)
        assert pushed.pull_bytes is not None
        assert 12_000_000 < pushed.pull_bytes < 13_000_000
        assert pushed.same_layers is True
    finally:
        engine.docker(["image", "rm", tag])
    reference = f"{address}/models/alike@{pushed.image_digest}"
    client.images.pull(reference)  # the engine unpacks such a window
    try:
        assert client.api.inspect_image(reference)["RootFS"]["Layers"] == before
    finally:
        engine.docker(["image", "rm", reference])


def test_without_attestations_there_is_a_plain_manifest_with_the_annotations(
    engine: Engine, images: None, address: str, tmp_path: Path
) -> None:
    pushed = push(engine, TINY, settings(f"{address}/models/plain", provenance="off"), tmp_path)
    assert pushed.attestations == ()
    assert pushed.digest == pushed.image_digest
    stored = read_stored(engine, f"{address}/models/plain", pushed.digest)
    assert stored.annotations["io.tfslim.cuda-archs"] == "80,90"


def test_a_push_that_broke_off_is_run_again_and_sends_only_what_is_missing(
    engine: Engine, images: None, address: str, tmp_path: Path
) -> None:
    door = Door(address, shuts_after=1_600_000)
    config = settings(f"{door.address}/models/large")
    with pytest.raises(NetworkError, match="broke off") as broken:
        push(engine, LARGE, config, tmp_path)
    assert "run the same" in broken.value.way_out
    door.open_again()
    pushed = push(engine, LARGE, config, tmp_path)
    assert pushed.same_layers is True
    assert 900_000 < door.bytes_in < 2_500_000
    door.close()


def test_a_registry_that_wants_another_login_is_named_and_docker_s_own_login_is_taken(
    engine: Engine, images: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with registry(tmp_path / "closed", htpasswd=f"somebody:{PASSWORD}") as closed:
        config = settings(f"{closed}/models/tiny")
        with pytest.raises(PushError, match="another login") as refused:
            push(engine, TINY, config, tmp_path)
        assert f"docker login {closed}" in refused.value.way_out

        login = base64.b64encode(b"somebody:secret").decode()
        docker_config = tmp_path / "docker"
        docker_config.mkdir()
        (docker_config / "config.json").write_text(json.dumps({"auths": {closed: {"auth": login}}}))
        monkeypatch.setenv("DOCKER_CONFIG", str(docker_config))
        assert push(engine, TINY, config, tmp_path).same_layers is True
        logs = "".join(path.read_text() for path in tmp_path.glob("*.log"))
        assert login not in logs
        assert "secret" not in logs


def test_a_generator_that_cannot_be_had_ends_the_push_before_anything_is_sent(
    engine: Engine, images: None, address: str, tmp_path: Path
) -> None:
    config = settings(f"{address}/models/none", sbom=f"{address}/no/such-sbom-scanner:1")
    with pytest.raises(NetworkError, match="generator") as failed:
        push(engine, TINY, config, tmp_path)
    assert "push.sbom" in failed.value.way_out
    asked = engine.buildx(["imagetools", "inspect", f"{address}/models/none:1.2-sm80-sm90"])
    assert not asked.ok


def test_a_buildkit_at_an_address_builds_pushes_and_exports_its_cache(
    engine: Engine, images: None, address: str, tmp_path: Path
) -> None:
    if not engine.endpoint.host.startswith("unix://"):
        pytest.skip("the engine's BuildKit is reached over its socket here")
    place = Path(tempfile.mkdtemp(prefix="tfslim-")) / "b.sock"
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    with buildkit_at(engine.endpoint.host.removeprefix("unix://"), place) as at:
        remote = use_builder(engine, at, UI)
        try:
            assert remote.driver == "remote"
            cache = f"type=local,dest={tmp_path / 'cache'},mode=max"
            built = remote.buildx(["build", "-q", "--cache-to", cache, str(tmp_path)])
            assert built.ok, built.tail
            assert (tmp_path / "cache" / "index.json").is_file()
            assert image_context(remote, TINY, UI).startswith("oci-layout://")
            pushed = push(remote, TINY, settings(f"{address}/models/remote"), tmp_path)
            assert pushed.same_layers is True
            assert pushed.attestations
            for name in pushed.references:  # this BuildKit is the engine's, and keeps the names
                engine.docker(["image", "rm", name])
        finally:
            assert engine.buildx(["rm", remote.builder]).ok
