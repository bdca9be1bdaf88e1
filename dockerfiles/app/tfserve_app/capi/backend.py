"""The backend that serves a SavedModel, or a frozen model, through TensorFlow's C API."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tfserve_app.backend import Array, BackendInfo, Signature, TensorSpec
from tfserve_app.capi.gpus import gpu_names
from tfserve_app.capi.guard import refuse_gpu
from tfserve_app.capi.library import (
    Library,
    Output,
    StatusError,
    grow_memory_in_steps,
    open_library,
    release_memory,
)
from tfserve_app.capi.metagraph import Endpoint, Entry
from tfserve_app.capi.model import load_model
from tfserve_app.capi.options import SessionOptions
from tfserve_app.capi.session import Session
from tfserve_app.errors import BackendBusyError, InputRejectedError, ModelLoadError

__all__ = ["CapiBackend"]

_MESSAGE_LENGTH = 400
_REFUSALS = frozenset({"InvalidArgumentError", "FailedPreconditionError"})


@dataclass(frozen=True)
class _Bound:
    """A signature whose tensors have been found in the graph.

    Attributes:
        inputs: The signature's inputs.
        outputs: Its outputs that are computed.
        echoes: Its outputs that are an input as it came, which a session refuses to fetch, with
            the input's name.
        feeds: Where the inputs are, in their order.
        fetches: Where the outputs are, in their order.
    """

    inputs: Mapping[str, Endpoint]
    outputs: tuple[str, ...]
    echoes: Mapping[str, str]
    feeds: ctypes.Array[Output]
    fetches: ctypes.Array[Output]


class CapiBackend:
    """A model behind TensorFlow's C API.

    Args:
        path: The SavedModel folder, or the folder of a frozen model; it may be read-only.
        log: Takes one line for the log.
        options: How the session uses the machine.

    Raises:
        ModelLoadError: It cannot be loaded, or has no serving signature.
    """

    def __init__(
        self, path: Path, log: Callable[[str], None], options: SessionOptions | None = None
    ) -> None:
        started = time.monotonic()
        options = options or SessionOptions()
        _set_environment()
        grow_memory_in_steps()
        refuse_gpu()
        self._library = open_library()
        opened = time.monotonic()
        try:
            self._gpus = gpu_names(self._library, options)
            devices = time.monotonic()
            self._model = load_model(self._library, path, options, log)
            self._bound = {
                name: _bind(self._model.session, entry)
                for name, entry in self._model.entries.items()
            }
        except (StatusError, ValueError, OSError) as error:
            raise _cannot_load(path, self._library, error) from error
        if not self._bound:
            raise ModelLoadError(
                f"{path}: has no serving signatures; export it with model.export(), or with "
                "tf.saved_model.save(model, path, signatures=…)"
            )
        loaded = time.monotonic()
        self._unasked = set(self._bound)
        self._timings = {"import_s": opened - started, "load_s": loaded - opened}
        self._marks = {
            "tensorflow_imported": opened,
            "gpu_initialised": devices,
            "model_loaded": loaded,
        }
        self._signatures = {
            name: Signature(_specs(entry.inputs), _specs(entry.outputs))
            for name, entry in self._model.entries.items()
        }

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The model's serving signatures."""
        return self._signatures

    @property
    def info(self) -> BackendInfo:
        """TensorFlow's version and GPUs; of a frozen model what it tells of its drift."""
        frozen = self._model.frozen
        details = {} if frozen is None else {"frozen": frozen.told}
        return BackendInfo("capi", self._library.version, self._gpus, details)

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds for opening the library, and for GPUs and the model."""
        return self._timings

    @property
    def marks(self) -> Mapping[str, float]:
        """When loading came how far; see `Backend.marks`."""
        return self._marks

    def predict(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run one signature; see `Backend.predict`."""
        # Here, for it needs NumPy, and a model is loaded while another thread imports that.
        from tfserve_app.capi.values import Tensor, to_tensor  # noqa: PLC0415

        library, bound = self._library, self._bound[signature]
        fed = {
            name: to_tensor(library, inputs[name], endpoint.dtype, name)
            for name, endpoint in bound.inputs.items()
        }
        try:
            pointers = [tensor.pointer for tensor in fed.values()]
            found = self._model.session.run(bound.feeds, pointers, bound.fetches)
        except StatusError as error:
            raise _as_answer(error) from error
        finally:
            if signature in self._unasked:
                self._asked_first(signature)
        tensors = {
            name: Tensor(library, pointer)
            for name, pointer in zip(bound.outputs, found, strict=True)
        }
        tensors |= {name: fed[source] for name, source in bound.echoes.items()}
        return {name: tensors[name].to_array(name) for name in sorted(tensors)}

    def _asked_first(self, signature: str) -> None:
        """Give freed memory back to the system once every signature has run, in the warm-up.

        The first run optimises the signature's graph, and makes and frees copies of it doing so:
        30 MB for a model of 14 MB, 130 MB when its weights are constants in the graph.
        """
        self._unasked.discard(signature)
        if not self._unasked:
            release_memory()

    def close(self) -> None:
        """Give the model's memory back; a process that ends need not."""
        self._model.session.close()


def _set_environment() -> None:
    """Give TensorFlow settings that suit a server; the user's own win."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # keep warnings, drop chatter
    # Take GPU memory as it is needed instead of all of it, so that models can share a GPU.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")


def _bind(session: Session, entry: Entry) -> _Bound:
    fed = {endpoint.tensor: name for name, endpoint in entry.inputs.items()}
    echoes = {
        name: fed[endpoint.tensor]
        for name, endpoint in entry.outputs.items()
        if endpoint.tensor in fed
    }
    outputs = {name: one for name, one in entry.outputs.items() if name not in echoes}
    return _Bound(
        entry.inputs,
        tuple(outputs),
        echoes,
        session.find([one.tensor for one in entry.inputs.values()]),
        session.find([one.tensor for one in outputs.values()]),
    )


def _specs(endpoints: Mapping[str, Endpoint]) -> dict[str, TensorSpec]:
    return {name: endpoint.spec for name, endpoint in endpoints.items()}


def _cannot_load(path: Path, library: Library, error: Exception) -> ModelLoadError:
    text = _first_line(error)
    hint = (
        "is the copy complete (saved_model.pb, variables/, assets/)? Was it exported by a newer "
        "TensorFlow?"
    )
    if "Op type not registered" in text:
        hint = "an op of a library of its own (custom op) needs BACKEND=tensorflow and that library"
    return ModelLoadError(
        f"{path}: TensorFlow {library.version} cannot load this SavedModel: "
        f"{type(error).__name__}: {text}; {hint}"
    )


def _as_answer(error: StatusError) -> Exception:
    """Return the service's own error for what a client or the load is to blame for."""
    kind = type(error).__name__
    if kind == "ResourceExhaustedError":
        return BackendBusyError(_first_line(error))
    return InputRejectedError(_first_line(error)) if kind in _REFUSALS else error


def _first_line(error: Exception) -> str:
    """Return the first line of an error that may print a whole graph."""
    lines = str(error).strip().splitlines() or [""]
    return lines[0][:_MESSAGE_LENGTH]
