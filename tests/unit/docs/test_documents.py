"""What the documents say can be followed: files, anchors, commands, pages in the index."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import click
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tfslim.cli import cli

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "dockerfiles/**/*.md", "benchmarks/**/*.md")
    for path in ROOT.glob(pattern)
)
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
_COMMAND = re.compile(r"(?:^|[|;&]\s*|\$ |sudo |run: )tfslim(?= )(?P<rest>[^|;&`\n]*)")
_SHELLS = ("", "console", "sh", "bash", "shell", "text")


@cache
def tokens(path: Path) -> list[Token]:
    """Return a document as its parser sees it."""
    return MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of a document's headings, and those it sets itself."""
    text = path.read_text(encoding="utf-8")
    found: dict[str, int] = {}
    for before, token in pairwise(tokens(path)):
        if before.type == "heading_open":
            children = token.children or []
            plain = "".join(c.content for c in children if c.type in ("text", "code_inline"))
            slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
            found[slug] = found.get(slug, -1) + 1
    names = set(found) | {
        f"{slug}-{n}" for slug, count in found.items() for n in range(1, count + 1)
    }
    return names | set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))


known_anchors = cache(anchors)


def links(path: Path) -> Iterator[str]:
    """Yield the relative links and pictures of a document."""
    for token in tokens(path):
        for child in token.children or []:
            target = child.attrGet("href") or child.attrGet("src")
            if isinstance(target, str) and not re.match(r"[a-z]+:", target):
                yield target


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_every_relative_link_leads_to_a_file_and_a_heading(path: Path) -> None:
    wrong = []
    for link in links(path):
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        is_document = target.suffix == ".md" and target.is_file()
        if not target.exists() or (anchor and is_document and anchor not in known_anchors(target)):
            wrong.append(link)
    assert not wrong


def shell_lines(path: Path) -> Iterator[str]:
    """Yield lines of shell: of blocks (prompts are cut off), and commands within sentences."""
    for token in tokens(path):
        if token.type in ("fence", "code_block") and token.info.strip() in _SHELLS:
            lines = token.content.replace("\\\n", " ").splitlines()
            prompts = [line[2:] for line in lines if line.startswith("$ ")]
            yield from prompts or lines
        for child in token.children or []:
            if child.type == "code_inline":
                yield child.content


def command_problem(rest: str) -> str | None:
    """Return what is wrong with the words after `tfslim`: an unknown verb or option."""
    try:
        words = shlex.split(rest, comments=True)
    except ValueError:
        return None  # an apostrophe of a sentence
    command: click.Command = cli
    options = {name for p in cli.params for name in (*p.opts, *p.secondary_opts)}
    options |= {"-h", "--help"}
    takes_value = False
    for word in words:
        if word.startswith("-") and word != "-" and not re.fullmatch(r"-\d+", word):
            name = word.partition("=")[0]
            if name not in options:
                return f"{command.name} has no option {name}"
            takes_value = "=" not in word and _takes_value(command, name)
        elif takes_value:
            takes_value = False
        elif isinstance(command, click.Group):
            inner = command.commands.get(word)
            if inner is None:
                # `tfslim trace TREE` is short for `tfslim trace run TREE`.
                inner = command.commands.get("run") if command is not cli else None
            if inner is None:
                return None if not re.fullmatch(r"[a-z-]+", word) else f"no verb {word!r}"
            command = inner
            options |= {name for p in inner.params for name in (*p.opts, *p.secondary_opts)}
            options |= {"--help", "-h"}
    return None


def _takes_value(command: click.Command, name: str) -> bool:
    for parameter in (*command.params, *cli.params):
        if name in parameter.opts:
            return isinstance(parameter, click.Option) and not parameter.is_flag
    return False


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_every_command_line_has_a_verb_and_options_that_there_are(path: Path) -> None:
    wrong = []
    for line in shell_lines(path):
        for match in _COMMAND.finditer(line):
            # What an ellipsis or a bracket stands for is not written out.
            rest = re.split(r"[…\[]", match["rest"])[0]
            problem = command_problem(rest)
            if problem:
                wrong.append(f"{line.strip()}: {problem}")
    assert not wrong


def test_a_wrong_verb_or_option_would_be_found() -> None:
    assert command_problem(" bnech stock") == "no verb 'bnech'"
    assert command_problem(" slim X --cuda-archs 90") == "slim has no option --cuda-archs"
    assert command_problem(" -c FILE build inference --push --tag 1.2") is None
    assert command_problem(" trace .venv --model X -o trace.json") is None


def test_a_wrong_link_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One `--two`, three\n[a](#one---two-three) [b](no.md) [c](https://x.org)\n")
    assert anchors(page) == {"one---two-three"}
    assert list(links(page)) == ["#one---two-three", "no.md"]


def test_the_index_leads_to_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in links(index)}
    pages = {path for path in DOCUMENTS if path.parent == ROOT / "docs" and path != index}
    assert not sorted(path.name for path in pages - linked)


def test_the_readme_stays_short_and_keeps_the_place_of_the_action_s_section() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    begin, end = text.index("<!-- action:begin -->"), text.index("<!-- action:end -->")
    assert 0 < begin < end
    assert len((text[:begin] + text[end:]).splitlines()) <= 150
