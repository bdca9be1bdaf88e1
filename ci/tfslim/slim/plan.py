"""Decide what goes and write it down: a plan is plain data, made without touching anything.

A plan names, for every file that would change, its digest and each piece that would go, with the
rule that lets it go. It can be printed, saved, diffed, and applied later by `apply`, which refuses
files that are no longer the ones planned for.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from tfslim.errors import InputError, SlimError
from tfslim.slim import layout, scan
from tfslim.slim.archs import Targets
from tfslim.slim.choice import Choice
from tfslim.slim.cuts import FileCuts
from tfslim.slim.elf import ET_DYN, ET_EXEC, PT_INTERP, Elf, FormatRefusedError
from tfslim.slim.pool import Pool
from tfslim.slim.rules import GpuRule, Profile, load_profile
from tfslim.ui import Ui, human_bytes

__all__ = [
    "FilePlan",
    "Note",
    "Plan",
    "Removal",
    "TreeFile",
    "load",
    "make_plan",
    "plan_file",
    "sha256",
    "tree_files",
]

_PROGRAMS: Final = (ET_DYN, ET_EXEC)
# No ELF file with anything to take out of it is smaller (bytes).
_SMALLEST: Final = 1024
# Small files that one process compares at a time.
_BATCH: Final = 1000


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Removal(_Data):
    """Pieces of one kind that one rule takes out of one file.

    Attributes:
        rule: The rule's name in the profile.
        what: "cubin", "PTX", "LTO-IR", "cubin (bare zstd)", a section's name, "file" or "copy".
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


class FilePlan(_Data):
    """What happens to one file.

    Attributes:
        path: The file, relative to the tree.
        links: Other names of the same file (hard links), relative to the tree.
        size: Bytes now.
        sha256: Digest of the content the plan was made for.
        action: Rewrite it smaller; delete it; or make it another name of the same content.
        after: Bytes afterwards.
        same_as: The file, relative to the tree, whose content it shares from then on (link).
        cuts: What is taken out of it, for `layout`.
        removals: The same for people, summed up.
    """

    path: TreePath
    links: tuple[TreePath, ...] = ()
    size: int
    sha256: str
    action: Literal["rewrite", "delete", "link"]
    after: int
    same_as: TreePath = ""
    cuts: FileCuts = FileCuts()
    removals: tuple[Removal, ...]

    @property
    def saved(self) -> int:
        """Bytes that the file gets smaller by."""
        return self.size - self.after


class Plan(_Data):
    """What would be done to a tree.

    Attributes:
        version: Of this document's form.
        profile: Name of the profile whose rules were followed.
        targets: Compute capabilities that stay served; empty where GPU code is not touched.
        keep_ptx: Whether one PTX is kept for GPUs not named.
        tree_bytes: Bytes of all regular files in the tree, hard links counted once.
        files: What happens to files, by path.
        notes: What was left alone although it looked like something that could go.
    """

    version: Literal[1] = 1
    profile: str
    targets: tuple[int, ...]
    keep_ptx: bool
    tree_bytes: int
    files: tuple[FilePlan, ...]
    notes: tuple[Note, ...]

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


def make_plan(
    tree: Path,
    targets: Targets | None,
    profile: str,
    keep_ptx: bool | None = None,
    *,
    ui: Ui | None = None,
    jobs: int | None = None,
) -> Plan:
    """Look at every file of a tree and say what would go. Nothing is changed.

    Args:
        tree: A folder: a venv, an unpacked root file system.
        targets: GPUs to serve; required by profiles that remove GPU code.
        profile: Name of a profile in `rules/`.
        keep_ptx: Keep one PTX for GPUs not named; None follows the targets' own default.
        ui: Where progress is shown.
        jobs: Processes to use; None for one per CPU.

    Raises:
        InputError: The tree is not a folder.
        SlimError: The profile needs targets and none are given.
        ConfigError: There is no such profile.
    """
    if not tree.is_dir():
        raise InputError(
            f"{tree} is not a folder", way_out="Give a venv or an unpacked file system."
        )
    rules = load_profile(profile)
    if rules.gpu_rule is not None and targets is None:
        raise SlimError(
            f"profile {profile!r} removes GPU code, and no GPU was named",
            way_out="Add --cuda-arch, for instance --cuda-arch 90, or use --profile safe.",
        )
    keep = keep_ptx if keep_ptx is not None else bool(targets and targets.keep_ptx)
    sms = targets.sms if targets and rules.gpu_rule is not None else ()
    with Pool(ui or Ui(quiet=True), jobs) as pool:
        files = tree_files(tree)
        whole = [planned for item in files if (planned := _plan_whole(tree, item, rules))]
        whole += _plan_duplicates(tree, files, rules, pool)
        gone = {item.path for item in whole}
        work = [
            _Work(tree, item, rules, sms, keep)
            for item in files
            if item.names[0] not in gone and item.size >= _SMALLEST and scan.is_elf(item.at(tree))
        ]
        results = pool.run(
            f"Planning {tree}",
            _plan_work,
            work,
            sizes=[item.file.size for item in work],
            names=[item.file.names[0] for item in work],
        )
    planned_files = [*whole, *(planned for planned, _ in results if planned is not None)]
    return Plan(
        profile=profile,
        targets=sms,
        keep_ptx=keep,
        tree_bytes=sum(item.size for item in files),
        files=tuple(sorted(planned_files, key=lambda item: item.path)),
        notes=tuple(sorted((n for _, notes in results for n in notes), key=lambda note: note.path)),
    )


