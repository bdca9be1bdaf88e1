"""What a proof found, as one versioned document: `proof.json`, beside the run record."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tfslim.errors import InputError
from tfslim.files import write_whole
from tfslim.report.machine import Environment

__all__ = [
    "Answer",
    "CaseResult",
    "Parity",
    "ProofDocument",
    "RuleResult",
    "Status",
    "StepResult",
    "TreeFacts",
    "load",
    "save",
]

Status = Literal["passed", "failed", "crashed", "timed out", "not measured"]


class _Data(BaseModel):
    # Results come from scripts in trees under test: what is not known is refused, not passed over.
    model_config = ConfigDict(frozen=True, extra="forbid")


class CaseError(_Data):
    """An error as Python names it."""

    type: str
    message: str


class CaseResult(_Data):
    """One thing that was computed.

    Attributes:
        status: refused: its library was taken out by a rule, and it raised an error that says so.
        device: Where its result lay: "GPU", "CPU", or "host".
        first_s: Seconds of the first call: kernels are loaded, compiled and chosen in it.
        steady_s: Median seconds of the calls after that, each waited for.
        distance: Largest difference from the reference over the reference's largest value.
        tolerance: What of that is allowed.
        sha256: Of the outputs' types, shapes and bytes.
        sample: Some values of the first output; None for what is no number.
    """

    name: str
    dtype: str
    status: Literal["passed", "failed", "refused", "not measured"]
    why: str = ""
    device: str = ""
    first_s: float | None = None
    steady_s: float | None = None
    calls: int = 0
    flops_per_s: float | None = None
    distance: float | None = None
    tolerance: float | None = None
    sha256: str = ""
    sample: tuple[float | None, ...] = ()
    error: CaseError | None = None


class TreeFacts(_Data):
    """A tree that was looked at.

    Attributes:
        role: slim: to be proved; stock: the measure; wrong: made for another architecture.
        kind: What it is, in words.
        profile: It was slimmed with; empty for a stock tree.
        served: Compute capabilities that it serves, as in 90.
        ptx: Whether newer GPUs are served through PTX.
        rules: Rules that it followed.
        manifest: SHA-256 of the pack that it was unpacked from; empty where it was none.
        bytes: Of its files, where a pack told.
        backend: tensorflow, or capi where Python's TensorFlow was taken out.
    """

    name: str
    role: Literal["slim", "stock", "wrong"]
    kind: str
    profile: str = ""
    served: tuple[int, ...] = ()
    ptx: bool = False
    rules: tuple[str, ...] = ()
    manifest: str = ""
    bytes: int | None = None
    backend: Literal["tensorflow", "capi"] = "tensorflow"


class StepResult(_Data):
    """One part in one mode in one tree, run in a process of its own.

    Attributes:
        identity: Digest over all that decides the result; a finished step is kept while it fits.
        device: What it ran on: GPUs by name, "CPU", or "a stand-in for the driver".
        seconds: Wall time.
        at_case: The case that was under way when the process ended too early.
        memory_bytes: In use on the first GPU: before, with a context, at the end.
        jit_cache: Files and bytes that CUDA left in its cache of compiled PTX.
        figures: What else was measured, with units in the names.
        tail: The end of what a process said that did not end well.
    """

    tree: str
    part: str
    mode: str
    identity: str
    status: Status
    why: str = ""
    device: str = ""
    seconds: float = 0.0
    at_case: str = ""
    cases: tuple[CaseResult, ...] = ()
    memory_bytes: dict[str, int] = {}
    jit_cache: dict[str, int] = {}
    versions: dict[str, str] = {}
    figures: dict[str, float] = {}
    notes: tuple[str, ...] = ()
    tail: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from the others."""
        return self.tree, self.part, self.mode

    @property
    def on_gpu(self) -> bool:
        """True where something was really computed on a GPU, or found out about one."""
        return self.status != "not measured" and self.device not in _NO_GPU


CPU = "CPU"
STAND_IN = "a stand-in for the driver"
_NO_GPU = ("", CPU, STAND_IN)


class Parity(_Data):
    """One step of a slim tree held against the same step of the stock tree.

    Attributes:
        same_bits: Cases whose outputs are the same, byte for byte.
        near: Cases that differ within the tolerance.
        same_errors: Cases that raised the same type of error in both.
        differ: Cases that differ by more, each with the reason.
    """

    tree: str
    part: str
    mode: str
    same_bits: int = 0
    near: int = 0
    same_errors: int = 0
    refused: int = 0
    differ: dict[str, str] = {}


class Answer(_Data):
    """What the run says to an open question."""

    id: str
    text: str
    answer: Literal["yes", "no", "not measured"]
    why: str = ""


class RuleResult(_Data):
    """What the run says of a rule; the evidence are the steps named."""

    result: Literal["passed", "failed", "not proved"]
    why: str = ""
    steps: tuple[str, ...] = ()


class ProofDocument(_Data):
    """The whole of a run.

    Attributes:
        schema_version: Raised when a field changes its meaning.
        command: What was typed.
        device: gpu or cpu.
        gpu_state: What the driver said of the first GPU before and after: clocks, power, modes.
        driver: What was found of the driver on this machine, a line each.
        notes: What a reader has to know.
    """

    schema_version: Literal[1] = 1
    started: datetime
    seconds: float
    command: str
    device: Literal["gpu", "cpu"]
    environment: Environment
    gpu_state: dict[str, dict[str, str]] = {}
    driver: tuple[str, ...] = ()
    trees: tuple[TreeFacts, ...]
    steps: tuple[StepResult, ...]
    parity: tuple[Parity, ...] = ()
    questions: tuple[Answer, ...] = ()
    rules: dict[str, RuleResult] = {}
    notes: tuple[str, ...] = ()


def save(document: BaseModel, path: Path) -> None:
    """Write a document in one step, each case on a line of its own so that it can be diffed."""
    data = document.model_dump(mode="json", exclude_defaults=True)
    version = getattr(document, "schema_version", None)
    data = {"schema_version": version, **data} if version is not None else data
    write_whole(path, f"{_lines(data)}\n")


def _lines(value: Any, depth: int = 0) -> str:
    """Return JSON with a line for each thing down to a step's cases, and none below."""
    pad = " " * (depth + 1)
    short = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or not value or depth > 3 or len(short) < 100:
        return short
    if isinstance(value, dict):
        inside = (f"{json.dumps(key)}: {_lines(item, depth + 1)}" for key, item in value.items())
        return "{\n" + ",\n".join(pad + line for line in inside) + "\n" + pad[:-1] + "}"
    inside = (_lines(item, depth + 1) for item in value)
    return "[\n" + ",\n".join(pad + line for line in inside) + "\n" + pad[:-1] + "]"


def load(path: Path) -> ProofDocument:
    """Read a document.

    Raises:
        InputError: It is none.
    """
    try:
        return ProofDocument.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InputError(
            f"{path} is no result of benchmarks/gpu/prove.py", why=str(error)[:2000]
        ) from error
