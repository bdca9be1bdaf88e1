"""Results that are damaged, or that lie, are refused; nothing in them is executed."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answers import ENVIRONMENT, Answers

from tfslim.parity import probe
from tfslim.parity.results import Unreadable, read_environment, read_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    text = np.array([b"one", b"", "zwölf".encode()], object)
    return (
        Answers()
        .run(x=np.arange(6.0).reshape(2, 3), s=text, e=np.array([], object))
        .write(tmp_path)
    )


def change(folder: Path, place: list[Any], value: Any) -> None:
    document = json.loads((folder / probe.CALLS).read_text())
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (folder / probe.CALLS).write_text(json.dumps(document))


def test_what_was_written_is_read(folder: Path) -> None:
    result = read_model(folder)
    (call,) = [call for call in result.calls.values() if call.kind == "run"]
    x, s, e = (result.arrays[str(output.array)] for output in call.outputs)
    np.testing.assert_array_equal(x, np.arange(6.0).reshape(2, 3))
    assert s.tolist() == [b"one", b"", "zwölf".encode()]
    assert e.shape == (0,)


OUTPUT = ["calls", 1, "outputs", 0]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (["schema_version"], 2),
        (["calls"], "none"),
        (["calls", 1, "status"], "fine"),
        (["calls", 1, "surprise"], 1),
        (["calls", 1, "case"], None),
        ([*OUTPUT, "shape"], [-1, 6]),
        ([*OUTPUT, "shape"], [3, 2]),
        ([*OUTPUT, "shape"], [6_000_000_000, 1]),
        ([*OUTPUT, "sha256"], "0" * 64),
        ([*OUTPUT, "dtype"], "float32"),
        ([*OUTPUT, "dtype"], "string"),
        ([*OUTPUT, "dtype"], "object"),
        ([*OUTPUT, "array"], "9.9"),
        ([*OUTPUT, "array"], "../../etc/passwd"),
        (["calls", 1, "outputs", 1, "dtype"], "float64"),
    ],
)
def test_a_document_that_lies_is_refused(folder: Path, place: list[Any], value: Any) -> None:
    change(folder, place, value)
    with pytest.raises(Unreadable):
        read_model(folder)


def test_the_same_call_twice_is_refused(folder: Path) -> None:
    calls = json.loads((folder / probe.CALLS).read_text())["calls"]
    change(folder, ["calls"], [*calls, calls[1]])
    with pytest.raises(Unreadable, match="twice"):
        read_model(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"[" * 100_000])
def test_json_that_is_none_is_refused(folder: Path, content: bytes) -> None:
    (folder / probe.CALLS).write_bytes(content)
    with pytest.raises(Unreadable):
        read_model(folder)


def test_missing_files_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / probe.ARRAYS).unlink()
    with pytest.raises(Unreadable, match="arrays"):
        read_model(folder)
    with pytest.raises(Unreadable):
        read_model(tmp_path / "nowhere")
    with pytest.raises(Unreadable):
        read_environment(tmp_path)


def test_truncated_arrays_are_refused(folder: Path) -> None:
    content = (folder / probe.ARRAYS).read_bytes()
    for keep in (0, 10, len(content) // 2, len(content) - 30):
        (folder / probe.ARRAYS).write_bytes(content[:keep])
        with pytest.raises(Unreadable):
            read_model(folder)


def test_a_pickle_is_never_opened(folder: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "exploded",))

    with zipfile.ZipFile(folder / probe.ARRAYS, "w") as archive:
        archive.writestr("1.0.npy", pickle.dumps(Bomb()))
    with pytest.raises(Unreadable):
        read_model(folder)
    assert not (tmp_path / "exploded").exists()


def test_compressed_arrays_are_refused_before_they_are_unpacked(folder: Path) -> None:
    with np.load(folder / probe.ARRAYS) as file:
        arrays = dict(file)
    np.savez_compressed(folder / probe.ARRAYS, **arrays)
    with pytest.raises(Unreadable, match="compressed"):
        read_model(folder)


def test_strings_cut_in_an_impossible_way_do_not_crash(tmp_path: Path) -> None:
    answers = Answers().run(s=np.array([b"ab", b"c"], object))
    answers.arrays["1.0.ends"] = np.array([10**12, -5])
    with pytest.raises(Unreadable):
        read_model(answers.write(tmp_path))


def test_an_environment_is_read(tmp_path: Path) -> None:
    (tmp_path / probe.ENVIRONMENT).write_text(json.dumps(ENVIRONMENT))
    assert read_environment(tmp_path).tensorflow == "2.21.0"
