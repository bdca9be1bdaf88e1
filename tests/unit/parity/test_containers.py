"""Scripts run in images, with an engine whose containers are folders and processes."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from docker.errors import APIError, ImageNotFound

from tfslim.errors import EngineError, InputError
from tfslim.parity.containers import ImageTarget
from tfslim.parity.locate import find_target
from tfslim.parity.target import Script


class FakeContainer:
    """A folder for a root; `python` is a shell script that this test gives."""

    def __init__(self, engine: FakeEngine, options: dict[str, Any]) -> None:
        self.engine, self.options = engine, options
        self.root = engine.folder / f"container-{len(engine.containers)}"
        self.root.mkdir()
        self.removed = self.killed = False
        self.process: subprocess.Popen[bytes] | None = None

    def put_archive(self, path: str, data: Any) -> bool:
        assert path == "/"
        with tarfile.open(fileobj=data) as archive:
            self.modes = {entry.name: (entry.mode, entry.uid) for entry in archive}
        data.seek(0)
        with tarfile.open(fileobj=data) as archive:
            archive.extractall(self.root, filter="data")
        return True

    def start(self) -> None:
        if self.options["entrypoint"][0] not in self.engine.pythons:
            raise APIError('exec: "python": executable file not found in $PATH')
        folder = self.root / self.options["working_dir"].lstrip("/")
        self.process = subprocess.Popen(
            ["sh", "-c", self.engine.script, *self.options["command"]],
            cwd=folder,
            env={**os.environ, **self.options["environment"]},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def logs(self, *, stream: bool, follow: bool) -> Iterator[bytes]:
        assert self.process
        assert self.process.stdout
        while chunk := self.process.stdout.read(3):  # pieces that are no lines
            yield chunk
        if self.engine.silent:
            raise requests.exceptions.ReadTimeout("nothing for 600 s")

    def wait(self) -> dict[str, int]:
        assert self.process
        status = self.process.wait()
        return {"StatusCode": status if status >= 0 else 128 - status}

    def kill(self) -> None:
        assert self.process
        self.killed = True
        os.killpg(self.process.pid, 9)

    def get_archive(self, path: str) -> tuple[Iterator[bytes], dict[str, Any]]:
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as archive:
            archive.add(self.root / path.lstrip("/"), arcname=Path(path).name)
            link = tarfile.TarInfo("out/link")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
        return iter([data.getvalue()[:700], data.getvalue()[700:]]), {}

    def remove(self, *, force: bool, v: bool) -> None:
        self.removed = True


class FakeEngine:
    """What of a docker client is used."""

    def __init__(self, folder: Path, script: str) -> None:
        self.folder, self.script = folder, script
        self.config: dict[str, Any] = {"Cmd": ["python", "-m", "app"]}
        self.pythons = {"python"}
        self.silent = False
        self.containers: Any = self
        self.images: Any = self
        self.made: list[FakeContainer] = []

    def __len__(self) -> int:
        return len(self.made)

    def info(self) -> dict[str, Any]:
        return {"Runtimes": {"nvidia": {}}}

    def get(self, name: str) -> Any:
        if name != "my/image:1":
            raise ImageNotFound("no such image")
        found = type("Image", (), {})()
        found.attrs = {"Config": self.config}
        return found

    def create(self, image: str, **options: Any) -> FakeContainer:
        self.made.append(FakeContainer(self, options))
        return self.made[-1]

    def close(self) -> None:
        pass


@pytest.fixture
def job(tmp_path: Path) -> Path:
    job = tmp_path / "job"
    (job / "out" / "earlier").mkdir(parents=True)
    (job / "models").mkdir(mode=0o700)
    (job / "probe.py").write_text("print()")
    (job / "probe.py").chmod(0o600)
    return job


def run(engine: FakeEngine, job: Path, **options: Any) -> tuple[Any, list[str]]:
    lines: list[str] = []
    target = find_target("my/image:1", lambda: engine)  # type: ignore[arg-type, return-value]
    assert isinstance(target, ImageTarget)
    script = Script(["out/result"], options.pop("limit", 30), **options)
    return target.run(job, script, lines.append), lines


def test_files_go_in_and_results_come_out(tmp_path: Path, job: Path) -> None:
    engine = FakeEngine(tmp_path, 'ls out; echo "probe: $TF_X"; echo done > $0')
    ended, lines = run(engine, job, env={"TF_X": "été"})
    assert (ended.status, lines) == (0, ["probe: été"])
    assert (job / "out/result").read_text() == "done\n"
    assert not (job / "out/link").exists()
    (container,) = engine.made
    assert container.removed
    assert container.options["network_mode"] == "none"
    assert "device_requests" not in container.options


def test_any_user_of_the_image_can_read_and_write(tmp_path: Path, job: Path) -> None:
    engine = FakeEngine(tmp_path, "true")
    run(engine, job)
    modes = engine.made[0].modes
    assert modes["tfslim-parity/probe.py"] == (0o644, 0)
    assert modes["tfslim-parity/out"] == (0o777, 0)
    assert modes["tfslim-parity/models"] == (0o777, 0)
    assert "tfslim-parity/out/earlier" not in modes


def test_a_gpu_is_asked_for_when_it_is_wanted(tmp_path: Path, job: Path) -> None:
    engine = FakeEngine(tmp_path, "true")
    run(engine, job, gpu=True)
    (request,) = engine.made[0].options["device_requests"]
    assert request["Capabilities"] == [["gpu"]]


def test_python_is_called_as_the_image_calls_it_or_by_its_usual_names(
    tmp_path: Path, job: Path
) -> None:
    engine = FakeEngine(tmp_path, "true")
    engine.config = {"Entrypoint": ["/opt/venv/bin/python3.13"], "Cmd": None}
    engine.pythons = {"python3"}
    assert run(engine, job)[0].ok
    tried = [container.options["entrypoint"][0] for container in engine.made]
    assert tried == ["/opt/venv/bin/python3.13", "python", "python3"]
    assert all(container.removed for container in engine.made)


def test_an_image_without_python_is_refused(tmp_path: Path, job: Path) -> None:
    engine = FakeEngine(tmp_path, "true")
    engine.pythons = set()
    with pytest.raises(EngineError, match="cannot run Python"):
        run(engine, job)
    assert all(container.removed for container in engine.made)


def test_an_image_that_is_not_there_is_told_before_anything_runs(tmp_path: Path) -> None:
    engine = FakeEngine(tmp_path, "true")
    with pytest.raises(InputError, match="no image of that name"):
        find_target("my/image:2", lambda: engine)  # type: ignore[arg-type, return-value]


def test_a_container_that_hangs_is_killed(tmp_path: Path, job: Path) -> None:
    engine = FakeEngine(tmp_path, "echo before; sleep 600")
    ended, lines = run(engine, job, limit=0.5)
    assert (ended.how, lines) == ("ended by SIGKILL", ["before"])
    assert engine.made[0].removed


def test_an_engine_that_falls_silent_ends_the_container(tmp_path: Path, job: Path) -> None:
    engine = FakeEngine(tmp_path, "exec >/dev/null 2>&1; sleep 600")
    engine.silent = True
    ended, _ = run(engine, job)
    assert ended.how == "ended by SIGKILL"
    assert "no output any more" in ended.tail
