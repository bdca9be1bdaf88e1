"""Prove slimmed trees on this machine's GPU: every kernel library, models, speed, starts.

    python benchmarks/gpu/prove.py slim=PACK_OR_TREE [NAME=…] [--stock NAME=…] [--wrong NAME=…]

Needs this checkout and tfslim's dependencies; no container engine, no network. A tree is a virtual
environment, a root file system, or a folder made by `tfslim pack`. Finished steps are kept in the
state folder: the same command again goes on where it stopped. docs/gpu-proof.md tells the rest.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

# This checkout's tfslim, whatever is installed: only what it needs has to be.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "ci"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from gpuproof import judge
from gpuproof.document import ProofDocument, load, save
from gpuproof.models import Models, Speed
from gpuproof.plan import DATA, load_plan
from gpuproof.run import Runner, chosen_steps, gpu_state
from gpuproof.suites import Device
from gpuproof.text import markdown
from gpuproof.trees import Opened, open_tree, parse
from tfslim.bench.device import choose_root_device
from tfslim.bench.driver import find_driver
from tfslim.errors import ConfigError, TfslimError
from tfslim.report.machine import environment
from tfslim.report.record import RunRecord, now
from tfslim.slim.proofs import load_proofs, save_proofs, with_results
from tfslim.ui import Ui

EXIT_FAILED = 11  # as `tfslim verify`: a tree does not do what it should


def main(argv: Sequence[str] | None = None) -> int:
    """Run, judge, write; the exit status is 11 where a step failed."""
    options = _options(argv)
    ui = Ui(quiet=options.quiet)
    try:
        if options.list:
            for part in load_plan(options.plan).parts:
                print(f"{part.id:12} {part.title} ({', '.join(part.modes)})")
            return 0
        if options.record_proof is not None:
            return _record(options.record_proof, ui)
        return _prove(options, list(argv if argv is not None else sys.argv[1:]), ui)
    except TfslimError as error:
        ui.error(error)
        return error.exit_code


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    add = parser.add_argument
    add("trees", nargs="*", metavar="NAME=TREE", help="slim trees: folders, or packs of them")
    add("--stock", metavar="NAME=TREE", help="the tree that is right")
    add(
        "--wrong", action="append", default=[], metavar="NAME=TREE", help="for another architecture"
    )
    add("--models", action="append", default=[], metavar="FOLDER", help="models to compare with")
    add("--model", type=Path, help="SavedModel to time; else the one in each root file system")
    add("--parts", default="", help="gemm,conv: these alone; --list names all")
    add("--again", default="", help="parts that are run although they were done")
    add("--device", choices=["auto", "gpu", "cpu"], default="auto")
    add("--minutes", type=float, help="begin no step after this time")
    add("--launches", type=int, default=5, help="processes of each tree that is timed")
    add("--seconds", type=float, default=2.0, help="of each timing")
    add(
        "--state",
        type=Path,
        default=Path(".tfslim/gpu-proof"),
        help="where finished steps are kept",
    )
    add("-o", "--output", type=Path, default=Path("gpu-proof"), help="folder for the results")
    add(
        "--fake-driver", type=Path, metavar="FOLDER", help="without a GPU: stand-ins for its driver"
    )
    add("--record-proof", type=Path, metavar="PROOF.json", help="write a result into the rules")
    add("--plan", type=Path, default=DATA, help="another list of parts and questions")
    add("--list", action="store_true", help="name the parts")
    add("-q", "--quiet", action="store_true")
    return parser.parse_args(argv)


def _record(path: Path, ui: Ui) -> int:
    """Write what a run proved of rules into the rules' own data."""
    found = judge.proofs_of(load(path), path.as_posix())
    if not found:
        raise ConfigError(
            f"{path} proves no rule",
            why="It was made without a GPU, or no rule's parts were complete.",
        )
    save_proofs(with_results(load_proofs(), found))
    for rule, proof in found.items():
        ui.print(f"{rule}: {proof}")
    ui.note("now: tfslim rules > docs/rules.md, and commit both")
    return 0


