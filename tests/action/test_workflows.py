"""Every template and every workflow of the repository runs as it is written.

Only addresses that nothing here can reach are changed (a registry's, for one on loopback). Where a
workflow measures TensorFlow images, which takes an hour, measuring alone is replaced: what stands
around it is what these tests are about, and `-m image` builds the images for real.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

import report_records as records
from act_runner import Act, ActRun, UserRepo, World
from fake_github import FakeGitHub
from loopback import registry
from tfslim.build.bases import ensure_bases
from tfslim.engine.engine import Engine
from tfslim.ui import Ui

pytestmark = pytest.mark.action

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "docs" / "workflows"
OWN = ROOT / ".github" / "workflows"
Check = Callable[[World], None]
TEMPLATE_TESTS: dict[str, Check] = {}
OWN_TESTS: dict[str, Check] = {}
_CALLED = {"images.yml"}  # called by matrix.yml, which is how anybody uses it

# What takes the place of building and measuring TensorFlow images.
REHEARSED = '''

def measure(wanted, ui):
    """Return a record that was made up before; see tests/action/test_workflows.py."""
    folder = Path(os.environ["TFSLIM_TEST_RECORDS"])
    own = (YARDSTICK, SLIM) if wanted.inputs.slims else ("inference",)
    builds = () if wanted.inputs.own_image else make_plan(wanted.config)
    names = tuple(build.variant for build in builds) or own
    made = RunRecord.load(folder / "report.json")
    made = made.model_copy(update={
        "sizes": {name: made.sizes["stock" if name == "stock" else "inference"] for name in names},
        "budgets": dict(wanted.config.budgets),
    })
    return Made(made, names[-1], f"tfslim-action/demo:{names[-1]}", "")
'''


def template(name: str) -> Callable[[Check], Check]:
    """Name the template that a function runs."""

    def keep(check: Check) -> Check:
        TEMPLATE_TESTS[name] = check
        return check

    return keep


def own(name: str) -> Callable[[Check], Check]:
    """Name the workflow of this repository that a function runs."""

    def keep(check: Check) -> Check:
        OWN_TESTS[name] = check
        return check

    return keep


@pytest.fixture(scope="module")
def base(engine: Engine) -> str:
    """An image with Python, as the variants have it."""
    (base,) = ensure_bases(engine, ["python:3.13-slim-trixie"], "auto", Ui(quiet=True)).values()
    return base.context.removeprefix("docker-image://")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture(scope="module")
def rehearsed(act: Act, tmp_path_factory: pytest.TempPathFactory) -> Act:
    """The action, with measuring replaced."""
    folder = tmp_path_factory.mktemp("rehearsed") / "action"
    shutil.copytree(act.action, folder, ignore=shutil.ignore_patterns("__pycache__"))
    measured = folder / "ci" / "tfslim" / "github" / "measured.py"
    measured.write_text(measured.read_text() + REHEARSED)
    (folder / "report.json").write_text(
        records.full(0.5, http=[], in_process=[], cold_starts=None, budgets={}).model_dump_json()
    )
    return act.of(folder, {"TFSLIM_TEST_RECORDS": str(folder)})


def with_templates(world: World, address: str, files: dict[str, str]) -> World:
    """Put all templates into the user's repository, and what they name beside them."""
    for path in sorted(TEMPLATES.glob("*.yml")):
        text = path.read_text().replace("ghcr.io", address)
        world.repository.write({f".github/workflows/{path.name}": text})
    world.repository.commit(files, "Workflows")
    return world


@pytest.fixture
def served(world: World, base: str, address: str) -> World:
    """A repository whose image serves something, so that its starts can be measured."""
    dockerfile = f"FROM {base}\nCOPY data.bin /srv/\nEXPOSE 8000\n"
    serve = 'CMD ["python3", "-m", "http.server", "--directory", "/srv", "8000"]\n'
    config = "bench:\n  cold-launches: 1\n"
    return with_templates(world, address, {"Dockerfile": dockerfile + serve, "tfslim.yaml": config})


