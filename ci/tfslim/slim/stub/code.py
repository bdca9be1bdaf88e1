"""The machine code of stubs: x86-64, position-independent, without a library.

Instructions are those of the Intel manual, in bytes. A piece of code has the same size wherever it
lies, so it can be assembled once to learn its size and once more where it goes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Literal

__all__ = [
    "ENTRY",
    "FUNCTION_SIZE",
    "HOW",
    "Places",
    "common_code",
    "function_code",
    "program_code",
]

# For each function: where its name is in the names and how long, what it gives, and how.
ENTRY: Final = struct.Struct("<IIiI")
HOW: Final = {"number": 0, "text": 1, "handle": 2, "success": 3}
FUNCTION_SIZE: Final = 16

_ENDBR64: Final = bytes.fromhex("f30f1efa")
_WRITE, _WRITEV, _EXIT_GROUP = 1, 20, 231
_STDERR: Final = 2

# lea REGISTER, [rip + distance]
_Register = Literal["rax", "rcx", "rdx", "rsi", "r10"]
_LEA: Final[dict[_Register, bytes]] = {
    "rax": b"\x48\x8d\x05",
    "rcx": b"\x48\x8d\x0d",
    "rdx": b"\x48\x8d\x15",
    "rsi": b"\x48\x8d\x35",
    "r10": b"\x4c\x8d\x15",
}


@dataclass(frozen=True)
class Places:
    """Addresses, and sizes in bytes, of what the common code refers to.

    Attributes:
        table: One `ENTRY` for each function.
        names: What the entries' names are offsets into.
        before, after: What is written before and after a function's name, as (address, size).
        text: The explanation as a C string.
        said: One byte for each function: whether it has said so.
        handle: What handles point to.
    """

    table: int = 0
    names: int = 0
    before: tuple[int, int] = (0, 0)
    after: tuple[int, int] = (0, 0)
    text: int = 0
    said: int = 0
    handle: int = 0


class _Code:
    """Instructions that follow each other from an address."""

    def __init__(self, address: int) -> None:
        self._address = address
        self._bytes = bytearray()
        self._labels: dict[str, int] = {}
        self._jumps: dict[int, str] = {}

    def put(self, code: str, immediate: int | None = None) -> None:
        """Add an instruction, given in hex, with a 32-bit number at its end."""
        self._bytes += bytes.fromhex(code)
        if immediate is not None:
            self._bytes += struct.pack("<i", immediate)

    def lea(self, register: _Register, address: int) -> None:
        """Add: load an address."""
        self._bytes += _LEA[register]
        self._bytes += struct.pack("<i", address - (self._address + len(self._bytes) + 4))

    def jump(self, opcode: str, label: str) -> None:
        """Add a short jump to a label, which may come later."""
        self._bytes += bytes.fromhex(opcode) + b"\0"
        self._jumps[len(self._bytes)] = label

    def label(self, name: str) -> None:
        """Name this place."""
        self._labels[name] = len(self._bytes)

    def assembled(self) -> bytes:
        """Return the code."""
        for at, label in self._jumps.items():
            self._bytes[at - 1 : at] = struct.pack("<b", self._labels[label] - at)
        return bytes(self._bytes)


def function_code(index: int, address: int, common: int) -> bytes:
    """Return a function that says which one it is, and goes on to the common code."""
    jump = common - (address + 14)
    return _ENDBR64 + struct.pack("<BIBi2s", 0xB8, index, 0xE9, jump, b"\x66\x90")


def common_code(address: int, places: Places) -> bytes:
    """Return what all functions do; eax holds which one it is.

    Registers that a callee must keep are not touched; r8 is the function, r9 its entry. Success is
    given in silence, and so is a text: who gets them goes on to ask for something.
    """
    code = _Code(address)
    code.put("4189c0")  # mov r8d, eax
    code.lea("r10", places.table)
    code.put("4589c1")  # mov r9d, r8d
    code.put("49c1e104")  # shl r9, 4: the size of an entry
    code.put("4d01d1")  # add r9, r10
    code.put("418b410c")  # mov eax, [r9+12]
    code.put("85c0")  # test eax, eax: HOW["number"]
    code.jump("74", "number")
    _put_silent_answers(code, places)

    code.label("number")
    code.lea("rcx", places.said)
    code.put("b8", 1)  # mov eax, 1
    code.put("42860401")  # xchg [rcx+r8], al: of several threads one sees the 0
    code.put("84c0")  # test al, al
    code.jump("75", "said")
    _put_line(code, places)
    code.label("said")
    code.put("418b4108")  # mov eax, [r9+8]
    code.put("c3")  # ret
    return code.assembled()


def _put_silent_answers(code: _Code, places: Places) -> None:
    """Add: give a text, a handle or success; eax holds which."""
    code.put("83f801")  # cmp eax, HOW["text"]
    code.jump("75", "success")
    code.lea("rax", places.text)
    code.put("c3")
    code.label("success")
    code.put("83f802")  # cmp eax, HOW["handle"]
    code.put("b8", 0)  # mov eax, 0
    code.jump("75", "done")
    code.put("4885ff")  # test rdi, rdi
    code.jump("74", "done")
    code.lea("rcx", places.handle)
    code.put("48890f")  # mov [rdi], rcx
    code.label("done")
    code.put("c3")


def _put_line(code: _Code, places: Places) -> None:
    """Add: write the line about the function whose entry r9 is."""
    code.put("4883ec30")  # sub rsp, 48: three times address and size
    code.lea("rcx", places.before[0])
    code.put("48890c24")  # mov [rsp], rcx
    code.put("48c7442408", places.before[1])  # mov qword [rsp+8], …
    code.put("418b09")  # mov ecx, [r9]
    code.lea("rdx", places.names)
    code.put("4801d1")  # add rcx, rdx
    code.put("48894c2410")  # mov [rsp+16], rcx
    code.put("418b4904")  # mov ecx, [r9+4]
    code.put("48894c2418")  # mov [rsp+24], rcx
    code.lea("rcx", places.after[0])
    code.put("48894c2420")  # mov [rsp+32], rcx
    code.put("48c7442428", places.after[1])  # mov qword [rsp+40], …
    code.put("bf", _STDERR)  # mov edi, …
    code.put("4889e6")  # mov rsi, rsp
    code.put("ba", 3)  # mov edx, 3
    code.put("b8", _WRITEV)  # mov eax, …
    code.put("0f05")  # syscall
    code.put("4883c430")  # add rsp, 48


def program_code(address: int, text: int, size: int) -> bytes:
    """Return a program that writes a text (address, bytes) and ends with exit code 1."""
    code = _Code(address)
    code.put("bf", _STDERR)  # mov edi, …
    code.lea("rsi", text)
    code.put("ba", size)  # mov edx, …
    code.put("b8", _WRITE)  # mov eax, …
    code.put("0f05")  # syscall
    code.put("bf", 1)  # mov edi, 1
    code.put("b8", _EXIT_GROUP)
    code.put("0f05")
    return code.assembled()
