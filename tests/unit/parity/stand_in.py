"""Stands in for a tree's Python that runs probe.py or zoo.py: answers as `TREE/answers.json` says.

python stand_in.py TREE -I -B probe.py --out OUT --model MODEL…
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

from answers import ENVIRONMENT, Answers

from tfslim.parity import probe


def main() -> None:
    tree, arguments = Path(sys.argv[1]), sys.argv[4:]
    plan = json.loads((tree / "answers.json").read_text())
    if arguments[0] == "zoo.py":
        make_zoo(arguments[1])
        return
    pairs = list(itertools.pairwise(arguments))
    out = Path(next(value for option, value in pairs if option == "--out"))
    with (tree / "backends").open("a") as file:
        file.writelines(f"{value}\n" for option, value in pairs if option == "--backend")
    out.mkdir(parents=True)
    environment = ENVIRONMENT | plan.get("environment", {})
    (out / probe.ENVIRONMENT).write_text(json.dumps(environment))
    for name in (Path(value).name for option, value in pairs if option == "--model"):
        sys.stdout.write(f"probe: {name}: load\n")
        sys.stdout.flush()
        answer(
            name, plan, out, [Path(value).name for option, value in pairs if option == "--input"]
        )


def answer(name: str, plan: dict[str, Any], out: Path, inputs: list[str]) -> None:
    value = plan.get(name, [1.0])
    if value == "dies":
        os.abort()
    answers = Answers(name, loader=plan.get("loaders", {}).get(name, "by hand"))
    if value == "error":
        answers.error("InvalidArgumentError", "not with made-up inputs")
    else:
        for case in ("batch 1, seed 0", *(inputs if plan.get("takes inputs") else ())):
            answers.run(case=case, result=value)
    refusal = str(plan.get("refusal", "wrong rank"))
    answers.error("ValueError", refusal, kind="misuse", case="wrong rank")
    answers.write(out)


def make_zoo(out: str) -> None:
    if out == "--version":
        sys.stdout.write("zoo: tensorflow2.21.0\n")
        return
    for name in ("bear", "lion"):
        (Path(out) / name / "variables").mkdir(parents=True)
        (Path(out) / name / "saved_model.pb").touch()


main()
