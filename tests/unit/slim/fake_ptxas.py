"""A stand-in for `ptxas`: makes well-formed cubins without any code; comments in the PTX rule it.

It is written to a file of its own and run as a program, as the real one is.
"""

from __future__ import annotations

import os
import random
import re
import signal
import struct
import sys
import time
from pathlib import Path

VERSION = "12.9.86"
ARCHS = ("80", "86", "90", "90a", "100", "100a", "120")


def cubin(sm: int, kernels: list[str], *, pad: int = 0) -> bytes:
    """Return an ELF as ptxas writes it: a section for each kernel; for sm_100 on, the newer ABI."""
    new = sm >= 100
    names = [".shstrtab", *([".nv.compat"] if new else []), *(f".text.{k}" for k in kernels)]
    contents = [b"", *([bytes.fromhex("02020100020505000203000002060100")] if new else [])]
    contents += [b"\0" * 16 + random.Random(pad).randbytes(pad) for _ in kernels]
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in names)
    contents[0] = strings
    body, rows = b"", [bytes(64)]
    for name, content in zip(names, contents, strict=True):
        at = 64 + len(body)
        index = strings.index(b"\0" + name.encode() + b"\0") + 1
        rows.append(struct.pack("<IIQQQQIIQQ", index, 1, 0, 0, at, len(content), 0, 0, 1, 0))
        body += content + bytes(-len(content) % 8)
    ident = b"\x7fELF\x02\x01\x01" + (b"\x41\x08" if new else b"\x33\x07") + bytes(7)
    flags = sm << 8 | 0x2 if new else sm
    head = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(ident, 2, 190, 1, 0, 0, 64 + len(body), flags, 64, 56, 0, 64, len(rows), 1),
    )
    return head + body + b"".join(rows)


def main() -> int:
    """Do what the PTX says, and write a line about it beside this program."""
    words = sys.argv[1:]
    if "--version" in words:
        sys.stdout.write(f"Cuda compilation tools, release 12.9, V{VERSION}\n")
        return 0
    if "--help" in words:
        sys.stdout.write(",".join(f"'sm_{arch}'" for arch in ARCHS))
        return 0
    arch = next(word for word in words if word.startswith("-arch=")).removeprefix("-arch=sm_")
    out = Path(words[words.index("-o") + 1])
    text = Path(next(word for word in words if word.endswith(".ptx"))).read_text()
    with Path(__file__).with_suffix(".log").open("a") as log:
        log.write(" ".join(word for word in words if word.startswith("-")) + "\n")
    if "// hang" in text:
        time.sleep(60)
    if "// crash" in text:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "// fail" in text:
        sys.stderr.write(f"ptxas {words[-3]}, line 3; error   : Unknown instruction\n")
        return 255
    sm = 80 if "// other" in text else int(re.sub(r"\D", "", arch))
    kernels = [] if "// forget" in text else re.findall(r"\.entry\s+(\w+)", text)
    out.write_bytes(b"junk" if "// junk" in text else cubin(sm, kernels, pad=_pad(text)))
    return 0


def _pad(text: str) -> int:
    match = re.search(r"// pad (\d+)", text)
    return int(match[1]) if match else 0


if __name__ == "__main__":
    sys.exit(main())
