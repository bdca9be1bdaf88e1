"""Results of cold starts as tables."""

from __future__ import annotations

import io
from typing import Literal

import pytest
from rich.console import Console

from tfslim.bench import coldtext
from tfslim.bench.registry import pull_seconds
from tfslim.bench.results import COLD_START_PHASES, ColdLaunch, ColdStarts, Pull


def launch(
    subject: str, seconds: float, number: int = 0, page: Literal["cold", "warm"] = "warm"
) -> ColdLaunch:
    return ColdLaunch(
        subject=subject,
        round=number,
        page_cache=page,
        jit_cache="none",
        phases_s={"create": 0.1, "imports": seconds - 0.2, "first_answer": 0.1},
        first_answer_s=seconds,
        ready_s=seconds - 0.1,
        memory_bytes=400_000_000,
        rss_bytes=int(seconds * 100_000_000),
        read_bytes=None,
    )


PULL = Pull(
    subject="stock",
    round=0,
    pull_bytes=1_000_000_000,
    pull_s=4.0,
    unpack_s=20.0,
    layers=5,
)


def result(**more: object) -> ColdStarts:
    launches = [launch("stock", 4.0 + n / 10, n) for n in range(5)]
    launches += [launch("small|one", 2.0 + n / 20, n) for n in range(5)]
    launches += [launch("stock", 9.0, page="cold"), launch("small|one", 3.0, page="cold")]
    return ColdStarts(device="CPU", cold_cache="dropped", launches=tuple(launches), **more)  # type: ignore[arg-type]


def test_states_apart_and_ratios_against_the_first() -> None:
    warm, cold = coldtext.tables(result())
    assert warm.title == "Page cache warm (n = 5)"
    assert cold.title == "Page cache cold (n = 1)"
    assert warm.head[:4] == ("image", "create", "imports", "first answer")
    stock, small = warm.rows
    at = warm.head.index("×")
    assert (stock[at], small[at][:6]) == ("1", "0.50 (")
    assert small[at - 1] == "2.100"
    assert small[warm.head.index("read")] == "·"


def test_pulls_with_what_follows_for_networks() -> None:
    table = coldtext.tables(result(pulls=(PULL,)))[-1]
    assert table.rows == (("stock", "1.00 GB", "5", "4.0", "20.0", "80–100", "20–28", "20–24"),)


def test_a_network_cannot_be_faster_than_what_was_measured() -> None:
    assert pull_seconds(PULL, 1e12) == pytest.approx((20.0, 24.0))


def test_markdown_is_a_table_and_names_cannot_break_it() -> None:
    text = coldtext.markdown(result(notes=("a note",)))
    rows = [line for line in text.splitlines() if line.startswith("| small")]
    assert all("small\\|one" in row for row in rows)
    assert len(rows) == 2
    assert "- a note" in text
    assert "- cold page cache: dropped" in text
    assert "- pull and unpack: not measured" in text
    assert "- fewer than 5 launches a side" in text  # of the cold ones


def test_terminal_shows_every_subject() -> None:
    out = io.StringIO()
    Console(file=out, width=160).print(coldtext.terminal(result(pulls=(PULL,))))
    assert out.getvalue().count("small|one") == 2
    assert max(map(len, out.getvalue().splitlines())) <= 160


def test_every_phase_and_a_ratio_fit_into_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    phases = dict.fromkeys(COLD_START_PHASES, 12.345)
    launches = [
        launch(name, 99.0 + n, n).model_copy(update={"phases_s": phases, "read_bytes": 123_000_000})
        for name in ("stock", "inference-native")
        for n in range(3)
    ]
    both = ColdStarts(device="CPU", cold_cache="off", launches=tuple(launches))
    Console(width=160).print(coldtext.terminal(both))
    shown = capsys.readouterr().out
    assert shown.count("123 MB") == 2
    assert "inference-native" in shown


def test_terminal_shows_pulls() -> None:
    out = io.StringIO()
    Console(file=out, width=160).print(coldtext.terminal(result(pulls=(PULL,))))
    assert "Pull from a registry" in out.getvalue()
