"""Damaged, lying and hostile files: a clear refusal, or a result that is proved; nothing else.

Never a crash, a hang, or a changed input. Every case runs the whole way: scan, plan, lay out, write
aside, prove.
"""

from __future__ import annotations

import random
import resource
import struct
import time
from collections import Counter
from pathlib import Path

import pytest
from helpers import FIXTURES, LIBRARIES, digest, noted
from synthetic import CUBIN, PTX, Library, container, entry

from tfslim.slim import apply, layout, scan, verify
from tfslim.slim.elf import Elf, FormatRefusedError

ROUNDS = 250


def outcome(path: Path) -> str:
    """Take one file the whole way and say how far it came."""
    before = digest(path)
    scanned = scan.scan_file(path)
    plan, notes = noted(path, 90)
    result = "refused" if scanned.problem else "nothing to do"
    if plan is not None:
        aside = path.with_suffix(".aside")
        aside.unlink(missing_ok=True)
        with Elf(path) as elf:
            apply.write_pieces(path, layout.lay_out(elf, plan.cuts).pieces, aside)
        problems = verify.verify_file(path, aside, plan.cuts)
        assert aside.stat().st_size == plan.after
        result = "restored" if problems else "proved"
    assert digest(path) == before
    assert all(notes)
    return result


def header_offsets(data: bytes) -> list[int]:
    """Offsets where a lie hurts most: ELF headers, tables, containers and entries."""
    phoff, shoff = struct.unpack_from("<QQ", data, 32)
    shnum = struct.unpack_from("<H", data, 60)[0]
    spots = [*range(64), *range(phoff, phoff + 8 * 56), *range(shoff, shoff + 64 * shnum)]
    at = data.find(b"\x50\xed\x55\xba")
    while at >= 0:
        spots += range(at, at + 16 + 64)
        at = data.find(b"\x50\xed\x55\xba", at + 1)
    return [spot for spot in spots if spot < len(data)]


@pytest.mark.parametrize("name", LIBRARIES)
def test_bit_flips_in_what_is_believed(name: str, tmp_path: Path) -> None:
    good = (FIXTURES / name).read_bytes()
    spots = header_offsets(good)
    dice = random.Random(name)
    path = tmp_path / "victim.so"
    seen: Counter[str] = Counter()
    for _ in range(ROUNDS):
        data = bytearray(good)
        for _ in range(dice.choice([1, 1, 1, 3])):
            data[dice.choice(spots)] ^= 1 << dice.randrange(8)
        path.write_bytes(data)
        seen[outcome(path)] += 1
    assert sum(seen.values()) == ROUNDS
    assert seen["refused"] > 0


