from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import image_factory as image
import pytest
from rich.console import Console

from tfslim.images.described import describes, gates_of, removals_of
from tfslim.images.inspect import inspect_source
from tfslim.images.inspect_text import render_text

SITE = "opt/venv/lib/python3.13/site-packages"
GUARD = f"{SITE}/_tfslim.json"
ZOO = "usr/share/tfslim/gate-zoo.json"
ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00"
REMOVED = {"headers": {"bytes": 5, "count": 2}, "gpu-code": {"bytes": 90, "count": 7}}


def no_engine() -> Any:
    raise AssertionError("no engine is needed")


def test_an_image_says_what_went_and_what_was_proved(tmp_path: Path) -> None:
    built = image.build(
        [
            image.layer(
                image.Entry(GUARD, json.dumps({"removed": REMOVED}).encode()),
                image.Entry(f"{SITE}/lib/liblarge.so.1", ELF + bytes(300 << 10)),
                image.Entry(f"{SITE}/lib/libsmall.so.1", ELF + bytes(30 << 10)),
            ),
            image.layer(
                image.Entry(ZOO, b'{"outcome": "passed", "models": {"cnn": "passed"}}'),
                image.Entry("usr/share/tfslim/gate-model.json", b'{"outcome": "off"}'),
            ),
        ]
    )
    found = inspect_source(str(image.oci_archive(tmp_path / "a.tar", built)), client=no_engine)
    assert [(item.rule, item.removed_bytes) for item in found.removals] == [
        ("gpu-code", 90),
        ("headers", 5),
    ]
    assert [(gate.name, gate.outcome) for gate in found.gates] == [
        ("model", "off"),
        ("zoo", "passed"),
    ]
    assert found.gates[1].models == {"cnn": "passed"}
    assert [file.path for file in found.libraries] == [f"{SITE}/lib/liblarge.so.1"]
    console = Console(file=io.StringIO(), width=120)
    console.print(render_text(found))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "parity      model off, zoo passed" in shown
    assert "gpu-code" in shown


def test_a_deleted_description_says_nothing(tmp_path: Path) -> None:
    built = image.build(
        [
            image.layer(image.Entry(ZOO, b'{"outcome": "passed"}')),
            image.layer(image.Entry("usr/share/tfslim/.wh.gate-zoo.json")),
        ]
    )
    found = inspect_source(str(image.oci_archive(tmp_path / "a.tar", built)), client=no_engine)
    assert found.gates == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"removed": 5}',
        b'{"removed": {"a": 5, "b": {}, "c": {"bytes": -1, "count": 1}}}',
        b'{"removed": {"d": {"bytes": "many", "count": 1}, "' + b"e" * 200 + b'": {"bytes": 1}}}',
        b'{"removed": {"\\u001b[31m": {"bytes": 1, "count": 1}}, "outcome": "\\u001b[31m"}',
        b"[" * 100_000,
        b'{"removed": {"f": {"bytes": 1, "count": 1}}' + b" " * (5 << 20) + b"}",
    ],
)
def test_a_description_that_makes_no_sense_is_passed_over(content: bytes) -> None:
    assert removals_of({GUARD: content}) == []
    assert gates_of({ZOO: content}) == []


@pytest.mark.parametrize(
    ("path", "read"),
    [
        (GUARD, True),
        (ZOO, True),
        ("usr/share/tfslim/gate-.json", False),
        ("usr/share/tfslim/other.json", False),
        ("usr/share/tfslim/sub/gate-zoo.json", False),
        ("home/gate-zoo.json", False),
    ],
)
def test_which_files_are_read(path: str, read: bool) -> None:
    assert describes(path) is read
