"""Say what the files of a tree are and whom they belong to.

Ownership comes from what the installers wrote down: `*.dist-info/RECORD` (PyPA "Recording
installed projects"), dpkg's `info/*.list`, and the `status.d/*.md5sums` of distroless images.
"""

from __future__ import annotations

import csv
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

__all__ = ["Owner", "Owners", "is_elf", "kind_of", "records_ownership"]

_DPKG = "var/lib/dpkg/"
_STDLIB = re.compile(r"(^|/)lib(64)?/python3(\.\d+)?/")
_SITE = re.compile(r"(^|/)(site|dist)-packages/")
_PYC = re.compile(r"\.cpython-\d+(\.opt-\d)?\.pyc$")
_ELF_MAGIC = b"\x7fELF"
_ELF_TYPE_OFFSET = 16
_ELF_REL, _ELF_EXEC, _ELF_DYN = 1, 2, 3
_AMBIGUOUS = None

_KIND_BY_SUFFIX = {
    suffix: kind
    for kind, suffixes in {
        "python source": ".py",
        "bytecode": ".pyc .pyo",
        "type stubs": ".pyi",
        "headers": ".h .hh .hpp .hxx .cuh .inc .inl .ipp",
        "source code": ".c .cc .cpp .cxx .cu .f .f90 .pyx .pxd .java .js .ts .proto .td .cmake",
        "static library": ".a .lib .la",
        "model": ".pb .pbtxt .tflite .onnx .h5 .hdf5 .keras .safetensors .pt .pth .gguf .mlmodel "
        ".ckpt",
        "text and docs": ".md .rst .txt .html .htm .css .tex .1 .3 .5 .7 .8 .po .mo .license",
        "archive": ".zip .whl .tar .gz .xz .bz2 .zst .tgz .deb",
        "gpu bitcode": ".bc .cubin .fatbin .ptx",
    }.items()
    for suffix in suffixes.split()
}
_DOC_NAMES = ("LICENSE", "COPYING", "NOTICE", "README", "CHANGELOG", "AUTHORS", "METADATA")
_DOC_FOLDERS = ("usr/share/doc/", "usr/share/man/", "usr/share/info/", "usr/share/locale/")
_MODEL_WEIGHTS = re.compile(r"\.data-\d{5}-of-\d{5}$")


@dataclass(frozen=True)
class Owner:
    """Whom a file belongs to.

    Attributes:
        kind: "python" (a distribution), "debian" (a package) or "group" (what no list names).
        name: Of the package or group.
        version: Empty for groups.
    """

    kind: str
    name: str
    version: str = ""


STDLIB = Owner("group", "python standard library")
OTHER_PYTHON = Owner("group", "other python")
REST = Owner("group", "other files")


def is_elf(head: bytes) -> bool:
    """True for the first bytes of an ELF file."""
    return head.startswith(_ELF_MAGIC)


def kind_of(path: str, head: bytes, mode: int) -> str:
    """Return the kind of a file from its first bytes where they tell, else from its name."""
    if is_elf(head):
        return _elf_kind(path, head)
    if head.startswith(b"!<arch>\n"):
        return "static library"
    base = posixpath.basename(path)
    suffix = posixpath.splitext(base)[1].lower()
    if _MODEL_WEIGHTS.search(base):
        return "model"
    if path.startswith(_DOC_FOLDERS) or base.upper().startswith(_DOC_NAMES):
        return "text and docs"
    if suffix in _KIND_BY_SUFFIX:
        return _KIND_BY_SUFFIX[suffix]
    return "script" if head.startswith(b"#!") and mode & 0o111 else "data"


def _elf_kind(path: str, head: bytes) -> str:
    # ET_DYN is also what a position-independent program is: the name decides between the two.
    field = head[_ELF_TYPE_OFFSET : _ELF_TYPE_OFFSET + 2]
    elf_type = int.from_bytes(field, "big" if head[5:6] == b"\x02" else "little")
    if elf_type == _ELF_REL:
        return "object file"
    base = posixpath.basename(path)
    if elf_type == _ELF_DYN and (".so" in base or "/bin/" not in f"/{path}"):
        return "shared library"
    return "executable" if elf_type in (_ELF_EXEC, _ELF_DYN) else "data"


def records_ownership(path: str) -> bool:
    """True for the files that `Owners` reads."""
    return (
        path.endswith(".dist-info/RECORD")
        or path == f"{_DPKG}status"
        or (path.startswith(f"{_DPKG}info/") and path.endswith(".list"))
        or path.startswith(f"{_DPKG}status.d/")
    )


