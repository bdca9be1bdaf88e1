"""Compare what two targets answered: pure, numbers in, verdicts out.

The bytes decide, not the digests: arrays were checked against those when they were read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tfslim.parity.kinds import REFUSED, kind_of
from tfslim.parity.messages import essence, from_graph
from tfslim.parity.results import Call, Environment, ModelResult, Output
from tfslim.parity.verdict import CallVerdict, Mode, ModelVerdict, OutputVerdict, Rule, worst

__all__ = [
    "Answers",
    "compare_environments",
    "compare_model",
    "default_rule",
    "not_asked",
    "same_way",
    "same_words",
]

# Four units in the last place of the coarsest arithmetic that TensorFlow may choose on a GPU:
# TF32 (10 bits) for float32, and sums in another order each run for all of them.
_RTOL: Final = {
    "float64": 2.0**-36,
    "complex128": 2.0**-36,
    "float32": 2.0**-8,
    "complex64": 2.0**-8,
    "float16": 2.0**-8,
    "bfloat16": 2.0**-5,
}
_SHOWN_CHARACTERS = 120
Array = npt.NDArray[Any]
Answers = ModelResult | str  # or why there are none


def default_rule(mode: Mode, rtol: float | None, atol: float | None) -> Rule:
    """Return how outputs have to agree in a mode.

    Args:
        mode: What they were computed on.
        rtol: The user's own tolerance, which counts wherever bits are not promised.
        atol: Likewise.
    """
    if mode == "gpu-deterministic":
        return Rule(kind="bits", why="deterministic ops: the same kernels give the same bits")
    if mode == "cpu" and rtol is None and atol is None:
        return Rule(kind="bits", why="on a CPU the same libraries give the same bits")
    if mode == "cpu":
        why = "asked for on the command line; the same bits can be expected"
        return Rule(kind="tolerance", rtol=rtol or 0.0, atol=atol or 0.0, why=why)
    why = "a GPU sums in any order and chooses algorithms as it runs, with TF32 for float32"
    return Rule(kind="tolerance", rtol=rtol, atol=atol, why=why)


@dataclass(frozen=True)
class _Sides:
    """The two answers to one question, and the stock's second one where it was asked again."""

    stock: ModelResult
    slim: ModelResult
    again: ModelResult | None


def compare_model(
    name: str,
    stock: Answers,
    slim: Answers,
    again: Answers | None = None,
    *,
    mode: Mode,
    rule: Rule,
) -> ModelVerdict:
    """Compare all answers of a model in one mode.

    Args:
        name: The model's.
        stock: The answers of the stock target.
        slim: The answers of the slim one.
        again: The stock's answers of another run, given where the first comparison failed: where
            the stock disagrees with itself, the slim one cannot be judged.
        mode: What they were computed on.
        rule: How outputs have to agree.
    """
    if isinstance(stock, str) or isinstance(slim, str):
        return _without_answers(name, stock, slim)
    sides = _Sides(stock, slim, again if isinstance(again, ModelResult) else None)
    calls = [_compare_call(mode, rule, sides, key) for key in _all_keys(stock, slim)]
    notes = tuple(dict.fromkeys((*stock.notes, *slim.notes, *_indifferent(stock))))
    return ModelVerdict(name=name, notes=notes, calls=tuple(calls), **_model_outcome(calls))


def _without_answers(name: str, stock: Answers, slim: Answers) -> ModelVerdict:
    """Judge a model for which a side wrote no answers: its process died, or they are damaged."""
    said = [
        f"{side} gave no answers: {answers}"
        for side, answers in (("stock", stock), ("slim", slim))
        if isinstance(answers, str)
    ]
    outcome: Any = "inconclusive" if len(said) == 2 else "failed"
    return ModelVerdict(name=name, outcome=outcome, reason="\n".join(said))


