"""Records for the tests of the report: small, full, hostile, of two machines, of version 1."""

from __future__ import annotations

import json
import math
import random
from typing import Any

from tfslim.bench.results import COLD_START_PHASES
from tfslim.report.record import RunRecord, merge

__all__ = ["HOSTILE", "full", "hostile", "of_version_1", "small", "two_machines"]

GPU = "NVIDIA H200"
PHASES = {
    "create": 0.06,
    "interpreter": 0.12,
    "imports": 2.6,
    "gpu_init": 0.9,
    "model_load": 0.8,
    "warm_up": 0.4,
    "first_answer": 0.03,
    "second_answer": 0.02,
}


def small(**changes: Any) -> RunRecord:
    """Return a record as `tfslim build` writes it: sizes and nothing else."""
    return RunRecord.model_validate(
        {
            "started": "2026-01-02T03:04:00Z",
            "environment": environment(),
            "model": None,
            "sizes": {"inference": size(2_500_000_000, 5_900_000_000)},
            **changes,
        }
    )


def full(scale: float = 1.0, **changes: Any) -> RunRecord:
    """Return a record with everything that a run can measure.

    Args:
        scale: What sizes and times of `inference` are multiplied with.
        changes: Fields to put over it.
    """
    speed = {"stock": 1.0, "inference": 0.5 * scale}
    noise = random.Random(3)
    data: dict[str, Any] = {
        "started": "2026-01-02T03:04:00Z",
        "environment": environment(
            gpu=GPU, source={"commit": "0123456789abcdef" * 2 + "01234567", "ref": "main"}
        ),
        "model": {
            "name": "basic-pitch",
            "source": "demo:basic-pitch",
            "mode": "bake",
            "disk_bytes": 300_000,
            "dropped": {"nmp.tflite": 230_000},
        },
        "images": [image("stock", 100.0, 0), image("inference", 90.0, 10)],
        "rebuilds": [image("stock", 2.0, 10)],
        "sizes": {
            "stock": size(3_500_000_000, 6_700_000_000),
            "inference": size(int(1_100_000_000 * scale), int(2_800_000_000 * scale)),
        },
        "cold_starts": {
            "device": GPU,
            "cold_cache": "posix_fadvise on every file of the image",
            "launches": [
                cold_launch(subject, turn, cache, factor * (1 + noise.random() / 20))
                for turn in range(5)
                for subject, factor in speed.items()
                for cache in ("cold", "warm")
            ],
            "pulls": [
                {"subject": subject, "round": turn, "pull_bytes": int(3.5e9 * factor),
                 "pull_s": 9.0 * factor, "unpack_s": 31.0 * factor, "layers": 5}
                for turn in range(3)
                for subject, factor in speed.items()
            ],
            "notes": ["Both images lie on the same disk."],
        },
        "http": [
            http(subject, turn, batch, factor * (1 + noise.random() / 20))
            for turn in range(5)
            for subject, factor in speed.items()
            for batch in (1, 32)
        ],
        "in_process": [
            {"subject": subject, "group": 0, "round": turn, "device": GPU, "batch_size": 32,
             "first_call_s": 1.5 * factor, "stable": turn > 0,
             "latencies_s": [0.004 * factor * (1 + n % 7 / 50) for n in range(200)],
             "gpu": {"utilisation %": 71.0, "memory": "2.1 GB"}}
            for turn in range(3)
            for subject, factor in speed.items()
        ],
        "removals": {
            "inference": [
                {"rule": "gpu-code", "removed_bytes": 2_370_000_000, "count": 5102},
                {"rule": "tensorflow-headers", "removed_bytes": 313_000_000, "count": 18_000},
            ]
        },
        "parity": {
            "inference": [
                {"name": "zoo", "outcome": "passed", "models": {"cnn": "passed", "rnn": "passed"}}
            ]
        },
        "budgets": {"inference": {"max-pull": 2_000_000_000, "max-cold-start": 30.0}},
        "notes": ["Launches of both images took turns."],
    }  # fmt: skip
    return RunRecord.model_validate({**data, **changes})


def two_machines() -> RunRecord:
    """Return a run whose parts were made on two machines."""
    return merge([full(), small(environment=environment(cpu="Another CPU"))])


