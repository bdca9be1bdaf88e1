"""What a SavedModel says of itself: tags, signatures, ops; read from its bytes alone.

Field numbers: tensorflow/core/protobuf/saved_model.proto and meta_graph.proto,
tensorflow/core/framework/graph.proto, node_def.proto, function.proto and attr_value.proto.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tfserve_app.backend import TensorSpec
from tfserve_app.capi.dtypes import NAMES, plain_number
from tfserve_app.capi.wire import Message, Value, WireError, encode_bytes

__all__ = [
    "Endpoint",
    "Entry",
    "Loading",
    "MetaGraph",
    "UnsupportedSignatureError",
    "branches_or_loops",
    "read_meta_graphs",
]

# tensorflow/cc/saved_model/constants.h
_INIT_OP = "__saved_model_init_op"
# Run by the loader, not by a client.
_LOADERS_OWN = frozenset({_INIT_OP, "__saved_model_train_op"})
_INIT_OPS, _ASSETS = frozenset({"saved_model_main_op", "legacy_init_op"}), "saved_model_assets"


# NodeDef.op (field 2) of each op that has its branches, or its loop, in functions.
_BRANCHES_OR_LOOPS = re.compile(
    b"|".join(
        re.escape(encode_bytes(2, name.encode()))
        for kind in ("If", "Case", "While")
        for name in (kind, f"Stateless{kind}", f"Stateful{kind}")
    )
    + b"|"
    + re.escape(encode_bytes(2, b"For"))
)


class UnsupportedSignatureError(ValueError):
    """A signature has a tensor that is no plain one; the text says which."""


@dataclass(frozen=True)
class Endpoint:
    """A named tensor of a signature.

    Attributes:
        tensor: Its name in the graph, as in `serving_default_x:0`.
        dtype: TensorFlow's number of its type.
        spec: Type and shape as the service knows them.
    """

    tensor: str
    dtype: int
    spec: TensorSpec


@dataclass(frozen=True)
class Entry:
    """A signature: its inputs and outputs by name, sorted."""

    inputs: Mapping[str, Endpoint]
    outputs: Mapping[str, Endpoint]


@dataclass(frozen=True)
class Loading:
    """What is run when a model is loaded; empty where there is nothing of it.

    Attributes:
        restore: The operation that restores the variables.
        filename: The tensor that takes the checkpoint's path.
        init: The operation that initialises what else there is, tables for example.
    """

    restore: str
    filename: str
    init: str


class MetaGraph:
    """One graph of a SavedModel, read when it is asked for.

    Args:
        message: An encoded MetaGraphDef.

    Raises:
        WireError: From every method: the bytes are none.
    """

    def __init__(self, message: Message) -> None:
        self._message = message

    @property
    def tags(self) -> tuple[str, ...]:
        """Its tags, in order: what a loader names it by."""
        info = self._message.message(1)
        return () if info is None else tuple(info.texts(4))

    def signature_names(self) -> list[str]:
        """Return the names of the signatures a client may ask for, sorted."""
        return sorted(name for name, _ in self._signatures())

    def entry(self, name: str) -> Entry:
        """Return one signature.

        Raises:
            UnsupportedSignatureError: A tensor of it is ragged or the like, or a sparse output.
        """
        found = dict(self._signatures())[name]
        inputs = {
            part: endpoint
            for key, info in found.map(1)
            for part, endpoint in _inputs(key, info).items()
        }
        outputs = {key: _endpoint(key, info) for key, info in found.map(2)}
        return Entry(_sorted(inputs), _sorted(outputs))

    @property
    def graph(self) -> Message | None:
        """Its GraphDef."""
        return self._message.message(2)

    def loading(self) -> Loading | None:
        """Return what its loader has to run; None where that is more than is told here.

        As tensorflow/cc/saved_model/loader.cc finds it. Models of TensorFlow 1 name what they run
        in collections, where no signature does, and assets are files whose names are fed.
        """
        saver = self._message.message(3) or Message(b"")
        collections = {name for name, _ in self._message.map(4)}
        if _ASSETS in collections or any(True for _ in self._message.all(6)):
            return None
        signature = dict(self._message.map(5)).get(_INIT_OP)
        if signature is None:
            return None if collections & _INIT_OPS else Loading(saver.text(3), saver.text(1), "")
        init = dict(signature.map(2)).get(_INIT_OP, Message(b"")).text(1)
        return Loading(saver.text(3), saver.text(1), init) if init else None

    def op_types(self) -> set[str]:
        """Return the op types of the graph and of all functions it calls, directly or not.

        With `@xla` where XLA must compile a part, and `@keras-rnn` where a function has a twin
        for cuDNN: what tfslim's guard of a slim environment calls them.
        """
        graph = self._message.message(2)
        return set() if graph is None else _op_types(graph)

    def mentions(self, names: Iterable[str]) -> bool:
        """Return whether any of these names is somewhere in its bytes: quick, and never misses."""
        wanted = [re.escape(name.encode()) for name in names]
        return bool(wanted) and re.search(b"|".join(wanted), self._message.data) is not None

    def branches_or_loops(self) -> bool:
        """Return whether a branch or a loop may be in its graph or functions; never misses one."""
        return branches_or_loops(self._message.data)

    def _signatures(self) -> Iterator[tuple[str, Message]]:
        return ((name, one) for name, one in self._message.map(5) if name not in _LOADERS_OWN)


def read_meta_graphs(path: Path) -> list[MetaGraph]:
    """Return the graphs of a SavedModel's `saved_model.pb`.

    Raises:
        WireError: It is not one.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise WireError("the file is empty")
        # Mapped: of a large graph only the few pages with signatures are read.
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    graphs = [MetaGraph(message) for message in Message(data).messages(2)]
    if not graphs:
        raise WireError("it has no graph")
    return graphs


