"""Find room for code that was compiled ahead of time, in the containers whose PTX it came from.

In a container that must not move, the code takes the place of what goes from it; where containers
are packed together, of what goes from all of them. What does not fit stays PTX.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tfslim.slim import layout
from tfslim.slim.aot.compiling import Cubin
from tfslim.slim.aot.entry import pack_entry
from tfslim.slim.cuts import FileCuts, NewCode
from tfslim.slim.elf import Elf
from tfslim.slim.scan import Found

__all__ = ["Placed", "place"]

# Which entries of a container stay when some targets have code that was compiled.
Keep = Callable[[Found, frozenset[int]], frozenset[int]]


@dataclass(frozen=True)
class _Offer:
    """One way to put code into a container.

    Attributes:
        sms: Targets that it is for.
        keep: Entries that stay.
        new: The code.
        size: Bytes of the container then.
    """

    sms: frozenset[int]
    keep: frozenset[int]
    new: tuple[NewCode, ...]
    size: int


@dataclass
class Placed:
    """Where code goes.

    Attributes:
        offers: By offset of the container: entries that stay, code that is added.
        unfit: By target: containers that had no room.
    """

    offers: dict[int, tuple[frozenset[int], tuple[NewCode, ...]]] = field(default_factory=dict)
    unfit: Counter[int] = field(default_factory=Counter)

    def served(self, sm: int) -> int:
        """Return how many containers get code for a target."""
        return sum(any(new.sm == sm for new in added) for _, added in self.offers.values())


@dataclass(frozen=True)
class _Maker:
    """Makes offers.

    Attributes:
        keep: Says which entries of a container stay.
        read: Gives code.
        cubins: Code by the offset of its container.
    """

    keep: Keep
    read: Callable[[Cubin], bytes]
    cubins: Mapping[int, Sequence[Cubin]]

    def offers(self, item: Found, packed: Literal["none", "lz4"]) -> list[_Offer]:
        """Return ways to put code into a container, for all targets first, then for fewer."""
        mine = self.cubins[item.container.offset]
        new = [_new(cubin, self.read(cubin), packed) for cubin in mine]
        return [self._offer(item, tuple(new[:count])) for count in range(len(new), 0, -1)]

    def _offer(self, item: Found, new: tuple[NewCode, ...]) -> _Offer:
        sms = frozenset(one.sm for one in new)
        stays = self.keep(item, sms)
        return _Offer(sms, stays, new, _size(item, stays) + sum(one.size for one in new))


def place(
    elf: Elf,
    found: Sequence[Found],
    base: FileCuts,
    *,
    cubins: Sequence[Cubin],
    keep: Keep,
    read: Callable[[Cubin], bytes],
) -> Placed:
    """Decide which code goes where.

    Args:
        elf: The file.
        found: Its containers.
        base: What would be cut if nothing were compiled.
        cubins: Code for its containers.
        keep: Says which entries stay.
        read: Gives the code.

    Raises:
        FormatRefusedError: The cuts do not fit the file, or code is not what it should be.
    """
    by_container: defaultdict[int, list[Cubin]] = defaultdict(list)
    for cubin in cubins:
        by_container[cubin.module.container].append(cubin)
    maker = _Maker(keep, read, by_container)
    wanted = [item for item in found if item.container.offset in by_container]
    placed = Placed()
    for item in wanted:
        if not item.movable:
            offers = [*maker.offers(item, "none"), *maker.offers(item, "lz4")]
            offers.sort(key=lambda offer: -len(offer.sms))
            mine = by_container[item.container.offset]
            _take(placed, item, mine, offers, item.container.size)
    _place_packed(elf, placed, base, {i.container.offset: i for i in wanted}, maker)
    return placed


def _place_packed(
    elf: Elf, placed: Placed, base: FileCuts, wanted: Mapping[int, Found], maker: _Maker
) -> None:
    """Place code where containers are packed together: what grows least comes first."""
    if not any(item.movable for item in wanted.values()):
        return
    sizes = {
        cut.offset: _size(wanted[cut.offset], cut.keep)
        for cut in base.containers
        if cut.movable and cut.offset in wanted
    }
    for zone in layout.zones(elf, base):
        free = zone.free
        asking = [
            (offset, maker.offers(wanted[offset], "lz4"))
            for offset in sorted(zone.containers & wanted.keys())
        ]
        for offset, offers in sorted(asking, key=lambda one: one[1][0].size - sizes[one[0]]):
            room = sizes[offset] + free
            taken = _take(placed, wanted[offset], maker.cubins[offset], offers, room)
            free -= taken - sizes[offset] if taken else 0


def _size(item: Found, keep: Iterable[int]) -> int:
    """Return the bytes of a container with the entries that stay."""
    return item.container.header + sum(item.container.entries[index].size for index in keep)


def _new(cubin: Cubin, code: bytes, packed: Literal["none", "lz4"]) -> NewCode:
    module = cubin.module
    return NewCode(
        sm=module.sm,
        suffix=module.suffix,
        key=cubin.key,
        sha256=cubin.sha256,
        cubin=cubin.size,
        packed=packed,
        size=len(pack_entry(code, module.sm, module.suffix, packed)),
    )


def _take(
    placed: Placed, item: Found, cubins: Sequence[Cubin], offers: Sequence[_Offer], room: int
) -> int:
    """Take the first offer that fits; return its bytes, 0 where none does."""
    fitting = next((offer for offer in offers if offer.size <= room), None)
    served = fitting.sms if fitting else frozenset()
    for cubin in cubins:
        if cubin.module.sm not in served:
            placed.unfit[cubin.module.sm] += 1
    if fitting is None:
        return 0
    placed.offers[item.container.offset] = (fitting.keep, fitting.new)
    return fitting.size
