"""The wire format: what is read from a model's bytes, and what is written for a session."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfserve_app.capi.metagraph import MetaGraph, UnsupportedSignatureError, read_meta_graphs
from tfserve_app.capi.model import choose
from tfserve_app.capi.options import SessionOptions
from tfserve_app.capi.wire import (
    Message,
    WireError,
    encode_bool,
    encode_bytes,
    encode_double,
    encode_entry,
    encode_int,
)
from tfserve_app.errors import SettingsError

# --- messages, by hand ---


def field(number: int, *parts: bytes) -> bytes:
    return encode_bytes(number, b"".join(parts))


def text(number: int, value: str) -> bytes:
    return encode_bytes(number, value.encode())


def entry(number: int, key: str, *value: bytes) -> bytes:
    return field(number, text(1, key), field(2, *value))


def tensor(name: str, dtype: int, *sizes: int) -> bytes:
    shape = [field(2, encode_int(1, size)) for size in sizes]
    return text(1, name) + encode_int(2, dtype) + field(3, *shape)


def node(op: str, *attributes: bytes) -> bytes:
    return text(1, f"a_{op}") + text(2, op) + b"".join(attributes)


def calls(name: str) -> bytes:
    return entry(5, "f", field(10, text(1, name)))


def function(name: str, *nodes: bytes, attributes: bytes = b"") -> bytes:
    return field(1, field(1, text(1, name)), *(field(3, one) for one in nodes), attributes)


SIGNATURE = (
    entry(1, "x", tensor("in:0", 1, -1, 3)),
    entry(1, "any", text(1, "a:0") + encode_int(2, 107) + field(3, encode_bool(3, value=True))),
    entry(2, "y", text(1, "out:2") + encode_int(2, 14)),
)
TWIN = entry(5, "api_implements", text(2, "lstm_1"))
META_GRAPH = b"".join(
    [
        field(1, text(4, "serve"), text(4, "gpu"), text(5, "2.21.0")),
        field(
            2,
            field(1, node("Placeholder")),
            field(1, node("PartitionedCall", calls("inner"))),
            field(
                2,
                function("inner", node("MatMul"), node("deeper")),
                function(
                    "deeper", node("FFT"), attributes=entry(5, "api_implements", text(2, "l"))
                ),
                function("unused", node("Conv2D")),
            ),
        ),
        entry(5, "serving_default", *SIGNATURE),
        entry(5, "__saved_model_init_op", entry(2, "__init", text(1, "NoOp"))),
    ]
)


def test_a_model_is_read_from_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "saved_model.pb"
    file.write_bytes(encode_int(1, 1) + field(2, META_GRAPH))
    (graph,) = read_meta_graphs(file)
    assert graph.tags == ("serve", "gpu")
    assert graph.signature_names() == ["serving_default"]
    found = graph.entry("serving_default")
    assert list(found.inputs) == ["any", "x"]
    assert str(found.inputs["x"].spec) == "float32[?,3]"
    assert str(found.inputs["any"].spec) == "string[...]"
    assert (found.outputs["y"].tensor, str(found.outputs["y"].spec)) == ("out:2", "bfloat16[]")


def test_ops_are_those_that_can_be_reached() -> None:
    graph = MetaGraph(Message(META_GRAPH))
    assert graph.op_types() == {"Placeholder", "PartitionedCall", "MatMul", "FFT", "@keras-rnn"}
    compiled = entry(5, "_XlaMustCompile", encode_bool(5, value=True))
    listed = entry(5, "branches", field(1, field(9, text(1, "one"))))
    nodes = field(1, node("Case", listed, compiled))
    library = field(2, function("one", node("Sin")))
    found = MetaGraph(Message(field(2, nodes, library)))
    assert found.op_types() == {"Case", "Sin", "@xla"}


def test_a_sparse_input_is_three_tensors() -> None:
    sparse = field(4, text(1, "v:0"), text(2, "i:0"), text(3, "s:0"))
    shape = field(3, field(2, encode_int(1, -1)), field(2, encode_int(1, 4)))
    signature = entry(5, "s", entry(1, "t", sparse, encode_int(2, 1), shape))
    found = MetaGraph(Message(signature)).entry("s")
    assert {name: (one.tensor, str(one.spec)) for name, one in found.inputs.items()} == {
        "t_dense_shape": ("s:0", "int64[2]"),
        "t_indices": ("i:0", "int64[?,2]"),
        "t_values": ("v:0", "float32[?]"),
    }


@pytest.mark.parametrize(
    ("info", "said"),
    [
        (field(5, text(2, "a:0")), "sparse or composite"),
        (text(1, "a:0") + encode_int(2, 77), "unknown type 77"),
        (text(1, "NoOp") + encode_int(2, 1), "operation 'NoOp'"),
    ],
)
def test_what_is_no_plain_tensor_is_named(info: bytes, said: str) -> None:
    graph = MetaGraph(Message(entry(5, "s", entry(2, "y", info))))
    with pytest.raises(UnsupportedSignatureError, match=said):
        graph.entry("s")


def test_which_graph_is_served() -> None:
    def graph(*tags: str) -> MetaGraph:
        return MetaGraph(Message(field(1, *(text(4, tag) for tag in tags))))

    assert choose([graph("odd")]).tags == ("odd",)
    assert choose([graph("serve", "gpu"), graph("serve")]).tags == ("serve",)
    assert choose([graph("train"), graph("gpu", "serve")]).tags == ("gpu", "serve")
    with pytest.raises(ValueError, match="none of them tagged 'serve': train; eval, tpu"):
        choose([graph("train"), graph("eval", "tpu")])


# --- bytes that are no model ---


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the file is empty"),
        (b"\xff" * 1000, "longer than 64 bits"),
        (b"\x12", "cut short"),
        (b"\x12\x05abc", "has 5 bytes, and 3 are left"),
        (b"\x0b\x0c", "unknown wire type 3"),
        (b"\x00\x01", "field number 0"),
        (encode_int(2, 5), "field 2 is a number"),
        (encode_int(1, 1), "it has no graph"),
    ],
)
def test_garbage_is_named(tmp_path: Path, data: bytes, said: str) -> None:
    file = tmp_path / "saved_model.pb"
    file.write_bytes(data)
    with pytest.raises(WireError, match=said):
        read_meta_graphs(file)


def test_a_single_field_that_is_there_twice_is_no_field() -> None:
    graph = MetaGraph(Message(field(1) + field(1)))
    with pytest.raises(WireError, match="field 1 is there 2 times"):
        _ = graph.tags


def read_all(data: bytes) -> None:
    graph = MetaGraph(Message(data))
    assert isinstance(graph.tags, tuple)
    assert isinstance(graph.op_types(), set)
    for name in graph.signature_names():
        graph.entry(name)


@given(st.integers(0, len(META_GRAPH) - 1))
def test_a_model_cut_short_is_an_error_or_smaller(size: int) -> None:
    with suppress(WireError, UnsupportedSignatureError):
        read_all(META_GRAPH[:size])


@given(st.lists(st.tuples(st.integers(0, len(META_GRAPH) - 1), st.integers(0, 255)), max_size=8))
def test_damaged_bytes_never_do_more_than_raise(damage: list[tuple[int, int]]) -> None:
    data = bytearray(META_GRAPH)
    for at, byte in damage:
        data[at] = byte
    with suppress(WireError, UnsupportedSignatureError):
        read_all(bytes(data))


@given(st.binary(max_size=300))
def test_any_bytes_never_do_more_than_raise(data: bytes) -> None:
    with suppress(WireError, UnsupportedSignatureError):
        read_all(data)


# --- what is written ---


@given(st.integers(1, 2**29 - 1), st.integers(-(2**63), 2**63 - 1))
def test_numbers_are_read_as_written(number: int, value: int) -> None:
    assert Message(encode_int(number, value)).number(number) == value


@given(st.integers(1, 2**29 - 1), st.text(max_size=300))
def test_texts_are_read_as_written(number: int, value: str) -> None:
    assert Message(text(number, value)).text(number) == value


def test_config_proto() -> None:
    # As `tf.compat.v1.ConfigProto(…).SerializeToString()` of TensorFlow 2.21.0 writes it.
    assert SessionOptions().encode().hex() == "3801"
    full = SessionOptions(0.5, True, "0,2", True, 3, 4, grappler=False)
    gpu = b"\x09" + struct.pack("<d", 0.5) + b"\x20\x01" + b"\x2a\x030,2"
    expected = (
        b"\x10\x03\x28\x04\x32" + bytes([len(gpu)]) + gpu + b"\x38\x01\x52\x05\x52\x03\x98\x01\x01"
    )
    assert full.encode() == expected
    assert SessionOptions(use_gpu=False).encode() == encode_entry(1, "GPU", 0) + b"\x38\x01"
    assert encode_double(1, 0.5) == b"\x09" + struct.pack("<d", 0.5)


def test_options_from_the_environment() -> None:
    assert SessionOptions.from_env({}) == SessionOptions()
    assert SessionOptions.from_env({"GPU_MEMORY_FRACTION": "", "GRAPPLER": ""}) == SessionOptions()
    env = {
        "GPU_MEMORY_FRACTION": "0.25",
        "GPU_DEVICES": "1, 0",
        "INTRA_OP_THREADS": "2",
        "INTER_OP_THREADS": "1",
        "GRAPPLER": "off",
    }
    assert SessionOptions.from_env(env) == SessionOptions(0.25, None, "1,0", True, 2, 1, False)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("GPU_MEMORY_FRACTION", "0"),
        ("GPU_MEMORY_FRACTION", "1.5"),
        ("GPU_MEMORY_FRACTION", "nan"),
        ("GPU_MEMORY_FRACTION", "half"),
        ("GPU_DEVICES", "0;1"),
        ("GPU_DEVICES", "²"),
        ("INTRA_OP_THREADS", "-1"),
        ("INTER_OP_THREADS", "many"),
        ("GRAPPLER", "no"),
    ],
)
def test_a_bad_option_is_named(key: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{key}='"):
        SessionOptions.from_env({key: value})
