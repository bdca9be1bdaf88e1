"""Which line of a Dockerfile a broken budget is shown at."""

from __future__ import annotations

from typing import Any

import pytest

from report_records import size
from tfslim.github.lines import instructions, largest_line
from tfslim.images.inspection import Inspection

DOCKERFILE = """\
# syntax=docker/dockerfile:1
FROM python:3.13 AS builder
RUN --mount=type=cache,target=/root/.cache \\
    pip install tensorflow \\
    # why
 && rm -rf /tmp/x

FROM python:3.13-slim as runtime
ENV A=1
COPY --from=builder --chown=1:1 /venv /venv
RUN <<EOF
apt-get update
COPY not an instruction
EOF
copy app /app
CMD ["run"]
"""


def _image(*layers: tuple[str, int]) -> Inspection:
    data: dict[str, Any] = size(1, 1)
    data["layers"] = [
        {
            "digest": f"sha256:{number:064x}",
            "compression": "zstd",
            "pull_bytes": None,
            "unpacked_bytes": count,
            "files": 1,
            "wasted_bytes": 0,
            "created_by": text,
        }
        for number, (text, count) in enumerate(layers)
    ]
    return Inspection.model_validate(data)


def test_instructions_are_read_with_the_line_that_they_begin_at() -> None:
    found = [(one.line, one.word) for one in instructions(DOCKERFILE)]
    assert found == [
        (2, "FROM"),
        (3, "RUN"),
        (8, "FROM"),
        (9, "ENV"),
        (10, "COPY"),
        (11, "RUN"),
        (15, "COPY"),
        (16, "CMD"),
    ]
    run = instructions(DOCKERFILE)[1].text
    assert "pip install tensorflow && rm -rf /tmp/x" in run
    assert "why" not in run


@pytest.mark.parametrize(
    ("layers", "line"),
    [
        ([("ADD rootfs.tar / # buildkit", 9), ("COPY /venv /venv # buildkit", 20)], 10),
        ([("ADD rootfs.tar / # buildkit", 90), ("COPY /venv /venv # buildkit", 20)], 8),
        ([("COPY /venv /venv # buildkit", 2), ("COPY app /app # buildkit", 3)], 15),
        ([("", 5)], 8),
    ],
)
def test_the_line_is_that_of_the_largest_layer_or_the_from(
    layers: list[tuple[str, int]], line: int
) -> None:
    place = largest_line(DOCKERFILE, _image(*layers))
    assert place is not None
    assert place.line == line


def test_a_stage_that_is_named_is_the_one_that_is_looked_at() -> None:
    made = "RUN /bin/sh -c pip install tensorflow  && rm -rf /tmp/x # buildkit"
    place = largest_line(DOCKERFILE, _image(("base", 1), (made, 5)), "builder")
    assert place is not None
    assert place.line == 3


def test_a_stage_built_on_another_has_that_one_s_lines_too() -> None:
    text = "FROM x AS base\nRUN make it large\nFROM base\nCOPY a b\n"
    large = "|1 ARG=1 /bin/sh -c make it large # buildkit"
    place = largest_line(text, _image(("x", 1), (large, 9), ("COPY a b # buildkit", 2)))
    assert place is not None
    assert place.line == 2


def test_growth_is_shown_at_a_layer_that_was_not_there_before() -> None:
    text = "FROM x\nRUN large\nCOPY small /small\n"
    before = _image(("x", 1), ("RUN /bin/sh -c large # buildkit", 90))
    now = _image(
        ("x", 1), ("RUN /bin/sh -c large # buildkit", 90), ("COPY small /small # buildkit", 2)
    )
    place = largest_line(text, now, before=before)
    assert place is not None
    assert (place.line, "new" in place.why) == (3, True)


@pytest.mark.parametrize("text", ["", "# nothing\n", "RUN x\n", "RUN <<EOF\n", "FROM\n"])
def test_what_is_no_dockerfile_has_a_line_at_most(text: str) -> None:
    assert largest_line(text, _image(("x", 1))) is None or text.startswith("FROM")
