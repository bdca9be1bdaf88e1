"""Whole reports: golden files, the verdict, what is said where nothing was measured."""

from __future__ import annotations

import io
import json
import os
from functools import cache
from pathlib import Path

import pytest
from rich.console import Console

import report_records as records
from tfslim.report import render
from tfslim.report.budgets import check_budgets
from tfslim.report.compare import BaselineInfo, Comparison, compare
from tfslim.report.record import RunRecord

GOLDEN = Path(__file__).parent / "golden"


def against(record: RunRecord, baseline: RunRecord) -> Comparison:
    return compare(record, baseline, BaselineInfo(source="main", found=True, commit="f" * 40))


def terminal(record: RunRecord, width: int = 120, *, whole: bool = False) -> str:
    out = io.StringIO()
    Console(file=out, width=width, legacy_windows=False).print(render.terminal(record, whole=whole))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def row(text: str, image: str) -> str:
    return next(line for line in text.splitlines() if line.lstrip("| ").startswith(image))


def same_as_golden(text: str, name: str) -> None:
    """Compare with a golden file; TFSLIM_GOLDEN=write makes them anew."""
    path = GOLDEN / name
    if os.environ.get("TFSLIM_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"{path} differs: see the docstring"


@cache
def reports() -> dict[str, str]:
    full, before = records.full(), records.full(1.15)
    return {
        "small.md": render.markdown(records.small()),
        "full.md": render.markdown(
            full, against(full, before), budgets=check_budgets(full, before), marker="cpu"
        ),
        "worse.md": render.markdown(
            before, against(before, full), budgets=check_budgets(before, full)
        ),
        "two-machines.md": render.markdown(records.two_machines()),
        "version-1.md": render.markdown(RunRecord.parse(records.of_version_1(), name="old")),
        "hostile.md": render.markdown(records.hostile()),
        "full-80.txt": terminal(full, 80, whole=True),
        "full-140.txt": terminal(full, 140, whole=True),
    }


@pytest.mark.parametrize("name", sorted(reports()))
def test_reports_are_as_they_were(name: str) -> None:
    same_as_golden(reports()[name], name)


def test_the_first_line_is_the_marker_and_the_second_the_verdict() -> None:
    text = render.markdown(records.small(), marker="gpu --> <b>")
    first, second = text.splitlines()[:2]
    assert first == "<!-- tfslim-report:gpu-b -->"
    assert second.startswith("✅ **")


def test_a_broken_budget_is_the_verdict() -> None:
    record = RunRecord.parse(records.of_version_1(), name="old")
    text = render.markdown(record)
    assert "❌ **inference: pull 1.10\u00a0GB is over its 1.00\u00a0GB budget" in text
    assert "disk" not in text.splitlines()[1]


def test_budgets_of_a_comparison_name_measure_limit_and_key() -> None:
    record = records.full(budgets={"inference": {"max-cold-start": 1.0}})
    report = render.make_report(record, budgets=check_budgets(record))
    assert report.status == "bad"
    assert "is over its 1.00 s budget (max-cold-start)" in report.verdict


def test_what_is_worse_than_the_baseline_is_the_verdict() -> None:
    now, before = records.full(1.15), records.full()
    report = render.make_report(now, against(now, before))
    assert report.status == "bad"
    assert report.verdict == "inference: pull is worse: 1.26 GB, +165 MB, +15 % against main"
    assert any("cold-start" in alarm for alarm in report.alarms)


def test_what_is_better_is_good_news() -> None:
    now, before = records.full(), records.full(1.15)
    report = render.make_report(now, against(now, before))
    assert report.status == "good"
    assert "pull −165 MB, −13 % against main" in report.verdict


def test_a_failed_parity_gate_is_bad_whatever_the_sizes_are() -> None:
    gates = [{"name": "zoo", "outcome": "failed", "models": {"cnn": "failed"}}]
    report = render.make_report(records.full(parity={"inference": gates}))
    assert report.status == "bad"
    assert "failed (0 of 1 models)" in report.verdict


def test_without_baseline_the_brackets_compare_with_stock_of_the_same_run() -> None:
    text = terminal(records.full(), 160)
    assert "1.10 GB (−69 %)" in row(text, "inference")
    assert "(" not in row(text, "stock").replace("(0", "")


def test_few_launches_are_never_sure() -> None:
    record = records.full()
    assert record.cold_starts is not None
    few = record.cold_starts.model_copy(
        update={"launches": tuple(i for i in record.cold_starts.launches if i.round < 2)}
    )
    found = row(terminal(record.model_copy(update={"cold_starts": few}), 170), "inference")
    assert "cold cache, warm JIT (−51 % ?)" in found


def test_the_command_to_do_it_again_names_what_was_measured() -> None:
    text = render.markdown(records.full())
    again = "“tfslim bench stock inference” and “tfslim bench --cold-start stock inference”"
    assert again in text


def test_images_that_did_not_take_turns_are_not_compared() -> None:
    record = RunRecord.parse(records.of_version_1(), name="old")
    apart = [
        item.model_copy(update={"group": 1}) if item.variant == "inference" else item
        for item in record.measurements
    ]
    assert "2.02 s (−50 %)" in row(terminal(record, 160), "inference")
    moved = row(terminal(record.model_copy(update={"measurements": apart}), 160), "inference")
    assert "2.02 s " in moved
    assert "2.02 s (" not in moved


def test_what_was_not_measured_says_so() -> None:
    found = row(render.markdown(records.small()), "inference")
    assert found.count("not measured") == 4  # cold start, throughput, GPU, parity
    sizes = {"inference": records.size(None, 5_900_000_000)}
    assert "| not measured | 5.90" in row(render.markdown(records.small(sizes=sizes)), "inference")


def test_sections_without_anything_to_say_are_left_out() -> None:
    keys = [section.key for section in render.make_report(records.small()).sections]
    assert keys == ["sizes", "layers", "environment"]


def test_percentiles_are_given_only_where_the_sample_supports_them() -> None:
    # 5 launches of 20 requests: enough for a bound of p90, not for one of p99.
    text = render.markdown(RunRecord.parse(records.of_version_1(), name="old"))
    assert "| inference | batch 1, 1 client | 100 | 10.0 | 100.0 | ≤ 100.0 | – | – |" in text


def test_every_machine_has_its_rows_and_its_own_part_of_a_section() -> None:
    text = render.markdown(records.two_machines())
    assert "| image | machine |" in text
    assert len([line for line in text.splitlines() if line.startswith("| inference | x86")]) == 2
    assert "**On x86\\_64, 2 × Another CPU, 8 GiB**" in text or "**On x86_64, 2 × Another" in text


def test_all_files_are_written_and_named(tmp_path: Path) -> None:
    record = records.full()
    written = render.write_report(record, None, tmp_path / "out")
    names = [str(path.relative_to(tmp_path / "out")) for path in written]
    assert names[:4] == ["report.md", "report.html", "report.json", "verdict.json"] or (
        "report.samples.json.gz" in names[:5]
    )
    for chart in ("size-by-cause", "libraries", "cold-start", "latency"):
        assert {f"plots/{chart}-{m}.{k}" for m in ("light", "dark") for k in ("svg", "png")} <= set(
            names
        )
    found = {str(p.relative_to(tmp_path / "out")) for p in tmp_path.rglob("*") if p.is_file()}
    assert found == set(names)
    assert RunRecord.load(tmp_path / "out" / "report.json") == record
    said = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert (said["status"], said["schema_version"]) == ("good", 1)


def test_a_narrow_terminal_has_one_image_below_the_other() -> None:
    text = terminal(records.full(), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "\ninference\npull          1.10 GB" in text


def test_without_a_terminal_there_are_no_colours() -> None:
    assert "\x1b" not in terminal(records.full(), 160, whole=True)


def test_hostile_text_cannot_steer_a_terminal() -> None:
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=True, color_system=None)
    console.print(render.terminal(records.hostile(), whole=True))
    text = out.getvalue()
    assert "\x1b]" not in text  # no hyperlink, no title
    assert not {c for c in text if ord(c) < 32 and c not in "\n\x1b"}
    assert not {"\x9b", "\u202e", "\u2066", "\u200b", "\u0000"} & set(text)
    assert "[bold]markup[/]" in text  # rich's markup is text
    assert "\x1b[31mred" not in text


def test_an_open_loop_is_one_row_however_many_requests_were_in_flight_at_most() -> None:
    loops = [
        {
            **records.http("stock", turn, 1, 1.0), "kind": "open", "rate": 29.0,
            "concurrency": in_flight, "limited_by": reason,
        }
        for turn, in_flight, reason in ((0, 4, "late by 3 ms"), (1, 5, "late by 4 ms"), (2, 7, ""))
    ]  # fmt: skip
    text = render.markdown(records.full(http=loops)).replace("\xa0", " ")
    rows = [line for line in text.splitlines() if "29 requests/s due" in line and "|" in line]
    assert [line.split(" | ")[:3] for line in rows] == [
        ["| stock", "batch 1, 29 requests/s due", "360"]
    ]
    assert "stock, batch 1, 29 requests/s due: 2 of 3 runs, the first: late by 3 ms" in text
