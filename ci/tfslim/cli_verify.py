"""`tfslim verify`: the parity gate's options, and its verdict as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.text import Text

from tfslim.errors import ConfigError, VerifyError
from tfslim.files import write_whole
from tfslim.parity.gate import Request
from tfslim.parity.probing import Settings
from tfslim.parity.verdict import CallVerdict, ModelVerdict, Outcome, OutputVerdict, Verdict

__all__ = ["EXIT_INCONCLUSIVE", "batches", "error_of", "render", "request", "write"]

EXIT_INCONCLUSIVE = 21
_STYLES: dict[Outcome, str] = {
    "passed": "green",
    "not asked": "yellow",
    "inconclusive": "yellow",
    "failed": "bold red",
}
_SHOWN_CALLS = 3
_SHOWN_LINES = 14
_SHOWN_CHARACTERS = 120


def request(
    stock: str,
    slim: str,
    *,
    model: tuple[str, ...],
    input_files: tuple[Path, ...],
    batch: str,
    seeds: int,
    unknown_size: int,
    timeout: float,
    **options: Any,
) -> Request:
    """Return what the command line asks for.

    Raises:
        ConfigError: An option's value means nothing.
    """
    settings = Settings(batches(batch), seeds, unknown_size, seconds=timeout)
    return Request(stock, slim, model, input_files, settings, **options)


def batches(text: str) -> tuple[int, ...]:
    """Return the batch sizes in "1,3".

    Raises:
        ConfigError: It is not a list of sizes.
    """
    try:
        sizes = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 0:
        raise ConfigError(
            f"--batch {text!r} is not a list of batch sizes", way_out="For example: --batch 1,3"
        )
    return sizes


def write(verdict: Verdict, path: Path) -> None:
    """Write the verdict as JSON."""
    write_whole(path, verdict.model_dump_json(indent=1))


def error_of(verdict: Verdict) -> VerifyError | None:
    """Return the error that a verdict is; None unless it failed."""
    if verdict.outcome != "failed":
        return None
    failed = [model.name for model in verdict.models if model.outcome == "failed"]
    return VerifyError(
        f"{verdict.slim.name} does not answer as {verdict.stock.name} does",
        why=f"{verdict.reason}\n{', '.join(failed)}".strip(),
        way_out="The verdict's evidence is above; --output FILE keeps all of it as JSON.",
    )


def render(verdict: Verdict) -> Text:
    """Return one line for each model, the first differences of each, and the verdict."""
    text = Text()
    for model in verdict.models:
        text.append(f"{model.outcome:13}", _STYLES[model.outcome])
        text.append(f"{model.name:18}{_counts(model)}\n")
        for line in _details(model):
            text.append(f"{'':13}{line}\n", "dim")
    for line in (*verdict.differences, *verdict.unseen):
        text.append(f"note: {line}\n", "dim")
    for mode, rule in verdict.rules.items():
        text.append(f"rule: {mode}: {_rule(rule.kind, rule.rtol, rule.atol)}: {rule.why}\n", "dim")
        if rule.kinds:
            text.append(
                f"rule: {mode}: errors by kind: Python and the C API name them otherwise\n", "dim"
            )
        elif not rule.words:
            text.append(
                f"rule: {mode}: errors by type: other versions word them otherwise\n", "dim"
            )
    text.append(f"{verdict.outcome}", _STYLES[verdict.outcome])
    text.append(f" ({verdict.reason}) in {verdict.seconds:.0f} s: {verdict.slim.name}")
    text.append(f" against {verdict.stock.name}")
    return text


def _rule(kind: str, rtol: float | None, atol: float | None) -> str:
    if kind == "bits":
        return "bit for bit"
    shown = [f"{value:.3g}" if value is not None else "of the dtype" for value in (rtol, atol)]
    return f"within rtol {shown[0]}, atol {shown[1]}"


def _counts(model: ModelVerdict) -> str:
    """Say what was compared."""
    runs = sum(call.kind == "run" for call in model.calls)
    errors = sum(call.error_stock is not None for call in model.calls)
    values = sum(output.elements for call in model.calls for output in call.outputs)
    return f"{runs} calls, {values} values and {errors} errors compared"


def _details(model: ModelVerdict) -> Iterator[str]:
    """Yield why a model is not passed, and what is unusual about it."""
    yield from model.notes
    if model.outcome == "passed":
        return
    yield from model.reason.splitlines()[:_SHOWN_LINES]
    for call in [call for call in model.calls if call.outcome != "passed"][:_SHOWN_CALLS]:
        yield f"{call.signature} {call.case} [{call.mode}]: {call.reason}".strip()
        yield from (f"  {line}" for line in _evidence(call))


def _evidence(call: CallVerdict) -> Iterator[str]:
    for side, error in (("stock", call.error_stock), ("slim", call.error_slim)):
        if error is not None:
            message = " ".join(error.message.split())
            yield f"{side}: {error.type}: {message[:_SHOWN_CHARACTERS]}"
    for output in call.outputs:
        if output.first_index is not None:
            yield _difference(output)
            return


def _difference(output: OutputVerdict) -> str:
    at = ", ".join(map(str, output.first_index or ()))
    text = f"first at [{at}]: {output.first_stock} became {output.first_slim}"
    if output.max_abs is not None and output.max_rel is not None:
        text += f"; at most {output.max_abs:.3g} apart, {output.max_rel:.3g} of the value"
    return text
