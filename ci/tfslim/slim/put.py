"""Plans for files that are put in place: stand-ins, and lists of files that stay true."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from tfslim.slim.packages import Distribution
from tfslim.slim.plan import Content, FilePlan, Removal
from tfslim.slim.rules import Profile
from tfslim.slim.trace import module_name, package_path
from tfslim.slim.tree import TreeFile
from tfslim.slim.whole import deletion

__all__ = ["plan_records", "plan_stand_ins", "put"]


def put(
    tree: Path, path: str, data: bytes, there: Mapping[str, TreeFile], rule: str
) -> list[FilePlan]:
    """Return the plans to have a content at a path: none where it is there already.

    The bytecode of a module that was there before goes: it may be one that is never checked.

    Args:
        tree: The tree.
        path: Where, relative to the tree.
        data: The content.
        there: The tree's files by name.
        rule: Who says so.
    """
    item = there.get(path)
    if item is None:
        removal = Removal(rule=rule, what="stand-in", count=1, bytes=0)
        new = FilePlan(
            path=path,
            size=0,
            sha256="",
            action="add",
            after=len(data),
            content=Content.of(data),
            removals=(removal,),
        )
        return [new, *_stale(tree, path, there, rule)]
    if item.size == len(data) and item.at(tree).read_bytes() == data:
        return []
    changed = deletion(tree, item, rule).model_copy(
        update={"action": "replace", "after": len(data), "content": Content.of(data)}
    )
    return [changed, *_stale(tree, path, there, rule)]


def _stale(tree: Path, source: str, there: Mapping[str, TreeFile], rule: str) -> Iterator[FilePlan]:
    for name, item in there.items():
        if name.endswith(".pyc") and module_name(name) == source:
            yield deletion(tree, item, rule)


def plan_stand_ins(
    tree: Path, files: Sequence[TreeFile], rules: Profile, deleted: Sequence[FilePlan]
) -> list[FilePlan]:
    """Return the deletions as they are with stand-ins put in place of what they take.

    A stand-in that is there already stays; the bytecode of what it replaces goes.
    """
    there = {name: item for item in files for name in item.names}
    planned = {plan.path: plan for plan in deleted}
    for rule in rules.file_rules:
        sites = {_site(plan.path) for plan in deleted if plan.removals[0].rule == rule.id}
        for site in sorted(site for site in sites if site is not None):
            for inside, text in rule.stand_ins.items():
                target = f"{site}{inside}"
                if target not in there and not (tree / target).parent.is_dir():
                    continue  # another version, which has no such place
                words = text.replace("{FILE}", PurePosixPath(inside).name)
                content = words.replace("{RULE}", rule.explained).encode()
                planned.pop(there[target].names[0] if target in there else target, None)
                plans = put(tree, target, content, there, rule.id)
                planned.update({plan.path: plan for plan in plans})
    return list(planned.values())


def _site(path: str) -> str | None:
    """Return the site-packages folder that a file is in, with a slash at the end."""
    inside = package_path(path)
    return None if inside is None else path.removesuffix(inside)


def plan_records(
    tree: Path,
    files: Sequence[TreeFile],
    found: Iterable[Distribution],
    rules: Profile,
    planned: Iterable[FilePlan],
) -> list[FilePlan]:
    """Return the plans for the distributions' RECORD files, to list nothing that is gone."""
    rule = rules.record_rule
    gone = {
        name for plan in planned if plan.action == "delete" for name in (plan.path, *plan.links)
    }
    if rule is None or not gone:
        return []
    there = {name: item for item in files for name in item.names}
    plans: list[FilePlan] = []
    for package in found:
        record = f"{package.site}{package.info}/RECORD"
        if record in there and record not in gone:
            lines = (tree / record).read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if _listed(package.site, line) not in gone]
            if len(kept) < len(lines):
                plans += put(tree, record, b"".join(kept), there, rule.id)
    return plans


def _listed(site: str, line: bytes) -> str:
    """Return the path in a line of a RECORD, relative to the tree; a quoted one stays listed."""
    return f"{site}{PurePosixPath(line.decode('utf-8', 'surrogateescape').partition(',')[0])}"
