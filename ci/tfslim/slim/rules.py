"""Policy as data: what each profile may remove, why, at what risk, and how it is proved.

The rules stand in `rules/<profile>.yaml`; a profile extends another, so that profiles are a ladder.
"""

from __future__ import annotations

from fnmatch import fnmatch
from functools import cache
from importlib import resources
from pathlib import PurePosixPath
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from tfslim.errors import ConfigError

__all__ = [
    "DuplicateRule",
    "FileRule",
    "GpuRule",
    "Profile",
    "SectionRule",
    "load_profile",
    "profile_names",
]

_FOLDER = "rules"


class _Rule(BaseModel):
    """What every rule says for itself.

    Attributes:
        id: Its name in plans and explanations.
        why: Why what it removes is not needed.
        risk: What someone could still notice.
        proof: How it is shown, for each file, that nothing else changed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    why: str
    risk: str
    proof: str


def _matches(path: PurePosixPath, patterns: tuple[str, ...]) -> bool:
    """True when a path fits a pattern; a leading `**/` also stands for the top of the tree."""
    return any(fnmatch(f"/{path}", pattern.replace("**", "*")) for pattern in patterns)


class SectionRule(_Rule):
    """Removes sections that are not loaded, by name pattern, except in files named."""

    removes: Literal["sections"]
    sections: tuple[str, ...]
    except_files: tuple[str, ...] = Field(default=(), alias="except")

    def applies(self, path: PurePosixPath) -> bool:
        """True when the rule may touch a file of this name."""
        return not any(fnmatch(path.name, pattern) for pattern in self.except_files)

    def matches(self, section: str) -> bool:
        """True when a section of this name may go."""
        return any(fnmatch(section, pattern) for pattern in self.sections)


class FileRule(_Rule):
    """Removes whole files, by path pattern relative to the tree."""

    removes: Literal["files"]
    files: tuple[str, ...]

    def matches(self, path: PurePosixPath) -> bool:
        """True when the file may go."""
        return _matches(path, self.files)


class DuplicateRule(_Rule):
    """Makes files of the same content one file with several names, by path pattern."""

    removes: Literal["duplicates"]
    files: tuple[str, ...]

    def matches(self, path: PurePosixPath) -> bool:
        """True when the file may share its content with another one."""
        return _matches(path, self.files)


class GpuRule(_Rule):
    """Removes GPU code that no target needs."""

    removes: Literal["gpu-code"]


Rule = Annotated[SectionRule | FileRule | DuplicateRule | GpuRule, Field(discriminator="removes")]


class Profile(BaseModel):
    """A rung of the ladder: its own rules after those of the profile it extends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: str
    extends: str | None
    summary: str
    rules: tuple[Rule, ...]

    @property
    def section_rules(self) -> tuple[SectionRule, ...]:
        """The rules that remove sections."""
        return tuple(rule for rule in self.rules if isinstance(rule, SectionRule))

    @property
    def file_rules(self) -> tuple[FileRule, ...]:
        """The rules that remove whole files."""
        return tuple(rule for rule in self.rules if isinstance(rule, FileRule))

    @property
    def duplicate_rules(self) -> tuple[DuplicateRule, ...]:
        """The rules that let files share their content."""
        return tuple(rule for rule in self.rules if isinstance(rule, DuplicateRule))

    @property
    def gpu_rule(self) -> GpuRule | None:
        """The rule that removes GPU code, where the profile has one."""
        return next((rule for rule in self.rules if isinstance(rule, GpuRule)), None)

    def rule(self, rule_id: str) -> Rule:
        """Return a rule by its name."""
        return next(rule for rule in self.rules if rule.id == rule_id)


def profile_names() -> tuple[str, ...]:
    """Return the profiles that exist, by name."""
    folder = resources.files(__package__) / _FOLDER
    return tuple(sorted(item.name[:-5] for item in folder.iterdir() if item.name.endswith(".yaml")))


@cache
def load_profile(name: str) -> Profile:
    """Read a profile with the rules of those it extends before its own.

    Raises:
        ConfigError: There is no such profile.
    """
    if name not in profile_names():
        raise ConfigError(
            f"there is no slim profile {name!r}",
            way_out=f"Use one of: {', '.join(profile_names())}.",
        )
    text = (resources.files(__package__) / _FOLDER / f"{name}.yaml").read_text("utf-8")
    own = Profile.model_validate(yaml.safe_load(text))
    inherited = load_profile(own.extends).rules if own.extends else ()
    return own.model_copy(update={"rules": inherited + own.rules})
