"""Make a plan: look at every file of a tree and ask the rules what would go. Reads only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from tfslim.errors import InputError
from tfslim.slim import scan
from tfslim.slim.aot.compiling import Made, compile_all
from tfslim.slim.aot.ptxas import find_ptxas, in_tree
from tfslim.slim.aot.store import Store
from tfslim.slim.aot.wanted import wanted_of
from tfslim.slim.bytecode import without_bytecode
from tfslim.slim.draft import FileCode, Planned, plan_file
from tfslim.slim.guard import plan_guard
from tfslim.slim.libc import unpacked_because
from tfslim.slim.packages import Packages, fitted, installed
from tfslim.slim.plan import AheadOfTime, FilePlan, Note, Plan, Removal
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
        SlimError: The models were traced with other versions than those in the tree; or PTX is to
            be compiled, and the compiler is not there or does not know a GPU.
    """
    if not tree.is_dir():
        raise InputError(
            f"{tree} is not a folder", way_out="Give a venv or an unpacked file system."
        )
    with Pool(ui or Ui(quiet=True), jobs) as pool:
        files = tree_files(tree)
        found = installed(tree, files)
        policy, notes = fitted(policy, found)
        unpacked = _unpacked(policy, tree, files)
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
        ahead, made = _compiled(tree, files, programs, policy, pool)
        work = [
            _Work(
                tree,
                item,
                rules,
                policy.sms,
                policy.keep_ptx,
                unasked.get(item.names[0]),
                _code_of(tree, item, made, policy),
                unpacked,
            )
            for item in programs
        ]
        results = pool.run(
            f"Planning {tree}",
            _plan_work,
            work,
            sizes=[item.file.size for item in work],
            names=[item.file.names[0] for item in work],
        )
    planned_files = [*whole, *(one.plan for one in results if one.plan is not None)]
    planned_files += plan_records(tree, files, found, rules, planned_files)
    modules = tuple(
        sorted((m for one in results for m in one.modules), key=lambda m: (m.path, m.sm))
    )
    planned_files += plan_guard(tree, files, policy, planned_files, modules)
    notes += [*packages.notes, *(note for one in results for note in one.notes)]
    notes += _refused(tree, made)
    changed = [item for item in planned_files if item.action in ("delete", "replace")]
    uncompiled, sources = without_bytecode(
        files, {name for item in changed for name in (item.path, *item.links)}
    )
    return Plan(
        profile=rules.profile,
        keep=policy.keep,
        also=policy.also,
        targets=policy.sms,
        keep_ptx=policy.keep_ptx,
        tree_bytes=sum(item.size for item in files),
        files=tuple(sorted(planned_files, key=lambda item: item.path)),
        notes=tuple(sorted(notes, key=lambda note: note.path)),
        modules=modules,
        aot=ahead,
        sources=sources,
        uncompiled=uncompiled,
    )


def _unpacked(policy: Policy, tree: Path, files: Sequence[TreeFile]) -> str:
    """Return why no relocations are packed, where the C library is not known to read them.

    A rule that the user named with `--also` is followed all the same.
    """
    rule = policy.profile.relr_rule
    return "" if rule is None or rule.keep in policy.also else unpacked_because(tree, files)


def _compiled(
    tree: Path,
    files: Sequence[TreeFile],
    programs: Sequence[TreeFile],
    policy: Policy,
    pool: Pool,
) -> tuple[AheadOfTime | None, Made | None]:
    """Compile PTX ahead of time, where the policy says so; before anything goes from the tree."""
    if policy.profile.aot_rule is None or not policy.sms:
        return None, None
    settings = policy.aot
    own = in_tree(tree, (name for item in files for name in item.names))
    ptxas = find_ptxas(settings.ptxas, own)
    wants = pool.run(
        "Looking for PTX that GPUs would compile",
        wanted_of,
        [(item.at(tree), policy.sms) for item in programs],
        sizes=[item.size for item in programs],
        names=[item.names[0] for item in programs],
    )
    store = Store(settings.cache)
    made = compile_all(wants, ptxas, store, pool.ui, timeout=settings.timeout, jobs=settings.jobs)
    record = AheadOfTime(ptxas=ptxas.version, cache=str(settings.cache), archs=made.summary)
    return record, made


def _code_of(tree: Path, item: TreeFile, made: Made | None, policy: Policy) -> FileCode | None:
    """Return what was compiled for a file."""
    cubins = made.by_file.get(item.at(tree)) if made else None
    return FileCode(cubins, policy.aot.cache) if cubins else None


def _refused(tree: Path, made: Made | None) -> list[Note]:
    """Return notes for modules that stay PTX, and why."""
    return [
        Note(
            path=path.relative_to(tree).as_posix(),
            bytes=0,
            why=f"{count} modules stay PTX for sm_{sm}: {why}",
        )
        for (path, sm, why), count in sorted(made.refused.items() if made else ())
    ]


@dataclass(frozen=True)
class _Work:
    """What one process needs to plan one file."""

    tree: Path
    file: TreeFile
    rules: Profile
    sms: tuple[int, ...]
    keep_ptx: bool
    unasked: Unasked | None
    code: FileCode | None
    unpacked: str


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


def _plan_work(work: _Work) -> Planned:
    return plan_file(
        work.tree,
        work.file,
        work.rules,
        work.sms,
        keep_ptx=work.keep_ptx,
        unasked=work.unasked,
        code=work.code,
        unpacked=work.unpacked,
    )
