"""A model's graph without the functions that nothing reaches, and what its loader has to run."""

from __future__ import annotations

import time

import pytest
from test_capi_wire import calls, entry, field, function, node, text

from tfserve_app import process
from tfserve_app.capi.lean import lean_graph
from tfserve_app.capi.metagraph import Loading, MetaGraph
from tfserve_app.capi.options import SessionOptions
from tfserve_app.capi.wire import Message, encode_bytes, encode_int

LONG = "__inference_" + "long_" * 40  # its size is two bytes


def names(data: bytes | bytearray | None) -> set[str]:
    """Return the names of a GraphDef's functions."""
    assert data is not None
    library = Message(bytes(data)).message(2)
    assert library is not None
    return {(one.message(1) or Message(b"")).text(1) for one in library.messages(1)}


def lean(nodes: list[bytes], *functions: bytes) -> bytearray | None:
    graph = [field(1, one) for one in nodes] + [field(2, *functions), field(4, encode_int(1, 999))]
    return lean_graph(Message(b"".join(graph)))


def called(name: str, *nodes: bytes, **more: bytes) -> bytes:
    return function(name, *nodes, **more)


def test_only_what_is_reached_stays_and_everything_else_of_the_graph_does() -> None:
    nodes = [node("PartitionedCall", calls("__inference_a")), node("Relu")]
    found = lean(
        nodes,
        called("__inference_a", node("__inference_b")),
        called("__inference_b", node("While", entry(5, "body", text(2, LONG)))),
        called(LONG),
        called("__inference_unreached", node("PartitionedCall", calls("__inference_too"))),
        called("__inference_too"),
    )
    assert names(found) == {"__inference_a", "__inference_b", LONG}
    assert found is not None
    fields = [(number, value) for number, value in Message(found).fields() if number != 2]
    assert fields == [(1, nodes[0]), (1, nodes[1]), (4, encode_int(1, 999))]


def test_what_is_reached_in_other_ways_stays() -> None:
    twin = entry(5, "api_implements", text(2, "lstm_1"))
    found = lean(
        [node("PartitionedCall", entry(5, "f", field(1, field(9, text(1, "__inference_list")))))],
        called("__inference_list"),
        called("__inference_twin", attributes=twin),
        called("__inference_gradient"),
        called("__inference_unreached"),
        field(2, text(1, "__inference_list"), text(2, "__inference_gradient")),  # GradientDef
    )
    assert names(found) == {"__inference_list", "__inference_twin", "__inference_gradient"}


def test_a_name_that_another_name_begins_with_is_not_reached_by_it() -> None:
    found = lean([node("__inference_ab")], called("__inference_ab"), called("__inference_a"))
    assert names(found) == {"__inference_ab"}


@pytest.mark.parametrize(
    ("nodes", "functions"),
    [
        ([node("Relu")], []),
        ([node("__inference_a")], [called("__inference_a")]),
        ([node("Relu")], [called("f")]),
        ([node("Relu")], [called(f"{number:08}_name") for number in range(100)]),
    ],
    ids=["no functions", "all are reached", "a name that is everywhere", "names of all kinds"],
)
def test_where_it_gains_nothing_or_takes_long_the_usual_loader_loads(
    nodes: list[bytes], functions: list[bytes]
) -> None:
    assert lean(nodes, *functions) is None


SAVER = encode_bytes(3, text(1, "saver_filename:0") + text(3, "restore"))
INIT = "__saved_model_init_op"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (b"", Loading("restore", "saver_filename:0", "")),
        (
            entry(5, INIT, entry(2, INIT, text(1, "NoOp"))) + entry(4, "saved_model_main_op"),
            Loading("restore", "saver_filename:0", "NoOp"),
        ),
        (entry(4, "legacy_init_op"), None),
        (entry(4, "saved_model_assets"), None),
        (field(6, text(2, "vocabulary.txt")), None),
        (entry(5, INIT, entry(2, "another", text(1, "NoOp"))), None),
    ],
    ids=["plain", "signature", "collection", "assets of old", "assets", "no such output"],
)
def test_what_a_loader_has_to_run(more: bytes, expected: Loading | None) -> None:
    assert MetaGraph(Message(SAVER + more)).loading() == expected


@pytest.mark.parametrize(
    ("op", "found"),
    [
        ("While", True),
        ("StatelessIf", True),
        ("Case", True),
        ("Merge", False),
        ("IfSomething", False),
    ],
)
def test_branches_and_loops_are_found_in_the_graph_and_in_functions(op: str, found: bool) -> None:
    for graph in (
        field(1, node("Relu")) + field(1, node(op)),
        field(1, node("Relu")) + field(2, field(1, called("__inference_a", node(op)))),
    ):
        assert MetaGraph(Message(field(2, graph))).branches_or_loops() is found


def test_ops_are_moved_into_branches_unless_there_are_none() -> None:
    assert SessionOptions().encode() == SessionOptions(sinking=True).encode()
    off = SessionOptions(sinking=False).encode()
    rewriting = Message(off).message(10)
    assert rewriting is not None
    options = rewriting.message(10)
    assert options is not None
    assert (options.number(32), options.number(19)) == (1, 0)


def test_work_that_has_begun_is_waited_for_where_its_result_is_needed() -> None:
    began = []

    def work() -> str:
        began.append(time.monotonic())
        time.sleep(0.05)
        return "done"

    end = process.begin(work)
    assert (end(), end(), len(began)) == ("done", "done", 1)


def test_what_work_raises_is_raised_where_it_is_waited_for() -> None:
    def work() -> None:
        raise OSError("no such file")

    with pytest.raises(OSError, match="no such file"):
        process.begin(work)()
