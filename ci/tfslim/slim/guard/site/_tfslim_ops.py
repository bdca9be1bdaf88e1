"""Refuses a model whose ops need libraries that tfslim took out: at load, and not in a kernel."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

import _tfslim_guard  # type: ignore[import-not-found]

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
    return set().union(*map(_reached, _graphs(model)))


def _saved_op_types(folder: str) -> set[str]:
    from tensorflow.python.saved_model import loader_impl  # type: ignore  # noqa: PLC0415

    found: set[str] = set()
    for meta_graph in loader_impl.parse_saved_model(folder).meta_graphs:
        found |= _reached(meta_graph.graph_def)
        objects = meta_graph.object_graph_def.nodes
        # TensorFlow asks Keras for it, and cannot load the model without.
        if any(node.user_object.identifier == "optimizer" for node in objects):
            found.add(_KERAS)
    return found


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


def _reached(graph: Any) -> set[str]:
    """Return the op types of a graph and of all functions that it calls, directly or not.

    A SavedModel's library also holds what nothing of its graph calls: training, for instance.
    """
    functions = {function.signature.name: function for function in graph.library.function}
    todo, seen, ops = [graph.node], set(), set()
    while todo:
        for node in todo.pop():
            if _is_set(node):
                ops.add(_XLA)
            if node.op not in functions:
                ops.add(node.op)
            for name in (node.op, *_called(node)):
                if name in functions and name not in seen:
                    seen.add(name)
                    todo.append(functions[name].node_def)
                    if _is_set(functions[name]):
                        ops.add(_XLA)
                    if "api_implements" in functions[name].attr:
                        ops.add(_KERAS_RNN)
    return ops


def _is_set(node: Any) -> bool:
    return _MUST_COMPILE in node.attr and bool(node.attr[_MUST_COMPILE].b)


def _called(node: Any) -> Iterable[str]:
    """Yield the functions that a node's attributes name."""
    for value in node.attr.values():
        if value.WhichOneof("value") == "func":
            yield value.func.name
        elif value.WhichOneof("value") == "list":
            yield from (function.name for function in value.list.func)
