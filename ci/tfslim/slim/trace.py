"""What models were seen to reach: a document that people read, commit and merge."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["Trace"]


class Trace(BaseModel):
    """What one or several models reached in a tree while they ran.

    Attributes:
        version: Of this document's form.
        ops: TensorFlow op types of all their graphs and of what ran eagerly.
        opened: Files that were opened, mapped or loaded, relative to the tree.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = 1
    ops: frozenset[str]
    opened: frozenset[str]
