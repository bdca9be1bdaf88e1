"""What is measured of a wheel, and what is kept of it."""

from __future__ import annotations

import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
from fake_index import make_wheel

from tfslim.errors import DiskError, NetworkError
from tfslim.pins.links import read_links
from tfslim.pins.measure import Measured, engine_key, measure
from tfslim.pins.store import Store
from tfslim.slim.archs import parse_targets
from tfslim.slim.rules import Policy, make_policy

LIBRARIES = Path(__file__).resolve().parents[2] / "fixtures" / "slim"


def policy(archs: str = "90", profile: str = "inference") -> Policy:
    return make_policy(profile, parse_targets(archs))


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "nvidia_x_cu12-1.0-py3-none-any.whl"
    files = {
        "nvidia/x/lib/libx.so.12": (LIBRARIES / "libwrapped.so").read_bytes(),
        "nvidia/x/include/x.h": b"int x;\n" * 1000,
    }
    path.write_bytes(make_wheel("nvidia-x-cu12", "1.0", files, ("nvidia-y-cu12>=2",)))
    return path


def test_gpu_code_for_others_goes_and_files_are_counted_by_profile(
    wheel: Path, tmp_path: Path
) -> None:
    found = measure(wheel, policy(), tmp_path)
    sizes = {Path(item.path).name: item for item in found.files}
    library = sizes["libx.so.12"]
    assert library.disk < (LIBRARIES / "libwrapped.so").stat().st_size
    assert 0 < library.pull < library.disk
    assert found.cubins[90] == 90
    assert found.restored == ()
    assert found.requires == ("nvidia-y-cu12>=2",)
    whole, without_headers = (found.sizes(policy(profile=name)) for name in ("arch", "inference"))
    assert whole[0] - without_headers[0] == 7000
    assert not (tmp_path / "tree").exists()
    assert wheel.exists()


def test_the_same_wheel_for_other_gpus_is_another_measurement() -> None:
    keys = {engine_key(policy(archs)) for archs in ("90", "80", "80,90", "90+PTX")}
    assert len(keys) == 4


def test_profiles_that_only_remove_files_share_a_measurement() -> None:
    assert engine_key(policy(profile="arch")) == engine_key(policy(profile="inference"))


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04broken"])
def test_what_is_no_wheel_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.whl"
    path.write_bytes(content)
    with pytest.raises(NetworkError, match=r"x\.whl is no wheel"):
        measure(path, policy(), tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["x.whl"]


def test_a_wheel_cannot_write_outside(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("../../../../../outside", b"x")
        archive.writestr("/outside", b"x")
    measure(wheel, policy(), tmp_path)
    assert not list(tmp_path.rglob("outside"))
    assert not Path("/outside").exists()


def test_a_full_disk_is_told_before_anything_is_unpacked(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10, 9, 1))
    with pytest.raises(DiskError, match="are needed to unpack"):
        measure(wheel, policy(), tmp_path)


def test_libraries_name_what_they_give(tmp_path: Path) -> None:
    (tmp_path / "libx.so").write_bytes((LIBRARIES / "libplain.so").read_bytes())
    (tmp_path / "notes.so.txt").write_text("no library")
    (tmp_path / "libempty.so").touch()
    links = read_links(tmp_path)
    assert any(links.provides.values())
    assert links.needs == {}


def test_measurements_are_found_again_and_broken_ones_are_not(wheel: Path, tmp_path: Path) -> None:
    store, found = Store(tmp_path / "store"), measure(wheel, policy(), tmp_path)
    assert store.load("ab", "key") is None
    store.save("ab", "key", found)
    assert store.load("ab", "key") == found
    (kept,) = (tmp_path / "store").iterdir()
    for broken in ("", "{", "[]", found.model_dump_json().replace("files", "fails")):
        kept.write_text(broken)
        assert store.load("ab", "key") is None
    assert Measured.model_validate_json(found.model_dump_json()) == found
