"""Run models and write down every answer: the part of the parity gate that runs inside a target.

    python -I -B probe.py --out DIR --model FOLDER_OR_KERAS_FILE… [--input FILE.npz…]

A script of its own: it needs the target's TensorFlow and numpy and Python 3.9, nothing of tfslim.
A target is asked through Python's TensorFlow or, with --backend capi, through TensorFlow's C API
(native.py); `auto` takes the second where slimming left nothing else (rule native).
Under DIR it writes `environment.json` and a folder for each model, which appears when the model is
done: `calls.json` (every call with its inputs, outputs or error) and `arrays.npz` (the outputs).
An import, a model or a call that fails is written down like any other answer. What it is doing
goes to standard output, one line each, beginning with "probe: ".
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import importlib.util
import json
import math
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
ENVIRONMENT = "environment.json"
CALLS = "calls.json"
ARRAYS = "arrays.npz"
# How models are loaded that have no signatures: only Python's TensorFlow can do so.
RESTORED_FUNCTIONS = "tf.saved_model.load, restored functions"
KERAS = "keras"
_MESSAGE_CHARACTERS = 8000
_WORDS = ("the", "Quick", "brown fox", "été", "日本", "", "42", "-1.5", "a,b;c", "user@site.org")
# numpy stores these by itself; all others (bfloat16, float8, int4, …) are stored as their bytes.
_PLAIN_KINDS = "biufc"
_BFLOAT16 = "bfloat16"

# Imported by main(), after a recorder has started, so that it sees what they open.
np: Any = None
tf: Any = None
native: Any = None  # the module native.py where it is asked, else None


@dataclass(frozen=True)
class Spec:
    """An input of a function: dtype as TensorFlow names it, shape with None where any size goes."""

    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class Function:
    """One way into a model: a signature, a restored function, or a Keras method.

    Attributes:
        inputs: What it takes.
        call: Takes arrays, returns name, dtype and array (None: not readable) of each output.
    """

    inputs: Mapping[str, Spec]
    call: Callable[[Mapping[str, Any]], Iterable[tuple[str, str, Any]]]


@dataclass
class Loaded:
    """A model: how it was loaded, its functions by name, and the op types in its graphs."""

    loader: str
    functions: dict[str, Function]
    ops: set[str]
    notes: list[str] = field(default_factory=list)


@dataclass
class Call:
    """A call to be made, and then what came of it.

    Attributes:
        kind: "load", "run", or "misuse" (wrong on purpose: its error is the answer).
        signature: Name of the function.
        case: What tells it from the others of its signature ("batch 3, seed 1").
        status: "ok", "error", or "unmade" where no input of that dtype can be made up.
        inputs: dtype, shape and digest of each input, by name.
        outputs: name, dtype, shape, digest and key in arrays.npz (None: not readable) of each.
        error: Type and message.
        seconds: What it took.
    """

    kind: str
    signature: str
    case: str
    status: str = "ok"
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    outputs: list[dict[str, Any]] = field(default_factory=list)
    error: dict[str, str] | None = None
    seconds: float = 0.0


class UnmadeInputError(Exception):
    """No input can be made up for a dtype (resource, variant): real ones are needed."""


def main() -> int:
    """Probe all models; the exit status is 0 whatever they answered."""
    options = _options()
    faulthandler.enable()
    recorder = _start_recorder(options)
    problem = _import_frameworks(options.backend, options.deterministic)
    if recorder is not None and problem is None:
        recorder.attach()
    options.out.mkdir(parents=True, exist_ok=True)
    _write_json(options.out / ENVIRONMENT, _environment(options.deterministic, problem))
    for path in options.model:
        # A hang ends here with the stacks of all threads on standard error.
        faulthandler.dump_traceback_later(options.timeout, exit=True)
        ops = _Run(options, path, problem).write()
        if recorder is not None:
            recorder.graph(sorted(ops))
    faulthandler.cancel_dump_traceback_later()
    if recorder is not None:
        _write_json(options.record, recorder.finish())
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, action="append", required=True)
    parser.add_argument("--input", type=Path, action="append", default=[])
    parser.add_argument("--batches", type=_numbers, default=[1, 3], help="1,3")
    parser.add_argument("--seeds", type=int, default=2, help="how many")
    parser.add_argument("--unknown-size", type=int, default=32, help="of unknown dimensions")
    parser.add_argument("--backend", choices=["auto", "tensorflow", "capi"], default="tensorflow")
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for one model")
    parser.add_argument("--record", type=Path, help="also record what is used, with recorder.py")
    parser.add_argument("--record-root", action="append", default=[], help="folder to record in")
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _start_recorder(options: argparse.Namespace) -> Any:
    """Start recorder.py from this script's folder; None where nothing is to be recorded."""
    if options.record is None:
        return None
    packages = (path for path in sys.path if path.endswith("-packages"))
    roots = options.record_root or [sys.prefix, *packages]
    return _beside("recorder").start(roots)


