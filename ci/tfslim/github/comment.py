"""One comment on a pull request for each report: found again, edited in place, left if unchanged.

A comment is ours where it begins with the report's marker and was written by this token's account:
a marker alone is text that anybody can write. Of several the newest is kept; the others, left by
jobs that ran at the same time, are deleted. Nobody else's comment is ever touched.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tfslim.errors import TfslimError
from tfslim.github.api import Api, ApiError, Comment
from tfslim.github.event import Event
from tfslim.github.state import JobState
from tfslim.report.inert import plain
from tfslim.report.markdown import LIMIT_BYTES

__all__ = ["CommentOutcome", "Origin", "Wish", "body_of", "marker", "post_comment", "upsert"]

Wish = Literal["auto", "always", "never"]
Done = Literal["created", "updated", "unchanged", "skipped", "failed"]

_RUN: Final = re.compile(r"<!-- tfslim-run:(\d{1,19})\.(\d{1,9}) -->")
_REMARKS: Final = "<!-- tfslim-remarks -->"
_MARKER_LINE: Final = re.compile(r"\A\s*<!-- tfslim-report:[^\n]*-->[^\S\n]*\n?")
# Rows of a report that are of the moment: a report that differs in these alone is the same.
_MOMENT: Final = re.compile(r"^\| (started|load when it began|job|commit) \|.*\n", re.MULTILINE)
_FORK: Final = (
    "a fork's pull request gets no token that may comment; its results travel as an artifact, and "
    "a second workflow posts them: docs/workflows/pr-comment.yml"
)


@dataclass(frozen=True)
class CommentOutcome:
    """What became of a comment.

    Attributes:
        done: What happened.
        url: Of the comment; empty where there is none.
        note: Why nothing was written, or what failed: a sentence.
        level: How loudly to say so; a comment that was not wanted or not possible is a notice.
    """

    done: Done
    url: str = ""
    note: str = ""
    level: Literal["notice", "warning"] = "notice"


@dataclass(frozen=True)
class Origin:
    """The run that a comment comes from.

    Attributes:
        repository: OWNER/NAME.
        number: Of the pull request.
        report_id: Which report.
        run_id: Of the workflow run; 0 outside of one.
        attempt: Of that run, from 1.
        run_url: Its page.
        sha: The commit that was measured.
        artifact: Name of the artifact with the whole report; empty for none.
    """

    repository: str
    number: int
    report_id: str
    run_id: int = 0
    attempt: int = 1
    run_url: str = ""
    sha: str = ""
    artifact: str = ""


def post_comment(
    api: Api, event: Event, state: JobState, report_dir: Path, wish: Wish = "auto"
) -> CommentOutcome:
    """Post this job's report, as far as it is wanted and the token may.

    Nothing that goes wrong here is raised: a comment is a courtesy, and the job's own outcome says
    whether the images are right.

    Args:
        api: GitHub.
        event: What started the job.
        state: What the job came to.
        report_dir: Holds report.md.
        wish: auto does not even try for a fork; never does not at all.
    """
    request = event.pull_request
    if wish == "never":
        return CommentOutcome("skipped", note="no comment is wanted")
    if request is None:
        return CommentOutcome("skipped", note="this event is of no pull request")
    if wish == "auto" and event.is_fork:
        return CommentOutcome("skipped", note=_FORK)
    origin = Origin(
        repository=event.repository,
        number=request.number,
        report_id=state.id,
        run_id=event.run_id,
        attempt=event.run_attempt,
        run_url=event.run_url,
        sha=event.sha,
        artifact=state.artifact,
    )
    try:
        text = (report_dir / "report.md").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        why = f"there is no report to post: {report_dir}/report.md: {error.strerror}"
        return CommentOutcome("skipped", note=why)
    try:
        return upsert(api, origin, body_of(text, origin))
    except TfslimError as error:
        return _failed(error, wish)


def _failed(error: TfslimError, wish: Wish) -> CommentOutcome:
    """Say why there is no comment; what `auto` cannot do is no warning."""
    parts = (error.what, error.why, error.way_out)
    note = f"no comment: {'. '.join(' '.join(part.split()) for part in parts if part)}"
    refused = isinstance(error, ApiError) and error.status == 403
    level: Literal["notice", "warning"] = "notice" if refused and wish == "auto" else "warning"
    return CommentOutcome("failed", note=note[:2000], level=level)


def marker(report_id: str) -> str:
    """Return the first line of a report's comment."""
    return f"<!-- tfslim-report:{report_id} -->"