def _indifferent(stock: ModelResult) -> Iterator[str]:
    """Yield a note on each signature that gave one answer to different inputs of the same shape."""
    runs = [call for call in stock.calls.values() if call.kind == "run" and call.outputs]
    for signature in sorted({call.signature for call in runs}):
        answers: dict[object, set[object]] = {}
        inputs: dict[object, set[object]] = {}
        for call in (call for call in runs if call.signature == signature):
            shapes = tuple(value.shape for value in call.inputs.values())
            inputs.setdefault(shapes, set()).add(tuple(map(str, call.inputs.values())))
            answers.setdefault(shapes, set()).add(tuple(out.sha256 for out in call.outputs))
        asked = any(len(given) > 1 for given in inputs.values())
        if asked and all(len(given) == 1 for given in answers.values()):
            yield f"{signature}: one answer to all inputs, so it shows little; give others: --input"


def _all_keys(stock: ModelResult, slim: ModelResult) -> Iterable[tuple[str, str, str]]:
    return dict.fromkeys((*stock.calls, *slim.calls))


def _model_outcome(calls: Iterable[CallVerdict]) -> dict[str, Any]:
    """Return outcome and reason: every signature has to be shown to agree on something."""
    calls = list(calls)
    failed = [call for call in calls if call.outcome == "failed"]
    if failed:
        return {"outcome": "failed", "reason": f"{len(failed)} of {len(calls)} calls differ"}
    signatures = sorted({call.signature for call in calls if call.signature})
    proved = {call.signature for call in calls if call.says_something}
    open_ones = [name for name in signatures if name not in proved]
    if not signatures:
        return {"outcome": "inconclusive", "reason": "nothing in it could be called"}
    if open_ones:
        text = ", ".join(open_ones)
        return {"outcome": "inconclusive", "reason": f"never ran with comparable results: {text}"}
    return {"outcome": worst(call.outcome for call in calls), "reason": ""}


def _compare_call(mode: Mode, rule: Rule, sides: _Sides, key: tuple[str, str, str]) -> CallVerdict:
    stock, slim = sides.stock.calls.get(key), sides.slim.calls.get(key)
    found = _judge_call(rule, sides, stock, slim)
    verdict = CallVerdict(
        mode=mode,
        kind=key[0],
        signature=key[1],
        case=key[2],
        error_stock=stock.error if stock else None,
        error_slim=slim.error if slim else None,
        **found,
    )
    if verdict.outcome == "failed" and _disagrees_with_itself(rule, sides, stock):
        reason = f"{verdict.reason}; but the stock does not repeat its own answer either"
        return verdict.model_copy(update={"outcome": "inconclusive", "reason": reason})
    return verdict


def _disagrees_with_itself(rule: Rule, sides: _Sides, stock: Call | None) -> bool:
    if stock is None or sides.again is None:
        return False
    itself = _Sides(sides.stock, sides.again, None)
    again = sides.again.calls.get(stock.key)
    return bool(_judge_call(rule, itself, stock, again)["outcome"] == "failed")


def _judge_call(rule: Rule, sides: _Sides, stock: Call | None, slim: Call | None) -> dict[str, Any]:
    """Return outcome, reason and outputs of a call."""
    if stock is None or slim is None:
        return _failed(f"made on one side only: {'slim' if stock is None else 'stock'}")
    if (stock.status, slim.status) != ("ok", "ok"):
        return _judge_errors(rule, stock, slim)
    if stock.inputs != slim.inputs:
        return _failed("the inputs that were made differ: numpy computes otherwise there")
    if [output.name for output in stock.outputs] != [output.name for output in slim.outputs]:
        return _failed(f"outputs are called otherwise: {_names(stock)} against {_names(slim)}")
    outputs = tuple(
        _compare_output(rule, sides, *pair)
        for pair in zip(stock.outputs, slim.outputs, strict=True)
    )
    wrong = [output for output in outputs if output.outcome == "failed"]
    reason = f"{wrong[0].name or 'the output'}: {wrong[0].reason}" if wrong else ""
    outcome = worst(output.outcome for output in outputs)
    return {"outcome": outcome, "reason": reason, "outputs": outputs}


