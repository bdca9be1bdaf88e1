"""Trees packed and put back: what comes back is what was there, and what is wrong is refused."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tfslim.cli import cli
from tfslim.errors import InputError
from tfslim.pack import read, write
from tfslim.pack.manifest import MANIFEST, MARKER, ImageConfig, read_manifest
from tfslim.pack.read import read_marker, unpack_tree
from tfslim.pack.write import pack_tree
from tfslim.ui import Ui

QUIET = Ui(quiet=True)
PIECE = 200_000


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with everything that trees hold; 2 MB that hardly compress."""
    noise = random.Random(7)
    root = tmp_path / "tree"
    (root / "lib" / "deep").mkdir(parents=True)
    (root / "empty").mkdir(mode=0o750)
    (root / "lib" / "large.so").write_bytes(noise.randbytes(2_000_000))
    (root / "lib" / "zeros").write_bytes(b"\0" * 3_000_000)
    for number in range(40):
        (root / "lib" / "deep" / f"{number}.py").write_text(f"x = {number}\n" * number)
    (root / "bin").mkdir()
    (root / "bin" / "tool").write_text("#!/bin/sh\n")
    (root / "bin" / "tool").chmod(0o755)
    (root / "bin" / "same").hardlink_to(root / "bin" / "tool")
    (root / "bin" / "python").symlink_to("/usr/bin/python3")
    (root / "lib" / "dangling").symlink_to("../nowhere")
    (root / ("n" * 150)).write_text("a long name")
    (root / "ünï").write_text("a name beyond ASCII")
    with (root / "lib" / "sparse").open("wb") as file:
        file.write(b"head")
        file.seek(1_000_000)
        file.write(b"middle")
        file.truncate(5_000_000)
    os.utime(root / "bin" / "tool", (1_000_000_000, 1_000_000_000))
    (root / "empty").chmod(0o550)
    return root


def pack(tree: Path, folder: Path, **options: Any) -> write.Packed:
    options = {"piece_bytes": PIECE, "name": "a tree", "level": 3, **options}
    return pack_tree(tree, folder, ui=QUIET, **options)


def look(root: Path) -> dict[str, tuple[object, ...]]:
    """Return all that has to come back: kind, rights, time, content or target, who shares what."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if name.startswith(".tfslim"):
            continue
        status = path.lstat()
        content: object = None
        if path.is_symlink():
            content = str(path.readlink())
        elif path.is_file():
            content = (path.read_bytes(), status.st_nlink)
        found[name] = (oct(status.st_mode), int(status.st_mtime), content)
    return found


def without_links_times(root: Path) -> dict[str, tuple[object, ...]]:
    """Return the same without the times of symbolic links, which Python's tarfile leaves alone."""
    links = {name for name in look(root) if (root / name).is_symlink()}
    return {n: (one[0], one[2]) if n in links else one for n, one in look(root).items()}


def test_what_comes_back_is_what_was_there(tree: Path, tmp_path: Path) -> None:
    packed = pack(tree, tmp_path / "pack")
    pieces = packed.manifest.pieces
    assert len(pieces) > 10
    assert all((tmp_path / "pack" / p.name).stat().st_size == p.bytes <= PIECE for p in pieces)
    unpack_tree(tmp_path / "pack", tmp_path / "back", ui=QUIET)
    assert look(tmp_path / "back") == look(tree)
    assert not (tmp_path / "back.partial").exists()


def test_holes_stay_holes(tree: Path, tmp_path: Path) -> None:
    if not read_manifest_of(tree, tmp_path).entries:
        pytest.fail("nothing was packed")
    entry = next(e for e in read_manifest(tmp_path / "pack")[0].entries if e.path == "lib/sparse")
    if not entry.holes:
        pytest.skip("this file system has no holes")
    unpack_tree(tmp_path / "pack", tmp_path / "back", ui=QUIET)
    before, after = (root / "lib" / "sparse" for root in (tree, tmp_path / "back"))
    assert after.stat().st_blocks == before.stat().st_blocks < 5_000_000 // 512


