"""Policy as data: what each profile may remove, why, at what risk, and how it is proved.

The rules stand in `rules/<profile>.yaml`; a profile extends another, so that profiles are a ladder.
A `Policy` is a profile as it is used: with what the user keeps taken out, and the GPUs to serve.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from fnmatch import fnmatch, fnmatchcase, translate
from functools import cache
from importlib import resources
from pathlib import PurePosixPath
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from tfslim.errors import ConfigError, SlimError
from tfslim.slim.aot.settings import Settings
from tfslim.slim.archs import Targets
from tfslim.slim.proofs import load_proofs
from tfslim.slim.trace import Trace, module_name, package_path

__all__ = [
    "AotRule",
    "DuplicateRule",
    "ExportRule",
    "FileRule",
    "GpuRule",
    "GuardRule",
    "LibraryRule",
    "LtoRule",
    "Margin",
    "PackageRule",
    "Policy",
    "Profile",
    "ProgramRule",
    "RecordRule",
    "RelrRule",
    "Rule",
    "SectionRule",
    "UnreachedRule",
    "ZstdRule",
    "load_profile",
    "make_policy",
    "profile_names",
]

# How far from what was reached an unreached file must lie to go: outside of every folder of which
# something was reached; anywhere; or none goes.
Margin = Literal["package", "file", "none"]
_FOLDER = "rules"


class _Rule(BaseModel):
    """What every rule says for itself.

    Attributes:
        id: Its name in plans and explanations.
        keep: What `--keep` calls it; several rules may share the word.
        optional: Followed only when `--also` names it.
        unless_ops: Patterns of TensorFlow op types ("*FFT*") that need what it removes. Such a rule
            is followed only with a trace, and only if the trace reached none of them.
        unless_installed: Distributions that need what it removes, by normalised name: it is not
            followed where one of them is in the tree, unless `--also` names it.
        why: Why what it removes is not needed.
        breaks: What no longer works, for whom; nothing for rules that break nothing.
        bytes: What keeping it costs, measured on TensorFlow 2.21.0 slimmed for sm_90; 0 where that
            depends on the tree or the models.
        risk: What someone could still notice.
        proof: How it is shown, for each file, that nothing else changed.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=lambda name: name.replace("_", "-")
    )

    id: str
    keep: str
    optional: bool = False
    unless_ops: tuple[str, ...] = ()
    unless_installed: tuple[str, ...] = ()
    why: str
    breaks: str = ""
    bytes: int = 0
    risk: str
    proof: str

    @property
    def explained(self) -> str:
        """What stand-ins say of what it removed."""
        return f"removed by tfslim (rule {self.id}); slim with --keep {self.keep} to have it"

    @property
    def gpu(self) -> str:
        """Where it was proved on a GPU, or that it was not; from `proofs.yaml`."""
        return load_proofs().text(self.id)

    @property
    def demoted(self) -> bool:
        """True when it failed on a GPU and has not passed there since: then it is as optional."""
        return load_proofs().demoted(self.id)

    def wanted(self, keep: Collection[str], also: Collection[str], trace: Trace | None) -> bool:
        """True when the rule is followed, given what the user said and what the models reach."""
        if self.keep in keep or ((self.optional or self.demoted) and self.keep not in also):
            return False
        return not self.unless_ops or (trace is not None and not self.needed_by(trace.ops))

    def needed_by(self, ops: Collection[str]) -> tuple[str, ...]:
        """Return those op types that need what the rule removes, sorted."""
        patterns = self.unless_ops
        return tuple(sorted(op for op in ops if any(fnmatchcase(op, one) for one in patterns)))


def _matches(path: PurePosixPath, patterns: tuple[str, ...]) -> bool:
    """True when a path fits a pattern; a leading `**/` also stands for the top of the tree."""
    return _compiled(patterns).fullmatch(f"/{path}") is not None