def _beside(name: str) -> Any:
    """Return a module from this script's folder."""
    place = Path(__file__).resolve().with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, place)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def _import_frameworks(backend: str, deterministic: bool) -> dict[str, str] | None:
    """Import numpy and TensorFlow, of whichever kind; return the error where that fails."""
    global np, tf, native
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    _say("import tensorflow")
    try:
        import numpy  # noqa: PLC0415

        np, native = numpy, _native(backend)
        if native is not None:
            native.start()
            return None
        import tensorflow  # type: ignore  # noqa: PLC0415

        (tf,) = (tensorflow,)
        if deterministic:
            tf.config.experimental.enable_op_determinism()
    except Exception as error:  # noqa: BLE001 (any error is an answer)
        return _error(error)
    return None


def _native(backend: str) -> Any:
    """Return native.py where the target is asked through it, else None."""
    found = None if backend == "tensorflow" else _beside("native")
    return found if backend == "capi" or (found is not None and found.wanted()) else None


def _environment(deterministic: bool, problem: dict[str, str] | None) -> dict[str, Any]:
    """Say what the answers were made with."""
    found: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "variables": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(("TF_", "CUDA_", "NVIDIA_", "XLA_", "OMP_", "LD_LIBRARY"))
        },
        "deterministic": deterministic,
        "import_error": problem,
        "driver": _driver(),
        "backend": "tensorflow" if native is None else "capi",
    }
    if problem is None and native is not None:
        found.update(native.environment())
    elif problem is None:
        build = tf.sysconfig.get_build_info()
        found.update(
            numpy=np.__version__,
            tensorflow=tf.__version__,
            keras=_keras_version(),
            cuda=str(build.get("cuda_version", "")),
            cudnn=str(build.get("cudnn_version", "")),
            gpus=[_gpu(device) for device in tf.config.list_physical_devices("GPU")],
        )
    return found


def _keras_version() -> str:
    """Return the version of Keras without importing it: a slim target puts that off."""
    loaded = getattr(sys.modules.get("keras"), "__version__", "")
    try:
        return str(loaded or metadata.version("keras"))
    except metadata.PackageNotFoundError:
        return ""


def _driver() -> str:
    """Return the NVIDIA kernel driver's own line; empty without one."""
    try:
        return Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except (OSError, IndexError):
        return ""


def _gpu(device: Any) -> str:
    details = tf.config.experimental.get_device_details(device)
    major, minor = details.get("compute_capability", (0, 0))
    return f"{details.get('device_name', device.name)}, compute capability {major}.{minor}"


