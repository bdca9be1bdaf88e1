"""No rule without a test that the kept thing works and the removed thing explains itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from rule_uses import ELSEWHERE, USES
from tfslim.slim.rules import load_profile, profile_names

ROOT = Path(__file__).parents[3]


def test_every_rule_is_tried_once() -> None:
    rules = {rule.id for name in profile_names() for rule in load_profile(name).rules}
    assert USES.keys() | ELSEWHERE.keys() == rules
    assert not USES.keys() & ELSEWHERE.keys()


@pytest.mark.parametrize("rule", ELSEWHERE)
def test_the_tests_that_are_named_exist(rule: str) -> None:
    file, test = ELSEWHERE[rule]
    assert f"\ndef {test}(" in (ROOT / file).read_text()
