"""`tfslim slim IMAGE`: the plan, its application and the rewritten image, end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import image_factory as make
import pytest

from tfslim.errors import SlimError
from tfslim.images.archive import read_archive
from tfslim.images.gpu_use import gpu_use
from tfslim.images.layer_table import Look
from tfslim.images.rewrite import Rewriting
from tfslim.images.slim_image import plan_image, slim_image
from tfslim.slim.archs import Targets
from tfslim.slim.rules import make_policy

SITE = "opt/venv/lib/python3.13/site-packages"
LAUNCHER = f"{SITE}/pip/_vendor/distlib/t64.exe"
LAYERS = [
    make.layer(make.Entry("etc/os-release", b"Debian")),
    make.layer(make.Entry(LAUNCHER, b"MZ" + bytes(50_000)), make.Entry(f"{SITE}/a.py", b"x = 1")),
]


def no_engine() -> Any:
    raise AssertionError("no engine is needed here")


def archive(tmp_path: Path) -> Path:
    return make.oci_archive(tmp_path / "image.tar", make.build(LAYERS, compression="zstd"))


def test_files_that_the_profile_names_are_gone_and_the_image_says_so(tmp_path: Path) -> None:
    output = tmp_path / "slim.tar"
    how = Rewriting(name="demo:slim", output=output, labels={"own": "1"})
    done = slim_image(str(archive(tmp_path)), how, what=make_policy("safe"), client=no_engine)
    assert done.rewritten.removed == [LAUNCHER]
    assert done.outcome.error() is None
    assert done.rewritten.disk_bytes_before - done.rewritten.disk_bytes_after == 50_002
    image = read_archive(output, Look(), name="slim")
    assert [m.path for m in image.layers[1].members] == [f"{SITE}/a.py"]
    labels = image.config["config"]["Labels"]
    assert labels["io.tfslim.profile"] == "safe"
    assert labels["own"] == "1"
    assert "io.tfslim.cuda-archs" not in labels


def test_architectures_served_are_a_label(tmp_path: Path) -> None:
    how = Rewriting(name="demo:slim", output=tmp_path / "slim.tar")
    targets = Targets((80, 90), "80,90")
    slim_image(str(archive(tmp_path)), how, what=make_policy("arch", targets), client=no_engine)
    labels = read_archive(how.output, Look(), name="s").config["config"]["Labels"]  # type: ignore[arg-type]
    assert labels["io.tfslim.cuda-archs"] == "80,90"
    assert labels["io.tfslim.keep-ptx"] == "false"


def test_a_second_run_changes_no_layer(tmp_path: Path) -> None:
    outputs = [tmp_path / "1.tar", tmp_path / "2.tar"]
    source = archive(tmp_path)
    for output in outputs:
        how = Rewriting(name="demo:slim", output=output)
        done = slim_image(str(source), how, what=make_policy("safe"), client=no_engine)
        source = output
    assert not any(layer.rewritten for layer in done.rewritten.layers)


def test_dry_run_names_the_same_removals_and_writes_nothing(tmp_path: Path) -> None:
    source = archive(tmp_path)
    plan = plan_image(str(source), policy=make_policy("safe"), client=no_engine)
    assert [item.path for item in plan.files] == [LAUNCHER]
    assert list(tmp_path.iterdir()) == [source]


def test_saved_plan_is_refused_for_another_image(tmp_path: Path) -> None:
    plan = plan_image(str(archive(tmp_path)), policy=make_policy("safe"), client=no_engine)
    other = make.build([make.layer(make.Entry(LAUNCHER, b"MZ" + bytes(60_000)))])
    source = make.oci_archive(tmp_path / "other.tar", other)
    how = Rewriting(name="demo:slim", output=tmp_path / "slim.tar")
    with pytest.raises(SlimError):
        slim_image(str(source), how, what=plan, client=no_engine)
    assert not (tmp_path / "slim.tar").exists()


def test_a_file_without_gpu_code_has_no_gpu_use(tmp_path: Path) -> None:
    path = tmp_path / "lib.so"
    path.write_bytes(b"\x7fELF" + bytes(100))
    assert gpu_use(path) is None


def test_what_explains_the_removals_is_in_the_image(tmp_path: Path) -> None:
    tensorflow = make.layer(
        make.Entry(f"{SITE}/tensorflow/__init__.py", b""),
        make.Entry(
            f"{SITE}/tf-1.dist-info/METADATA", b"Name: tensorflow\nRequires-Dist: libclang\n"
        ),
        make.Entry(f"{SITE}/clang/__init__.py", b""),
        make.Entry(f"{SITE}/libclang-1.dist-info/METADATA", b"Name: libclang\n"),
        make.Entry(f"{SITE}/libclang-1.dist-info/RECORD", b"clang/__init__.py,,\n"),
    )
    source = make.oci_archive(tmp_path / "tf.tar", make.build([*LAYERS, tensorflow]))
    how = Rewriting(name="demo:slim", output=tmp_path / "slim.tar")
    policy = make_policy("inference", Targets((90,), "90"))
    done = slim_image(str(source), how, what=policy, client=no_engine)
    assert f"{SITE}/_tfslim.json" in done.rewritten.added
    image = read_archive(tmp_path / "slim.tar", Look(keep=lambda path: True), name="slim")
    paths = {member.path for layer in image.layers for member in layer.members}
    assert not [path for path in paths if "clang" in path]
    known = json.loads(image.layers[-1].kept[f"{SITE}/_tfslim.json"])
    assert known["modules"] == {"clang": "libclang"}
    again = Rewriting(name="demo:again", output=tmp_path / "again.tar")
    second = slim_image(str(tmp_path / "slim.tar"), again, what=policy, client=no_engine)
    assert not second.rewritten.added
    assert not any(layer.rewritten for layer in second.rewritten.layers)