def read_manifest_of(tree: Path, tmp_path: Path) -> Any:
    pack(tree, tmp_path / "pack")
    return read_manifest(tmp_path / "pack")[0]


def digest_of(folder: Path) -> str:
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def test_ordinary_tools_unpack_it_too(tree: Path, tmp_path: Path) -> None:
    pack(tree, tmp_path / "pack")
    decompressor = zstandard.ZstdDecompressor()  # no more window than any tool takes unasked
    stored = b"".join(p.read_bytes() for p in sorted((tmp_path / "pack").glob("*.zst")))
    stream = tmp_path / "stream.tar"
    with stream.open("wb") as out:
        reader = decompressor.stream_reader(stored, read_across_frames=True)
        shutil.copyfileobj(reader, out)
    with tarfile.open(stream) as tar:
        tar.extractall(tmp_path / "plain", filter="fully_trusted")
    assert without_links_times(tmp_path / "plain") == without_links_times(tree)


def test_packing_goes_on_with_what_is_there_and_right(tree: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    first = pack(tree, folder)
    assert first.reused == 0
    (folder / MANIFEST).unlink()  # as if it had been interrupted before the end
    names = [piece.name for piece in first.manifest.pieces]
    (folder / names[0]).unlink()
    (folder / names[1]).write_bytes(b"half")
    (folder / f".{names[2]}.new").write_bytes(b"a left-over")
    again = pack(tree, folder)
    assert again.reused == len(names) - 2
    assert again.digest == first.digest
    assert {path.name for path in folder.iterdir()} == {*names, MANIFEST}


def test_packing_a_changed_tree_keeps_what_did_not_change(tree: Path, tmp_path: Path) -> None:
    first = pack(tree, tmp_path / "pack")
    (tree / "ünï").write_text("another text, here")
    again = pack(tree, tmp_path / "pack")
    assert 0 < again.reused < len(first.manifest.pieces)
    assert again.digest != first.digest
    unpack_tree(tmp_path / "pack", tmp_path / "back", ui=QUIET)
    assert look(tmp_path / "back") == look(tree)


def test_what_is_missing_or_damaged_is_named_and_nothing_is_written(
    tree: Path, tmp_path: Path
) -> None:
    names = [piece.name for piece in pack(tree, tmp_path / "pack").manifest.pieces]
    (tmp_path / "pack" / names[0]).unlink()
    (tmp_path / "pack" / names[3]).write_bytes(b"short")
    damaged = bytearray((tmp_path / "pack" / names[5]).read_bytes())
    damaged[100] ^= 1
    (tmp_path / "pack" / names[5]).write_bytes(damaged)
    with pytest.raises(InputError, match=f"3 of {len(names)} pieces") as caught:
        unpack_tree(tmp_path / "pack", tmp_path / "back", ui=QUIET)
    assert f"{names[0]}: missing" in caught.value.why
    assert f"{names[3]}: 5 bytes of" in caught.value.why
    assert f"{names[5]}: damaged" in caught.value.why
    assert not list(tmp_path.glob("back*"))


def test_unpacking_goes_on_after_an_interruption(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = pack(tree, tmp_path / "pack").manifest.pieces
    content, lock, count = read._content, threading.Lock(), [0]

    def failing(path: Path, piece: Any) -> bytes:
        with lock:
            count[0] += 1
            if count[0] > 6:
                raise KeyboardInterrupt
        return content(path, piece)

    monkeypatch.setattr(read, "_content", failing)
    with pytest.raises(KeyboardInterrupt):
        unpack_tree(tmp_path / "pack", tmp_path / "back", ui=QUIET)
    assert not (tmp_path / "back").exists()
    monkeypatch.setattr(read, "_content", content)
    done = unpack_tree(tmp_path / "pack", tmp_path / "back", ui=QUIET)
    assert 0 < done.reused < len(pieces)
    assert look(tmp_path / "back") == look(tree)


def test_an_interrupted_run_of_another_pack_is_not_gone_on_with(tree: Path, tmp_path: Path) -> None:
    pack(tree, tmp_path / "pack")
    partial = tmp_path / "back.partial"
    (partial / "tree").mkdir(parents=True)
    (partial / "tree" / "stranger").write_text("")
    (partial / "done").write_text("another manifest\n")
    assert unpack_tree(tmp_path / "pack", tmp_path / "back", ui=QUIET).reused == 0
    assert not (tmp_path / "back" / "stranger").exists()


def test_what_is_there_already_is_left_alone(tree: Path, tmp_path: Path) -> None:
    pack(tree, tmp_path / "pack")
    unpack_tree(tmp_path / "pack", tmp_path / "back", ui=QUIET)
    assert unpack_tree(tmp_path / "pack", tmp_path / "back", ui=QUIET).already
    with pytest.raises(InputError, match="exists, and is not this tree"):
        unpack_tree(tmp_path / "pack", tree, ui=QUIET)


def test_another_manifest_than_the_expected_one_is_refused(tree: Path, tmp_path: Path) -> None:
    digest = pack(tree, tmp_path / "pack").digest
    assert digest == digest_of(tmp_path / "pack")
    with pytest.raises(InputError, match="not the pack that was expected"):
        unpack_tree(tmp_path / "pack", tmp_path / "back", expected="0" * 64, ui=QUIET)
    unpack_tree(tmp_path / "pack", tmp_path / "back", expected=f"sha256:{digest}", ui=QUIET)


def test_what_an_image_says_of_itself_travels(tree: Path, tmp_path: Path) -> None:
    config = ImageConfig.of(
        {"Env": ["PATH=/bin", "X=a=b"], "Cmd": ["serve"], "WorkingDir": "/app", "User": "1"}
    )
    pack(tree, tmp_path / "pack", config=config)
    unpack_tree(tmp_path / "pack", tmp_path / "back", ui=QUIET)
    marker = read_marker(tmp_path / "back")
    assert marker is not None
    assert marker.config == ImageConfig(
        env={"PATH": "/bin", "X": "a=b"}, argv=("serve",), workdir="/app"
    )
    assert read_marker(tree) is None
    # The marker is no part of the tree: packing it again gives the same pieces.
    again = pack(tmp_path / "back", tmp_path / "pack", config=config)
    assert again.reused == len(again.manifest.pieces)


def hostile(**change: Any) -> Callable[[dict[str, Any]], None]:
    def edit(manifest: dict[str, Any]) -> None:
        entry = next(e for e in manifest["entries"] if e["path"] == "bin/same")
        entry.update(change)

    return edit


def through_a_link(manifest: dict[str, Any]) -> None:
    for entry in manifest["entries"]:
        if entry["path"] == "bin":
            entry.update(kind="symlink", target="/etc")


def cut_off(manifest: dict[str, Any]) -> None:
    manifest["pieces"].pop()


def huge(manifest: dict[str, Any]) -> None:
    manifest["pieces"][0]["raw_bytes"] = 1 << 40


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (hostile(path="../tool"), "no plain path"),
        (hostile(path="/etc/passwd"), "no plain path"),
        (hostile(path="bin//tool"), "no plain path"),
        (hostile(path="lib"), "is there twice"),
        (hostile(path="nowhere/tool"), "no folder of the tree"),
        (hostile(path=f"{MARKER}"), "no folder of the tree"),
        (hostile(path=".tfslim"), "keeps for itself"),
        (hostile(kind="hardlink", target="/etc/passwd"), "no earlier file"),
        (hostile(kind="device"), "Input should be"),
        (hostile(size=1 << 50), "beyond the stream's end"),
        (hostile(holes=[[0, 1 << 40]]), "hole beyond its end"),
        (through_a_link, "no folder of the tree"),
        (cut_off, "the pieces hold"),
        (huge, "less than or equal"),
    ],
)
def test_a_hostile_manifest_is_refused(
    edit: Callable[[dict[str, Any]], None], why: str, tree: Path, tmp_path: Path
) -> None:
    pack(tree, tmp_path / "pack")
    path = tmp_path / "pack" / MANIFEST
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError) as caught:
        unpack_tree(tmp_path / "pack", tmp_path / "out" / "back", ui=QUIET)
    assert why in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_piece_that_holds_something_else_than_it_says_is_refused(
    tree: Path, tmp_path: Path
) -> None:
    """The manifest and a piece agree on the stored bytes, not on what is in them."""
    pack(tree, tmp_path / "pack")
    path = tmp_path / "pack" / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["pieces"][0]["raw_sha256"] = "0" * 64
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="does not hold what the manifest says"):
        unpack_tree(tmp_path / "pack", tmp_path / "back", ui=QUIET)
    assert not (tmp_path / "back").exists()


