"""`python -m tfserve_app.freeze MODEL OUT`: make constants of a SavedModel's variables.

A frozen model starts faster with BACKEND=capi: there is no checkpoint to read, and no function to
inline. Its answers may differ in the last bits, because TensorFlow computes with constants ahead
what it cannot with variables; how much is measured here, written to `freeze.json`, and told by
`/health`. This needs TensorFlow's Python package, so it runs where an image is built.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfserve_app.backend import Array, TensorSpec
from tfserve_app.capi.frozen import FORMAT, GRAPH
from tfserve_app.capi.metagraph import Endpoint, Entry, MetaGraph, read_meta_graphs
from tfserve_app.capi.model import choose
from tfserve_app.errors import ModelLoadError
from tfserve_app.process import EXIT_MODEL, fail
from tfserve_app.savedmodel import FROZEN_FILE, locate

__all__ = ["Drift", "compare", "freeze", "main", "samples"]

_SEEDS = (0, 1, 2, 3, 4)
_BATCHES = (1, 4)
_OTHER_SIZE = 16  # of an unknown dimension that is not the first
_WORDS = (b"the", b"fox", b"42", b"", "été".encode(), b"unknown")
# Resources that live within one call; every other one is state that a constant cannot hold.
_WITHIN_A_CALL = ("TensorArray", "Stack")

# What TensorFlow's own freezing makes constants of.
_READING = frozenset(
    {
        *("VarHandleOp", "ReadVariableOp", "ResourceGather", "ResourceGatherNd"),
        *("Variable", "VariableV2", "Identity", "RefIdentity"),
    }
)

Values = Mapping[str, Array]


@dataclass(frozen=True)
class Drift:
    """How far a frozen model's output is from the model's own, over all samples.

    Attributes:
        max_abs: Largest difference of two numbers.
        max_rel: The same, as a part of the largest number of the model's own output.
        different: Elements that are not the same.
        elements: Elements compared.
    """

    max_abs: float = 0.0
    max_rel: float = 0.0
    different: int = 0
    elements: int = 0

    def add(self, other: Drift) -> Drift:
        """Return both together."""
        return Drift(
            max(self.max_abs, other.max_abs),
            max(self.max_rel, other.max_rel),
            self.different + other.different,
            self.elements + other.elements,
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Freeze a model as the command line says; ends the process with 3 where that cannot be."""
    parser = argparse.ArgumentParser(prog="python -m tfserve_app.freeze", description=__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL", help="a SavedModel folder")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write; must be new")
    parser.add_argument(
        "--input",
        type=Path,
        metavar="FILE.npz",
        help="real inputs by name, to measure the drift on beside random ones",
    )
    options = parser.parse_args(argv)
    try:
        given = _read_given(options.input) if options.input else {}
        report = freeze(options.model, options.out, given)
    except ModelLoadError as error:
        fail(str(error), EXIT_MODEL)
    print(json.dumps(report["drift"], indent=2))
    sys.stdout.flush()
    os._exit(0)  # TensorFlow's teardown takes long and writes nothing


def freeze(model: Path, out: Path, given: Values) -> dict[str, Any]:
    """Write a frozen model.

    Args:
        model: The SavedModel folder.
        out: The folder to write.
        given: Inputs by name to measure on as well.

    Returns:
        What `freeze.json` says.

    Raises:
        ModelLoadError: It cannot be frozen, or the folder is there already.
    """
    if out.exists():
        raise ModelLoadError(f"{out}: is there already; name a new folder")
    path = locate(model).path
    if not (path / "saved_model.pb").is_file():
        raise ModelLoadError(f"{path}: only a SavedModel with a saved_model.pb can be frozen")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        graph = choose(read_meta_graphs(path / "saved_model.pb"))
        entries = {name: graph.entry(name) for name in graph.signature_names()}
        encoded, drift = _freeze(path, graph, entries, given)
    except ModelLoadError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise ModelLoadError(
            f"{path}: cannot be frozen: {type(error).__name__}: {lines[0][:400]}"
        ) from error
    report = _report(entries, drift, sorted(given))
    _write(out, encoded, report)
    return report


def _freeze(
    path: Path, graph: MetaGraph, entries: Mapping[str, Entry], given: Values
) -> tuple[bytes, dict[str, dict[str, Drift]]]:
    """Return the frozen GraphDef, encoded, and its drift by signature and output."""
    import tensorflow  # type: ignore[import-untyped]  # noqa: PLC0415

    tf = tensorflow.compat.v1
    if not entries:
        raise ModelLoadError(f"{path}: has no serving signatures")
    with tf.Graph().as_default(), tf.Session() as session:
        # TensorFlow 1's loader: it restores what the graph needs and nothing of Keras.
        tf.saved_model.load(session, list(graph.tags), str(path))
        inlined = _inlined(tensorflow, session.graph, entries)
        _refuse_state(path, inlined)
        frozen = _with_constants(session, inlined, entries)
        with tf.Graph().as_default() as new, tf.Session(graph=new) as other:
            tensorflow.graph_util.import_graph_def(frozen, name="")
            drift = {
                name: _measure(path, name, entry, given, (session, other))
                for name, entry in entries.items()
            }
    return frozen.SerializeToString(), drift