@cache
def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """Return one expression for all patterns; every star also stands for slashes."""
    return re.compile("|".join(translate(pattern.replace("**", "*")) for pattern in patterns))


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
    """Removes whole files, and with a module its bytecode.

    Attributes:
        files: Patterns relative to the tree.
        in_packages: Patterns relative to any site-packages (or dist-packages) of the tree.
        except_files: Patterns of files that stay, relative to site-packages.
        stand_ins: What is put in place, by path relative to site-packages: {RULE} becomes words
            that name the rule and say how to keep what it removes, {FILE} the file's name.
    """

    removes: Literal["files"]
    files: tuple[str, ...] = ()
    in_packages: tuple[str, ...] = ()
    except_files: tuple[str, ...] = Field(default=(), alias="except")
    stand_ins: dict[str, str] = {}

    def matches(self, path: PurePosixPath) -> bool:
        """True when the file may go."""
        module = module_name(str(path))
        if self.files and _matches(PurePosixPath(module), self.files):
            return True
        inside = package_path(module)
        if inside is None or not self.in_packages:
            return False
        if self.except_files and _matches(PurePosixPath(inside), _from_top(self.except_files)):
            return False
        return _matches(PurePosixPath(inside), _from_top(self.in_packages))


@cache
def _from_top(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Return the patterns as ones that begin at the top."""
    return tuple(f"/{pattern}" for pattern in patterns)


class Answers(BaseModel):
    """What functions of a removed library give their caller.

    Attributes:
        functions: Patterns of their names.
        gives: A number, where 0 means success; "text", the explanation as a C string; or "handle",
            success and an address where the first argument points to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    functions: tuple[str, ...]
    gives: int | Literal["text", "handle"]


class LibraryRule(_Rule):
    """Replaces libraries by small ones that explain themselves and return an error when called.

    A library stays as it is while anything that stays in the tree needs it.

    Attributes:
        files: Patterns of the libraries.
        opened_by: Patterns of files that open it by name; the loader does not know of those.
        status: What its functions return: its own number for "not supported".
        answers: Functions that return something else; the first that fits counts.
    """

    removes: Literal["library"]
    files: tuple[str, ...]
    opened_by: tuple[str, ...] = ()
    status: int
    answers: tuple[Answers, ...] = ()

    def matches(self, path: PurePosixPath) -> bool:
        """True when the library may be replaced."""
        return _matches(path, self.files)

    def opens(self, path: PurePosixPath) -> bool:
        """True when the file may open the library by name."""
        return bool(self.opened_by) and _matches(path, self.opened_by)

    def answer(self, function: str) -> int | Literal["text", "handle"]:
        """Return what a function gives its caller."""
        fitting = (
            one.gives
            for one in self.answers
            if any(fnmatchcase(function, pattern) for pattern in one.functions)
        )
        return next(fitting, self.status)


class ProgramRule(_Rule):
    """Replaces programs by small ones that explain themselves and fail.

    Attributes:
        files: Patterns of the programs.
    """

    removes: Literal["program"]
    files: tuple[str, ...]

    def matches(self, path: PurePosixPath) -> bool:
        """True when the program may be replaced."""
        return _matches(path, self.files)


class PackageRule(_Rule):
    """Removes installed distributions with their metadata, where nothing else asks for them.

    Attributes:
        distributions: Their names; see `packages` for when one stays.
    """

    removes: Literal["packages"]
    distributions: tuple[str, ...]


class RecordRule(_Rule):
    """Removes the lines of what is gone from the RECORD files of packages that stay."""

    removes: Literal["records"]


class GuardRule(_Rule):
    """Removes nothing: puts in place what explains the other rules; see `guard`."""

    removes: Literal["nothing"]


class DuplicateRule(_Rule):
    """Makes files of the same content one file with several names, by path pattern."""

    removes: Literal["duplicates"]
    files: tuple[str, ...]

    def matches(self, path: PurePosixPath) -> bool:
        """True when the file may share its content with another one."""
        return _matches(path, self.files)


class UnreachedRule(_Rule):
    """Removes files of packages that the traced models never opened.

    Attributes:
        packages: Folders of site-packages it speaks of, each with the distribution it comes from.
        always: Patterns of files in them, relative to site-packages, that stay in any case.
    """

    removes: Literal["unreached"]
    packages: dict[str, str]
    always: tuple[str, ...] = ()

    def covers(self, path: PurePosixPath) -> bool:
        """True when the rule speaks of a file, given relative to site-packages."""
        inside = any(path.is_relative_to(folder) for folder in self.packages)
        return inside and not _matches(path, self.always)


class ExportRule(_Rule):
    """Removes names from libraries' tables of exported symbols that nobody else asks for.

    Attributes:
        files: Patterns of the libraries.
        prefix: How the names begin that may go; all others stay.
    """

    removes: Literal["exports"]
    files: tuple[str, ...]
    prefix: str

    def matches(self, path: PurePosixPath) -> bool:
        """True when the library's names may go."""
        return _matches(path, self.files)


class LtoRule(_Rule):
    """Removes LTO-IR, which is linked while a program runs, from some libraries.

    Attributes:
        files: Patterns of the libraries.
    """

    removes: Literal["lto-ir"]
    files: tuple[str, ...]

    def matches(self, path: PurePosixPath) -> bool:
        """True when the library's LTO-IR may go."""
        return _matches(path, self.files)


class RelrRule(_Rule):
    """Removes the records of relative relocations: they are packed.

    Attributes:
        least: Bytes that must be saved in a library; others stay as they are.
        except_files: Patterns of libraries that stay as they are.
    """

    removes: Literal["relative-relocations"]
    least: int
    except_files: tuple[str, ...] = Field(default=(), alias="except")

    def applies(self, path: PurePosixPath) -> bool:
        """True when the rule may touch a file of this name."""
        return not any(fnmatch(path.name, pattern) for pattern in self.except_files)


class ZstdRule(_Rule):
    """Stores GPU code with zstd in place of LZ4.

    Attributes:
        cuda: CUDA version of the oldest driver that reads it, as NVML gives it (12080 for 12.8).
        driver: That driver's version.
    """

    removes: Literal["lz4"]
    cuda: int
    driver: str


class AotRule(_Rule):
    """Removes PTX for which machine code was compiled ahead of time."""

    removes: Literal["compiled-ptx"]


class GpuRule(_Rule):
    """Removes GPU code that no target needs."""

    removes: Literal["gpu-code"]


Rule = Annotated[
    SectionRule
    | FileRule
    | LibraryRule
    | ProgramRule
    | PackageRule
    | RecordRule
    | DuplicateRule
    | UnreachedRule
    | ExportRule
    | LtoRule
    | RelrRule
    | ZstdRule
    | AotRule
    | GpuRule
    | GuardRule,
    Field(discriminator="removes"),
]


class Profile(BaseModel):
    """A rung of the ladder: its own rules after those of the profile it extends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: str
    extends: str | None
    summary: str
    rules: tuple[Rule, ...]

    @property
    def keep_names(self) -> tuple[str, ...]:
        """What `--keep` and `--also` can name."""
        return tuple(sorted({rule.keep for rule in self.rules}))

    @property
    def section_rules(self) -> tuple[SectionRule, ...]:
        """The rules that remove sections."""
        return tuple(rule for rule in self.rules if isinstance(rule, SectionRule))

    @property
    def file_rules(self) -> tuple[FileRule, ...]:
        """The rules that remove whole files."""
        return tuple(rule for rule in self.rules if isinstance(rule, FileRule))

    @property
    def stub_rules(self) -> tuple[LibraryRule | ProgramRule, ...]:
        """The rules that replace libraries and programs by ones that explain themselves."""
        return tuple(rule for rule in self.rules if isinstance(rule, LibraryRule | ProgramRule))

    @property
    def package_rules(self) -> tuple[PackageRule, ...]:
        """The rules that remove installed distributions."""
        return tuple(rule for rule in self.rules if isinstance(rule, PackageRule))

    @property
    def record_rule(self) -> RecordRule | None:
        """The rule that keeps lists of installed files true, where the profile has one."""
        return next((rule for rule in self.rules if isinstance(rule, RecordRule)), None)

    @property
    def guard_rule(self) -> GuardRule | None:
        """The rule that puts the guard in place, where the profile has one."""
        return next((rule for rule in self.rules if isinstance(rule, GuardRule)), None)

    @property
    def duplicate_rules(self) -> tuple[DuplicateRule, ...]:
        """The rules that let files share their content."""
        return tuple(rule for rule in self.rules if isinstance(rule, DuplicateRule))

    @property
    def unreached_rules(self) -> tuple[UnreachedRule, ...]:
        """The rules that remove what was never reached."""
        return tuple(rule for rule in self.rules if isinstance(rule, UnreachedRule))

    def export_rule(self, path: PurePosixPath) -> ExportRule | None:
        """Return the rule by which names of a library may go, where there is one."""
        exports = (rule for rule in self.rules if isinstance(rule, ExportRule))
        return next((rule for rule in exports if rule.matches(path)), None)

    def lto_rule(self, path: PurePosixPath) -> LtoRule | None:
        """Return the rule by which a library's LTO-IR may go, where there is one."""
        rules = (rule for rule in self.rules if isinstance(rule, LtoRule))
        return next((rule for rule in rules if rule.matches(path)), None)

    @property
    def relr_rule(self) -> RelrRule | None:
        """The rule that packs relative relocations, where the profile has one."""
        return next((rule for rule in self.rules if isinstance(rule, RelrRule)), None)

    @property
    def zstd_rule(self) -> ZstdRule | None:
        """The rule that stores GPU code with zstd, where the profile has one."""
        return next((rule for rule in self.rules if isinstance(rule, ZstdRule)), None)

    @property
    def aot_rule(self) -> AotRule | None:
        """The rule that puts compiled code in place of PTX, where the profile has one."""
        return next((rule for rule in self.rules if isinstance(rule, AotRule)), None)

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


@dataclass(frozen=True)
class Policy:
    """What may go from a tree: a profile's rules as they are followed, and what must stay served.

    Attributes:
        profile: The profile, with the rules that are followed and no others.
        targets: GPUs to serve; None where GPU code is not touched.
        keep_ptx: Whether one PTX is kept for GPUs not named.
        keep: What the user keeps, and
        also: what the user lets go beyond the profile's defaults, by the rules' `keep` words.
        trace: What the models that must work were seen to reach; None where none was traced.
        margin: How far from that an unreached file must lie to go.
        aot: How PTX is compiled ahead of time, where the profile's rule for it is followed.
    """

    profile: Profile
    targets: Targets | None
    keep_ptx: bool
    keep: tuple[str, ...]
    also: tuple[str, ...]
    trace: Trace | None
    margin: Margin = "package"
    aot: Settings = field(default_factory=Settings)

    @property
    def sms(self) -> tuple[int, ...]:
        """Compute capabilities to serve; empty where GPU code is not touched."""
        return self.targets.sms if self.targets and self.profile.gpu_rule else ()


def make_policy(
    profile: str,
    targets: Targets | None = None,
    *,
    keep_ptx: bool | None = None,
    keep: Collection[str] = (),
    also: Collection[str] = (),
    trace: Trace | None = None,
    margin: Margin = "package",
    aot: Settings | None = None,
) -> Policy:
    """Return a profile as it is to be followed.

    Args:
        profile: Name of a profile in `rules/`.
        targets: GPUs to serve; required by profiles that remove GPU code.
        keep_ptx: Keep one PTX for GPUs not named; None follows the targets' own default.
        keep: `keep` words of rules that are not followed.
        also: `keep` words of optional rules that are followed.
        trace: What the models reach; rules that depend on it are followed only with one.
        margin: How far from what was reached an unreached file must lie to go.
        aot: How PTX is compiled ahead of time; None: as `Settings` has it by default.

    Raises:
        ConfigError: There is no such profile, or no rule with such a word.
        SlimError: The profile needs targets or a trace, and none are given.
    """
    whole = load_profile(profile)
    unknown = sorted({*keep, *also} - set(whole.keep_names))
    if unknown:
        raise ConfigError(
            f"profile {profile!r} has no rule called {', '.join(map(repr, unknown))}",
            way_out=f"Its rules: {', '.join(whole.keep_names)}.",
        )
    if whole.gpu_rule is not None and targets is None:
        raise SlimError(
            f"profile {profile!r} removes GPU code, and no GPU was named",
            way_out="Add --cuda-arch, for instance --cuda-arch 90, or use --profile safe.",
        )
    if whole.unreached_rules and trace is None:
        raise SlimError(
            f"profile {profile!r} removes what models never reach, and none was traced",
            way_out="Add --model PATH (or --trace FILE, made with `tfslim trace`).",
        )
    followed = tuple(
        rule
        for rule in whole.rules
        if rule.wanted(keep, also, trace)
        and not (isinstance(rule, UnreachedRule) and margin == "none")
    )
    return Policy(
        profile=whole.model_copy(update={"rules": followed}),
        targets=targets,
        keep_ptx=keep_ptx if keep_ptx is not None else bool(targets and targets.keep_ptx),
        keep=tuple(sorted(keep)),
        also=tuple(sorted(also)),
        trace=trace,
        margin=margin,
        aot=aot or Settings(),
    )
