from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import ImageNotFound

from tfslim.build import bases, debian
from tfslim.build.bases import ensure_bases
from tfslim.errors import ConfigError, EngineError, NetworkError
from tfslim.proc import Completed
from tfslim.ui import Ui

PYTHON = "python:3.13-slim-trixie"
CUDA = "nvidia/cuda:12.4.1-runtime-ubuntu22.04"
DIGEST = "sha256:" + "a" * 64
CHILD = "sha256:" + "b" * 64
INDEX = {
    "digest": DIGEST,
    "manifests": [
        {"digest": "sha256:other", "platform": {"os": "linux", "architecture": "arm64"}},
        {"digest": CHILD, "platform": {"os": "linux", "architecture": "amd64"}},
        {"digest": "sha256:proof", "platform": {"os": "unknown", "architecture": "unknown"}},
    ],
}
MANIFEST = {"layers": [{"size": 30}, {"size": 12}]}
NO_HOST = "ERROR: dial tcp: lookup registry.example: no such host"


class FakeEngine:
    """An engine that keeps imported images in a dictionary, and a registry behind buildx."""

    driver = "docker"
    server_version = "28.0.0"

    def __init__(self, registry: dict[str, Any] | str) -> None:
        self.registry = registry
        self.asked: list[str] = []
        self.images: dict[str, SimpleNamespace] = {}
        self.imports = 0

    def buildx(self, args: Sequence[str], *, timeout: float | None = None) -> Completed:
        self.asked.append(args[2])
        assert timeout is not None, "a registry that never answers must not hang a run"
        if isinstance(self.registry, str):
            return Completed(tuple(args), 1, "", self.registry)
        if args[2] not in self.registry:
            return Completed(tuple(args), 1, "", f"ERROR: {args[2]}: not found")
        return Completed(tuple(args), 0, json.dumps(self.registry[args[2]]), "")

    def client(self) -> Any:
        api = SimpleNamespace(import_image_from_file=self._import)
        return SimpleNamespace(
            images=SimpleNamespace(get=self._get),
            api=api,
            version=lambda: {"Arch": "amd64"},
            close=lambda: None,
        )

    def _get(self, tag: str) -> SimpleNamespace:
        if tag not in self.images:
            raise ImageNotFound(tag)
        return self.images[tag]

    def _import(self, path: str, repository: str, tag: str, changes: list[str]) -> str:
        assert Path(path).exists()
        self.imports += 1
        labels = [line.removeprefix("LABEL ") for line in changes if line.startswith("LABEL ")]
        pairs = dict(label.split("=", 1) for label in labels)
        self.images[f"{repository}:{tag}"] = SimpleNamespace(
            labels={key: value.strip('"') for key, value in pairs.items()},
            changes=changes,
            save=lambda named: [_layout()],
        )
        return '{"status": "sha256:1"}'


def _layout() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        index = json.dumps({"manifests": [{"digest": CHILD}]}).encode()
        member = tarfile.TarInfo("index.json")
        member.size = len(index)
        tar.addfile(member, io.BytesIO(index))
    return out.getvalue()