def _with_constants(session: Any, graph: Any, entries: Mapping[str, Entry]) -> Any:
    """Return a GraphDef with constants for variables, and only what is needed."""
    from tensorflow.python.framework import (  # type: ignore[import-untyped]  # noqa: PLC0415
        convert_to_constants,
    )

    wanted = sorted({one.tensor.rpartition(":")[0] for one in _ends(entries.values())})
    graph = convert_to_constants.convert_variables_to_constants_from_session_graph(
        session, graph, wanted
    )
    for node in graph.node:  # those of a loop are as they were before its variables went
        node.attr.pop("_output_shapes", None)
    return _without_unused_functions(graph)


def _inlined(tensorflow: Any, loaded: Any, entries: Mapping[str, Entry]) -> Any:
    """Return the loaded graph's GraphDef with function calls inlined, so that no start has to.

    Loops and branches stay functions: as such TensorFlow runs them in its newer way.
    """
    from tensorflow.core.protobuf import (  # type: ignore[import-untyped]  # noqa: PLC0415
        config_pb2,
        meta_graph_pb2,
    )
    from tensorflow.python.framework import convert_to_constants  # noqa: PLC0415
    from tensorflow.python.grappler import (  # type: ignore[import-untyped]  # noqa: PLC0415
        tf_optimizer,
    )

    tensors = sorted({one.tensor for one in _ends(entries.values())})
    graph = tensorflow.compat.v1.graph_util.extract_sub_graph(
        loaded.as_graph_def(), sorted({name.rpartition(":")[0] for name in tensors})
    )
    graph = _without_unused_functions(graph)
    for function in graph.library.function:
        function.attr.pop("api_implements", None)  # it keeps a function from being inlined
    graph = convert_to_constants.disable_lower_using_switch_merge(graph)
    meta = meta_graph_pb2.MetaGraphDef(graph_def=graph)
    # What Grappler takes for the outputs.
    meta.collection_def["train_op"].node_list.value.extend(tensors)
    config = config_pb2.ConfigProto()
    config.graph_options.rewrite_options.min_graph_nodes = -1
    config.graph_options.rewrite_options.optimizers.append("function")
    return _without_unused_functions(tf_optimizer.OptimizeGraph(config, meta))


def _without_unused_functions(graph: Any) -> Any:
    """Drop the functions that nothing calls, directly or not."""
    functions = {function.signature.name: function for function in graph.library.function}
    todo, used = [graph.node], set[str]()
    while todo:
        for node in todo.pop():
            for name in {node.op, *_called(node)} & functions.keys() - used:
                used.add(name)
                todo.append(functions[name].node_def)
    del graph.library.gradient[:]
    del graph.library.function[:]
    graph.library.function.extend(functions[name] for name in sorted(used))
    return graph


def _called(node: Any) -> Iterator[str]:
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        for function in value.list.func:
            yield function.name


def _refuse_state(path: Path, graph: Any) -> None:
    """Refuse a graph that has state: tables, variables that are written, iterators, queues.

    Raises:
        ModelLoadError: It has; the line names the ops.
    """
    from tensorflow.python.framework import op_def_registry  # noqa: PLC0415

    nodes = [*graph.node, *(node for one in graph.library.function for node in one.node_def)]
    ops = {node.op for node in nodes} - _READING
    found = sorted(op for op in ops if _is_state(op_def_registry.get(op)))
    if found:
        raise ModelLoadError(
            f"{path}: cannot be frozen: it has state that a constant cannot hold: lookup tables, "
            f"or variables that a call writes ({', '.join(found)}); serve it as it is"
        )


def _is_state(definition: Any) -> bool:
    if definition is None or definition.name.startswith(_WITHIN_A_CALL):
        return False
    resource = 20  # DT_RESOURCE, types.proto
    ends = [*definition.input_arg, *definition.output_arg]
    return any(end.type == resource or end.is_ref for end in ends)


def _ends(entries: Iterable[Entry]) -> Iterator[Endpoint]:
    for entry in entries:
        yield from entry.inputs.values()
        yield from entry.outputs.values()


