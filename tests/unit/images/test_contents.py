"""What a file is, and whom it belongs to."""

from __future__ import annotations

import struct

import pytest

from tfslim.images.contents import Owners, kind_of, records_ownership

SITE = "venv/lib/python3.11/site-packages"


def elf(elf_type: int) -> bytes:
    return b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<H", elf_type) + bytes(46)


@pytest.mark.parametrize(
    ("path", "head", "mode", "kind"),
    [
        ("usr/lib/libx.so.1", elf(3), 0o644, "shared library"),
        ("usr/lib/plugin", elf(3), 0o644, "shared library"),
        ("usr/bin/python3", elf(3), 0o755, "executable"),
        ("opt/prog", elf(2), 0o755, "executable"),
        ("usr/lib/crt1.o", elf(1), 0o644, "object file"),
        ("usr/lib/libx.so", b"/* GNU ld script */", 0o644, "data"),
        ("usr/lib/libx.bin", b"!<arch>\n", 0o644, "static library"),
        ("a/b.py", b"import x", 0o755, "python source"),
        ("a/__pycache__/b.cpython-311.pyc", b"", 0o644, "bytecode"),
        ("a/b.pyi", b"", 0o644, "type stubs"),
        ("include/x.h.inc", b"", 0o644, "headers"),
        ("m/saved_model.pb", b"", 0o644, "model"),
        ("m/variables/variables.data-00000-of-00001", b"", 0o644, "model"),
        ("usr/share/doc/x/changelog.gz", b"\x1f\x8b", 0o644, "text and docs"),
        ("usr/bin/pip", b"#!/usr/bin/python3", 0o755, "script"),
        ("usr/share/zoneinfo/UTC", b"TZif2", 0o644, "data"),
    ],
)
def test_kind_of_file(path: str, head: bytes, mode: int, kind: str) -> None:
    assert kind_of(path, head, mode) == kind


KEPT = {
    f"{SITE}/alpha_pkg-1.2.dist-info/RECORD": b"alpha/__init__.py,sha256=x,3\n"
    b'"alpha/we,ird.py",,\n../../../bin/alpha,,\nns/one/a.so,,\nalpha_pkg-1.2.dist-info/RECORD,,\n',
    f"{SITE}/beta-3.dist-info/RECORD": b"ns/two/b.so,,\n",
    "var/lib/dpkg/info/libc6:amd64.list": b"/.\n/lib\n/lib/x86_64-linux-gnu/libc.so.6\n",
    "var/lib/dpkg/status": b"Package: libc6\nStatus: x\nVersion: 2.41-1\n\n",
    "var/lib/dpkg/status.d/tzdata": b"Package: tzdata\nVersion: 2026a\n",
    "var/lib/dpkg/status.d/tzdata.md5sums": b"0123  usr/share/zoneinfo/UTC\n",
}
OWNERS = Owners(KEPT, {"lib": "usr/lib"})


@pytest.mark.parametrize(
    ("path", "kind", "name", "version"),
    [
        (f"{SITE}/alpha/__init__.py", "python", "alpha-pkg", "1.2"),
        (f"{SITE}/alpha/we,ird.py", "python", "alpha-pkg", "1.2"),
        ("venv/bin/alpha", "python", "alpha-pkg", "1.2"),
        # bytecode made after the installation, and files only its owner can have written
        (f"{SITE}/alpha/__pycache__/__init__.cpython-311.opt-1.pyc", "python", "alpha-pkg", "1.2"),
        (f"{SITE}/alpha/__init__.pyc", "python", "alpha-pkg", "1.2"),
        (f"{SITE}/alpha/cache/table.bin", "python", "alpha-pkg", "1.2"),
        (f"{SITE}/ns/two/late.bin", "python", "beta", "3"),
        # a folder that two distributions share belongs to neither
        (f"{SITE}/ns/late.bin", "group", "other python", ""),
        (f"{SITE}/single.py", "group", "other python", ""),
        ("venv/lib/python3.11/os.py", "group", "python standard library", ""),
        # dpkg's list has the path before the merge of /lib into /usr
        ("usr/lib/x86_64-linux-gnu/libc.so.6", "debian", "libc6", "2.41-1"),
        ("usr/share/zoneinfo/UTC", "debian", "tzdata", "2026a"),
        ("app/main", "group", "other files", ""),
    ],
)
def test_owner(path: str, kind: str, name: str, version: str) -> None:
    owner = OWNERS.of(path)
    assert (owner.kind, owner.name, owner.version) == (kind, name, version)


def test_what_is_read_for_ownership() -> None:
    assert all(records_ownership(path) for path in KEPT)
    assert not records_ownership("var/lib/dpkg/info/libc6.postinst")
    assert not records_ownership("app/RECORD")


def test_broken_records_lose_nothing_but_themselves() -> None:
    owners = Owners({f"{SITE}/x-1.dist-info/RECORD": b'\xff\x00"never closed\n,,,\n'}, {})
    assert owners.of(f"{SITE}/y.py").name == "other python"


def test_site_packages_itself_as_the_tree() -> None:
    owners = Owners({"x-1.dist-info/RECORD": b"x/a.py,,\n"}, {})
    assert owners.of("x/__pycache__/a.cpython-313.pyc").name == "x"
