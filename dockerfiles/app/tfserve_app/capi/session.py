"""Sessions of TensorFlow's C API: open one on a model, run it, close it."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tfserve_app.capi.library import Buffer, Library, Output
from tfserve_app.capi.metagraph import branches_or_loops
from tfserve_app.capi.options import SessionOptions
from tfserve_app.capi.texts import new_texts

__all__ = [
    "Session",
    "load_frozen",
    "load_graph",
    "load_saved_model",
    "load_text_model",
    "open_empty",
]


class Session:
    """A session and its graph. `run` may be called from several threads.

    Args:
        library: TensorFlow.
        graph: A TF_Graph, owned from now on.
        session: A TF_Session on it, owned from now on.
    """

    def __init__(self, library: Library, graph: int, session: int) -> None:
        self._library = library
        self._graph = graph
        self._session = session

    def find(self, names: Sequence[str]) -> ctypes.Array[Output]:
        """Return the outputs of operations that tensors' names, as in `add:0`, mean.

        Raises:
            ValueError: The graph has no such tensor.
        """
        return (Output * len(names))(*map(self._find, names))

    def run(
        self,
        feeds: ctypes.Array[Output],
        values: Sequence[int],
        fetches: ctypes.Array[Output],
    ) -> list[int]:
        """Run the graph once; return what is at each of the fetches.

        Args:
            feeds: Where values are put in.
            values: The TF_Tensors for them; they stay the caller's.
            fetches: What is wanted.

        Returns:
            New TF_Tensors, owned by the caller.

        Raises:
            StatusError: TensorFlow refused or failed.
        """
        library, count = self._library, len(fetches)
        given = (ctypes.c_void_p * len(values))(*values)
        found = (ctypes.c_void_p * count)()
        with library.status() as status:
            library.TF_SessionRun(
                self._session, None,
                feeds, given, len(values),
                fetches, found, count,
                None, 0, None, status,
            )  # fmt: skip
        return [pointer for pointer in found if pointer is not None]

    def run_operation(self, name: str, texts: Mapping[str, bytes] | None = None) -> None:
        """Run one operation and what it needs, for what it does: a restore, an initialisation.

        Args:
            name: The operation.
            texts: Scalar strings to be fed, by the name of the tensor.

        Raises:
            StatusError: TensorFlow refused or failed.
            ValueError: The graph has no such operation or tensor.
        """
        library, texts = self._library, texts or {}
        operation = library.TF_GraphOperationByName(self._graph, name.encode())
        if not operation:
            raise ValueError(f"its graph has no operation {name!r}")
        if _does_nothing(library, operation):
            return
        feeds = self.find(list(texts))
        made = [new_texts(library, [text]) for text in texts.values()]
        try:
            with library.status() as status:
                library.TF_SessionRun(
                    self._session, None,
                    feeds, (ctypes.c_void_p * len(made))(*made), len(made),
                    None, None, 0,
                    (ctypes.c_void_p * 1)(operation), 1, None, status,
                )  # fmt: skip
        finally:
            for pointer in made:
                library.TF_DeleteTensor(pointer)

    def devices(self) -> list[tuple[str, str]]:
        """Return name and type ("CPU", "GPU") of every device.

        Raises:
            StatusError: TensorFlow cannot tell.
        """
        library = self._library
        with library.status() as status:
            devices = library.TF_SessionListDevices(self._session, status)
        try:
            found = []
            for index in range(library.TF_DeviceListCount(devices)):
                with library.status() as status:
                    name: bytes = library.TF_DeviceListName(devices, index, status)
                    kind: bytes = library.TF_DeviceListType(devices, index, status)
                found.append((name.decode(), kind.decode()))
            return found
        finally:
            library.TF_DeleteDeviceList(devices)

    def close(self) -> None:
        """Give the memory back; nothing may run any more."""
        with self._library.status() as status:
            self._library.TF_DeleteSession(self._session, status)
        self._library.TF_DeleteGraph(self._graph)

    def _find(self, name: str) -> Output:
        operation, _, index = name.rpartition(":")
        found = self._library.TF_GraphOperationByName(self._graph, operation.encode())
        if not found or int(index) >= self._library.TF_OperationNumOutputs(found):
            raise ValueError(f"its graph has no tensor {name!r}, which a signature names")
        return Output(found, int(index))


def load_saved_model(
    library: Library, path: Path, tags: Sequence[str], options: SessionOptions
) -> Session:
    """Open a session on a SavedModel, its variables restored, its tables filled.

    Raises:
        StatusError: It cannot be loaded, or has no graph with just these tags.
    """
    with _new_graph(library) as graph:
        return Session(library, graph, _load(library, graph, path, tags, options))


def load_text_model(
    library: Library, path: Path, tags: Sequence[str], options: SessionOptions
) -> tuple[Session, bytes]:
    """Open a session on a SavedModel, and return its MetaGraphDef, encoded, as well.

    Raises:
        StatusError: It cannot be loaded, or has no graph with just these tags.
    """
    buffer = library.TF_NewBuffer()
    try:
        with _new_graph(library) as graph:
            session = _load(library, graph, path, tags, options, described=buffer)
        described = ctypes.string_at(buffer.contents.data, buffer.contents.length)
        return Session(library, graph, session), described
    finally:
        library.TF_DeleteBuffer(buffer)


def load_frozen(library: Library, file: Path, options: SessionOptions) -> Session:
    """Open a session on a file with a GraphDef without variables.

    Raises:
        StatusError: It is no GraphDef, or has an unknown op.
        OSError: It cannot be read.
        ValueError: The file is empty.
    """
    with file.open("rb") as stream:
        # ctypes takes addresses of writable memory only; what is written there is never stored.
        data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    return load_graph(library, data, replace(options, sinking=branches_or_loops(data)))


def load_graph(library: Library, data: bytearray | mmap.mmap, options: SessionOptions) -> Session:
    """Open a session on an encoded GraphDef; nothing in it has run yet.

    Raises:
        StatusError: It is no GraphDef, or has an unknown op.
    """
    with _new_graph(library) as graph:
        _import(library, graph, data)
        return Session(library, graph, _new_session(library, graph, options))


def open_empty(library: Library, options: SessionOptions) -> Session:
    """Open a session on nothing: devices are there after it, and can be listed.

    Raises:
        StatusError: A device cannot be initialised.
    """
    with _new_graph(library) as graph:
        return Session(library, graph, _new_session(library, graph, options))


def _load(
    library: Library,
    graph: int,
    path: Path,
    tags: Sequence[str],
    options: SessionOptions,
    *,
    described: object = None,
) -> int:
    names = (ctypes.c_char_p * len(tags))(*(tag.encode() for tag in tags))
    with _encoded(library, options) as encoded, library.status() as status:
        session: int = library.TF_LoadSessionFromSavedModel(
            encoded, None, bytes(path), names, len(tags), graph, described, status
        )
    return session


def _new_session(library: Library, graph: int, options: SessionOptions) -> int:
    with _encoded(library, options) as encoded, library.status() as status:
        session: int = library.TF_NewSession(graph, encoded, status)
    return session


def _import(library: Library, graph: int, data: bytearray | mmap.mmap) -> None:
    start = ctypes.c_char.from_buffer(data)
    buffer = Buffer(ctypes.addressof(start), len(data), None)
    options = library.TF_NewImportGraphDefOptions()
    try:
        with library.status() as status:
            library.TF_GraphImportGraphDef(graph, buffer, options, status)
    finally:
        library.TF_DeleteImportGraphDefOptions(options)


def _does_nothing(library: Library, operation: int) -> bool:
    """True for what Keras names where there is nothing to initialise; to run it takes a while."""
    kind: bytes = library.TF_OperationOpType(operation)
    return kind == b"NoOp" and library.TF_OperationNumControlInputs(operation) == 0


@contextmanager
def _new_graph(library: Library) -> Iterator[int]:
    """Give a new graph; it is deleted again if what it is for fails."""
    graph: int = library.TF_NewGraph()
    try:
        yield graph
    except BaseException:
        library.TF_DeleteGraph(graph)
        raise


@contextmanager
def _encoded(library: Library, options: SessionOptions) -> Iterator[int]:
    """Give a TF_SessionOptions."""
    encoded, config = library.TF_NewSessionOptions(), options.encode()
    try:
        with library.status() as status:
            library.TF_SetConfig(encoded, config, len(config), status)
        yield encoded
    finally:
        library.TF_DeleteSessionOptions(encoded)
