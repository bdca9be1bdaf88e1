"""The distributions installed in a tree, and which of them nothing but TensorFlow asks for.

TensorFlow requires packages that only building or profiling uses (libclang, grpcio, setuptools).
One of them may go only where nothing else needs it: no other distribution requires it, nobody asked
for it by name, and no source outside of TensorFlow's own requirements imports it. Reads only.
"""

from __future__ import annotations

import csv
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from email.parser import HeaderParser
from functools import cached_property
from pathlib import Path
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from tfslim.slim.plan import Note
from tfslim.slim.rules import PackageRule, Policy
from tfslim.slim.trace import module_name, package_path
from tfslim.slim.tree import TreeFile

__all__ = ["Distribution", "Packages", "fitted", "installed"]

# What these require is known not to need the packages that rules name (see each rule's proof).
_KNOWN: Final = ("tensorflow", "tensorflow-cpu", "keras", "tf-keras", "tensorboard")
# `python -m venv` and Python's images mark these as asked for by name, although nobody did.
_WITH_PYTHON: Final = frozenset({"pip", "setuptools", "wheel"})
# Python 3.12 has no distutils of its own any more, and before that some systems leave it out.
_ALSO_PROVIDES: Final = {"setuptools": frozenset({"distutils"})}
_METADATA: Final = re.compile(r"(?P<info>[^/]+\.dist-info)/METADATA")
# The standard library: it knows of pip and setuptools, and does without.
_STANDARD: Final = re.compile(r"(?:^|/)lib(?:64)?/python3(?:\.\d+)?/")


@dataclass(frozen=True)
class Distribution:
    """An installed distribution.

    Attributes:
        tree: The tree it is in.
        site: The site-packages folder it is in, relative to the tree, with a slash at the end.
        info: Its .dist-info folder, relative to that.
        name: Its normalised name.
        requires: Normalised names of what it requires, extras aside.
    """

    tree: Path
    site: str
    info: str
    name: str
    requires: frozenset[str]

    @property
    def requested(self) -> bool:
        """True where somebody asked for it by name (PEP 376's REQUESTED)."""
        return (self.tree / self.site / self.info / "REQUESTED").exists()

    @cached_property
    def files(self) -> frozenset[str]:
        """Its files within site-packages, relative to the tree; none where no RECORD lists them."""
        record = self.tree / self.site / self.info / "RECORD"
        if not record.is_file():
            return frozenset()
        with record.open(encoding="utf-8", errors="surrogateescape", newline="") as lines:
            names = {posixpath.normpath(row[0]) for row in csv.reader(lines) if row}
        # Some installers leave out what they write themselves.
        names |= {f"{self.info}/{path.name}" for path in record.parent.iterdir()}
        inside = (name for name in names if not name.startswith(("/", "../")))
        return frozenset(f"{self.site}{name}" for name in inside)

    @cached_property
    def modules(self) -> frozenset[str]:
        """Names under which it is imported: grpcio is "grpc"."""
        tops = {name.removeprefix(self.site).partition("/")[0] for name in self.files}
        names = {top.partition(".")[0] for top in tops if not top.endswith((".dist-info", ".pth"))}
        own = frozenset(name for name in names if name.isidentifier())
        return own | _ALSO_PROVIDES.get(self.name, frozenset())

    @cached_property
    def entered(self) -> frozenset[str]:
        """The files that run whenever it is imported, relative to the tree."""
        inits = {f"{self.site}{module}/__init__.py" for module in self.modules}
        return self.files & inits


def installed(tree: Path, files: Iterable[TreeFile]) -> list[Distribution]:
    """Return the distributions of all site-packages folders of a tree."""
    return [
        distribution
        for item in files
        for name in item.names
        if name.endswith("/METADATA") and (distribution := _read(tree, name))
    ]


def _read(tree: Path, name: str) -> Distribution | None:
    inside = package_path(name)
    match = _METADATA.fullmatch(inside) if inside else None
    if inside is None or match is None:
        return None
    text = (tree / name).read_text(encoding="utf-8", errors="replace")
    headers = HeaderParser().parsestr(text)
    return Distribution(
        tree=tree,
        site=name.removesuffix(inside),
        info=match["info"],
        name=canonicalize_name(headers.get("Name") or match["info"].partition("-")[0]),
        requires=frozenset(_required(headers.get_all("Requires-Dist") or ())),
    )


