"""The rules as a document for people: docs/rules.md."""

from __future__ import annotations

from collections.abc import Iterator

from tfslim.slim.rules import Profile, Rule, load_profile, profile_names
from tfslim.ui import human_bytes

__all__ = ["rules_markdown"]

_INTRO = """\
# Rules

Everything that `tfslim slim` may take out, by profile; each profile also follows the rules of those
above it. Made from the rule files in `ci/tfslim/slim/rules/`: `tfslim rules > docs/rules.md`.

Bytes are what keeping it costs on TensorFlow 2.21.0 with its CUDA packages, slimmed for sm_90; "–"
where it is nothing, or depends on the tree or the models.
`--keep WORD` keeps it; an optional rule is followed with `--also WORD`.

"GPU" says where a rule was proved on one, from `ci/tfslim/slim/proofs.yaml`, which
`benchmarks/gpu/prove.py` writes ([gpu-proof.md](gpu-proof.md)). A rule that failed on a GPU is
followed with `--also WORD` alone until it has passed there.
"""
# Fields that say what a rule speaks of.
_PATTERNS = ("files", "in_packages", "distributions", "sections", "packages")


def rules_markdown() -> str:
    """Return all rules of all profiles as Markdown."""
    profiles = sorted(map(load_profile, profile_names()), key=lambda profile: len(profile.rules))
    return "\n".join([_INTRO, *(line for profile in profiles for line in _profile(profile))])


def _profile(profile: Profile) -> Iterator[str]:
    inherited = load_profile(profile.extends).rules if profile.extends else ()
    own = profile.rules[len(inherited) :]
    yield f"## Profile `{profile.profile}`\n\n{profile.summary}\n"
    yield "| rule | bytes | breaks | keep |"
    yield "|---|---|---|---|"
    for rule in own:
        size = human_bytes(rule.bytes) if rule.bytes else "–"
        yield f"| [{rule.id}](#{rule.id}) | {size} | {rule.breaks or '–'} | `{rule.keep}` |"
    yield ""
    for rule in own:
        yield from _rule(rule)


def _rule(rule: Rule) -> Iterator[str]:
    yield f"### {rule.id}\n"
    yield f"{rule.why}\n"
    yield f"- Takes out: {_what(rule)}"
    if rule.optional:
        yield f"- Optional: followed with `--also {rule.keep}`"
    if rule.demoted:
        yield f"- Demoted: it failed on a GPU; followed with `--also {rule.keep}` alone"
    if rule.unless_ops:
        yield f"- Only with a trace that reached none of these ops: {_listed(rule.unless_ops)}"
    if rule.unless_installed:
        yield f"- Not where one of these is installed: {_listed(rule.unless_installed)}"
    yield f"- Risk: {rule.risk}"
    yield f"- Proof: {rule.proof}"
    yield f"- GPU: {rule.gpu}\n"


def _what(rule: Rule) -> str:
    named = [_listed(getattr(rule, name)) for name in _PATTERNS if getattr(rule, name, ())]
    return f"{rule.removes}: {', '.join(named)}" if named else str(rule.removes)


def _listed(names: tuple[str, ...] | dict[str, str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