def branches_or_loops(graph: memoryview | mmap.mmap) -> bool:
    """Return whether an encoded graph may have a functional branch or loop; never misses one."""
    return _BRANCHES_OR_LOOPS.search(graph) is not None


def _sorted(endpoints: Mapping[str, Endpoint]) -> dict[str, Endpoint]:
    return {name: endpoints[name] for name in sorted(endpoints)}


def _inputs(name: str, info: Message) -> dict[str, Endpoint]:
    """Read an input; a sparse one is three, named as `tf.saved_model.load` names them."""
    sparse = info.message(4)
    if sparse is None:
        return {name: _endpoint(name, info)}
    shape, int64 = _shape(info.message(3)), 9
    rank = -1 if shape is None else len(shape)
    parts = {
        "values": (sparse.text(1), info.number(2), (-1,)),
        "indices": (sparse.text(2), int64, (-1, rank)),
        "dense_shape": (sparse.text(3), int64, (rank,)),
    }
    return {
        f"{name}_{part}": Endpoint(tensor, dtype, TensorSpec(NAMES.get(dtype, "?"), sizes))
        for part, (tensor, dtype, sizes) in parts.items()
    }


def _endpoint(name: str, info: Message) -> Endpoint:
    """Read a TensorInfo."""
    tensor, dtype = info.text(1), plain_number(info.number(2))
    if not tensor:
        raise UnsupportedSignatureError(f"{name!r} is a sparse or composite tensor")
    if dtype not in NAMES:
        raise UnsupportedSignatureError(f"{name!r} has the unknown type {dtype}")
    if ":" not in tensor:
        raise UnsupportedSignatureError(f"{name!r} is the operation {tensor!r}, not a tensor")
    return Endpoint(tensor, dtype, TensorSpec(NAMES[dtype], _shape(info.message(3))))


def _shape(shape: Message | None) -> tuple[int, ...] | None:
    """Read a TensorShapeProto; one that is not set is a scalar's."""
    if shape is None:
        return ()
    if shape.number(3):
        return None
    return tuple(size.number(1) for size in shape.messages(2))


def _op_types(graph: Message) -> set[str]:
    library = graph.message(2) or Message(b"")
    functions = {
        (one.message(1) or Message(b"")).text(1): one
        for one in library.messages(1)  # the signature, an OpDef, has the name
    }
    todo, seen, ops = [graph.messages(1)], set[str](), set[str]()
    while todo:
        for node in map(_node, todo.pop()):
            ops |= node.marks if node.op in functions else {node.op, *node.marks}
            for name in {node.op, *node.calls} & functions.keys() - seen:
                seen.add(name)
                function = functions[name]
                ops |= _node(function).marks
                todo.append(function.messages(3))
    return ops


@dataclass(frozen=True)
class _Node:
    """A NodeDef's type, the functions it names, and what `op_types` adds for its attributes."""

    op: str
    calls: tuple[str, ...]
    marks: frozenset[str]


def _node(message: Message) -> _Node:
    """Read a NodeDef in one pass; of a FunctionDef its attributes, which have the same number."""
    op, calls, marks = "", list[str](), set[str]()
    for number, value in message.fields():
        if isinstance(value, int):
            continue
        if number == 2:
            op = bytes(value).decode(errors="replace")
        elif number == 5:
            attribute = dict(Message(value).fields())
            calls += _calls(attribute.get(2))
            marks |= _marks(attribute.get(1), attribute.get(2))
    return _Node(op, tuple(calls), frozenset(marks))


def _marks(key: Value | None, value: Value | None) -> set[str]:
    name = bytes(key) if isinstance(key, memoryview) else b""
    if name == b"api_implements":
        return {"@keras-rnn"}
    if name == b"_XlaMustCompile" and isinstance(value, memoryview) and Message(value).number(5):
        return {"@xla"}
    return set()


def _calls(value: Value | None) -> Iterator[str]:
    """Yield the functions that an AttrValue names: `func` (10), and `func` (9) of a `list` (1).

    It has one field, so its first byte tells whether it is one of these.
    """
    if not isinstance(value, memoryview) or bytes(value[:1]) not in (b"\x52", b"\x0a"):
        return
    for function in Message(value).messages(10):
        yield function.text(1)
    for several in Message(value).messages(1):
        for function in several.messages(9):
            yield function.text(1)