class Owners:
    """Finds the owner of a path.

    Args:
        kept: Content of the files that `records_ownership` names, by path.
        links: Symbolic links at the root of the tree ("lib" → "usr/lib"): dpkg's lists may name
            a file by the old path.
    """

    def __init__(self, kept: Mapping[str, bytes], links: Mapping[str, str]) -> None:
        self._links = links
        self._by_path: dict[str, Owner] = {}
        self._by_folder: dict[str, Owner | None] = {}
        statuses = [text for path, text in kept.items() if path.startswith(f"{_DPKG}status")]
        versions = _debian_versions(b"\n".join(statuses))
        # Python's own record wins over dpkg's where both name a file: it is the finer one.
        for path, content in kept.items():
            if path.endswith((".list", ".md5sums")):
                self._add_debian(path, content, versions)
        for path, content in kept.items():
            if path.endswith(".dist-info/RECORD"):
                self._add_distribution(path, content)

    def of(self, path: str) -> Owner:
        """Return the owner of a file; a group where no list names it."""
        return (
            self._by_path.get(path)
            or self._by_path.get(_source_of(path))
            or self._of_folder(path)
            or _group(path)
        )

    def _of_folder(self, path: str) -> Owner | None:
        """Return who alone writes into the nearest folder that a distribution has claimed."""
        folder = posixpath.dirname(path)
        while folder and folder not in self._by_folder:
            folder = posixpath.dirname(folder)
        return self._by_folder.get(folder)

    def _add_distribution(self, record: str, content: bytes) -> None:
        info = posixpath.dirname(record)
        site = posixpath.dirname(info)
        name, _, version = posixpath.basename(info).removesuffix(".dist-info").partition("-")
        owner = Owner("python", name.replace("_", "-").lower(), version)
        for listed in _record_paths(content):
            path = posixpath.normpath(posixpath.join("/", site, listed)).lstrip("/")
            self._by_path[path] = owner
            self._claim(posixpath.dirname(path), site, owner)

    def _claim(self, folder: str, site: str, owner: Owner) -> None:
        """Note the owner for a folder and those above it, up to site-packages."""
        while folder and f"{folder}/".startswith(f"{site}/" if site else "") and folder != site:
            if self._by_folder.get(folder) is owner:
                return
            self._by_folder[folder] = _AMBIGUOUS if folder in self._by_folder else owner
            folder = posixpath.dirname(folder)

    def _add_debian(self, path: str, content: bytes, versions: Mapping[str, str]) -> None:
        stem, suffix = posixpath.splitext(posixpath.basename(path))
        name = stem.partition(":")[0]
        owner = Owner("debian", name, versions.get(name, ""))
        for line in content.decode("utf-8", "replace").splitlines():
            listed = line.partition("  ")[2] if suffix == ".md5sums" else line
            self._by_path.setdefault(self._canonical(listed.strip("/")), owner)

    def _canonical(self, path: str) -> str:
        first, slash, rest = path.partition("/")
        target = self._links.get(first)
        return f"{target.strip('/')}{slash}{rest}" if target is not None else path


def _record_paths(content: bytes) -> Iterator[str]:
    text = content.decode("utf-8", "replace")
    try:
        for row in csv.reader(text.splitlines()):
            if row and row[0]:
                yield row[0]
    except csv.Error:  # a broken line ends the record: what is not named goes to a group
        return


def _debian_versions(status: bytes) -> dict[str, str]:
    versions: dict[str, str] = {}
    name = ""
    for line in status.decode("utf-8", "replace").splitlines():
        if line.startswith("Package: "):
            name = line[9:].strip()
        elif line.startswith("Version: "):
            versions[name] = line[9:].strip()
    return versions


def _source_of(path: str) -> str:
    """Return the .py of a .pyc, beside it (sourceless) or in the cache; else the path."""
    folder, _, base = path.rpartition("/")
    if not base.endswith(".pyc"):
        return path
    if not folder.endswith("__pycache__"):
        return path.removesuffix("c")
    return posixpath.join(posixpath.dirname(folder), _PYC.sub(".py", base))


def _group(path: str) -> Owner:
    if _SITE.search(path):
        return OTHER_PYTHON
    if _STDLIB.search(path) or "/libpython3" in f"/{path}":
        return STDLIB
    return REST
