"""Put TensorFlow's host code aside in a tree: the parts that models run stay as they are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from tfslim.errors import SlimError
from tfslim.slim.cold import sidefile
from tfslim.slim.cold.punch import Code, punch
from tfslim.slim.cold.runtime import compiled
from tfslim.slim.elf import FormatRefusedError
from tfslim.ui import Ui

__all__ = ["ColdCode", "put_aside"]

_LIBRARY: Final = "libtensorflow_cc.so.*"
_SIDE, _RUNTIME, _ASIDE, _BEFORE = ".cold", ".so", ".tfslim-new", ".tfslim-before"


class ColdCode(BaseModel):
    """What became of a library. Bytes.

    Attributes:
        path: The library, in the tree.
        before: Its size.
        after: Its size without its code.
        side: The side file's size; of it `hot` is code as it is, and `packed` the rest.
        hot: Code that models were seen to run, whole pages and what lies close between them.
        cold: Code that is brought back on touch.
        packed: The same, compressed.
        touched: Pages that models were seen to touch.
        restored: Why the library is as it was; empty where it is not.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    before: int
    after: int
    side: int = 0
    hot: int = 0
    cold: int = 0
    packed: int = 0
    touched: int = 0
    restored: str = ""


def put_aside(tree: Path, run: Callable[[], Collection[int]] | None, ui: Ui) -> list[ColdCode]:
    """Put the code of a tree's TensorFlow aside.

    Until all is done the library is beside its new self; whatever goes wrong, it comes back.

    Args:
        tree: The tree; changed in place.
        run: Runs models in the tree and returns the addresses of pages that they touched; without
            it everything is cold, and the first start brings back what it needs.
        ui: Shows progress.

    Raises:
        SlimError: There is no such library, or no compiler.
    """
    runtime = compiled()
    found = list(_libraries(tree))
    if not found:
        raise SlimError(
            f"{tree} has no TensorFlow library whose code could be put aside",
            why=f"There is no {_LIBRARY} of which it was not done before.",
        )
    return [_one(library, tree, runtime, run, ui) for library in found]


def _libraries(tree: Path) -> Iterator[Path]:
    for path in sorted(tree.rglob(_LIBRARY)):
        if path.suffix in (_SIDE, _RUNTIME) or path.is_symlink() or not path.is_file():
            continue
        if not path.with_name(path.name + _SIDE).exists():
            yield path


def _one(
    library: Path,
    tree: Path,
    runtime: bytes,
    run: Callable[[], Collection[int]] | None,
    ui: Ui,
) -> ColdCode:
    name = str(library.relative_to(tree))
    before = library.stat().st_size
    aside, saved = _named(library, _ASIDE), _named(library, _BEFORE)
    with ui.step(f"Putting code of {library.name} aside"):
        try:
            code = punch(library, aside, library.name + _RUNTIME)
        except FormatRefusedError as refusal:
            return ColdCode(path=name, before=before, after=before, restored=str(refusal))
        os.link(library, saved)
    try:
        _settle(_named(library, _RUNTIME), runtime, like=saved)
        _write_side(library, code, (), aside.stat().st_size, sidefile.PAGE_CHUNK, like=saved)
        shutil.copystat(saved, aside)
        aside.replace(library)
        touched = run() if run else ()
        with ui.step("Compressing what is rarely run"):
            sized = _write_side(library, code, touched, library.stat().st_size, None, like=saved)
    except BaseException:
        saved.replace(library)
        for suffix in (_SIDE, _RUNTIME, _ASIDE):
            _named(library, suffix).unlink(missing_ok=True)
        raise
    saved.unlink()
    return ColdCode(
        path=name,
        before=before,
        after=library.stat().st_size,
        side=sized.total,
        hot=sized.hot,
        cold=sized.cold,
        packed=sized.packed,
        touched=len(touched),
    )


def _named(library: Path, suffix: str) -> Path:
    return library.with_name(library.name + suffix)


def _write_side(
    library: Path,
    code: Code,
    touched: Collection[int],
    size: int,
    chunk: int | None,
    *,
    like: Path,
) -> sidefile.Sized:
    """Write the side file aside, read it back, and put it in place."""
    place, aside = _named(library, _SIDE), _named(library, _SIDE + _ASIDE)
    runs = sidefile.cold_runs(code.address, len(code.content), touched)
    options = {} if chunk is None else {"chunk": chunk}
    sized = sidefile.write(aside, code.content, code.address, runs, library_size=size, **options)
    if sidefile.read_code(aside) != (code.address, code.content):
        aside.unlink()
        raise SlimError(f"the side file of {library.name} does not hold the code it was given")
    _like(aside, like)
    aside.replace(place)
    return sized


def _settle(place: Path, content: bytes, *, like: Path) -> None:
    aside = _named(place, _ASIDE)
    aside.write_bytes(content)
    _like(aside, like)
    aside.replace(place)


def _like(path: Path, like: Path) -> None:
    """Give a file the rights, times and owner of another."""
    shutil.copystat(like, path)
    status = like.stat()
    os.chown(path, status.st_uid, status.st_gid)