def _judge_errors(rule: Rule, stock: Call, slim: Call) -> dict[str, Any]:
    """Judge a call that gave an error on a side.

    Errors have to be of one type and say the same. Two that nodes of the graph gave need not say
    the same; where the input was wrong on purpose, it is enough that the graph refused it.
    """
    if rule.kinds and stock.kind == "misuse" and slim.error and slim.error.type == REFUSED:
        # Whatever serves, the service refuses this before its backend is asked; Python's signatures
        # of models from TensorFlow 1 and Keras 2 take other shapes than they name.
        return {"outcome": "passed", "reason": ""}
    if stock.error is None or slim.error is None:
        return _failed(f"an error on one side only: {'stock' if stock.error else 'slim'}")
    in_graphs = from_graph(stock.error.message) and from_graph(slim.error.message)
    if in_graphs and stock.kind == "misuse":
        return {"outcome": "passed", "reason": ""}
    if not _same_type(rule, stock.error.type, slim.error.type):
        return _failed(f"another error: {stock.error.type} became {slim.error.type}")
    compared = rule.words and not rule.kinds and not in_graphs
    if compared and essence(stock.error.message) != essence(slim.error.message):
        return _failed("the same type of error with another message")
    return {"outcome": "passed", "reason": ""}


def _same_type(rule: Rule, stock: str, slim: str) -> bool:
    return stock == slim or (rule.kinds and kind_of(stock) == kind_of(slim))


def _failed(reason: str) -> dict[str, Any]:
    return {"outcome": "failed", "reason": reason}


def _names(call: Call) -> str:
    return ", ".join(output.name for output in call.outputs) or "none"


def _compare_output(rule: Rule, sides: _Sides, stock: Output, slim: Output) -> OutputVerdict:
    evidence: dict[str, Any] = {
        "name": stock.name,
        "dtype": stock.dtype,
        "shape": stock.shape or (),
        "sha256_stock": stock.sha256,
        "sha256_slim": slim.sha256,
    }
    if (stock.dtype, stock.shape) != (slim.dtype, slim.shape):
        reason = f"{_form(stock)} became {_form(slim)}"
        return OutputVerdict(**evidence, outcome="failed", reason=reason)
    if stock.array is None or slim.array is None:
        return OutputVerdict(**evidence, outcome="passed", reason="its values cannot be read")
    ours, theirs = sides.stock.arrays[stock.array], sides.slim.arrays[slim.array]
    return OutputVerdict(**evidence, **_compare_arrays(rule, stock.dtype, ours, theirs))


def _form(output: Output) -> str:
    return f"{output.dtype}{list(output.shape) if output.shape is not None else ''}"


def _compare_arrays(rule: Rule, dtype: str, stock: Array, slim: Array) -> dict[str, Any]:
    """Compare two arrays of the same dtype and shape; return evidence and outcome."""
    differs = _differing_bits(stock, slim)
    evidence: dict[str, Any] = {"elements": stock.size}
    numbers = _numbers(dtype, stock), _numbers(dtype, slim)
    if differs.any() and dtype != "string":
        evidence |= _distances(*numbers)
    if rule.kind == "tolerance" and dtype in _RTOL:
        rtol = _RTOL[dtype] if rule.rtol is None else rule.rtol
        atol = rtol * _largest(numbers[0]) if rule.atol is None else rule.atol
        differs &= ~_close(*numbers, rtol, atol)
        evidence |= {"rtol": rtol, "atol": atol}
    count = int(differs.sum())
    if not count:
        return {**evidence, "outcome": "passed"}
    first = np.unravel_index(int(differs.argmax()), stock.shape)
    return {
        **evidence,
        "outcome": "failed",
        "reason": f"{count} of {stock.size} values differ",
        "differing": count,
        "first_index": tuple(int(part) for part in first),
        "first_stock": _shown(numbers[0][first]),
        "first_slim": _shown(numbers[1][first]),
    }


