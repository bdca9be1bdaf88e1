"""A job of the action: inputs, then the same rooms as every verb, then what people see of it.

`run` ends with 0 for whatever it could tell, so that the report is uploaded and posted; the step
`finish` ends the job with the code that the state holds. docs/action.md says which code means what.
"""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

from tfslim.cli_report import EXIT_BUDGET, EXIT_REGRESSED, Held, Options, judge
from tfslim.config import Config
from tfslim.errors import ConfigError, TfslimError
from tfslim.github import baseline, tell
from tfslim.github.commands import Commands
from tfslim.github.event import GPU_LABEL, Event, may_use_gpu
from tfslim.github.inputs import Inputs, configuration, read_inputs, variable
from tfslim.github.join import joined
from tfslim.github.measured import Made, Wanted, measure, name_of
from tfslim.github.state import (
    COMMIT,
    EVENT,
    REPORT_ID,
    REPOSITORY,
    STATE_FILE,
    ErrorText,
    JobState,
    aside,
)
from tfslim.gpu import find_gpus
from tfslim.plan import make_plan, matrix
from tfslim.report import render
from tfslim.report.baseline import Found
from tfslim.report.dashboards import write_dashboards
from tfslim.ui import Ui

__all__ = ["EXIT_INTERRUPTED", "Job", "run"]

EXIT_INTERRUPTED: Final = 130

_DEFECT: Final = 1
_REPORT_DIR: Final = "tfslim-report"
_FILES: Final = ("report.md", "report.html", "report.json", "verdict.json")
_PASSWORD: Final = re.compile(r"://[^/\s:@]*:([^/\s@]+)@")
_FAILS: Final = {
    "budget": (EXIT_BUDGET,),
    "regression": (EXIT_BUDGET, EXIT_REGRESSED),
    "never": (),
}


@dataclass(frozen=True)
class Job:
    """What a job is made of; tests put their own in.

    Attributes:
        env: The step's environment.
        event: What started it.
        commands: The runner.
        ui: Shows progress.
        measure: Builds and measures.
        earlier: Fetches an earlier run's record: event, token, name of its artifact.
        has_gpu: Tells whether this machine has a GPU.
    """

    env: Mapping[str, str]
    event: Event
    commands: Commands
    ui: Ui
    measure: Callable[[Wanted, Ui], Made] = measure
    earlier: Callable[[Event, str, str], Found] | None = None
    has_gpu: Callable[[], bool] = lambda: bool(find_gpus().gpus)

    @cached_property
    def folder(self) -> Path:
        """The report's folder, or the default where that is wrong."""
        given = Path(self.env.get(variable("report-dir"), "").strip() or _REPORT_DIR)
        return given if _is_own(given) else Path(_REPORT_DIR)

    @cached_property
    def aside(self) -> Path:
        """The folder of a state that is not final."""
        return aside(self.env, self.folder)

    @cached_property
    def id(self) -> str:
        """The report's id, or the default where that is wrong."""
        given = self.env.get(variable("id"), "").strip()
        return _fitting(given, REPORT_ID) or "tfslim"


def run(job: Job) -> int:
    """Do what the inputs say, and leave a state that says how it ended.

    Returns:
        The step's own exit code: 0 unless tfslim itself failed.
    """
    job.commands.mask(job.env.get("TFSLIM_TOKEN", ""))
    state = _begun(job)
    try:
        inputs = read_inputs(job.env)
        _check_folder(inputs.report_dir)
        state = state.model_copy(update={"mode": inputs.mode})
        state = _MODES[inputs.mode](job, inputs, state)
    except TfslimError as error:
        _failed(job, state, error)
    except KeyboardInterrupt:
        _saved(
            job, state.model_copy(update={"status": "interrupted", "exit_code": EXIT_INTERRUPTED})
        )
        raise
    except Exception as error:  # noqa: BLE001 (a defect is kept in the state, and shown)
        _crashed(job, state, error)
        return _DEFECT
    return 0


def _begun(job: Job) -> JobState:
    """Leave a state that says the job runs: what is killed says so for ever."""
    for name in (*_FILES, STATE_FILE):  # an earlier step's, which this run does not speak of
        (job.folder / name).unlink(missing_ok=True)
    event = job.event
    state = JobState(
        id=job.id,
        report_dir=str(job.folder),
        event=_fitting(event.name, EVENT),
        repository=_fitting(event.repository, REPOSITORY),
        pull_request=event.pull_request.number if event.pull_request else None,
        head_sha=_fitting(event.sha, COMMIT),
        run_id=event.run_id,
    )
    job.commands.output("report-dir", str(job.folder))
    return _saved(job, state)


def _fitting(text: str, pattern: str) -> str:
    return text if re.fullmatch(pattern, text) else ""


def _is_own(folder: Path) -> bool:
    """Whether a folder is one of its own: all of it is uploaded, and a checkout holds a token."""
    inside = Path.cwd().is_relative_to(folder.resolve())
    return not inside and not (folder.exists() and not folder.is_dir())


