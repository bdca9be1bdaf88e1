"""A job from its inputs to what people see, with measuring replaced by a record."""

from __future__ import annotations

import io
import json
import os
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from report_records import full, size, small
from tfslim.build.push import PushedImage
from tfslim.errors import BuildFailedError, PushError
from tfslim.github import job as jobs
from tfslim.github.artifacts import no_record
from tfslim.github.commands import Commands
from tfslim.github.event import Event, PullRequest
from tfslim.github.finish import finish
from tfslim.github.inputs import variable
from tfslim.github.job import Job
from tfslim.github.measured import Made, Wanted, clean_name, name_of
from tfslim.github.state import JobState
from tfslim.images.inspection import Inspection
from tfslim.report.baseline import Found, find_baseline
from tfslim.report.record import RunRecord
from tfslim.ui import Ui

SHA = "a" * 40
PUSH = Event("push", "me/app", SHA, ref="refs/heads/main", run_id=5)
SECRET = "gh" + "s_" + "0123456789abcdef"


@dataclass
class World:
    """A runner, a user's repository, and what would be measured."""

    folder: Path
    made: Made
    event: Event = PUSH
    gpu: bool = False
    error: BaseException | None = None
    earlier: Found = field(default_factory=lambda: no_record("there is no earlier run"))
    asked: list[Wanted] = field(default_factory=list)
    log: io.StringIO = field(default_factory=io.StringIO)

    def run(self, **inputs: str) -> int:
        env = {variable(name.replace("_", "-")): text for name, text in inputs.items()}
        env |= {
            "TFSLIM_TOKEN": SECRET,
            "TFSLIM_CACHE_DIR": "/kept",
            "RUNNER_TEMP": str(self.folder / "temp"),
            "GITHUB_OUTPUT": str(self.folder / "out"),
            "GITHUB_STEP_SUMMARY": str(self.folder / "summary"),
        }
        ui = Ui(interactive=False)
        ui.console = Console(file=self.log, highlight=False, soft_wrap=True)
        return jobs.run(
            Job(
                env,
                self.event,
                Commands(env, self.log),
                ui,
                measure=self._measure,
                earlier=lambda *_: self.earlier,
                has_gpu=lambda: self.gpu,
            )
        )

    def _measure(self, wanted: Wanted, ui: Ui) -> Made:
        # Whatever lies there now, a Dockerfile with `COPY . .` copies.
        assert not Path("tfslim-report").exists()
        self.asked.append(wanted)
        if self.error is not None:
            raise self.error
        budgets = {k: v for k, v in wanted.config.budgets.items() if k == "default"}
        return replace(self.made, record=self.made.record.model_copy(update={"budgets": budgets}))

    @property
    def state(self) -> JobState:
        return JobState.load(self.folder / "tfslim-report" / "action.json")

    @property
    def summary(self) -> str:
        return (self.folder / "summary").read_text()

    @property
    def told(self) -> str:
        """The summary, with spaces that break."""
        return self.summary.replace("\u00a0", " ")

    @property
    def outputs(self) -> dict[str, str]:
        lines = iter((self.folder / "out").read_text().splitlines())
        found = {}
        for line in lines:
            name, _, delimiter = line.partition("<<")
            value = []
            for content in lines:
                if content == delimiter:
                    break
                value.append(content)
            found[name] = "\n".join(value)
        return found

    @property
    def annotations(self) -> list[str]:
        kinds = ("::error", "::warning", "::notice")
        return [line for line in self.log.getvalue().splitlines() if line.startswith(kinds)]

    def finish(self) -> int:
        folder = self.folder / "tfslim-report"
        return finish(folder, self.folder / "temp" / "tfslim-state", Commands({}, self.log))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    # Pictures have tests of their own, and take a second each.
    monkeypatch.setattr("tfslim.report.render._pictures", lambda report: ())
    return World(tmp_path, Made(small(), "inference", "me/app:1", "sha256:12"))


