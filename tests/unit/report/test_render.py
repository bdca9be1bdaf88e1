from __future__ import annotations

import io

from rich.console import Console

from tfslim.images.inspection import GpuUse
from tfslim.report import render
from tfslim.report.record import RunRecord


def terminal(record: RunRecord) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(render.terminal(record))
    return out.getvalue()


def row(text: str, variant: str) -> str:
    return next(line for line in text.splitlines() if line.lstrip("| ").startswith(variant))


def test_the_table_has_a_row_per_image_with_size_speed_and_the_ratio(record: RunRecord) -> None:
    found = row(terminal(record), "inference")
    for cell in ("2.50 GB", "5.90 GB", "2.02 s", "0.50 [", "10.0", "500 MB", "CPU", "cached"):
        assert cell in found, cell
    assert "100 s / 2.0 s" in row(terminal(record), "stock")


def test_without_a_gpu_the_report_says_that_gpus_were_not_measured(record: RunRecord) -> None:
    for text in (terminal(record), render.markdown(record)):
        assert "not measured: no GPU" in text


def test_an_unknown_pull_size_is_not_a_number(record: RunRecord) -> None:
    sizes = {**record.sizes}
    sizes["stock"] = sizes["stock"].model_copy(update={"pull_bytes": None})
    text = terminal(record.model_copy(update={"sizes": sizes}))
    assert "not measured" in row(text, "stock")


def test_a_run_without_launches_renders(record: RunRecord) -> None:
    empty = record.model_copy(update={"measurements": []})
    assert "not measured" in row(terminal(empty), "stock")
    assert render.markdown(empty)


def test_a_broken_budget_is_in_the_notes(record: RunRecord) -> None:
    text = terminal(record)
    assert "BUDGET BROKEN: inference: pull 2.50 GB is over 1.00 GB" in text
    assert "disk 5.90 GB is over" not in text


def test_what_an_image_says_of_itself_cannot_break_the_markdown(record: RunRecord) -> None:
    text = render.markdown(record)
    assert "RUN pip install \\| tee 'log' &lt;b>" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)


def test_percentiles_are_given_only_where_the_sample_supports_them(record: RunRecord) -> None:
    # 5 launches of 20 requests: ten lie beyond p90, one beyond p99.
    assert "| inference | 1 | 100 | 100.0 | 100.0 | – |" in render.markdown(record)


def test_images_that_did_not_take_turns_are_not_compared(record: RunRecord) -> None:
    moved = [
        item.model_copy(update={"group": 1}) if item.variant == "inference" else item
        for item in record.measurements
    ]
    text = terminal(record.model_copy(update={"measurements": moved}))
    assert "0.50 [" not in row(text, "inference")


def test_gpu_code_is_named_by_architecture(record: RunRecord) -> None:
    gpu = GpuUse(
        total_bytes=3_000_000,
        by_arch_bytes={"compute_90": 1_000_000, "sm_90": 2_000_000},
        by_kind_bytes={},
        by_library={},
        unexplained_bytes=0,
    )
    sizes = {**record.sizes}
    sizes["stock"] = sizes["stock"].model_copy(update={"gpu": gpu})
    text = render.markdown(record.model_copy(update={"sizes": sizes}))
    assert "GPU code, as stored: sm_90 2 MB, compute_90 1 MB." in text
