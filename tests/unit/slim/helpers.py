"""Small things that several tests of the slim engine do."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tfslim.slim.draft import plan_file
from tfslim.slim.plan import FilePlan
from tfslim.slim.rules import load_profile
from tfslim.slim.tree import TreeFile

FIXTURES = Path(__file__).parents[2] / "fixtures" / "slim"
LIBRARIES = tuple(sorted(path.name for path in FIXTURES.glob("*.so")))


def planned(
    path: Path, *sms: int, profile: str = "arch", keep_ptx: bool = False
) -> FilePlan | None:
    """Plan one file in its folder."""
    return noted(path, *sms, profile=profile, keep_ptx=keep_ptx)[0]


def noted(
    path: Path, *sms: int, profile: str = "arch", keep_ptx: bool = False
) -> tuple[FilePlan | None, list[str]]:
    """Plan one file and return what was left alone, in words."""
    item = TreeFile((path.name,), path.stat().st_size)
    rules = load_profile(profile)
    plan, notes, _ = plan_file(path.parent, item, rules, sms, keep_ptx=keep_ptx)
    return plan, [note.why for note in notes]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digests(tree: Path) -> dict[str, str]:
    """Every regular file of a tree with its digest."""
    return {
        path.relative_to(tree).as_posix(): digest(path)
        for path in sorted(tree.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }
