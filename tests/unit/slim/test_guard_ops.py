"""Models whose ops need what was removed, refused where they are loaded."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

SITE = Path(__file__).parents[3] / "ci" / "tfslim" / "slim" / "guard" / "site"
KNOWN = {
    "ops": {"fft": ["*FFT*", "XlaCallModule"], "xla": ["@xla", "XlaCallModule"]},
    "rules": {"fft": {"keep": "cufft"}, "xla": {"keep": "compiler"}},
}


@dataclass
class Value:
    """An attribute, as protobuf gives it."""

    b: bool = False
    func: Any = None
    functions: tuple[str, ...] = ()

    @property
    def list(self) -> Any:
        return SimpleNamespace(func=[SimpleNamespace(name=name) for name in self.functions])

    def WhichOneof(self, _: str) -> str:  # noqa: N802
        return "func" if self.func else "list" if self.functions else "b"


@dataclass
class Node:
    op: str
    attr: dict[str, Value] = field(default_factory=dict)


def calls(name: str) -> Node:
    return Node("StatefulPartitionedCall", {"f": Value(func=SimpleNamespace(name=name))})


def graph(*nodes: Node, functions: dict[str, list[Node]] | None = None, compiled: str = "") -> Any:
    library = [
        SimpleNamespace(
            signature=SimpleNamespace(name=name),
            node_def=body,
            attr={"_XlaMustCompile": Value(b=name == compiled)},
        )
        for name, body in (functions or {}).items()
    ]
    return SimpleNamespace(node=list(nodes), library=SimpleNamespace(function=library))


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """`check_model` as it is in a slim environment."""
    for name in ("_tfslim_guard.py", "_tfslim_ops.py", "_tfslim_wire.py"):
        shutil.copy(SITE / name, tmp_path)
    (tmp_path / "_tfslim.json").write_text(json.dumps(KNOWN))
    monkeypatch.syspath_prepend(tmp_path)
    import _tfslim_ops  # type: ignore  # noqa: PLC0415

    yield _tfslim_ops.check_model
    for name in ("_tfslim_guard", "_tfslim_ops", "_tfslim_wire"):
        del sys.modules[name]


def test_a_model_without_such_ops_passes(check: Callable[[Any], None]) -> None:
    check(graph(Node("Conv2D"), Node("Relu")))


def test_an_op_that_was_given_up_is_named_with_rule_and_way_out(
    check: Callable[[Any], None],
) -> None:
    with pytest.raises(RuntimeError) as caught:
        check(graph(Node("Conv2D"), Node("RFFT2D")))
    said = str(caught.value)
    assert "the op RFFT2D" in said
    assert "rule fft" in said
    assert "--keep cufft" in said
    assert "\n" not in said


def test_every_rule_that_is_in_the_way_is_named(check: Callable[[Any], None]) -> None:
    with pytest.raises(RuntimeError, match="--keep compiler --keep cufft"):
        check(graph(Node("XlaCallModule")))


def test_functions_count_where_they_are_called(check: Callable[[Any], None]) -> None:
    functions = {"outer": [calls("inner")], "inner": [Node("FFT")]}
    with pytest.raises(RuntimeError, match="the op FFT"):
        check(graph(calls("outer"), functions=functions))
    branches = Node("Case", {"branches": Value(functions=("other", "inner"))})
    with pytest.raises(RuntimeError, match="the op FFT"):
        check(graph(branches, functions=functions))


def test_functions_that_nothing_calls_do_not_count(check: Callable[[Any], None]) -> None:
    """A SavedModel also holds how it was trained."""
    check(graph(calls("serve"), functions={"serve": [Node("Conv2D")], "train": [Node("FFT")]}))


def test_compiled_functions_count_as_such(check: Callable[[Any], None]) -> None:
    functions = {"fast": [Node("Conv2D")]}
    with pytest.raises(RuntimeError, match="XLA compilation"):
        check(graph(calls("fast"), functions=functions, compiled="fast"))


def test_loaded_models_and_functions_are_looked_into(check: Callable[[Any], None]) -> None:
    concrete = SimpleNamespace(graph=SimpleNamespace(as_graph_def=lambda: graph(Node("FFT"))))
    with pytest.raises(RuntimeError, match="FFT"):
        check(concrete)
    with pytest.raises(RuntimeError, match="FFT"):
        check(SimpleNamespace(signatures={"serve": concrete}))


def test_anything_else_is_not_taken_for_a_model(check: Callable[[Any], None]) -> None:
    with pytest.raises(TypeError, match="not int"):
        check(7)


def message(number: int, *contents: bytes) -> bytes:
    """Encode strings and messages of a field, as protobuf does (all short)."""
    return b"".join(bytes([number << 3 | 2, len(one)]) + one for one in contents)


def attribute(name: bytes, value: bytes) -> bytes:
    return message(5, message(1, name) + message(2, value))


def saved(tmp_path: Path, graph_def: bytes, objects: bytes = b"") -> Path:
    meta = message(2, graph_def) + message(7, objects)
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01" + message(2, meta))
    return tmp_path


def test_a_saved_model_is_read_without_tensorflow(
    check: Callable[[Any], None], tmp_path: Path
) -> None:
    inner = message(1, message(1, b"inner")) + message(3, message(2, b"RFFT2D"))
    unused = message(1, message(1, b"train")) + message(3, message(2, b"XlaCallModule"))
    calling = message(2, b"PartitionedCall") + attribute(b"f", message(10, message(1, b"inner")))
    library = message(2, message(1, inner, unused))
    with pytest.raises(RuntimeError, match="the op RFFT2D"):
        check(saved(tmp_path, message(1, calling) + library))
    branches = attribute(b"branches", message(1, message(9, message(1, b"inner"))))
    with pytest.raises(RuntimeError, match="the op RFFT2D"):
        check(saved(tmp_path, message(1, message(2, b"Case") + branches) + library))
    check(saved(tmp_path, message(1, message(2, b"Relu")) + library))


def test_what_xla_compiles_is_found_in_a_file(check: Callable[[Any], None], tmp_path: Path) -> None:
    compiled = attribute(b"_XlaMustCompile", b"\x28\x01")
    with pytest.raises(RuntimeError, match="XLA compilation"):
        check(saved(tmp_path, message(1, message(2, b"Relu") + compiled)))
    check(
        saved(tmp_path, message(1, message(2, b"Relu") + attribute(b"_XlaMustCompile", b"\x28\0")))
    )


@pytest.mark.parametrize("data", [b"\x12\x7f", b"\x12", b"\x0f", b"\xff" * 12])
def test_a_damaged_file_is_an_error_of_the_file(
    check: Callable[[Any], None], tmp_path: Path, data: bytes
) -> None:
    (tmp_path / "saved_model.pb").write_bytes(data)
    with pytest.raises(OSError, match="cannot be read"):
        check(tmp_path)
    (tmp_path / "saved_model.pb").unlink()
    with pytest.raises(OSError, match=r"has no saved_model\.pb"):
        check(tmp_path)
