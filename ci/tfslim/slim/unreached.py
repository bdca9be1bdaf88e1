"""Which files of TensorFlow's own packages the traced models never reached. Reads names only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Final

from tfslim.slim.rules import Policy, UnreachedRule, load_profile
from tfslim.slim.trace import module_name, package_path
from tfslim.slim.tree import TreeFile

__all__ = ["Unreached"]

# Modules; what else a package holds is small, and who reads it is hard to tell.
_CODE: Final = (".py", ".so")
_DISTRIBUTION: Final = re.compile(r"(?P<name>[^-/]+)-(?P<version>[^-/]+)\.dist-info/METADATA")
_PYTHON: Final = re.compile(r"/python(?P<version>3\.\d+)/")
_TENSORFLOW: Final = "tensorflow"
_INIT: Final = "__init__.py"


class Unreached:
    """What a policy's rules about unreached files mean for one tree.

    Args:
        files: All files of the tree.
        policy: The rules, the trace and its margin.

    Raises:
        SlimError: The trace was made with other versions than those in the tree.
    """

    def __init__(self, files: Sequence[TreeFile], policy: Policy) -> None:
        self._rules = policy.profile.unreached_rules
        self._margin = policy.margin
        self._kept = tuple(
            rule
            for rule in load_profile(policy.profile.profile).file_rules
            if rule.keep in policy.keep
        )
        self._sites: tuple[str, ...] = ()
        self._chosen: dict[TreeFile, UnreachedRule] = {}
        # One without versions was written by hand, and speaks of op types only.
        if policy.trace is None or not policy.trace.tensorflow:
            return
        reached = [inside for name in policy.trace.opened if (inside := package_path(name))]
        self._reached = frozenset(map(_imported, reached))
        self._reached_folders = frozenset(map(_folder, reached))
        found = _installed(name for item in files for name in item.names)
        # Another interpreter's packages are none of this trace's business.
        self._sites = tuple(site for site in found if _TENSORFLOW in found[site])
        for site in self._sites or ("",):
            policy.trace.check_fits(_that_matter(found.get(site, {}), self._rules))
        self._choose(files)

    def rule_for(self, item: TreeFile) -> UnreachedRule | None:
        """Return the rule that lets a file go under all of its names; None where it stays."""
        return self._chosen.get(item)

    def _choose(self, files: Sequence[TreeFile]) -> None:
        for item in files:
            rules = (r for r in self._rules if all(self._may_go(name, r) for name in item.names))
            rule = next(rules, None)
            if rule is not None:
                self._chosen[item] = rule
        # A folder that stays without its __init__ could still be imported, and would be empty.
        staying = {
            str(folder)
            for item in files
            if item not in self._chosen
            for name in item.names
            for folder in PurePosixPath(name).parents
        }
        for item in list(self._chosen):
            sources = (PurePosixPath(module_name(name)) for name in item.names)
            if any(s.name == _INIT and str(s.parent) in staying for s in sources):
                del self._chosen[item]

    def _may_go(self, name: str, rule: UnreachedRule) -> bool:
        inside = package_path(name)
        if inside is None or name.removesuffix(inside) not in self._sites:
            return False
        module = module_name(inside)
        if not module.endswith(_CODE) or _imported(module) in self._reached:
            return False
        if not rule.covers(PurePosixPath(module)) or self._is_kept(name):
            return False
        return self._margin == "file" or _folder(module) not in self._reached_folders

    def _is_kept(self, name: str) -> bool:
        """True where the user keeps what another rule would remove."""
        return any(rule.matches(PurePosixPath(name)) for rule in self._kept)


def _imported(name: str) -> str:
    """Return a module's path as an import asks for it: a stand-in has its original's."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition('.')[0]}"


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _installed(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the versions of the distributions in each site-packages, by normalised name."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        inside = package_path(name)
        match = _DISTRIBUTION.fullmatch(inside) if inside else None
        if inside and match:
            site = name.removesuffix(inside)
            packages = found.setdefault(site, {})
            packages[re.sub(r"[-_.]+", "-", match["name"]).lower()] = match["version"]
            python = _PYTHON.search(f"/{site}")
            if python:
                packages["python"] = python["version"]
    return found


def _that_matter(packages: dict[str, str], rules: Iterable[UnreachedRule]) -> dict[str, str]:
    """Return only those that a trace speaks of: others may differ."""
    named = {_TENSORFLOW, "python", *(name for rule in rules for name in rule.packages.values())}
    return {name: version for name, version in packages.items() if name in named}