def _images(count: int) -> RunRecord:
    return small(sizes={f"image-{number}": size(10**9, 10**9) for number in range(count)})


def test_a_run_leaves_report_summary_outputs_and_its_state(world: World) -> None:
    assert world.run(image="me/app:1") == 0
    assert world.finish() == 0
    assert world.outputs == {
        "report-dir": "tfslim-report",
        "artifact": "tfslim-report-tfslim",
        "report": "tfslim-report/report.md",
        "report-json": "tfslim-report/report.json",
        "verdict": "good",
        "pull-bytes": "2500000000",
        "disk-bytes": "5900000000",
        "image": "me/app:1",
        "digest": "sha256:12",
    }
    assert world.summary == Path("tfslim-report/report.md").read_text()
    assert world.summary.startswith("<!-- tfslim-report:tfslim -->")
    state = world.state
    assert (state.status, state.exit_code, state.verdict) == ("done", 0, "good")
    assert (state.repository, state.head_sha, state.event) == ("me/app", SHA, "push")
    assert world.annotations == []


def test_a_missing_baseline_is_said_and_is_no_error(world: World) -> None:
    assert world.run(image="a") == 0
    told = "No baseline: there is no earlier run."
    assert told in world.summary
    assert told in world.log.getvalue()
    assert world.finish() == 0


def _found(folder: Path, source: str) -> Found:
    record, info = find_baseline(str(folder))
    return record, info.model_copy(update={"source": source})


def test_an_earlier_run_is_compared_with(world: World) -> None:
    before = small(sizes={"inference": size(2_000_000_000, 5_900_000_000)})
    before.save(world.folder / "before" / "report.json")
    world.earlier = _found(world.folder / "before", "run 4 of 0123, the merge base")
    world.run(image="a", max_growth="10 %")
    assert "the merge base" in world.summary
    assert "+500 MB" in world.told
    assert world.state.exit_code == 20


@pytest.mark.parametrize(
    ("fail_on", "code", "level"),
    [("budget", 20, "::error"), ("regression", 20, "::error"), ("never", 0, "::warning")],
)
def test_a_broken_budget_fails_the_job_as_it_is_told(
    world: World, fail_on: str, code: int, level: str
) -> None:
    assert world.run(image="a", max_pull="1 GB", fail_on=fail_on) == 0
    assert world.finish() == code
    assert world.outputs["verdict"] == "bad"
    (told,) = world.annotations
    assert told.startswith(level)
    assert "2.50 GB is over the limit of 1.00 GB (max-pull)" in told


@pytest.mark.parametrize(("fail_on", "code"), [("budget", 0), ("regression", 22)])
def test_a_regression_fails_the_job_only_if_asked(world: World, fail_on: str, code: int) -> None:
    full().save(world.folder / "before" / "report.json")
    world.earlier = _found(world.folder / "before", "an earlier run")
    world.made = Made(full(scale=1.5, budgets={}), "inference", "a", "")
    world.run(image="a", fail_on=fail_on)
    assert world.finish() == code
    assert any("is worse than in the baseline" in line for line in world.annotations)


def test_a_budget_is_shown_at_the_dockerfile_s_line(world: World) -> None:
    Path("Dockerfile").write_text("# mine\nFROM x\nRUN make\n")
    world.run(dockerfile="Dockerfile", max_pull="1 GB")
    assert world.annotations[0].startswith("::error file=Dockerfile,line=2,title=tfslim::")


def test_at_most_ten_annotations_and_the_rest_is_counted(world: World) -> None:
    world.made = replace(world.made, record=_images(13))
    world.run(image="a", max_pull="1 MB")
    assert len(world.annotations) == 10
    assert "and 3 more" in world.log.getvalue()