class _Run:
    """One model: load it, make its calls, write its folder."""

    def __init__(
        self, options: argparse.Namespace, path: Path, problem: dict[str, str] | None
    ) -> None:
        self._options = options
        self._path = path
        self._problem = problem
        self._name = path.name
        self._aside = options.out / f".{path.name}.new"
        self._calls: list[Call] = []
        self._arrays: dict[str, Any] = {}

    def write(self) -> set[str]:
        """Do all of it; return the op types of the model's graphs."""
        shutil.rmtree(self._aside, ignore_errors=True)
        self._aside.mkdir()
        loaded = self._load()
        for name in sorted(loaded.functions):
            self._probe(name, loaded.functions[name])
        record = {
            "schema_version": SCHEMA_VERSION,
            "model": self._name,
            "loader": loaded.loader,
            "notes": loaded.notes,
            "calls": [asdict(call) for call in self._calls],
        }
        _write_json(self._aside / CALLS, record)
        if self._arrays:
            with (self._aside / ARRAYS).open("wb") as file:
                np.savez(file, **self._arrays)
        self._aside.rename(self._options.out / self._name)
        return loaded.ops

    def _load(self) -> Loaded:
        _say(f"{self._name}: load")
        call = Call("load", "", "load")
        self._calls.append(call)
        start = time.monotonic()
        try:
            if self._problem is not None:
                call.status, call.error = "error", self._problem
                return Loaded("none", {}, set())
            if native is not None:
                return _load_natively(self._path)
            tf.random.set_seed(0)  # stateful random ops start anew with each model
            return _load(self._path, self._aside / "without-optimizer")
        except Exception as error:  # noqa: BLE001 (any error is an answer)
            call.status, call.error = "error", _error(error)
            return Loaded("none", {}, set())
        finally:
            call.seconds = time.monotonic() - start

    def _probe(self, name: str, function: Function) -> None:
        """Make the calls of one function: made-up inputs, real ones, and wrong ones."""
        options = self._options
        seen: set[str] = set()
        for batch in options.batches:
            shapes = _shapes(function.inputs, batch, options.unknown_size)
            if str(shapes) in seen:  # no dimension depends on the batch
                continue
            seen.add(str(shapes))
            for seed in range(options.seeds):
                made = _Inputs(function.inputs, shapes, seed)
                self._call(Call("run", name, f"batch {batch}, seed {seed}"), function, made.make)
        for path in options.input:
            arrays = _read_inputs(path, function.inputs)
            if arrays.keys() == function.inputs.keys():
                self._call(Call("run", name, path.name), function, arrays.copy)
        shapes = _shapes(function.inputs, options.batches[0], options.unknown_size)
        for case, make in _misuses(_Inputs(function.inputs, shapes, 0)):
            self._call(Call("misuse", name, case), function, make)

    def _call(
        self, call: Call, function: Function, make_inputs: Callable[[], Mapping[str, Any]]
    ) -> None:
        _say(f"{self._name}: {call.signature}, {call.case}")
        number = len(self._calls)
        self._calls.append(call)
        start = time.monotonic()
        try:
            inputs = make_inputs()
            call.inputs = {
                name: _describe_as(function.inputs.get(name), array)
                for name, array in sorted(inputs.items())
            }
            for index, (name, dtype, array) in enumerate(function.call(inputs)):
                call.outputs.append(self._keep(name, dtype, array, f"{number}.{index}"))
        except UnmadeInputError as error:
            call.status, call.error = "unmade", _error(error)
        except Exception as error:  # noqa: BLE001 (any error is an answer)
            call.status, call.error = "error", _error(error)
        call.seconds = time.monotonic() - start

    def _keep(self, name: str, dtype: str, array: Any, key: str) -> dict[str, Any]:
        """Keep an output's values for arrays.npz; return its description."""
        if array is None:
            return {"name": name, "dtype": dtype, "shape": None, "sha256": None, "array": None}
        for part, values in _stored(_bits(array) if dtype == _BFLOAT16 else array).items():
            self._arrays[key + part] = values
        return {"name": name, **_describe_as(Spec(dtype, None), array), "array": key}


