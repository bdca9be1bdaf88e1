"""Count what the documents say of a stock tree: GPU code by place, names, stubs, profiles.

    python benchmarks/slim/facts.py TREE --out benchmarks/slim/results [--trace TRACE]

Nothing here is a time. The tree is read; two copies of it, made of hard links, are slimmed for 9.0
with profile `inference`, without and with its rule for exported names, to weigh the libraries and
to count the loader's look-ups. Needs `zstd`, and as much disk as one slimmed tree.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from tfslim.slim.apply import apply_plan
from tfslim.slim.archs import parse_targets
from tfslim.slim.elf import Elf
from tfslim.slim.plan import Plan
from tfslim.slim.planning import make_plan
from tfslim.slim.rules import Margin, load_profile, make_policy
from tfslim.slim.scan import is_elf, scan_file
from tfslim.slim.stub.interface import read_interface
from tfslim.slim.symbols import read_symbols
from tfslim.slim.trace import Trace
from tfslim.slim.trace import load as load_trace

ARCH = "90"
NAMED = ("libtensorflow_cc.so.2", "libtensorflow_framework.so.2")
OPTIONAL = ("cufft-lto", "nvrtc", "runtime-engines")
IMPORT = ("bin/python", "-c", "import tensorflow")


def plan(tree: Path, profile: str, **how: Any) -> Plan:
    """Return what a profile would do to a tree, its relocations left as they are."""
    if "relr" in load_profile(profile).keep_names:
        how["keep"] = {*how.get("keep", ()), "relr"}
    return make_plan(tree, make_policy(profile, parse_targets(ARCH), **how))


def places(tree: Path) -> dict[str, dict[str, dict[str, int]]]:
    """Return containers and bare cubins by library and section, and how many wrappers lead to."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for path in sorted(tree.rglob("*.so*")):
        if path.is_symlink() or not path.is_file() or not is_elf(path):
            continue
        scan = scan_file(path)
        regions: dict[str, Counter[str]] = {}
        for one in scan.found:
            counts = regions.setdefault(one.region, Counter())
            counts["containers"] += 1
            counts["wrapped"] += one.wrapped
            for entry in one.container.entries:
                counts[f"{entry.kind.label} entries"] += 1
        for frame in scan.frames:
            regions.setdefault(frame.region, Counter())["bare cubins"] += 1
        if regions:
            found[path.name] = {name: dict(counts) for name, counts in sorted(regions.items())}
    return found


def profiles(tree: Path) -> dict[str, int]:
    """Return the bytes of the tree after each profile that needs no trace."""
    sizes = {"stock": 0}
    for profile in ("safe", "arch", "inference"):
        made = plan(tree, profile)
        sizes["stock"] = made.tree_bytes
        sizes[profile] = made.tree_bytes - made.saved
    return sizes


def stubs(tree: Path) -> list[dict[str, Any]]:
    """Return each library that becomes a stub where no model reaches anything.

    Bytes before are those after profile `arch`: what is left for the stub's rule to gain.
    """
    arch = {item.path: item.after for item in plan(tree, "arch").files}
    nothing = Trace(ops=frozenset(), opened=frozenset())
    made = plan(tree, "workload", trace=nothing, margin="none", also=OPTIONAL)
    rows = []
    for item in made.files:
        if item.action == "replace" and item.removals[0].what in ("library", "program"):
            with Elf(tree / item.path) as elf:
                names = len(read_interface(elf).exports) if ".so" in item.path else 0
            rows.append(
                {
                    "rule": item.rule,
                    "file": PurePosixPath(item.path).name,
                    "bytes": arch.get(item.path, item.size),
                    "stub_bytes": item.after,
                    "names": names,
                }
            )
    return sorted(rows, key=lambda row: (row["rule"], row["file"]))


def rules(tree: Path) -> dict[str, dict[str, int]]:
    """Return the bytes that optional rules take beyond `inference`, each alone."""
    plain = plan(tree, "inference").saved
    words = {rule.keep for rule in load_profile("inference").rules if rule.optional}
    return {
        word: {"saved": plan(tree, "inference", also=[word]).saved - plain}
        for word in sorted(words & {*OPTIONAL, "native"})
    }


