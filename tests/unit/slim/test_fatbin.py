from __future__ import annotations

import struct

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from synthetic import CUBIN, FAMILY, LTO, LZ4, PTX, SPECIFIC, ZSTD, container, entry

from tfslim.slim import fatbin
from tfslim.slim.elf import FormatRefusedError
from tfslim.slim.fatbin import Kind

entries = st.builds(
    entry,
    st.sampled_from([PTX, CUBIN, LTO]),
    st.sampled_from([50, 75, 80, 86, 90, 100, 103, 120]),
    st.binary(min_size=1, max_size=300),
    flags=st.sampled_from([0x11, 0x11 | LZ4, 0x11 | ZSTD, 0x11 | SPECIFIC, 0x1000011 | FAMILY]),
    header=st.sampled_from([64, 72, 80, 96, 128, 144]),
)
containers = st.lists(entries, max_size=8).map(lambda items: container(*items))


@given(containers, st.integers(0, 40).map(lambda n: 8 * n), st.binary(max_size=40))
def test_writing_what_was_parsed_gives_the_same_bytes(raw: bytes, at: int, after: bytes) -> None:
    data = bytes(at) + raw + after
    parsed = fatbin.parse_container(data, at, len(data))
    assert (parsed.offset, parsed.size) == (at, len(raw))
    assert fatbin.write_container(data, parsed.entries) == raw


@given(containers, st.data())
def test_a_part_of_the_entries_parses_as_that_part(raw: bytes, data: st.DataObject) -> None:
    parsed = fatbin.parse_container(raw, 0, len(raw))
    keep = (
        data.draw(st.lists(st.sampled_from(parsed.entries), unique=True)) if parsed.entries else []
    )
    again = fatbin.write_container(raw, keep)
    reparsed = fatbin.parse_container(again, 0, len(again))
    assert [again[e.offset : e.end] for e in reparsed.entries] == [
        raw[e.offset : e.end] for e in keep
    ]


@given(containers, st.data())
def test_a_cut_container_is_refused(raw: bytes, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(FormatRefusedError):
        fatbin.parse_container(raw[:length], 0, length)


def test_an_entry_says_what_it_is() -> None:
    raw = container(entry(CUBIN, 90, b"x" * 20, flags=0x11 | SPECIFIC), entry(PTX, 80, b"y"))
    first, second = fatbin.parse_container(raw, 0, len(raw)).entries
    assert (first.kind, first.sm, first.specific, first.family) == (Kind.CUBIN, 90, True, False)
    assert (second.kind, second.sm, second.specific) == (Kind.PTX, 80, False)
    assert first.size == 64 + 24  # padded to 8


GOOD = container(entry(CUBIN, 90, b"x" * 16))


@pytest.mark.parametrize(
    ("offset", "form", "value", "says"),
    [
        (0, "<I", 0, "magic"),
        (4, "<H", 2, "version 2"),
        (6, "<H", 24, "header of 24"),
        (8, "<Q", 1 << 63, "past its region"),
        (8, "<Q", 81, "header is cut off|past its region"),
        (8, "<Q", 72, "past its container"),
        (16, "<H", 4, "kind 4"),
        (18, "<H", 0x102, "version 0x102"),
        (20, "<I", 8, "header of 8"),
        (20, "<I", 68, "header of 68"),
        (24, "<Q", 15, "payload of 15"),
        (24, "<Q", 1 << 60, "past its container"),
        (32, "<I", 8, "compressed size contradicts"),
        (44, "<I", 5, "sm_5"),
        (52, "<I", 1000, "contradict"),
        (56, "<Q", 0x11 | 0x4000, "flags"),
        (56, "<Q", 0x11 | LZ4 | ZSTD, "both LZ4 and zstd"),
        (56, "<Q", 0x11 | SPECIFIC | FAMILY, "both architecture and family"),
    ],
)
def test_every_unknown_field_is_refused_by_name(
    offset: int, form: str, value: int, says: str
) -> None:
    raw = bytearray(GOOD)
    struct.pack_into(form, raw, offset, value)
    with pytest.raises(FormatRefusedError, match=says):
        fatbin.parse_container(bytes(raw), 0, len(raw))


def test_a_container_must_be_aligned() -> None:
    with pytest.raises(FormatRefusedError, match="8-aligned"):
        fatbin.parse_container(b"1234" + GOOD, 4, len(GOOD) + 4)


def test_a_walk_is_bounded() -> None:
    raw = container(*[entry(CUBIN, 90, b"")] * 1100)
    with pytest.raises(FormatRefusedError, match="more than 1024"):
        fatbin.parse_container(raw, 0, len(raw))


def cubin(sm: int, size: int, *, new_abi: bool = False) -> bytes:
    head = bytearray(64)
    head[:8] = b"\x7fELF\x02\x01\x01" + bytes([0x41 if new_abi else 0x33])
    struct.pack_into("<H", head, 18, 190)
    struct.pack_into("<I", head, 48, sm << 8 if new_abi else sm)
    return bytes(head) + bytes(i * 7 & 0xFF for i in range(size - 64))


@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("size", [64, 5000, 400_000])
def test_a_framed_cubin_is_walked_to_its_end(size: int, checksum: bool) -> None:
    frame = zstandard.ZstdCompressor(write_checksum=checksum).compress(cubin(90, size))
    data = b"before!!" + frame + b"after"
    assert fatbin.zstd_frame_size(data, 8, len(data)) == len(frame)
    assert fatbin.framed_cubin_sm(frame) == 90


def test_the_architecture_lies_elsewhere_in_newer_cubins() -> None:
    assert fatbin.cubin_sm(cubin(120, 64, new_abi=True)) == 120
    assert fatbin.cubin_sm(cubin(75, 64)) == 75


def test_a_cut_frame_is_refused() -> None:
    frame = zstandard.ZstdCompressor().compress(cubin(90, 200_000))
    for length in (5, 9, len(frame) // 2, len(frame) - 1):
        with pytest.raises(FormatRefusedError):
            fatbin.zstd_frame_size(frame[:length], 0, length)


def test_a_damaged_frame_is_refused() -> None:
    frame = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(cubin(90, 5000)))
    frame[-1] ^= 1
    with pytest.raises(FormatRefusedError):
        fatbin.framed_cubin_sm(bytes(frame))


def test_a_bomb_is_stopped() -> None:
    """Half a gigabyte of zeros in 16 kB, behind the head of a cubin."""
    bomb = zstandard.ZstdCompressor(level=1).compress(cubin(90, 64) + bytes(512 << 20))
    assert len(bomb) < 100_000
    with pytest.raises(FormatRefusedError, match="256 MB"):
        fatbin.framed_cubin_sm(bomb)


def test_other_frames_are_no_cubins() -> None:
    for content in (b"", b"text" * 100, b"\x7fELF" + bytes(100)):
        with pytest.raises(FormatRefusedError):
            fatbin.framed_cubin_sm(zstandard.ZstdCompressor().compress(content))


def test_wrappers() -> None:
    raw = struct.pack("<IIQQ", 0x466243B1, 2, 0, 0)
    assert fatbin.parse_wrapper_magic(raw, 0) == 2
    assert fatbin.parse_wrapper_magic(raw, 8) is None
    assert fatbin.parse_wrapper_magic(raw, -8) is None
    assert fatbin.parse_wrapper_magic(struct.pack("<IIQQ", 0x466243B1, 3, 0, 0), 0) is None