def _load_natively(path: Path) -> Loaded:
    """Load a SavedModel with the service's native backend, which serves its signatures."""
    notes: list[str] = []
    functions = {
        name: Function({key: Spec(*spec) for key, spec in inputs.items()}, call)
        for name, (inputs, call) in native.load(path, notes.append).items()
    }
    return Loaded("TensorFlow's C API", functions, set(), notes)


def _load(path: Path, shadow: Path) -> Loaded:
    """Load a .keras file or a SavedModel folder with all its functions."""
    if path.suffix == ".keras":
        return _load_keras(path)
    notes: list[str] = []
    _refuse_removed_ops(str(path))
    try:
        model = tf.saved_model.load(str(path))
    except AttributeError as error:
        if "add_slot" not in str(error):
            raise
        notes.append("saved with its optimizer by an older Keras; loaded without it")
        _link_without_slot_variables(path, shadow)
        options = tf.saved_model.LoadOptions(allow_partial_checkpoint=True)
        model = tf.saved_model.load(str(shadow), options=options)
    functions = {name: _signature(fn) for name, fn in model.signatures.items()}
    loader = "tf.saved_model.load"
    if not functions:
        notes.append("no signatures; its restored functions are called")
        functions, loader = _restored_functions(model), RESTORED_FUNCTIONS
    return Loaded(loader, functions, _saved_ops(path), notes)


def _signature(concrete: Any) -> Function:
    _, specs = concrete.structured_input_signature
    inputs = {name: _spec(spec) for name, spec in specs.items()}
    return Function(inputs, _on_tensors(lambda tensors: concrete(**tensors)))


def _restored_functions(model: Any) -> dict[str, Function]:
    """Return the traced functions of a SavedModel without signatures."""
    found = {}
    for name in ("__call__", *(name for name in dir(model) if not name.startswith("_"))):
        for number, concrete in enumerate(
            getattr(getattr(model, name, None), "concrete_functions", ())
        ):
            found[f"{name}#{number}"] = _restored_function(concrete)
    return found


def _restored_function(concrete: Any) -> Function:
    structure = concrete.structured_input_signature
    flat = tf.nest.flatten(structure)
    names = {
        index: f"{index}.{spec.name}"
        for index, spec in enumerate(flat)
        if isinstance(spec, tf.TensorSpec)
    }

    def call(tensors: Mapping[str, Any]) -> Any:
        given = [tensors.get(names[i]) if i in names else value for i, value in enumerate(flat)]
        args, kwargs = tf.nest.pack_sequence_as(structure, given)
        return concrete(*args, **kwargs)

    inputs = {name: _spec(flat[index]) for index, name in names.items()}
    return Function(inputs, _on_tensors(call))


def _on_tensors(
    call: Callable[[Mapping[str, Any]], Any],
) -> Callable[[Mapping[str, Any]], Iterable[tuple[str, str, Any]]]:
    """Return what takes and gives arrays where a function takes and gives tensors."""

    def answer(arrays: Mapping[str, Any]) -> Iterable[tuple[str, str, Any]]:
        tensors = call({key: tf.constant(value) for key, value in arrays.items()})
        return [(name, *_values(tensor)) for name, tensor in _flat(tensors)]

    return answer


def _values(tensor: Any) -> tuple[str, Any]:
    """Return a tensor's dtype and its values; None for those that cannot be read."""
    dtype = getattr(tensor, "dtype", None)
    named = getattr(dtype, "name", str(dtype))
    if named in ("resource", "variant"):
        return named, None
    array = tensor.numpy() if hasattr(tensor, "numpy") else np.asarray(tensor)
    return named, np.asarray(array, dtype=object if named == "string" else None)