def _check_folder(folder: Path) -> None:
    """Refuse a folder that is uploaded whole and holds more than the report."""
    if not _is_own(folder):
        raise ConfigError(
            f"input report-dir cannot be used: {folder} is no folder of its own",
            why="All of it is uploaded, and a checkout may hold credentials.",
            way_out="Leave it out, or name a folder that is only for the report.",
        )


def _saved(job: Job, state: JobState) -> JobState:
    """Keep a state; the report's folder gets it at the end.

    Until then nothing is written there: the folder may lie in what a Dockerfile copies.
    """
    state.save(job.aside if state.status == "running" else job.folder)
    return state


def _run(job: Job, inputs: Inputs, state: JobState) -> JobState:
    """Build, measure, compare, tell."""
    state = _with_artifact(job, inputs, state)
    config = _checked_gpu(job, inputs, _configuration(job, inputs))
    wanted = Wanted(
        inputs=inputs,
        config=config,
        name=name_of(inputs, job.event.repository),
        version=job.event.sha[:12] or "here",
        folder=job.folder,
    )
    with job.commands.group("Build and measure"):
        made = job.measure(wanted, job.ui)
    with job.commands.group("Baseline"):
        found = baseline.find(_search(job, wanted), job.ui)
    return _judged(job, state, wanted, made, found)


def _join(job: Job, inputs: Inputs, state: JobState) -> JobState:
    """Make one report of the records of many jobs."""
    state = _with_artifact(job, inputs, state)
    config = _configuration(job, inputs)
    with job.commands.group("Join"):
        parts = joined(inputs.records or Path())
        for note in parts.missing:
            job.ui.warn(note)
        record = parts.record
        if config.budgets:
            record = record.model_copy(update={"budgets": dict(config.budgets)})
        made = Made(record, subject="", image="", digest="")
        wanted = Wanted(inputs, config, name="", version="", folder=job.folder)
    for note in parts.missing:
        job.commands.annotate("warning", note, title="tfslim")
    with job.commands.group("Baseline"):
        found = baseline.find(_search(job, wanted), job.ui)
    state = _judged(job, state, wanted, made, found)
    if parts.missing and state.verdict == "good":
        state = state.model_copy(update={"verdict": "unsure", "why": parts.missing[:200]})
        job.commands.output("verdict", "unsure")
    return _saved(job, state)


def _plan(job: Job, inputs: Inputs, state: JobState) -> JobState:
    """Say what a matrix of jobs would build, and build nothing."""
    builds = make_plan(_configuration(job, inputs))
    runner: Any = ["self-hosted", "gpu"] if inputs.gpu == "required" else "ubuntu-latest"
    plan = {"include": [{**entry, "runs-on": runner} for entry in matrix(builds)["include"]]}
    job.commands.output("matrix", json.dumps(plan))
    job.commands.output("verdict", "good")
    with job.commands.verbatim():
        job.commands.say(f"{len(builds)} builds: {', '.join(build.variant for build in builds)}")
    return _saved(
        job, state.model_copy(update={"status": "done", "exit_code": 0, "verdict": "good"})
    )


def _elsewhere(*_: object) -> JobState:
    raise ConfigError("mode publish is a command of its own", way_out="tfslim action publish")


_MODES: Final[Mapping[str, Callable[[Job, Inputs, JobState], JobState]]] = {
    "run": _run,
    "join": _join,
    "plan": _plan,
    "publish": _elsewhere,
}


def _with_artifact(job: Job, inputs: Inputs, state: JobState) -> JobState:
    """From here on there is something to upload, whatever happens."""
    artifact = inputs.artifact if inputs.upload == "true" else ""
    job.commands.output("artifact", inputs.artifact)
    return _saved(job, state.model_copy(update={"artifact": artifact}))


def _configuration(job: Job, inputs: Inputs) -> Config:
    """Return the configuration; with `cache: auto` its folder is the one that outlives the job.

    A fork's run has no cache, whatever its own configuration says: what it wrote there would be
    read by others.
    """
    config = configuration(inputs)
    job.commands.mask(*_passwords(config.secrets.pip_conf))  # outside of a group, where it is read
    place = job.env.get("TFSLIM_CACHE_DIR", "")
    update: dict[str, Any] = {}
    if job.event.is_fork:
        update = {"local": False}
    elif inputs.cache == "auto" and place:
        update = {"dir": Path(place)}
    return config.model_copy(update={"cache": config.cache.model_copy(update=update)})


def _passwords(pip_conf: Path | None) -> list[str]:
    """Return the passwords of a pip.conf, as addresses of indexes have them."""
    if pip_conf is None or not pip_conf.is_file():
        return []
    return _PASSWORD.findall(pip_conf.read_text(encoding="utf-8", errors="replace"))


