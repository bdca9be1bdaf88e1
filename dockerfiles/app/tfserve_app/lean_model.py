"""A SavedModel without the functions that Keras saves for Python alone, and no signature needs.

Keras 2 saves each layer as several functions. `tf.saved_model.load` makes a graph of every one of
them, which takes longer than all else that it does for a small model. Dropped here are function
objects that others have under the names that Keras gives them, and nobody under another name; then
concrete functions that no object has; then functions of the library that nothing names. Objects
keep their numbers, and whatever holds a value stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["drop_unserved"]

# keras/saving/legacy/saved_model/serialized_attributes.py of Keras 2
_FOR_PYTHON = frozenset(
    {
        "__call__",
        "_default_save_signature",
        "activity_regularizer_fn",
        "call_and_return_all_conditional_losses",
        "call_and_return_conditional_losses",
    }
)
_SIGNATURES = "signature_map"
# A function with it may stand for others by that name alone.
_TWINS = "api_implements"


def drop_unserved(meta_graph: Any) -> bool:
    """Drop what only Python calls from a MetaGraphDef, in place; return whether anything was.

    Args:
        meta_graph: The MetaGraphDef of a model that TensorFlow 2 saved.
    """
    objects = meta_graph.object_graph_def
    before = len(meta_graph.graph_def.library.function)
    unserved = _unserved(objects.nodes)
    if not unserved:
        return False
    for node in objects.nodes:
        children = [child for child in node.children if child.node_id not in unserved]
        if len(children) < len(node.children):
            del node.children[:]
            node.children.extend(children)
    for number in unserved:
        objects.nodes[number].Clear()
        objects.nodes[number].user_object.identifier = "_generic_user_object"
        objects.nodes[number].user_object.version.producer = 1
        objects.nodes[number].user_object.version.min_consumer = 1
    wanted = {name for node in objects.nodes for name in _concrete(node)}
    for name in [one for one in objects.concrete_functions if one not in wanted]:
        del objects.concrete_functions[name]
    _drop_functions(meta_graph, wanted)
    return len(meta_graph.graph_def.library.function) < before


def _unserved(nodes: Any) -> set[int]:
    """Return the numbers of function objects that others have for Python to call, and only so."""
    found = {number for number, node in enumerate(nodes) if _concrete(node)}
    for node in nodes:
        plain = node.WhichOneof("kind") == "user_object"
        plain = plain and node.user_object.identifier != _SIGNATURES
        used = {
            child.node_id
            for child in node.children
            if not (plain and child.local_name in _FOR_PYTHON)
        }
        used |= {child.node_id for child in node.dependencies}
        for saveable in node.saveable_objects.values():
            used |= {saveable.save_function, saveable.restore_function}
        found -= used
    return found - {0}


def _concrete(node: Any) -> list[str]:
    """Return the concrete functions of an object; none of one that is no function."""
    kind = node.WhichOneof("kind")
    if kind == "bare_concrete_function":
        return [node.bare_concrete_function.concrete_function_name]
    return list(node.function.concrete_functions) if kind == "function" else []


def _drop_functions(meta_graph: Any, wanted: set[str]) -> None:
    """Keep those functions of the library that are wanted, or named by what is kept."""
    library = meta_graph.graph_def.library
    functions = {one.signature.name: one for one in library.function}
    gradients = {one.function_name: one.gradient_func for one in library.gradient}
    nodes = meta_graph.graph_def.node
    todo = [*wanted, *(name for node in nodes for name in _named(node))]
    todo += [name for name, one in functions.items() if _TWINS in one.attr]
    kept: set[str] = set()
    while todo:
        name = todo.pop()
        if name in kept or name not in functions:
            continue
        kept.add(name)
        one = functions[name]
        todo += [gradients.get(name, ""), *_of_attributes(one.attr)]
        todo += [inner for node in one.node_def for inner in _named(node)]
    staying = [one for name, one in functions.items() if name in kept]
    if len(staying) < len(library.function):
        copies = [type(one)() for one in staying]
        for copy, one in zip(copies, staying, strict=True):
            copy.CopyFrom(one)
        del library.function[:]
        library.function.extend(copies)


def _named(node: Any) -> Iterator[str]:
    """Yield every name that a NodeDef may call a function by."""
    yield node.op
    yield from _of_attributes(node.attr)


def _of_attributes(attributes: Any) -> Iterator[str]:
    """Yield the functions that attributes name, as functions or as text."""
    for value in attributes.values():
        yield from _of_value(value)


def _of_value(value: Any) -> Iterator[str]:
    texts = [value.s, *value.list.s]
    yield from (text.decode(errors="replace") for text in texts)
    for function in (value.func, *value.list.func):
        yield function.name
        yield from _of_attributes(function.attr)
