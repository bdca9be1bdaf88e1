"""Refuses a model whose ops need libraries that tfslim took out: at load, and not in a kernel."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import _tfslim_guard  # type: ignore[import-not-found]
from _tfslim_wire import Body, Node, saved_graphs  # type: ignore[import-not-found]

_MUST_COMPILE = "_XlaMustCompile"
_XLA = "@xla"
_KERAS = "@keras"
_KERAS_RNN = "@keras-rnn"
# What is no op type, and yet something that a model may need.
_NAMES = {
    _XLA: "XLA compilation",
    _KERAS: "Keras (it was saved with its optimizer)",
    _KERAS_RNN: "cuDNN for a recurrent layer of Keras",
}


class RemovedOpError(RuntimeError):
    """A model needs what tfslim took out of this environment."""


def check_model(model: Any) -> None:
    """Refuse a model that needs ops whose libraries are gone; also where no GPU is used.

    Args:
        model: A SavedModel folder; what `tf.saved_model.load` returned; a concrete function, a
            `tf.Graph` or a GraphDef; or a set of op types. Only what can be reached from the
            SavedModel's signatures counts.

    Raises:
        RemovedOpError: It needs what is gone; one line with op, rule and way out.
        OSError: It is a folder, and no SavedModel that can be read.
        TypeError: It is none of these.
    """
    known = _tfslim_guard.data()
    given_up: dict[str, list[str]] = known["ops"]
    if not given_up:
        return
    for op in sorted(_op_types(model)):
        rules = sorted(
            rule
            for rule, patterns in given_up.items()
            if any(fnmatchcase(op, pattern) for pattern in patterns)
        )
        if rules:
            words = sorted({known["rules"][rule]["keep"] for rule in rules})
            raise RemovedOpError(
                f"the model needs {_NAMES.get(op, f'the op {op}')}, and tfslim took out what that "
                f"takes (rule {', '.join(rules)}): slim with --keep {' --keep '.join(words)}, or "
                "trace this model as well"
            )


def _op_types(model: Any) -> set[str]:
    if isinstance(model, (str, os.PathLike)):
        return _saved_op_types(os.fspath(model))
    if isinstance(model, (set, frozenset)):
        return set(model)
    return set().union(*(_reached(_bodies(graph)) for graph in _graphs(model)))


def _saved_op_types(folder: str) -> set[str]:
    found: set[str] = set()
    try:
        for graph in saved_graphs(_saved(Path(folder))):
            found |= _reached(graph.bodies)
            # TensorFlow asks Keras for it, and cannot load the model without.
            if "optimizer" in graph.objects:
                found.add(_KERAS)
    except ValueError as error:
        raise OSError(f"{folder}/saved_model.pb cannot be read: {error}") from error
    return found


def _saved(folder: Path) -> bytes:
    """Return a SavedModel as it is stored; other forms are read by TensorFlow, if it is here."""
    if (folder / "saved_model.pb").is_file():
        return (folder / "saved_model.pb").read_bytes()
    try:
        from tensorflow.python.saved_model import loader_impl  # type: ignore  # noqa: PLC0415
    except ImportError as error:
        raise OSError(f"{folder} has no saved_model.pb") from error
    data: bytes = loader_impl.parse_saved_model(os.fspath(folder)).SerializeToString()
    return data


def _graphs(model: Any) -> Iterator[Any]:
    """Yield the GraphDefs of a model that is loaded."""
    if hasattr(model, "signatures"):
        for function in model.signatures.values():
            yield function.graph.as_graph_def()
    elif hasattr(model, "graph"):
        yield model.graph.as_graph_def()
    elif hasattr(model, "as_graph_def"):
        yield model.as_graph_def()
    elif hasattr(model, "library"):
        yield model
    else:
        raise TypeError(
            f"a SavedModel or a concrete function can be checked, not {type(model).__name__}; of a "
            "Keras model: tf.function(model).get_concrete_function(tf.TensorSpec(…))"
        )


def _bodies(graph: Any) -> Mapping[str, Body]:
    """Return a GraphDef in the form in which one is read from a file."""
    functions = {
        function.signature.name: Body([_node(one) for one in function.node_def], _marks(function))
        for function in graph.library.function
    }
    return {"": Body([_node(one) for one in graph.node], frozenset()), **functions}


def _node(node: Any) -> Node:
    return Node(node.op, tuple(_called(node)), _marks(node))


def _marks(owner: Any) -> frozenset[str]:
    """Return the attributes that are set, for a boolean to true."""
    values = owner.attr.items()
    return frozenset(name for name, one in values if one.WhichOneof("value") != "b" or one.b)


def _called(node: Any) -> Iterable[str]:
    """Yield the functions that a node's attributes name."""
    for value in node.attr.values():
        if value.WhichOneof("value") == "func":
            yield value.func.name
        elif value.WhichOneof("value") == "list":
            yield from (function.name for function in value.list.func)


def _reached(bodies: Mapping[str, Body]) -> set[str]:
    """Return the op types of a graph and of all functions that it calls, directly or not.

    A SavedModel's library also holds what nothing of its graph calls: training, for instance.
    """
    todo, seen, ops = [bodies[""]], {""}, set()
    while todo:
        body = todo.pop()
        if "api_implements" in body.marks:
            ops.add(_KERAS_RNN)
        if _MUST_COMPILE in body.marks:
            ops.add(_XLA)
        for node in body.nodes:
            if _MUST_COMPILE in node.marks:
                ops.add(_XLA)
            if node.op not in bodies:
                ops.add(node.op)
            called = {name for name in (node.op, *node.calls) if name in bodies} - seen
            seen |= called
            todo += [bodies[name] for name in called]
    return ops
