"""Bring along what Debian's packages say of themselves, for the files of theirs that were copied.

Records go to var/lib/dpkg/status.d, one file a package, as distroless images have it: scanners read
them there and name the advisories. Licences go where they were.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tree_copy import Root, follow

__all__ = ["add_package_records"]

DPKG = "/var/lib/dpkg"
# Debian makes these files when it installs the package; its list does not name them.
GENERATED = {"/etc/ssl/certs/ca-certificates.crt": "ca-certificates"}


def add_package_records(root: Root) -> list[str]:
    """Copy record and licence of every package that a copied file belongs to.

    Returns:
        The packages' names; none where the base has no dpkg.
    """
    owners = {**_owners(root.old), **GENERATED}
    kept = {path: owners[path] for path in root.copied if path in owners}
    records = _records(root.old)
    packages = sorted(set(kept.values()))
    for package in packages:
        place = f"{DPKG}/status.d/{package}"
        root.write(place, records[package] + "\n")
        root.write(f"{place}.md5sums", _checksums(root.old, package, set(kept)))
        _add_licence(root, package)
    return packages


def _owners(old: str) -> dict[str, str]:
    """Return the package of every path that dpkg knows, by the path without links."""
    owners: dict[str, str] = {}
    folders: dict[str, str] = {}
    for file in sorted(Path(f"{old}{DPKG}/info").glob("*.list")):
        for line in file.read_text(encoding="utf-8").splitlines():
            folder, _, name = line.rpartition("/")
            if folder not in folders:
                folders[folder] = _real(old, folder)
            owners.setdefault(f"{folders[folder]}/{name}", file.stem.partition(":")[0])
    return owners


def _real(old: str, folder: str) -> str:
    # dpkg may name /lib/x, which is /usr/lib/x; or a folder that the base has left out.
    return follow(old, folder)[0] if Path(f"{old}{folder}").exists() else folder


def _records(old: str) -> dict[str, str]:
    """Return dpkg's record of each package."""
    status = Path(f"{old}{DPKG}/status")
    if not status.exists():
        return {}
    stanzas = status.read_text(encoding="utf-8").strip().split("\n\n")
    named = ((re.search(r"^Package: (\S+)", stanza, re.MULTILINE), stanza) for stanza in stanzas)
    return {match[1]: stanza for match, stanza in named if match}


def _checksums(old: str, package: str, kept: set[str]) -> str:
    """Return the lines of a package's checksums whose files were copied."""
    lines = [
        line
        for file in Path(f"{old}{DPKG}/info").glob(f"{package}[.:]*md5sums")
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    paths = {line: "/" + line.partition("  ")[2] for line in lines}
    return "".join(f"{line}\n" for line in lines if _canonical(old, paths[line]) in kept)


def _canonical(old: str, path: str) -> str:
    folder, _, name = path.rpartition("/")
    return f"{_real(old, folder)}/{name}"


def _add_licence(root: Root, package: str) -> None:
    """Copy a package's copyright file, and the licences that it refers to instead of quoting."""
    path = f"/usr/share/doc/{package}/copyright"
    if not Path(f"{root.old}{path}").exists():
        sys.exit(f"assemble-root: the licence of {package} is not there: {path}")
    root.add(path)
    text = Path(f"{root.old}{path}").read_text(encoding="utf-8", errors="replace")
    for name in sorted(set(re.findall(r"/usr/share/common-licenses/([\w.+-]*\w)", text))):
        if Path(f"{root.old}/usr/share/common-licenses/{name}").exists():
            root.add(f"/usr/share/common-licenses/{name}")
