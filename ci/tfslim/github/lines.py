"""Which line of a Dockerfile a broken budget is shown at: the one whose layer is the largest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tfslim.images.inspection import Inspection, LayerUse

__all__ = ["Instruction", "Place", "instructions", "largest_line"]

_LAYERS: Final = ("RUN", "COPY", "ADD", "WORKDIR")
_HEREDOC: Final = re.compile(r"<<-?\s*(['\"]?)([A-Za-z_][A-Za-z0-9_]*)\1")
_FLAG: Final = re.compile(r"^--[a-z-]+(=\S+)?\s+")
_FROM: Final = re.compile(r"(?:--\S+\s+)*(\S+)(?:\s+as\s+(\S+))?", re.IGNORECASE)
# How BuildKit and the classic builder write an instruction into an image's history.
_WROTE_NOP: Final = re.compile(r"^/bin/sh -c #\(nop\)\s+")
_COMPARED: Final = 200  # characters of an instruction that have to agree


@dataclass(frozen=True)
class Instruction:
    """One instruction: the line it begins at, from 1; its word in capitals; what follows."""

    line: int
    word: str
    text: str


@dataclass(frozen=True)
class Place:
    """A line, and why it is that one."""

    line: int
    why: str


def instructions(dockerfile: str) -> list[Instruction]:
    """Read a Dockerfile's instructions, continued lines joined, without comments and heredocs."""
    escape = "`" if re.match(r"(?:#.*\n)*#\s*escape\s*=\s*`", dockerfile) else "\\"
    found: list[Instruction] = []
    lines = iter(enumerate(dockerfile.splitlines(), 1))
    for number, line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        text = " ".join(_joined(line, lines, escape))
        word, _, rest = text.strip().partition(" ")
        for heredoc in _HEREDOC.finditer(rest) if word.upper() in _LAYERS else ():
            _skip(heredoc[2], lines)
        found.append(Instruction(number, word.upper(), rest.strip()))
    return found


def largest_line(
    dockerfile: str,
    size: Inspection,
    target: str | None = None,
    *,
    before: Inspection | None = None,
) -> Place | None:
    """Return the line whose layer is the largest of the image.

    Args:
        dockerfile: Its text.
        size: What the image is made of.
        target: The stage that was built; None for the last one.
        before: What it was made of before: only layers that are new since then are looked at.

    Returns:
        None where the file has no FROM. Where the largest layer comes from no line (the base
        image's, say), the FROM that brought it.
    """
    chain = _chain(instructions(dockerfile), target)
    if not chain:
        return None
    start = chain[0]
    known = {layer.digest for layer in before.layers} if before else set()
    layers = [layer for layer in size.layers if layer.digest not in known] or size.layers
    kind = "largest of those that are new" if known else "largest of the image"
    if not layers:
        return Place(start.line, "the image has no layers")
    largest = max(layers, key=lambda layer: (layer.unpacked_bytes, layer.pull_bytes or 0))
    line = _line_of(largest, chain)
    if line is None:
        return Place(start.line, f"the layer that is the {kind} comes with what it names")
    return Place(line, f"its layer is the {kind}")


def _joined(first: str, lines: Iterator[tuple[int, str]], escape: str) -> Iterator[str]:
    """Yield an instruction's lines without what continues them."""
    line = first
    while line.rstrip().endswith(escape):
        yield line.rstrip().removesuffix(escape).strip()
        following = next(
            (text for _, text in lines if text.strip() and not text.lstrip().startswith("#")), None
        )
        if following is None:
            return
        line = following
    yield line.strip()


def _skip(word: str, lines: Iterator[tuple[int, str]]) -> None:
    for _, line in lines:
        if line.strip() == word:
            return


def _chain(found: Sequence[Instruction], target: str | None) -> list[Instruction]:
    """Return the instructions of a stage, after those of the stages that it is built on."""
    stages: dict[str, list[Instruction]] = {}
    names: list[str] = []
    for one in found:
        if one.word == "FROM":
            match = _FROM.match(one.text)
            names.append((match[2] if match and match[2] else f"#{len(names)}").lower())
            stages[names[-1]] = []
        if names:
            stages[names[-1]].append(one)
    name = target.lower() if target and target.lower() in stages else (names or [""])[-1]
    chain: list[Instruction] = []
    while name in stages:
        stage = stages.pop(name)
        chain = [*stage, *chain]
        match = _FROM.match(stage[0].text)
        name = match[1].lower() if match else ""
    return chain


def _line_of(layer: LayerUse, chain: Sequence[Instruction]) -> int | None:
    """Return the line that a layer was made by; of several that read the same, the last."""
    wrote = _plain(_WROTE_NOP.sub("", layer.created_by.removesuffix("# buildkit").strip()))
    run = wrote.partition("sh -c ")[2] or wrote.removeprefix("RUN ")
    for one in reversed(chain):
        if one.word not in _LAYERS:
            continue
        text = one.text
        while _FLAG.match(text):
            text = _FLAG.sub("", text)
        expected = _plain(text)
        said = run if one.word == "RUN" else _plain(wrote.removeprefix(one.word))
        if one.word != "RUN" and not wrote.startswith(one.word):
            continue
        if expected and said[:_COMPARED] == expected[:_COMPARED]:
            return one.line
    return None


def _plain(text: str) -> str:
    return " ".join(text.split())
