"""Where figures come from: parity, builds, pins, machines, and how to do it again."""

from __future__ import annotations

from collections.abc import Iterator

from tfslim.report import figures
from tfslim.report.blocks import Block, Facts, Paragraph, table
from tfslim.report.inert import plain
from tfslim.report.record import ModelRecord, RunRecord
from tfslim.report.summary import Source

__all__ = ["builds", "environment", "parity"]

_TOP = 12  # rows of a table


def parity(part: RunRecord) -> Iterator[Block]:
    """Yield what the parity gate found."""
    rows = [
        (plain(subject, 40), plain(gate.name, 30), plain(gate.outcome, 30),
         str(len(gate.models)) if gate.models else figures.MISSING, _disagreeing(gate.models)
         or plain(gate.why, 160) or figures.MISSING)
        for subject, gates in part.parity.items()
        for gate in gates[:_TOP]
    ]  # fmt: skip
    if rows:
        yield Paragraph(
            "The same models in the packages before slimming and in the image, every answer "
            "compared."
        )
        yield from table(("image", "gate", "outcome", "models", "not passed, or why"), rows[:60])


def _disagreeing(models: dict[str, str]) -> str:
    found = [f"{plain(name, 40)} {plain(o, 20)}" for name, o in models.items() if o != "passed"]
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return ", ".join(found[:5]) + more


def builds(part: RunRecord) -> Iterator[Block]:
    """Yield how images were built, and from what."""
    again = {image.build.variant: image.seconds for image in part.rebuilds}
    yield from table(
        ("image", "built in", "cached steps", "again", "digest", "lock"),
        (
            (
                plain(image.build.variant, 40),
                figures.number(image.seconds, 0, "s"),
                f"{image.cached_steps} of {image.steps}",
                figures.number(again.get(image.build.variant), 1, "s"),
                plain(image.digest, 80).removeprefix("sha256:")[:12],
                plain(image.build.lock or "none", 80),
            )
            for image in part.images[:40]
        ),
    )
    bases = {name: base for image in part.images for name, base in image.bases.items()}
    yield from table(
        ("FROM", "origin", "pin"),
        ((plain(b.name, 60), b.origin, plain(b.pin, 80)) for b in list(bases.values())[:_TOP]),
        left=3,
    )


def environment(source: Source) -> Iterator[Block]:
    """Yield where the run was made, and the command that makes it again."""
    for part in source.record.parts:
        env = part.environment
        rows = [
            ("model", _model(part.model) if part.model else figures.NOT_MEASURED),
            ("tfslim", plain(env.tfslim, 40)),
            ("commit", _commit(part)),
            ("machine", plain(env.machine_key, 120)),
            ("processor", f"{plain(env.cpu, 80)}, {env.cpus} usable"),
            ("memory", figures.size(env.memory_bytes)),
            ("kernel", plain(f"{env.kernel} {env.machine}", 80)),
            ("engine", plain(", ".join(f"{n} {v}" for n, v in env.engine.items()), 160)),
            ("builder", plain(env.builder, 160)),
            ("GPU", plain(env.gpu, 160)),
            ("load when it began", figures.number(env.load_average, 1)),
            ("started", f"{part.started:%Y-%m-%d %H:%M} UTC"),
            ("job", plain(env.ci.url, 160) if env.ci else figures.MISSING),
        ]
        yield Facts(tuple(rows))
    yield Paragraph(
        f"At this commit, on such a machine: {_commands(source.record)}. The record behind this "
        "report is report.json; every raw sample is in it or in the file that it names.",
        strong="Do it again",
    )


def _commands(record: RunRecord) -> str:
    """Return the commands that measure the same again."""
    starts = record.cold_starts.launches if record.cold_starts else ()
    measured = [
        *(item.build.variant for item in record.images),
        *(item.variant for item in record.measurements),
        *(run.subject for run in record.http),
        *(run.subject for run in record.in_process),
    ]
    runs = (("bench", measured), ("bench --cold-start", [item.subject for item in starts]))
    said = [
        f"“tfslim {verb} {' '.join(plain(name, 60) for name in list(dict.fromkeys(names))[:_TOP])}”"
        for verb, names in runs
        if names
    ]
    return " and ".join(said) or f"“tfslim inspect” of {len(record.sizes)} image(s)"


def _model(model: ModelRecord) -> str:
    dropped = ", ".join(f"{plain(n, 40)} ({figures.size(b)})" for n, b in model.dropped.items())
    left_out = f"; other formats left out: {dropped}" if dropped else ""
    return plain(
        f"{model.name} ({model.source}, {figures.size(model.disk_bytes)}, {model.mode}){left_out}",
        300,
    )


def _commit(part: RunRecord) -> str:
    found = part.environment.source
    if not found.commit:
        return figures.MISSING
    ref = f" ({plain(found.ref, 60)})" if found.ref else ""
    changed = ", with changes that are not committed" if found.changed else ""
    return plain(found.commit)[:12] + ref + changed