def _required(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            requirement = Requirement(re.split(r"[^A-Za-z0-9._-]", line.strip(), maxsplit=1)[0])
        marker = requirement.marker
        extra = "and-cuda" in str(marker) if marker else False
        if extra or marker is None or "extra" not in str(marker):
            yield canonicalize_name(requirement.name)


def fitted(policy: Policy, found: Sequence[Distribution]) -> tuple[Policy, list[Note]]:
    """Return a policy without the rules that an installed distribution speaks against, and those.

    A rule that the user named with `--also` is followed all the same.
    """
    names = {item.name: item for item in found}
    against = {
        rule.id: names[name]
        for rule in policy.profile.rules
        for name in rule.unless_installed
        if name in names and rule.keep not in policy.also
    }
    rules = tuple(rule for rule in policy.profile.rules if rule.id not in against)
    notes = [
        _stays(
            item, f"{rule}: {item.name} may need what it removes", policy.profile.rule(rule).keep
        )
        for rule, item in against.items()
    ]
    return replace(policy, profile=policy.profile.model_copy(update={"rules": rules})), notes


def _stays(item: Distribution, why: str, keep: str) -> Note:
    text = f"{why}; --also {keep} removes it all the same"
    return Note(path=f"{item.site}{item.info}", bytes=0, why=text)


class Packages:
    """What a policy's rules about whole distributions mean for one tree.

    Args:
        tree: The tree.
        files: All of its files.
        found: Its distributions.
        policy: The rules. One that the user named with `--also` is followed whoever needs what it
            takes; one that is followed only then (`optional`) takes what nobody needs.
    """

    def __init__(
        self,
        tree: Path,
        files: Sequence[TreeFile],
        found: Sequence[Distribution],
        policy: Policy,
    ) -> None:
        self.notes: list[Note] = []
        self._rules: dict[str, PackageRule] = {}
        named: dict[str, PackageRule] = {
            canonicalize_name(name): rule
            for rule in policy.profile.package_rules
            for name in rule.distributions
        }
        others = _Others(tree, files, found, frozenset(named))
        for distribution in found:
            rule = named.get(distribution.name)
            if rule is None:
                continue
            key = distribution.site, distribution.name
            forced = rule.keep in policy.also and not rule.optional
            why = "" if forced else others.needed.get(key, "")
            if why:
                text = f"{distribution.name} stays: {why}"
                self.notes.append(_stays(distribution, text, rule.keep))
            else:
                self._rules.update(dict.fromkeys(distribution.files, rule))

    def rule_for(self, item: TreeFile) -> PackageRule | None:
        """Return the rule that lets a file go under all of its names; None where it stays."""
        rules = [self._rules.get(module_name(name)) for name in item.names]
        return rules[0] if all(rules) else None


class _Others:
    """Everything in a tree that is not TensorFlow's own, asked what it needs.

    Args:
        tree: The tree.
        files: All of its files.
        found: Its distributions.
        in_question: Those that may go: what they need counts only if they stay.
    """

    def __init__(
        self,
        tree: Path,
        files: Sequence[TreeFile],
        found: Sequence[Distribution],
        in_question: frozenset[str],
    ) -> None:
        self._tree = tree
        self._found = found
        self._in_question = in_question
        self._closed = {site: _closure(site, found) for site in {item.site for item in found}}
        self._names = [name for item in files for name in item.names if name.endswith(".py")]

    @cached_property
    def needed(self) -> dict[tuple[str, str], str]:
        """Who needs what, in words, by site and name; without those that nobody needs.

        What somebody needs, needs what it requires, and so on. TensorFlow itself needs what it was
        shown to need, whoever requires it.
        """
        places = {(item.site, item.name): item for item in self._found}
        needed = {key: why for key, item in places.items() if (why := self._directly(item))}
        todo = list(needed)
        while todo:
            item = places[todo.pop()]
            if item.name in _KNOWN:
                continue
            for name in sorted(item.requires):
                key = item.site, name
                if key in places and key not in needed:
                    needed[key] = f"{item.name} requires it"
                    todo.append(key)
        return needed

    def _directly(self, item: Distribution) -> str:
        """Return why a distribution is needed for its own sake; nothing where it is not."""
        if item.name not in self._closed[item.site]:
            return "it is not TensorFlow's"
        asked = item.requested and item.name not in _WITH_PYTHON
        if asked and not self._all_requested(item.site):
            return "somebody asked for it by name (REQUESTED)"
        for module in sorted(item.modules):
            if module in self._imported_outside:
                return f"{self._imported_outside[module]} imports it"
            if item.name in self._in_question and module in self._imported_at_once:
                return f"{self._imported_at_once[module]} imports it"
        return ""

    def _all_requested(self, site: str) -> bool:
        """True where everything was asked for by name, as a lock file does: that says nothing."""
        return all(item.requested for item in self._known if item.site == site)

    @property
    def _known(self) -> list[Distribution]:
        """TensorFlow and what it requires."""
        return [item for item in self._found if item.name in self._closed[item.site]]

    @cached_property
    def _imported_outside(self) -> dict[str, str]:
        """The first source outside of TensorFlow and what it requires to import each module."""
        known = {name for item in self._known for name in item.files}
        return self._importers(
            name
            for name in self._names
            if name not in known and not (_STANDARD.search(name) and package_path(name) is None)
        )

    @cached_property
    def _imported_at_once(self) -> dict[str, str]:
        """The same of what runs whenever TensorFlow, or something that it requires, is imported."""
        stay = (item for item in self._known if item.name not in self._in_question)
        entered = {name for item in stay for name in item.entered}
        return self._importers(name for name in self._names if name in entered)

    def _importers(self, names: Iterable[str]) -> dict[str, str]:
        first: dict[str, str] = {}
        for name in names:
            for module in _IMPORT.findall((self._tree / name).read_bytes()):
                first.setdefault(module.decode("ascii"), name)
        return first


# Imports at the outermost level: what a module cannot do without.
_IMPORT: Final = re.compile(rb"^(?:import|from)[ \t]+([A-Za-z_][A-Za-z0-9_]*)", re.MULTILINE)


def _closure(site: str, found: Sequence[Distribution]) -> frozenset[str]:
    """Return TensorFlow and all that it requires, directly or not."""
    requires = {item.name: item.requires for item in found if item.site == site}
    known: set[str] = set(_WITH_PYTHON)
    todo = [name for name in (*_KNOWN, *_WITH_PYTHON) if name in requires]
    while todo:
        name = todo.pop()
        known.add(name)
        todo += [other for other in requires.get(name, ()) if other not in known]
    return frozenset(known)