def test_a_file_that_does_not_have_its_digest_leaves_nothing(tree: Path, tmp_path: Path) -> None:
    pack(tree, tmp_path / "pack")
    path = tmp_path / "pack" / MANIFEST
    manifest = json.loads(path.read_text())
    next(e for e in manifest["entries"] if e["path"] == "bin/same")["sha256"] = "0" * 64
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="1 unpacked files") as caught:
        unpack_tree(tmp_path / "pack", tmp_path / "back", ui=QUIET)
    assert caught.value.why == "bin/same"
    assert not list(tmp_path.glob("back*"))


def test_rights_that_a_stranger_could_abuse_do_not_come_back(tree: Path, tmp_path: Path) -> None:
    (tree / "bin" / "tool").chmod(0o6755)
    pack(tree, tmp_path / "pack")
    unpack_tree(tmp_path / "pack", tmp_path / "back", ui=QUIET)
    assert (tmp_path / "back" / "bin" / "tool").stat().st_mode & 0o7777 == 0o755


def test_what_cannot_be_packed_is_listed(tree: Path, tmp_path: Path) -> None:
    os.mkfifo(tree / "pipe")
    packed = pack(tree, tmp_path / "pack")
    assert packed.manifest.left_out == {"pipe": "named pipe"}
    unpack_tree(tmp_path / "pack", tmp_path / "back", ui=QUIET)
    assert not (tmp_path / "back" / "pipe").exists()