def test_an_error_is_told_everywhere_with_its_way_out(world: World) -> None:
    world.error = BuildFailedError("the build `failed`", why="log\n```\n::error::x", way_out="Do.")
    assert world.run(dockerfile="", image="a") == 0
    assert world.finish() == 7
    assert world.outputs["verdict"] == "error"
    assert world.outputs["artifact"] == "tfslim-report-tfslim"
    state = world.state
    assert state.status == "failed"
    assert state.error is not None
    assert state.error.way_out == "Do."
    assert "````text\nlog\n```\n::error::x\n````" in world.summary
    assert Path("tfslim-report/report.md").read_text() == world.summary
    (told,) = world.annotations
    assert "Do." in told


def test_a_failed_build_is_shown_at_the_line_that_failed(world: World) -> None:
    Path("Dockerfile").write_text("FROM x\nRUN false\n")
    said = "ERROR: it failed\n------\nDockerfile:2\n--------------------\n   1 | FROM x"
    world.error = BuildFailedError("the build failed", why=said)
    world.run(dockerfile="Dockerfile")
    assert world.annotations[0].startswith("::error file=Dockerfile,line=2,title=")


def test_a_wrong_input_is_named_and_nothing_is_measured(world: World) -> None:
    assert world.run(image="a", bench="everything") == 0
    assert world.finish() == 2
    assert world.asked == []
    assert "bench" in world.annotations[0]
    assert "bench" in world.summary


@pytest.mark.parametrize("folder", [".", "..", "/"])
def test_a_report_folder_that_holds_more_than_the_report_is_refused(
    world: World, folder: str
) -> None:
    assert world.run(image="a", report_dir=folder) == 0
    assert world.outputs["report-dir"] == "tfslim-report"
    assert world.finish() == 2


def test_a_defect_shows_its_traceback_and_the_state_says_so(world: World) -> None:
    world.error = RuntimeError("boom")
    assert world.run(image="a") == 1
    assert world.finish() == 1
    assert "RuntimeError: boom" in world.log.getvalue()
    assert (world.state.status, world.state.verdict) == ("failed", "error")


def test_an_interrupted_run_says_so(world: World) -> None:
    world.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        world.run(image="a")
    assert (world.state.status, world.finish()) == ("interrupted", 130)


def test_a_run_that_was_killed_says_so(world: World) -> None:
    class Killed(BaseException):
        pass

    world.error = Killed()
    with pytest.raises(Killed):
        world.run(image="a")
    assert not Path("tfslim-report").exists()
    assert world.finish() == 1
    assert "killed" in world.annotations[-1]


def test_a_run_that_left_nothing_fails(world: World) -> None:
    assert world.finish() == 1


def test_the_token_is_masked_and_nowhere_in_what_is_left(world: World) -> None:
    world.error = BuildFailedError("it failed")
    world.run(image="a")
    world.finish()
    lines = world.log.getvalue().splitlines()
    assert lines[0] == f"::add-mask::{SECRET}"
    assert SECRET not in "\n".join(lines[1:])
    for path in world.folder.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes()


def test_passwords_of_a_private_index_are_masked_where_masks_are_read(world: World) -> None:
    Path("pip.conf").write_text("[global]\nindex-url = https://me:s3cret-word@pypi.local/simple\n")
    Path("tfslim.yaml").write_text("secrets: {pip-conf: pip.conf}\n")
    world.run(image="a")
    lines = world.log.getvalue().splitlines()
    assert lines.index("::add-mask::s3cret-word") < lines.index("::group::Build and measure")


def test_what_an_image_says_of_itself_is_no_command(world: World) -> None:
    evil = "x\n::set-output name=a::b\n::error::evil"
    record = small(sizes={evil: size(2 * 10**9, 2 * 10**9)})
    world.made = replace(world.made, record=record)
    world.run(image="a", max_pull="1 GB")
    assert len(world.annotations) == 1
    stopped = False
    for line in world.log.getvalue().splitlines():
        if line.startswith("::stop-commands::"):
            stopped = True
        elif line.startswith("::") and len(line) == 36:
            stopped = False
        assert stopped or "evil" not in line or line.startswith("::error title=tfslim::")


