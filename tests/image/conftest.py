"""A real engine and, one after the other, real images of every variant."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tfslim.bench.container import Launch, Service, launch
from tfslim.build.bake import BuiltImage
from tfslim.config import Config, load_config
from tfslim.engine.engine import Engine
from tfslim.pipeline import Line
from tfslim.plan import Build, make_plan
from tfslim.ui import Ui

ROOT = Path(__file__).resolve().parents[2]
# TFSLIM_TEST_VARIANTS="training inference" tries these alone.
VARIANTS = os.environ.get(
    "TFSLIM_TEST_VARIANTS",
    "stock approach-a approach-b training inference workload inference-native workload-native",
).split()


@pytest.fixture(scope="session")
def config() -> Config:
    config = load_config(ROOT / "tfslim.yaml")
    # The engine's own cache is what these builds need; tests of the local cache make their own.
    return config.model_copy(update={"cache": config.cache.model_copy(update={"local": False})})


@pytest.fixture(scope="session")
def line(config: Config) -> Line:
    return Line(config, make_plan(config), Ui(interactive=False), setup_engine=True)


@pytest.fixture(scope="session")
def engine(line: Line) -> Engine:
    return line.engine


@pytest.fixture(scope="session")
def client(engine: Engine) -> Iterator[docker.DockerClient]:
    client = engine.client()
    yield client
    client.close()


@pytest.fixture(scope="module", params=VARIANTS)
def image(request: pytest.FixtureRequest, line: Line, config: Config) -> Iterator[BuiltImage]:
    """Build one variant; make room for the next when its tests are done and the disk is tight."""
    (build,) = make_plan(config, [request.param])
    (built,) = line.build([build])
    yield built
    line.make_room(build)


@pytest.fixture(scope="module")
def variant(image: BuiltImage) -> str:
    return image.build.variant


@pytest.fixture(scope="module")
def service(image: BuiltImage, client: docker.DockerClient) -> Iterator[Service]:
    with launch(client, launch_of(image.build)) as service:
        yield service


def launch_of(build: Build, model: Path | None = None) -> Launch:
    return Launch(
        image=build.tag,
        model=model,
        model_name=build.variables["MODEL_NAME"],
        gpu=False,
        ready_timeout=180,
    )


@pytest.fixture(scope="session")
def fake_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the stand-ins for NVIDIA's driver libraries."""
    folder = tmp_path_factory.mktemp("fake-driver")
    source = ROOT / "tests" / "fixtures" / "fake-driver"
    for name, library in (("cuda.c", "libcuda.so.1"), ("nvml.c", "libnvidia-ml.so.1")):
        command = ["cc", "-Wall", "-Werror", "-shared", "-fPIC", "-o", folder / library]
        subprocess.run([*command, source / name], check=True)
    folder.chmod(0o755)
    return folder


def run(
    client: docker.DockerClient, image: str, command: list[str], **options: object
) -> tuple[int, str]:
    """Run a command in an image; return its status and everything it said."""
    container = client.containers.create(image, command, **options)  # type: ignore[arg-type]
    try:
        container.start()
        status = container.wait(timeout=300)["StatusCode"]
        return status, container.logs().decode(errors="replace")
    finally:
        container.remove(force=True, v=True)
