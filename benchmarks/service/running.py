"""A running service for the benchmarks here: start it, misuse it, look at its process."""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import subprocess
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
APP = ROOT / "dockerfiles" / "app"
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Service:
    """A service that is ready."""

    process: subprocess.Popen[str]
    port: int
    ready: dict[str, Any]
    stderr: deque[str]

    def status(self) -> dict[str, int]:
        """Return resident bytes (RssAnon: without pages of files), threads and descriptors."""
        folder = Path(f"/proc/{self.process.pid}")
        lines = (line.split() for line in (folder / "status").read_text().splitlines())
        found = {line[0]: line[1] for line in lines if len(line) > 1}
        return {
            "rss": int(found["VmRSS:"]) * 1024,
            "anonymous": int(found["RssAnon:"]) * 1024,
            "threads": int(found["Threads:"]),
            "descriptors": len(list((folder / "fd").iterdir())),
        }

    def cpu_seconds(self) -> float:
        """Return the CPU time it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what every benchmark here is told."""
    parser.add_argument(
        "--python", required=True, help="an interpreter with TensorFlow and app/requirements.txt"
    )
    parser.add_argument("--model", type=Path, required=True, help="a SavedModel with one input")
    parser.add_argument("--note", default="", help="put into the result: what else ran, and so on")


@contextmanager
def serving(python: str, model: Path, **env: str) -> Iterator[Service]:
    """Start the service and wait until it is ready."""
    process = subprocess.Popen(
        [python, "-m", "tfserve_app"],
        env={
            **os.environ,
            "PYTHONPATH": str(APP),
            "TFSLIM_MODEL_PATH": str(model),
            "HOST": "127.0.0.1",
            "PORT": "0",
            **env,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    stderr: deque[str] = deque(maxlen=200)
    threading.Thread(target=stderr.extend, args=(process.stderr,), daemon=True).start()
    try:
        events = {}
        for line in process.stdout:
            event = json.loads(line)
            events[event["event"]] = event
            if event["event"] == "ready":
                break
        else:
            raise SystemExit("".join(stderr))
        yield Service(process, events["listening"]["port"], events["ready"], stderr)
    finally:
        process.kill()
        process.wait()


def machine() -> dict[str, object]:
    """Return what a result says about the machine."""
    model = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {"cores": os.cpu_count(), "cpu": model[0] if model else None, "os": platform.release()}


def npy(array: Any) -> bytes:
    """Return an array as a .npy file."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def write(name: str, result: dict[str, object]) -> None:
    """Print a result, and write it beside the others."""
    text = json.dumps(result, indent=2) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text(text)
    print(text)