def _differing_bits(stock: Array, slim: Array) -> npt.NDArray[np.bool_]:
    """Return for each value whether its bytes differ: -0.0 is not 0.0, a NaN is its payload."""
    if stock.dtype.hasobject:
        return np.asarray(stock != slim, dtype=bool).reshape(stock.shape)
    differs: npt.NDArray[np.bool_] = (_bytes(stock) != _bytes(slim)).any(axis=-1)
    return differs.reshape(stock.shape)


def _bytes(array: Array) -> Array:
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint8).reshape(flat.size, array.dtype.itemsize)


def _numbers(dtype: str, array: Array) -> Array:
    """Return values as a person reads them; bfloat16 was stored as its bits."""
    if dtype == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


def _close(stock: Array, slim: Array, rtol: float, atol: float) -> npt.NDArray[np.bool_]:
    wide = np.result_type(stock.dtype, np.float64)
    close: npt.NDArray[np.bool_] = np.isclose(
        slim.astype(wide), stock.astype(wide), rtol=rtol, atol=atol, equal_nan=True
    )
    return close


def _largest(stock: Array) -> float:
    finite = np.abs(stock[np.isfinite(stock)].astype(np.result_type(stock.dtype, np.float64)))
    return float(finite.max(initial=0.0))


def _distances(stock: Array, slim: Array) -> dict[str, float]:
    """Return how far values lie apart where both are finite."""
    wide = np.result_type(stock.dtype, np.float64)
    first, second = stock.astype(wide), slim.astype(wide)
    both = np.isfinite(first) & np.isfinite(second)
    if not both.any():
        return {}
    apart, size = np.abs(second[both] - first[both]), np.abs(first[both])
    relative = np.divide(apart, size, out=np.zeros_like(apart), where=size > 0)
    return {"max_abs": float(apart.max()), "max_rel": float(relative.max())}


def _shown(value: Any) -> str:
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def same_words(stock: Environment | None, slim: Environment | None) -> bool:
    """Return whether errors can be expected to be worded alike: versions reword theirs."""
    if stock is None or slim is None:
        return True
    ours, theirs = (
        (side.tensorflow, side.keras, side.python.rpartition(".")[0]) for side in (stock, slim)
    )
    return ours == theirs


def same_way(stock: Environment | None, slim: Environment | None) -> bool:
    """Return whether both sides were asked through the same interface of TensorFlow."""
    return stock is None or slim is None or stock.backend == slim.backend


def not_asked(name: str, stock: Answers, slim: Environment | None) -> ModelVerdict | None:
    """Return the verdict on a model that only Python's TensorFlow serves, of a side without it.

    Args:
        name: The model's.
        stock: What the stock target answered, which says how it was loaded.
        slim: What the slim side computed with.
    """
    native = slim is not None and slim.backend == "capi" and slim.import_error is None
    if isinstance(stock, str) or stock.has_signatures or not native:
        return None
    reason = (
        "it has no signatures: Python's TensorFlow alone serves it, and this side has the C API"
    )
    return ModelVerdict(name=name, outcome="not asked", reason=reason)


def compare_environments(
    stock: Mapping[Mode, Environment | None], slim: Mapping[Mode, Environment | None]
) -> Iterator[str]:
    """Yield where two targets compute with something else; the first word names the field."""
    for mode in stock:
        ours, theirs = stock[mode], slim.get(mode)
        if ours is None or theirs is None:
            continue
        fields = ["tensorflow", "keras", "numpy", "python", "machine", "cpus", "gpus", "backend"]
        if theirs.backend == "capi":  # which has no Keras
            fields.remove("keras")
        for field in fields:
            before, after = getattr(ours, field), getattr(theirs, field)
            if field == "gpus" and theirs.backend == "capi":  # which gives the names alone
                before = tuple(gpu.partition(", ")[0] for gpu in before)
            if before != after:
                yield f"{field} ({mode}): {_plain(before)} against {_plain(after)}"


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)
