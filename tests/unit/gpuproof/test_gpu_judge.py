"""What steps add up to: rules, questions, parity, and what may be written into the rules."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from test_gpu_prove import fake_machine

import prove
from gpuproof import judge
from gpuproof.document import (
    CaseError,
    CaseResult,
    ProofDocument,
    StepResult,
    TreeFacts,
    load,
    save,
)
from gpuproof.judge import Evidence
from gpuproof.models import Models
from gpuproof.plan import DATA, Plan, load_plan, steps
from tfslim.parity.results import ProbeError
from tfslim.parity.verdict import CallVerdict, ModelVerdict
from tfslim.slim import proofs
from tfslim.slim.proofs import load_proofs
from tfslim.slim.rules import load_profile, profile_names

PLAN = Plan.model_validate(
    {
        "parts": [
            {"id": part, "title": "", "kind": "suite", "modes": ["lazy"], "seconds": 1, "rules": r}
            for part, r in (("gemm", ["zstd", "guard"]), ("fft", ["zstd"]), ("models", ["*"]))
        ],
        "questions": [
            {"id": "q", "text": "?", "rules": ["zstd"], "parts": ["gemm"], "modes": ["lazy"]}
        ],
    }
)
SLIM = TreeFacts(name="slim", role="slim", kind="tree", rules=("guard", "zstd"), served=(90,))
STOCK = TreeFacts(name="stock", role="stock", kind="tree")


def step(part: str, status: str = "passed", tree: str = "slim", **more: Any) -> StepResult:
    more = {"device": "H200, compute capability 9.0", **more}
    return StepResult(tree=tree, part=part, mode="lazy", identity="", status=status, **more)  # type: ignore[arg-type]


def case(name: str, status: str = "passed", **more: Any) -> CaseResult:
    return CaseResult(name=name, dtype="float32", status=status, **more)  # type: ignore[arg-type]


def rules(*found: StepResult, trees: tuple[TreeFacts, ...] = (SLIM, STOCK)) -> dict[str, str]:
    evidence = Evidence(PLAN, found, trees)
    return {name: rule.result for name, rule in judge.judge_rules(evidence).items()}


def test_the_committed_parts_speak_of_rules_that_exist() -> None:
    known = {rule.id for name in profile_names() for rule in load_profile(name).rules}
    plan = load_plan(DATA)
    named = {rule for part in plan.parts for rule in part.rules}
    asked = {rule for question in plan.questions for rule in question.rules}
    assert (named | asked) - {"*", "aot"} <= known
    parts = {part.id: part for part in plan.parts}
    for question in plan.questions:
        modes = {mode for name in question.parts for mode in parts[name].modes}
        assert set(question.modes) <= modes, question.id
    inside = DATA.parent / "inside"
    for part in plan.parts:
        assert part.kind != "suite" or (inside / f"{part.id}.py").is_file()


def test_slim_trees_come_before_the_stock_one_and_wrong_ones_are_only_looked_at() -> None:
    wrong = TreeFacts(name="w", role="wrong", kind="tree", served=(80,))
    found = list(steps(load_plan(DATA).parts, (STOCK, SLIM, wrong)))
    assert [s.tree for s in found if s.part.id == "gemm"] == ["slim"] * 3 + ["stock"] * 3
    assert [s.tree for s in found if s.part.id == "guard"] == ["w"]
    assert [s.tree for s in found if s.part.id == "throughput"] == ["all"]
    with_stand_in = steps(load_plan(DATA).parts, (STOCK, SLIM), stand_in=True)
    assert [s.tree for s in with_stand_in if s.part.id == "guard"] == ["slim"]


def test_a_rule_is_proved_when_all_its_parts_passed_on_a_gpu() -> None:
    everything = step("gemm"), step("fft"), step("models")
    assert rules(*everything) == {"guard": "passed", "zstd": "passed"}
    assert rules(*everything[:2])["zstd"] == "not proved"
    assert rules(step("gemm"), step("fft", device="CPU"), step("models"))["zstd"] == "not proved"
    assert rules()["guard"] == "not proved"


@pytest.mark.parametrize("status", ["failed", "crashed", "timed out"])
def test_a_part_that_does_not_pass_fails_its_rules_alone(status: str) -> None:
    found = rules(step("gemm"), step("fft", status), step("models"))
    assert found == {"guard": "passed", "zstd": "failed"}


def test_what_fails_in_the_stock_tree_too_is_no_rules_fault() -> None:
    same = (case("a", "failed"), case("b"))
    mine, theirs = step("fft", "failed", cases=same), step("fft", "failed", "stock", cases=same)
    found = rules(step("gemm"), mine, step("models"), theirs)
    assert found["zstd"] == "not proved", "it is not proved by a failure either"
    other = step("fft", "failed", "stock", cases=(case("a"), case("b", "failed")))
    assert rules(step("gemm"), mine, step("models"), other)["zstd"] == "failed"


@pytest.mark.parametrize(
    ("found", "answer"),
    [
        ([step("gemm")], "yes"),
        ([step("gemm", "crashed")], "no"),
        ([step("gemm", device="CPU")], "not measured"),
        ([step("gemm", device="a stand-in for the driver")], "not measured"),
        ([], "not measured"),
    ],
)
def test_questions_are_answered_by_what_ran_on_a_gpu(found: list[StepResult], answer: str) -> None:
    (said,) = judge.answers(Evidence(PLAN, found, (SLIM, STOCK)))
    assert said.answer == answer
    assert said.why


def test_a_question_without_a_tree_for_it_is_open() -> None:
    (said,) = judge.answers(Evidence(PLAN, [step("gemm")], (STOCK,)))
    assert (said.answer, said.why) == ("not measured", "no tree was carried that follows zstd")


def test_cases_are_held_against_the_stock_trees() -> None:
    error = CaseError(type="InvalidArgumentError", message="x")
    other = CaseError(type="InternalError", message="x")
    pairs = {
        "bits": (case("bits", sha256="a"), case("bits", sha256="a")),
        "near": (
            case("near", sha256="a", sample=(1.0, 2.0), tolerance=1e-3),
            case("near", sha256="b", sample=(1.0, 2.001), tolerance=1e-3),
        ),
        "far": (
            case("far", sha256="a", sample=(1.0, 2.0), tolerance=1e-3),
            case("far", sha256="b", sample=(1.0, 2.5), tolerance=1e-3),
        ),
        "nan": (
            case("nan", sha256="a", sample=(None,), tolerance=1e-3),
            case("nan", sha256="b", sample=(1.0,), tolerance=1e-3),
        ),
        "error": (case("error", error=error), case("error", error=error)),
        "kind": (case("kind", error=other), case("kind", error=error)),
        "one": (case("one", "failed", error=other, why="boom"), case("one", sha256="a")),
        "refused": (case("refused", "refused", error=other), case("refused", sha256="a")),
    }
    mine = step("gemm", cases=tuple(pair[0] for pair in pairs.values()))
    theirs = step("gemm", tree="stock", cases=tuple(pair[1] for pair in pairs.values()))
    (found,) = judge.parities(Evidence(PLAN, [mine, theirs], (SLIM, STOCK)))
    counts = (found.same_bits, found.near, found.same_errors, found.refused)
    assert counts == (1, 1, 1, 1)
    assert set(found.differ) == {"far", "nan", "kind", "one"}
    assert found.differ["kind"] == "InvalidArgumentError became InternalError"


def document(device: str = "gpu", **more: Any) -> ProofDocument:
    evidence = Evidence(PLAN, [step("gemm"), step("fft", "failed"), step("models")], (SLIM,))
    return ProofDocument(
        started=datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC),
        seconds=1,
        command="x",
        device=device,  # type: ignore[arg-type]
        environment=fake_machine(),
        trees=(SLIM,),
        steps=tuple(evidence.steps),
        rules=judge.judge_rules(evidence),
        **more,
    )


def test_a_document_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = document(notes=("n" * 200,))
    save(made, tmp_path / "proof.json")
    assert load(tmp_path / "proof.json") == made


def test_a_result_is_written_into_the_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "proofs.yaml"
    path.write_text("schema-version: 1\nproofs: {}\n")
    monkeypatch.setattr(prove, "load_proofs", lambda: load_proofs(path))
    monkeypatch.setattr(prove, "save_proofs", lambda found: proofs.save_proofs(found, path))
    save(document(), tmp_path / "proof.json")
    assert prove.main(["--record-proof", str(tmp_path / "proof.json")]) == 0
    written = load_proofs(path)
    assert written.demoted("zstd")
    (guard,) = written.newest("guard")
    assert (guard.result, guard.gpu, guard.driver) == ("passed", "Fake GPU", "1.2")
    assert guard.date == datetime.date(2026, 12, 1)
    assert prove.main(["--record-proof", str(tmp_path / "proof.json")]) == 0
    assert load_proofs(path) == written


def test_a_run_without_a_gpu_is_never_written_into_the_rules(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(document("cpu"), tmp_path / "proof.json")
    assert prove.main(["--record-proof", str(tmp_path / "proof.json")]) == 2
    assert "proves no rule" in capsys.readouterr().err


def test_a_model_that_a_tree_was_not_made_for_is_refused_and_not_wrong() -> None:
    def verdict(message: str) -> ModelVerdict:
        error = ProbeError(type="ModelLoadError", message=message)
        load_call = CallVerdict(
            mode="cpu", kind="load", signature="", case="load", outcome="failed", error_slim=error
        )
        return ModelVerdict(name="fft", outcome="failed", reason="differs", calls=(load_call,))

    told = "the model needs the op FFT, and tfslim took out what that takes (rule fft): slim with x"
    found = Models._case(verdict(f"{told}\nmore"))
    assert (found.status, found.why) == ("refused", told)
    assert Models._case(verdict("no such file")).status == "failed"
