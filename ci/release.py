"""What has to hold before a tag becomes a release; `.github/workflows/release.yml` runs it.

    python ci/release.py v1.2.3 --notes notes.md

The tag, pyproject.toml, the package and the reusable workflow name the same version, and
CHANGELOG.md has a dated section for it, which becomes the release's notes.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

__all__ = ["check", "newest", "notes"]

ROOT: Final = Path(__file__).resolve().parent.parent

_TAG = re.compile(r"v(\d+)\.(\d+)\.(\d+)")
_OWN = re.compile(r"uses: org/tfslim-action(?:/[\w./-]+)?@(\S+)")


def check(tag: str, root: Path = ROOT) -> list[str]:
    """Return why a tag cannot be released; nothing if it can."""
    if not _TAG.fullmatch(tag):
        return [f"{tag} is not vMAJOR.MINOR.PATCH"]
    version = tag.removeprefix("v")
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    package = (root / "ci/tfslim/__init__.py").read_text(encoding="utf-8")
    workflow = (root / ".github/workflows/images.yml").read_text(encoding="utf-8")
    wrong = []
    if project["version"] != version:
        wrong.append(f"pyproject.toml has version {project['version']}")
    if f'__version__ = "{version}"' not in package:
        wrong.append("ci/tfslim/__init__.py has another version")
    wrong += [
        f"images.yml uses the action at {used}, and has to at {tag}"
        for used in sorted(set(_OWN.findall(workflow)) - {tag})
    ]
    if not notes(version, root):
        wrong.append(f"CHANGELOG.md has no section `## [{version}] - YYYY-MM-DD` with text")
    return wrong


def notes(version: str, root: Path = ROOT) -> str:
    """Return what the changelog says of a version; empty if nothing or without a date."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    head = rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$"
    parts = re.split(head, text, maxsplit=1, flags=re.MULTILINE)
    if len(parts) == 1:
        return ""
    return re.split(r"^(?:## |\[[^\]]+\]: )", parts[1], maxsplit=1, flags=re.MULTILINE)[0].strip()


def newest(tag: str, tags: Sequence[str]) -> bool:
    """Return whether no other tag of the same major version is newer: whether vMAJOR moves."""
    own = _version(tag)
    others = [_version(other) for other in tags if _TAG.fullmatch(other)]
    return all(other <= own for other in others if other[0] == own[0])


def _version(tag: str) -> tuple[int, ...]:
    match = _TAG.fullmatch(tag)
    if match is None:
        raise ValueError(f"{tag} is not vMAJOR.MINOR.PATCH")
    return tuple(map(int, match.groups()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a tag; print `move=true` or `move=false` for GITHUB_OUTPUT."""
    parser = argparse.ArgumentParser(description="Check that a tag can be released.")
    parser.add_argument("tag")
    parser.add_argument("--notes", type=Path, help="Write the release's notes here.")
    parser.add_argument("--tags", type=Path, help="File with all tags, one a line.")
    given = parser.parse_args(arguments)
    if wrong := check(given.tag):
        sys.stderr.writelines(f"::error title={given.tag}::{line}\n" for line in wrong)
        return 1
    if given.notes:
        given.notes.write_text(notes(given.tag.removeprefix("v")) + "\n", encoding="utf-8")
    tags = given.tags.read_text(encoding="utf-8").split() if given.tags else []
    major = given.tag.split(".")[0]
    # 0.x promises nothing between two versions, so there is no v0 to follow.
    moves = major != "v0" and newest(given.tag, tags)
    sys.stdout.write(f"major={major}\nmove={str(moves).lower()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