@pytest.mark.parametrize("name", LIBRARIES)
def test_numbers_that_lie(name: str, tmp_path: Path) -> None:
    """Sizes, offsets and counts replaced by extremes."""
    good = (FIXTURES / name).read_bytes()
    spots = sorted({spot // 8 * 8 for spot in header_offsets(good)})
    dice = random.Random(name)
    path = tmp_path / "victim.so"
    extremes = [0, 1, 8, 4095, 1 << 31, (1 << 32) - 1, 1 << 47, 1 << 63, (1 << 64) - 1]
    for _ in range(ROUNDS):
        data = bytearray(good)
        at = min(dice.choice(spots), len(data) - 8)
        value = dice.choice([*extremes, len(data), len(data) - 8, dice.randrange(1 << 64)])
        struct.pack_into("<Q", data, at, value)
        path.write_bytes(data)
        outcome(path)


@pytest.mark.parametrize("name", LIBRARIES)
def test_truncated_anywhere(name: str, tmp_path: Path) -> None:
    good = (FIXTURES / name).read_bytes()
    dice = random.Random(name)
    path = tmp_path / "victim.so"
    for length in [0, 1, 3, 16, 63, 64, *(dice.randrange(len(good)) for _ in range(100))]:
        path.write_bytes(good[:length])
        assert outcome(path) in ("refused", "nothing to do", "proved")


def test_noise_in_relocations_and_the_dynamic_table(tmp_path: Path) -> None:
    """Pointers into the middle of containers, tables that lead nowhere."""
    library = Library(
        [container(entry(CUBIN, 80, b"x" * 40_000), entry(CUBIN, 90, b"y" * 999))] * 3
    )
    good = library.build()
    spans = [(library.offsets[name], 72) for name in (".rela.dyn", ".nvFatBinSegment")]
    spans.append((library.offsets[".dynamic"], 144))
    dice = random.Random(7)
    path = tmp_path / "victim.so"
    for _ in range(ROUNDS):
        data = bytearray(good)
        start, size = dice.choice(spans)
        at = start + 8 * dice.randrange(size // 8)
        old = struct.unpack_from("<Q", data, at)[0]
        new = dice.choice([0, old + 8, old ^ 1, 1 << 63, (1 << 64) - 8, dice.randrange(len(data))])
        struct.pack_into("<Q", data, at, new & (1 << 64) - 1)
        path.write_bytes(data)
        outcome(path)


@pytest.mark.parametrize(
    ("offset", "form", "value", "says"),
    [
        (0, "<4s", b"\x7fELG", "not an ELF"),
        (4, "<B", 1, "32-bit"),
        (5, "<B", 2, "big-endian"),
        (18, "<H", 183, "machine 183"),
        (52, "<H", 52, "header sizes"),
        (54, "<H", 32, "header sizes"),
        (56, "<H", 65535, "more than 4096 are not believed"),
        (58, "<H", 40, "not 64 bytes"),
        (60, "<H", 65535, "more than 16384 are not believed"),
        (32, "<Q", 1 << 62, "outside the file"),
        (40, "<Q", 1 << 62, "outside the file"),
        (62, "<H", 65535, "extended section numbering"),
    ],
)
def test_what_is_not_known_is_named(
    offset: int, form: str, value: object, says: str, tmp_path: Path
) -> None:
    data = bytearray((FIXTURES / "libwrapped.so").read_bytes())
    struct.pack_into(form, data, offset, value)
    path = tmp_path / "victim.so"
    path.write_bytes(data)
    with pytest.raises(FormatRefusedError, match=says):
        Elf(path)
    assert scan.scan_file(path).problem


def test_overlapping_segments_are_refused(tmp_path: Path) -> None:
    library = Library([container(entry(CUBIN, 80, b"x"))])
    data = bytearray(library.build())
    struct.pack_into("<Q", data, 64 + 2 * 56 + 16, 0)  # the second PT_LOAD at address 0
    path = tmp_path / "victim.so"
    path.write_bytes(data)
    with pytest.raises(FormatRefusedError, match=r"page-congruent|overlap"):
        Elf(path)


def test_a_container_that_swallows_another_is_unexplained(tmp_path: Path) -> None:
    """A length that lies so that one container ends within the next."""
    library = Library([container(entry(CUBIN, 80, b"x" * 100)), container(entry(CUBIN, 90, b"y"))])
    data = bytearray(library.build())
    at = library.offsets[".nv_fatbin"]
    size = struct.unpack_from("<Q", data, at + 8)[0]
    struct.pack_into("<Q", data, at + 8, size + 40)
    path = tmp_path / "victim.so"
    path.write_bytes(data)
    scanned = scan.scan_file(path)
    assert [found.container.entries[0].sm for found in scanned.found] == [90]
    assert scanned.unexplained_bytes > 0


def test_a_magic_in_code_or_text_is_no_container(tmp_path: Path) -> None:
    magic = b"\x50\xed\x55\xba"
    library = Library([container(entry(CUBIN, 80, b"x"))], data=bytes(8) + magic + b"text" * 20)
    path = tmp_path / "lib.so"
    path.write_bytes(library.build())
    scanned = scan.scan_file(path)
    assert len(scanned.found) == 1
    assert [item.region for item in scanned.unexplained] == [".rodata"]


def test_a_million_entries_do_not_take_long_or_much(tmp_path: Path) -> None:
    """64 MB of containers that each look plausible until their end."""
    many = container(*[entry(PTX, 90, b"")] * 1020)
    library = Library([many] * 8, data=(many[:-8] + bytes(8)) * 200)
    path = tmp_path / "big.so"
    path.write_bytes(library.build())
    start = time.process_time()  # not what other programs take meanwhile
    assert outcome(path) in ("proved", "nothing to do")
    assert time.process_time() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 3_000_000
