"""Rules for workflows and actions that the linters do not have, and shellcheck for each `run:`.

    python ci/lint/workflows.py FILE…

A file with `runs:` is an action, any other one a workflow. Ends with 1 where something is wrong.
The bodies of `run:` are read with their places, so that shellcheck's findings name the file's line.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

__all__ = ["Document", "Problem", "RunBody", "check", "read", "run_bodies", "shellcheck"]

ROOT: Final = Path(__file__).resolve().parents[2]

OWN_ACTION: Final = re.compile(r"org/tfslim-action(?P<path>/[\w./-]+)?@v\d+(\.\d+\.\d+)?")
"""tfslim itself, as users call it: the one action that a tag may name."""

NO_LIMITS: Final = frozenset({"docs/workflows/minimal.yml"})
"""The README's ten lines have no `timeout-minutes` and no `concurrency`; the other templates do."""

_PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")
_USES = re.compile(r"^\s*(?:- )?uses:\s*(?P<what>\S+)(?:\s+#\s*(?P<comment>.*\S))?\s*$")
_VERSION = re.compile(r"v\d+\.\d+\.\d+")
_SHELLS = ("bash", "sh")


@dataclass(frozen=True)
class Problem:
    """What is wrong, and where.

    Attributes:
        path: The file.
        line: From 1.
        what: A sentence.
    """

    path: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


@dataclass(frozen=True)
class Document:
    """A workflow or an action.

    Attributes:
        path: As it is named in problems.
        text: The file.
        data: What it says.
    """

    path: str
    text: str
    data: dict[Any, Any]

    @property
    def is_action(self) -> bool:
        """Whether it is an action, and no workflow."""
        return "runs" in self.data

    @property
    def triggers(self) -> frozenset[str]:
        """The events that start a workflow."""
        value = self.data.get("on", self.data.get(True))  # YAML 1.1 reads `on` as true
        return frozenset([value] if isinstance(value, str) else value or ())

    @property
    def jobs(self) -> dict[str, dict[str, Any]]:
        """A workflow's jobs by name; an action has none."""
        return self.data.get("jobs") or {}


@dataclass(frozen=True)
class RunBody:
    """The shell text of one step.

    Attributes:
        line: Of its first line in the file, from 1.
        shell: The program that reads it, as in "bash".
        text: The lines, without the indentation.
    """

    line: int
    shell: str
    text: str


def read(path: Path, name: str = "") -> Document:
    """Return a workflow or an action; `name` is what problems call it."""
    text = path.read_text(encoding="utf-8")
    return Document(path=name or path.as_posix(), text=text, data=yaml.safe_load(text))


def check(document: Document) -> list[Problem]:
    """Return what breaks the house's rules; shellcheck is not among them."""
    problems = [*_uses(document), *_expressions(document)]
    if not document.is_action:
        problems += [
            *_permissions(document),
            *_limits(document),
            *_strangers(document),
            *_interfaces(document),
        ]
    return problems


def run_bodies(document: Document) -> list[RunBody]:
    """Return every `run:` of a workflow's or an action's steps, in the file's order."""
    default = "bash"  # GitHub's own default on Linux
    node = yaml.compose(document.text, yaml.SafeLoader)
    return [
        RunBody(line=_first_line(value), shell=shell.split()[0], text=value.value)
        for value, shell in _runs(node, default)
    ]


def shellcheck(document: Document) -> list[Problem]:
    """Return what shellcheck says of each `run:`, at its line in the file.

    Raises:
        FileNotFoundError: shellcheck is not installed.
    """
    problems = []
    for body in run_bodies(document):
        if body.shell not in _SHELLS:
            problems.append(
                Problem(document.path, body.line, f"shellcheck reads no {body.shell}; use bash")
            )
            continue
        done = subprocess.run(
            ["shellcheck", "--format=json1", f"--shell={body.shell}", "-"],
            input=body.text,
            text=True,
            capture_output=True,
            check=False,
        )
        if done.returncode > 1:  # 1: it found something
            raise RuntimeError(done.stderr.strip() or f"shellcheck ended with {done.returncode}")
        problems += [
            Problem(
                document.path,
                body.line + found["line"] - 1,
                f"SC{found['code']}: {found['message']}",
            )
            for found in json.loads(done.stdout)["comments"]
        ]
    return problems


def _uses(document: Document) -> Iterator[Problem]:
    """What is run from elsewhere is named by its commit, with the version beside it to read."""
    for number, line in enumerate(document.text.splitlines(), 1):
        match = _USES.match(line)
        if match is None:
            if re.match(r"^[^#]*\buses:", line):
                yield Problem(document.path, number, "`uses:` stands on a line of its own")
            continue
        what, comment = match["what"].strip("'\""), match["comment"] or ""
        if what.startswith("./") or OWN_ACTION.fullmatch(what):
            continue
        if not _PINNED.fullmatch(what):
            yield Problem(document.path, number, f"{what} is not pinned by a commit's 40 digits")
        elif not _VERSION.fullmatch(comment):
            yield Problem(document.path, number, f"{what} says no version (`# vX.Y.Z`) beside it")