def test_a_folder_with_something_else_in_it_is_not_cleared(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(InputError, match=r"holds something else than a packed tree: thesis\.txt"):
        pack(tree, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_a_pack_without_a_manifest_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no packed tree"):
        unpack_tree(tmp_path, tmp_path / "back", ui=QUIET)


def test_the_command_line(tree: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner  # noqa: PLC0415

    runner, folder = CliRunner(), str(tmp_path / "pack")
    done = runner.invoke(cli, ["-q", "pack", str(tree), "-o", folder, "--piece", "300kB", "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["largest_piece_bytes"] <= 300_000
    assert said["manifest_sha256"] == digest_of(tmp_path / "pack")
    arguments = [
        "-q",
        "unpack",
        folder,
        str(tmp_path / "back"),
        "--digest",
        said["manifest_sha256"],
    ]
    done = runner.invoke(cli, arguments)
    assert "every digest fits" in done.stdout
    assert look(tmp_path / "back") == look(tree)
    assert "is there already" in runner.invoke(cli, arguments).stdout
    assert runner.invoke(cli, ["pack", str(tree), "-o", folder, "--piece", "x"]).exit_code == 2


@pytest.mark.skipif(shutil.which("zstd") is None, reason="no zstd")
def test_the_line_of_the_docs(tree: Path, tmp_path: Path) -> None:
    pack(tree, tmp_path / "pack")
    (tmp_path / "plain").mkdir()
    line = f"cat {tmp_path}/pack/*.tar.zst | zstd -d | tar -x -C {tmp_path}/plain"
    subprocess.run(["sh", "-c", line], check=True)
    assert look(tmp_path / "plain") == look(tree)
