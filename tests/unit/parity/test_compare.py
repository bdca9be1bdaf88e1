"""What counts as the same answer, and what evidence a difference leaves."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answers import ENVIRONMENT, Answers, bfloat16

from tfslim.parity import probe
from tfslim.parity.compare import compare_environments, compare_model, default_rule, not_asked
from tfslim.parity.results import Environment, ModelResult, read_model
from tfslim.parity.verdict import ModelVerdict, OutputVerdict, merged

_NUMBER = itertools.count()


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def read(answers: Answers) -> ModelResult:
        return read_model(answers.write(tmp_path / str(next(_NUMBER))))

    return read


def compare(
    read: Any, stock: Answers, slim: Answers, mode: Any = "cpu", **options: Any
) -> ModelVerdict:
    again = options.pop("again", None)
    rule = default_rule(mode, options.pop("rtol", None), options.pop("atol", None))
    again = read(again) if again else None
    return compare_model("model", read(stock), read(slim), again, mode=mode, rule=rule)


def first_output(verdict: ModelVerdict) -> OutputVerdict:
    return next(output for call in verdict.calls for output in call.outputs)


SAME = {
    "floats": np.array([[1.5, -2.0]], "float32"),
    "nan": np.array([np.nan, np.inf, -np.inf]),
    "integers": np.array([2**62, -1]),
    "booleans": np.array([True, False]),
    "complex": np.array([1 + 2j], "complex64"),
    "scalar": np.float32(3.0),
    "strings": np.array([b"\x00a\x00", "été".encode(), b""], dtype=object),
    "no values": np.zeros((0, 4), "float32"),
    "no strings": np.array([], dtype=object),
}


@pytest.mark.parametrize("values", SAME.values(), ids=SAME)
@pytest.mark.parametrize("mode", ["cpu", "gpu", "gpu-deterministic"])
def test_the_same_values_pass(read: Any, values: Any, mode: str) -> None:
    both = [Answers().run(x=values, more=[1.0]) for _ in range(2)]
    verdict = compare(read, *both, mode=mode)
    assert verdict.outcome == "passed", verdict
    assert first_output(verdict).elements == np.asarray(values).size


OTHER = {
    "one bit": ([1.0, 2.0], [1.0, np.nextafter(2.0, 3.0)], (1,)),
    "minus zero": ([0.0], [-0.0], (0,)),
    "another NaN": (
        np.array([0x7FC00000], "uint32").view("float32"),
        np.array([0x7FC00001], "uint32").view("float32"),
        (0,),
    ),
    "NaN for a number": ([[1.0], [2.0]], [[1.0], [np.nan]], (1, 0)),
    "integer": ([[7, 8]], [[7, 9]], (0, 1)),
    "boolean": ([True], [False], (0,)),
    "string": (np.array([b"a", b"b"], object), np.array([b"a", b"c"], object), (1,)),
    "string boundary": (np.array([b"ab", b"c"], object), np.array([b"a", b"bc"], object), (0,)),
    "imaginary part": ([1 + 2j], [1 + 3j], (0,)),
    "scalar": (np.float32(1), np.float32(2), ()),
}


@pytest.mark.parametrize(("stock", "slim", "index"), OTHER.values(), ids=OTHER)
def test_any_other_bit_fails_on_a_cpu(read: Any, stock: Any, slim: Any, index: Any) -> None:
    verdict = compare(read, Answers().run(x=stock), Answers().run(x=slim))
    output = first_output(verdict)
    assert (verdict.outcome, output.outcome) == ("failed", "failed")
    assert output.first_index == index
    assert output.first_stock
    assert output.sha256_stock != output.sha256_slim
    assert "1 of 1 calls" in verdict.reason or "1 of 2 calls" in verdict.reason


def test_evidence_says_how_far_apart(read: Any) -> None:
    stock, slim = np.array([1.0, 2.0, 4.0, np.inf]), np.array([1.0, 2.5, 3.0, 0.0])
    output = first_output(compare(read, Answers().run(x=stock), Answers().run(x=slim)))
    assert (output.differing, output.elements) == (3, 4)
    assert (output.max_abs, output.max_rel) == (1.0, 0.25)
    assert (output.first_index, output.first_stock, output.first_slim) == ((1,), "2.0", "2.5")


def test_a_gpu_may_differ_within_the_tolerance_that_is_stated(read: Any) -> None:
    stock = np.array([1.0, 100.0, 0.0], "float32")
    near, far = stock + np.float32(0.2), stock + np.float32(0.5)
    near[1] = 100.0
    passed = compare(read, Answers().run(x=stock), Answers().run(x=near), mode="gpu")
    failed = compare(read, Answers().run(x=stock), Answers().run(x=far), mode="gpu")
    assert (passed.outcome, failed.outcome) == ("passed", "failed")
    output = first_output(passed)
    assert output.rtol == 2.0**-8
    assert output.atol == 100 * 2.0**-8
    assert output.max_abs == pytest.approx(0.2)


@pytest.mark.parametrize("slim", [[np.nan, 1.0], [np.inf, 1.0], [-np.inf, 1.0]])
def test_no_tolerance_reaches_infinity(read: Any, slim: list[float]) -> None:
    verdict = compare(read, Answers().run(x=[5.0, 1.0]), Answers().run(x=slim), mode="gpu", rtol=10)
    assert verdict.outcome == "failed"


def test_under_deterministic_ops_the_tolerance_does_not_count(read: Any) -> None:
    both = Answers().run(x=[1.0]), Answers().run(x=[1.0 + 1e-9])
    assert compare(read, *both, mode="gpu-deterministic", rtol=1.0).outcome == "failed"
    assert compare(read, *both, mode="cpu", rtol=1e-6).outcome == "passed"


def test_integers_have_no_tolerance(read: Any) -> None:
    both = Answers().run(x=[1000]), Answers().run(x=[1001])
    assert compare(read, *both, mode="gpu").outcome == "failed"


def test_bfloat16_is_compared_by_its_values(read: Any) -> None:
    def answers(*values: float) -> Answers:
        made = Answers().run(x=bfloat16(*values))
        made.calls[-1]["outputs"][0]["dtype"] = "bfloat16"
        return made

    assert compare(read, answers(1.0, 2.0), answers(1.0, 2.0)).outcome == "passed"
    failed = first_output(compare(read, answers(1.0, 2.0), answers(1.0, 3.0)))
    assert (failed.first_stock, failed.first_slim, failed.max_abs) == ("2.0", "3.0", 1.0)
    assert compare(read, answers(64.0), answers(64.5), mode="gpu").outcome == "passed"


def test_a_missing_renamed_or_reshaped_output_fails(read: Any) -> None:
    stock = Answers().run(x=[1.0], y=[2.0])
    for slim, word in (
        (Answers().run(x=[1.0]), "called otherwise"),
        (Answers().run(x=[1.0], z=[2.0]), "called otherwise"),
        (Answers().run(x=[1.0], y=[[2.0]]), "float64[1] became float64[1, 1]"),
        (Answers().run(x=[1.0], y=np.array([2.0], "float32")), "became float32"),
    ):
        verdict = compare(read, stock, slim)
        assert verdict.outcome == "failed"
        assert word in verdict.calls[1].reason
        stock = Answers().run(x=[1.0], y=[2.0])


def test_calls_on_one_side_only_fail(read: Any) -> None:
    verdict = compare(
        read, Answers().run(x=[1.0]).run(case="more", x=[1.0]), Answers().run(x=[1.0])
    )
    assert verdict.outcome == "failed"
    assert "one side only: stock" in verdict.calls[-1].reason


def test_other_inputs_fail_even_with_the_same_answers(read: Any) -> None:
    slim = Answers().run(x=[1.0])
    slim.calls[-1]["inputs"] = {"a": {"dtype": "int32", "shape": [], "sha256": "0"}}
    assert "inputs" in compare(read, Answers().run(x=[1.0]), slim).calls[1].reason


def test_an_error_on_one_side_fails(read: Any) -> None:
    broken = Answers().error("NotFoundError", "No registered 'RFFT' OpKernel")
    verdict = compare(read, Answers().run(x=[1.0]), broken)
    assert verdict.outcome == "failed"
    assert verdict.calls[1].error_slim is not None
    assert "slim" in verdict.calls[1].reason


def test_the_same_errors_alone_are_inconclusive(read: Any) -> None:
    both = [Answers().error("ValueError", "no") for _ in range(2)]
    verdict = compare(read, *both)
    assert verdict.outcome == "inconclusive"
    assert "serve" in verdict.reason


def test_a_signature_that_never_ran_makes_a_model_inconclusive(read: Any) -> None:
    both = [Answers().run(x=[1.0]).run(signature="empty", y=np.zeros((0, 2))) for _ in range(2)]
    verdict = compare(read, *both)
    assert verdict.outcome == "inconclusive"
    assert "empty" in verdict.reason


def test_a_model_that_loads_on_neither_side_is_inconclusive(read: Any) -> None:
    both = [Answers(), Answers()]
    for answers in both:
        answers.calls[0] |= {"status": "error", "error": {"type": "OSError", "message": "no file"}}
    assert compare(read, *both).outcome == "inconclusive"


@pytest.mark.parametrize(
    ("stock", "slim", "outcome"),
    [
        (("ValueError", "at /a/b/c.py line 7"), ("ValueError", "at /x/c.py line 9"), "passed"),
        (("ValueError", "object at 0x7f01"), ("ValueError", "object at 0x7e00"), "passed"),
        (("ValueError", "{'a': 1, 'b': 2}"), ("ValueError", "{'b': 2, 'a': 1}"), "passed"),
        (("ValueError", "a"), ("ValueError", "b"), "failed"),
        (("ValueError", "a"), ("TypeError", "a"), "failed"),
        (("A", "bad [[{{node x}}]]"), ("B", "worse [[{{node y}}]]"), "passed"),
        (("A", "bad [[{{node x}}]]"), ("B", "No module named x"), "failed"),
    ],
)
def test_errors_on_purpose_have_to_say_the_same(
    read: Any, stock: Any, slim: Any, outcome: str
) -> None:
    both = [Answers().run(x=[1.0]).error(*e, kind="misuse", case="rank") for e in (stock, slim)]
    assert compare(read, *both).outcome == outcome


def test_where_a_graph_fails_by_itself_the_type_of_error_has_to_be_the_same(read: Any) -> None:
    both = [Answers().error(type_, "[[{{node x}}]]") for type_ in ("A", "B")]
    assert compare(read, *both).outcome == "failed"


def test_a_stock_that_does_not_repeat_itself_judges_nobody(read: Any) -> None:
    stock, slim = Answers().run(x=[1.0]), Answers().run(x=[2.0])
    assert compare(read, stock, slim, again=Answers().run(x=[3.0])).outcome == "inconclusive"
    stock, slim = Answers().run(x=[1.0]), Answers().run(x=[2.0])
    assert compare(read, stock, slim, again=Answers().run(x=[1.0])).outcome == "failed"


def test_a_side_that_died_fails_and_says_how(read: Any) -> None:
    rule = default_rule("cpu", None, None)
    died = "ended by SIGSEGV at: model: serve"
    fine = read(Answers().run(x=[1.0]))
    verdict = compare_model("model", fine, died, mode="cpu", rule=rule)
    assert verdict.outcome == "failed"
    assert "SIGSEGV" in verdict.reason
    assert compare_model("model", died, fine, mode="cpu", rule=rule).outcome == "failed"
    assert compare_model("model", died, died, mode="cpu", rule=rule).outcome == "inconclusive"


def test_modes_are_joined_by_their_worst_difference_and_best_proof() -> None:
    def verdict(outcome: Any) -> ModelVerdict:
        return ModelVerdict(name="m", outcome=outcome, reason=outcome)

    def joined(*outcomes: str) -> str:
        return merged([verdict(outcome) for outcome in outcomes]).outcome

    assert joined("passed", "failed") == "failed"
    assert joined("inconclusive", "failed") == "failed"
    assert joined("inconclusive", "passed") == "passed"
    assert joined("inconclusive", "inconclusive") == "inconclusive"


def test_environments_that_differ_are_named() -> None:
    stock = Environment.model_validate(ENVIRONMENT | {"gpus": ["H200"]})
    slim = Environment.model_validate(ENVIRONMENT | {"numpy": "1.26"})
    lines = list(compare_environments({"gpu": stock}, {"gpu": slim}))
    assert lines == ["numpy (gpu): 2.0.0 against 1.26", "gpus (gpu): H200 against none"]


def test_a_model_that_answers_the_same_to_all_is_told(read: Any) -> None:
    def answers(*values: float) -> Answers:
        made = Answers()
        for seed, value in enumerate(values):
            made.run(case=f"seed {seed}", x=[value])
            made.calls[-1]["inputs"] = {"a": {"dtype": "int32", "shape": [1], "sha256": str(seed)}}
        return made

    flat = compare(read, answers(0.5, 0.5), answers(0.5, 0.5))
    assert (flat.outcome, len(flat.notes)) == ("passed", 1)
    assert "one answer to all inputs" in flat.notes[0]
    assert not compare(read, answers(0.5, 0.6), answers(0.5, 0.6)).notes
    assert not compare(read, answers(0.5), answers(0.5)).notes


NATIVE = {**ENVIRONMENT, "backend": "capi", "keras": ""}


def native(stock: Answers, slim: Answers, read: Any) -> ModelVerdict:
    rule = default_rule("cpu", None, None).model_copy(update={"words": False, "kinds": True})
    return compare_model("model", read(stock), read(slim), mode="cpu", rule=rule)


def test_errors_of_the_c_api_are_compared_by_kind(read: Any) -> None:
    def both(stock: str, slim: str) -> str:
        sides = Answers().run(x=[1.0]), Answers().run(x=[1.0])
        for answers, type_ in zip(sides, (stock, slim), strict=True):
            answers.error(type_, f"in the words of {type_}", kind="misuse", case="wrong rank")
        return native(*sides, read).outcome

    assert both("TypeError", "RefusedError") == "passed"
    assert both("InvalidArgumentError", "InvalidArgumentError") == "passed"
    assert both("InvalidArgumentError", "ResourceExhaustedError") == "failed"
    assert both("TypeError", "NotFoundError") == "failed"


def test_what_the_service_refuses_need_not_be_refused_by_python(read: Any) -> None:
    """Signatures of Keras 2 take other ranks than they name; the service does not."""

    def sides(type_: str, kind: str) -> tuple[Answers, Answers]:
        stock, slim = Answers().run(x=[1.0]), Answers().run(x=[1.0])
        output = stock.calls[1]["outputs"]
        stock.add(kind, "serve", "wrong rank", outputs=output)
        slim.error(type_, "shape [1, 1] does not fit", kind=kind, case="wrong rank")
        return stock, slim

    assert native(*sides("RefusedError", "misuse"), read).outcome == "passed"
    assert native(*sides("NotFoundError", "misuse"), read).outcome == "failed"
    assert native(*sides("RefusedError", "run"), read).outcome == "failed"


def test_values_of_the_c_api_count_to_the_last_bit(read: Any) -> None:
    near = np.nextafter(np.float32(1.0), np.float32(2.0))
    verdict = native(Answers().run(x=np.float32(1.0)), Answers().run(x=near), read)
    assert verdict.outcome == "failed"


@pytest.mark.parametrize("loader", [probe.KERAS, probe.RESTORED_FUNCTIONS])
def test_what_python_alone_serves_is_not_asked_of_the_c_api(read: Any, loader: str) -> None:
    stock = replace(read(Answers().run(x=[1.0])), loader=loader)
    verdict = not_asked("model", stock, Environment.model_validate(NATIVE))
    assert verdict is not None
    assert verdict.outcome == "not asked"
    assert "no signatures" in verdict.reason
    assert not_asked("model", stock, Environment.model_validate(ENVIRONMENT)) is None
    with_signatures = read(Answers().run(x=[1.0]))
    assert not_asked("model", with_signatures, Environment.model_validate(NATIVE)) is None


def test_a_native_side_that_does_not_start_is_not_excused(read: Any) -> None:
    stock = replace(read(Answers().run(x=[1.0])), loader=probe.KERAS)
    error = {"type": "ModelLoadError", "message": "libtensorflow_cc.so.2 is not there"}
    broken = Environment.model_validate({**NATIVE, "import_error": error})
    assert not_asked("model", stock, broken) is None


def test_the_c_api_has_no_keras_and_names_gpus_alone() -> None:
    gpu = {"gpus": ["NVIDIA H200, compute capability 9.0"]}
    stock = Environment.model_validate(ENVIRONMENT | gpu)
    same = Environment.model_validate(NATIVE | {"gpus": ["NVIDIA H200"]})
    assert list(compare_environments({"gpu": stock}, {"gpu": same})) == [
        "backend (gpu): tensorflow against capi"
    ]
    fewer = Environment.model_validate(NATIVE)
    (first, _) = compare_environments({"gpu": stock}, {"gpu": fewer})
    assert first == "gpus (gpu): NVIDIA H200 against none"
