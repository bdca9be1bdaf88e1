"""Let an image pass only if it answers as its packages did before slimming. Runs inside of it.

check_cuda.py asks for every CUDA library; `tfslim verify` then runs models through the environment
as it was installed (/stock) and the one of this image (/opt/venv): for any model a zoo of many
kinds, and always the model at /model, where there is one. What was compared goes into the image.

Usage: PROFILE=inference|workload GATE=on|off python gate.py OUT
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STOCK, SLIM = "/stock", "/opt/venv"
TFSLIM = "/opt/tfslim/bin/tfslim"
MODEL = Path("/model")
RECORD = "usr/share/tfslim/gate.json"
OFF = """\
gate: ##########################################################
gate: GATE=off: nothing shows that this image answers as before.
gate: ##########################################################"""


def comparisons(profile: str) -> Iterator[list[str]]:
    """Yield the options of each `tfslim verify`."""
    if profile != "workload":
        yield []  # the zoo
    if any(MODEL.rglob("saved_model.pb")):
        yield ["--model", str(MODEL)]


def compare(options: list[str], verdict: Path) -> dict[str, Any]:
    """Run one comparison; return what was compared, or end the build."""
    command = [TFSLIM, "verify", STOCK, SLIM, "--gpu", "off", "--output", str(verdict), *options]
    done = subprocess.run(command, check=False)
    if done.returncode:
        sys.exit("gate: failed: this image is not finished")
    said = json.loads(verdict.read_text(encoding="utf-8"))
    return {
        "outcome": said["outcome"],
        "tfslim": said["tfslim"],
        "models": {model["name"]: model["outcome"] for model in said["models"]},
        "unseen": said["unseen"],
    }


def main() -> None:
    """Check, compare and leave a record without times, so that equal images stay equal."""
    checked = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("check_cuda.py"))], check=False
    )
    if checked.returncode:
        sys.exit(checked.returncode)
    if os.environ["GATE"] == "on":
        options = comparisons(os.environ["PROFILE"])
        record: Any = [compare(each, Path("verdict.json")) for each in options]
    else:
        print(OFF, flush=True)
        record = "off"
    out = Path(sys.argv[1], RECORD)
    out.parent.mkdir(parents=True)
    out.write_text(json.dumps({"gate": record}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