def _load_keras(path: Path) -> Loaded:
    """Load a .keras file: its call as a graph, and `predict` as people use it."""
    tf.keras.utils.set_random_seed(0)
    model = tf.keras.models.load_model(str(path), compile=False)
    flat = tf.nest.flatten(model.inputs)
    form = getattr(model, "input", flat[0])  # a Sequential just loaded has none
    names = [tensor.name for tensor in flat]
    inputs = {
        tensor.name: Spec(tf.as_dtype(tensor.dtype).name, tuple(tensor.shape)) for tensor in flat
    }
    graph = tf.function(lambda given: model(given, training=False))

    def structure(tensors: Mapping[str, Any]) -> Any:
        return tf.nest.pack_sequence_as(form, [tensors[n] for n in names if n in tensors])

    specs = {name: tf.TensorSpec(spec.shape, spec.dtype) for name, spec in inputs.items()}
    concrete = graph.get_concrete_function(structure(specs))
    functions = {
        "call": Function(inputs, _on_tensors(lambda given: graph(structure(given)))),
        "predict": Function(
            inputs, _on_tensors(lambda given: model.predict(structure(given), verbose=0))
        ),
    }
    own = {"@keras", "@keras-rnn"} if _takes_cudnn(model) else {"@keras"}
    ops = _ops(concrete.graph.as_graph_def()) | own
    _refuse_removed_ops(ops)
    return Loaded(KERAS, functions, ops)


def _refuse_removed_ops(model: Any) -> None:
    """Refuse a model that a slim target gave up, as the service does: a CPU alone would run it."""
    try:
        import _tfslim  # type: ignore  # noqa: PLC0415
    except ImportError:
        return
    _tfslim.check_model(model)


def _takes_cudnn(model: Any) -> bool:
    """True where a layer takes cuDNN's kernels on a GPU; on a CPU no op shows that it would."""
    layers = model._flatten_layers(include_self=False, recursive=True)
    recurrent = (tf.keras.layers.LSTM, tf.keras.layers.GRU)
    return any(isinstance(x, recurrent) and getattr(x, "use_cudnn", True) for x in layers)


def _spec(spec: Any) -> Spec:
    shape = None if spec.shape.rank is None else tuple(spec.shape.as_list())
    return Spec(spec.dtype.name, shape)


def _link_without_slot_variables(path: Path, shadow: Path) -> None:
    """Fill `shadow` with links to a SavedModel and its graph without the optimizer's variables.

    Keras 3 cannot restore them (`_UserObject` has no `add_slot`), and predicting needs none.
    """
    saved = _parse(path)
    for meta_graph in saved.meta_graphs:
        for node in meta_graph.object_graph_def.nodes:
            node.ClearField("slot_variables")
    shadow.mkdir()
    for entry in path.iterdir():
        if entry.name != "saved_model.pb":
            (shadow / entry.name).symlink_to(entry.resolve())
    (shadow / "saved_model.pb").write_bytes(saved.SerializeToString())


def _parse(path: Path) -> Any:
    from tensorflow.core.protobuf import saved_model_pb2  # type: ignore  # noqa: PLC0415

    saved = saved_model_pb2.SavedModel()
    if (path / "saved_model.pb").is_file():
        saved.ParseFromString((path / "saved_model.pb").read_bytes())
    return saved


def _saved_ops(path: Path) -> set[str]:
    """Return the op types of a SavedModel's graphs and of all functions in their libraries.

    "@xla" stands for functions that XLA compiles, "@keras" for what needs Keras itself: here an
    optimizer, without which TensorFlow does not load one that was saved with it.
    """
    found: set[str] = set()
    for meta in _parse(path).meta_graphs:
        found |= _ops(meta.graph_def)
        if any(node.user_object.identifier == "optimizer" for node in meta.object_graph_def.nodes):
            found.add("@keras")
    return found


def _ops(graph_def: Any) -> set[str]:
    functions = graph_def.library.function
    bodies = (graph_def.node, *(function.node_def for function in functions))
    ops = {node.op for nodes in bodies for node in nodes}
    if any(function.attr["_XlaMustCompile"].b for function in functions):
        ops.add("@xla")
    # How Keras 2 marks a recurrent layer that has another implementation for a GPU.
    if any("api_implements" in function.attr for function in functions):
        ops.add("@keras-rnn")
    return ops


