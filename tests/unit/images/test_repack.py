"""An image packed anew: the same image, fewer bytes to pull."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import image_factory as make
import pytest
import zstandard

from tfslim.errors import ConfigError, InputError
from tfslim.images.archive import Image, read_archive
from tfslim.images.layer_table import Look
from tfslim.images.repack import Repacked, Repacking, repack_image

# Alike over 9 MB, further than zstd looks back by itself at these levels.
KERNELS = random.Random(0).randbytes(9_000_000)
LAYERS = (
    make.layer(make.Entry("lib/one", KERNELS), make.Entry("lib/two", KERNELS)),
    make.layer(make.Entry("app", b"app"), make.hardlink("same", "app")),
)


def no_engine() -> Any:
    raise AssertionError("no engine is needed here")


def source(tmp_path: Path, compression: str) -> Path:
    return make.oci_archive(
        tmp_path / "source.tar", make.build(LAYERS, compression=compression, run={"Cmd": ["app"]})
    )


def repacked(path: Path, **options: Any) -> tuple[Repacked, Image]:
    output = path.parent / "out.tar"
    told = repack_image(str(path), Repacking(output=output, **options), client=no_engine)
    return told, read_archive(output, Look(checksums=True), name="out.tar")


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_the_image_is_the_same_and_its_layers_are_smaller(tmp_path: Path, compression: str) -> None:
    path = source(tmp_path, compression)
    before = read_archive(path, Look(checksums=True), name="s")
    told, after = repacked(path, tag="demo:small", level=3)
    assert (after.config_digest, after.config) == (before.config_digest, before.config)
    assert [layer.members for layer in after.layers] == [layer.members for layer in before.layers]
    assert [layer.compression for layer in after.layers] == ["zstd", "zstd"]
    assert told.before_bytes > 18_000_000
    assert told.after_bytes < 9_500_000
    assert told.after_bytes == sum(layer.blob_bytes for layer in after.layers)
    assert [layer.diff_id for layer in told.layers] == before.config["rootfs"]["diff_ids"]
    assert after.name == "docker.io/library/demo:small"


def test_packing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    path = source(tmp_path, "gzip")
    once, _ = repacked(path, level=3)
    twice, _ = repacked(path, level=3)
    assert once.manifest_digest == twice.manifest_digest


def test_a_window_is_never_larger_than_what_every_tool_unpacks(tmp_path: Path) -> None:
    path = source(tmp_path, "zstd")
    _, after = repacked(path, level=4)
    data = (tmp_path / "out.tar").read_bytes()
    windows = [
        zstandard.get_frame_parameters(data[layer.offset : layer.offset + 32]).window_size
        for layer in after.layers
    ]
    assert max(windows) <= 1 << 27
    assert windows[1] <= 1 << 18, "a small layer asks for little memory"


def test_a_file_needs_a_name_for_the_engine(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a name") as error:
        repack_image(str(source(tmp_path, "none")), Repacking(), client=no_engine)
    assert "--tag" in error.value.way_out


def test_an_output_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        repack_image("nothing:1", Repacking(output=tmp_path), client=no_engine)


def test_a_damaged_layer_leaves_nothing_behind(tmp_path: Path) -> None:
    path = source(tmp_path, "gzip")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(InputError):
        repacked(path, level=3)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["source.tar"]
