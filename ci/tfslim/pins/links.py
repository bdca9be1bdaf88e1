"""What a wheel's libraries need from others and give to others: names in their symbol tables.

A library that lacks one of the names asked of it fails when it is loaded, or at the first call. So
which versions go together is read from the files, not guessed from version numbers. Reads only.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection, GNUVerSymSection
from elftools.elf.sections import SymbolTableSection
from pydantic import BaseModel, ConfigDict

__all__ = ["Links", "read_links"]

# Libraries that come from NVIDIA's wheels; the driver's own (libcuda, libnvidia-ml) do not.
_FAMILY = ("libcu", "libnv", "libnccl")
_DRIVER = ("libcuda.so", "libnvidia-", "libnvcuvid")


class Links(BaseModel):
    """Names by the library (its soname) that they belong to.

    Attributes:
        needs: What the wheel's libraries import from libraries of other wheels.
        provides: What its libraries export.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    needs: dict[str, frozenset[str]]
    provides: dict[str, frozenset[str]]


def read_links(tree: Path) -> Links:
    """Read the symbol tables of all libraries below a folder; other files are passed over."""
    needs: defaultdict[str, set[str]] = defaultdict(set)
    provides: dict[str, frozenset[str]] = {}
    for path in sorted(tree.rglob("*.so*")):
        if not path.is_file():
            continue
        with path.open("rb") as file:
            try:
                elf = ELFFile(file)
                name, exported, imported = _read(elf)
            except (ELFError, ValueError, KeyError):
                continue
        provides[name or path.name] = frozenset(exported)
        for library, names in imported.items():
            needs[library] |= names
    outside = {name: frozenset(names) for name, names in needs.items() if name not in provides}
    return Links(needs=outside, provides=provides)


def _read(elf: ELFFile) -> tuple[str, set[str], dict[str, set[str]]]:
    """Return a library's soname, what it exports, and what it imports by library."""
    soname = ""
    dynamic = elf.get_section_by_name(".dynamic")
    if isinstance(dynamic, DynamicSection):
        soname = next((str(tag.soname) for tag in dynamic.iter_tags("DT_SONAME")), "")  # type: ignore[attr-defined]
    table = elf.get_section_by_name(".dynsym")
    exported: set[str] = set()
    imported: defaultdict[str, set[str]] = defaultdict(set)
    if not isinstance(table, SymbolTableSection):
        return soname, exported, imported
    owners = _owners(elf)
    versions = elf.get_section_by_name(".gnu.version")
    for number, symbol in enumerate(table.iter_symbols()):
        if symbol["st_shndx"] != "SHN_UNDEF":
            exported.add(symbol.name)
        elif isinstance(versions, GNUVerSymSection):
            index = versions.get_symbol(number)["ndx"]
            owner = owners.get(index, "")
            if owner.startswith(_FAMILY) and not owner.startswith(_DRIVER):
                imported[owner].add(symbol.name)
    return soname, exported, imported


def _owners(elf: ELFFile) -> dict[int, str]:
    """Return which library each version index of imported symbols belongs to."""
    section = elf.get_section_by_name(".gnu.version_r")
    if not isinstance(section, GNUVerNeedSection):
        return {}
    return {
        auxiliary["vna_other"]: need.name or ""
        for need, auxiliaries in section.iter_versions()
        for auxiliary in auxiliaries
    }