Shapes = dict[str, tuple[int, ...]]


def _shapes(specs: Mapping[str, Spec], batch: int, unknown: int) -> Shapes:
    """Return the shape of each input: an unknown first dimension is the batch."""
    shapes = {}
    for name, spec in specs.items():
        known = (None,) if spec.shape is None else spec.shape
        sizes = (batch if index == 0 else unknown for index in range(len(known)))
        shapes[name] = tuple(size if size is not None else free for size, free in zip(known, sizes))  # noqa: B905
    return shapes


class _Inputs:
    """Made-up inputs of a function; the same for every Python, numpy and machine."""

    def __init__(self, specs: Mapping[str, Spec], shapes: Shapes, seed: int) -> None:
        self.specs = specs
        self.shapes = shapes
        self.seed = seed

    def make(self) -> dict[str, Any]:
        return {name: self.make_one(name) for name in sorted(self.specs)}

    def make_one(
        self, name: str, dtype: str | None = None, shape: tuple[int, ...] | None = None
    ) -> Any:
        """Make one input, of its own dtype and shape unless others are given."""
        label = f"{name} {self.seed}"
        wanted = self.shapes[name] if shape is None else shape
        return make_array(dtype or self.specs[name].dtype, wanted, label, self.seed)


def make_array(dtype: str, shape: tuple[int, ...], label: str, seed: int) -> Any:
    """Make an array from SHAKE-256 of its label.

    Floats lie in [0, 1) for even seeds and in [-2, 2) for odd ones; uint8 takes all its values,
    other integers 0 to 9, so that they are indices of almost any table; strings are words.

    Raises:
        UnmadeInputError: There are no values of this dtype to make up.
    """
    count = math.prod(shape)
    if dtype.startswith("complex"):
        parts = _uniform(2 * count, label, seed).reshape(2, *shape)
        return (parts[0] + 1j * parts[1]).astype(dtype)
    if dtype.startswith(("float", "bfloat")):
        return _cast(_uniform(count, label, seed).reshape(shape), dtype)
    words = _random_words(count, label).reshape(shape)
    if dtype == "string":
        table = np.array([word.encode() for word in _WORDS], dtype=object)
        return np.asarray(table[words % len(_WORDS)], dtype=object)
    if dtype == "bool":
        return words % 2 == 1
    if dtype.startswith(("int", "uint")):
        return _cast(words % (256 if dtype == "uint8" else 10), dtype)
    raise UnmadeInputError(f"no values of dtype {dtype} can be made up; give real inputs")


def _cast(values: Any, dtype: str) -> Any:
    """Return numbers as TensorFlow's dtype of a name, which numpy need not have.

    Raises:
        UnmadeInputError: The backend has nothing to hold it in.
    """
    if native is not None:
        array = native.cast(values, dtype)
        if array is None:
            raise UnmadeInputError(f"the service has no array of dtype {dtype}")
        return array
    if dtype == _BFLOAT16:
        values = values.astype("float32")  # rounded twice, wherever it is made
    return values.astype(tf.as_dtype(dtype).as_numpy_dtype)


def _random_words(count: int, label: str) -> Any:
    stream = hashlib.shake_256(label.encode()).digest(4 * count)
    return np.frombuffer(stream, dtype="<u4").astype("int64")


def _uniform(count: int, label: str, seed: int) -> Any:
    unit = _random_words(count, label) / 2.0**32
    return unit * 4 - 2 if seed % 2 else unit


def _misuses(inputs: _Inputs) -> Iterator[tuple[str, Callable[[], Mapping[str, Any]]]]:
    """Yield inputs that are wrong on purpose, one way at a time, for the first input."""
    if not inputs.specs:
        return
    first = min(inputs.specs)
    spec = inputs.specs[first]
    other = "float32" if spec.dtype == "string" else "string"
    yield "wrong dtype", lambda: {**inputs.make(), first: inputs.make_one(first, dtype=other)}
    if spec.shape is not None:
        longer = (*inputs.shapes[first], 1)
        yield "wrong rank", lambda: {**inputs.make(), first: inputs.make_one(first, shape=longer)}
    yield (
        "missing input",
        lambda: {name: array for name, array in inputs.make().items() if name != first},
    )


