"""A tag becomes a release only if everything in the repository says the same version."""

from __future__ import annotations

from pathlib import Path

import pytest

import release

CHANGELOG = """\
# Changelog

## [Unreleased]

## [1.2.3] - 2026-11-23

### Added

- A thing.

## [1.2.2] - 2026-11-01

- Another.

[1.2.3]: https://example.org
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "ci/tfslim").mkdir(parents=True)
    (tmp_path / ".github/workflows").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "tfslim"\nversion = "1.2.3"\n')
    (tmp_path / "ci/tfslim/__init__.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / ".github/workflows/images.yml").write_text("uses: org/tfslim-action@v1.2.3\n")
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    return tmp_path


def test_a_tag_that_fits_is_released(root: Path) -> None:
    assert release.check("v1.2.3", root) == []
    assert release.notes("1.2.3", root) == "### Added\n\n- A thing."


@pytest.mark.parametrize("tag", ["1.2.3", "v1.2", "v1", "v1.2.3-rc1", "main"])
def test_only_a_whole_version_is_released(root: Path, tag: str) -> None:
    assert release.check(tag, root) == [f"{tag} is not vMAJOR.MINOR.PATCH"]


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("pyproject.toml", "1.2.3", "1.2.2", "pyproject.toml has version 1.2.2"),
        ("ci/tfslim/__init__.py", "1.2.3", "1.2.4", "has another version"),
        (".github/workflows/images.yml", "v1.2.3", "v1", "at v1, and has to at v1.2.3"),
        ("CHANGELOG.md", "[1.2.3] - 2026-11-23", "[1.2.3]", "CHANGELOG.md has no section"),
        ("CHANGELOG.md", "### Added\n\n- A thing.\n", "", "with text"),
    ],
)
def test_what_does_not_fit_is_named(root: Path, name: str, old: str, new: str, said: str) -> None:
    path = root / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    (wrong,) = release.check("v1.2.3", root)
    assert said in wrong


def test_the_major_tag_moves_only_forward() -> None:
    tags = ["v1", "v1.0.0", "v1.9.0", "v1.10.0", "v2.0.0", "nightly"]
    assert release.newest("v1.10.0", tags)
    assert release.newest("v1.10.1", tags)
    assert not release.newest("v1.9.1", tags)  # 10 is more than 9
    assert release.newest("v2.0.0", tags)


def test_the_command(root: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(release.check, "__defaults__", (root,))
    monkeypatch.setattr(release.notes, "__defaults__", (root,))
    (root / "tags").write_text("v1.2.2\nv1.2.3\n")
    given = ["v1.2.3", "--notes", str(root / "notes.md"), "--tags", str(root / "tags")]
    assert release.main(given) == 0
    assert capsys.readouterr().out == "major=v1\nmove=true\n"
    assert (root / "notes.md").read_text() == "### Added\n\n- A thing.\n"
    (root / "tags").write_text("v1.2.3\nv1.3.0\n")
    assert release.main(given) == 0
    assert capsys.readouterr().out == "major=v1\nmove=false\n"
    assert release.main(["v1.2.4"]) == 1
    assert "::error title=v1.2.4::pyproject.toml has version 1.2.3" in capsys.readouterr().err


def test_the_reusable_workflow_names_the_version_of_this_tree() -> None:
    version = release.tomllib.loads((release.ROOT / "pyproject.toml").read_text())["project"][
        "version"
    ]
    wrong = [line for line in release.check(f"v{version}") if "CHANGELOG" not in line]
    assert wrong == []
