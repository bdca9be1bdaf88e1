"""Results as a probe writes them, made by hand: the probe's own writer, without TensorFlow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tfslim.parity import probe

probe.np = np

ENVIRONMENT: dict[str, Any] = {
    "schema_version": 1,
    "python": "3.11.7",
    "machine": "x86_64",
    "cpus": 2,
    "variables": {},
    "deterministic": False,
    "import_error": None,
    "driver": "",
    "numpy": "2.0.0",
    "tensorflow": "2.21.0",
    "keras": "3.0.0",
    "cuda": "12.5.1",
    "cudnn": "9",
    "gpus": [],
}


class Answers:
    """The answers of one model, call by call."""

    def __init__(self, name: str = "model", loader: str = "by hand") -> None:
        self.name = name
        self.loader = loader
        self.calls: list[dict[str, Any]] = []
        self.arrays: dict[str, Any] = {}
        self.add("load", "", "load")

    def add(self, kind: str, signature: str, case: str, **fields: Any) -> dict[str, Any]:
        call = {
            "kind": kind,
            "signature": signature,
            "case": case,
            "status": "ok",
            "inputs": {},
            "outputs": [],
            "error": None,
            "seconds": 0.1,
            **fields,
        }
        self.calls.append(call)
        return call

    def run(
        self, *, case: str = "batch 1, seed 0", signature: str = "serve", **outputs: Any
    ) -> Answers:
        """Add a call that answered with these arrays."""
        call = self.add("run", signature, case)
        for name, values in outputs.items():
            key = f"{len(self.calls) - 1}.{len(call['outputs'])}"
            array = np.asarray(values)
            for part, stored in probe._stored(array).items():
                self.arrays[key + part] = stored
            call["outputs"].append({"name": name, **probe._describe(array), "array": key})
        return self

    def error(
        self, type_: str, message: str, *, kind: str = "run", case: str = "batch 1, seed 0"
    ) -> Answers:
        """Add a call that gave an error."""
        error = {"type": type_, "message": message}
        self.add(kind, "serve", case, status="error", error=error)
        return self

    def document(self) -> dict[str, Any]:
        return {
            "schema_version": 1,
            "model": self.name,
            "loader": self.loader,
            "notes": [],
            "calls": self.calls,
        }

    def write(self, out: Path) -> Path:
        folder = out / self.name
        folder.mkdir(parents=True)
        (folder / probe.CALLS).write_text(json.dumps(self.document()))
        if self.arrays:
            np.savez(folder / probe.ARRAYS, **self.arrays)
        return folder


def bfloat16(*values: float) -> Any:
    """Return bfloat16 values as a probe's array: numpy has no such dtype, TensorFlow brings it."""
    return (np.array(values, "float32").view("uint32") >> 16).astype("uint16")
