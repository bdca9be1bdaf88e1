"""A proof as Markdown: what passed, what did not, and what nobody measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpuproof.document import ProofDocument, StepResult
from gpuproof.plan import ALL_TREES
from tfslim.ui import human_bytes

__all__ = ["markdown"]


def markdown(document: ProofDocument) -> str:
    """Return a document as Markdown."""
    return "\n".join(_lines(document)) + "\n"


def _lines(document: ProofDocument) -> Iterator[str]:
    machine = document.environment
    gpus = ", ".join(f"{gpu.name} (driver {gpu.driver})" for gpu in machine.gpus)
    yield f"# Proof on {gpus if document.device == 'gpu' else 'a CPU: no GPU code was run'}\n"
    commit = machine.source.commit[:12] or "unknown"
    yield (
        f"{document.started:%Y-%m-%d %H:%M} UTC, {document.seconds:.0f} s; {machine.cpu}, "
        f"{machine.cpus} processors, {human_bytes(machine.memory_bytes)}; tfslim {machine.tfslim}, "
        f"commit {commit}.\n"
    )
    yield f"    {document.command}\n"
    yield "| tree | role | kind | profile | serves | bytes |"
    yield "|---|---|---|---|---|---|"
    for tree in document.trees:
        serves = ", ".join(f"sm_{sm}" for sm in tree.served) or "–"
        size = human_bytes(tree.bytes) if tree.bytes else "–"
        yield (
            f"| {tree.name} | {tree.role} | {tree.kind} | {tree.profile or '–'} | {serves} "
            f"| {size} |"
        )
    yield from _steps(document)
    yield from _parity(document)
    yield from _questions(document)
    yield from _rules(document)
    yield from _state(document)


def _steps(document: ProofDocument) -> Iterator[str]:
    yield "\n## Steps\n"
    yield "| part | mode | tree | device | result | cases | first calls | seconds |"
    yield "|---|---|---|---|---|---|---:|---:|"
    for step in document.steps:
        first = step.figures.get("first_calls_s")
        yield (
            f"| {step.part} | {step.mode} | {'' if step.tree == ALL_TREES else step.tree} "
            f"| {step.device or '–'} | {_result(step)} | {_cases(step)} "
            f"| {f'{first:.2f} s' if first is not None else '–'} | {step.seconds:.1f} |"
        )
    yield from _details(document.steps)


def _result(step: StepResult) -> str:
    if step.status == "not measured":
        return _cell(step.why or step.status)
    return step.status if step.status == "passed" else f"**{step.status}**"


def _cases(step: StepResult) -> str:
    states = [case.status for case in step.cases]
    counted = {state: states.count(state) for state in dict.fromkeys(states)}
    return ", ".join(f"{count} {state}" for state, count in counted.items()) or "–"


def _details(steps: Sequence[StepResult]) -> Iterator[str]:
    bad = [step for step in steps if step.status not in ("passed", "not measured")]
    if bad:
        yield "\n### What did not pass\n"
    for step in bad:
        where = f", at {step.at_case}" if step.at_case else ""
        yield f"- **{'.'.join(step.key)}** {step.status}{where}: {_cell(step.why)}"
        for case in step.cases:
            if case.status == "failed":
                yield f"  - {case.name}: {_cell(case.why)[:300]}"
    with_memory = [step for step in steps if step.memory_bytes]
    if with_memory:
        yield "\n### Memory of the GPU\n"
        yield "| step | before | with a context | at the end | PTX cache |"
        yield "|---|---:|---:|---:|---:|"
    for step in with_memory:
        values = [step.memory_bytes.get(name) for name in ("before", "context", "end")]
        shown = " | ".join(human_bytes(value) if value else "–" for value in values)
        cache = step.jit_cache.get("bytes")
        said = human_bytes(cache) if cache is not None else "–"
        yield f"| {'.'.join(step.key)} | {shown} | {said} |"
    timed = [step for step in steps if step.part in ("throughput", "cold-start") and step.figures]
    for step in timed:
        yield f"\n### {step.part}, {step.device}\n"
        yield "| what | value |"
        yield "|---|---:|"
        yield from (f"| {name} | {value:.6g} |" for name, value in step.figures.items())
        yield "\nMedians over launches in turn; whether they differ, `tfslim report` says of"
        yield "`report.json` beside this."
        yield from (f"\n{note}" for note in step.notes)


def _parity(document: ProofDocument) -> Iterator[str]:
    yield "\n## Against the stock tree\n"
    if not document.parity:
        yield "Not measured: no stock tree was carried. References are float64 on the CPU."
        return
    yield "| tree | part | mode | same bits | within tolerance | same errors | refused | differ |"
    yield "|---|---|---|---:|---:|---:|---:|---|"
    for found in document.parity:
        differ = "; ".join(f"{name}: {why}" for name, why in list(found.differ.items())[:5])
        more = f"; and {len(found.differ) - 5} more" if len(found.differ) > 5 else ""
        yield (
            f"| {found.tree} | {found.part} | {found.mode} | {found.same_bits} | {found.near} "
            f"| {found.same_errors} | {found.refused} | {_cell(differ + more) or '0'} |"
        )


def _questions(document: ProofDocument) -> Iterator[str]:
    yield "\n## Open questions\n"
    yield "| question | answer | evidence |"
    yield "|---|---|---|"
    for found in document.questions:
        yield f"| {found.text} | {found.answer} | {_cell(found.why)} |"


def _rules(document: ProofDocument) -> Iterator[str]:
    yield "\n## Rules\n"
    yield "| rule | result | why |"
    yield "|---|---|---|"
    for name, found in document.rules.items():
        yield f"| {name} | {found.result} | {_cell(found.why) or '–'} |"


def _state(document: ProofDocument) -> Iterator[str]:
    if document.gpu_state:
        yield "\n## The GPU, as its driver tells\n"
        yield "| | before | after |"
        yield "|---|---|---|"
        before, after = (document.gpu_state.get(when, {}) for when in ("before", "after"))
        yield from (
            f"| {name} | {value} | {after.get(name, '–')} |" for name, value in before.items()
        )
    if document.driver:
        yield "\n<details><summary>The driver</summary>\n"
        yield from (f"- {line}" for line in document.driver)
        yield "\n</details>"
    if document.notes:
        yield ""
        yield from (f"- {note}" for note in document.notes)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
