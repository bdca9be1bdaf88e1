"""GPU code stored with zstd in place of LZ4: smaller, and the same code."""

from __future__ import annotations

import random
from pathlib import Path

import lz4.block
import pytest
from synthetic import CUBIN, ENTRY, LTO, LZ4, PTX, ZSTD, Library, container, entry

from tfslim.slim import fatbin, scan
from tfslim.slim.apply import apply_plan
from tfslim.slim.archs import parse_targets
from tfslim.slim.elf import Elf, FormatRefusedError
from tfslim.slim.planning import make_plan
from tfslim.slim.recompress import expanded, with_zstd
from tfslim.slim.rules import Policy, make_policy
from tfslim.slim.verify import verify_file

OPTIONS = b"\x48\0\0\0\x10\0\0\0" + bytes(24)


def code(seed: int, size: int = 60_000) -> bytes:
    """Return bytes that zstd packs better than LZ4: few symbols, no long repeats."""
    return bytes(random.Random(seed).choices(b"abcdefgh", k=size))


def packed(kind: int, sm: int, plain: bytes, *, says: int | None = None) -> bytes:
    """Return an entry stored with LZ4, with compiler options in its header."""
    body = lz4.block.compress(plain, store_size=False)
    raw = bytearray(entry(kind, sm, body, flags=0x11 | LZ4, header=96))
    raw[64:96] = OPTIONS
    ENTRY.pack_into(raw, 0, *ENTRY.unpack_from(raw)[:13], len(plain) if says is None else says)
    return bytes(raw)


def parsed(raw: bytes) -> fatbin.Entry:
    return fatbin.parse_container(container(raw), 0, 1 << 30).entries[0]


def stored(raw: bytes) -> bytes | None:
    return with_zstd(container(raw), parsed(raw))


def policy(*also: str) -> Policy:
    return make_policy("arch", parse_targets("90"), also=also, keep=("guard",))


def library(folder: Path, *entries: bytes) -> Path:
    folder.mkdir()
    path = folder / "libgpu.so"
    path.write_bytes(Library(wrapped=[container(raw) for raw in entries]).build())
    return path


def codes(path: Path) -> list[bytes]:
    with Elf(path) as elf:
        found = scan.scan_elf(elf).found
        return [expanded(elf.data, e) for item in found for e in item.container.entries]


@pytest.mark.parametrize("kind", [CUBIN, PTX])
def test_the_same_code_under_the_same_header(kind: int) -> None:
    raw = packed(kind, 90, code(1))
    smaller = stored(raw)
    assert smaller is not None
    assert len(smaller) < len(raw)
    assert len(smaller) % 8 == 0
    after = parsed(smaller)
    assert (after.kind, after.sm, after.flags) == (kind, 90, 0x11 | ZSTD)
    assert expanded(container(smaller), after) == code(1)
    assert smaller[64:96] == OPTIONS


@pytest.mark.parametrize(
    "raw",
    [
        packed(LTO, 90, code(1)),
        entry(CUBIN, 90, code(1)),
        packed(CUBIN, 90, b"tiny"),
        packed(CUBIN, 90, code(1), says=59_999),
        packed(CUBIN, 90, code(1), says=1 << 40),
        entry(CUBIN, 90, b"\xff" * 500, flags=0x11 | LZ4),
    ],
    ids=["LTO-IR", "not compressed", "not smaller", "wrong length", "huge", "damaged"],
)
def test_what_stays_as_it_is(raw: bytes) -> None:
    assert stored(raw) is None


def test_damaged_entries_are_refused() -> None:
    raw = entry(CUBIN, 90, b"\x28\xb5\x2f\xfd" + b"\xff" * 500, flags=0x11 | ZSTD)
    with pytest.raises(FormatRefusedError):
        expanded(container(raw), parsed(raw))


def test_a_library_becomes_smaller_and_holds_the_same_code(tmp_path: Path) -> None:
    entries = [packed(CUBIN, 90, code(seed)) for seed in range(6)]
    path = library(tmp_path / "tree", *entries)
    before, size = codes(path), path.stat().st_size
    apply_plan(make_plan(tmp_path / "tree", policy()), tmp_path / "tree")
    assert path.stat().st_size == size  # nothing to remove without it
    outcome = apply_plan(make_plan(tmp_path / "tree", policy("zstd")), tmp_path / "tree")
    assert [item.state for item in outcome.files] == ["verified"]
    assert path.stat().st_size == outcome.files[0].after < size
    assert codes(path) == before
    assert make_plan(tmp_path / "tree", policy("zstd")).files == ()


def test_the_proof_sees_other_code(tmp_path: Path) -> None:
    entries = [packed(CUBIN, 90, code(seed)) for seed in range(6)]
    original = library(tmp_path / "old", *entries)
    changed = library(tmp_path / "tree", *entries)
    (plan,) = make_plan(tmp_path / "tree", policy("zstd")).files
    apply_plan(make_plan(tmp_path / "tree", policy("zstd")), tmp_path / "tree")
    assert verify_file(original, changed, plan.cuts) == []
    with Elf(changed) as elf:
        first = scan.scan_elf(elf).found[0].container.entries[0]
        content = bytearray(elf.data[:])
    others = (stored(packed(CUBIN, 90, code(seed))) for seed in range(50, 99))
    other = next(raw for raw in others if raw is not None and len(raw) <= first.size)
    header = fatbin.EntryHeader.read(other, 0)._replace(payload=first.size - first.header)
    content[first.offset : first.end] = (header.pack() + other[64:]).ljust(first.size, b"\0")
    changed.write_bytes(content)
    problems = verify_file(original, changed, plan.cuts)
    assert any("holds something else" in problem for problem in problems)
