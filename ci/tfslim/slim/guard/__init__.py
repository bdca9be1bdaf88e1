"""Puts into a slim tree what explains it: a guard for GPUs and drivers, and names for what is gone.

`site/` holds what is put beside TensorFlow; it runs there, on any Python from 3.9, without tfslim.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any, Final

import yaml

from tfslim.slim.plan import FilePlan, GpuModules
from tfslim.slim.put import put
from tfslim.slim.rules import Policy
from tfslim.slim.trace import module_name, package_path
from tfslim.slim.tree import TreeFile

__all__ = ["plan_guard"]

_DATA: Final = "_tfslim.json"
_MODULES: Final = (
    "_tfslim.py",
    "_tfslim_guard.py",
    "_tfslim_ops.py",
    "_tfslim_prefetch.py",
    "_tfslim_start.py",
    "_tfslim_wire.py",
    "_tfslim.pth",
)
# What is gone, and why: what several runs removed adds up.
_MAPPINGS: Final = ("rules", "ops", "modules", "libraries")
_TENSORFLOW: Final = "tensorflow/__init__.py"
_CUDA_RUNTIME: Final = re.compile(r"libcudart\.so\.(?P<major>\d+)")
_LIBRARY: Final = re.compile(r"lib[^/]*\.so(\.\d+)*")
# mod.so, mod.abi3.so, mod.cpython-311-x86_64-linux-gnu.so
_EXTENSION: Final = re.compile(r"(?P<name>\w+)(\.abi3|\.cpython-[\w-]+)?\.so")


def plan_guard(
    tree: Path,
    files: Sequence[TreeFile],
    policy: Policy,
    planned: Sequence[FilePlan],
    modules: Sequence[GpuModules] = (),
) -> list[FilePlan]:
    """Return the plans for the guard's files, beside each TensorFlow of a tree.

    Args:
        tree: The tree.
        files: All of its files.
        policy: The rules and the GPUs to serve.
        planned: Everything else that happens to the tree.
        modules: How its files will serve the GPUs.
    """
    rule = policy.profile.guard_rule
    sites = {
        name.removesuffix(_TENSORFLOW)
        for item in files
        for name in item.names
        if package_path(name) == _TENSORFLOW
    }
    if rule is None or not sites:
        return []
    there = {name: item for item in files for name in item.names}
    plans: list[FilePlan] = []
    for site in sorted(sites):
        now = {**_data(site, there, policy, planned), "jit": _jit(modules)}
        contents = _contents(tree, site, there, now)
        for name, data in contents.items():
            plans += put(tree, f"{site}{name}", data, there, rule.id)
    return plans


def _contents(
    tree: Path, site: str, there: Collection[str], data: dict[str, Any]
) -> dict[str, bytes]:
    """Return the guard's files for one site-packages folder, by name."""
    folder = resources.files(__package__) / "site"
    known = _known((tree / site / _DATA).read_bytes()) if f"{site}{_DATA}" in there else {}
    return {
        **{name: (folder / name).read_bytes() for name in _MODULES},
        _DATA: _written(_merged(known, data)),
    }


def _data(
    site: str, there: Collection[str], policy: Policy, planned: Iterable[FilePlan]
) -> dict[str, Any]:
    """Return what the guard must know of a tree."""
    majors = [int(m["major"]) for name in there if (m := _CUDA_RUNTIME.search(name))]
    cuda = min(majors, default=0)
    zstd = policy.profile.zstd_rule
    gone = _gone(planned, "delete")
    used = {removal.rule for plan in planned for removal in plan.removals}
    return {
        "profile": policy.profile.profile,
        "served": list(policy.sms),
        "newest": max(policy.sms, default=0),
        "ptx": policy.keep_ptx,
        "cuda": cuda,
        "driver": _drivers().get(cuda, ""),
        "zstd": {"cuda": zstd.cuda, "driver": zstd.driver} if zstd else {},
        "rules": {
            rule.id: {"keep": rule.keep, "why": rule.why, "breaks": rule.breaks}
            for rule in policy.profile.rules
            if rule.id in used
        },
        "ops": {
            rule.id: list(rule.unless_ops)
            for rule in policy.profile.rules
            if rule.id in used and rule.unless_ops
        },
        "modules": _modules(site, gone),
        "removed": _removed(planned),
        "libraries": {
            PurePosixPath(name).name: rule
            for name, rule in {**gone, **_gone(planned, "replace")}.items()
            if _LIBRARY.fullmatch(PurePosixPath(name).name)
        },
    }


