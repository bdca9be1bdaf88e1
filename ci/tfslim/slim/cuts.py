"""What is to be taken out of one ELF file, as plain data: what `plan` writes and `layout` reads."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["ContainerCut", "FileCuts", "NewCode", "Placeholder", "Run", "Span"]

# Things that follow each other in a table, as (index of the first, count).
Run = tuple[int, int]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Span(_Data):
    """Bytes of a file that become zero. Offset and size in bytes."""

    offset: int
    size: int


class NewCode(_Data):
    """A cubin that was compiled from a container's PTX, to be added to it.

    Attributes:
        sm: The architecture it is for, as in 90.
        suffix: "a" or "f" where it is for that one or its family alone.
        key: Its name in the store of compiled code.
        sha256: Digest of the cubin.
        cubin: Its bytes.
        packed: How it is stored.
        size: Bytes of the whole entry.
    """

    sm: int
    suffix: Literal["", "a", "f"] = ""
    key: str = Field(pattern=r"^[0-9a-f]{64}$")
    sha256: str
    cubin: int
    packed: Literal["none", "lz4"]
    size: int

    @property
    def arch(self) -> str:
        """The architecture as NVIDIA writes it."""
        return f"sm_{self.sm}{self.suffix}"


class ContainerCut(_Data):
    """What stays of a fatbin container.

    Attributes:
        offset: File offset of the container.
        keep: Indices of the entries that stay, ascending.
        movable: Wrappers alone lead to it, so it may lie elsewhere.
        empty: What becomes of it when nothing is kept: it holds a copy of the file's placeholder;
            or its wrappers are led to the file's `host` ("shared"); or all of it becomes zero.
        new: Code that follows what stays, compiled ahead of time.
    """

    offset: int
    keep: tuple[int, ...]
    movable: bool = False
    empty: Literal["", "copy", "shared", "zero"] = ""
    new: tuple[NewCode, ...] = ()


class Placeholder(_Data):
    """The entry that stands for removed code: a real cubin for an architecture not named.

    The driver then says what it says of any container without code for its GPU.

    Attributes:
        container: File offset of the container it is taken from.
        entry: Its index there.
    """

    container: int
    entry: int


class FileCuts(_Data):
    """Everything that is taken out of a file.

    Attributes:
        containers: In file order; also those that only move.
        placeholder: What emptied containers hold; None where none is needed.
        host: Offset of the container that stands for all shared ones; it holds the placeholder.
        spans: Code outside containers, in file order.
        aside: Whole pages that are kept elsewhere (`slim.cold`): they leave the file, and nothing
            may take their place.
        sections: Indices of sections that are dropped, ascending.
        zstd: Whether movable containers' entries are stored with zstd where that is smaller.
        hidden: Runs of dynamic symbols that nobody outside the file can find any more, ascending.
        packed: Whether its relative relocations are packed (`slim.relr`), after all else.
    """

    containers: tuple[ContainerCut, ...] = ()
    placeholder: Placeholder | None = None
    host: int | None = None
    spans: tuple[Span, ...] = ()
    aside: tuple[Span, ...] = ()
    sections: tuple[int, ...] = ()
    zstd: bool = False
    hidden: tuple[Run, ...] = ()
    packed: bool = False

    @property
    def before_packing(self) -> FileCuts:
        """What is done first."""
        return self.model_copy(update={"packed": False})

    @property
    def compiled(self) -> tuple[NewCode, ...]:
        """All code that was compiled ahead of time."""
        return tuple(new for cut in self.containers for new in cut.new)

    @property
    def relocates(self) -> bool:
        """True when program headers or relocations change: what a loader reads."""
        return bool(self.containers or self.spans or self.aside or self.hidden or self.packed)