def _expressions(document: Document) -> Iterator[Problem]:
    """No `${{ … }}` in shell text: what is put in there is read as shell. It goes through env."""
    for body in run_bodies(document):
        for offset, line in enumerate(body.text.splitlines()):
            if "${{" in line:
                yield Problem(
                    document.path, body.line + offset, "`${{ … }}` in `run:`; hand it in by `env:`"
                )


def _permissions(document: Document) -> Iterator[Problem]:
    """The token can nothing that is not written down, and writes only where a job needs it."""
    top = document.data.get("permissions")
    for name, job in document.jobs.items():
        if top is None and "permissions" not in job:
            yield Problem(document.path, 1, f"job {name} says no `permissions:`")
    if top not in (None, {}, {"contents": "read"}):
        yield Problem(document.path, 1, "`permissions:` of the whole workflow go beyond reading")


def _limits(document: Document) -> Iterator[Problem]:
    """A job ends; a newer run takes the place of an older one."""
    if document.path in NO_LIMITS:
        return
    for name, job in document.jobs.items():
        if "uses" not in job and "timeout-minutes" not in job:
            yield Problem(document.path, 1, f"job {name} says no `timeout-minutes:`")
    # A called workflow's group would be its caller's own, and the two would wait for each other.
    if "concurrency" in document.data or document.triggers == {"workflow_call"}:
        return
    for name, job in document.jobs.items():
        if "concurrency" not in job:
            yield Problem(
                document.path, 1, f"neither job {name} nor the workflow says `concurrency:`"
            )


def _strangers(document: Document) -> Iterator[Problem]:
    """Where a fork can start a run with this repository's rights, no code of the fork comes in.

    `pull_request_target` with a label is the exception; it says so to actions/checkout.
    """
    if not document.triggers & {"pull_request_target", "workflow_run"}:
        return
    for name, job in document.jobs.items():
        for step in job.get("steps", ()):
            if not str(step.get("uses", "")).startswith("actions/checkout@"):
                continue
            inputs = step.get("with", {})
            if inputs.get("persist-credentials") is not False:
                yield Problem(document.path, 1, f"job {name}: checkout keeps its token")
            if "ref" in inputs and not _labelled(document, job, inputs):
                yield Problem(document.path, 1, f"job {name}: checkout takes a fork's code")


def _labelled(document: Document, job: dict[str, Any], inputs: dict[str, Any]) -> bool:
    return (
        document.triggers == {"pull_request_target"}
        and "github.event.action == 'labeled'" in str(job.get("if"))
        and inputs["ref"] == "${{ github.event.pull_request.head.sha }}"
        and set((job.get("permissions") or {}).values()) <= {"read"}
    )


def _interfaces(document: Document) -> Iterator[Problem]:
    """What tfslim is given, and what is read from it, is there; actionlint sees only `./`."""
    for name, job in document.jobs.items():
        for step in [job, *job.get("steps", ())]:
            uses = str(step.get("uses", ""))
            own = OWN_ACTION.fullmatch(uses)
            if own is None and uses != "./":
                continue
            inputs, outputs = _interface((own and own["path"]) or "")
            asked = re.findall(rf"steps\.{step.get('id', '-')}\.outputs\.([\w-]+)", document.text)
            unknown = [
                *(f"input {one}" for one in sorted(set(step.get("with", {})) - inputs)),
                *(f"output {one}" for one in sorted(set(asked) - outputs)),
            ]
            for one in unknown:
                yield Problem(document.path, 1, f"job {name}: {uses} has no {one}")


@cache
def _interface(path: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names of inputs and outputs of the action, or of a workflow of tfslim's."""
    own = read(ROOT / (path.lstrip("/") or "action.yml")).data
    if path:
        own = own[True]["workflow_call"]
    return frozenset(own.get("inputs", {})), frozenset(own.get("outputs", {}))


def _runs(node: yaml.Node | None, shell: str) -> Iterator[tuple[yaml.ScalarNode, str]]:
    """Yield the node of each `run:` with the shell that reads it."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _runs(item, shell)
    if not isinstance(node, yaml.MappingNode):
        return
    values = {key.value: value for key, value in node.value}
    shell = _shell_of(values) or shell
    for key, value in values.items():
        if key == "run" and isinstance(value, yaml.ScalarNode):
            yield value, shell
        elif key != "defaults":
            yield from _runs(value, shell)


def _shell_of(values: dict[str, yaml.Node]) -> str:
    """Return the shell that a step names, or that a job or workflow names for its steps."""
    own = values.get("shell")
    if isinstance(own, yaml.ScalarNode):
        return str(own.value)
    node = values.get("defaults")
    for key in ("run", "shell"):
        if not isinstance(node, yaml.MappingNode):
            return ""
        node = {name.value: value for name, value in node.value}.get(key)
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


def _first_line(node: yaml.ScalarNode) -> int:
    block = node.style in ("|", ">")
    return int(node.start_mark.line) + (2 if block else 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the files that are named; print what is wrong."""
    parser = argparse.ArgumentParser(description="Check workflows and actions.")
    parser.add_argument("files", nargs="+", type=Path)
    problems: list[Problem] = []
    for path in parser.parse_args(arguments).files:
        document = read(path)
        problems += [*check(document), *shellcheck(document)]
    for problem in problems:
        sys.stdout.write(f"{problem}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