def exported(path: Path) -> int:
    """Return how many names a library offers."""
    with Elf(path) as elf:
        symbols = read_symbols(elf)
        assert symbols is not None
        entries = symbols.entries
        return int(((entries["section"] != 0) & (entries["info"] >> 4 != 0)).sum())


@contextmanager
def slimmed(tree: Path, scratch: Path, keep: Collection[str]) -> Iterator[Path]:
    """Slim a copy made of hard links, and delete it at the end."""
    copy = scratch / "tree"
    subprocess.run(["cp", "-al", str(tree), str(copy)], check=True)
    try:
        apply_plan(plan(copy, "inference", keep=keep), copy)
        yield copy
    finally:
        shutil.rmtree(copy)


def zstd10(path: Path) -> int:
    """Return the bytes of a file compressed by zstd, level 10, one thread."""
    command = ["zstd", "-10", "--single-thread", "-qc", str(path)]
    return len(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def look_ups(tree: Path) -> int:
    """Return how many symbols the loader looks up for `import tensorflow`."""
    done = subprocess.run(
        [str(tree / IMPORT[0]), *IMPORT[1:]],
        env={**os.environ, "LD_DEBUG": "statistics"},
        capture_output=True,
        text=True,
        check=True,
    )
    return max(int(n) for n in re.findall(r"number of relocations: (\d+)", done.stderr))


def names(tree: Path, scratch: Path) -> dict[str, dict[str, Any]]:
    """Return what hiding names does to TensorFlow's two libraries and to an import."""
    states: dict[str, dict[str, Any]] = {}
    for state, keep in (("whole", ("exports",)), ("hidden", ())):
        with slimmed(tree, scratch, keep) as copy:
            states[state] = {"look-ups": look_ups(copy)}
            for name in NAMED:
                (path,) = copy.rglob(name)
                states[state][name] = {
                    "names": exported(path),
                    "bytes": path.stat().st_size,
                    "zstd10_bytes": zstd10(path),
                }
    native = plan(tree, "inference", also=["native"])
    states["hidden, native"] = {
        PurePosixPath(item.path).name: {
            "names": states["whole"][PurePosixPath(item.path).name]["names"]
            - sum(one.count for one in item.removals if one.what == "exported name"),
            "bytes": item.after,
        }
        for item in native.files
        if PurePosixPath(item.path).name in NAMED
    }
    return states


def margins(tree: Path, trace: Trace) -> dict[str, int]:
    """Return the bytes of the tree for each margin of profile `workload`."""
    choices: list[tuple[Margin, tuple[str, ...]]] = [
        ("none", ()),
        ("package", ()),
        ("file", ()),
        ("file", ("keras",)),
    ]
    sizes = {}
    for margin, also in choices:
        made = plan(tree, "workload", trace=trace, margin=margin, also=also)
        sizes[" ".join([margin, *also])] = made.tree_bytes - made.saved
    return sizes


def versions(tree: Path) -> dict[str, str]:
    """Return TensorFlow's and NVIDIA's versions in the tree."""
    pattern = re.compile(r"(?P<name>tensorflow|nvidia_\w+)-(?P<version>[^-]+)\.dist-info")
    fits = (pattern.fullmatch(path.name) for path in tree.rglob("*.dist-info"))
    return {fit["name"]: fit["version"] for fit in sorted(filter(None, fits), key=lambda f: f[0])}


def main() -> None:
    """Count and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path)
    parser.add_argument("--out", type=Path, default=Path("slim-benchmark"))
    parser.add_argument("--scratch", type=Path, help="folder on the tree's own file system")
    parser.add_argument("--trace", type=Path, help="of demo:mobilenet, for the margins")
    given = parser.parse_args()
    result: dict[str, Any] = {
        "command": "python benchmarks/slim/facts.py TREE" + " --trace TRACE" * bool(given.trace),
        "versions": versions(given.tree),
        "cuda_arch": ARCH,
        "places": places(given.tree),
        "profiles": profiles(given.tree),
        "stubs": stubs(given.tree),
        "optional rules": rules(given.tree),
    }
    if given.trace:
        result["margins"] = margins(given.tree, load_trace(given.trace))
    with tempfile.TemporaryDirectory(dir=given.scratch or given.tree.parent) as folder:
        result["names"] = names(given.tree, Path(folder))
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "facts.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