@dataclass(frozen=True)
class TreeFile:
    """A regular file of a tree: its names (hard links) relative to the tree, and its bytes."""

    names: tuple[str, ...]
    size: int

    def at(self, tree: Path) -> Path:
        """Return where it is."""
        return tree / self.names[0]


def tree_files(tree: Path) -> list[TreeFile]:
    """Return the regular files of a tree in a fixed order; symbolic links are not followed."""
    groups: defaultdict[tuple[int, int, int], list[str]] = defaultdict(list)
    for folder, _, names in os.walk(tree):
        for name in names:
            path = Path(folder, name)
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                identity = (status.st_dev, status.st_ino, status.st_size)
                groups[identity].append(path.relative_to(tree).as_posix())
    files = [TreeFile(tuple(sorted(names)), key[2]) for key, names in groups.items()]
    return sorted(files, key=lambda item: item.names)


def sha256(path: Path) -> str:
    """Return the digest of a file's content in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class _Work:
    """What one process needs to plan one file."""

    tree: Path
    file: TreeFile
    rules: Profile
    sms: tuple[int, ...]
    keep_ptx: bool


def _plan_whole(tree: Path, item: TreeFile, rules: Profile) -> FilePlan | None:
    """Return the plan to delete a file, if a rule says so for all of its names."""
    for rule in rules.file_rules:
        if all(rule.matches(PurePosixPath(name)) for name in item.names):
            removal = Removal(rule=rule.id, what="file", count=1, bytes=item.size)
            return FilePlan(
                path=item.names[0],
                links=item.names[1:],
                size=item.size,
                sha256=sha256(item.at(tree)),
                action="delete",
                after=0,
                removals=(removal,),
            )
    return None


def _plan_duplicates(
    tree: Path, files: Sequence[TreeFile], rules: Profile, pool: Pool
) -> list[FilePlan]:
    """Return the plans for files that have the content, owner and rights of an earlier one."""
    planned: list[FilePlan] = []
    for rule in rules.duplicate_rules:
        candidates = _of_equal_size(
            item
            for item in files
            if item.size and all(rule.matches(PurePosixPath(name)) for name in item.names)
        )
        batches = [
            [(item.at(tree), item) for item in candidates[start : start + _BATCH]]
            for start in range(0, len(candidates), _BATCH)
        ]
        identities = pool.run(
            "Comparing headers",
            _identities,
            batches,
            sizes=[sum(item.size for _, item in batch) for batch in batches],
            names=[batch[0][1].names[0] for batch in batches],
        )
        planned += _linked(candidates, [one for batch in identities for one in batch], rule.id)
    return planned


def _of_equal_size(files: Iterable[TreeFile]) -> list[TreeFile]:
    """Return the files that are not the only one of their size, in their order."""
    listed = list(files)
    count = Counter(item.size for item in listed)
    return [item for item in listed if count[item.size] > 1]


# Content and everything else that must be the same for two files to become one.
_Identity = tuple[str, int, int, int]


def _identities(batch: Sequence[tuple[Path, TreeFile]]) -> list[_Identity]:
    found: list[_Identity] = []
    for path, _ in batch:
        status = path.lstat()
        found.append((sha256(path), status.st_mode, status.st_uid, status.st_gid))
    return found


def _linked(
    files: Sequence[TreeFile], identities: Sequence[_Identity], rule: str
) -> Iterator[FilePlan]:
    first: dict[_Identity, str] = {}
    for item, identity in zip(files, identities, strict=True):
        kept = first.setdefault(identity, item.names[0])
        if kept != item.names[0]:
            yield FilePlan(
                path=item.names[0],
                links=item.names[1:],
                size=item.size,
                sha256=identity[0],
                action="link",
                after=0,
                same_as=kept,
                removals=(Removal(rule=rule, what="copy", count=1, bytes=item.size),),
            )


def _plan_work(work: _Work) -> tuple[FilePlan | None, tuple[Note, ...]]:
    return plan_file(work.tree, work.file, work.rules, work.sms, keep_ptx=work.keep_ptx)


def plan_file(
    tree: Path, item: TreeFile, rules: Profile, sms: Sequence[int], *, keep_ptx: bool
) -> tuple[FilePlan | None, tuple[Note, ...]]:
    """Plan one ELF file.

    Returns:
        What happens to it (None: nothing), and what was left alone and why.
    """
    name = item.names[0]
    try:
        with Elf(item.at(tree)) as elf:
            draft = _Draft(elf, name, rules, sms, keep_ptx=keep_ptx)
            if draft.cuts == FileCuts():
                return None, tuple(draft.notes)
            after = layout.lay_out(elf, draft.cuts).size
    except FormatRefusedError as refusal:
        return None, (Note(path=name, bytes=0, why=str(refusal)),)
    if after >= item.size:
        return None, tuple(draft.notes)
    planned = FilePlan(
        path=name,
        links=item.names[1:],
        size=item.size,
        sha256=sha256(item.at(tree)),
        action="rewrite",
        after=after,
        cuts=draft.cuts,
        removals=tuple(draft.removals),
    )
    return planned, tuple(draft.notes)


class _Draft:
    """The cuts of one file as they are decided, with their summary and what is left alone."""

    def __init__(
        self, elf: Elf, name: str, rules: Profile, sms: Sequence[int], *, keep_ptx: bool
    ) -> None:
        self._elf = elf
        self._name = name
        self.notes: list[Note] = []
        self.removals: list[Removal] = []
        sections = self._sections(rules)
        self.cuts = FileCuts(sections=sections)
        if rules.gpu_rule is not None:
            self._gpu(rules.gpu_rule, sms, keep_ptx=keep_ptx)

    def _note(self, size: int, why: str) -> None:
        self.notes.append(Note(path=self._name, bytes=size, why=why))

    def _sections(self, rules: Profile) -> tuple[int, ...]:
        """Choose the sections to drop; none of them where one cannot be dropped."""
        chosen: dict[int, str] = {}
        for rule in rules.section_rules:
            if not rule.applies(PurePosixPath(self._name)) or self._elf.type not in _PROGRAMS:
                continue
            for index, section in enumerate(self._elf.sections):
                if not section.alloc and rule.matches(section.name):
                    chosen.setdefault(index, rule.id)
        if not chosen:
            return ()
        total = sum(self._elf.sections[index].size for index in chosen)
        if refusal := layout.strip_refusal(self._elf, sorted(chosen)):
            self._note(total, f"symbol tables stay: {refusal}")
            return ()
        for index, rule_id in sorted(chosen.items()):
            section = self._elf.sections[index]
            self.removals.append(
                Removal(rule=rule_id, what=section.name, count=1, bytes=section.size)
            )
        return tuple(sorted(chosen))

    def _gpu(self, rule: GpuRule, sms: Sequence[int], *, keep_ptx: bool) -> None:
        found = scan.scan_elf(self._elf)
        for item in found.unexplained:
            self._note(item.size, f"{item.region}: {item.why}")
        if not found.has_gpu_code:
            return
        if refusal := _unmappable(self._elf):
            self._note(sum(found.bytes_by.values()), refusal)
            return
        choice = Choice(self._elf, found, sms, keep_ptx=keep_ptx)
        if not choice.dropped:
            return
        self.cuts = self.cuts.model_copy(
            update={
                "containers": choice.containers,
                "placeholder": choice.placeholder,
                "host": choice.host,
                "spans": choice.spans,
            }
        )
        self.removals += _summed(rule.id, choice.dropped)


def _unmappable(elf: Elf) -> str:
    """Return why a file with GPU code cannot be laid out anew; empty when it can."""
    if elf.type != ET_DYN or any(segment.type == PT_INTERP for segment in elf.segments):
        return "a program, which the kernel maps by itself; only libraries are rewritten"
    return "" if elf.sections else "no section table"


def _summed(rule: str, dropped: Iterable[tuple[str, int, str, int]]) -> list[Removal]:
    count: Counter[tuple[str, int, str]] = Counter()
    size: Counter[tuple[str, int, str]] = Counter()
    for what, sm, region, length in dropped:
        count[what, sm, region] += 1
        size[what, sm, region] += length
    return [
        Removal(
            rule=rule, what=key[0], arch=key[1], region=key[2], count=count[key], bytes=size[key]
        )
        for key in sorted(count)
    ]


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
    for item in (item for item in by_size if item.action != "rewrite"):
        becomes = f"same file as {item.same_as}" if item.same_as else "deleted"
        yield f"{item.path}: {human_bytes(item.size)}, {becomes}  [{item.removals[0].rule}]"
    profile = load_profile(plan.profile)
    for rule_id in dict.fromkeys(r.rule for item in plan.files for r in item.removals):
        rule = profile.rule(rule_id)
        yield f"[{rule_id}] why: {rule.why}"
        yield f"[{rule_id}] risk: {rule.risk}"
        yield f"[{rule_id}] proof: {rule.proof}"
    for note in plan.notes:
        size = f" ({human_bytes(note.bytes)})" if note.bytes else ""
        yield f"left alone: {note.path}{size}: {note.why}"
