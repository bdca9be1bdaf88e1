"""What a run of `act` said, read from its `--json` log.

Three habits of act that this hides: a job whose `runs-on` is not mapped is left out, and the run is
a success; what a step inside a composite action says may be told again for the step around it; and
outputs of steps inside a composite action leak out of it, declared or not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ActRun", "Annotation"]

_LEVELS = ("error", "warning", "notice")


@dataclass(frozen=True)
class Annotation:
    """What GitHub would show beside the run, or beside a line of a file."""

    job: str
    level: str
    message: str
    title: str = ""
    file: str = ""
    line: int = 0


@dataclass(frozen=True, repr=False)
class ActRun:
    """One run of a workflow.

    Attributes:
        returncode: Of act: 0 where no job failed.
        stdout: All of its log, one JSON object a line.
        stderr: What act itself complained about.
        store: The folder in which the stand-ins keep artifacts and caches.
        run_id: GITHUB_RUN_ID of the run.
    """

    returncode: int
    stdout: str
    stderr: str
    store: Path
    run_id: int

    @property
    def ok(self) -> bool:
        """Whether every job succeeded."""
        return self.returncode == 0

    @property
    def jobs(self) -> dict[str, str]:
        """The result of each job by its id; of a matrix "failure" if one part of it failed."""
        found: dict[str, str] = {}
        for event in self._events():
            if "jobResult" in event:
                job = event["jobID"]
                worse = found.get(job) not in (None, "success")
                found[job] = found[job] if worse else event["jobResult"]
        return found

    def expect(self, **jobs: str) -> ActRun:
        """Check how the jobs ended (all with success, if none is named); show the log if not.

        Raises:
            AssertionError: One ended otherwise; with everything the run said.
        """
        wanted = jobs or dict.fromkeys(self.jobs, "success")
        if self.jobs != wanted:
            raise AssertionError(f"expected {wanted}, and {self!r}")
        return self

    @property
    def log(self) -> str:
        """What the steps printed, commands to the runner included."""
        return "".join(
            event.get("raw") or event["msg"]
            for event in self._events()
            if event.get("raw_output") or "command" in event
        )

    @property
    def everything(self) -> str:
        """Everything act put out, on both streams."""
        return self.stdout + self.stderr

    def commands(self, name: str) -> list[dict[str, Any]]:
        """Return the events of a command to the runner, once for the step that gave it."""
        found: dict[tuple[object, ...], dict[str, Any]] = {}
        for event in self._events():
            if event.get("command") == name:
                found.setdefault(_key(event), event)
        events = list(found.values())
        return [event for event in events if not any(_told_again(event, o) for o in events)]

    @property
    def annotations(self) -> list[Annotation]:
        """All errors, warnings and notices, in order."""
        return [_annotation(event) for event in self._told()]

    def annotations_of(self, step: str) -> list[Annotation]:
        """Return the annotations of a step of the workflow, by its id, and of all inside it."""
        return [_annotation(event) for event in self._told() if event["stepID"][0] == step]

    def errors_of(self, step: str) -> str:
        """Return what a step of the workflow, and all inside it, reported as errors."""
        return "\n".join(one.message for one in self.annotations_of(step) if one.level == "error")

    def leaks(self, secret: str) -> list[str]:
        """Return where a secret stands in anything that came out, but for the line that masks it.

        The runner reads that line and does not show the value; act shows all of it here.
        """
        lines = [line for line in self.everything.splitlines() if "add-mask" not in line]
        found = [line for line in lines if secret in line]
        folder = self.store / "artifacts" / str(self.run_id)
        files = [path for path in folder.rglob("*") if path.is_file()]
        return found + [str(path) for path in files if secret.encode() in path.read_bytes()]

    @property
    def summary(self) -> str:
        """The job summaries, one after the other."""
        return "\n".join(event["content"] for event in self.commands("summary"))

    def outputs(self, step: str, job: str | None = None) -> dict[str, str]:
        """Return the outputs of a step of a workflow by its id (with what act lets leak)."""
        return {
            event["name"]: event["arg"]
            for event in self._events()
            if event.get("command") == "set-output"
            and event.get("stepID") == [step]
            and job in (None, event.get("jobID"))
        }

    def artifact(self, name: str) -> Path:
        """Return the folder with the files of an artifact that this run uploaded."""
        folder = self.store / "artifacts" / str(self.run_id) / name
        if not folder.is_dir():
            there = sorted(path.name for path in folder.parent.glob("*") if path.is_dir())
            raise AssertionError(f"no artifact {name!r} in this run; there are: {there}")
        return folder

    @property
    def artifacts(self) -> list[str]:
        """The names of the artifacts that this run uploaded."""
        folder = self.store / "artifacts" / str(self.run_id)
        return sorted(path.name for path in folder.glob("*") if path.is_dir())

    def _told(self) -> list[dict[str, Any]]:
        return [event for level in _LEVELS for event in self.commands(level)]

    def _events(self) -> Iterator[dict[str, Any]]:
        for line in self.stdout.splitlines():
            if line.startswith("{"):
                event = json.loads(line)
                event.setdefault("msg", "")
                yield event

    def __repr__(self) -> str:
        """Return what a person needs to see when a test fails."""
        return f"act ended with {self.returncode}: {self.jobs}\n{self.log}\n{self.stderr}"


def _annotation(event: Mapping[str, Any]) -> Annotation:
    """Read a command as GitHub's runner does: act takes the last `::` of a line for its end."""
    head, _, message = event["raw"].strip().removeprefix("::").partition("::")
    pairs = [pair.partition("=") for pair in head.partition(" ")[2].split(",")]
    more = {name.strip(): _unescaped(value) for name, _, value in pairs}
    return Annotation(
        job=event.get("jobID", ""),
        level=event["command"],
        message=_unescaped(message),
        title=more.get("title", ""),
        file=more.get("file", ""),
        line=int(more.get("line") or 0),
    )


def _unescaped(text: str) -> str:
    for code, character in (("%3A", ":"), ("%2C", ","), ("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
        text = text.replace(code, character)
    return text


def _key(event: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        event.get("job"),
        tuple(event.get("stepID") or ()),
        event.get("content"),
        event.get("raw"),
        event.get("arg"),
        event.get("name"),
    )


def _told_again(event: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether `other` is the same, told for a step further inside."""
    mine, inner = event.get("stepID") or [], other.get("stepID") or []
    same = _key(event)[2:] == _key(other)[2:] and event.get("job") == other.get("job")
    return same and len(inner) > len(mine) and inner[: len(mine)] == mine