@pytest.fixture
def ui() -> Ui:
    return Ui(quiet=True)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for mmdebstrap; return the names that were built."""
    names: list[str] = []

    def build(recipe: debian.Recipe, work: Path, ui: Ui) -> debian.RootFs:
        names.append(recipe.name)
        archive = work / "root.tar.zst"
        archive.write_bytes(b"x" * 123)
        return debian.RootFs(archive, ("base-files=13.8", "libc6:amd64=2.41-12"))

    monkeypatch.setattr(debian, "build", build)
    return names


def online() -> FakeEngine:
    return FakeEngine({PYTHON: INDEX, f"python@{CHILD}": MANIFEST})


def test_registry_pins_by_digest_and_counts_this_architectures_layers(ui: Ui) -> None:
    found = ensure_bases(online(), [PYTHON, PYTHON], "registry", ui)  # type: ignore[arg-type]
    assert list(found) == [PYTHON]
    base = found[PYTHON]
    assert base.pin == DIGEST
    assert base.context == f"docker-image://{PYTHON}@{DIGEST}"
    assert base.pull_bytes == 42


def test_auto_prefers_the_registry(ui: Ui, built: list[str]) -> None:
    found = ensure_bases(online(), [PYTHON], "auto", ui)  # type: ignore[arg-type]
    assert found[PYTHON].origin == "registry"
    assert built == []


def test_auto_falls_back_with_a_message_and_asks_once(
    built: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    engine = FakeEngine(NO_HOST)
    found = ensure_bases(engine, [PYTHON, CUDA], "auto", Ui(interactive=False))  # type: ignore[arg-type]
    assert [base.origin for base in found.values()] == ["debian", "debian"]
    assert engine.asked == [PYTHON]
    said = capsys.readouterr().err
    assert "no such host" in said
    assert "Debian packages instead" in said


def test_unreachable_registry_names_the_way_out(ui: Ui, built: list[str]) -> None:
    with pytest.raises(NetworkError) as caught:
        ensure_bases(FakeEngine(NO_HOST), [PYTHON], "registry", ui)  # type: ignore[arg-type]
    assert "no such host" in caught.value.why
    assert "base-source: debian" in caught.value.way_out
    assert built == []


def test_auto_without_a_recipe_keeps_the_networks_error(ui: Ui, built: list[str]) -> None:
    with pytest.raises(NetworkError):
        ensure_bases(FakeEngine(NO_HOST), [PYTHON, "python:3.12-slim-bookworm"], "auto", ui)  # type: ignore[arg-type]
    assert built == []


def test_name_the_registry_does_not_have_is_not_a_network_error(ui: Ui, built: list[str]) -> None:
    with pytest.raises(ConfigError, match="has no image"):
        ensure_bases(FakeEngine({}), [PYTHON], "auto", ui)  # type: ignore[arg-type]
    assert built == []


def test_debian_refuses_unknown_names_before_building(ui: Ui, built: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        ensure_bases(FakeEngine({}), [PYTHON, "python:3.12-slim-trixie"], "debian", ui)  # type: ignore[arg-type]
    assert "python:3.12-slim-trixie" in caught.value.what
    assert PYTHON in caught.value.why
    assert built == []


def test_debian_base_is_built_once_and_found_again(ui: Ui, built: list[str]) -> None:
    engine = FakeEngine(NO_HOST)
    first = ensure_bases(engine, [PYTHON], "debian", ui)[PYTHON]  # type: ignore[arg-type]
    again = ensure_bases(engine, [PYTHON], "debian", ui)[PYTHON]  # type: ignore[arg-type]
    assert first == again
    assert built == [PYTHON]
    assert engine.asked == []
    assert first.context == f"docker-image://tfslim/base/{PYTHON}"
    assert first.packages == ("base-files=13.8", "libc6:amd64=2.41-12")
    assert first.pin.startswith("sha256:")
    assert first.pull_bytes == 123


def test_refresh_and_a_changed_recipe_build_again(
    ui: Ui, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine(NO_HOST)
    ensure_bases(engine, [PYTHON], "debian", ui)  # type: ignore[arg-type]
    ensure_bases(engine, [PYTHON], "debian", ui, refresh=True)  # type: ignore[arg-type]
    monkeypatch.setattr(debian, "_BUILDER_VERSION", 10**6)
    ensure_bases(engine, [PYTHON], "debian", ui)  # type: ignore[arg-type]
    assert built == [PYTHON] * 3


def test_image_settings_follow_the_recipe(ui: Ui, built: list[str]) -> None:
    engine = FakeEngine(NO_HOST)
    ensure_bases(engine, [CUDA], "debian", ui)  # type: ignore[arg-type]
    changes = engine.images[f"tfslim/base/{CUDA}"].changes
    assert 'ENV NVIDIA_DRIVER_CAPABILITIES="compute,utility"' in changes
    assert 'CMD ["/bin/bash"]' in changes


def test_container_builder_gets_an_oci_layout(
    ui: Ui, built: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    engine = FakeEngine(NO_HOST)
    engine.driver = "docker-container"
    base = ensure_bases(engine, [PYTHON], "debian", ui)[PYTHON]  # type: ignore[arg-type]
    folder, _, digest = base.context.removeprefix("oci-layout://").partition("@")
    assert digest == CHILD
    assert [path.name for path in Path(folder).iterdir()] == ["index.json"]


def test_failed_import_is_an_engine_error(
    ui: Ui, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine(NO_HOST)
    monkeypatch.setattr(engine, "_import", lambda *_, **__: '{"error": "no space left"}')
    with pytest.raises(EngineError, match="no space left"):
        ensure_bases(engine, [PYTHON], "debian", ui)  # type: ignore[arg-type]


def test_interrupted_build_leaves_no_scratch_folder(
    ui: Ui, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(recipe: debian.Recipe, work: Path, ui: Ui) -> debian.RootFs:
        (work / "half").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(debian, "build", interrupted)
    monkeypatch.setattr(bases, "_scratch", lambda: str(tmp_path))
    engine = FakeEngine(NO_HOST)
    with pytest.raises(KeyboardInterrupt):
        ensure_bases(engine, [PYTHON], "debian", ui)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    assert engine.images == {}
