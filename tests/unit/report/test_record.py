from __future__ import annotations

from pathlib import Path

import pytest

from tfslim.errors import InputError
from tfslim.report.record import RunRecord, broken_budgets


def test_a_record_is_read_back_as_it_was_written(record: RunRecord, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(record.model_dump_json())
    assert RunRecord.load(path) == record


@pytest.mark.parametrize("text", ["", "{", "{}", '{"schema_version": 2}', "[1]"])
def test_what_is_not_a_record_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(InputError, match="not a run record"):
        RunRecord.load(path)


def test_a_missing_record_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        RunRecord.load(tmp_path / "none.json")
    assert "tfslim bench" in caught.value.way_out


def test_only_budgets_that_are_exceeded_are_broken(record: RunRecord) -> None:
    (broken,) = broken_budgets(record)
    assert (broken.variant, broken.measure) == ("inference", "pull")


def test_a_size_that_is_not_known_breaks_no_budget(record: RunRecord) -> None:
    sizes = {**record.sizes}
    sizes["inference"] = sizes["inference"].model_copy(update={"pull_bytes": None})
    assert broken_budgets(record.model_copy(update={"sizes": sizes})) == []
