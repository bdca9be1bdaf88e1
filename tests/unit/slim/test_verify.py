"""The proof must fail when anything is wrong: each test spoils a good result and is caught."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from helpers import FIXTURES, planned

from tfslim.slim import apply, layout, loader, scan, verify
from tfslim.slim.cuts import FileCuts
from tfslim.slim.elf import PT_LOAD, Elf


@pytest.fixture
def good(tmp_path: Path) -> tuple[Path, Path, FileCuts]:
    """An original, its proved result, and the cuts."""
    original = FIXTURES / "libwrapped.so"
    plan = planned(original, 90)
    assert plan is not None
    result = tmp_path / "result.so"
    with Elf(original) as elf:
        apply.write_pieces(original, layout.lay_out(elf, plan.cuts).pieces, result)
    assert verify.verify_file(original, result, plan.cuts) == []
    return original, result, plan.cuts


def spoil(path: Path, offset: int, content: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[offset : offset + len(content)] = content
    path.write_bytes(data)


def test_one_flipped_byte_anywhere_is_caught(good: tuple[Path, Path, FileCuts]) -> None:
    """In code, data, kept GPU code, relocations, headers: wherever a program could see it."""
    original, result, cuts = good
    clean = result.read_bytes()
    with Elf(result) as elf:
        visible = [(s.offset, s.file_end) for s in elf.loads]
    dice = random.Random(3)
    for _ in range(250):
        low, high = dice.choice(visible)
        at = dice.randrange(low, high)
        spoil(result, at, bytes([clean[at] ^ 1 << dice.randrange(8)]))
        assert verify.verify_file(original, result, cuts), f"a flip at {at:#x} was not noticed"
        result.write_bytes(clean)


def test_a_wrapper_that_leads_to_another_container_is_caught(
    good: tuple[Path, Path, FileCuts],
) -> None:
    original, result, cuts = good
    with Elf(result) as elf:
        found = scan.scan_elf(elf).found
        addresses = [elf.to_address(f.container.offset) or 0 for f in found]
        relocations = elf.relocations
        index = relocations.addend.tolist().index(addresses[1])
        record = int(relocations.record[index])
    spoil(result, record + 16, struct.pack("<Q", addresses[0]))
    assert verify.verify_file(original, result, cuts)


def test_less_memory_or_other_rights_are_caught(good: tuple[Path, Path, FileCuts]) -> None:
    original, result, cuts = good
    with Elf(result) as elf:
        table, segments = elf.phoff, elf.segments
    clean = result.read_bytes()
    for index, segment in enumerate(segments):
        if segment.type != PT_LOAD:
            continue
        for field, value in ((40, segment.memsz - 8), (4, segment.flags ^ 2), (32, 0)):
            form = "<I" if field == 4 else "<Q"
            spoil(result, table + 56 * index + field, struct.pack(form, value))
            assert verify.verify_file(original, result, cuts)
            result.write_bytes(clean)


def test_a_result_with_more_taken_out_than_planned_is_caught(
    good: tuple[Path, Path, FileCuts],
) -> None:
    original, result, cuts = good
    more = planned(original, 75)
    assert more is not None
    result.unlink()
    with Elf(original) as elf:
        apply.write_pieces(original, layout.lay_out(elf, more.cuts).pieces, result)
    assert verify.verify_file(original, result, cuts)


def test_a_truncated_or_foreign_result_is_caught(good: tuple[Path, Path, FileCuts]) -> None:
    original, result, cuts = good
    clean = result.read_bytes()
    for content in (clean[:-1], clean[: len(clean) // 2], b"", b"text", clean + b"more"):
        result.write_bytes(content)
        problems = verify.verify_file(original, result, cuts)
        assert problems or content == clean + b"more"  # bytes after the end are nobody's


def test_the_loader_names_what_it_cannot_resolve() -> None:
    answer = loader.loader_answer(FIXTURES / "libwrapped.so")
    assert answer is not None
    assert answer.startswith("exit 0")
    assert "undefined" not in answer


def test_the_loader_objects_to_a_broken_library(tmp_path: Path) -> None:
    path = tmp_path / "broken.so"
    data = bytearray((FIXTURES / "libwrapped.so").read_bytes())
    with Elf(FIXTURES / "libwrapped.so") as elf:
        record = int(elf.relocations.record[0])
    struct.pack_into("<Q", data, record, 1 << 40)  # a relocation that writes where nothing is
    path.write_bytes(data)
    assert loader.loader_answer(path) != loader.loader_answer(FIXTURES / "libwrapped.so")


def test_without_a_loader_there_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "LOADER", Path("/nowhere/ld.so"))
    assert loader.loader_answer(FIXTURES / "libplain.so") is None
