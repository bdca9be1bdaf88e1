"""Run by the stock interpreter: models that show the corners of the C API.

python native_models.py OUT
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import tensorflow as tf  # type: ignore[import-untyped]
from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2  # type: ignore[import-untyped]

OUT = Path(sys.argv[1]).resolve()
spec = tf.TensorSpec
v1 = tf.compat.v1


def save(name: str, module: Any, **functions: Any) -> None:
    tf.saved_model.save(module, str(OUT / name), signatures=functions)


def function(*specs: Any) -> Any:
    return tf.function(input_signature=specs)


class Types(tf.Module):  # type: ignore[misc]
    """Every type that travels, as it came and computed with."""

    def __init__(self) -> None:
        super().__init__()
        self.functions = {}
        for name in (
            *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
            *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        ):
            self.functions[f"type_{name}"] = self._arithmetic(tf.as_dtype(name))
        self.functions["type_bool"] = self._logic()
        self.functions["strings"] = self._strings()

    def _arithmetic(self, dtype: Any) -> Any:
        @function(spec([None, 2], dtype, "x"), spec([], dtype, "one"))
        def compute(x: Any, one: Any) -> dict[str, Any]:
            return {"same": x, "sum": x + one, "scalar": one, "none": x[:0], "shape": tf.shape(x)}

        return compute

    def _logic(self) -> Any:
        @function(spec([None], tf.bool, "x"))
        def compute(x: Any) -> dict[str, Any]:
            return {"not": tf.logical_not(x), "any": tf.reduce_any(x)}

        return compute

    def _strings(self) -> Any:
        @function(spec([None, 3], tf.string, "text"), spec([], tf.string, "end"))
        def compute(text: Any, end: Any) -> dict[str, Any]:
            return {
                "same": text,
                "joined": text + end,
                "first": tf.reshape(text, [-1])[:1],
                "end": end,
                "turned": tf.transpose(text),
                "none": text[:0],
                "long": tf.strings.reduce_join(text),
            }

        return compute


class Shapes(tf.Module):  # type: ignore[misc]
    """Unknown dimensions, unknown rank, no inputs, and inputs that the graph refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.count = tf.Variable(3, dtype=tf.int64)

    @function(spec(None, tf.float32, "x"))
    def any_rank(self, x: Any) -> dict[str, Any]:
        return {"sum": tf.reduce_sum(x), "rank": tf.rank(x), "x": x}

    @function(spec([None, None, 4], tf.float32, "x"))
    def some(self, x: Any) -> dict[str, Any]:
        return {"turned": tf.transpose(x)}

    @function()
    def constant(self) -> dict[str, Any]:
        return {"answer": tf.constant(42), "words": tf.constant(["a", "b"]), "count": self.count}

    @function(spec([None], tf.float32, "x"))
    def picky(self, x: Any) -> dict[str, Any]:
        return {"y": tf.reshape(x, [3, 2])}

    @function(spec([None], tf.int32, "x"))
    def checked(self, x: Any) -> dict[str, Any]:
        with tf.control_dependencies([tf.debugging.assert_less(x, 5, "all below five")]):
            return {"y": x + 1}

    @function(spec([None], tf.int32, "x"))
    def far(self, x: Any) -> dict[str, Any]:
        return {"y": tf.gather(tf.range(3), x)}

    @function(spec([None], tf.int64, "x"))
    def counting(self, x: Any) -> dict[str, Any]:
        return {"count": self.count.assign_add(tf.size(x, tf.int64))}


class Quantised(tf.Module):  # type: ignore[misc]
    @function(spec([None], tf.float32, "x"))
    def quantise(self, x: Any) -> dict[str, Any]:
        return {"q": tf.quantization.quantize(x, -1.0, 1.0, tf.qint8).output}


def old(name: str, *tag_sets: list[str]) -> None:
    """A model of TensorFlow 1: variables and tables of its session, an output that is its input."""
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 2], "x")
        weights = v1.get_variable("w", [2, 3], initializer=v1.random_normal_initializer(seed=1))
        keys = tf.constant(["zero", "one"])
        table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(keys, tf.constant([0, 1])), -1
        )
        word = v1.placeholder(tf.string, [None], "word")
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        describe = v1.saved_model.utils.build_tensor_info
        signature = v1.saved_model.signature_def_utils.build_signature_def(
            {"x": describe(x), "word": describe(word)},
            {
                "y": describe(tf.matmul(x, weights)),
                "x": describe(x),
                "again": describe(x),
                "number": describe(table.lookup(word)),
            },
        )
        builder = v1.saved_model.Builder(str(OUT / name))
        first, *others = tag_sets
        builder.add_meta_graph_and_variables(
            session, first, {"serving_default": signature}, main_op=v1.tables_initializer()
        )
        for tags in others:
            builder.add_meta_graph(tags, {"serving_default": signature})  # the main op is known
        builder.save()


def sparse() -> None:
    """A model of TensorFlow 1: one signature takes a sparse tensor, the other does not."""
    with tf.Graph().as_default(), v1.Session() as session:
        thin = v1.sparse_placeholder(tf.float32, [None, 4], "thin")
        x = v1.placeholder(tf.float32, [None], "x")
        describe = v1.saved_model.utils.build_tensor_info
        build = v1.saved_model.signature_def_utils.build_signature_def
        builder = v1.saved_model.Builder(str(OUT / "sparse-input"))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {
                "thin": build({"t": describe(thin)}, {"y": describe(tf.sparse.reduce_sum(thin))}),
                "plain": build({"x": describe(x)}, {"y": describe(x + 1.0)}),
            },
        )
        builder.save()


def as_text(source: str, name: str) -> None:
    """The same model with its graph as text."""
    (OUT / name).mkdir()
    graph = saved_model_pb2.SavedModel()
    graph.ParseFromString((OUT / source / "saved_model.pb").read_bytes())
    (OUT / name / "saved_model.pbtxt").write_text(text_format.MessageToString(graph))
    (OUT / name / "variables").symlink_to(OUT / source / "variables")


def main() -> None:
    types = Types()
    save("types", types, **types.functions)
    shapes = Shapes()
    names = ("any_rank", "some", "constant", "picky", "checked", "far", "counting")
    save("shapes", shapes, **{name: getattr(shapes, name) for name in names})
    quantised = Quantised()
    save("quantised", quantised, quantise=quantised.quantise)
    old("old", ["serve"])
    old("two-graphs", ["serve"], ["serve", "gpu"])
    sparse()
    as_text("shapes", "text-form")
    tf.saved_model.save(tf.Module(), str(OUT / "mute"))


main()
sys.stdout.flush()
os._exit(0)
