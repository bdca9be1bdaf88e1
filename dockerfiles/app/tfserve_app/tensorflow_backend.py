"""The backend that serves a SavedModel with TensorFlow's Python package."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfserve_app.backend import Array, BackendInfo, Signature, TensorSpec
from tfserve_app.errors import BackendBusyError, InputRejectedError, ModelLoadError
from tfserve_app.lean_model import drop_unserved
from tfserve_app.savedmodel import FROZEN_FILE, wants_lean

__all__ = ["TensorFlowBackend"]

_MESSAGE_LENGTH = 400


class TensorFlowBackend:
    """A SavedModel loaded by `tf.saved_model.load`.

    Args:
        path: The SavedModel folder; it may be read-only.
        log: Takes one line for the log.

    Raises:
        ModelLoadError: It cannot be loaded, or has no serving signature.
    """

    def __init__(self, path: Path, log: Callable[[str], None]) -> None:
        start = time.monotonic()
        self._tf = _import_tensorflow()
        imported = time.monotonic()
        self._gpus = _start_gpus(self._tf)
        started = time.monotonic()
        self._model = self._load(path, log)
        self._functions: dict[str, Any] = dict(self._model.signatures)
        if not self._functions:
            raise ModelLoadError(
                f"{path}: has no serving signatures; export it with model.export(), or with "
                "tf.saved_model.save(model, path, signatures=…)"
            )
        self._signatures = {
            name: _signature(function) for name, function in self._functions.items()
        }
        loaded = time.monotonic()
        self._timings = {"import_s": imported - start, "load_s": loaded - imported}
        self._marks = {
            "tensorflow_imported": imported,
            "gpu_initialised": started,
            "model_loaded": loaded,
        }

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The model's serving signatures."""
        return self._signatures

    @property
    def info(self) -> BackendInfo:
        """TensorFlow's version and GPUs."""
        return BackendInfo("tensorflow", self._tf.__version__, self._gpus)

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds for `import tensorflow` and for loading the model."""
        return self._timings

    @property
    def marks(self) -> Mapping[str, float]:
        """When loading came how far; see `Backend.marks`."""
        return self._marks

    def predict(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run one signature; see `Backend.predict`."""
        tf = self._tf
        specs = self._signatures[signature].inputs
        try:
            tensors = {
                name: tf.convert_to_tensor(_to_tensorflow(tf, array, specs[name]))
                for name, array in inputs.items()
            }
            outputs = self._functions[signature](**tensors)
            return {name: _to_numpy(outputs[name]) for name in sorted(outputs)}
        except tf.errors.ResourceExhaustedError as error:
            raise BackendBusyError(_first_line(error)) from error
        except (tf.errors.InvalidArgumentError, tf.errors.FailedPreconditionError) as error:
            raise InputRejectedError(_first_line(error)) from error

    def _load(self, path: Path, log: Callable[[str], None]) -> Any:
        if (path / FROZEN_FILE).is_file():
            raise ModelLoadError(
                f"{path}: is a frozen model ({FROZEN_FILE}), which only BACKEND=capi serves; set "
                "that, or serve the SavedModel it was made from"
            )
        _refuse_removed_ops(path)
        try:
            return self._load_lean(path, log)
        except Exception as error:
            raise ModelLoadError(
                f"{path}: TensorFlow {self._tf.__version__} cannot load this SavedModel: "
                f"{type(error).__name__}: {_first_line(error)}; is the copy complete "
                "(saved_model.pb, variables/, assets/)? Was it exported by a newer TensorFlow?"
            ) from error

    def _load_lean(self, path: Path, log: Callable[[str], None]) -> Any:
        """Load a model without what nobody needs who predicts; as it is where that fails."""
        graph = _read(path)
        lost = graph is not None and _has_lost_optimizer(graph)
        if lost:
            log(f"{path}: saved with its optimizer by an older Keras; loading without it")
            _drop_slot_variables(graph)
        whole = graph.SerializeToString() if lost else None
        if graph is not None and wants_lean() and _drop_unserved(graph):
            with contextlib.suppress(Exception):
                return self._load_shadow(path, graph.SerializeToString(), partial=lost)
        if whole is not None:
            return self._load_shadow(path, whole, partial=True)
        return self._tf.saved_model.load(str(path))

    def _load_shadow(self, path: Path, graph: bytes, *, partial: bool) -> Any:
        """Load a model's files with another graph.

        Args:
            path: The model.
            graph: The encoded SavedModel to be loaded in place of its own.
            partial: Whether the checkpoint has values that the graph has no place for.
        """
        shadow = Path(tempfile.mkdtemp(prefix="savedmodel-"))
        try:
            for entry in path.iterdir():
                if entry.name != "saved_model.pb":
                    (shadow / entry.name).symlink_to(entry.resolve())
            (shadow / "saved_model.pb").write_bytes(graph)
            # Without this option it warns of each optimizer value it leaves out.
            options = self._tf.saved_model.LoadOptions(allow_partial_checkpoint=partial)
            return self._tf.saved_model.load(str(shadow), options=options)
        finally:
            if not (path / "assets").is_dir():  # a graph may read its assets later
                shutil.rmtree(shadow)


