"""A run in the formats of dashboards that others already have.

pytest-benchmark: the keys of `--benchmark-json` (session.py, stats.py and hookspec.py of
https://github.com/ionelmc/pytest-benchmark, 5.x). Its own q1, q3 are wrong for unsorted data of
even length, so ours are computed from sorted values, the same way as `statistics.quantiles`.

github-action-benchmark: the arrays that `customSmallerIsBetter` and `customBiggerIsBetter` read,
`{name, unit, value, range?, extra?}` (src/extract.ts, `BenchmarkResult`, of
https://github.com/benchmark-action/github-action-benchmark).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

from tfslim import __version__
from tfslim.files import write_whole
from tfslim.report.measures import Measured, measures
from tfslim.report.record import RunRecord
from tfslim.report.samples import dumps

__all__ = ["action_benchmark", "pytest_benchmark", "write_dashboards"]

_FILES: Final = ("pytest-benchmark.json", "smaller-is-better.json", "bigger-is-better.json")
_UNITS: Final = {"bytes": "bytes", "seconds": "s", "samples/s": "samples/s"}


def write_dashboards(record: RunRecord, folder: Path) -> list[Path]:
    """Write a run in all formats; return the files. A format without entries is an empty list."""
    found = (
        pytest_benchmark(record),
        action_benchmark(record, "smaller"),
        action_benchmark(record, "larger"),
    )
    return [
        write_whole(folder / name, dumps(data, indent=1) + "\n")
        for name, data in zip(_FILES, found, strict=True)
    ]


def action_benchmark(
    record: RunRecord, better: Literal["smaller", "larger"]
) -> list[dict[str, str | float]]:
    """Return the measures of which less is better, or more, for github-action-benchmark."""
    return [_entry(item) for item in _shown(record) if item.better == better]


def pytest_benchmark(record: RunRecord) -> dict[str, Any]:
    """Return every time that was measured, as `pytest --benchmark-json` writes it.

    A round is a launch. Sizes and rates have no place in that format.
    """
    times = [item for item in _shown(record) if item.unit == "seconds" and min(item.values) > 0]
    source = record.environment.source
    return {
        "machine_info": _machine_info(record),
        "commit_info": {
            "id": source.commit or "unknown",
            "time": None,
            "author_time": None,
            "dirty": source.changed,
            "project": "tfslim",
            "branch": source.ref or "(unknown)",
        },
        "benchmarks": [_benchmark(item) for item in times],
        "datetime": record.started.isoformat(),
        "version": f"tfslim {__version__}",
    }


def _shown(record: RunRecord) -> list[Measured]:
    return [item for item in measures(record) if not item.detail]


def _entry(item: Measured) -> dict[str, str | float]:
    entry: dict[str, str | float] = {
        "name": _name(item),
        "unit": _UNITS[item.unit],
        "value": item.median,
    }
    if not item.exact:
        half = (max(item.values) - min(item.values)) / 2
        entry["range"] = f"± {half:.4g}"
        entry["extra"] = f"median of {len(item.values)} launches\n{item.device}\n{item.machine}"
    return entry


def _name(item: Measured) -> str:
    """Return a name that is the same in every run; with the device, where one matters."""
    device = f" ({item.device})" if item.device not in ("", "CPU") else ""
    return f"{item.subject} / {item.measure}{device}"


def _machine_info(record: RunRecord) -> dict[str, Any]:
    where = record.environment
    return {
        "node": where.machine_key,
        "processor": where.cpu,
        "machine": where.machine,
        "python_compiler": "",
        "python_implementation": "",
        "python_implementation_version": "",
        "python_version": "",
        "python_build": ["", ""],
        "release": where.kernel,
        "system": "Linux",
        "cpu": {"brand_raw": where.cpu, "count": where.cpus, "arch": where.machine},
    }


def _benchmark(item: Measured) -> dict[str, Any]:
    return {
        "group": item.measure,
        "name": item.subject,
        "fullname": _name(item),
        "params": None,
        "param": None,
        "extra_info": {"machine": item.machine, "device": item.device},
        "options": {
            "disable_gc": False,
            "timer": "perf_counter",
            "min_rounds": len(item.values),
            "max_time": 0,
            "min_time": 0,
            "warmup": False,
        },
        "stats": _stats(item.values),
    }


def _stats(data: Sequence[float]) -> dict[str, Any]:
    """Return pytest-benchmark's statistics; seconds."""
    values = sorted(data)
    one = len(values) == 1
    mean, total = statistics.fmean(values), sum(values)
    stddev = 0.0 if one else statistics.stdev(values)
    q1, median, q3 = (
        [values[0]] * 3 if one else statistics.quantiles(values, n=4, method="inclusive")
    )
    low, high = q1 - 1.5 * (q3 - q1), q3 + 1.5 * (q3 - q1)
    far = sum(not low <= value <= high for value in values)
    off = sum(not mean - stddev <= value <= mean + stddev for value in values)
    return {
        "min": values[0],
        "max": values[-1],
        "mean": mean,
        "stddev": stddev,
        "rounds": len(values),
        "median": median,
        "iqr": q3 - q1,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": far,
        "stddev_outliers": off,
        "outliers": f"{off};{far}",
        "ld15iqr": next(value for value in values if value >= low),
        "hd15iqr": next(value for value in reversed(values) if value <= high),
        "ops": len(values) / total,
        "total": total,
        "data": list(data),
        "iterations": 1,
    }