def of_version_1() -> bytes:
    """Return the bytes of a record as the first version wrote it."""
    data = json.loads(full().model_dump_json())
    for later in ("cold_starts", "in_process", "http", "removals", "parity", "pins", "notes"):
        data.pop(later, None)
    data.pop("others", None)
    data["schema_version"] = 1
    data["budgets"] = {"inference": {"max_pull": 1_000_000_000, "max_disk": 9_000_000_000}}
    for key in ("machine_key", "gpus", "source", "ci", "load_average"):
        data["environment"].pop(key, None)
    data["measurements"] = [
        {
            "variant": variant, "group": 0, "round": turn, "device": "CPU",
            "phases_s": {"created": 0.05, "started": 0.2, "alive": 1.0, "ready": first - 0.1,
                         "first_answer": first, "second_answer": first + 0.03},
            "service_s": {"import_s": 1.0}, "memory_bytes": 500_000_000,
            "loads": [{"batch_size": 1, "seconds": 2.0, "latencies_s": [0.1] * 20}],
        }
        for turn in range(5)
        for variant, first in (("stock", 4.0 + turn / 100), ("inference", 2.0 + turn / 100))
    ]  # fmt: skip
    for inspected in data["sizes"].values():
        inspected.pop("removals", None)
        inspected.pop("gates", None)
    return json.dumps(data).encode()


HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "](https://evil.example) [click](javascript:alert(1)) ![x](https://evil.example/x.png)",
    "@someone @org/team #123 GH-9 org/repo#7 https://evil.example www.evil.example a@evil.example",
    "``` \n# heading\n\n- list\n\n> quote\n\n</details> </summary> | a | b |\n|---|---|\n<!-- x",
    "\x1b[31mred\x1b[0m \x1b]8;;https://evil.example\x07link\x1b]8;;\x07 \x9b2J [bold]markup[/]",
    "\u202eevil\u202c \u2066x\u2069 \u200b\ufeff \u0000 a\u0301\u0301\u0301\u0301 :shipit: $x$",
    '"] bar [9999] \n  title "x" %%{init: {}}%% click A href "https://evil.example" $\\frac{1}{2}$',
    "<https://evil.example> <a@evil.example> [ref]\n\n[ref]: https://evil.example &lt;b&gt; &#60;b",
    "A" * 20_000,
    '--> <![CDATA[ ]]> <svg onload=alert(1)> {{ 7 * 7 }} {% raw %} ${jndi} \'; DROP " onx="',
)
"""Texts that would do something if any format read them."""