def _fork(action: str = "opened", label: str = "") -> Event:
    request = PullRequest(3, SHA, head_repository="other/app")
    return Event("pull_request", "me/app", SHA, action, label=label, pull_request=request)


@pytest.mark.parametrize(("gpu", "here"), [("required", False), ("auto", True)])
def test_a_fork_s_code_is_refused_on_a_gpu(world: World, gpu: str, here: bool) -> None:
    world.event, world.gpu = _fork(), here
    world.run(image="a", gpu=gpu)
    assert world.asked == []
    assert world.finish() == 2
    assert "gpu-ok" in world.annotations[0]


def test_a_fork_s_code_is_measured_without_a_gpu_and_leaves_no_cache(world: World) -> None:
    world.event = _fork()
    world.run(image="a", cache="/shared")
    config = world.asked[0].config
    assert (config.bench.gpu, config.cache.local) == ("off", False)
    assert world.finish() == 0


def test_the_cache_is_where_the_setup_keeps_it(world: World) -> None:
    world.run(image="a", report_dir="one")
    world.run(image="a", report_dir="two", cache="off")
    kept, off = (wanted.config.cache for wanted in world.asked)
    assert (kept.local, str(kept.dir), off.local) == (True, "/kept", False)


def test_the_label_lets_a_fork_s_commit_onto_the_gpu(world: World) -> None:
    world.event, world.gpu = _fork("labeled", "gpu-ok"), True
    world.run(image="a", gpu="required")
    assert world.asked[0].config.bench.gpu == "required"


def test_a_plan_is_a_matrix_and_nothing_else(world: World) -> None:
    assert world.run(mode="plan", variants="stock, inference", cuda_archs="90") == 0
    found = json.loads(world.outputs["matrix"])["include"]
    assert [entry["variant"] for entry in found] == ["stock", "inference"]
    assert {entry["runs-on"] for entry in found} == {"ubuntu-latest"}
    assert "artifact" not in world.outputs
    assert world.finish() == 0


def test_parts_are_joined_and_a_missing_one_is_not_good(world: World) -> None:
    small().save(world.folder / "parts" / "a" / "report.json")
    JobState(id="b").save(world.folder / "parts" / "b")
    world.run(mode="join", records="parts")
    assert world.outputs["verdict"] == "unsure"
    assert "part b is missing" in world.summary
    assert any("part b is missing" in line for line in world.annotations)
    assert world.state.verdict == "unsure"
    assert world.finish() == 0


def test_budgets_hold_for_what_was_joined(world: World) -> None:
    small().save(world.folder / "parts" / "a" / "report.json")
    world.run(mode="join", records="parts", max_pull="1 GB")
    assert world.finish() == 20


def _sent() -> PushedImage:
    return PushedImage(
        source="a",
        variant=None,
        references=("ghcr.io/me/app:1",),
        digest="sha256:99",
        image_digest=None,
        pull_bytes=None,
        layers=(),
        attestations=(),
        annotations={},
        same_layers=None,
        seconds=1,
        notes=(),
    )


def test_what_was_pushed_is_what_the_outputs_name(world: World) -> None:
    world.made = replace(world.made, push=lambda: [_sent()])
    world.run(image="a", push="ghcr.io/me/app")
    assert world.outputs["image"] == "ghcr.io/me/app:1"
    assert world.outputs["digest"] == "sha256:99"


def test_what_fails_the_job_is_not_pushed(world: World) -> None:
    def push() -> list[PushedImage]:
        raise AssertionError("it was pushed")

    world.made = replace(world.made, push=push)
    world.run(image="a", push="ghcr.io/me/app", max_pull="1 GB")
    assert world.finish() == 20
    assert "not pushed" in world.log.getvalue()