def _prove(options: argparse.Namespace, argv: list[str], ui: Ui) -> int:
    given = [
        *parse(options.trees, "slim"),
        *parse([options.stock] if options.stock else [], "stock"),
        *parse(options.wrong, "wrong"),
    ]
    names = [one.name for one in given]
    if not options.trees or len(set(names)) < len(names):
        raise ConfigError(
            "name the trees to be proved, each once",
            way_out="python benchmarks/gpu/prove.py slim=FOLDER --stock stock=FOLDER",
        )
    started, begin, plan = now(), time.monotonic(), load_plan(options.plan)
    wish = {"auto": "auto", "gpu": "required", "cpu": "off"}[options.device]
    device = choose_root_device(wish)  # type: ignore[arg-type]
    ui.note(f"GPU: {device.text}")
    driver = device.driver
    if not device.gpu and options.fake_driver is not None:
        driver = find_driver([str(options.fake_driver.resolve())])
    for line in driver.describe() if driver else ():
        ui.note(line)
    stand_in = options.fake_driver.resolve() if options.fake_driver and not device.gpu else None
    on = Device(device.gpu, stand_in)
    machine = environment(None, device.text)
    before = gpu_state() if device.gpu else {}
    state = options.state.absolute()
    with ExitStack() as held:
        trees = [held.enter_context(open_tree(one, state, driver, ui)) for one in given]
        runner = _runner(options, trees, device=on, text=device.text, ui=ui)
        wanted = [name for name in options.parts.split(",") if name]
        steps = chosen_steps(plan, wanted, trees, stand_in=bool(stand_in))
        if options.minutes is not None:
            runner.deadline = begin + 60 * options.minutes
        results = runner.run(steps, again=options.again.split(","))
    after = gpu_state() if device.gpu else {}
    evidence = judge.Evidence(plan, results, [tree.facts for tree in trees])
    document = ProofDocument(
        started=started,
        seconds=time.monotonic() - begin,
        command=f"python benchmarks/gpu/prove.py {shlex.join(argv)}",
        device="gpu" if device.gpu else "cpu",
        environment=machine,
        gpu_state={"before": before, "after": after} if before else {},
        driver=tuple(driver.describe()) if driver and device.gpu else (),
        trees=tuple(tree.facts for tree in trees),
        steps=tuple(results),
        parity=tuple(judge.parities(evidence)),
        questions=tuple(judge.answers(evidence)),
        rules=judge.judge_rules(evidence),
        notes=tuple(_notes(runner, device.text)),
    )
    return _written(document, runner, options.output, ui)


def _runner(
    options: argparse.Namespace, trees: Sequence[Opened], *, device: Device, text: str, ui: Ui
) -> Runner:
    state = options.state.absolute()
    stock = next((tree for tree in trees if tree.facts.role == "stock"), None)
    for folder in ("jobs", "steps"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    return Runner(
        trees={tree.facts.name: tree for tree in trees},
        device=device,
        models=Models(options.models, state, stock, device, ui),
        speed=Speed(
            trees=[tree for tree in trees if tree.facts.role != "wrong"],
            model=options.model.absolute() if options.model else None,
            state=state,
            device=device,
            launches=options.launches,
            seconds=options.seconds,
            text=text if device.gpu else "CPU",
            ui=ui,
        ),
        state=state,
        machine=text,
        ui=ui,
    )


def _notes(runner: Runner, text: str) -> list[str]:
    notes = [f"{len(runner.reused)} steps were done by an earlier run of the same"] * bool(
        runner.reused
    )
    if not runner.device.gpu:
        notes.append(f"GPU: {text}; nothing here proves a rule on a GPU")
    return notes


def _written(document: ProofDocument, runner: Runner, output: Path, ui: Ui) -> int:
    """Write the proof, the run record with its timings, and both as text."""
    output.mkdir(parents=True, exist_ok=True)
    save(document, output / "proof.json")
    text = markdown(document)
    (output / "proof.md").write_text(text, encoding="utf-8")
    record = RunRecord(
        started=document.started,
        environment=document.environment,
        in_process=runner.speed.calls(),
        cold_starts=runner.speed.starts(),
        notes=[*document.notes, "what was computed stands in proof.json beside this record"],
    )
    record.save(output / "report.json")
    bad = [step for step in document.steps if step.status in ("failed", "crashed", "timed out")]
    ui.print(f"{len(document.steps)} steps, {len(bad)} not passed; {output / 'proof.md'}")
    return EXIT_FAILED if bad else 0


if __name__ == "__main__":
    sys.exit(main())
