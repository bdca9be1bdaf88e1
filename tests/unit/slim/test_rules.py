from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from tfslim.errors import ConfigError
from tfslim.slim.rules import load_profile, profile_names
from tfslim.slim.rules_text import rules_markdown


def test_the_ladder() -> None:
    assert {"safe", "arch"} <= set(profile_names())
    safe, arch = load_profile("safe"), load_profile("arch")
    assert safe.gpu_rule is None
    assert arch.gpu_rule is not None
    assert arch.rules[: len(safe.rules)] == safe.rules


@pytest.mark.parametrize("name", profile_names())
def test_every_rule_says_why_what_breaks_at_what_risk_and_how_it_is_proved(name: str) -> None:
    for rule in load_profile(name).rules:
        assert len(rule.why) > 30
        assert rule.breaks
        assert rule.risk
        assert len(rule.proof) > 30


def test_an_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        load_profile("tiny")
    assert "arch" in caught.value.way_out


@pytest.mark.parametrize(
    ("section", "goes"),
    [
        (".symtab", True),
        (".strtab", True),
        (".debug_info", True),
        (".dynsym", False),
        (".dynstr", False),
        (".shstrtab", False),
        (".comment", False),
        (".gnu_debuglink", False),
        (".text", False),
    ],
)
def test_which_sections_are_for_debuggers_alone(section: str, goes: bool) -> None:
    assert any(rule.matches(section) for rule in load_profile("safe").section_rules) is goes


@pytest.mark.parametrize(
    ("path", "applies"),
    [
        ("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", False),
        ("lib/x86_64-linux-gnu/libc.so.6", False),
        ("usr/lib/debug/.build-id/ab/cdef.debug", False),
        ("site-packages/tensorflow/libtensorflow_cc.so.2", True),
    ],
)
def test_files_whose_symbols_stay(path: str, applies: bool) -> None:
    rule = load_profile("safe").section_rules[0]
    assert rule.applies(PurePosixPath(path)) is applies


@pytest.mark.parametrize(
    "path", ["a/__pycache__/b.cpython-311.pyc", "a/b.py", "a/b.exe", "t64.exe"]
)
def test_bytecode_sources_and_unknown_programs_stay(path: str) -> None:
    for name in profile_names():
        assert not any(r.matches(PurePosixPath(path)) for r in load_profile(name).file_rules)


def test_windows_launchers_go() -> None:
    (rule,) = load_profile("safe").file_rules
    assert rule.matches(PurePosixPath("lib/site-packages/pip/_vendor/distlib/t64.exe"))
    assert rule.matches(PurePosixPath("setuptools/cli-64.exe"))


def test_the_document_of_the_rules_is_up_to_date() -> None:
    committed = Path(__file__).parents[3] / "docs" / "rules.md"
    assert committed.read_text().rstrip() == rules_markdown().rstrip(), (
        "run: tfslim rules > docs/rules.md"
    )


def test_the_document_names_every_rule_and_how_to_keep_it() -> None:
    text = rules_markdown()
    for name in profile_names():
        for rule in load_profile(name).rules:
            assert f"### {rule.id}\n" in text
            assert f"`{rule.keep}` |" in text
            assert rule.why in text
