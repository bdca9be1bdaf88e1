"""`tfslim inspect`: the figures a user reads, from every kind of source."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import image_factory as make
import pytest
from docker.errors import ImageNotFound
from rich.console import Console

from tfslim.errors import InputError
from tfslim.images.inspect import inspect_dir, inspect_source, source_kind
from tfslim.images.inspect_text import render_text
from tfslim.images.inspection import FileGpuUse, Inspection

SITE = "opt/venv/lib/python3.11/site-packages"
ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00" + bytes(46)
LIBC = ELF + b"c" * 5000
LIBRARY = ELF + b"L" * 100_000
BASE = [
    make.symlink("lib", "usr/lib"),
    make.Entry("usr/lib/libc.so.6", LIBC),
    make.Entry("var/lib/dpkg/info/libc6.list", b"/lib/libc.so.6\n"),
    make.Entry("var/lib/dpkg/status", b"Package: libc6\nVersion: 2.41\n"),
    make.Entry("tmp/cache", b"x" * 3000),
]
APP = [
    make.Entry(f"{SITE}/demo/libdemo.so", LIBRARY),
    make.Entry(f"{SITE}/demo/copy.so", LIBRARY),
    make.hardlink(f"{SITE}/demo/linked.so", f"{SITE}/demo/libdemo.so"),
    make.Entry(
        f"{SITE}/demo-1.0.dist-info/RECORD",
        b"demo/libdemo.so,,\ndemo/copy.so,,\ndemo-1.0.dist-info/RECORD,,\n",
    ),
    make.Entry("tmp/.wh.cache"),
]
DISK_BYTES = sum(len(entry.data) for entry in BASE + APP) - 3000


def no_engine() -> Any:
    raise AssertionError("no engine is needed here")


def image(compression: str = "zstd") -> make.Built:
    run = {"Entrypoint": ["/app"], "User": "1000"}
    layers = [make.layer(*BASE), make.layer(*APP)]
    return make.build(layers, compression=compression, run=run)


def archive_of(tmp_path: Path, compression: str = "zstd") -> Path:
    return make.oci_archive(tmp_path / "i.tar", image(compression))


def inspected(path: Path, **options: Any) -> Inspection:
    return inspect_source(str(path), client=no_engine, **options)


def test_figures_of_an_image(tmp_path: Path) -> None:
    result = inspected(archive_of(tmp_path))
    assert result.pull_bytes == image("zstd").pull_bytes
    assert result.pull_bytes_source == "manifest"
    assert result.disk_bytes == DISK_BYTES
    assert result.waste.wasted_bytes == 3000
    assert [layer.wasted_bytes for layer in result.layers] == [3000, 0]
    assert [layer.files for layer in result.layers] == [4, 4]
    assert result.waste.largest[0].path == "tmp/cache"
    assert result.image is not None
    assert (result.image.entrypoint, result.image.user) == (["/app"], "1000")
    packages = {package.name: package for package in result.packages}
    assert packages["demo"].disk_bytes == 2 * len(LIBRARY) + len(APP[3].data)
    assert packages["demo"].version == "1.0"
    assert packages["libc6"].disk_bytes == len(ELF) + 5000
    kinds = {kind.kind: kind.files for kind in result.kinds}
    assert kinds["shared library"] == 3
    assert result.duplicates.extra_bytes == len(LIBRARY)
    assert result.duplicates.largest[0].paths == [f"{SITE}/demo/copy.so", f"{SITE}/demo/libdemo.so"]
    assert sum(package.disk_bytes for package in result.packages) == DISK_BYTES
    assert sum(kind.disk_bytes for kind in result.kinds) == DISK_BYTES


def test_uncompressed_source_gives_an_estimate_and_says_so(tmp_path: Path) -> None:
    result = inspected(archive_of(tmp_path, "none"))
    assert result.pull_bytes_source == "estimated"
    assert "zstd level 3" in result.pull_bytes_note
    assert result.pull_bytes is not None
    assert result.pull_bytes < DISK_BYTES


def test_layout_folder_is_an_image_and_its_tree_a_folder(tmp_path: Path) -> None:
    layout = make.oci_layout(tmp_path / "layout", image())
    assert inspected(layout).source_kind == "layout"
    assert inspected(layout).disk_bytes == DISK_BYTES


def unpack(root: Path) -> Path:
    for entry in BASE + APP:
        path = root / entry.path
        if ".wh." in entry.path or entry.path == "tmp/cache":
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if entry.type == b"2":
            path.symlink_to(entry.link)
        elif entry.type == b"1":
            path.hardlink_to(root / entry.link)
        else:
            path.write_bytes(entry.data)
    return root


def test_folder_gives_the_same_attribution_as_the_image(tmp_path: Path) -> None:
    from_image = inspected(archive_of(tmp_path))
    from_folder = inspected(unpack(tmp_path / "root"))
    assert from_folder.source_kind == "directory"
    assert from_folder.disk_bytes == from_image.disk_bytes
    assert from_folder.kinds == from_image.kinds
    assert from_folder.packages == from_image.packages
    assert from_folder.duplicates.extra_bytes == from_image.duplicates.extra_bytes
    assert from_folder.pull_bytes is None


def test_holes_cost_no_allocated_bytes(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(10_000_000)
    result = inspect_dir(tmp_path)
    assert result.disk_bytes == 10_000_000
    assert result.allocated_bytes is not None
    assert result.allocated_bytes < 100_000


@pytest.mark.parametrize("kind", ["archive", "folder"])
def test_gpu_probe_sees_elf_files_of_any_size_and_its_findings_are_summed(
    tmp_path: Path, kind: str
) -> None:
    source = archive_of(tmp_path) if kind == "archive" else unpack(tmp_path / "root")
    probed: list[bytes] = []

    def probe(path: Path) -> FileGpuUse | None:
        probed.append(path.read_bytes())
        if probed[-1] == LIBC:
            return None
        return FileGpuUse(by_arch_bytes={"sm_90": 10, "sm_80": 5}, by_kind_bytes={"cubin": 15})

    gpu = inspected(source, gpu=probe).gpu
    assert sorted(probed) == sorted([LIBC, LIBRARY, LIBRARY])
    assert gpu is not None
    assert gpu.total_bytes == 30
    assert gpu.by_arch_bytes == {"sm_80": 10, "sm_90": 20}
    assert f"{SITE}/demo/libdemo.so" in gpu.by_library


def test_json_round_trip(tmp_path: Path) -> None:
    result = inspected(archive_of(tmp_path))
    assert Inspection.model_validate(json.loads(result.model_dump_json())) == result


def test_text_names_the_figures(tmp_path: Path) -> None:
    console = Console(width=140, record=True, file=Path(os.devnull).open("w"))  # noqa: SIM115
    console.print(render_text(inspected(archive_of(tmp_path)), top=2))
    text = console.export_text()
    for expected in ("demo:1", "linux/amd64", "libdemo.so", "shared library", "3 kB", "RUN step 0"):
        assert expected in text


def test_what_an_argument_names(tmp_path: Path) -> None:
    assert source_kind(str(tmp_path)) == "directory"
    assert source_kind(str(archive_of(tmp_path))) == "archive"
    assert source_kind("python:3.13") == "engine"


def test_missing_path_asks_no_engine(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        inspected(tmp_path / "nothing.tar")


class FakeEngine:
    """The calls of docker-py that reading needs."""

    def __init__(self, saved: dict[str, bytes], root: Path, digest: str = "sha256:0") -> None:
        self._saved, self._root = saved, root
        self.images = self.api = self
        self.id, self.attrs = digest, {"Size": 1}

    def get(self, reference: str) -> FakeEngine:
        if reference not in self._saved:
            raise ImageNotFound(reference)
        return self

    def info(self) -> dict[str, str]:
        return {"DockerRootDir": str(self._root)}

    def get_image(self, reference: str, chunk_size: int) -> list[bytes]:
        return [self._saved[reference]]

    def list(self) -> list[Any]:
        return [type("Image", (), {"tags": [tag]}) for tag in self._saved]


def test_image_in_the_engine(tmp_path: Path) -> None:
    engine: Any = FakeEngine({"demo:1": archive_of(tmp_path).read_bytes()}, tmp_path)
    result = inspect_source("demo:1", client=lambda: engine)
    assert (result.source_kind, result.disk_bytes) == ("engine", DISK_BYTES)


def test_image_in_a_content_store_is_not_sent_by_the_engine(tmp_path: Path) -> None:
    built = make.attested(image())
    store = tmp_path / "containerd/daemon/io.containerd.content.v1.content"
    make.oci_layout(store, built)
    (store / "index.json").unlink()
    engine: Any = FakeEngine({"demo:1": b""}, tmp_path, built.index["manifests"][0]["digest"])
    result = inspect_source("demo:1", client=lambda: engine)
    assert (result.source_kind, result.disk_bytes) == ("engine", DISK_BYTES)
    assert result.pull_bytes == built.pull_bytes


def test_unknown_image_names_the_nearest(tmp_path: Path) -> None:
    engine: Any = FakeEngine({"tfslim/inference:1": b"", "zebra:9": b""}, tmp_path)
    with pytest.raises(InputError, match="tfslim/inference:1") as caught:
        inspect_source("tfslim/inferense:1", client=lambda: engine)
    assert "zebra" not in caught.value.why
