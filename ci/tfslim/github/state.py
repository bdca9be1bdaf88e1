"""What one step of the action leaves for the next ones, and for the workflow that comments.

It travels in the artifact of a job that may have run a fork's code: whoever reads it elsewhere
takes the types and limits here for granted, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tfslim.errors import InputError
from tfslim.files import write_whole

__all__ = [
    "COMMIT",
    "EVENT",
    "REPORT_ID",
    "REPOSITORY",
    "STATE_FILE",
    "ErrorText",
    "JobState",
    "Status",
    "Verdict",
    "aside",
]

STATE_FILE: Final = "action.json"
"""Its name in the report's folder."""

# Regular expressions of what names a run, for all of a text.
REPORT_ID: Final = r"[a-z0-9-]{1,40}"
EVENT: Final = r"[a-z_]{1,60}"
REPOSITORY: Final = r"[A-Za-z0-9_.-]{1,100}/[A-Za-z0-9_.-]{1,100}"
COMMIT: Final = r"[0-9a-f]{40}|[0-9a-f]{64}"

Status = Literal["running", "done", "failed", "interrupted"]
Verdict = Literal["good", "bad", "unsure", "error"]

_MOST_BYTES: Final = 256 * 1024

_Line = Annotated[str, Field(max_length=1000)]
_Text = Annotated[str, Field(max_length=10_000)]


def aside(env: Mapping[str, str], folder: Path) -> Path:
    """Return where a job's state lies until the job ends: outside of the checkout.

    Args:
        env: The step's environment.
        folder: The report's folder, which has to do outside of a job.
    """
    temp = env.get("RUNNER_TEMP")
    return Path(temp, "tfslim-state") if temp else folder


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ErrorText(_Model):
    """An error as a person is told it."""

    label: _Line
    what: _Text
    why: _Text = ""
    way_out: _Text = ""


class JobState(_Model):
    """How far a job has come.

    Attributes:
        id: Of the report: one artifact and one comment for each.
        mode: What the job was for.
        status: "running" until its end is known: a job that was killed says so for ever.
        exit_code: Of the job, as in docs/exit-codes.md; that of a running one is 1.
        verdict: The report's, or "error" where there is none.
        why: What decided it, a sentence each.
        error: What went wrong.
        report_dir: The folder that this file lies in, as it was named.
        artifact: Name of the artifact that holds it; empty for none.
        event: The event's name.
        repository: OWNER/NAME that the job ran in.
        pull_request: Its number.
        head_sha: The commit that was measured.
        run_id: Of the workflow run.
    """

    schema_version: Literal[1] = 1
    id: str = Field(pattern=rf"^{REPORT_ID}$")
    mode: Literal["run", "plan", "join", "publish"] = "run"
    status: Status = "running"
    exit_code: int = Field(1, ge=0, le=255)
    verdict: Verdict = "error"
    why: tuple[_Line, ...] = Field((), max_length=200)
    error: ErrorText | None = None
    report_dir: _Line = "tfslim-report"
    artifact: _Line = ""
    event: str = Field("", pattern=rf"^({EVENT})?$")
    repository: str = Field("", pattern=rf"^({REPOSITORY})?$")
    pull_request: int | None = Field(None, ge=1, le=2**53)
    head_sha: str = Field("", pattern=rf"^({COMMIT})?$")
    run_id: int = Field(0, ge=0, le=2**63)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a state.

        Raises:
            InputError: It is missing, too large or not what it should be.
        """
        try:
            with path.open("rb") as file:
                text = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise InputError(f"cannot read {path}", why=error.strerror or "") from error
        if len(text) > _MOST_BYTES:
            raise InputError(f"{path} is larger than {_MOST_BYTES} bytes")
        return cls.read(text, str(path))

    @classmethod
    def read(cls, text: bytes, name: str = STATE_FILE) -> Self:
        """Return a state from its JSON; `name` is what it is called in an error.

        Raises:
            InputError: It is not what it should be.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            fields = sorted({".".join(map(str, item["loc"])) for item in error.errors()})
            raise InputError(
                f"{name} is no state of a job",
                why=f"not as expected: {', '.join(fields)[:500] or 'it is no JSON'}",
            ) from error

    def save(self, folder: Path) -> Path:
        """Write it into a report's folder; a reader never sees half of it."""
        return write_whole(folder / STATE_FILE, self.model_dump_json(indent=1) + "\n")