def _jit(modules: Iterable[GpuModules]) -> dict[str, int]:
    """Return how many modules each GPU that was named compiles at first use."""
    count: Counter[str] = Counter()
    for one in modules:
        count[str(one.sm)] += one.jit
    return {sm: number for sm, number in count.items() if number}


def _removed(planned: Iterable[FilePlan]) -> dict[str, dict[str, int]]:
    """Return what each rule takes out, in bytes and pieces; `tfslim inspect` reads it."""
    removed: dict[str, dict[str, int]] = {}
    for removal in (removal for plan in planned for removal in plan.removals):
        sums = removed.setdefault(removal.rule, {"bytes": 0, "count": 0})
        sums["bytes"] += removal.bytes
        sums["count"] += removal.count
    return {rule: sums for rule, sums in removed.items() if sums["bytes"]}


def _removed_by_both(earlier: dict[str, Any], now: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Return what two runs removed: the larger of each rule where one went on with the other."""
    resumed = all(earlier.get(key) == now[key] for key in ("profile", "served"))
    sums = {rule: dict(item) for rule, item in now["removed"].items()}
    for rule, item in earlier.get("removed", {}).items():
        mine = sums.setdefault(rule, {"bytes": 0, "count": 0})
        for key in mine:
            other = item.get(key, 0)
            mine[key] = max(mine[key], other) if resumed else mine[key] + other
    return sums


def _drivers() -> dict[int, str]:
    """Return the oldest driver for each CUDA major version."""
    text = (resources.files(__package__) / "drivers.yaml").read_text("utf-8")
    found: dict[int, str] = yaml.safe_load(text)
    return found


def _gone(planned: Iterable[FilePlan], action: str) -> dict[str, str]:
    """Return every name to which something happens, with the rule that says so."""
    return {
        name: plan.removals[0].rule
        for plan in planned
        if plan.action == action
        for name in (plan.path, *plan.links)
    }


def _modules(site: str, gone: dict[str, str]) -> dict[str, str]:
    """Return the modules that are gone."""
    inside = {name.removeprefix(site): gone[name] for name in gone if name.startswith(site)}
    modules = ((_module(name), rule) for name, rule in inside.items())
    return {module: rule for module, rule in modules if module}


def _outermost(modules: dict[str, str]) -> dict[str, str]:
    """Return modules without those below a package that went by the same rule."""
    return {
        module: rule
        for module, rule in modules.items()
        if not any(modules.get(parent) == rule for parent in _parents(module))
    }


def _module(inside: str) -> str:
    """Return the dotted name under which a file is imported; empty where it is not."""
    path = PurePosixPath(module_name(inside))
    extension = _EXTENSION.fullmatch(path.name)
    if extension and not path.name.startswith("lib"):
        path = path.with_name(extension["name"])
    elif path.suffix == ".py":
        path = path.parent if path.name == "__init__.py" else path.with_suffix("")
    else:
        return ""
    return ".".join(path.parts) if all(part.isidentifier() for part in path.parts) else ""


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _known(text: bytes) -> dict[str, Any]:
    """Return what an earlier run wrote down; nothing where it cannot be read."""
    try:
        known = json.loads(text)
    except ValueError:
        return {}
    return known if isinstance(known, dict) else {}


def _merged(earlier: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return what holds after two runs: what either removed is gone, what both keep is served."""
    served = earlier.get("served", now["served"])
    merged = {
        **now,
        "served": [sm for sm in now["served"] if sm in served],
        "newest": max(now["newest"], earlier.get("newest", max(served, default=0))),
        "ptx": now["ptx"] and earlier.get("ptx", True),
        "zstd": now["zstd"] or earlier.get("zstd", {}),
        "removed": _removed_by_both(earlier, now),
        **{key: {**earlier.get(key, {}), **now[key]} for key in _MAPPINGS},
    }
    return {**merged, "modules": _outermost(merged["modules"])}


def _written(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
