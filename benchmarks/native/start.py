"""From process start to the first answer over HTTP, for each backend: launches in turn, ratios.

    python benchmarks/native/start.py --python VENV/bin/python --model SAVED_MODEL \
        [--frozen FROZEN] [--launches 7] [--out RESULT.json]

VENV needs TensorFlow and dockerfiles/app/requirements.txt. The page cache is warm: one launch of
each side comes first and does not count. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np

from tfslim.bench.stats import ratio_of_medians, summarize

APP = Path(__file__).parents[2] / "dockerfiles" / "app"
MEASURES = ("first_answer_s", "second_answer_s", "ready_s", "cpu_s", "rss_mb", "rss_anon_mb")


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--python", required=True)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--frozen", type=Path)
    parser.add_argument("--launches", type=int, default=7)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--skip", default="", help="sides to leave out, as in tensorflow,capi")
    options = parser.parse_args()
    sides: dict[str, dict[str, str]] = {
        "tensorflow": {"BACKEND": "tensorflow", "TFSLIM_MODEL_PATH": str(options.model)},
        "capi": {"BACKEND": "capi", "TFSLIM_MODEL_PATH": str(options.model)},
        "capi no-grappler": {
            "BACKEND": "capi",
            "TFSLIM_MODEL_PATH": str(options.model),
            "GRAPPLER": "off",
        },
    }
    if options.frozen:
        frozen = {"BACKEND": "capi", "TFSLIM_MODEL_PATH": str(options.frozen)}
        sides["frozen"] = frozen
        sides["frozen no-grappler"] = {**frozen, "GRAPPLER": "off"}
    sides = {name: env for name, env in sides.items() if name not in options.skip.split(",")}
    body = None
    found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for number in range(options.launches + 1):
        for name, env in sides.items():
            one, body = launch(options.python, env, body)
            if number:
                found[name].append(one)
    report = summary(found)
    print(json.dumps(report, indent=2))
    if options.out:
        options.out.write_text(json.dumps({**report, "launches": found}, indent=2) + "\n")


def launch(python: str, env: dict[str, str], body: bytes | None) -> tuple[dict[str, float], bytes]:
    """Start the service, ask twice, end it; return seconds and megabytes, and the body sent."""
    start = time.monotonic()
    with subprocess.Popen(
        [python, "-m", "tfserve_app"],
        cwd=APP,
        env={**os.environ, "HOST": "127.0.0.1", "PORT": "0", "TF_CPP_MIN_LOG_LEVEL": "3", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        events = {}
        for line in process.stdout:
            event = json.loads(line)
            events[event["event"]] = event
            if event["event"] == "ready":
                break
        ready = time.monotonic()
        client = http.client.HTTPConnection("127.0.0.1", events["listening"]["port"])
        body = body or _body(client)
        ask(client, body)
        first = time.monotonic()
        # Seconds of processor time, all threads: what a machine that is busy otherwise still shows.
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        ask(client, body)
        second = time.monotonic()
        status = Path(f"/proc/{process.pid}/status").read_text()
        process.kill()
    kilobytes = {
        line.split(":")[0]: line.split()[1] for line in status.splitlines() if "kB" in line
    }
    marks = events["ready"]["marks"]
    phases = {f"{name}_s": at - marks["process_start"] for name, at in marks.items()}
    return {
        **phases,
        "ready_s": ready - start,
        "first_answer_s": first - start,
        "second_answer_s": second - first,
        "cpu_s": (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
        "rss_mb": int(kilobytes["VmRSS"]) * 1024 / 1e6,
        "rss_anon_mb": int(kilobytes["RssAnon"]) * 1024 / 1e6,  # without pages of files
    }, body


def ask(client: http.client.HTTPConnection, body: bytes) -> None:
    """Send a prediction and read the whole answer."""
    client.request("POST", "/predict", body, {"content-type": "application/x-npz"})
    answer = client.getresponse()
    text = answer.read()
    assert answer.status == 200, text[:500]


def _body(client: http.client.HTTPConnection) -> bytes:
    """Return random inputs for the model's default signature, a batch of one, as .npz."""
    client.request("GET", "/v1/models/model/metadata")
    told: dict[str, Any] = json.loads(client.getresponse().read())
    random = np.random.default_rng(0)
    arrays = {
        name: random.normal(size=[max(size, 1) for size in spec["shape"]]).astype(spec["dtype"])
        for name, spec in told["signatures"][told["default_signature"]]["inputs"].items()
    }
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def summary(found: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return medians with their range, and ratios to the first side with their interval."""
    base = next(iter(found))
    sides = {}
    for name, launches in found.items():
        figures: dict[str, Any] = {}
        for measure in MEASURES:
            values = [one[measure] for one in launches]
            ratio = ratio_of_medians(values, [one[measure] for one in found[base]])
            figures[measure] = {
                "summary": _plain(summarize(values)),
                f"ratio to {base}": _plain(ratio),
            }
        figures["phases"] = {
            key: round(float(np.median([one[key] for one in launches])), 3)
            for key in launches[0]
            if key not in MEASURES
        }
        sides[name] = figures
    machine = {"cpus": os.cpu_count(), "python": platform.python_version()}
    return {"machine": machine, "sides": sides}


def _plain(figure: Any) -> Any:
    return None if figure is None else figure.model_dump()


if __name__ == "__main__":
    main()
