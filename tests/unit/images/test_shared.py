"""What several images share."""

from __future__ import annotations

import json
from pathlib import Path

import image_factory as make
import pytest
from click.testing import CliRunner
from docker import DockerClient

from tfslim.cli import cli
from tfslim.errors import ConfigError, InputError
from tfslim.images.inspection import Shared
from tfslim.images.shared import inspect_shared
from tfslim.ui import Ui

BASE = make.layer(make.Entry("base", b"b" * 5000))
CUDA = make.layer(make.Entry("cuda", b"c" * 9000))
ONE, TWO = (make.layer(make.Entry("app", text * 700)) for text in (b"1", b"2"))


def no_engine() -> DockerClient:
    pytest.fail("the engine was asked")


@pytest.fixture
def images(tmp_path: Path) -> tuple[str, str, make.Built, make.Built]:
    """Two images with the same CUDA layer, once on a base and once on another."""
    one = make.build([BASE, CUDA, ONE], compression="zstd")
    two = make.build([TWO, CUDA], compression="zstd")
    first = make.oci_archive(tmp_path / "1.tar", one)
    second = make.oci_archive(tmp_path / "2.tar", two)
    return str(first), str(second), one, two


def shared(*sources: str) -> Shared:
    return inspect_shared(sources, client=no_engine, ui=Ui(quiet=True))


def test_a_layer_is_pulled_once(images: tuple[str, str, make.Built, make.Built]) -> None:
    first, second, one, two = images
    found = shared(first, second)
    base, cuda, app = map(len, one.layers)
    other = len(two.layers[0])
    assert found.pull_bytes == base + cuda + app + other
    assert [image.pull_bytes for image in found.images] == [base + cuda + app, other + cuda]
    assert [image.adds_pull_bytes for image in found.images] == [base + cuda + app, other]
    assert {tuple(layer.images) for layer in found.layers} == {
        (first,),
        (first, second),
        (second,),
    }


def test_on_another_base_a_layer_is_unpacked_again(
    images: tuple[str, str, make.Built, make.Built],
) -> None:
    found = shared(*images[:2])
    (cuda,) = [layer for layer in found.layers if len(layer.images) == 2]
    assert (cuda.stored, cuda.unpacked_bytes) == (2, len(CUDA))
    assert found.images[1].adds_unpacked_bytes == len(TWO) + len(CUDA)
    assert found.unpacked_bytes == len(BASE) + 2 * len(CUDA) + len(ONE) + len(TWO)


def test_on_the_same_base_it_is_not(tmp_path: Path) -> None:
    sources = [
        str(make.oci_archive(tmp_path / f"{n}.tar", make.build([BASE, CUDA, app])))
        for n, app in enumerate((ONE, TWO))
    ]
    found = shared(*sources)
    assert found.images[1].adds_unpacked_bytes == len(TWO)
    assert {layer.stored for layer in found.layers} == {1}


def test_one_image_or_a_folder_cannot_be_compared(
    images: tuple[str, str, make.Built, make.Built], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="--shared compares images"):
        shared(images[0], images[0])
    with pytest.raises(InputError, match="has no layers"):
        shared(images[0], str(tmp_path))


def test_the_verb_prints_tables_or_json(images: tuple[str, str, make.Built, make.Built]) -> None:
    first, second = images[:2]
    said = CliRunner().invoke(cli, ["-q", "inspect", "--shared", first, second])
    assert said.exit_code == 0, said.output
    assert "what each adds" in said.output
    assert "2 × " in said.output
    data = CliRunner().invoke(cli, ["-q", "inspect", "--shared", first, second, "--json"])
    assert Shared.model_validate(json.loads(data.stdout)) == shared(first, second)


def test_several_images_without_shared_are_refused(
    images: tuple[str, str, make.Built, make.Built],
) -> None:
    said = CliRunner().invoke(cli, ["-q", "inspect", *images[:2]])
    assert isinstance(said.exception, ConfigError)
    assert "--shared" in str(said.exception)
