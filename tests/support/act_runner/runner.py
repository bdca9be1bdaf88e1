"""Runs a workflow of a user's repository with `act`, as it would run on GitHub.

Every `uses:` that a run may meet is mapped to a folder: the action itself to an export of the
working tree, GitHub's own actions to the stand-ins beside this file. What is not mapped would be
fetched from the network, so it is refused before act is started.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from act_runner.outcome import ActRun
from act_runner.userrepo import UserRepo

__all__ = ["ACTION", "PROGRAMS", "TOKEN", "Act", "export_action", "uses_of"]

ACTION = "org/tfslim-action"
TOKEN = "ghs_0neLongDistinctiveT0kenThatIsNowhereElse4711"
"""What the jobs get as their token: long enough for masking it not to hide single letters."""

_STAND_INS = Path(__file__).parent / "standins"
PROGRAMS = Path(__file__).parent / "programs"
"""Programs in place of those that talk to GitHub and registries; they come first on PATH."""
_USES = re.compile(r"^\s*(?:-\s+)?uses:\s*[\"']?([^\s\"'#]+)", re.MULTILINE)
_LABELS = ("ubuntu-latest", "ubuntu-24.04", "self-hosted", "gpu")


def export_action(source: Path, target: Path) -> Path:
    """Copy the files of the action's working tree that git would deliver, committed or not."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=source,
        check=True,
        capture_output=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = source / name
        # Tests and results of benchmarks: nothing in the action reads them, and act copies all.
        if path.is_file() and not name.startswith(("tests/", "benchmarks/")):
            place = target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, place)
    return target


def uses_of(texts: Iterable[str]) -> set[str]:
    """Return every `uses:` of actions and workflows that is not a local path."""
    found = {one for text in texts for one in _USES.findall(text)}
    return {one for one in found if not one.startswith("./")}


class Act:
    """`act`, ready to run workflows that use the action.

    Args:
        program: The act program.
        action: An export of the action (see `export_action`).
        scratch: Folder for act's copies, artifacts and caches; kept between runs.
        env: What every job's environment has beside GitHub's own.
        path: Folders of programs that jobs find.
        home: Where the action keeps its packages from run to run.
    """

    def __init__(
        self,
        program: Path,
        *,
        action: Path,
        scratch: Path,
        env: Mapping[str, str],
        path: str,
        home: Path,
    ) -> None:
        self._program = program
        self.action = action
        self._scratch = scratch
        self._env = dict(env)
        self._path = path
        self._next = 1000
        self.store = scratch / "store"
        (scratch / "home").mkdir(parents=True)
        self._home = home
        self.store.mkdir()

    def of(self, action: Path, env: Mapping[str, str]) -> Act:
        """Return the same with another export of the action, and more in the environment."""
        other = copy.copy(self)
        other.action, other._env = action, {**self._env, **env}
        return other

    def docker(self, *args: str) -> None:
        """Run docker as a step of a job would."""
        env = {"PATH": self._path, "HOME": str(self._scratch / "home"), **self._env}
        subprocess.run(["docker", *args], env=env, check=True, stdout=subprocess.DEVNULL)

    def run(
        self,
        repository: UserRepo,
        workflow: str,
        event: str,
        payload: Mapping[str, Any],
        *,
        skipped: Iterable[str] = (),
        env: Mapping[str, str] | None = None,
        run_id: int | None = None,
        token: str = TOKEN,
        timeout: float = 600,
        job: str = "",
    ) -> ActRun:
        """Run one workflow and return what came of it.

        Args:
            repository: The user's repository; what is checked out in it is what jobs check out.
            workflow: Name of a file in its `.github/workflows`.
            event: The event's name.
            payload: The event.
            skipped: Ids of jobs that have to be skipped; every other one has to have a result.
            env: More variables for all jobs.
            run_id: GITHUB_RUN_ID; a new one for each run if not given.
            token: The job's token.
            timeout: Seconds after which the run counts as stuck.
            job: Run this job alone, with those that it needs.

        Raises:
            AssertionError: A job has no result, or one that should be skipped has one.
        """
        number = run_id or self._number()
        place = self._scratch / f"run-{number}"
        place.mkdir(exist_ok=True)
        (place / "event.json").write_text(json.dumps(payload))
        (self.store / "checkout.json").write_text(
            json.dumps({"folder": str(repository.folder), "repository": repository.name})
        )
        text = (repository.folder / ".github" / "workflows" / workflow).read_text()
        variables = {
            "GITHUB_RUN_ID": str(number),
            "ACT_STORE": str(self.store),
            "ACT_STANDIN": str(_STAND_INS / "standin.py"),
            "TFSLIM_ACTION_HOME": str(self._home),
            **self._env,
            **(env or {}),
        }
        argv = [
            *(str(self._program), event),
            *("-W", f".github/workflows/{workflow}"),
            *("-e", str(place / "event.json")),
            *("--actor", "mona"),
            *(part for label in _LABELS for part in ("-P", f"{label}=-self-hosted")),
            *self._mappings(text, repository),
            *("--action-cache-path", str(place / "cache")),
            *("--no-cache-server", "--no-skip-checkout", "--container-daemon-socket", "-"),
            # Without masking by act: what a step prints is seen here as it was printed.
            *("-s", f"GITHUB_TOKEN={token}", "--insecure-secrets"),
            *(part for pair in variables.items() for part in ("--env", "=".join(pair))),
            *("--env-file", os.devnull, "--secret-file", os.devnull, "--var-file", os.devnull),
            *(("--job", job) if job else ()),
            "--json",
        ]
        done = subprocess.run(
            argv,
            cwd=repository.folder,
            env={"PATH": self._path, "HOME": str(self._scratch / "home")},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        shutil.rmtree(place, ignore_errors=True)
        run = ActRun(done.returncode, done.stdout, done.stderr, self.store, number)
        _check_jobs(run, text, set(skipped), job)
        return run

    def _number(self) -> int:
        self._next += 1
        return self._next

    def _mappings(self, workflow: str, repository: UserRepo) -> list[str]:
        """Return where act finds each action; refuse what has no place."""
        needed = uses_of([workflow, (self.action / "action.yml").read_text()])
        # What this workflow may call is mapped where it can be, and missed when it is called.
        others = [
            *self.action.glob(".github/workflows/*.yml"),
            *repository.folder.glob(".github/workflows/*.yml"),
        ]
        found: list[str] = []
        for one in sorted(needed | uses_of(path.read_text() for path in others)):
            name, _, ref = one.partition("@")
            owner, action, *_ = name.split("/")
            folder = self.action if f"{owner}/{action}" == ACTION else _STAND_INS / action
            if owner in ("actions", "org") and folder.is_dir():
                found += ["--local-repository", f"{owner}/{action}@{ref}={folder}"]
            else:
                assert one not in needed, f"{one}: no stand-in for it, and no network"
        return found


def _check_jobs(run: ActRun, workflow: str, skipped: set[str], only: str) -> None:
    """Every job has to have a result: one that no machine takes is left out with success."""
    jobs = yaml.safe_load(workflow)["jobs"]
    # Of a job that calls another workflow, its jobs are told, by their own ids.
    declared = {name for name, job in jobs.items() if "uses" not in job and only in ("", name)}
    assert skipped <= set(jobs), f"{skipped - set(jobs)} are no jobs of this workflow"
    ran = {job for job, result in run.jobs.items() if result != "skipped"}
    missing = declared - ran - skipped
    assert not missing, f"these jobs have no result: {missing}\n{run}"
    assert not ran & skipped, f"these jobs should not have run: {ran & skipped}\n{run}"
