"""What goes, written down: a plan is plain data, made without touching anything.

A plan names, for every file that would change, its digest and each piece that would go, with the
rule that lets it go. It can be printed, saved, diffed, and applied later by `apply`, which refuses
files that are no longer the ones planned for. `planning` makes it.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from tfslim.errors import InputError
from tfslim.slim.aot.compiling import ArchSummary
from tfslim.slim.cuts import FileCuts
from tfslim.slim.rules import load_profile
from tfslim.ui import human_bytes

__all__ = ["AheadOfTime", "Content", "FilePlan", "GpuModules", "Note", "Plan", "Removal", "load"]

# So many whole files of a rule are explained one by one, the largest; a saved plan names all.
_LISTED: Final = 12
# So large a part of all modules may have no bytecode before it is told.
_FEW_SOURCES: Final = 0.01
# So many libraries are named in one line.
_NAMED: Final = 3


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Removal(_Data):
    """Pieces of one kind that one rule takes out of one file.

    Attributes:
        rule: The rule's name in the profile.
        what: "cubin", "PTX", "LTO-IR", "cubin (bare zstd)", a section's name, "exported name",
            "relative relocation" (packed), "file", "copy", "library" or "program" (a stub takes its
            place), or "stand-in" (nothing goes: a file is put in place that explains what did).
        arch: The architecture of GPU code, as in 90; 0 for anything else.
        region: Section the pieces lie in; empty for anything else.
        count: How many pieces.
        bytes: Their bytes together.
    """

    rule: str
    what: str
    arch: int = 0
    region: str = ""
    count: int
    bytes: int


class GpuModules(_Data):
    """How a file serves a GPU after the plan; see `serving.Serving` for the counts."""

    path: str
    sm: int
    code: int
    jit: int
    none: int
    picked: int


class AheadOfTime(_Data):
    """What was compiled ahead of time.

    Attributes:
        ptxas: Version of the compiler.
        cache: Folder that the code is kept in until the plan is carried out.
        archs: What was compiled, by architecture.
    """

    ptxas: str
    cache: str
    archs: tuple[ArchSummary, ...]


class Note(_Data):
    """Something that stays as it is, and why."""

    path: str
    bytes: int
    why: str


def _inside(name: str) -> str:
    """Accept only paths that stay within the tree, so that a plan cannot reach beyond it."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r} leads out of the tree")
    return name


TreePath = Annotated[str, AfterValidator(_inside)]


