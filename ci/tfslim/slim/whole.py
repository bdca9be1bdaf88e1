"""Which files of a tree go whole, and by which rule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tfslim.slim.packages import Packages
from tfslim.slim.plan import FilePlan, Removal
from tfslim.slim.rules import FileRule, PackageRule, Profile, UnreachedRule
from tfslim.slim.tree import TreeFile, sha256
from tfslim.slim.unreached import Unreached

__all__ = ["deletion", "plan_whole"]


def plan_whole(
    tree: Path,
    files: Sequence[TreeFile],
    rules: Profile,
    packages: Packages,
    unreached: Unreached,
) -> list[FilePlan]:
    """Return the plans to delete files, where a rule says so for all of a file's names."""
    chosen = ((item, _rule_for(item, rules, packages, unreached)) for item in files)
    return [deletion(tree, item, rule.id) for item, rule in chosen if rule is not None]


def _rule_for(
    item: TreeFile, rules: Profile, packages: Packages, unreached: Unreached
) -> FileRule | PackageRule | UnreachedRule | None:
    paths = [PurePosixPath(name) for name in item.names]
    named = (rule for rule in rules.file_rules if all(map(rule.matches, paths)))
    return next(named, None) or packages.rule_for(item) or unreached.rule_for(item)


def deletion(tree: Path, item: TreeFile, rule: str) -> FilePlan:
    """Return the plan to delete a file under all of its names."""
    return FilePlan(
        path=item.names[0],
        links=item.names[1:],
        size=item.size,
        sha256=sha256(item.at(tree)),
        action="delete",
        after=0,
        removals=(Removal(rule=rule, what="file", count=1, bytes=item.size),),
    )