def test_a_push_that_is_refused_fails_the_job_and_keeps_the_report(world: World) -> None:
    def push() -> list[PushedImage]:
        raise PushError("it asks for another login")

    world.made = replace(world.made, push=push)
    world.run(image="a", push="ghcr.io/me/app")
    assert world.finish() == 12
    assert "another login" in world.summary
    assert "| inference |" in Path("tfslim-report/report.md").read_text()


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("ghcr.io/me/app:1.2", "app"),
        ("localhost:5000/app", "app"),
        ("me/app@sha256:0", "app"),
        ("images/stock.tar.gz", "image"),
        ("out/app.tar", "app"),
        ("slim", "image"),
        (":", "image"),
    ],
)
def test_an_image_has_a_clean_name(reference: str, name: str) -> None:
    assert clean_name(reference) == name


def test_a_dockerfile_s_image_is_called_as_its_stage_or_repository(world: World) -> None:
    Path("Dockerfile").write_text("FROM x\n")
    world.run(dockerfile="Dockerfile", report_dir="one")
    world.run(dockerfile="Dockerfile", report_dir="two", target="serving")
    assert [wanted.name for wanted in world.asked] == ["app", "serving"]
    assert name_of(world.asked[0].inputs, "") == "image"
    assert world.asked[0].version == SHA[:12]


# -- baselines that are built ---------------------------------------------------------------------


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=x", "-c", "user.email=x@y", *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"},
    )
    return done.stdout.strip()


def _commit(text: str) -> str:
    Path("Dockerfile").write_text(text)
    _git("add", "Dockerfile")
    _git("commit", "-qm", "x")
    return _git("rev-parse", "HEAD")


@pytest.fixture
def sized(world: World) -> World:
    """A repository whose images are as large as their Dockerfile says."""
    _git("init", "-q", "-b", "main", ".")

    def measure(wanted: Wanted, ui: Ui) -> Made:
        count = int(Path("Dockerfile").read_text().split()[1])
        sizes: dict[str, Any] = {"app": Inspection.model_validate(size(count, count))}
        return replace(world.made, record=small().model_copy(update={"sizes": sizes}))

    world._measure = measure  # type: ignore[method-assign]
    return world


def test_the_commit_before_a_push_is_built_beside(sized: World) -> None:
    before = _commit("FROM 1000000000")
    _commit("FROM 3000000000")
    sized.event = replace(PUSH, payload={"before": before})
    sized.run(dockerfile="Dockerfile", baseline="build")
    assert "+2.00 GB" in sized.told
    assert before[:12] in sized.summary
    assert _git("worktree", "list").count("\n") == 0


def test_a_pull_request_s_merge_is_compared_with_its_other_parent(sized: World) -> None:
    first = _commit("FROM 1000000000")
    _git("checkout", "-qb", "topic")
    head = _commit("FROM 3000000000")
    _git("checkout", "-q", "main")
    _git("commit", "-q", "--allow-empty", "-m", "main goes on")
    base = _git("rev-parse", "HEAD")
    _git("merge", "-q", "--no-ff", "-m", "merge", "topic")
    request = PullRequest(3, head, base_sha=first, base_ref="main", head_repository="me/app")
    sized.event = Event("pull_request", "me/app", head, pull_request=request)
    sized.run(dockerfile="Dockerfile", baseline="build")
    assert base[:12] in sized.summary
    assert "+2.00 GB" in sized.told


def test_a_shallow_clone_is_told_what_to_do(sized: World) -> None:
    _commit("FROM 1000000000")
    _commit("FROM 3000000000")
    _git("clone", "-q", "--depth=1", f"file://{Path.cwd()}", "shallow")
    os.chdir("shallow")
    sized.folder = Path.cwd()
    sized.run(dockerfile="Dockerfile", baseline="build")
    assert "fetch-depth" in sized.summary
    assert sized.finish() == 0


def test_a_new_dockerfile_has_no_baseline(sized: World) -> None:
    Path("README").write_text("x")
    _git("add", "README")
    _git("commit", "-qm", "x")
    _commit("FROM 3000000000")
    sized.run(dockerfile="Dockerfile", baseline="build")
    assert "Dockerfile is new" in sized.summary
    assert sized.finish() == 0