@pytest.fixture
def small(world: World, address: str) -> World:
    """A repository with a small image that serves nothing."""
    return with_templates(world, address, {})


@pytest.fixture
def large(rehearsed: Act, fake: FakeGitHub, tmp_path: Path, address: str) -> World:
    """A repository whose TensorFlow images are measured in rehearsal only."""
    repository = UserRepo(tmp_path / "demo")
    repository.commit({"Dockerfile": "FROM scratch\n"}, "First")
    return with_templates(World(rehearsed, fake, repository), address, {})


def feature(world: World, *, fork: bool = False) -> World:
    """Open a pull request."""
    world.repository.branch("feature")
    world.repository.commit(message="A feature")
    world.open_pull(fork=fork)
    return world


def one_comment(world: World, run: ActRun, id_: str = "tfslim") -> None:
    """Check that the run left one comment and one summary."""
    (comment,) = world.comments
    assert comment.startswith(f"<!-- tfslim-report:{id_} -->"), run
    assert f"tfslim-report:{id_}" in run.summary


def test_every_template_and_every_workflow_has_a_test() -> None:
    assert {path.name for path in TEMPLATES.glob("*.yml")} == set(TEMPLATE_TESTS)
    assert {path.name for path in OWN.glob("*.yml")} == set(OWN_TESTS) | _CALLED


@pytest.mark.parametrize("name", sorted(path.name for path in TEMPLATES.glob("*.yml")))
def test_template(name: str, request: pytest.FixtureRequest) -> None:
    check = TEMPLATE_TESTS[name]
    (fixture,) = (one for one in check.__annotations__ if one != "return")
    check(request.getfixturevalue(fixture))


@pytest.mark.parametrize("name", sorted({path.name for path in OWN.glob("*.yml")} - _CALLED))
def test_own_workflow(name: str, itself: World) -> None:
    OWN_TESTS[name](itself)


@template("minimal.yml")
def minimal(small: World) -> None:
    small.push("minimal.yml").expect(tfslim="success")
    run = feature(small).pull_request(workflow="minimal.yml").expect(tfslim="success")
    one_comment(small, run)
    assert "no baseline" not in run.summary.lower()


@template("dockerfile.yml")
def dockerfile(served: World) -> None:
    run = feature(served).pull_request(workflow="dockerfile.yml").expect(tfslim="success")
    one_comment(served, run)
    assert "cold start" in run.summary


@template("pr-comment.yml")
def pr_comment(small: World) -> None:
    feature(small, fork=True)
    measured = small.pull_request(workflow="minimal.yml").expect(tfslim="success")
    assert not small.comments
    small.repository.switch("main")
    small.workflow_run(measured, "pr-comment.yml").expect(comment="success")
    (comment,) = small.comments
    assert comment.startswith("<!-- tfslim-report:tfslim -->")


@template("history.yml")
def history(served: World) -> None:
    for number in (1, 2):
        served.repository.commit(message=f"Push {number}")
        served.push("history.yml").expect(measure="success", keep="success")
        kept = served.repository.git("ls-tree", "--name-only", "tfslim-history", "runs/")
        assert len(kept.splitlines()) == number


@template("image.yml")
def image(served: World) -> None:
    """The image is in the engine under its name, as it is where it was just built."""
    text = (served.repository.folder / ".github/workflows/image.yml").read_text()
    step = yaml.safe_load(text)["jobs"]["tfslim"]["steps"][-1]
    served.act.docker("build", "-q", "-t", step["with"]["image"], str(served.repository.folder))
    try:
        run = served.schedule("image.yml").expect(tfslim="success")
    finally:
        served.act.docker("image", "rm", step["with"]["image"])
    assert "tfslim-report:nightly" in run.summary
    assert any(line.startswith("docker login") for line in served.programs)


@template("gpu.yml")
def gpu(served: World) -> None:
    """Built and pushed for real; then a machine without a GPU is refused, as it should be."""
    run = served.push("gpu.yml").expect(build="success", bench="failure")
    assert run.outputs("build")["digest"].startswith("sha256:")
    assert any("GPU" in one.message for one in run.annotations if one.job == "bench"), run
    assert served.programs[-1].startswith("docker logout")


