from __future__ import annotations

import struct
from pathlib import Path

import pytest
import zstandard
from helpers import FIXTURES
from synthetic import CUBIN, PTX, Library, container, entry

from tfslim.slim import scan
from tfslim.slim.elf import Elf


def test_real_wrapped_containers_are_found_with_their_addressing() -> None:
    scanned = scan.scan_file(FIXTURES / "libwrapped.so")
    assert len(scanned.found) == 4
    assert all(f.wrapped and f.movable and f.region == ".nv_fatbin" for f in scanned.found)
    kinds = {(e.kind.label, e.sm) for f in scanned.found for e in f.container.entries}
    assert kinds == {("PTX", 90), *(("cubin", sm) for sm in (75, 80, 90, 100))}
    assert not scanned.unexplained


def test_compressed_and_specific_code_is_recognised() -> None:
    scanned = scan.scan_file(FIXTURES / "libpacked.so")
    entries = [e for f in scanned.found for e in f.container.entries]
    assert {e.sm for e in entries if e.specific} == {90}  # compiled for sm_90a
    assert {e.sm for e in entries if e.family} == {100}  # compiled for sm_100f
    assert any(e.flags & 0x8000 for e in entries)
    assert any(e.flags & 0x2000 for e in entries)


def test_relocatable_device_code_and_lto_are_recognised() -> None:
    scanned = scan.scan_file(FIXTURES / "librelocatable.so")
    assert {f.region for f in scanned.found} == {"__nv_relfatbin", ".nv_fatbin"}
    assert ("LTO-IR", 80, "__nv_relfatbin") in scanned.bytes_by


def test_code_that_no_wrapper_leads_to_is_found_but_never_moved() -> None:
    scanned = scan.scan_file(FIXTURES / "libtables.so")
    assert [len(f.container.entries) for f in scanned.found] == [4, 1, 1, 1, 1]
    assert not any(f.wrapped or f.movable for f in scanned.found)
    assert sorted(frame.sm for frame in scanned.frames) == [80, 90]
    assert scanned.bytes_by[scan.FRAME_KIND, 90, ".data"] > 1000


def test_a_library_without_gpu_code_has_none() -> None:
    scanned = scan.scan_file(FIXTURES / "libplain.so")
    assert not scanned.has_gpu_code
    assert not scanned.problem


def test_a_file_that_is_no_elf_has_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("hello")
    assert not scan.is_elf(path)
    assert "too short" in scan.scan_file(path).problem


def write(library: Library, tmp_path: Path) -> Path:
    path = tmp_path / "lib.so"
    path.write_bytes(library.build())
    return path


CODE = container(entry(CUBIN, 80, b"a" * 64), entry(PTX, 80, b"b" * 64))


def test_a_second_kind_of_pointer_keeps_a_container_in_place(tmp_path: Path) -> None:
    library = Library([CODE, CODE])
    raw = bytearray(library.build())
    with Elf(write(library, tmp_path)) as elf:
        first = scan.scan_elf(elf).found[0]
    assert first.movable
    # The second wrapper's slot now points to the first container from outside any wrapper.
    raw[library.offsets[".nvFatBinSegment"] + 24] ^= 1  # no wrapper magic any more
    struct.pack_into("<Q", raw, library.offsets[".rela.dyn"] + 24 + 16, first.container.offset)
    path = tmp_path / "changed.so"
    path.write_bytes(raw)
    found = scan.scan_file(path).found
    assert found[0].wrapped
    assert not found[0].movable
    assert not found[1].wrapped


def test_a_pointer_into_the_middle_makes_it_unexplained(tmp_path: Path) -> None:
    scanned = scan.scan_file(write(Library([CODE], data=CODE, pointers=[40]), tmp_path))
    assert [f.region for f in scanned.found] == [".nv_fatbin"]
    assert [(u.size, u.region) for u in scanned.unexplained] == [(len(CODE), ".rodata")]
    assert "into the middle" in scanned.unexplained[0].why


def test_bytes_among_containers_that_are_none_are_counted(tmp_path: Path) -> None:
    scanned = scan.scan_file(write(Library([CODE, b"something else entirely", CODE]), tmp_path))
    assert len(scanned.found) == 2
    assert scanned.unexplained_bytes == 24


@pytest.mark.parametrize(
    ("instruction", "reaches"),
    [
        (bytes.fromhex("488d05"), True),  # lea rax, [rip + d]
        (bytes.fromhex("4c8d2d"), True),  # lea r13, [rip + d]
        (bytes.fromhex("8b05"), True),  # mov eax, [rip + d]
        (bytes.fromhex("c5f81005"), True),  # vmovups xmm0, [rip + d]
        (bytes.fromhex("e8"), False),  # call: leads to code
        (bytes.fromhex("488d80"), False),  # lea relative to a register
    ],
)
def test_code_that_computes_an_address_is_seen(
    instruction: bytes, reaches: bool, tmp_path: Path
) -> None:
    raw = bytearray((FIXTURES / "libwrapped.so").read_bytes())
    path = tmp_path / "lib.so"
    path.write_bytes(raw)
    with Elf(path) as elf:
        text = next(s for s in elf.sections if s.name == ".text")
        target = elf.to_address(scan.scan_elf(elf).found[1].container.offset)
        assert target is not None
        assert scan.code_references(elf, [target]) == set()
    end = text.addr + 40 + len(instruction) + 4
    struct.pack_into(f"<{len(instruction)}si", raw, text.offset + 40, instruction, target - end)
    path.write_bytes(raw)
    with Elf(path) as elf:
        assert scan.code_references(elf, [target]) == ({target} if reaches else set())
        assert scan.scan_elf(elf).found[1].movable is not reaches


def test_a_frame_is_only_a_cubin_if_it_holds_one(tmp_path: Path) -> None:
    frame = zstandard.ZstdCompressor().compress(b"a flatbuffer, not a cubin" * 40)
    scanned = scan.scan_file(write(Library([CODE], data=frame), tmp_path))
    assert not scanned.frames