def _import_tensorflow() -> Any:
    """Import TensorFlow with settings that suit a server; the user's own win."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # keep warnings, drop chatter
    # Take GPU memory as it is needed instead of all of it, so that models can share a GPU.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    try:
        import tensorflow  # type: ignore[import-untyped]  # noqa: PLC0415 (seconds; the HTTP server answers before)
    except ImportError as error:
        raise ModelLoadError(f"TensorFlow cannot be imported: {error}") from error
    return tensorflow


def _refuse_removed_ops(path: Path) -> None:
    """Refuse a model that needs what `tfslim slim` took out of this environment."""
    try:
        import _tfslim  # type: ignore[import-not-found]  # noqa: PLC0415 (only where tfslim was)
    except ImportError:
        return
    try:
        _tfslim.check_model(path)
    except RuntimeError as error:
        raise ModelLoadError(f"{path}: {error}") from error
    except OSError:
        return  # loading it will say what is wrong with it


def _start_gpus(tf: Any) -> tuple[str, ...]:
    """Start TensorFlow's devices, which loading a model would do otherwise; name the GPUs.

    Raises:
        ModelLoadError: A GPU is there, and TensorFlow cannot start it.
    """
    try:
        tf.config.list_logical_devices()
    except Exception as error:
        raise ModelLoadError(
            f"TensorFlow cannot start its devices: {type(error).__name__}: {_first_line(error)}; "
            "CUDA_VISIBLE_DEVICES=-1 serves on the CPU"
        ) from error
    return tuple(
        tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
        for gpu in tf.config.list_physical_devices("GPU")
    )


def _signature(function: Any) -> Signature:
    """Read a loaded signature's inputs and outputs."""
    _, inputs = function.structured_input_signature
    outputs = function.structured_outputs
    return Signature(
        # Sorted: the loader's own order changes from one process to the next.
        {name: _spec(inputs[name]) for name in sorted(inputs)},
        {name: _spec(outputs[name]) for name in sorted(outputs)},
    )


def _spec(spec: Any) -> TensorSpec:
    if spec.shape.rank is None:
        return TensorSpec(spec.dtype.name, None)
    sizes = (-1 if size is None else size for size in spec.shape.as_list())
    return TensorSpec(spec.dtype.name, tuple(sizes))


def _to_tensorflow(tf: Any, array: Array, spec: TensorSpec) -> Any:
    return tf.cast(array, spec.dtype) if spec.dtype == "bfloat16" else array


def _to_numpy(tensor: Any) -> Array:
    array: Array = tensor.numpy()
    if tensor.dtype.name == "string" and not isinstance(array, np.ndarray):
        return np.array(array, dtype=object)  # a scalar string comes as plain bytes
    if tensor.dtype.name == "bfloat16":
        return np.asarray(array, dtype=np.float32)
    return np.asarray(array)


def _first_line(error: Exception) -> str:
    """Return the first line of an error that may print a whole graph.

    An error inside a graph begins with where in Python it was built, which a loaded model does
    not know; what went wrong stands after that.
    """
    lines = str(error).rpartition("<stack traces unavailable>")[2].strip().splitlines() or [""]
    return lines[0][:_MESSAGE_LENGTH]


def _read(path: Path) -> Any:
    """Return a model's SavedModel message; None where loading it will say what is wrong with it."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # noqa: PLC0415
    from tensorflow.core.protobuf import saved_model_pb2  # type: ignore[import-untyped]  # noqa: PLC0415

    graph = saved_model_pb2.SavedModel()
    try:
        graph.ParseFromString((path / "saved_model.pb").read_bytes())
    except (OSError, DecodeError):
        return None
    return graph


def _has_lost_optimizer(graph: Any) -> bool:
    """True for a SavedModel with the values of an optimizer that Keras 3 no longer knows.

    Loading it as it is fails late, in `add_slot`; predicting needs none of them. TensorFlow looks
    up an object's type in the same registry.
    """
    from tensorflow.python.saved_model import revived_types  # type: ignore[import-untyped]  # noqa: PLC0415

    return any(
        node.slot_variables
        and node.WhichOneof("kind") == "user_object"
        and revived_types.deserialize(node.user_object) is None
        for meta_graph in graph.meta_graphs
        for node in meta_graph.object_graph_def.nodes
    )


def _drop_unserved(graph: Any) -> bool:
    """Drop what only Python calls, in place, if there is one graph; return whether anything was."""
    return len(graph.meta_graphs) == 1 and drop_unserved(graph.meta_graphs[0])


def _drop_slot_variables(graph: Any) -> None:
    """Drop a SavedModel's slot variables, which are the optimizer's, in place."""
    for meta_graph in graph.meta_graphs:
        for node in meta_graph.object_graph_def.nodes:
            node.ClearField("slot_variables")
            if node.user_object.identifier == "optimizer":
                # For one of this name TensorFlow would import all of Keras, to know its type.
                node.user_object.identifier = "_generic_user_object"
