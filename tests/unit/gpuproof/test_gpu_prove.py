"""The proof from end to end with a stand-in for TensorFlow: real processes, crashes, restarts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import prove
from gpuproof.document import ProofDocument, StepResult, load
from tfslim.bench.device import Device as BenchDevice
from tfslim.pack.write import pack_tree
from tfslim.report.machine import Environment, GpuDevice
from tfslim.ui import Ui

PLAN = """
parts:
  - {id: list, title: lists, kind: listing, modes: [lazy], seconds: 60, rules: []}
  - id: fakesuite
    title: cases
    kind: suite
    modes: [lazy, eager, deterministic]
    quick: [eager]
    seconds: 90
    rules: [other-architectures]
  - {id: models, title: models, kind: models, modes: [lazy], seconds: 60, rules: ["*"]}
  - {id: throughput, title: rates, kind: throughput, modes: [lazy], seconds: 60, rules: []}
  - {id: cold-start, title: starts, kind: cold-start, modes: [lazy], seconds: 60, rules: []}
questions:
  - id: q
    text: Does it work?
    rules: []
    parts: [fakesuite]
    modes: [lazy]
"""


@pytest.fixture
def run(tmp_path: Path, tree: Path):  # type: ignore[no-untyped-def]
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN)

    def call(*arguments: str, trees: tuple[str, ...] = ("slim=",)) -> tuple[int, ProofDocument]:
        named = [f"{name}{tree}" for name in trees]
        out = tmp_path / "out"
        options = ["--plan", str(plan), "--state", str(tmp_path / "state"), "-o", str(out), "-q"]
        status = prove.main([*named, *options, "--device", "cpu", *arguments])
        return status, load(out / "proof.json")

    return call


def of(document: ProofDocument, part: str, mode: str = "lazy", tree: str = "slim") -> StepResult:
    return next(step for step in document.steps if step.key == (tree, part, mode))


def test_what_runs_on_a_cpu_runs_and_the_rest_says_that_it_did_not(run, tmp_path: Path) -> None:
    status, document = run()
    assert status == 0
    step = of(document, "fakesuite")
    assert (step.status, step.device) == ("passed", "CPU")
    states = {case.name: case.status for case in step.cases}
    assert states == {
        "right": "passed",
        "an error that has to be": "passed",
        "only on a GPU": "not measured",
        "the last": "passed",
    }
    right = step.cases[0]
    assert right.flops_per_s
    assert right.distance == 0.0
    assert right.sample == (1.0, 2.0)
    assert step.versions["tensorflow"] == "9.9.9"
    for part, mode in (("list", "lazy"), ("fakesuite", "eager")):
        assert of(document, part, mode).why == "not measured: no GPU"
    assert "no models were carried" in of(document, "models").why
    assert [step.status for step in document.steps if step.tree == "all"] == ["not measured"] * 2
    (answer,) = document.questions
    assert answer.answer == "not measured"
    text = (tmp_path / "out" / "proof.md").read_text()
    assert "# Proof on a CPU: no GPU code was run" in text
    assert "nothing here proves a rule on a GPU" in text
    assert json.loads((tmp_path / "out" / "report.json").read_text())["schema_version"] == 2


def test_a_crash_is_a_result_and_names_its_case(run, mood: Path) -> None:
    mood.write_text("crash")
    status, document = run("--parts", "fakesuite")
    assert status == prove.EXIT_FAILED
    step = of(document, "fakesuite")
    assert (step.status, step.at_case) == ("crashed", "crashing")
    assert "SIGABRT" in step.why
    assert [case.name for case in step.cases][:2] == ["right", "an error that has to be"]
    assert of(document, "fakesuite", "deterministic").status == "crashed", "the others go on"


def test_a_hang_is_ended_and_names_its_case(run, mood: Path, tmp_path: Path) -> None:
    mood.write_text("hang")
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        PLAN.replace("seconds: 90", "seconds: 5").replace("eager, deterministic", "eager")
    )
    _, document = run("--parts", "fakesuite")
    step = of(document, "fakesuite")
    assert (step.status, step.at_case) == ("timed out", "hanging")


def test_a_wrong_result_is_told_with_its_distance(run, mood: Path, tmp_path: Path) -> None:
    mood.write_text("wrong")
    status, document = run("--parts", "fakesuite")
    assert status == prove.EXIT_FAILED
    step = of(document, "fakesuite")
    assert (step.status, step.why) == ("failed", "1 of 5 cases: wrong")
    wrong = next(case for case in step.cases if case.name == "wrong")
    assert wrong.distance == 0.5
    assert "wrong: 0.5 off the reference" in (tmp_path / "out" / "proof.md").read_text()


def test_finished_steps_are_kept_and_the_rest_goes_on(run, mood: Path) -> None:
    _, first = run("--parts", "fakesuite")
    mood.write_text("crash")  # would show if it ran again
    status, second = run()
    assert status == 0
    assert of(second, "fakesuite") == of(first, "fakesuite")
    assert second.notes[0].startswith("3 steps were done by an earlier run")
    status, third = run("--parts", "fakesuite", "--again", "fakesuite")
    assert status == prove.EXIT_FAILED
    assert of(third, "fakesuite").status == "crashed"


def test_a_tree_that_was_made_anew_is_run_anew(run, tree: Path, mood: Path) -> None:
    run("--parts", "fakesuite")
    mood.write_text("crash")
    again = tree.with_name("again")
    tree.rename(again)
    again.rename(tree)
    assert run("--parts", "fakesuite")[0] == prove.EXIT_FAILED


def test_when_the_time_is_over_nothing_begins(run) -> None:  # type: ignore[no-untyped-def]
    _, document = run("--minutes", "0")
    assert "the time was over" in of(document, "fakesuite").why
    _, document = run()
    assert of(document, "fakesuite").status == "passed", "what was not begun is no result"


def test_a_stock_tree_is_what_cases_are_held_against(run, tree: Path, tmp_path: Path) -> None:
    _, document = run("--parts", "fakesuite", "--stock", f"stock={tree}")
    found = {(parity.part, parity.mode): parity for parity in document.parity}
    parity = found["fakesuite", "lazy"]
    assert (parity.same_bits, parity.same_errors, parity.differ) == (2, 1, {})
    assert (
        "| slim | fakesuite | lazy | 2 | 0 | 1 | 0 | 0 |"
        in (tmp_path / "out" / "proof.md").read_text()
    )


def test_a_pack_is_unpacked_once(run, tree: Path, tmp_path: Path) -> None:
    pack_tree(tree, tmp_path / "pack", name="tree", level=1, ui=Ui(quiet=True))
    plan, state = tmp_path / "plan.yaml", tmp_path / "state"
    options = ["--plan", str(plan), "--state", str(state), "-o", str(tmp_path / "out"), "-q"]
    options += ["--device", "cpu", "--parts", "fakesuite", f"packed={tmp_path / 'pack'}"]
    assert prove.main(options) == 0
    document = load(tmp_path / "out" / "proof.json")
    assert len(document.trees[0].manifest) == 64
    assert document.trees[0].bytes
    assert prove.main(options) == 0
    assert load(tmp_path / "out" / "proof.json").notes[0].startswith("3 steps")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "name the trees"),
        (["a=/x", "a=/y"], "each once"),
        (["a=/nowhere"], "there is no folder"),
        (["bad name=/x"], "no name for a tree"),
    ],
)
def test_what_cannot_be_run_is_refused(
    arguments: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--device", "cpu", "--state", str(tmp_path / "s"), "-o", str(tmp_path / "o")]
    assert prove.main([*arguments, *options]) in (2, 9)
    assert text in capsys.readouterr().err


def test_an_unknown_part_is_refused(run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exception, match="no result"):
        run("--parts", "nonsense")
    assert "there is no part called nonsense" in capsys.readouterr().err


def test_a_required_gpu_that_is_not_there_is_an_error(
    tree: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi, wherever this runs
    options = ["--device", "gpu", "--state", str(tmp_path / "s"), "-o", str(tmp_path / "o")]
    assert prove.main([f"slim={tree}", *options]) == 3


def test_with_a_gpu_everything_is_named_and_a_rule_is_judged(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU and no TensorFlow: this shows the way of the data, not that anything computes."""
    (site,) = tree.glob("lib/python3*/site-packages")
    known = {"profile": "arch", "served": [90], "rules": {"other-architectures": {}}, "ops": {}}
    (site / "_tfslim.json").write_text(json.dumps(known))
    tensorflow = site / "tensorflow" / "__init__.py"
    shown = tensorflow.read_text().replace('device="/device:CPU:0"', 'device="/device:GPU:0"')
    tensorflow.write_text(shown.replace('os.environ.get("FAKE_TF_GPUS", "0")', '"1"'))
    (tmp_path / "plan.yaml").write_text(PLAN)
    monkeypatch.setattr(
        prove, "choose_root_device", lambda wish: BenchDevice(True, "Fake GPU (driver 1.2)", None)
    )
    monkeypatch.setattr(prove, "environment", lambda *_: fake_machine())
    options = ["--plan", str(tmp_path / "plan.yaml"), "--state", str(tmp_path / "state"), "-q"]
    out = tmp_path / "out"
    status = prove.main(
        [f"slim={tree}", *options, "-o", str(out), "--parts", "fakesuite,list", "--device", "gpu"]
    )
    document = load(out / "proof.json")
    assert status == 0, (out / "proof.md").read_text()
    assert {step.status for step in document.steps} == {"passed"}
    assert {step.device for step in document.steps} == {"Fake GPU, compute capability 9.0"}
    assert document.questions[0].answer == "yes"
    assert document.rules["other-architectures"].result == "not proved", "models were not run"
    assert "models" in document.rules["other-architectures"].why


def fake_machine() -> Environment:
    return Environment(
        tfslim="0.1.0",
        machine="x86_64",
        kernel="6",
        cpu="a CPU",
        cpus=2,
        memory_bytes=10**9,
        engine={},
        builder="none",
        gpu="Fake GPU",
        gpus=(GpuDevice(name="Fake GPU", compute_capability="9.0", driver="1.2"),),
    )
