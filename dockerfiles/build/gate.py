r"""Let an image pass only if it answers as its packages did before slimming. Runs inside of it.

    zoo     asks for every CUDA library (check_cuda.py), then compares a zoo of models of many
            kinds; an image for one model serves no others, and is not asked
    model   compares the model at /model, and its frozen form at /served where the build made one

Compared are the environment as it was installed (/stock) and the one of this image (/opt/venv).
What was compared goes into the image, without times, so that equal images stay equal.

They are compared as the image will serve them: through Python's TensorFlow, or with BACKEND=capi
through TensorFlow's C API. A frozen model is asked through that on both sides, since Python's
TensorFlow does not load it: what freezing changed is in its freeze.json, measured by the freezer.

Usage: BACKEND=tensorflow|capi PROFILE=arch|inference|workload|none GATE=on|off \
    python gate.py zoo|model OUT
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

STOCK, SLIM = "/stock", "/opt/venv"
TFSLIM = "/opt/tfslim/bin/tfslim"
MODEL, SERVED = Path("/model"), Path("/served")
FROZEN = "freeze.json"
VERDICT = Path("verdict.json")
OFF = """\
gate: ##########################################################
gate: GATE=off: nothing shows that this image answers as before.
gate: ##########################################################"""


def run(*command: str | Path) -> None:
    """Run a check; one that fails ends the build."""
    if subprocess.run(list(map(str, command)), check=False).returncode:
        sys.exit("gate: failed: there will be no image")


def compare(*options: str | Path) -> dict[str, Any]:
    """Compare by `tfslim verify` and return what was compared."""
    backend = os.environ.get("BACKEND", "tensorflow")
    asked = ("--gpu", "off", "--backend", backend, "--output", VERDICT)
    run(TFSLIM, "verify", STOCK, SLIM, *asked, *options)
    said = json.loads(VERDICT.read_text(encoding="utf-8"))
    models = {model["name"]: model["outcome"] for model in said["models"]}
    return {"outcome": said["outcome"], "tfslim": said["tfslim"], "models": models}


def zoo(profile: str, *, on: bool) -> dict[str, Any]:
    """Check the libraries, and the zoo in an image for any model."""
    run(sys.executable, Path(__file__).with_name("check_cuda.py"))
    if profile == "workload":
        return {"outcome": "not asked", "why": "this image is for one model"}
    return compare() if on else {"outcome": "off"}


def model(profile: str, *, on: bool) -> dict[str, Any]:
    """Compare the model that the image is tried with."""
    if not on:
        print(OFF, flush=True)
        return {"outcome": "off"}
    if not any(path.suffix in (".pb", ".keras") for path in MODEL.rglob("*")):
        if profile == "workload":
            sys.exit("gate: there is no model to try, and an image for one model needs it")
        return {"outcome": "not asked", "why": "there was no model"}
    record = compare("--model", MODEL)
    if (SERVED / FROZEN).is_file() and not any(MODEL.rglob(FROZEN)):
        record["models"] |= compare("--model", SERVED)["models"]
    return record


def main() -> None:
    """Do one of the two, and leave its record."""
    what, out = sys.argv[1], Path(sys.argv[2], "usr/share/tfslim")
    profile = os.environ["PROFILE"]
    if profile == "none":
        record: dict[str, Any] = {"outcome": "not asked", "why": "nothing was slimmed"}
    else:
        check = {"zoo": zoo, "model": model}[what]
        record = check(profile, on=os.environ["GATE"] != "off")
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1) + "\n"
    (out / f"gate-{what}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
