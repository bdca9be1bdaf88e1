from __future__ import annotations

import io
from collections.abc import Callable

import httpx
import numpy as np
import pytest

from tfslim.bench.load import make_request, predict
from tfslim.errors import ServiceError

SIGNATURES = {
    "default_signature": "serving_default",
    "signatures": {"serving_default": {"inputs": {"x": {"dtype": "float32", "shape": [-1, 4]}}}},
}


def client(answer: Callable[[httpx.Request], httpx.Response]) -> httpx.Client:
    return httpx.Client(base_url="http://test", transport=httpx.MockTransport(answer))


def described(inputs: dict[str, object]) -> httpx.Client:
    body = {"default_signature": "s", "signatures": {"s": {"inputs": inputs}}}
    return client(lambda _: httpx.Response(200, json=body))


def test_one_input_becomes_npy_with_the_batch_first() -> None:
    http = described({"x": {"dtype": "float32", "shape": [-1, -1, 4]}})
    request = make_request(http, "m", 3)
    array = np.load(io.BytesIO(request.content))
    assert (array.shape, array.dtype.name) == ((3, 1, 4), "float32")
    assert request.content_type == "application/x-npy"


def test_the_same_request_is_made_every_time() -> None:
    http = described({"x": {"dtype": "float32", "shape": [-1, 8]}})
    assert make_request(http, "m", 2) == make_request(http, "m", 2)


def test_several_inputs_become_npz_with_their_types() -> None:
    http = described(
        {
            "text": {"dtype": "string", "shape": [-1]},
            "ids": {"dtype": "int64", "shape": [-1, 2]},
        }
    )
    arrays = np.load(io.BytesIO(make_request(http, "m", 2).content))
    assert {name: (a.dtype.kind, a.shape) for name, a in arrays.items()} == {
        "text": ("S", (2,)),
        "ids": ("i", (2, 2)),
    }


def test_an_input_of_unknown_rank_is_refused() -> None:
    with pytest.raises(ServiceError, match="no known rank"):
        make_request(described({"x": {"dtype": "float32", "shape": None}}), "m", 1)


def test_a_service_that_does_not_know_the_model_is_an_error() -> None:
    with pytest.raises(ServiceError, match="does not describe the model 'm'"):
        make_request(client(lambda _: httpx.Response(404)), "m", 1)


def test_a_failed_prediction_shows_what_the_service_said() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json=SIGNATURES)
        return httpx.Response(400, text="shape [1, 4] is wrong")

    http = client(answer)
    with pytest.raises(ServiceError, match=r"shape \[1, 4\] is wrong"):
        predict(http, make_request(http, "m", 1))


def test_a_service_that_is_gone_is_told() -> None:
    def gone(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    with pytest.raises(ServiceError, match="does not answer any more") as caught:
        make_request(client(gone), "m", 1)
    assert "ConnectError: connection refused" in caught.value.why
