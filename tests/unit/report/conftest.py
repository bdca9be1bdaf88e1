from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tfslim.bench.load import Load
from tfslim.bench.run import Measurement
from tfslim.build.bake import BuiltImage
from tfslim.build.bases import Base
from tfslim.config import Budget, Config, VariantName
from tfslim.images.inspection import Inspection
from tfslim.plan import make_plan
from tfslim.report.record import Environment, ModelRecord, RunRecord

PYTHON = "python:3.13-slim-trixie"


def built(variant: VariantName, seconds: float, cached: int) -> BuiltImage:
    (build,) = make_plan(Config(), [variant])
    base = Base(PYTHON, "debian", "oci-layout://x", "sha256:" + "b" * 64, (), None)
    return BuiltImage(
        build=build,
        digest="sha256:" + "a" * 64,
        seconds=seconds,
        steps=10,
        cached_steps=cached,
        bases={PYTHON: base},
    )


def inspection(variant: str, pull: int | None, disk: int) -> Inspection:
    return Inspection.model_validate(
        {
            "source": variant,
            "source_kind": "engine",
            "image": None,
            "pull_bytes": pull,
            "pull_bytes_source": "manifest" if pull else "unknown",
            "pull_bytes_note": "",
            "disk_bytes": disk,
            "allocated_bytes": None,
            "files": 3,
            "layers": [
                {
                    "digest": "sha256:" + "c" * 64,
                    "compression": "zstd",
                    "pull_bytes": pull,
                    "unpacked_bytes": disk,
                    "files": 3,
                    "wasted_bytes": 0,
                    "created_by": "RUN pip install | tee `log` <b>",
                }
            ],
            "packages": [
                {
                    "kind": "python",
                    "name": "tensorflow",
                    "version": "2.21.0",
                    "disk_bytes": disk // 2,
                    "files": 2,
                }
            ],
            "kinds": [{"kind": "shared library", "disk_bytes": disk, "files": 1}],
            "waste": {
                "wasted_bytes": 1_500_000,
                "efficiency": 0.99,
                "dive_wasted_bytes": 3_000_000,
                "largest": [],
            },
            "duplicates": {"extra_bytes": 0, "groups": 0, "largest": []},
            "largest_files": [],
            "gpu": None,
        }
    )


def launches(variant: VariantName, first: float) -> list[Measurement]:
    phases = ["created", "started", "alive", "ready", "first_answer", "second_answer"]
    return [
        Measurement(
            variant=variant,
            group=0,
            round=turn,
            device="CPU",
            phases_s=dict.fromkeys(phases, first + turn * 0.01),
            service_s={"import_s": 1.0},
            memory_bytes=500_000_000,
            loads=(Load(batch_size=1, seconds=2.0, latencies_s=(0.1,) * 20),),
        )
        for turn in range(5)
    ]


@pytest.fixture
def record() -> RunRecord:
    changes: dict[str, Any] = {
        "budgets": {"inference": Budget(max_pull=1_000_000_000, max_disk=9_000_000_000)}
    }
    return RunRecord(
        started=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        environment=Environment(
            tfslim="0.1.0",
            machine="x86_64",
            kernel="6.1",
            cpu="A CPU",
            cpus=2,
            memory_bytes=8_000_000_000,
            engine={"engine": "26.1.5"},
            builder="docker: it can",
            gpu="not measured: no GPU (no NVIDIA driver)",
        ),
        model=ModelRecord(
            name="basic-pitch",
            source="demo:basic-pitch",
            mode="bake",
            disk_bytes=300_000,
            dropped={"nmp.tflite": 230_000},
        ),
        images=[built("stock", 100.0, 0), built("inference", 90.0, 10)],
        rebuilds=[built("stock", 2.0, 10)],
        sizes={
            "stock": inspection("stock", 3_500_000_000, 6_800_000_000),
            "inference": inspection("inference", 2_500_000_000, 5_900_000_000),
        },
        measurements=[*launches("stock", 4.0), *launches("inference", 2.0)],
        **changes,
    )
