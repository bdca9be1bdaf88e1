"""Load a model, whatever its form: which of its graphs, which signatures, which session."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tfserve_app.capi.frozen import Frozen, read_frozen
from tfserve_app.capi.guard import refuse_removed_ops
from tfserve_app.capi.lean import load_lean
from tfserve_app.capi.library import Library
from tfserve_app.capi.metagraph import (
    Entry,
    MetaGraph,
    UnsupportedSignatureError,
    read_meta_graphs,
)
from tfserve_app.capi.options import SessionOptions
from tfserve_app.capi.session import Session, load_frozen, load_saved_model, load_text_model
from tfserve_app.capi.wire import Message
from tfserve_app.savedmodel import FROZEN_FILE, wants_lean

__all__ = ["Model", "load_model"]

Log = Callable[[str], None]

_SERVE = ("serve",)
_PREFERRED = (_SERVE, ("serve", "gpu"))
_VARIABLES = frozenset({"VarHandleOp", "Variable", "VariableV2"})


@dataclass(frozen=True)
class Model:
    """A loaded model.

    Attributes:
        session: What runs it.
        entries: Its signatures by name, sorted.
        frozen: The description of a frozen model, None of any other.
    """

    session: Session
    entries: Mapping[str, Entry]
    frozen: Frozen | None = None


def load_model(library: Library, path: Path, options: SessionOptions, log: Log) -> Model:
    """Load a SavedModel or a frozen model.

    Raises:
        StatusError: TensorFlow cannot load it.
        ValueError: A file of it is not what it must be, or nobody can say which graph is meant.
        OSError: A file cannot be read.
        ModelLoadError: It needs what `tfslim slim` took out of this environment.
    """
    if (path / FROZEN_FILE).is_file():
        frozen = read_frozen(path)
        return Model(load_frozen(library, frozen.graph, options), frozen.entries, frozen)
    if not (path / "saved_model.pb").is_file():  # as text: TensorFlow has to read it for us
        session, described = load_text_model(library, path, _SERVE, options)
        graph = MetaGraph(Message(described))
        _check(path, graph)
        return Model(session, _entries(graph, log))
    graph = choose(read_meta_graphs(path / "saved_model.pb"))
    _check(path, graph)
    entries = _entries(graph, log)
    options = replace(options, sinking=graph.branches_or_loops())
    lean = load_lean(library, path, graph, options) if wants_lean() else None
    return Model(lean or load_saved_model(library, path, graph.tags, options), entries)


def _check(path: Path, graph: MetaGraph) -> None:
    refuse_removed_ops(path, graph)
    index = path / "variables" / "variables.index"
    # TensorFlow takes a model without a checkpoint for one without variables, and fails at the
    # first request.
    if not index.is_file() and graph.op_types() & _VARIABLES:
        raise FileNotFoundError(f"{index} is missing, and the graph has variables")


def choose(graphs: list[MetaGraph]) -> MetaGraph:
    """Return the graph to serve: the only one, or the one tagged `serve`, or `serve` and `gpu`.

    Raises:
        ValueError: There are several, and none of those.
    """
    if len(graphs) == 1:
        return graphs[0]
    for tags in _PREFERRED:
        for graph in graphs:
            if set(graph.tags) == set(tags):
                return graph
    known = "; ".join(", ".join(graph.tags) or "no tag" for graph in graphs)
    raise ValueError(f"it has {len(graphs)} graphs, none of them tagged 'serve': {known}")


def _entries(graph: MetaGraph, log: Log) -> dict[str, Entry]:
    """Return the signatures; one that cannot be served is left out, and the log says so."""
    entries = {}
    for name in graph.signature_names():
        try:
            entries[name] = graph.entry(name)
        except UnsupportedSignatureError as error:
            log(f"signature {name!r} cannot be served: {error}")
    return entries
