"""Reads op types from a SavedModel's file by itself, where there is no protobuf to do it.

Field numbers are those of saved_model, meta_graph and saved_object_graph.proto in
tensorflow/core/protobuf, and of graph, node_def, function and attr_value.proto in
tensorflow/core/framework; the encoding is https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}

# Number and kind with which an attribute begins: a boolean, a function, a list (of functions).
_BOOLEAN, _FUNCTION, _LIST, _FUNCTION_IN_LIST = b"\x28", b"\x52", b"\x0a", b"\x4a"

# The strings and messages in a message, by number of their field.
Message = dict[int, list[bytes]]


class Node(NamedTuple):
    """An operation: its type, the functions that it calls, and names of attributes that are set."""

    op: str
    calls: tuple[str, ...]
    marks: frozenset[str]


class Body(NamedTuple):
    """A graph or a function: its nodes, and the names of the function's own attributes."""

    nodes: list[Node]
    marks: frozenset[str]


class SavedGraph(NamedTuple):
    """One graph of a SavedModel, and which kinds of objects Python had when it was saved.

    Attributes:
        bodies: The functions by name; the graph itself has the name "".
        objects: Identifiers of its objects ("optimizer").
    """

    bodies: Mapping[str, Body]
    objects: frozenset[str]


def saved_graphs(data: bytes) -> Iterator[SavedGraph]:
    """Yield the graphs of a `saved_model.pb`.

    Raises:
        ValueError: It is not one.
    """
    for part in _message(data).get(2, ()):
        meta = _message(part)
        bodies = {name: body for graph in meta.get(2, ()) for name, body in _bodies(graph)}
        saved = [_message(one) for graph in meta.get(7, ()) for one in _message(graph).get(1, ())]
        users = (user for one in saved for user in one.get(4, ()))
        yield SavedGraph(bodies, frozenset(_text(_message(user), 1) for user in users))


def _bodies(data: bytes) -> Iterator[tuple[str, Body]]:
    graph = _message(data)
    yield "", Body([_node(one) for one in graph.get(1, ())], frozenset())
    for library in graph.get(2, ()):
        for one in _message(library).get(1, ()):
            function = _message(one)
            marks = frozenset(name for name, value in _attributes(function) if _is_set(value))
            name = "".join(_text(_message(signature), 1) for signature in function.get(1, ()))
            yield name, Body([_node(node) for node in function.get(3, ())], marks)


def _node(data: bytes) -> Node:
    node = _message(data)
    attributes = list(_attributes(node))
    calls = [name for _, value in attributes for name in _called(value)]
    marks = frozenset(name for name, value in attributes if _is_set(value))
    return Node(_text(node, 2), tuple(calls), marks)


def _attributes(owner: Message) -> Iterator[tuple[str, bytes]]:
    """Yield the attributes of a node or a function, which have the same number in both."""
    for part in owner.get(5, ()):
        entry = _message(part)
        yield _text(entry, 1), b"".join(entry.get(2, ()))


def _called(value: bytes) -> Iterator[str]:
    """Yield the functions that an attribute names; most hold something else."""
    if value.startswith(_FUNCTION):
        for function in _message(value).get(10, ()):
            yield _text(_message(function), 1)
    elif value.startswith(_LIST):
        for listed in _message(value).get(1, ()):
            if listed.startswith(_FUNCTION_IN_LIST):
                for function in _message(listed).get(9, ()):
                    yield _text(_message(function), 1)


def _is_set(value: bytes) -> bool:
    """False for a boolean that is false; encoders may leave it out or not."""
    return bool(value) and value != _BOOLEAN + b"\0"


def _text(message: Message, number: int) -> str:
    return b"".join(message.get(number, ())).decode("utf-8", "replace")


def _message(data: bytes) -> Message:
    """Return a message's fields.

    Raises:
        ValueError: It is none.
    """
    found: Message = {}
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            _, at = _varint(data, at)
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in _FIXED_BYTES:
            size = _FIXED_BYTES[kind]
        else:
            raise ValueError(f"a field of unknown kind {kind}")
        if at + size > end:
            raise ValueError("a field ends beyond its message")
        found.setdefault(key >> 3, []).append(data[at : at + size])
        at += size
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a number does not end")