def body_of(text: str, origin: Origin, *, remarks: str = "") -> str:
    """Return a comment: marker, report, remarks, and a last line that says where it comes from.

    Args:
        text: The report as Markdown.
        origin: The run.
        remarks: Markdown that stands below the report.
    """
    report = _MARKER_LINE.sub("", text).rstrip("\n")
    footer = _footer(origin)
    below = f"{_REMARKS}\n{remarks}" if remarks else ""
    body = "\n\n".join(filter(None, [f"{marker(origin.report_id)}\n{report}", below, footer]))
    if _fits(body):
        return body + "\n"
    # A report is made to fit; this is for one that somebody else wrote.
    first = report.partition("\n\n")[0][:2000]
    short = f"{marker(origin.report_id)}\n{first}\n\n_The report is too long for a comment._"
    return f"{short}\n\n{footer}\n"


def _fits(body: str) -> bool:
    return len(body.encode("utf-8", "replace")) < LIMIT_BYTES


def _footer(origin: Origin) -> str:
    """Return the line below a report; it is not part of what makes two reports differ."""
    parts = [
        f"[run {origin.run_id}]({origin.run_url})" if origin.run_url else "",
        f"commit {plain(origin.sha)[:12]}" if origin.sha else "",
        f"the whole report is its artifact `{origin.artifact}`" if origin.artifact else "",
    ]
    told = " · ".join(part for part in parts if part)
    return f"<!-- tfslim-run:{origin.run_id}.{origin.attempt} -->\n<sub>{told}</sub>"


def upsert(
    api: Api,
    origin: Origin,
    body: str,
    still: Callable[[], None] = lambda: None,
    *,
    once: bool = False,
) -> CommentOutcome:
    """Write the comment, or edit the one that is there.

    Args:
        api: GitHub.
        origin: Where it belongs.
        body: Its text.
        still: Called at the last moment before something is written; raises where it has become
            wrong to write.
        once: Leaves a comment alone that the same run wrote.

    Raises:
        ApiError: GitHub refuses or cannot be reached.
    """
    own = _Own(api, origin)
    found = own.newest()
    run = _run_of(found) if found is not None else (0, 0)
    this = (origin.run_id, origin.attempt)
    if found is not None and origin.run_id and (run > this or (once and run == this)):
        which = "this" if run == this else "a newer"
        return CommentOutcome("skipped", found.html_url, f"{which} run has commented already")
    if found is not None and normalised(found.body) == normalised(body):
        own.tidy(found)
        return CommentOutcome("unchanged", found.html_url, "the report is what it was")
    still()
    if found is not None:
        try:
            edited = api.update_comment(origin.repository, found.id, body)
        except ApiError as error:
            if error.status != 404:
                raise
        else:
            own.tidy(edited)
            return CommentOutcome("updated", edited.html_url)
    made = api.create_comment(origin.repository, origin.number, body, own.newest)
    kept = own.newest() or made  # another job may have written one in this moment
    own.tidy(kept)
    return CommentOutcome("created", kept.html_url)


def normalised(body: str) -> str:
    """Return what of a comment makes it differ from another: not its run, not its moment.

    Nor the remarks: a run's own comment and the one that `publish` makes of it are the same report.
    """
    text = re.split(r"<!-- tfslim-(?:remarks|run)\b", body.replace("\r\n", "\n"))[0]
    lines = (line.rstrip() for line in _MOMENT.sub("", text).strip().split("\n"))
    return "\n".join(lines)


def _run_of(found: Comment) -> tuple[int, int]:
    """Return run and attempt that wrote a comment; GitHub counts both upwards."""
    said = _RUN.findall(found.body)
    return (int(said[-1][0]), int(said[-1][1])) if said else (0, 0)


class _Own:
    """Our comments of one report on one pull request.

    Args:
        api: GitHub.
        origin: Where they belong.
    """

    def __init__(self, api: Api, origin: Origin) -> None:
        self._api = api
        self._origin = origin
        self._login = ""
        self._older: list[Comment] = []

    def newest(self) -> Comment | None:
        """Read them again, and return the newest."""
        place = (self._origin.repository, self._origin.number)
        first = marker(self._origin.report_id)
        marked = [item for item in self._api.comments(*place) if item.body.startswith(first)]
        if marked and not self._login:
            self._login = self._api.login().lower()
        mine = [item for item in marked if item.user and item.user.login.lower() == self._login]
        mine.sort(key=lambda item: item.id)
        self._older = mine[:-1]
        return mine[-1] if mine else None

    def tidy(self, kept: Comment) -> None:
        """Delete the others; that this fails is no loss."""
        for item in self._older:
            if item.id != kept.id:
                try:
                    self._api.delete_comment(self._origin.repository, item.id)
                except ApiError:
                    return