def _read_inputs(path: Path, specs: Mapping[str, Spec]) -> dict[str, Any]:
    """Read real inputs: numbers in the width that a function wants, text as bytes."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return {
        name: _fitted(array, specs[name].dtype) if name in specs else array
        for name, array in arrays.items()
    }


def _fitted(array: Any, dtype: str) -> Any:
    """Return an array as TensorFlow takes it; float64 becomes float32, never an integer."""
    if array.dtype.kind == "U":
        return np.char.encode(array, "utf-8").astype(object)
    if (dtype.startswith(("float", "bfloat")) and array.dtype.kind == "f") or (
        dtype.startswith(("int", "uint")) and array.dtype.kind in "iu"
    ):
        return _cast(array, dtype)
    return array


def _flat(answer: Any) -> Iterable[tuple[str, Any]]:
    """Return the tensors of an answer with their names, in an order that does not change."""
    if isinstance(answer, dict):
        return [
            (f"{key}{'/' if name else ''}{name}", tensor)
            for key in sorted(answer)
            for name, tensor in _flat(answer[key])
        ]
    tensors = tf.nest.flatten(answer, expand_composites=True)
    if len(tensors) == 1:
        return [("", tensors[0])]
    return [(str(index), tensor) for index, tensor in enumerate(tensors)]


def _stored(array: Any) -> dict[str, Any]:
    """Return what arrays.npz holds for an array, by suffix of its key; nothing is pickled."""
    if array.dtype.kind in "OSU":
        pieces = [_bytes(value) for value in array.ravel()]
        ends = np.cumsum([len(piece) for piece in pieces], dtype="int64")
        return {".text": np.frombuffer(b"".join(pieces), dtype="uint8"), ".ends": ends}
    if array.dtype.kind in _PLAIN_KINDS:
        return {"": array}
    flat = np.ascontiguousarray(array).reshape(-1)
    return {"": flat.view(f"u{array.dtype.itemsize}").reshape(array.shape)}


def _bits(array: Any) -> Any:
    """Return bfloat16 values, which the service carries as float32, as their bits."""
    if array.dtype.name == "float32":
        return (np.ascontiguousarray(array).view("uint32") >> 16).astype("uint16")
    return array


def _describe_as(spec: Spec | None, array: Any) -> dict[str, Any]:
    """Describe an array that is of a specified dtype, unless it was meant to be of another."""
    if spec is not None and spec.dtype == _BFLOAT16 and array.dtype.name == "float32":
        return {**_describe(_bits(array)), "dtype": _BFLOAT16}
    return _describe(array)


def _describe(array: Any) -> dict[str, Any]:
    """Return dtype, shape and digest; the digest is over all three in a form without padding."""
    digest = hashlib.sha256(f"{list(array.shape)}".encode())
    for part, values in sorted(_stored(array).items()):
        digest.update(part.encode() + np.ascontiguousarray(values).tobytes())
    dtype = "string" if array.dtype.kind in "OSU" else array.dtype.name
    return {"dtype": dtype, "shape": list(array.shape), "sha256": digest.hexdigest()}


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _error(error: BaseException) -> dict[str, str]:
    if native is not None:
        error = native.error_of(error)
    return {"type": type(error).__name__, "message": str(error)[:_MESSAGE_CHARACTERS]}


def _write_json(path: Path, data: object) -> None:
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(json.dumps(data, indent=1), encoding="utf-8")
    aside.replace(path)


def _say(text: str) -> None:
    sys.stdout.write(f"probe: {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # TensorFlow's teardown takes longer than many probes and answers nothing.
    os._exit(status)