def _checked_gpu(job: Job, inputs: Inputs, config: Config) -> Config:
    """Refuse a fork's code on the project's own GPU, unless a maintainer said so for this commit.

    Raises:
        ConfigError: It is a fork's, and here is a GPU or one is required.
    """
    if inputs.gpu == "off" or may_use_gpu(job.event):
        return config
    if inputs.gpu == "required" or job.has_gpu():
        raise ConfigError(
            "a fork's code is not run on a machine with a GPU",
            why=f"It comes from {job.event.head_repository or 'a repository that is gone'}, and "
            f"this run was not started by a maintainer's label.",
            way_out=f"Read the change, then put the label `{GPU_LABEL}` on the pull request: the "
            "run that this starts\nmay use the GPU. After a further push, take it off and put it "
            "on again.\nOr measure without one: `gpu: off`, on a runner of GitHub's.",
        )
    return config.model_copy(update={"bench": config.bench.model_copy(update={"gpu": "off"})})


def _search(job: Job, wanted: Wanted) -> baseline.Search:
    token = job.env.get("TFSLIM_TOKEN", "")
    fetch = partial(job.earlier or _earlier, job.event, token, wanted.inputs.artifact)
    return baseline.Search(wanted, job.event, job.measure, fetch)


def _earlier(event: Event, token: str, artifact: str) -> Found:
    """Fetch the record of the merge base's run, or of the default branch's newest."""
    from tfslim.github.api import Api  # noqa: PLC0415 (only here is GitHub's API needed)
    from tfslim.github.artifacts import baseline_record, no_record  # noqa: PLC0415
    from tfslim.github.rest import Rest  # noqa: PLC0415

    if not token:
        return no_record("without a token no earlier run can be read")
    with Api(Rest(event.api_url, token)) as api:
        return baseline_record(api, event, artifact)


def _judged(job: Job, state: JobState, wanted: Wanted, made: Made, found: Found | None) -> JobState:
    """Hold the run against its budgets and the baseline; write, tell, and keep the outcome."""
    inputs = wanted.inputs
    held = judge(made.record, wanted.config.thresholds, Options(), found)
    fails = held.exit_code in _FAILS[inputs.fail_on]
    with job.commands.group("Report"):
        _write(held, inputs, job.folder, job.ui)
    report = render.make_report(
        held.record, held.comparison, budgets=held.budgets, marker=inputs.id
    )
    before = found[0] if found else None
    tell.tell_report(job.commands, report, held, inputs, before=before, fails=fails)
    if inputs.push:
        made = _pushed(job, made, fails=fails)
    tell.tell_outputs(job.commands, made, job.folder, report.status)
    return _saved(
        job,
        state.model_copy(
            update={
                "status": "done",
                "exit_code": held.exit_code if fails else 0,
                "verdict": report.status,
                "why": tuple(why[:1000] for why in (report.verdict, *report.alarms)),
            }
        ),
    )


def _pushed(job: Job, made: Made, *, fails: bool) -> Made:
    """Send what was made to a registry, unless it fails the job."""
    with job.commands.group("Push"):
        if fails:
            job.ui.warn("not pushed: it fails this job")
            return made
        sent = made.push()
    if not sent:
        return made
    return replace(made, image=sent[-1].references[0], digest=sent[-1].digest)


def _write(held: Held, inputs: Inputs, folder: Path, ui: Ui) -> None:
    files = render.write_report(
        held.record, held.comparison, folder, budgets=held.budgets, marker=inputs.id
    )
    files += write_dashboards(held.record, folder / "dashboards")
    ui.note(f"written: {len(files)} files in {folder}")


def _failed(job: Job, state: JobState, error: TfslimError) -> JobState:
    """Tell an error everywhere, and keep it."""
    with job.commands.verbatim():
        job.ui.error(error)
    tell.tell_error(job.commands, error, state.id, job.env.get(variable("dockerfile"), "").strip())
    job.folder.mkdir(parents=True, exist_ok=True)
    report = job.folder / "report.md"
    if not report.exists():  # a push fails after the report was written
        report.write_text(tell.error_markdown(error, state.id), encoding="utf-8")
    told = ErrorText(
        label=error.label[:1000],
        what=error.what[:10_000],
        why=error.why[-10_000:],
        way_out=error.way_out[:10_000],
    )
    return _saved(
        job,
        state.model_copy(
            update={
                "status": "failed",
                "exit_code": error.exit_code,
                "verdict": "error",
                "error": told,
            }
        ),
    )


def _crashed(job: Job, state: JobState, error: BaseException) -> None:
    """Show a defect of tfslim with its traceback, and keep that it was one."""
    with job.commands.verbatim():
        job.commands.say("".join(traceback.format_exception(error)))
    told = TfslimError(
        f"a defect of tfslim: {type(error).__name__}",
        way_out="Please report it, with the traceback in the log.",
    )
    _failed(job, state, told)
