"""Models a user may name: what is accepted, what is refused and how, what is baked."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from pathlib import Path

import pytest

from tfserve_app import savedmodel
from tfserve_app.capi import frozen as capi_frozen
from tfslim import models, proc
from tfslim.errors import ModelError, NetworkError
from tfslim.models import (
    Leftover,
    bake_context,
    mobilenet_command,
    names_frozen,
    resolve_model,
)
from tfslim.ui import Ui

UI = Ui(quiet=True)


def saved_model(path: Path) -> Path:
    (path / "variables").mkdir(parents=True)
    (path / "saved_model.pb").write_bytes(b"g" * 100)
    (path / "variables" / "variables.index").write_bytes(b"i" * 10)
    (path / "variables" / "variables.data-00000-of-00001").write_bytes(b"w" * 1000)
    return path


def frozen_model(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "freeze.json").write_text('{"format": 1}')
    (path / "frozen_graph.pb").write_bytes(b"g" * 100)
    return path


# --- a path ---


def test_a_saved_model_folder(tmp_path: Path) -> None:
    path = saved_model(tmp_path / "my model")
    model = resolve_model(str(path), tmp_path / "cache", UI)
    assert (model.name, model.path, model.format) == ("my-model", path, "SavedModel")
    assert model.bytes == 1110
    assert model.duplicates == ()


def test_duplicates_inside_and_beside_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved_model(tmp_path / "toy")
    (path / "model.tflite").write_bytes(b"t" * 50)
    (tmp_path / "toy.onnx").write_bytes(b"o" * 70)
    (tmp_path / "toy.mlpackage" / "Data").mkdir(parents=True)
    (tmp_path / "toy.mlpackage" / "Data" / "weight.bin").write_bytes(b"m" * 30)
    (tmp_path / "another.onnx").write_bytes(b"o")
    model = resolve_model(str(path), tmp_path, Ui(interactive=False))
    assert set(model.duplicates) == {
        Leftover("model.tflite", "TensorFlow Lite", 50),
        Leftover("toy.onnx", "ONNX", 70),
        Leftover("toy.mlpackage", "Core ML", 30),
    }
    assert model.bytes == 1110
    assert "toy.onnx (ONNX, 70 B)" in capsys.readouterr().err


def test_the_highest_version_of_a_versioned_folder(tmp_path: Path) -> None:
    for version in ("2", "10"):
        saved_model(tmp_path / "toy" / version)
    model = resolve_model(str(tmp_path / "toy"), tmp_path, UI)
    assert (model.name, model.path.name) == ("toy", "10")


def test_a_frozen_model_is_taken_and_it_alone_is_baked(tmp_path: Path) -> None:
    path = frozen_model(tmp_path / "toy" / "3")
    (path / "model.tflite").write_bytes(b"t" * 50)
    model = resolve_model(str(tmp_path / "toy"), tmp_path, UI)
    assert (model.name, model.format, model.bytes) == ("toy", "frozen model", 113)
    (dropped,) = bake_context(model, tmp_path / "context")
    assert dropped == Leftover("model.tflite", "TensorFlow Lite", 50)
    names = sorted(path.name for path in (tmp_path / "context").iterdir())
    assert names == ["freeze.json", "frozen_graph.pb"]
    assert names_frozen(str(tmp_path / "toy"))


def test_names_are_those_that_the_freezer_gives() -> None:
    assert savedmodel.FROZEN_FILE == models.FROZEN_FILE
    assert (capi_frozen.GRAPH, capi_frozen.FORMAT) == (models._FROZEN_GRAPH, models._FROZEN_FORMAT)


def test_what_is_no_frozen_model(tmp_path: Path) -> None:
    assert not names_frozen("demo:basic-pitch")
    assert not names_frozen(str(tmp_path / "gone"))
    assert not names_frozen(str(saved_model(tmp_path / "toy")))


def test_a_frozen_model_that_the_service_would_refuse(tmp_path: Path) -> None:
    path = frozen_model(tmp_path / "toy")
    for text in ('{"format": 2}', "{}", "[]", "no JSON"):
        (path / "freeze.json").write_text(text)
        assert "expected 1" in refused(path, tmp_path).why
    (path / "frozen_graph.pb").unlink()
    assert "no frozen_graph.pb" in refused(path, tmp_path).why


def refused(source: Path | str, tmp_path: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        resolve_model(str(source), tmp_path / "cache", UI)
    assert caught.value.exit_code == 6
    assert caught.value.way_out
    return caught.value


def test_a_missing_path(tmp_path: Path) -> None:
    error = refused(tmp_path / "gone", tmp_path)
    assert error.what == f"the model path {tmp_path / 'gone'} does not exist"


@pytest.mark.parametrize(
    ("name", "said"), [("m.keras", "Keras"), ("m.tflite", "TensorFlow Lite"), ("m.x", "unknown")]
)
def test_a_file_is_named_by_its_format(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).touch()
    error = refused(tmp_path / name, tmp_path)
    assert said in error.why
    assert ".export(" in error.way_out


def test_a_folder_of_other_formats(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "In it: nothing" in refused(folder, tmp_path).why
    (folder / "m.onnx").write_bytes(b"o" * 1234)
    error = refused(folder, tmp_path)
    assert "m.onnx (ONNX, 1 kB)" in error.why
    assert ".export(" in error.way_out


def test_a_folder_one_level_too_high_points_down(tmp_path: Path) -> None:
    saved_model(tmp_path / "models" / "toy")
    assert refused(tmp_path / "models", tmp_path).way_out.endswith(f"{tmp_path}/models/toy?")


@pytest.mark.parametrize("lost", ["variables.index", "variables.data-00000-of-00001"])
def test_half_a_copy_is_refused(tmp_path: Path, lost: str) -> None:
    path = saved_model(tmp_path / "toy")
    (path / "variables" / lost).unlink()
    assert lost.split("-", maxsplit=1)[0] in refused(path, tmp_path).why


def test_a_model_without_variables_is_warned_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "saved_model.pb").touch()
    resolve_model(str(tmp_path / "toy"), tmp_path, Ui(interactive=False))
    assert "no variables folder" in capsys.readouterr().err


def test_an_unreadable_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(self))  # tests may run as root

    path = saved_model(tmp_path / "toy")
    monkeypatch.setattr(Path, "is_dir", denied)
    error = refused(path, tmp_path)
    assert "Permission denied" in error.why
    assert "chmod" in error.way_out


# --- baking ---


def test_baking_keeps_one_format_and_makes_it_readable(tmp_path: Path) -> None:
    path = saved_model(tmp_path / "toy")
    (path / "saved_model.pb").chmod(0o600)
    (path / "assets").symlink_to(tmp_path / "words")  # as mounted volumes do
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "vocabulary.txt").write_text("a\nb\n")
    (path / "model.onnx").write_bytes(b"o" * 70)
    (path / "notes.txt").write_bytes(b"n" * 5)
    dest = tmp_path / "context"
    dest.mkdir()
    (dest / "stale").touch()

    dropped = bake_context(resolve_model(str(path), tmp_path, UI), dest)

    assert dropped == (Leftover("model.onnx", "ONNX", 70), Leftover("notes.txt", "other", 5))
    files = {str(file.relative_to(dest)) for file in dest.rglob("*") if file.is_file()}
    assert files == {
        "saved_model.pb",
        "assets/vocabulary.txt",
        "variables/variables.index",
        "variables/variables.data-00000-of-00001",
    }
    assert (dest / "saved_model.pb").stat().st_mode & 0o777 == 0o644
    assert dest.stat().st_mode & 0o777 == 0o755
    assert not (dest / "assets").is_symlink()


def test_a_bake_that_fails_leaves_the_old_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = resolve_model(str(saved_model(tmp_path / "toy")), tmp_path, UI)
    dest = tmp_path / "out" / "context"
    bake_context(model, dest)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space"):
        bake_context(model, dest)
    assert (dest / "saved_model.pb").is_file()
    assert [entry.name for entry in dest.parent.iterdir()] == ["context"]


# --- demonstration models ---


def wheel(path: Path) -> bytes:
    folder = "basic_pitch/saved_models/icassp_2022"
    with zipfile.ZipFile(path, "w") as archive:
        for name, size in {
            f"{folder}/nmp/saved_model.pb": 10,
            f"{folder}/nmp/variables/variables.index": 20,
            f"{folder}/nmp/variables/variables.data-00000-of-00001": 30,
            f"{folder}/nmp.onnx": 7,
            f"{folder}/nmp.mlpackage/Manifest.json": 1,
            f"{folder}/nmp.mlpackage/Data/weight.bin": 2,
            "basic_pitch/inference.py": 100,
        }.items():
            archive.writestr(name, b"x" * size)
    return path.read_bytes()


class FakePip:
    """Stands for `pip download`: puts a wheel where it was asked to, or fails."""

    def __init__(self, content: bytes | None) -> None:
        self.content = content
        self.calls = 0

    def __call__(self, argv: list[str], on_line: object) -> proc.Completed:
        self.calls += 1
        if self.content is None:
            return proc.Completed(tuple(argv), 1, "ERROR: Could not find a version", "")
        folder = Path(argv[argv.index("--dest") + 1])
        (folder / "basic_pitch-0.4.0-py2.py3-none-any.whl").write_bytes(self.content)
        return proc.Completed(tuple(argv), 0, "", "")


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePip:
    fake = FakePip(wheel(tmp_path / "wheel"))
    monkeypatch.setattr(proc, "stream", fake)
    digest = hashlib.sha256(fake.content or b"").hexdigest()
    monkeypatch.setattr(models, "_BASIC_PITCH_SHA256", digest)
    return fake


def test_basic_pitch_is_fetched_once_and_only_its_saved_model_unpacked(
    tmp_path: Path, pip: FakePip
) -> None:
    cache = tmp_path / "cache"
    model = resolve_model("demo:basic-pitch", cache, UI)
    assert (model.name, model.bytes) == ("basic-pitch", 60)
    assert model.duplicates == (
        Leftover("nmp.mlpackage", "Core ML", 3),
        Leftover("nmp.onnx", "ONNX", 7),
    )
    assert not list(cache.rglob("*.onnx"))
    assert not list(cache.rglob("inference.py"))
    assert resolve_model("demo:basic-pitch", cache, UI) == model
    assert pip.calls == 1
    assert bake_context(model, tmp_path / "context") == model.duplicates


def test_a_changed_wheel_is_refused_and_not_kept(tmp_path: Path, pip: FakePip) -> None:
    pip.content = (pip.content or b"") + b"!"
    error = refused("demo:basic-pitch", tmp_path)
    assert "is not the file that is pinned" in error.what
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_index_that_cannot_be_reached(tmp_path: Path, pip: FakePip) -> None:
    pip.content = None
    with pytest.raises(NetworkError) as caught:
        resolve_model("demo:basic-pitch", tmp_path / "cache", UI)
    assert "Could not find a version" in caught.value.why
    assert "pip config list" in caught.value.way_out
    assert list((tmp_path / "cache").iterdir()) == []


def test_mobilenet_says_how_it_is_generated_and_is_then_found(tmp_path: Path) -> None:
    command = mobilenet_command("/out")
    error = refused("demo:mobilenet", tmp_path)
    assert " ".join(command) in error.way_out
    saved_model(tmp_path / "cache" / Path(command[-1]).relative_to("/out"))
    assert resolve_model("demo:mobilenet", tmp_path / "cache", UI).name == "mobilenet"


def test_an_unknown_demonstration_model(tmp_path: Path) -> None:
    assert "demo:mobilenet" in refused("demo:resnet", tmp_path).way_out