class Content(_Data):
    """What a file will hold: as text where it is text, so that a plan can be read.

    Attributes:
        text: The content, where it is UTF-8.
        base64: The content otherwise.
    """

    text: str = ""
    base64: str = ""

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Return bytes as a plan holds them."""
        try:
            return cls(text=data.decode("utf-8"))
        except UnicodeDecodeError:
            return cls(base64=base64.b64encode(data).decode("ascii"))

    @property
    def data(self) -> bytes:
        """The bytes."""
        return base64.b64decode(self.base64) if self.base64 else self.text.encode("utf-8")


class FilePlan(_Data):
    """What happens to one file.

    Attributes:
        path: The file, relative to the tree.
        links: Other names of the same file (hard links), relative to the tree.
        size: Bytes now; 0 where there is none yet (add).
        sha256: Digest of the content the plan was made for; empty where there is none yet.
        action: Rewrite it smaller; delete it; make it another name of the same content; give it
            other content; or make it, in a folder that is there.
        after: Bytes afterwards.
        same_as: The file, relative to the tree, whose content it shares from then on (link).
        content: What it holds afterwards (replace, add).
        cuts: What is taken out of it, for `layout`.
        removals: The same for people, summed up.
    """

    path: TreePath
    links: tuple[TreePath, ...] = ()
    size: int
    sha256: str
    action: Literal["rewrite", "delete", "link", "replace", "add"]
    after: int
    same_as: TreePath = ""
    content: Content | None = None
    cuts: FileCuts = FileCuts()
    removals: tuple[Removal, ...]

    @property
    def saved(self) -> int:
        """Bytes that the file gets smaller by; negative for a new one."""
        return self.size - self.after

    @property
    def rule(self) -> str:
        """The rule that says so first, by name."""
        return self.removals[0].rule

    @property
    def becomes(self) -> str:
        """What it is afterwards, in words, where it is not rewritten."""
        if self.action == "link":
            return f"same file as {self.same_as}"
        if self.action == "delete":
            return "deleted"
        stand_in = f"a stand-in of {human_bytes(self.after)}"
        return stand_in if self.action == "replace" else f"new: {stand_in}"


class Plan(_Data):
    """What would be done to a tree.

    Attributes:
        version: Of this document's form.
        profile: Name of the profile whose rules were followed.
        keep: Words of its rules that were not followed because the user said so.
        also: Words of optional rules that were.
        targets: Compute capabilities that stay served; empty where GPU code is not touched.
        keep_ptx: Whether one PTX is kept for GPUs not named.
        tree_bytes: Bytes of all regular files in the tree, hard links counted once.
        files: What happens to files, by path.
        notes: What was left alone although it looked like something that could go.
        modules: How each file with GPU code will serve each of the targets.
        aot: What was compiled ahead of time; None where nothing was asked for.
        sources: Python modules that stay, with their source.
        uncompiled: Those of them that have no bytecode.
    """

    version: Literal[1] = 1
    profile: str
    keep: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    targets: tuple[int, ...]
    keep_ptx: bool
    tree_bytes: int
    files: tuple[FilePlan, ...]
    notes: tuple[Note, ...]
    modules: tuple[GpuModules, ...] = ()
    aot: AheadOfTime | None = None
    sources: int = 0
    uncompiled: int = 0

    @property
    def jit(self) -> dict[int, int]:
        """Modules that the driver would still compile at first use, by target."""
        found = {sm: sum(one.jit for one in self.modules if one.sm == sm) for sm in self.targets}
        return {sm: count for sm, count in found.items() if count}

    def jit_warnings(self) -> list[str]:
        """Say which modules of which libraries the targets would compile at first use."""
        lines = []
        for sm in self.jit:
            names: Counter[str] = Counter()
            for one in self.modules:
                if one.sm == sm and one.jit:
                    names[PurePosixPath(one.path).name] += one.jit
            counted = ", ".join(f"{count} of {name}" for name, count in names.most_common(_NAMED))
            more = f" and {len(names) - _NAMED} more libraries" if len(names) > _NAMED else ""
            lines.append(
                f"sm_{sm}: {self.jit[sm]} modules would be compiled from PTX at first use "
                f"({counted}{more})" + ("" if self.aot else ": --aot compiles them now")
            )
        return lines

    @property
    def saved(self) -> int:
        """Bytes that the tree gets smaller by."""
        return sum(item.saved for item in self.files)

    @property
    def unexplained_bytes(self) -> int:
        """Bytes of what was left alone."""
        return sum(note.bytes for note in self.notes)

    def totals(self) -> Counter[tuple[str, int]]:
        """Bytes removed by (what, architecture) over all files."""
        total: Counter[tuple[str, int]] = Counter()
        for item in self.files:
            for removal in item.removals:
                total[removal.what, removal.arch] += removal.bytes
        return total

    def told(self) -> list[str]:
        """Say in a few lines what was compiled ahead of time, and what was not."""
        return [*_explain_aot(self), *self.jit_warnings(), *self._bytecode_warning()]

    def _bytecode_warning(self) -> Iterator[str]:
        """Say that modules have no bytecode; files that are no Python, as tests have, are few."""
        if self.uncompiled > self.sources * _FEW_SOURCES:
            yield (
                f"bytecode: {self.uncompiled} of {self.sources} Python modules have none, and each "
                "start compiles them again: python -m compileall --invalidation-mode "
                "unchecked-hash, before or after slimming"
            )

    def explain(self) -> list[str]:
        """Return every removal in words: what, how many bytes, by which rule, why, how proved."""
        return list(_explain(self))

    def save(self, path: Path) -> None:
        """Write the plan as JSON."""
        path.write_text(self.model_dump_json(exclude_defaults=False) + "\n", encoding="utf-8")


def load(path: Path) -> Plan:
    """Read a saved plan.

    Raises:
        InputError: It cannot be read, or is not a plan of this version.
    """
    way_out = "Make it again with `tfslim slim … --dry-run --json > plan.json`."
    try:
        return Plan.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"plan {path} cannot be read", why=str(error), way_out=way_out) from None
    except ValidationError as error:
        raise InputError(f"{path} is not a slim plan", why=str(error), way_out=way_out) from None


def _explain(plan: Plan) -> Iterator[str]:
    targets = ", ".join(f"sm_{sm}" for sm in plan.targets) or "all"
    share = plan.saved / plan.tree_bytes if plan.tree_bytes else 0.0
    yield (
        f"profile {plan.profile}, GPUs kept: {targets}, one PTX kept for others: "
        f"{'yes' if plan.keep_ptx else 'no'}"
    )
    yield (
        f"{human_bytes(plan.tree_bytes)} in the tree, {human_bytes(plan.saved)} ({share:.0%}) go "
        f"from {len(plan.files)} files"
    )
    by_size = sorted(plan.files, key=lambda item: (-item.saved, item.path))
    for item in (item for item in by_size if item.action == "rewrite"):
        yield f"{item.path}: {human_bytes(item.size)} → {human_bytes(item.after)}"
        for removal in sorted(item.removals, key=lambda r: (-r.bytes, r.what, r.arch)):
            arch = f" sm_{removal.arch}" if removal.arch else ""
            where = f" in {removal.region}" if removal.region else ""
            yield (
                f"    {human_bytes(removal.bytes)}  {removal.what}{arch} ×{removal.count}{where}"
                f"  [{removal.rule}]"
            )
    profile = load_profile(plan.profile)
    for rule_id in dict.fromkeys(r.rule for item in by_size for r in item.removals):
        rule = profile.rule(rule_id)
        whole = [item for item in by_size if item.action != "rewrite" and item.rule == rule_id]
        for item in whole[:_LISTED]:
            yield f"{item.path}: {human_bytes(item.size)}, {item.becomes}  [{rule_id}]"
        if more := whole[_LISTED:]:
            saved = sum(item.saved for item in more)
            yield f"and {len(more)} smaller files, {human_bytes(saved)} together  [{rule_id}]"
        yield f"[{rule_id}] why: {rule.why}"
        if rule.breaks:
            yield f"[{rule_id}] breaks: {rule.breaks}"
        yield f"[{rule_id}] risk: {rule.risk}"
        yield f"[{rule_id}] proof: {rule.proof}"
        yield f"[{rule_id}] on a GPU: {rule.gpu}; to keep it: --keep {rule.keep}"
    yield from plan.told()
    for note in plan.notes:
        size = f" ({human_bytes(note.bytes)})" if note.bytes else ""
        yield f"left alone: {note.path}{size}: {note.why}"


def _explain_aot(plan: Plan) -> Iterator[str]:
    """Say what was compiled ahead of time, by architecture."""
    if plan.aot is None:
        return
    if not plan.aot.archs:
        yield "ahead of time: nothing to compile, machine code serves all GPUs named"
    for one in plan.aot.archs:
        yield (
            f"ahead of time for {one.arch} (ptxas {plan.aot.ptxas}): {one.modules} modules, "
            f"{one.compiled} compiled, {one.from_cache} from the cache, {one.failed} failed; "
            f"{human_bytes(one.ptx_bytes)} of PTX → {human_bytes(one.cubin_bytes)} of machine "
            f"code; {one.cpu_seconds:.0f} CPU seconds in {one.seconds:.0f} s"
        )
