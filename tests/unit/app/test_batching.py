"""Joined calls: each request gets its own rows, and a bad one harms no other."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from client import Client
from fake_backend import FakeBackend
from hypothesis import given, settings
from hypothesis import strategies as st

from tfserve_app.api import create_app
from tfserve_app.backend import Array
from tfserve_app.batching import JoiningBackend, joinable
from tfserve_app.errors import InputRejectedError
from tfserve_app.service import Service
from tfserve_app.settings import Settings


class CountingBackend(FakeBackend):
    """Remembers the rows of each call; refuses a call with a negative number in it."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def predict(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        first = next(iter(inputs.values()))
        self.rows.append(first.shape[0] if first.ndim else 0)
        if first.dtype.kind == "f" and (np.asarray(first, np.float32) < 0).any():
            raise InputRejectedError("negative")
        return super().predict(signature, inputs)


def ask_all(
    backend: JoiningBackend, signature: str, requests: list[dict[str, Array]]
) -> list[dict[str, Array] | Exception]:
    """Ask from as many threads at once; return answers or errors in order."""
    together = threading.Barrier(len(requests))

    def ask(inputs: dict[str, Array]) -> dict[str, Array] | Exception:
        together.wait()
        try:
            return backend.predict(signature, inputs)
        except InputRejectedError as error:
            return error

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(ask, requests))


def rows(*values: float) -> dict[str, Array]:
    return {"x": np.asarray([[value, value] for value in values], np.float32)}


def test_what_can_be_joined() -> None:
    found = {name for name, entry in FakeBackend.signatures.items() if joinable(entry)}
    assert found == {"serving_default", "two", "spectrum"}, "total has no rows"


def test_waiting_requests_share_a_call_and_get_their_own_rows() -> None:
    counting = CountingBackend()
    backend = JoiningBackend(counting, max_rows=8, wait_seconds=0.5, calls=1)
    answers = ask_all(backend, "serving_default", [rows(1), rows(2, 3), rows(4), rows(5, 6, 7, 8)])
    assert counting.rows == [8], "one call, without the wait: it was full"
    got = [answer["y"][:, 0].tolist() for answer in answers if isinstance(answer, dict)]
    assert got == [[2], [4, 6], [8], [10, 12, 14, 16]]


def test_strings_and_several_tensors_are_joined() -> None:
    counting = CountingBackend()
    backend = JoiningBackend(counting, max_rows=4, wait_seconds=0.5, calls=1)
    requests: list[dict[str, Array]] = [
        {"a": np.asarray([n, n], np.int32), "b": np.asarray([b"%d" % n, b""], object)}
        for n in (1, 2)
    ]
    answers = ask_all(backend, "two", requests)
    assert counting.rows == [4]
    for n, answer in zip((1, 2), answers, strict=True):
        assert isinstance(answer, dict)
        assert answer["doubled"].tolist() == [2 * n, 2 * n]
        assert answer["raw_bytes"].tolist() == [b"%d" % n, b""]


def test_a_refused_request_harms_no_other() -> None:
    counting = CountingBackend()
    backend = JoiningBackend(counting, max_rows=3, wait_seconds=0.5, calls=2)
    answers = ask_all(backend, "serving_default", [rows(1), rows(-1), rows(2)])
    assert sorted(counting.rows) == [1, 1, 1, 3], "each is repeated alone"
    assert isinstance(answers[0], dict)
    assert isinstance(answers[2], dict)
    assert (answers[0]["y"][0, 0], answers[2]["y"][0, 0]) == (2, 4)
    assert isinstance(answers[1], InputRejectedError)


def test_outputs_without_the_rows_of_the_call_are_not_split() -> None:
    class Odd(CountingBackend):
        def predict(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
            return {"y": super().predict(signature, inputs)["y"][:1]}

    backend = JoiningBackend(Odd(), max_rows=2, wait_seconds=0.5, calls=1)
    answers = ask_all(backend, "serving_default", [rows(1), rows(2)])
    assert [a["y"].tolist() for a in answers if isinstance(a, dict)] == [[[2, 2]], [[4, 4]]]


def test_what_does_not_fit_together_goes_alone() -> None:
    counting = CountingBackend()
    backend = JoiningBackend(counting, max_rows=2, wait_seconds=0.05, calls=1)
    for inputs, signature in (
        (rows(1, 2, 3), "serving_default"),  # as many rows as a call may have
        (rows(), "serving_default"),
        ({"x": np.asarray(5, np.float32)}, "total"),
        ({"a": np.asarray([1, 2], np.int32), "b": np.asarray([b""], object)}, "two"),
    ):
        counting.rows.clear()
        with contextlib.suppress(ValueError):
            backend.predict(signature, inputs)
        assert len(counting.rows) == 1


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=8), limit=st.integers(2, 9))
def test_any_mix_of_sizes_is_answered_rightly(sizes: list[int], limit: int) -> None:
    counting = CountingBackend()
    backend = JoiningBackend(counting, max_rows=limit, wait_seconds=0.002, calls=2)
    requests = [rows(*range(10 * n, 10 * n + size)) for n, size in enumerate(sizes)]
    answers = ask_all(backend, "serving_default", requests)
    for inputs, answer in zip(requests, answers, strict=True):
        assert isinstance(answer, dict)
        np.testing.assert_array_equal(answer["y"], inputs["x"] * 2)
    assert max(counting.rows) <= max(limit, *sizes)


@pytest.mark.parametrize(("max_batch", "name"), [(0, "FakeBackend"), (4, "JoiningBackend")])
def test_joining_is_off_unless_asked_for(max_batch: int, name: str) -> None:
    service = Service(Settings(Path("/"), max_batch=max_batch))
    service.load(FakeBackend)
    assert type(service.backend).__name__ == name
    with Client(create_app(service)) as client:
        assert client.post("/predict", json={"inputs": [[1, 2]]}).json()["outputs"] == {
            "y": [[2.0, 4.0]]
        }
        assert client.get("/health").json()["backend"] == "fake"