@template("fork-gpu.yml")
def fork_gpu(small: World) -> None:
    feature(small, fork=True)
    name, event = "fork-gpu.yml", "pull_request_target"
    # Another label: nothing at all.
    small.pull_request(
        workflow=name, event=event, action="labeled", label="bug", skipped=["unlabel", "bench"]
    )
    # A push after the label: the label goes, nothing is measured.
    pushed = small.pull_request(workflow=name, event=event, label="gpu-ok", skipped=["bench"])
    pushed.expect(unlabel="success")
    assert any("DELETE" in line and "gpu-ok" in line for line in small.programs)
    # The label itself: measured, here as far as there is no GPU.
    labelled = small.pull_request(
        workflow=name, event=event, action="labeled", label="gpu-ok", skipped=["unlabel"]
    )
    labelled.expect(bench="failure")
    assert any("GPU" in one.message and "fork" not in one.message for one in labelled.annotations)


@template("matrix.yml")
def matrix(large: World) -> None:
    run = feature(large).pull_request(workflow="matrix.yml")
    assert set(run.jobs.values()) == {"success"}, run
    one_comment(large, run)
    (comment,) = large.comments
    for variant in ("stock", "inference", "inference-native"):
        assert f"| {variant} |" in comment
        assert f"tfslim-report-tfslim--{variant}" in run.artifacts


@template("variants.yml")
def variants(large: World) -> None:
    run = feature(large).pull_request(workflow="variants.yml").expect(tfslim="success")
    one_comment(large, run)


@template("slim.yml")
def slim(large: World) -> None:
    run = feature(large).pull_request(workflow="slim.yml").expect(tfslim="success")
    one_comment(large, run, "slim")
    assert "| slim |" in large.comments[0]


@pytest.fixture
def itself(rehearsed: Act, fake: FakeGitHub, tmp_path: Path) -> World:
    """The action's own repository; its own lint and tests are not run inside a test."""
    repository = UserRepo(tmp_path / "tfslim-action", "org/tfslim-action")
    shutil.copytree(rehearsed.action, repository.folder, dirs_exist_ok=True)
    repository.commit({"ci/start.sh": "exit 0\n"}, "First")
    return World(rehearsed, fake, repository)


@own("ci.yml")
def ci(itself: World) -> None:
    feature(itself)
    run = itself.pull_request(workflow="ci.yml", skipped=["whole"])
    assert set(run.jobs.values()) == {"success"}, run
    one_comment(itself, run)


@own("pr-comment.yml")
def own_pr_comment(itself: World) -> None:
    feature(itself, fork=True)
    measured = itself.pull_request(workflow="ci.yml", skipped=["whole"])
    assert not itself.comments
    itself.repository.switch("main")
    itself.workflow_run(measured, "pr-comment.yml").expect(comment="success")
    assert len(itself.comments) == 1


@own("release.yml")
def release(itself: World) -> None:
    folder, version = itself.repository.folder, "1.0.0"  # versions 0.x have no tag that moves
    dated = f"## [Unreleased]\n\n## [{version}] - 2026-01-02\n"
    changes = {
        "pyproject.toml": ('version = "0.1.0"', f'version = "{version}"'),
        "ci/tfslim/__init__.py": ("0.1.0", version),
        ".github/workflows/images.yml": ("@v0.1.0", f"@v{version}"),
        "CHANGELOG.md": ("## [Unreleased]\n", dated),
    }
    files: dict[str, str | bytes] = {
        name: (folder / name).read_text().replace(*change) for name, change in changes.items()
    }
    itself.repository.commit(files, "Release")
    itself.repository.git("tag", f"v{version}")
    run = itself.push("release.yml", ref=f"refs/tags/v{version}")
    run.expect(verify="success", attest="success", publish="success")
    told = "\n".join(itself.programs)
    assert f"attest release/tfslim-action-{version}.tar.gz" in told
    assert f"gh release create v{version}" in told
    assert "refs/tags/v1" in told
