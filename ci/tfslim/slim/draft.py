"""The cuts of one ELF file: its rules applied to what is found in it."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from tfslim.slim import layout, relr, scan
from tfslim.slim.aot.compiling import Cubin
from tfslim.slim.aot.place import Placed, place
from tfslim.slim.aot.store import Store
from tfslim.slim.choice import Choice, Dropped
from tfslim.slim.cuts import ContainerCut, FileCuts
from tfslim.slim.elf import ET_DYN, ET_EXEC, PT_INTERP, Elf, FormatRefusedError
from tfslim.slim.exports import rebuild
from tfslim.slim.fatbin import FLAG_LZ4, Kind
from tfslim.slim.plan import FilePlan, GpuModules, Note, Removal
from tfslim.slim.rules import GpuRule, Profile
from tfslim.slim.scan import FileScan
from tfslim.slim.serving import serving_by_gpu
from tfslim.slim.sketch import packed_size
from tfslim.slim.tree import TreeFile, sha256
from tfslim.slim.unasked import Unasked

__all__ = ["FileCode", "Planned", "plan_file"]

_PROGRAMS: Final = (ET_DYN, ET_EXEC)


class FileCode(NamedTuple):
    """Code compiled ahead of time for a file, and the folder that it is kept in."""

    cubins: tuple[Cubin, ...]
    store: Path


class Planned(NamedTuple):
    """What was decided of a file.

    Attributes:
        plan: What happens to it; None: nothing.
        notes: What was left alone, and why.
        modules: How it will serve the GPUs that were named; nothing for a file without GPU code.
    """

    plan: FilePlan | None
    notes: tuple[Note, ...]
    modules: tuple[GpuModules, ...] = ()


def plan_file(
    tree: Path,
    item: TreeFile,
    rules: Profile,
    sms: Sequence[int],
    *,
    keep_ptx: bool,
    unasked: Unasked | None = None,
    code: FileCode | None = None,
    unpacked: str = "",
) -> Planned:
    """Plan one ELF file.

    Args:
        tree: The tree.
        item: The file.
        rules: What may go.
        sms: GPUs to serve.
        keep_ptx: Whether one PTX is kept for other GPUs.
        unasked: Which of its exported names nobody else asks for; None where that was not asked.
        code: What was compiled for it ahead of time.
        unpacked: Why its relative relocations must not be packed, if so.
    """
    name = item.names[0]
    try:
        with Elf(item.at(tree)) as elf:
            draft = _Draft(elf, name, rules, sms, keep_ptx=keep_ptx, code=code)
            if unasked is not None:
                draft.hide(unasked)
            draft.pack(unpacked)
            if draft.cuts == FileCuts():
                return Planned(None, tuple(draft.notes), tuple(draft.modules))
            after = draft.size()
    except FormatRefusedError as refusal:
        return Planned(None, (Note(path=name, bytes=0, why=str(refusal)),))
    if after >= item.size and not draft.cuts.zstd and not draft.cuts.compiled:
        return Planned(None, tuple(draft.notes), tuple(draft.modules))
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
    return Planned(planned, tuple(draft.notes), tuple(draft.modules))


class _Draft:
    """The cuts of one file as they are decided, with their summary and what is left alone."""

    def __init__(
        self,
        elf: Elf,
        name: str,
        rules: Profile,
        sms: Sequence[int],
        *,
        keep_ptx: bool,
        code: FileCode | None,
    ) -> None:
        self._elf = elf
        self._name = name
        self._rules = rules
        self._code = code
        self.modules: list[GpuModules] = []
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
            self._count(found, sms, Placed())
            return
        lto = self._rules.lto_rule(PurePosixPath(self._name))
        choice = Choice(self._elf, found, sms, keep_ptx=keep_ptx, keep_lto=lto is None)
        zstd = self._rules.zstd_rule
        placed = self._place(found, choice, sms)
        ptx = choice.add(placed.offers)
        self._count(found, sms, placed)
        packed = _with_lz4(found, choice.containers) if zstd is not None else []
        if not choice.dropped and not packed and not placed.offers:
            return
        self.cuts = self.cuts.model_copy(
            update={
                "containers": choice.containers,
                "placeholder": choice.placeholder,
                "host": choice.host,
                "spans": choice.spans,
                "zstd": bool(packed),
            }
        )
        if zstd is not None:
            self.removals += _summed(zstd.id, packed)
        if self._rules.aot_rule is not None:
            self.removals += _summed(self._rules.aot_rule.id, ptx)
        by_rule: defaultdict[str, list[Dropped]] = defaultdict(list)
        for piece in choice.dropped:
            by_rule[lto.id if lto and piece[0] == Kind.LTO.label else rule.id].append(piece)
        for rule_id, dropped in sorted(by_rule.items()):
            self.removals += _summed(rule_id, dropped)

    def _place(self, found: FileScan, choice: Choice, sms: Sequence[int]) -> Placed:
        """Put code that was compiled ahead of time where it fits, and say where it does not."""
        if self._code is None:
            return Placed()
        store = Store(self._code.store)
        base = FileCuts(
            containers=choice.containers, placeholder=choice.placeholder, host=choice.host
        )

        def read(cubin: Cubin) -> bytes:
            code = store.get(cubin.key)
            if code is None:
                raise FormatRefusedError("what was compiled for it is gone from the cache")
            return code

        placed = place(
            self._elf,
            found.found,
            base,
            cubins=self._code.cubins,
            keep=choice.keep,
            read=read,
        )
        for sm in sms:
            if count := placed.unfit.get(sm):
                self._note(
                    0,
                    f"{count} modules stay PTX for sm_{sm}: the code compiled from it does not fit "
                    "its place (a tree that was not slimmed before has more room)",
                )
        return placed

    def _count(self, found: FileScan, sms: Sequence[int], placed: Placed) -> None:
        for sm, now in serving_by_gpu(found, sms).items():
            new = placed.served(sm)
            self.modules.append(
                GpuModules(
                    path=self._name,
                    sm=sm,
                    code=now.code + new,
                    jit=now.jit - new,
                    none=now.none,
                    picked=now.picked,
                )
            )

    def size(self) -> int:
        """Return the bytes of the new file; with zstd it may get smaller still.

        Raises:
            FormatRefusedError: The cuts do not fit the file.
        """
        # How much zstd saves is known when it is done.
        first = self._laid_out(self.cuts.before_packing.model_copy(update={"zstd": False}))
        if self.cuts.packed:
            with contextlib.suppress(FormatRefusedError):  # `apply` then leaves it unpacked, too
                return packed_size(self._elf, first)
        return first.size

    def _laid_out(self, cuts: FileCuts) -> layout.Layout:
        if self._code is None:
            return layout.lay_out(self._elf, cuts)
        return layout.lay_out(self._elf, cuts, Store(self._code.store).read)

    def hide(self, unasked: Unasked) -> None:
        """Take out exported names that nobody asks for; none where the format is not known."""
        rule = self._rules.export_rule(PurePosixPath(self._name))
        refusal = unasked.refusal or _unmappable(self._elf)
        if not refusal and unasked.symbols:
            try:
                rebuild(self._elf, self._elf.relocations, unasked.symbols)
            except FormatRefusedError as error:
                refusal = str(error)
        if refusal:
            self._note(unasked.bytes, f"exported names stay: {refusal}")
        elif rule is not None and unasked.symbols:
            self.cuts = self.cuts.model_copy(update={"hidden": unasked.symbols})
            count = sum(count for _, count in unasked.symbols)
            removal = Removal(rule=rule.id, what="exported name", count=count, bytes=unasked.bytes)
            self.removals.append(removal)

    def pack(self, unpacked: str) -> None:
        """Pack relative relocations where that saves enough.

        Args:
            unpacked: What speaks against it in this tree.
        """
        rule, hidden = self._rules.relr_rule, self.cuts.hidden
        if rule is None or not rule.applies(PurePosixPath(self._name)) or _unmappable(self._elf):
            return
        try:
            count, saved = relr.saving(self._elf, hidden)
        except FormatRefusedError:
            return  # nothing that the loader packs or unpacks is known of it
        if saved < rule.least:
            return
        if refusal := unpacked or relr.refusal(self._elf, hidden):
            self._note(saved, f"relative relocations stay as they are: {refusal}")
            return
        self.cuts = self.cuts.model_copy(update={"packed": True})
        self.removals.append(
            Removal(rule=rule.id, what="relative relocation", count=count, bytes=saved)
        )


def _with_lz4(found: FileScan, cuts: Iterable[ContainerCut]) -> list[Dropped]:
    """Return the code that stays, may move, and is stored with LZ4, with 0 bytes saved for now."""
    containers = {item.container.offset: item for item in found.found}
    return [
        (f"LZ4 of {entry.kind.label}", entry.sm, item.region, 0)
        for cut in cuts
        if cut.movable
        for item in (containers[cut.offset],)
        for entry in (item.container.entries[index] for index in cut.keep)
        if entry.flags & FLAG_LZ4 and entry.kind is not Kind.LTO
    ]


def _unmappable(elf: Elf) -> str:
    """Return why a file's loaded part cannot be laid out anew; empty when it can."""
    if elf.type != ET_DYN or any(segment.type == PT_INTERP for segment in elf.segments):
        return "a program, which the kernel maps by itself; only libraries are rewritten"
    return "" if elf.sections else "no section table"


def _summed(rule: str, dropped: Iterable[Dropped]) -> list[Removal]:
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
