"""What was proved on a GPU: the data file, what the newest result means, what a failure changes."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest

from tfslim.errors import InputError
from tfslim.slim import proofs, rules
from tfslim.slim.archs import parse_targets
from tfslim.slim.proofs import NOT_PROVED, Proof, Proofs, load_proofs, save_proofs, with_results
from tfslim.slim.rules import make_policy
from tfslim.slim.rules_text import rules_markdown


def proof(day: int, result: str, gpu: str = "NVIDIA H200") -> Proof:
    return Proof(
        gpu=gpu,
        driver="570.124.06",
        date=datetime.date(2026, 12, day),
        result=result,  # type: ignore[arg-type]
        record=f"{day}/proof.json",
        why="fft: wrong" if result == "failed" else "",
    )


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data file of a test's own, which rules read."""
    path = tmp_path / "proofs.yaml"
    path.write_text("# kept\nschema-version: 1\nproofs: {}\n")
    monkeypatch.setattr(rules, "load_proofs", lambda: load_proofs(path))
    yield path
    load_proofs.cache_clear()


def test_the_committed_file_is_read_and_names_rules_that_exist() -> None:
    known = {rule.id for name in rules.profile_names() for rule in rules.load_profile(name).rules}
    assert set(load_proofs().proofs) <= known


def test_nothing_known_says_so() -> None:
    assert Proofs().text("fft") == NOT_PROVED
    assert not Proofs().demoted("fft")


def test_the_newest_result_on_each_gpu_counts() -> None:
    known = with_results(Proofs(), {"fft": proof(1, "failed")})
    assert known.demoted("fft")
    assert "failed on NVIDIA H200, driver 570.124.06, 2026-12-01: fft: wrong" in known.text("fft")
    elsewhere = with_results(known, {"fft": proof(2, "passed", "NVIDIA L4")})
    assert elsewhere.demoted("fft"), "it passed on another GPU, not on that one"
    mended = with_results(elsewhere, {"fft": proof(3, "passed")})
    assert not mended.demoted("fft")
    assert mended.text("fft").count("proved on") == 2


def test_an_older_result_that_is_added_later_does_not_count_as_newest() -> None:
    known = with_results(Proofs(), {"fft": proof(3, "passed")})
    assert not with_results(known, {"fft": proof(1, "failed")}).demoted("fft")


def test_the_same_run_twice_counts_once(tmp_path: Path) -> None:
    known = with_results(Proofs(), {"fft": proof(1, "passed")})
    assert with_results(known, {"fft": proof(1, "passed")}) == known


def test_it_is_written_and_read_again_and_the_comment_stays(written: Path) -> None:
    known = with_results(Proofs(), {"fft": proof(1, "failed"), "guard": proof(1, "passed")})
    save_proofs(known, written)
    assert load_proofs(written) == known
    assert written.read_text().startswith("# kept\n")
    save_proofs(known, written)
    assert written.read_text().count("# kept") == 1


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "proofs.yaml"
    path.write_text("proofs: {fft: [{gpu: x}]}")
    with pytest.raises(InputError, match="holds no proofs"):
        load_proofs(path)


def test_a_rule_that_failed_on_a_gpu_is_followed_only_when_asked_for(written: Path) -> None:
    def followed(**options: tuple[str, ...]) -> set[str]:
        policy = make_policy("inference", parse_targets("90"), **options)
        return {rule.id for rule in policy.profile.rules}

    before = followed()
    assert "collectives" in before
    save_proofs(with_results(Proofs(), {"collectives": proof(1, "failed")}), written)
    assert followed() == before - {"collectives"}
    assert followed(also=("nccl",)) == before
    text = rules_markdown()
    assert "- Demoted: it failed on a GPU; followed with `--also nccl` alone" in text
    assert proofs.NOT_PROVED in text
