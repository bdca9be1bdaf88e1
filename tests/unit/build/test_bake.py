from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from tfslim.build.bake import BuiltImage, build_images
from tfslim.build.bases import Base
from tfslim.config import Config
from tfslim.engine.engine import Engine
from tfslim.errors import BuildFailedError, DiskError, NetworkError, TfslimError
from tfslim.plan import make_plan
from tfslim.proc import Completed
from tfslim.ui import Ui

DIGEST = "sha256:" + "d" * 64
LOG = """\
#1 [internal] load local bake definitions
#5 [context app] load from client
#6 [venv 1/2] FROM docker.io/library/python
#7 [venv 2/2] RUN pip install
#7 CACHED
#8 [stage-1 2/3] COPY --from=venv /opt/venv /opt/venv
#8 CACHED
#9 [stage-1 3/3] WORKDIR /app
#9 DONE 0.1s
""".splitlines()


class FakeEngine:
    """Plays buildx: keeps what it was given, says a log, writes what bake writes."""

    cache_export = True
    cache_reason = ""
    build_network = "host"

    def __init__(self, log: Sequence[str] = LOG, status: int = 0) -> None:
        self._log = log
        self._status = status
        self.calls: list[dict[str, Any]] = []

    def buildx(
        self,
        args: Sequence[str],
        on_line: Callable[[str], None],
        *,
        env: Mapping[str, str],
        cwd: Path,
    ) -> Completed:
        files = [Path(args[i + 1]) for i, arg in enumerate(args) if arg == "-f"]
        self.calls.append(
            {
                "override": json.loads(files[2].read_text()),
                "network": json.loads(files[0].read_text()),
                "files": files,
                "env": dict(env),
            }
        )
        for line in self._log:
            on_line(line)
        metadata = Path(args[args.index("--metadata-file") + 1])
        metadata.write_text(json.dumps({args[-1]: {"containerimage.digest": DIGEST}}))
        for target in self.calls[-1]["override"]["target"].values():
            for destination in target.get("cache-to", []):
                folder = Path(destination.split("dest=")[1].split(",")[0])
                (folder / "index.json").write_text("{}")
        return Completed(("buildx", *args), self._status, "\n".join(self._log), "")


def build(
    tmp_path: Path, engine: FakeEngine, *, local_cache: bool = False, model: Path | None = None
) -> BuiltImage:
    config = Config()
    cache = config.cache.model_copy(
        update={"local": local_cache, "dir": tmp_path / "cache", "max_bytes": 1}
    )
    config = config.model_copy(update={"cache": cache})
    builds = make_plan(config, ["inference"])
    name = builds[0].bases[0]
    base = Base(name, "debian", "docker-image://tfslim/base/x", "sha256:1", (), None)
    (built,) = build_images(
        cast("Engine", engine),
        builds,
        config=config,
        bases={name: base},
        model=model,
        trial=model,
        logs=tmp_path / "logs",
        ui=Ui(quiet=True),
    )
    return built


def test_steps_of_the_dockerfile_are_counted_and_those_from_the_cache(tmp_path: Path) -> None:
    built = build(tmp_path, FakeEngine())
    assert (built.steps, built.cached_steps) == (3, 2)
    assert built.digest == DIGEST


def test_what_a_run_adds_goes_beside_the_bake_file_and_is_gone_afterwards(tmp_path: Path) -> None:
    engine = FakeEngine()
    model = tmp_path / "model"
    build(tmp_path, engine, model=model)
    (call,) = engine.calls
    target = call["override"]["target"]["inference"]
    assert target["contexts"]["python:3.13-slim-trixie"] == "docker-image://tfslim/base/x"
    assert target["contexts"]["model"] == target["contexts"]["trial"] == str(model)
    assert target["tags"] == ["tfslim/inference:2.21.0-py3.13"]
    assert target["labels"]["io.tfslim.cuda-archs"] == "90"
    assert call["network"]["services"]["inference"]["build"]["network"] == "host"
    assert call["env"]["TENSORFLOW_VERSION"] == "2.21.0"
    assert not call["files"][2].exists()


def test_a_ca_bundle_of_the_machine_becomes_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CERT", "/some/ca.pem")
    engine = FakeEngine()
    build(tmp_path, engine)
    assert engine.calls[0]["override"]["target"]["inference"]["secret"] == [
        "id=ca,src=/some/ca.pem"
    ]


def test_the_whole_log_is_kept(tmp_path: Path) -> None:
    build(tmp_path, FakeEngine())
    assert (tmp_path / "logs" / "inference.log").read_text().splitlines() == LOG


def test_the_local_cache_is_exported_once_and_then_used(tmp_path: Path) -> None:
    first = FakeEngine()
    build(tmp_path, first, local_cache=True)
    assert len(first.calls) == 2, "one build, one export"
    second = FakeEngine()
    build(tmp_path, second, local_cache=True)
    (call,) = second.calls
    source = f"type=local,src={tmp_path / 'cache' / 'inference'}"
    assert call["override"]["target"]["inference"]["cache-from"] == [source]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("write /x: no space left on device", DiskError),
        ("ERROR: failed to resolve source metadata for docker.io/library/python", NetworkError),
        ("Could not fetch URL: certificate verify failed", NetworkError),
        ("ERROR: No matching distribution found for tensorflow==9", BuildFailedError),
    ],
)
def test_a_failed_build_is_told_apart_by_its_log(
    tmp_path: Path, line: str, kind: type[TfslimError]
) -> None:
    with pytest.raises(kind) as caught:
        build(tmp_path, FakeEngine([*LOG, line], status=1))
    assert line in caught.value.why
    assert caught.value.way_out


def test_a_failed_build_leaves_no_cache_behind(tmp_path: Path) -> None:
    with pytest.raises(BuildFailedError):
        build(tmp_path, FakeEngine(["boom"], status=1), local_cache=True)
    assert not list((tmp_path / "cache").glob("*")) if (tmp_path / "cache").exists() else True