def _measure(
    path: Path, name: str, entry: Entry, given: Values, sessions: tuple[Any, Any]
) -> dict[str, Drift]:
    """Run one signature in both sessions on every sample, and compare the outputs."""
    total, last = {output: Drift() for output in entry.outputs}, ""
    fetches = {output: one.tensor for output, one in entry.outputs.items()}
    for sample in samples(entry, given):
        feeds = {one.tensor: sample[key] for key, one in entry.inputs.items()}
        try:
            own, frozen = (session.run(fetches, feeds) for session in sessions)
        except Exception as error:  # noqa: BLE001 (a model may refuse what is random)
            last = (str(error).strip().splitlines() or [""])[0]
            continue
        total = {key: drift.add(compare(own[key], frozen[key])) for key, drift in total.items()}
    if all(drift.elements == 0 for drift in total.values()):
        raise ModelLoadError(
            f"{path}: the drift of signature {name!r} cannot be measured on random inputs "
            f"({last[:200]}); give real ones with --input FILE.npz"
        )
    return total


def samples(entry: Entry, given: Values) -> Iterator[dict[str, Array]]:
    """Yield inputs to measure on: the given ones where they fit, then random ones."""
    if entry.inputs and entry.inputs.keys() <= given.keys():
        yield {name: given[name] for name in entry.inputs}
    for seed in _SEEDS:
        for batch in _BATCHES:
            random = np.random.default_rng((seed, batch))
            yield {name: _random(one.spec, batch, random) for name, one in entry.inputs.items()}


def _random(spec: TensorSpec, batch: int, random: np.random.Generator) -> Array:
    sizes = (-1,) if spec.shape is None else spec.shape
    shape = tuple(
        size if size >= 0 else (batch if index == 0 else _OTHER_SIZE)
        for index, size in enumerate(sizes)
    )
    if spec.dtype == "string":
        return np.asarray(random.choice(np.array(_WORDS, dtype=object), shape), dtype=object)
    dtype = np.dtype("float32" if spec.dtype == "bfloat16" else spec.dtype)
    if dtype.kind == "b":
        return np.asarray(random.integers(0, 2, shape)).astype(dtype)
    if dtype.kind in "iu":
        return np.asarray(random.integers(0, 10, shape)).astype(dtype)
    values = np.asarray(random.normal(size=shape))
    return (values if dtype.kind == "f" else values * (1 + 0.5j)).astype(dtype)


def compare(own: Array, frozen: Array) -> Drift:
    """Return how far two outputs are from each other; NaN equals NaN."""
    own, frozen = np.asarray(own), np.asarray(frozen)
    if own.shape != frozen.shape or own.dtype.kind not in "fc":
        same = own.shape == frozen.shape and own == frozen
        return Drift(different=int(own.size - np.sum(same)), elements=own.size)
    wide = np.complex128 if own.dtype.kind == "c" else np.float64
    left, right = own.astype(wide), frozen.astype(wide)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    with np.errstate(invalid="ignore"):
        distance = np.where(same, 0.0, np.abs(left - right))
    largest = float(np.max(np.abs(left), initial=0.0, where=np.isfinite(left)))
    worst = float(np.max(np.nan_to_num(distance, nan=np.inf), initial=0.0))
    return Drift(worst, worst / largest if largest else worst, int(np.sum(~same)), own.size)


def _report(
    entries: Mapping[str, Entry], drift: Mapping[str, Mapping[str, Drift]], given: list[str]
) -> dict[str, Any]:
    from tensorflow import __version__  # noqa: PLC0415

    return {
        "format": FORMAT,
        "tensorflow": __version__,
        "signatures": {
            name: {"inputs": _described(entry.inputs), "outputs": _described(entry.outputs)}
            for name, entry in entries.items()
        },
        "drift": {
            name: {output: vars(one) for output, one in outputs.items()}
            for name, outputs in drift.items()
        },
        "measured_on": {"seeds": _SEEDS, "batches": _BATCHES, "given_inputs": given},
    }


def _described(endpoints: Mapping[str, Endpoint]) -> dict[str, object]:
    return {name: {"tensor": one.tensor, **one.spec.as_dict()} for name, one in endpoints.items()}


def _read_given(file: Path) -> dict[str, Array]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:
        raise ModelLoadError(f"{file}: is no .npz file: {error}") from error


def _write(out: Path, graph: bytes, report: Mapping[str, Any]) -> None:
    """Write the folder aside and give it its name when it is complete."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise ModelLoadError(f"{out}: cannot be written: {error.strerror}") from error
    try:
        (aside / GRAPH).write_bytes(graph)
        (aside / FROZEN_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        aside.chmod(0o755)
        aside.rename(out)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


if __name__ == "__main__":
    main()
