"""Put together a root file system with what Python needs and no distribution: no shell, no apt.

Run with the base image's own Python, in a builder stage. It copies the interpreter and its standard
library, every shared library that the dynamic loader finds for them and for an environment's files,
and what `root.txt` names, each with its reason. The records and licences of the packages that those
files belong to come along. Ends with an error where something that is needed is missing.

Usage: python assemble_root.py ROOT [--for TREE]… [--rules root.txt]
"""

from __future__ import annotations

import argparse
import platform
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dpkg_records import add_package_records
from elf_closure import LOADER, system_libraries
from tree_copy import Root

# Links that merge /bin, /lib and so on into /usr; programs name both.
MERGED = ("/bin", "/sbin", "/lib", "/lib64")
FILES = {
    "/etc/passwd": """\
root:x:0:0:root:/root:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
app:x:10001:10001:the service:/tmp:/usr/sbin/nologin
""",
    "/etc/group": "root:x:0:\nnobody:x:65534:\napp:x:10001:\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


@dataclass
class Rules:
    """The lines of root.txt by their first word."""

    keep: list[str] = field(default_factory=list)
    optional: list[str] = field(default_factory=list)
    folders: dict[str, int] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    without: list[str] = field(default_factory=list)


def read_rules(text: str) -> Rules:
    """Read root.txt; a line that it does not understand ends the run."""
    rules = Rules()
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        parts = line.split(None, 2)
        if len(parts) != 3:
            sys.exit(f"assemble-root: a rule needs a word, a pattern and a reason: {line}")
        word, where, _ = parts
        path, _, what = where.partition(":")
        if word == "keep":
            rules.keep.append(where)
        elif word == "try":
            rules.optional.append(where)
        elif word == "without":
            rules.without.append(where)
        elif word == "folder":
            rules.folders[path] = int(what, 8)
        elif word == "link":
            rules.links[path] = what
        else:
            sys.exit(f"assemble-root: unknown word {word!r} in: {line}")
    return rules


def interpreter_names() -> Iterator[str]:
    """Yield every usual name of the interpreter that runs this."""
    real = Path(sys.executable).resolve()
    for folder in ("/usr/local/bin", "/usr/bin"):
        for name in ("python", "python3", f"python{sysconfig.get_python_version()}"):
            if Path(folder, name).resolve() == real:
                yield f"{folder}/{name}"


def expand(old: str, pattern: str) -> list[str]:
    """Return the paths in a root that a pattern stands for."""
    paths = sorted(Path(f"{old}/").glob(pattern.lstrip("/")))
    return [f"/{path.relative_to(f'{old}/')}" for path in paths]


def add_by_rules(root: Root, rules: Rules) -> None:
    """Copy and make what root.txt names."""
    for pattern in [*rules.keep, *rules.optional]:
        paths = expand(root.old, pattern)
        if pattern in rules.keep and not paths:
            sys.exit(f"assemble-root: the base has no {pattern}, which has to be kept")
        for path in paths:
            root.add(path)
    for path, mode in rules.folders.items():
        root.make(path, mode)
    for path, target in rules.links.items():
        root.link(path, target)
    for path, text in FILES.items():
        root.write(path, text)


def add_interpreter(root: Root, rules: Rules, trees: list[Path]) -> None:
    """Copy the interpreter, its standard library, and what they and the trees are loaded with."""
    for name in MERGED:
        if Path(name).is_symlink():
            root.link(name, str(Path(name).readlink()))
    for name in interpreter_names():
        root.add(name)
    stdlib = sysconfig.get_path("stdlib")
    root.add(stdlib, rules.without)
    trees = [Path(f"{root.folder}{stdlib}"), *trees]
    for library in sorted(system_libraries(trees, [Path(sys.executable).resolve()])):
        root.add(library)
    root.add(str(LOADER))


def main() -> None:
    """Make the root, and say what is in it."""
    parser = argparse.ArgumentParser(description="Put together a root without a distribution.")
    parser.add_argument("root", type=Path)
    parser.add_argument("--for", dest="trees", type=Path, action="append", default=[])
    parser.add_argument("--rules", type=Path, default=Path(__file__).with_name("root.txt"))
    options = parser.parse_args()
    libc, version = platform.libc_ver()
    if libc != "glibc" or tuple(map(int, version.split("."))) < (2, 34):
        # From 2.34 on name resolution is part of libc.so.6: nothing else is opened for it.
        sys.exit(f"assemble-root: needs glibc 2.34 or newer, not {libc or 'another'} {version}")
    rules = read_rules(options.rules.read_text(encoding="utf-8"))
    root = Root(options.root.resolve())
    add_interpreter(root, rules, options.trees)
    add_by_rules(root, rules)
    packages = add_package_records(root)
    size = sum(path.lstat().st_size for path in root.folder.rglob("*") if path.is_file())
    print(f"assemble-root: {size / 1e6:.1f} MB from {len(packages)} packages: {' '.join(packages)}")


if __name__ == "__main__":
    main()
