"""Each rule on a real TensorFlow: what its word keeps works, what it takes out explains itself.

    TFSLIM_STOCK_TREE=/path/to/venv pytest -m slow tests/slow/slim/test_each_rule.py

Two trees, each of which keeps every second word: what is kept works with its neighbours gone.
Minutes, no GPU.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from real import copied, start

from rule_uses import USES, Use
from tfslim.slim.apply import apply_plan
from tfslim.slim.archs import parse_targets
from tfslim.slim.planning import make_plan
from tfslim.slim.rules import load_profile, make_policy

pytestmark = pytest.mark.slow

INFERENCE = load_profile("inference")
WORDS = tuple(dict.fromkeys(INFERENCE.rule(rule).keep for rule in USES))
HALVES = (frozenset(WORDS[::2]), frozenset(WORDS[1::2]))
# Nothing that is used here depends on these, which take most of the time.
WHOLE = ("symbols", "other-architectures", "identical-headers", "exports")


@pytest.fixture(scope="module")
def halves(stock: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """The stock tree with the first half of the words kept, and with the second."""
    with (
        copied(stock, tmp_path_factory.mktemp("first")) as first,
        copied(stock, tmp_path_factory.mktemp("second")) as second,
    ):
        for tree, words in zip((first, second), HALVES, strict=True):
            policy = make_policy("inference", parse_targets("90"), keep=(*WHOLE, *sorted(words)))
            outcome = apply_plan(make_plan(tree, policy), tree)
            assert not outcome.restored
        yield first, second


@pytest.mark.parametrize("rule", USES)
def test_what_is_kept_works(rule: str, halves: tuple[Path, Path]) -> None:
    kept, _ = sides(rule, halves)
    done = start(kept, "-c", USES[rule].kept, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("rule", [rule for rule, use in USES.items() if use.explains])
def test_what_is_gone_names_the_rule_and_the_word(rule: str, halves: tuple[Path, Path]) -> None:
    use: Use = USES[rule]
    _, gone = sides(rule, halves)
    done = start(gone, "-c", use.gone or use.kept, CUDA_VISIBLE_DEVICES="")
    word = INFERENCE.rule(rule).keep
    assert done.returncode != 0
    assert f"(rule {rule}); slim with --keep {word} to have it" in done.stderr


def sides(rule: str, halves: tuple[Path, Path]) -> tuple[Path, Path]:
    """Return the tree that keeps what a rule would take out, and the one that does not."""
    if "g++" in USES[rule].kept and shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    first, second = halves
    return (first, second) if INFERENCE.rule(rule).keep in HALVES[0] else (second, first)
