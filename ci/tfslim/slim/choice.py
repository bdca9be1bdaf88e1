"""Choose what becomes of each piece of GPU code in one file. Reads only; knows no file format.

`archs` says which entries of a container the targets need. Here the rest is decided: what stands
where nothing is needed (docs/formats.md, "Containers that nothing needs"), such that the driver
finds a container it can read, and such that a second run decides the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from tfslim.slim import archs, fatbin, scan
from tfslim.slim.cuts import ContainerCut, NewCode, Placeholder, Span
from tfslim.slim.elf import Elf
from tfslim.slim.scan import FileScan, Found

__all__ = ["Choice", "Dropped"]

# What goes, piece by piece: kind, architecture, region, bytes.
Dropped = tuple[str, int, str, int]


class Choice:
    """What stays and what goes of the GPU code of one file.

    Args:
        elf: The file.
        found: Its GPU code.
        sms: GPUs to serve.
        keep_ptx: Also keep the newest plain PTX of each container.
        keep_lto: Keep the LTO-IR that the targets could use.

    Attributes:
        containers, placeholder, host, spans: As in `cuts.FileCuts`.
        dropped: What goes, piece by piece.
    """

    def __init__(
        self,
        elf: Elf,
        found: FileScan,
        sms: Sequence[int],
        *,
        keep_ptx: bool,
        keep_lto: bool = True,
    ) -> None:
        self._elf = elf
        self._found = found.found
        self._sms = sms
        self._keep_ptx = keep_ptx
        self._keep_lto = keep_lto
        kept = [self.keep(item, frozenset()) for item in found.found]
        emptied = [f for f, keep in zip(found.found, kept, strict=True) if not keep]
        self.placeholder = _smallest_cubin(emptied)
        self._stand_in = self._entry_bytes(found, self.placeholder)
        self._tables = _regions_by_architecture(emptied)
        cuts = [self._cut(f, keep) for f, keep in zip(found.found, kept, strict=True)]
        self.host, cuts = self._hosted(cuts, found.found)
        self.dropped = _dropped(cuts, found.found)
        self.containers = tuple(
            cut
            for cut, item in zip(cuts, found.found, strict=True)
            if cut.movable or len(cut.keep) < len(item.container.entries)
        )
        self.spans = tuple(self._spans(found, sms))

    def keep(self, item: Found, compiled: frozenset[int]) -> frozenset[int]:
        """Return the entries that the targets need where some have code compiled ahead of time."""
        stay = archs.select(
            item.container.entries, self._sms, keep_ptx=self._keep_ptx, compiled=compiled
        )
        return stay if self._keep_lto else _without_lto(item, stay)

    def add(
        self, offers: Mapping[int, tuple[frozenset[int], tuple[NewCode, ...]]]
    ) -> list[Dropped]:
        """Take over code that was compiled ahead of time; return what goes because of it.

        Args:
            offers: By offset of the container: the entries that stay, and the code.
        """
        cuts = {cut.offset: cut for cut in self.containers}
        dropped: list[Dropped] = []
        for item in self._found:
            if item.container.offset not in offers:
                continue
            stays, new = offers[item.container.offset]
            old = cuts.get(item.container.offset)
            before = range(len(item.container.entries)) if old is None else old.keep
            cuts[item.container.offset] = ContainerCut(
                offset=item.container.offset,
                keep=tuple(sorted(stays)),
                movable=item.movable,
                new=new,
            )
            for index in sorted(set(before) - stays):
                entry = item.container.entries[index]
                dropped.append((entry.kind.label, entry.sm, item.region, entry.size))
        self.containers = tuple(cuts[offset] for offset in sorted(cuts))
        return dropped

    def _entry_bytes(self, found: FileScan, placeholder: Placeholder | None) -> bytes:
        if placeholder is None:
            return b""
        containers = {f.container.offset: f.container for f in found.found}
        entry = containers[placeholder.container].entries[placeholder.entry]
        return self._elf.data[entry.offset : entry.end]

    def _cut(self, item: Found, keep: Collection[int]) -> ContainerCut:
        entries = item.container.entries
        empty: Literal["", "copy", "shared", "zero"] = ""
        if not keep and entries:
            empty = self._emptied(item)
            keep = () if empty else range(len(entries))
        return ContainerCut(
            offset=item.container.offset,
            keep=tuple(sorted(keep)),
            movable=item.movable,
            empty=empty,
        )

    def _emptied(self, item: Found) -> Literal["", "copy", "shared", "zero"]:
        """Decide what becomes of a container that no target needs; "" leaves it as it is."""
        if item.region in self._tables and _only_architecture(item):
            return "zero"
        if not self._keep_lto and _only_lto(item):
            return "zero"  # a linker reads it, which says so where there is none; no driver does
        if item.movable and self._stand_in:
            return "shared"
        return "copy" if self._fits(item) and not self._is_copy(item) else ""

    def _is_copy(self, item: Found) -> bool:
        """True when a container holds the placeholder already."""
        body = item.container.offset + item.container.header
        size = len(self._stand_in)
        return item.container.end - body == size and self._elf.read(body, size) == self._stand_in

    def _fits(self, item: Found) -> bool:
        size = len(self._stand_in)
        return 0 < size <= item.container.size - item.container.header

    def _hosted(
        self, cuts: list[ContainerCut], found: Sequence[Found]
    ) -> tuple[int | None, list[ContainerCut]]:
        """Choose the container that the wrappers of all shared ones are led to.

        That is the one the placeholder comes from, else the first that it fits; without any, each
        container stays as it is.
        """
        held = self.placeholder
        hosts = [
            (index, cut, item)
            for index, (cut, item) in enumerate(zip(cuts, found, strict=True))
            if cut.empty == "shared" and self._fits(item)
        ]
        if held is None or not hosts:
            return None, [
                cut if cut.empty != "shared" else _whole(cut, item)
                for cut, item in zip(cuts, found, strict=True)
            ]
        own = [(i, c) for i, c, _ in hosts if c.offset == held.container]
        index, cut = own[0] if own else hosts[0][:2]
        change = {"empty": "", "keep": (held.entry,)} if own else {"empty": "copy"}
        cuts[index] = cut.model_copy(update=change)
        return cut.offset, cuts

    def _spans(self, found: FileScan, sms: Sequence[int]) -> Iterator[Span]:
        for frame in found.frames:
            if not any(frame.sm // 10 == sm // 10 and frame.sm <= sm for sm in sms):
                self.dropped.append((scan.FRAME_KIND, frame.sm, frame.region, frame.size))
                yield Span(offset=frame.offset, size=frame.size)


def _only_lto(item: Found) -> bool:
    """True for a container of LTO-IR alone, which no wrapper leads to."""
    return not item.wrapped and all(e.kind is fatbin.Kind.LTO for e in item.container.entries)


def _without_lto(item: Found, keep: frozenset[int]) -> frozenset[int]:
    entries = item.container.entries
    return frozenset(index for index in keep if entries[index].kind is not fatbin.Kind.LTO)


def _smallest_cubin(emptied: Iterable[Found]) -> Placeholder | None:
    """Return the smallest cubin of containers that no target needs (of equals a movable one)."""
    candidates = [
        (entry.size, not item.movable, item.container.offset, index)
        for item in emptied
        for index, entry in enumerate(item.container.entries)
        if entry.kind is fatbin.Kind.CUBIN
    ]
    if not candidates:
        return None
    _, _, container, index = min(candidates)
    return Placeholder(container=container, entry=index)


def _whole(cut: ContainerCut, item: Found) -> ContainerCut:
    """Return the cut with everything kept."""
    keep = tuple(range(len(item.container.entries)))
    return cut.model_copy(update={"empty": "", "keep": keep})


def _dropped(cuts: Sequence[ContainerCut], found: Sequence[Found]) -> list[Dropped]:
    """Return what goes."""
    return [
        (entry.kind.label, entry.sm, item.region, entry.size)
        for cut, item in zip(cuts, found, strict=True)
        for index, entry in enumerate(item.container.entries)
        if index not in cut.keep
    ]


def _only_architecture(item: Found) -> int | None:
    """Return the architecture of a container of cubins for just one, without a wrapper."""
    architectures = {entry.sm for entry in item.container.entries}
    cubins = all(entry.kind is fatbin.Kind.CUBIN for entry in item.container.entries)
    return architectures.pop() if len(architectures) == 1 and cubins and not item.wrapped else None


def _regions_by_architecture(emptied: Iterable[Found]) -> frozenset[str]:
    """Return the regions that are tables by architecture.

    Their emptied containers hold cubins of one architecture each, and not all the same one: whoever
    reads such a table picks by architecture before the driver sees anything. (Only cubins count, so
    that a second run, which finds the placeholder in what the first one emptied, decides the same.)
    """
    seen: defaultdict[str, set[int]] = defaultdict(set)
    for item in emptied:
        if architecture := _only_architecture(item):
            seen[item.region].add(architecture)
    return frozenset(region for region, architectures in seen.items() if len(architectures) > 1)
