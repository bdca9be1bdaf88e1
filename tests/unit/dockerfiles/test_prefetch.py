"""prefetch.py: what a start reads, as a list that a later start can trust."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

import prefetch

BUILD = Path(prefetch.__file__).parent
SERVICE = """\
import os, socket, tfserve_app.used
server = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
while True:
    asked, _ = server.accept()
    asked.recv(1000)
    asked.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
    asked.close()
"""


@pytest.mark.parametrize(
    ("pages", "ranges"),
    [
        ([], []),
        ([3], [(3, 1)]),
        ([2, 0, 1], [(0, 3)]),
        ([0, 3], [(0, 4)]),  # a gap of two pages is read, too
        ([0, 4], [(0, 1), (4, 1)]),
    ],
)
def test_near_pages_become_one_range(pages: list[int], ranges: list[tuple[int, int]]) -> None:
    assert prefetch.merged(pages, gap=2) == ranges


def test_pages_that_were_touched_are_found(tmp_path: Path) -> None:
    path = tmp_path / "library"
    path.write_bytes(b"x" * 4096 * 4096)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[4096 * 100] == ord("x")
        pages = prefetch.mapped_pages()[str(path)]
    assert 100 in pages
    assert len(pages) < 2048, "a fault maps its neighbours, not everything"


def test_small_files_are_named_whole_and_large_ones_by_their_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "NOT_OURS", ("/proc/",))
    monkeypatch.setattr(prefetch, "WHOLE_BYTES", 8192)
    monkeypatch.setattr(prefetch, "LARGE_BYTES", 4096 * 3)
    paths = {}
    for name, size in (("module.pyc", 10), ("small.so", 8192), ("large.so", 4096 * 90)):
        paths[name] = str(tmp_path / name)
        Path(paths[name]).write_bytes(b"x" * size)
        os.utime(paths[name], (7, 7))
    mapped = {paths["small.so"]: {1}, paths["large.so"]: {5, 6, 50, 4711}}
    opened = [paths["module.pyc"], paths["small.so"], "/proc/self/maps", "/gone"]
    assert prefetch.document(opened, mapped) == (
        "tfslim prefetch 1\n"
        f"{paths['large.so']}\t368640\t7\t5+2 50+1\n"
        f"{paths['module.pyc']}\t10\t7\t0+1\n"
        f"{paths['small.so']}\t8192\t7\t0+2\n"
    )


def test_a_list_never_asks_for_more_than_its_cap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prefetch, "NOT_OURS", ())
    monkeypatch.setattr(prefetch, "MOST_BYTES", 8192)
    for name in "ab":
        (tmp_path / name).write_bytes(b"x" * 8000)
    text = prefetch.document([str(tmp_path / "a"), str(tmp_path / "b")], {})
    assert len(text.splitlines()) == 2
    assert "beyond the cap" in capsys.readouterr().out


def record(tmp_path: Path, service: str) -> subprocess.CompletedProcess[str]:
    """Record a service, in processes as in a build, with the folders of a test."""
    app, model = tmp_path / "app", tmp_path / "model"
    (app / "tfserve_app").mkdir(parents=True)
    model.mkdir()
    (model / "saved_model.pb").touch()
    for name, text in (
        ("__init__", "A = 1\n"),
        ("used", "VALUE = 1\n"),
        ("__main__", service or ""),
    ):
        (app / "tfserve_app" / f"{name}.py").write_text(text)
    script = tmp_path / "prefetch.py"
    text = (BUILD / "prefetch.py").read_text()
    text = text.replace('Path("/model"), Path("/app")', f"Path({str(model)!r}), Path({str(app)!r})")
    script.write_text(text.replace('"/tmp/", ', "").replace("SECONDS = 300", "SECONDS = 10"))
    command = [sys.executable, str(script), str(tmp_path / "out")]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_start_is_recorded_in_the_order_of_first_use(tmp_path: Path) -> None:
    done = record(tmp_path, SERVICE)
    assert done.returncode == 0, done.stderr
    assert "prefetch: " in done.stdout
    path = tmp_path / "out" / "usr" / "share" / "tfslim" / "prefetch"
    lines = path.read_text().splitlines()
    assert lines[0] == "tfslim prefetch 1"
    names = [line.split("\t")[0] for line in lines[1:]]
    used = next(name for name in names if "/used" in name)
    assert names.index(next(name for name in names if "/__init__" in name)) < names.index(used)
    assert any(name.endswith("libc.so.6") for name in names)
    assert path.stat().st_mtime == prefetch.EPOCH


def test_a_start_is_made_with_the_model_as_it_will_be_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, served = tmp_path / "model", tmp_path / "served"
    for folder, name in ((model, "MODEL"), (served, "SERVED")):
        folder.mkdir()
        monkeypatch.setattr(prefetch, name, folder)
    assert prefetch.model_folder() is None
    (model / "1").mkdir()
    (model / "1" / "freeze.json").touch()
    assert prefetch.model_folder() == model
    (served / "freeze.json").touch()
    assert prefetch.model_folder() == served
    (model / "page").write_text("x")
    assert not list(prefetch.lines([str(model / "page"), str(served / "freeze.json")], {}))


def test_a_service_that_fails_makes_no_list_and_no_broken_build(tmp_path: Path) -> None:
    done = record(tmp_path, "raise SystemExit(3)")
    assert done.returncode == 0
    assert "no list was made" in done.stdout
    assert not list((tmp_path / "out").rglob("prefetch"))