def hostile() -> RunRecord:
    """Return a record whose every text is hostile and whose figures are none.

    `model_construct` puts them past the checks that a record from a file has to pass.
    """
    texts = iter(range(10**9))

    def text(key: str) -> str:
        return HOSTILE[next(texts) % len(HOSTILE)][: _LONGEST.get(key, 20_000)]

    def evil(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            named = key in _NAMED and "total_bytes" not in value
            return {
                (text("key") + str(n) if named else k): evil(v, k)
                for n, (k, v) in enumerate(value.items())
            }
        if isinstance(value, list):
            return [evil(item, key) for item in value]
        return text(key) if isinstance(value, str) and key not in _KEPT else value

    data = evil(json.loads(full().model_dump_json()))
    record = RunRecord.model_validate(data)
    sizes = list(record.sizes.items())
    broken = sizes[0][1].model_copy(
        update={"pull_bytes": -5, "disk_bytes": 10**40, "kinds": [], "gpu": None}
    )
    starts = record.cold_starts
    assert starts is not None
    odd = [
        starts.launches[0].model_copy(
            update={"first_answer_s": number, "phases_s": dict.fromkeys(COLD_START_PHASES, number)}
        )
        for number in (math.nan, math.inf, -1.0)
    ]
    return record.model_copy(
        update={
            "sizes": {**record.sizes, sizes[0][0]: broken},
            "cold_starts": starts.model_copy(update={"launches": (*odd, *starts.launches)}),
        }
    )


# Mappings whose keys are names that a record brings along.
_NAMED = ("sizes", "removals", "parity", "models", "engine", "dropped", "by_arch_bytes", "gpu",
          "failed", "by_library")  # fmt: skip
_LONGEST = {"outcome": 40, "why": 1000, "rule": 100, "name": 100, "key": 400}
# Fields whose values are checked by their type: no text can get in there.
_KEPT = ("started", "variant", "mode", "kind", "page_cache", "jit_cache", "source_kind", "origin",
         "pull_bytes_source")  # fmt: skip


def environment(**changes: Any) -> dict[str, Any]:
    """Return the description of a machine."""
    return {
        "tfslim": "0.1.0",
        "machine": "x86_64",
        "kernel": "6.1",
        "cpu": "A CPU",
        "cpus": 2,
        "memory_bytes": 8 << 30,
        "engine": {"engine": "26.1.5"},
        "builder": "docker: it can",
        "gpu": "not measured: no GPU (no NVIDIA driver)",
        **changes,
    }


def image(variant: str, seconds: float, cached: int) -> dict[str, Any]:
    """Return a built image."""
    base = {
        "name": "python:3.13-slim-trixie",
        "origin": "debian",
        "context": "oci-layout://x",
        "pin": "sha256:" + "b" * 64,
        "packages": [],
        "pull_bytes": None,
    }
    return {
        "build": {
            "variant": variant, "tag": f"tfslim/{variant}:2.21.0", "tensorflow": "2.21.0",
            "python": "3.13", "cuda": None, "cuda_archs": ["90"], "bases": [base["name"]],
            "lock": None, "variables": {}, "disk_bytes": 1,
        },
        "digest": "sha256:" + "a" * 64, "seconds": seconds, "steps": 10, "cached_steps": cached,
        "bases": {base["name"]: base},
    }  # fmt: skip


def size(pull: int | None, disk: int) -> dict[str, Any]:
    """Return the inspection of an image with a TensorFlow and a CUDA library."""
    library = "opt/venv/lib/python3.13/site-packages/nvidia/cublas/lib/libcublasLt.so.12"
    tensorflow = "opt/venv/lib/python3.13/site-packages/tensorflow/libtensorflow_cc.so.2"
    archs = {"sm_90": disk // 16, "sm_80": disk // 16, "compute_90": disk // 32}
    return {
        "source": "an image", "source_kind": "engine", "image": None,
        "pull_bytes": pull, "pull_bytes_source": "manifest" if pull else "unknown",
        "pull_bytes_note": "", "disk_bytes": disk, "allocated_bytes": None, "files": 3,
        "layers": [
            {"digest": "sha256:" + "c" * 64, "compression": "zstd", "pull_bytes": 41_000_000,
             "unpacked_bytes": 120_000_000, "files": 1, "wasted_bytes": 0, "created_by": ""},
            {"digest": f"sha256:{disk:064x}", "compression": "zstd", "pull_bytes": pull,
             "unpacked_bytes": disk, "files": 3, "wasted_bytes": 0,
             "created_by": "RUN pip install | tee `log` <b>"},
        ],
        "packages": [
            {"kind": "python", "name": "tensorflow", "version": "2.21.0",
             "disk_bytes": disk // 2, "files": 2},
            {"kind": "python", "name": "nvidia-cublas-cu12", "version": "12.5.3.2",
             "disk_bytes": disk // 4, "files": 2},
        ],
        "kinds": [
            {"kind": "shared library", "disk_bytes": disk - disk // 8, "files": 1},
            {"kind": "headers", "disk_bytes": disk // 16, "files": 1},
            {"kind": "bytecode", "disk_bytes": disk // 16, "files": 1},
        ],
        "waste": {"wasted_bytes": 1_500_000, "efficiency": 0.99, "dive_wasted_bytes": 3_000_000,
                  "largest": []},
        "duplicates": {"extra_bytes": 0, "groups": 0, "largest": []},
        "largest_files": [
            {"path": tensorflow, "disk_bytes": disk // 3, "owner": "tensorflow", "layer": 1},
            {"path": library, "disk_bytes": disk // 4, "owner": "nvidia-cublas-cu12", "layer": 1},
        ],
        "gpu": {
            "total_bytes": sum(archs.values()), "by_arch_bytes": archs, "by_kind_bytes": {},
            "by_library": {library: {"by_arch_bytes": archs, "by_kind_bytes": {}}},
            "unexplained_bytes": 0,
        },
    }  # fmt: skip


def cold_launch(subject: str, turn: int, cache: str, factor: float) -> dict[str, Any]:
    """Return one start with all its phases."""
    slow = factor * (1.8 if cache == "cold" else 1.0)
    phases = {name: seconds * slow for name, seconds in PHASES.items()}
    answered = sum(phases.values()) - phases["second_answer"]
    return {
        "subject": subject, "round": turn, "page_cache": cache, "jit_cache": "warm",
        "phases_s": phases, "first_answer_s": answered,
        "ready_s": answered - phases["first_answer"],
        "memory_bytes": 900_000_000, "rss_bytes": 800_000_000, "read_bytes": 500_000_000,
    }  # fmt: skip


def http(subject: str, turn: int, batch: int, factor: float) -> dict[str, Any]:
    """Return one closed loop."""
    latencies = [0.003 * batch**0.5 * factor * (1 + (n * 37 % 100) / 200) for n in range(120)]
    return {
        "subject": subject, "group": 0, "round": turn, "device": GPU, "kind": "closed",
        "batch_size": batch, "concurrency": 4, "rate": None, "seconds": sum(latencies) / 4,
        "latencies_s": latencies, "failed": {},
    }  # fmt: skip
