"""A real image against itself, in an engine and unpacked; and unpacked with a driver bound in."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tfslim.bench import enter
from tfslim.bench.driver import find_driver
from tfslim.bench.rootfs import RootTarget, open_root
from tfslim.bench.sources import open_subjects
from tfslim.bench.throughput import compare_runs, measure_calls, measure_services
from tfslim.config import BenchConfig, Config
from tfslim.engine.engine import Engine
from tfslim.errors import InputError
from tfslim.parity.target import Script
from tfslim.pipeline import Line
from tfslim.plan import make_plan
from tfslim.ui import Ui

pytestmark = pytest.mark.image

SETTINGS = BenchConfig(
    launches=5, batch_sizes=(1,), seconds=1.0, concurrency=(1,), rate="off", gpu="off"
)
LIST_GPUS = """
import os
import tensorflow as tf
print("GPUS", len(tf.config.list_physical_devices("GPU")), flush=True)
os._exit(0)
"""


@pytest.fixture(scope="module")
def tag(line: Line, config: Config) -> str:
    """The image `inference`, built if it is not there."""
    (build,) = make_plan(config, ["inference"])
    if not line.engine.docker(["image", "inspect", build.tag]).ok:
        line.build([build])
    return build.tag


@pytest.fixture(scope="module")
def root(tag: str, client: docker.DockerClient) -> Iterator[Path]:
    """The same image, unpacked."""
    container = client.containers.create(tag)
    with tempfile.TemporaryDirectory(prefix="tfslim-root-") as name:
        folder = Path(name, "root")
        folder.mkdir()
        with subprocess.Popen(["tar", "-x", "-C", folder], stdin=subprocess.PIPE) as tar:
            assert tar.stdin
            for chunk in container.export():
                tar.stdin.write(chunk)
            tar.stdin.close()
        container.remove(v=True)
        yield folder


@pytest.fixture
def tool() -> enter.Tool:
    try:
        return enter.choose_tool()
    except InputError as error:
        pytest.skip(str(error))


def test_an_image_is_not_called_faster_or_slower_than_itself(tag: str, engine: Engine) -> None:
    ui = Ui(interactive=False)
    with open_subjects([tag, tag], SETTINGS, model=None, engine=lambda: engine, ui=ui) as opened:
        calls = measure_calls(opened.subjects, SETTINGS, group=0, gpu=False, ui=ui)
        _, http = measure_services(opened.subjects, SETTINGS, group=0, gpu=False, ui=ui)
    # Of 100 such comparisons up to 5 say otherwise; beyond 10 % it is far less.
    (first, second) = compare_runs(calls, http, margin=0.10)
    assert first.subject == second.subject == f"{tag} (2)"
    for item in (first, second):
        assert item.comparison.launches == (5, 5)
        assert item.comparison.verdict in ("same", "inconclusive"), item


def test_an_unpacked_image_serves_and_is_called_as_the_image_is(
    root: Path, tool: enter.Tool
) -> None:
    assert tool
    settings = SETTINGS.model_copy(update={"launches": 1})
    ui = Ui(interactive=False)
    with open_subjects([str(root)], settings, model=None, engine=pytest.fail, ui=ui) as opened:
        (call,) = measure_calls(opened.subjects, settings, group=0, gpu=False, ui=ui)
        (launched,), (run,) = measure_services(opened.subjects, settings, group=0, gpu=False, ui=ui)
    assert call.backend == "tensorflow"
    assert call.samples_per_second > 0
    assert launched.phases_s["ready"] < launched.phases_s["second_answer"]
    assert (launched.memory_bytes or 0) > 100 * 10**6
    assert run.failed == {}
    assert not list(root.rglob(".tfslim"))  # nothing was written into it


def test_the_drivers_libraries_are_bound_into_an_unpacked_image(
    root: Path, tool: enter.Tool, fake_driver: Path
) -> None:
    driver = find_driver([str(fake_driver)])
    lines: list[str] = []
    with (
        open_root(str(root), Ui(quiet=True)) as opened,
        tempfile.TemporaryDirectory() as job,
    ):
        Path(job, "gpus.py").write_text(LIST_GPUS)
        target = RootTarget(opened, tool, driver)
        for gpu in (True, False):
            script = Script(["gpus.py"], 120, {"TF_CPP_MIN_LOG_LEVEL": "3"}, gpu)
            ended = target.run(Path(job), script, lines.append)
            assert ended.ok, ended.tail
    assert [line for line in lines if line.startswith("GPUS")] == ["GPUS 1", "GPUS 0"]
