"""Make a plan: look at every file of a tree and ask the rules what would go. Reads only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from tfslim.errors import InputError
from tfslim.slim import scan
from tfslim.slim.draft import plan_file
from tfslim.slim.guard import plan_guard
from tfslim.slim.packages import Packages, fitted, installed
from tfslim.slim.plan import FilePlan, Note, Plan, Removal
from tfslim.slim.pool import Pool
from tfslim.slim.put import plan_records, plan_stand_ins
from tfslim.slim.rules import Policy, Profile
from tfslim.slim.stubs import plan_stubs
from tfslim.slim.tree import TreeFile, sha256, tree_files
from tfslim.slim.unasked import Unasked, unasked_names
from tfslim.slim.unreached import Unreached
from tfslim.slim.whole import plan_whole
from tfslim.ui import Ui

__all__ = ["make_plan"]

# No ELF file with anything to take out of it is smaller (bytes).
_SMALLEST: Final = 1024
# Small files that one process compares at a time.
_BATCH: Final = 1000


def make_plan(tree: Path, policy: Policy, *, ui: Ui | None = None, jobs: int | None = None) -> Plan:
    """Look at every file of a tree and say what would go. Nothing is changed.

    Args:
        tree: A folder: a venv, an unpacked root file system.
        policy: What may go, and what must stay served.
        ui: Where progress is shown.
        jobs: Processes to use; None for one per CPU.

    Raises:
        InputError: The tree is not a folder.
        SlimError: The models were traced with other versions than those in the tree.
    """
    if not tree.is_dir():
        raise InputError(
            f"{tree} is not a folder", way_out="Give a venv or an unpacked file system."
        )
    with Pool(ui or Ui(quiet=True), jobs) as pool:
        files = tree_files(tree)
        found = installed(tree, files)
        policy, notes = fitted(policy, found)
        rules = policy.profile
        packages = Packages(tree, files, found, policy)
        whole = plan_whole(tree, files, rules, packages, Unreached(files, policy))
        whole = plan_stand_ins(tree, files, rules, whole)
        stubs, kept = plan_stubs(tree, files, rules, {item.path for item in whole}, pool)
        whole, notes = [*whole, *stubs], [*notes, *kept]
        gone = {item.path for item in whole}
        stay = [item for item in files if item.names[0] not in gone]
        whole += _plan_duplicates(tree, stay, rules, pool)
        gone = {item.path for item in whole}
        programs = [
            item
            for item in files
            if item.names[0] not in gone and item.size >= _SMALLEST and scan.is_elf(item.at(tree))
        ]
        unasked = _unasked(tree, programs, rules, pool)
        work = [
            _Work(tree, item, rules, policy.sms, policy.keep_ptx, unasked.get(item.names[0]))
            for item in programs
        ]
        results = pool.run(
            f"Planning {tree}",
            _plan_work,
            work,
            sizes=[item.file.size for item in work],
            names=[item.file.names[0] for item in work],
        )
    planned_files = [*whole, *(planned for planned, _ in results if planned is not None)]
    planned_files += plan_records(tree, files, found, rules, planned_files)
    planned_files += plan_guard(tree, files, policy, planned_files)
    notes += [*packages.notes, *(note for _, some in results for note in some)]
    return Plan(
        profile=rules.profile,
        keep=policy.keep,
        also=policy.also,
        targets=policy.sms,
        keep_ptx=policy.keep_ptx,
        tree_bytes=sum(item.size for item in files),
        files=tuple(sorted(planned_files, key=lambda item: item.path)),
        notes=tuple(sorted(notes, key=lambda note: note.path)),
    )


@dataclass(frozen=True)
class _Work:
    """What one process needs to plan one file."""

    tree: Path
    file: TreeFile
    rules: Profile
    sms: tuple[int, ...]
    keep_ptx: bool
    unasked: Unasked | None


def _unasked(
    tree: Path, programs: Sequence[TreeFile], rules: Profile, pool: Pool
) -> dict[str, Unasked]:
    """Return, for the libraries whose exported names may go, those that nobody asks for."""
    names = [item.names[0] for item in programs]
    found = {name: rules.export_rule(PurePosixPath(name)) for name in names}
    prefixes = {name: rule.prefix for name, rule in found.items() if rule is not None}
    if not prefixes:
        return {}
    with pool.ui.step("Looking who asks for exported names", None):
        return unasked_names(tree, prefixes, names)


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
    return plan_file(
        work.tree,
        work.file,
        work.rules,
        work.sms,
        keep_ptx=work.keep_ptx,
        unasked=work.unasked,
    )
