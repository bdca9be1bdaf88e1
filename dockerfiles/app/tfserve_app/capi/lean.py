"""Load a SavedModel without the functions that only Python calls.

Keras saves each layer as several functions, for Python to call; a served graph calls a few of them.
TensorFlow's own loader copies them all many times: into the session, and into every graph that it
optimises, only to drop them there. Here they are dropped before: what no node can reach by any
name. Nodes stay, all of them, so that everything is placed on devices as ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from tfserve_app.capi.library import Library, StatusError
from tfserve_app.capi.metagraph import Loading, MetaGraph
from tfserve_app.capi.options import SessionOptions
from tfserve_app.capi.session import Session, load_graph
from tfserve_app.capi.wire import Message, WireError, encode_bytes, encode_int

__all__ = ["lean_graph", "load_lean"]

# What is larger has weights in it, and little to gain.
_MOST_BYTES = 64 * 1024 * 1024
_LIBRARY = 2  # field numbers: GraphDef.library, FunctionDefLibrary.function, FunctionDef.signature
_FUNCTION = 1
_SIGNATURE = 1
# Names are looked for by how they begin; there must be few beginnings, and none that is everywhere.
_HEAD_BYTES = 8
_LEAST_HEAD = 4
_MOST_HEADS = 64
# Grappler may put one function with this attribute in the place of another one.
_TWINS = b"api_implements"


def load_lean(
    library: Library, path: Path, meta: MetaGraph, options: SessionOptions
) -> Session | None:
    """Open a session on a SavedModel, restored and initialised, or None: the usual loader can tell.

    Whatever TensorFlow refuses here it refuses there as well, in words of its own.
    """
    try:
        loading, graph = meta.loading(), meta.graph
        if loading is None or graph is None or len(graph.data) > _MOST_BYTES:
            return None
        lean = lean_graph(graph)
        session = None if lean is None else load_graph(library, lean, options)
    except (StatusError, WireError):
        return None
    if session is None:
        return None
    try:
        _run(session, loading, path / "variables" / "variables")
    except (StatusError, ValueError):
        session.close()
        return None
    return session


def _run(session: Session, loading: Loading, variables: Path) -> None:
    # TensorFlow's loader, too, goes by this file.
    if variables.with_suffix(".index").is_file():
        session.run_operation(loading.restore, {loading.filename: bytes(variables)})
    if loading.init:
        session.run_operation(loading.init)


def lean_graph(graph: Message) -> bytearray | None:
    """Return an encoded GraphDef without unreachable functions; None where that gains nothing."""
    functions, others, rest = _parts(graph)
    kept = _reachable(functions, [*others, rest])
    if kept is None or len(kept) == len(functions):
        return None
    body = b"".join(
        encode_bytes(_FUNCTION, data) for name, data in functions.items() if name in kept
    )
    return bytearray(b"".join([*others, encode_bytes(_LIBRARY, body + rest)]))


def _parts(graph: Message) -> tuple[dict[bytes, bytes], list[bytes], bytes]:
    """Return the functions by name, the graph's other fields, and the library's other fields."""
    functions: dict[bytes, bytes] = {}
    others, rest = [], []
    for number, value in graph.fields():
        if isinstance(value, int):
            others.append(encode_int(number, value))
        elif number != _LIBRARY:
            others.append(encode_bytes(number, bytes(value)))
        else:
            for inner, part in Message(value).fields():
                data = bytes(part) if not isinstance(part, int) else b""
                if inner == _FUNCTION:
                    functions[_name(data)] = data
                else:
                    rest.append(encode_bytes(inner, data))
    return functions, others, b"".join(rest)


def _name(function: bytes) -> bytes:
    """Return a function's name: the first field of its signature, which is its own first."""
    signature = next(Message(function).all(_SIGNATURE), b"")
    name = b"" if isinstance(signature, int) else next(Message(signature).all(1), b"")
    return b"" if isinstance(name, int) else bytes(name)


def _reachable(functions: Mapping[bytes, bytes], others: list[bytes]) -> set[bytes] | None:
    """Return the functions named anywhere in what is kept; None where that is not cheap to tell.

    By any string: as an op, in an attribute of whatever type, as a gradient.
    """
    heads = {name[:_HEAD_BYTES] for name in functions}
    if len(heads) > _MOST_HEADS or min(map(len, heads), default=0) < _LEAST_HEAD:
        return None
    kept = {name for name, data in functions.items() if _TWINS in data}
    todo = [b"".join(others), *(functions[name] for name in kept)]
    while todo:
        data = todo.pop()
        found = {name for name in _named(data, heads) if name in functions} - kept
        kept |= found
        todo += [functions[name] for name in found]
    return kept


def _named(data: bytes, heads: set[bytes]) -> Iterator[bytes]:
    """Yield strings that begin like one of these; their size stands before them, 7 bits a byte."""
    for head in heads:
        at = data.find(head)
        while at > 0:
            size = data[at - 1]
            yield data[at : at + size]
            if at > 1:
                yield data[at : at + (size << 7 | data[at - 2] & 0x7F)]
            at = data.find(head, at + 1)
