"""From an image comes an image: same config, same files but for the edit, a smaller pull."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import image_factory as make
import pytest
from docker.errors import APIError

from tfslim.errors import ConfigError, DiskError, EngineError, InputError
from tfslim.images import disk, unpack
from tfslim.images.archive import Image, read_archive
from tfslim.images.layer_table import Look
from tfslim.images.layers import merge
from tfslim.images.rewrite import Rewriting, Rewritten, rewrite_image

BIG = random.Random(3).randbytes(300_000)
SMALL = b"s" * 1000
BASE = make.layer(
    make.directory("etc"),
    make.Entry("etc/os", b"debian"),
    make.Entry("opt/low", b"first version"),
)
MIDDLE = make.layer(
    make.Entry("opt/lib.so", BIG, mode=0o755),
    make.Entry("opt/low", b"second version"),
    make.Entry("opt/wasted", random.Random(4).randbytes(100_000)),
    make.symlink("opt/link", "lib.so"),
    make.Entry("opt/attr", b"a", pax={"SCHILY.xattr.security.capability": "cap"}),
)
TOP = make.layer(make.Entry("opt/.wh.wasted"), make.Entry("app", b"app"))
RUN = {
    "Entrypoint": ["/app"],
    "Cmd": ["serve"],
    "Env": ["A=1"],
    "User": "1000:1000",
    "ExposedPorts": {"8080/tcp": {}},
    "Volumes": {"/data": {}},
    "Healthcheck": {"Test": ["CMD", "true"], "Interval": 5000000000},
    "WorkingDir": "/srv",
    "StopSignal": "SIGTERM",
    "Labels": {"mine": "1"},
}


def no_engine() -> Any:
    raise AssertionError("no engine is needed here")


def shrink(root: Path) -> None:
    """Replace a file as a slimmer does: a new one beside it, renamed over the old."""
    (root / "opt/new").write_bytes(SMALL)
    (root / "opt/new").rename(root / "opt/lib.so")


def source(tmp_path: Path, compression: str = "zstd", layers: Any = (BASE, MIDDLE, TOP)) -> Path:
    built = make.build(layers, compression=compression, run=RUN)
    return make.oci_archive(tmp_path / "source.tar", built)


def rewritten(
    tmp_path: Path, edit: Callable[[Path], object], path: Path | None = None, **options: Any
) -> tuple[Rewritten, Image]:
    output = tmp_path / "out.tar"
    how = Rewriting(name="demo:slim", output=output, **options)
    record, _ = rewrite_image(str(path or source(tmp_path)), edit, how, client=no_engine)
    return record, read_archive(output, Look(checksums=True), name="out.tar")


def files(image: Image) -> dict[str, tuple[object, ...]]:
    """Return all that a container sees: kind, mode, target, content."""
    seen = {}
    for path, placed in merge(image.layers).files.items():
        content = placed.inode.member.sha256 if placed.inode else placed.member.target
        kind = "file" if placed.inode else placed.member.kind
        seen[path] = (kind, placed.member.mode, content)
    return seen


def digest(data: bytes) -> bytes:
    return bytes.fromhex(make.sha256(data).removeprefix("sha256:"))


def test_replaced_file_is_smaller_and_other_layers_keep_their_digest(tmp_path: Path) -> None:
    before = read_archive(source(tmp_path), Look(checksums=True), name="s")
    record, after = rewritten(tmp_path, shrink)
    assert [layer.rewritten for layer in record.layers] == [False, True, False]
    assert record.replaced == ["opt/lib.so"]
    assert record.removed == []
    assert record.disk_bytes_before - record.disk_bytes_after == len(BIG) - len(SMALL)
    # the content that the top layer deletes is gone from the rewritten layer too
    assert after.layers[1].blob_bytes < before.layers[1].blob_bytes - 290_000 - 90_000
    expected = files(before)
    expected["opt/lib.so"] = ("file", 0o755, digest(SMALL))
    assert files(after) == expected


def test_config_is_kept_but_for_layers_labels_and_history(tmp_path: Path) -> None:
    before = read_archive(source(tmp_path), Look(), name="s")
    record, after = rewritten(
        tmp_path, shrink, labels={"io.tfslim.cuda-archs": "90"}, created_by="tfslim slim demo:1"
    )
    assert after.config["config"] == RUN | {"Labels": {"mine": "1", "io.tfslim.cuda-archs": "90"}}
    assert after.config["created"] == before.config["created"]
    assert after.config["history"][:-1] == before.config["history"]
    assert after.config["history"][-1]["created_by"] == "tfslim slim demo:1"
    assert after.config["rootfs"]["diff_ids"][0] == before.config["rootfs"]["diff_ids"][0]
    assert after.annotations["org.opencontainers.image.base.name"] == "demo:1"
    assert after.annotations["org.opencontainers.image.base.digest"] == before.manifest_digest
    assert record.manifest_digest == after.manifest_digest
    assert after.name == "docker.io/library/demo:slim"


def test_headers_of_edited_and_copied_entries_are_kept(tmp_path: Path) -> None:
    _, after = rewritten(tmp_path, shrink)
    data = unpacked_layer(tmp_path / "out.tar", after, 1)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        library, capable = tar.getmember("opt/lib.so"), tar.getmember("opt/attr")
        assert (library.mode, library.mtime, library.size) == (0o755, 1_700_000_000, len(SMALL))
        assert capable.pax_headers["SCHILY.xattr.security.capability"] == "cap"


def unpacked_layer(archive: Path, image: Image, number: int) -> bytes:
    blobs = unpack.Blobs(archive, image.layers)
    data = b"".join(unpack.unpacked(blobs.reader(image.layers[number])).rest())
    blobs.close()
    return data


def test_removed_file_that_a_lower_layer_has_gets_a_whiteout(tmp_path: Path) -> None:
    record, after = rewritten(tmp_path, lambda root: (root / "opt/low").unlink())
    assert record.removed == ["opt/low"]
    assert "opt/low" not in files(after)
    assert ("whiteout", "opt/low") in [(m.kind, m.path) for m in after.layers[1].members]


def test_removed_file_of_one_layer_leaves_no_trace(tmp_path: Path) -> None:
    _, after = rewritten(tmp_path, lambda root: (root / "opt/lib.so").unlink())
    assert not [m.path for layer in after.layers for m in layer.members if "lib.so" in m.path]
    assert files(after)["opt/link"] == ("symlink", 0o777, "lib.so")


def test_no_edit_keeps_every_layer(tmp_path: Path) -> None:
    def only_touch(root: Path) -> None:
        (root / "opt/lib.so").touch()

    record, _ = rewritten(tmp_path, only_touch)
    assert not any(layer.rewritten for layer in record.layers)
    assert record.disk_bytes_before == record.disk_bytes_after


LINKS = make.layer(
    make.Entry("a", BIG),
    make.hardlink("b", "a"),
    make.hardlink("c", "a"),
)


def test_hard_links_that_an_edit_keeps_together_stay_together(tmp_path: Path) -> None:
    def edit(root: Path) -> None:
        (root / "new").write_bytes(SMALL)
        for name in "abc":
            (root / name).unlink()
            (root / name).hardlink_to(root / "new")
        (root / "new").unlink()

    _, after = rewritten(tmp_path, edit, source(tmp_path, layers=[LINKS]))
    kinds = [(m.kind, m.path) for m in after.layers[0].members]
    assert kinds == [("file", "a"), ("hardlink", "b"), ("hardlink", "c")]
    assert {value[2] for value in files(after).values()} == {digest(SMALL)}


def test_hard_link_whose_first_name_is_edited_keeps_its_content(tmp_path: Path) -> None:
    def edit(root: Path) -> None:
        (root / "a").unlink()
        (root / "a").write_bytes(SMALL)

    _, after = rewritten(tmp_path, edit, source(tmp_path, layers=[LINKS]))
    assert files(after)["a"][2] == digest(SMALL)
    assert files(after)["b"][2] == files(after)["c"][2] == digest(BIG)
    assert [m.kind for m in after.layers[0].members] == ["file", "file", "hardlink"]


def test_hard_link_survives_the_removal_of_its_first_name(tmp_path: Path) -> None:
    path = source(tmp_path, layers=[LINKS])
    _, after = rewritten(tmp_path, lambda root: (root / "a").unlink(), path)
    assert set(files(after)) == {"b", "c"}
    assert files(after)["b"][2] == digest(BIG)


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("target", ["gzip", "zstd"])
def test_every_compression_in_and_out(tmp_path: Path, compression: str, target: str) -> None:
    path = source(tmp_path, compression)
    _, after = rewritten(tmp_path, shrink, path, compression=target)
    assert [layer.compression for layer in after.layers] == [compression, target, compression]
    assert files(after)["opt/lib.so"][2] == digest(SMALL)


def test_docker_archive_and_layout_and_compressed_archive_as_source(tmp_path: Path) -> None:
    built = make.build([BASE, MIDDLE, TOP], run=RUN)
    packed = tmp_path / "packed.tar.gz"
    packed.write_bytes(make.packed(source(tmp_path, "none").read_bytes(), "gzip"))
    sources = [
        make.docker_archive(tmp_path / "d.tar", built),
        make.oci_layout(tmp_path / "layout", built),
        packed,
    ]
    results = [files(rewritten(tmp_path, shrink, path)[1]) for path in sources]
    assert results[0] == results[1] == results[2]
    assert results[0]["opt/lib.so"][2] == digest(SMALL)


def test_result_is_what_docker_load_reads(tmp_path: Path) -> None:
    rewritten(tmp_path, shrink)
    with tarfile.open(tmp_path / "out.tar") as tar:
        items = json.load(tar.extractfile("manifest.json") or io.BytesIO())
        names = set(tar.getnames())
    assert items[0]["RepoTags"] == ["demo:slim"]
    assert {items[0]["Config"], *items[0]["Layers"]} <= names


def test_same_input_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewritten(tmp_path, shrink)
    first = (tmp_path / "out.tar").read_bytes()
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    rewritten(tmp_path, shrink)
    assert (tmp_path / "out.tar").read_bytes() == first


def test_source_date_epoch_is_the_creation_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    _, after = rewritten(tmp_path, shrink)
    assert after.config["created"] == "2023-11-14T22:13:20Z"
    assert after.config["history"][-1]["created"] == "2023-11-14T22:13:20Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(ConfigError, match="SOURCE_DATE_EPOCH"):
        rewritten(tmp_path, shrink)


def test_interrupted_edit_leaves_the_old_output_and_no_litter(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "out.tar").write_bytes(b"old")
    path = source(tmp_path)

    def interrupted(root: Path) -> None:
        shrink(root)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rewritten(tmp_path, interrupted, path, scratch=tmp_path / "scratch")
    assert (tmp_path / "out.tar").read_bytes() == b"old"
    assert list((tmp_path / "scratch").iterdir()) == []
    assert sorted(item.name for item in tmp_path.iterdir()) == ["out.tar", "scratch", "source.tar"]


def test_full_disk_is_refused_before_unpacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_SPARE_BYTES", 1 << 60)
    with pytest.raises(DiskError, match="unpacking the image"):
        rewritten(tmp_path, shrink)
    assert not (tmp_path / "out.tar").exists()


def test_disk_that_fills_up_while_writing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = source(tmp_path)
    monkeypatch.setattr("tfslim.images.rewrite.OciArchive", full)
    with pytest.raises(DiskError, match="is full"):
        rewritten(tmp_path, shrink, path)
    assert [item.name for item in tmp_path.iterdir()] == ["source.tar"]


def test_tree_is_never_written_through_a_link(tmp_path: Path) -> None:
    """A link to the outside and a file below it: the file lies where the link leads, inside."""
    outside = tmp_path / "outside"
    outside.mkdir()
    layers = [
        make.layer(make.symlink("evil", str(outside)), make.symlink("up", "../../..")),
        make.layer(make.Entry("evil/file", b"x"), make.Entry("up/file", b"y")),
    ]
    seen: list[str] = []

    def look(root: Path) -> None:
        seen.extend(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())

    rewritten(tmp_path, look, source(tmp_path, layers=layers))
    assert list(outside.iterdir()) == []
    assert any(path.endswith("outside/file") for path in seen)
    assert "file" in seen


@pytest.mark.parametrize("name", ["UPPER:1", "a b", "x@sha256:1", "name:", "-x:1", ""])
def test_bad_names_are_refused_before_any_work(tmp_path: Path, name: str) -> None:
    how = Rewriting(name=name, output=tmp_path / "out.tar")
    with pytest.raises(ConfigError, match="not a name"):
        rewrite_image("nowhere", shrink, how, client=no_engine)


@pytest.mark.parametrize("output", [".", "no/such/folder/x.tar"])
def test_bad_outputs_are_refused_before_any_work(tmp_path: Path, output: str) -> None:
    how = Rewriting(name="a:1", output=tmp_path / output)
    with pytest.raises(InputError, match="cannot be written"):
        rewrite_image("nowhere", shrink, how, client=no_engine)


@pytest.mark.parametrize(("compression", "level"), [("gzip", 10), ("zstd", 23), ("zstd", 0)])
def test_bad_levels_are_refused(tmp_path: Path, compression: Any, level: int) -> None:
    how = Rewriting(name="a:1", output=tmp_path / "o", compression=compression, level=level)
    with pytest.raises(ConfigError, match=f"{compression} has no level {level}"):
        rewrite_image("nowhere", shrink, how, client=no_engine)


def test_a_plain_folder_is_refused(tmp_path: Path) -> None:
    how = Rewriting(name="a:1", output=tmp_path / "out.tar")
    with pytest.raises(InputError, match="not an image"):
        rewrite_image(str(tmp_path), shrink, how, client=no_engine)


class FakeEngine:
    """The calls of docker-py that saving and loading need."""

    def __init__(self, saved: bytes, refuses: bool = False) -> None:
        self._saved, self._refuses = saved, refuses
        self.images = self.api = self
        self.attrs = {"Size": len(saved)}
        self.id = "sha256:0"
        self.loaded = b""

    def get(self, reference: str) -> FakeEngine:
        return self

    def get_image(self, reference: str, chunk_size: int) -> list[bytes]:
        return [self._saved[at : at + 5000] for at in range(0, len(self._saved), 5000)]

    def info(self) -> dict[str, str]:
        return {"DockerRootDir": "/nonexistent"}

    def load(self, file: Any) -> None:
        if self._refuses:
            raise APIError("invalid tar header")
        self.loaded = file.read()


def test_image_of_an_engine_goes_back_into_it(tmp_path: Path) -> None:
    engine: Any = FakeEngine(source(tmp_path).read_bytes())
    how = Rewriting(name="demo:slim", scratch=tmp_path)
    record, answer = rewrite_image(
        "demo:1", lambda root: shrink(root) or 7, how, client=lambda: engine
    )
    image = read_archive([engine.loaded], Look(checksums=True), name="loaded")
    assert files(image)["opt/lib.so"][2] == digest(SMALL)
    assert record.target == "docker.io/library/demo:slim"
    assert answer == 7


def test_image_may_be_deleted_while_it_is_slimmed(tmp_path: Path) -> None:
    layout = make.oci_layout(tmp_path / "layout", make.build([BASE, MIDDLE, TOP]))

    def edit(root: Path) -> None:
        shrink(root)
        shutil.rmtree(layout)

    _, after = rewritten(tmp_path, edit, layout)
    assert files(after)["opt/lib.so"][2] == digest(SMALL)


def test_engine_that_refuses_says_why(tmp_path: Path) -> None:
    engine: Any = FakeEngine(source(tmp_path).read_bytes(), refuses=True)
    with pytest.raises(EngineError, match="invalid tar header"):
        rewrite_image("demo:1", shrink, Rewriting(name="demo:slim"), client=lambda: engine)


@pytest.mark.parametrize("seed", range(40))
def test_any_image_and_any_edit_give_the_edited_file_system(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    path = source(tmp_path, dice.choice(["none", "gzip", "zstd"]), random_layers(dice))
    before = read_archive(path, Look(checksums=True), name="s")
    expected = files(before)
    contents = [name for name, value in expected.items() if value[0] == "file"]
    removed = set(dice.sample(contents, len(contents) // 4))
    replaced = set(dice.sample(contents, len(contents) // 4)) - removed

    def edit(root: Path) -> None:
        for name in removed:
            (root / name).unlink()
        for name in replaced:
            (root / name).unlink()
            (root / name).write_bytes(f"new {name}".encode())

    record, after = rewritten(tmp_path, edit, path)
    for name in removed:
        del expected[name]
    for name in replaced:
        expected[name] = (*expected[name][:2], digest(f"new {name}".encode()))
    assert files(after) == expected
    assert set(record.removed) == removed
    assert set(record.replaced) == replaced


def random_layers(dice: random.Random) -> list[bytes]:
    """Layers with files, folders, hard links and whiteouts that overlap a lot."""
    names = [f"{folder}{name}" for folder in ("", "x/", "x/y/", "z/") for name in "abcd"]
    layers = []
    for number in range(dice.randrange(1, 5)):
        if number and dice.random() < 0.2:
            layers.append(make.layer(make.Entry("x", b"a file where a folder was")))
            continue
        entries = [make.directory(name) for name in ("x", "x/y", "z")]
        plain: list[str] = []
        for name in dice.sample(names, 9):
            kind = dice.choice(["file", "file", "file", "link", "whiteout"])
            folder, _, base = name.rpartition("/")
            if kind == "link" and plain:
                entries.append(make.hardlink(name, dice.choice(plain)))
            elif kind == "whiteout" and number:
                entries.append(make.Entry(f"{folder}/.wh.{base}".lstrip("/")))
            else:
                entries.append(make.Entry(name, dice.randbytes(dice.randrange(40))))
                plain.append(name)
        if number and dice.random() < 0.3:
            entries.append(make.Entry(f"{dice.choice(['x', 'z'])}/.wh..wh..opq"))
        layers.append(make.layer(*entries))
    return layers


def explain(root: Path) -> None:
    """Make new files as a slimmer does, one of them in a folder that is not there."""
    shrink(root)
    for name, text in (("opt/why.py", "raise"), ("opt/deep/er/why.json", "{}")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
        (root / name).chmod(0o644)
    (root / "opt/ignored").symlink_to("lib.so")  # only files are taken over


def test_new_files_are_one_more_layer(tmp_path: Path) -> None:
    before = read_archive(source(tmp_path), Look(checksums=True), name="s")
    record, after = rewritten(tmp_path, explain, created_by="tfslim slim")
    assert record.added == ["opt/deep/er/why.json", "opt/why.py"]
    assert [layer.rewritten for layer in record.layers] == [False, True, False, True]
    assert (record.layers[3].before_digest, record.layers[3].before_bytes) == ("", 0)
    assert record.layers[3].created_by == "tfslim slim"
    expected = files(before)
    expected["opt/lib.so"] = ("file", 0o755, digest(SMALL))
    expected["opt/why.py"] = ("file", 0o644, digest(b"raise"))
    expected["opt/deep/er/why.json"] = ("file", 0o644, digest(b"{}"))
    assert files(after) == expected
    saved = len(BIG) - len(SMALL) - len(b"raise{}")
    assert record.disk_bytes_before - record.disk_bytes_after == saved
    # An engine counts the history's entries that are not empty and wants as many layers.
    steps = [step for step in after.config["history"] if not step.get("empty_layer")]
    assert len(steps) == len(after.config["rootfs"]["diff_ids"]) == len(after.layers) == 4


def test_new_files_alone_rewrite_no_layer(tmp_path: Path) -> None:
    record, after = rewritten(tmp_path, lambda root: (root / "opt/new").touch())
    assert [layer.rewritten for layer in record.layers] == [False, False, False, True]
    assert [member.path for member in after.layers[3].members] == ["opt/new"]


def test_new_files_give_the_same_bytes_each_time(tmp_path: Path) -> None:
    def edit(root: Path) -> None:
        explain(root)
        for name in ("opt/why.py", "opt/deep/er/why.json"):
            os.utime(root / name, (315_532_800, 315_532_800))

    digests = {rewritten(tmp_path, edit)[0].manifest_digest for _ in range(2)}
    assert len(digests) == 1
