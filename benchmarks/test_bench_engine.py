"""How fast the slim engine and the native backend's reader are, on small real libraries."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tfserve_app.capi.wire import Message, encode_bytes, encode_int
from tfslim.bench.stats import compare_sides, quantile
from tfslim.slim import scan
from tfslim.slim.apply import apply_plan
from tfslim.slim.archs import parse_targets
from tfslim.slim.planning import make_plan
from tfslim.slim.rules import make_policy

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = sorted((ROOT / "tests" / "fixtures" / "slim").glob("*.so"))
ROUNDS = 5


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.stem)
def test_scan(benchmark: BenchmarkFixture, library: Path) -> None:
    """Find all GPU code of a library."""
    found = benchmark(scan.scan_file, library)
    assert found.unexplained_bytes == 0


def test_plan(benchmark: BenchmarkFixture, tree: Path) -> None:
    """Decide for a folder what goes."""
    policy = make_policy("arch", parse_targets("90"))
    plan = benchmark.pedantic(
        make_plan, args=(tree, policy), kwargs={"jobs": 1}, rounds=ROUNDS, warmup_rounds=1
    )
    assert plan.saved > 0


def test_apply(benchmark: BenchmarkFixture, tree: Path) -> None:
    """Carry a plan out on a fresh folder, with the proof of every file."""
    plan = make_plan(tree, make_policy("arch", parse_targets("90")), jobs=1)
    copies = iter(range(10**6))

    def fresh() -> tuple[tuple[object, ...], dict[str, object]]:
        copy = tree.with_name(f"copy-{next(copies)}")
        shutil.copytree(tree, copy)
        return (plan, copy), {}

    outcome = benchmark.pedantic(apply_plan, setup=fresh, rounds=ROUNDS)
    assert outcome.error() is None


def test_wire_reader(benchmark: BenchmarkFixture) -> None:
    """Read 10,000 messages, as the native backend reads a model's graph."""
    node = encode_bytes(1, b"StatefulPartitionedCall") + encode_int(2, 7)
    data = encode_bytes(1, node) * 10_000

    def read() -> int:
        return sum(message.number(2) for message in Message(data).messages(1))

    assert benchmark(read) == 70_000


def test_percentile_with_its_bound(benchmark: BenchmarkFixture) -> None:
    """Say of 10,000 latencies what they support."""
    values = [0.01 + index % 97 * 1e-4 for index in range(10_000)]
    assert benchmark(quantile, values, 0.99).kind == "bound"


def test_verdict_over_launches(benchmark: BenchmarkFixture) -> None:
    """Compare two sides of ten launches."""
    a, b = [1.0 + i * 1e-3 for i in range(10)], [1.2 + i * 1e-3 for i in range(10)]
    assert benchmark(compare_sides, a, b, better="lower").verdict == "faster"
