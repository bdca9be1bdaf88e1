"""What a client of the service sees: answers, errors and their status codes."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from client import Client
from fake_backend import FakeBackend
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfserve_app.api import create_app
from tfserve_app.errors import BackendBusyError, InputRejectedError
from tfserve_app.service import Service
from tfserve_app.settings import Settings

NPY = {"content-type": "application/x-npy"}
NPZ = {"content-type": "application/x-npz"}
TOY = "/v1/models/toy:predict"


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def claiming(shape: str) -> bytes:
    """Two floats in a .npy file whose header tells any shape."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 8


# --- state ---


def test_health_and_ready_before_and_after_the_model_is_there(backend: FakeBackend) -> None:
    service = Service(Settings(model_name="toy"))
    client = Client(create_app(service))
    health = client.get("/health")
    assert health.status_code == 200
    assert health.json()["state"] == "loading"
    assert health.json()["gpus"] is None
    for path in ("/ready", "/v1/models/toy/metadata"):
        answer = client.get(path)
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
    assert client.post("/predict", json={"inputs": [[1, 2]]}).status_code == 503
    assert client.post(TOY, json={"inputs": [[1, 2]]}).status_code == 503
    status = client.get("/v1/models/toy").json()["model_version_status"][0]
    assert status["state"] == "LOADING"

    service.load(lambda: backend)

    assert client.get("/health").json() | {"uptime_seconds": 0, "python": ""} == {
        "status": "alive",
        "state": "ready",
        "model": "toy",
        "backend": "fake",
        "tensorflow": "9.9",
        "gpus": ["GPU of paper"],
        "python": "",
        "uptime_seconds": 0,
    }
    ready = client.get("/ready")
    assert ready.status_code == 200
    assert ready.json()["load_seconds"] == 0.2
    assert ready.json()["warmup_seconds"] >= 0
    assert sorted(backend.calls) == sorted(backend.signatures), "each signature is warmed"
    assert client.get("/v1/models/toy").json()["model_version_status"][0]["state"] == "AVAILABLE"


def test_a_model_that_refuses_zeros_is_served_all_the_same(backend: FakeBackend) -> None:
    def refuse(signature: str) -> None:
        if signature == "two":
            raise InputRejectedError("not a JPEG")

    backend.on_predict = refuse
    service = Service(Settings())
    service.load(lambda: backend)
    ready = Client(create_app(service)).get("/ready")
    assert ready.status_code == 200
    assert ready.json()["warmup_failed"] == {"two": "InputRejectedError: not a JPEG"}


def test_metadata_in_both_forms(client: Client) -> None:
    answer = client.get("/v1/models/toy/metadata").json()
    assert answer["model_spec"] == {"name": "toy", "signature_name": "", "version": "7"}
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {
            "dim": [{"size": "-1", "name": ""}, {"size": "2", "name": ""}],
            "unknown_rank": False,
        },
        "name": "x",
    }
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert answer["default_signature"] == "serving_default"
    assert answer["signatures"]["two"]["inputs"] == {
        "a": {"dtype": "int32", "shape": [-1]},
        "b": {"dtype": "string", "shape": [-1]},
    }
    assert answer["signatures"]["total"]["inputs"]["x"]["shape"] is None


# --- /predict ---


def test_predict_json(client: Client) -> None:
    answer = client.post("/predict", json={"inputs": {"x": [[1, 2.5]]}})
    assert answer.status_code == 200
    assert answer.json() == {"signature": "serving_default", "outputs": {"y": [[2.0, 5.0]]}}
    assert client.post("/predict", json={"inputs": [[1, 2.5]]}).json() == answer.json()


def test_predict_takes_what_curl_sends(client: Client) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert client.post("/predict", content=b'{"inputs":[[1,2]]}', headers=form).status_code == 200


def test_predict_npy_in_npy_out(client: Client) -> None:
    x = np.array([[1, 2], [3, 4]], dtype=np.float32)
    for array in (x, np.asfortranarray(x), x.astype(">f4")):
        answer = client.post("/predict", content=npy(array), headers=NPY)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/x-npy"
        out = np.load(io.BytesIO(answer.content), allow_pickle=False)
        assert out.dtype == np.float32
        np.testing.assert_array_equal(out, x * 2)


def test_accept_decides_the_form_of_the_answer(client: Client) -> None:
    x = np.ones((1, 2), dtype=np.float32)
    json_answer = client.post(
        "/predict", content=npy(x), headers={**NPY, "accept": "application/json"}
    )
    assert json_answer.json()["outputs"] == {"y": [[2.0, 2.0]]}
    as_npz = client.post(
        "/predict", json={"inputs": x.tolist()}, headers={"accept": "application/x-npz"}
    )
    assert list(np.load(io.BytesIO(as_npz.content))) == ["y"]
    as_npy = client.post(
        "/predict", json={"inputs": x.tolist()}, headers={"accept": "application/x-npy"}
    )
    assert np.load(io.BytesIO(as_npy.content)).shape == (1, 2)


def test_predict_npz_with_several_inputs(client: Client) -> None:
    body = npz(a=np.array([1, 2], np.int32), b=np.array(["ä", "b"]))
    answer = client.post(
        "/predict?signature=two", content=body, headers={**NPZ, "accept": "application/json"}
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"] == {
        "doubled": [2, 4],
        "raw_bytes": [{"b64": "w6Q="}, {"b64": "Yg=="}],
    }


def test_strings_as_npy_and_complex_as_json_are_406(client: Client) -> None:
    body = npz(a=np.array([1], np.int32), b=np.array([b"x"]))
    strings = client.post("/predict?signature=two", content=body, headers=NPZ)
    assert strings.status_code == 406
    assert "application/json" in strings.json()["error"]
    complex_json = client.post("/predict", json={"inputs": [1], "signature": "spectrum"})
    assert complex_json.status_code == 406
    raw = client.post(
        "/predict?signature=spectrum", content=npy(np.ones(1, np.float32)), headers=NPY
    )
    assert np.load(io.BytesIO(raw.content)).tolist() == [1j]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b"[" * 1900, 400, "not JSON"),
        (b'{"inputs":' + b"[" * 100 + b"]" * 100 + b"}", 400, "more than 32 deep"),
        (b"[1]", 400, "must be a JSON object, not list"),
        (b"{}", 400, "'inputs' is missing"),
        (b'{"inputs":[[1,2]],"signature":"nope"}', 400, "unknown signature 'nope'; this model has"),
        (b'{"inputs":[[1,2]],"signature":3}', 400, "unknown signature 3"),
        (b'{"inputs":{"z":1}}', 400, "exactly the inputs: x float32[?,2]; got: 'z'"),
        (b'{"inputs":[[1,2,3]]}', 400, "expected float32[?,2], got shape [1, 3]"),
        (b'{"inputs":[[1,2],[3]]}', 400, "unequal lengths at nesting level 2"),
        (b'{"inputs":[[1,2],3]}', 400, "mixed at nesting level 2"),
        (b'{"inputs":[[1,"2"]]}', 400, "expected float32[?,2], got string '2'"),
        (b'{"inputs":[[1,true]]}', 400, "got boolean True"),
        (b'{"inputs":[[1,null]]}', 400, "got null"),
        (b'{"inputs":[[1,1e39]]}', 400, "out of range for float32"),
        (b'{"inputs":[[1,1' + b"0" * 400 + b"]]}", 400, "out of range for float32"),
        (b'{"inputs":[1],"signature":"two"}', 400, "an object with the inputs: a, b"),
        (b'{"inputs":{"a":[1.5],"b":["x"]},"signature":"two"}', 400, "expected int32[?], got num"),
        (b'{"inputs":{"a":[2147483648],"b":["x"]},"signature":"two"}', 400, "range for int32"),
        (b'{"inputs":{"a":[1],"b":[1]},"signature":"two"}', 400, 'text or {"b64"'),
        (b'{"inputs":{"a":[1],"b":[{"b64":"?"}]},"signature":"two"}', 400, "broken base64"),
        (b'{"inputs":[[1,' + b"9" * 1900 + b"]]}", 400, "out of range for float32"),
        (b'{"inputs":{"x":[[1,2]],"x":[[3,4]]}}', 400, "the key 'x' is there twice"),
        (b'{"inputs":"' + b"x" * 2000 + b'"}', 413, "larger than 2000 bytes (MAX_BODY_BYTES)"),
    ],
)
def test_bad_json_is_named(client: Client, body: bytes, status: int, said: str) -> None:
    answer = client.post("/predict", content=body)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["error"]


def test_an_error_about_tensors_carries_the_signature(client: Client) -> None:
    answer = client.post("/predict", json={"inputs": [1]})
    assert answer.json()["expected"] == {
        "inputs": {"x": {"dtype": "float32", "shape": [-1, 2]}},
        "outputs": {"y": {"dtype": "float32", "shape": [-1, 2]}},
    }


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not a .npy file"),
        (b"garbage", "not a .npy file"),
        (
            npy(np.ones((1, 2))),
            "got float64[1, 2]; convert it, for example",
        ),
        (npy(np.ones((2, 3), np.float32)), "expected float32[?,2], got shape [2, 3]"),
        (npy(np.ones((0, 2), np.float32)), "shape [0, 2] is empty; send at least one"),
        (npy(np.array([{"no": "pickles"}])), "no objects"),
        (npy(np.zeros(1, dtype=[("a", "f4")])), "no objects"),
        (npy(np.ones((1, 2), np.float32))[:-1], "is 8 bytes, but 7 bytes follow"),
        (claiming("(9, 2)"), "is 72 bytes, but 8"),
        (claiming("(-1, -2)"), "bytes follow"),
        (claiming(f"({'1,' * 99}2)"), "more than 32 dimensions"),
        (claiming("(2,"), "not a .npy file"),
    ],
)
def test_bad_npy_is_named(client: Client, body: bytes, said: str) -> None:
    answer = client.post("/predict", content=body, headers=NPY)
    assert answer.status_code == 400, answer.text
    assert said in answer.json()["error"]


def test_raw_tensor_errors(client: Client, backend: FakeBackend) -> None:
    x = npy(np.ones((1, 2), np.float32))
    many = client.post("/predict?signature=two", content=x, headers=NPY)
    assert "has 2 inputs; send application/x-npz" in many.json()["error"]
    unknown = client.post("/predict?signature=foo", content=x, headers=NPY)
    assert "unknown signature 'foo'" in unknown.json()["error"]
    no_zip = client.post("/predict", content=x, headers=NPZ)
    assert "not a .npz file" in no_zip.json()["error"]
    bomb = io.BytesIO()
    np.savez_compressed(bomb, x=np.zeros((4000, 2), np.float32))
    assert len(bomb.getvalue()) < 2000
    assert client.post("/predict", content=bomb.getvalue(), headers=NPZ).status_code == 413
    picture = client.post("/predict", content=x, headers={"content-type": "image/png"})
    assert picture.status_code == 415
    zipped = client.post("/predict", content=x, headers={**NPY, "content-encoding": "gzip"})
    assert zipped.status_code == 415
    assert backend.calls == [], "nothing malformed reaches the model"


def test_a_streamed_body_over_the_limit_is_413(client: Client) -> None:
    answer = client.post("/predict", content=(b"x" * 500 for _ in range(10)))
    assert answer.status_code == 413


# --- TensorFlow Serving's form ---


def test_rows_and_columns(client: Client) -> None:
    rows = client.post(TOY, json={"instances": [[1, 2], [3, 4]]})
    assert rows.json() == {"predictions": [[2.0, 4.0], [6.0, 8.0]]}
    columns = client.post(TOY, json={"inputs": [[1, 2], [3, 4]]})
    assert columns.json() == {"outputs": [[2.0, 4.0], [6.0, 8.0]]}
    named_rows = client.post(TOY, json={"instances": [{"x": [1, 2]}]})
    assert named_rows.json() == {"predictions": [[2.0, 4.0]]}
    assert client.post("/v1/models/toy/versions/7:predict", json={"inputs": [[1, 2]]}).is_success


def test_several_tensors_by_row_and_by_column(client: Client) -> None:
    rows = client.post(
        TOY,
        json={
            "signature_name": "two",
            "instances": [{"a": 1, "b": "x"}, {"a": 2, "b": {"b64": "/w=="}}],
        },
    )
    assert rows.json() == {
        "predictions": [
            {"doubled": 2, "raw_bytes": {"b64": "eA=="}},
            {"doubled": 4, "raw_bytes": {"b64": "/w=="}},
        ]
    }
    columns = client.post(
        TOY, json={"signature_name": "two", "inputs": {"a": [1, 2], "b": ["x", "y"]}}
    )
    assert columns.json()["outputs"]["doubled"] == [2, 4]


def test_floats_that_are_not_finite_travel_as_tokens(client: Client) -> None:
    answer = client.post(TOY, content=b'{"instances": [[NaN, -Infinity]]}')
    assert answer.text == '{"predictions":[[NaN,-Infinity]]}'


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        (TOY, {}, 400, "exactly one of 'instances' (rows) and 'inputs' (columns)"),
        (TOY, {"instances": [[1, 2]], "inputs": [[1, 2]]}, 400, "exactly one of"),
        (TOY, {"instances": []}, 400, "at least one instance"),
        (TOY, {"instances": 3}, 400, "at least one instance"),
        (TOY, {"instances": [{"x": [1, 2]}, [3, 4]]}, 400, "instance 1: objects and plain"),
        (TOY, {"instances": [{"x": [1, 2]}, {}]}, 400, "instance 1 must have exactly the inputs"),
        (TOY, {"signature_name": "two", "instances": [1]}, 400, "an object with the inputs: a, b"),
        (TOY, {"signature_name": "total", "instances": [1]}, 400, "send 'inputs' instead"),
        ("/v1/models/nope:predict", {}, 404, "unknown model 'nope'; this service has 'toy'"),
        ("/v1/models/toy/versions/8:predict", {}, 404, "unknown version '8'"),
        ("/v2/models", {}, 404, "Not Found"),
        ("/v1/models/toy:classify", {}, 405, "Method Not Allowed"),
    ],
)
def test_tensorflow_serving_errors(
    client: Client, path: str, body: object, status: int, said: str
) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["error"]


# --- the model's own failures ---


@pytest.mark.parametrize(
    ("error", "status"),
    [(InputRejectedError("in[0]"), 400), (BackendBusyError("OOM"), 503), (OSError("boom"), 500)],
)
def test_failures_of_the_backend(
    client: Client, backend: FakeBackend, error: Exception, status: int
) -> None:
    def fail(_: str) -> None:
        raise error

    backend.on_predict = fail
    answer = client.post("/predict", json={"inputs": [[1, 2]]})
    assert answer.status_code == status
    assert answer.json()["error"]
    backend.on_predict = lambda _: None
    assert client.post("/predict", json={"inputs": [[1, 2]]}).status_code == 200, "and goes on"


def test_beyond_the_queue_503_and_health_still_answers(backend: FakeBackend) -> None:
    async def scenario() -> None:
        service = Service(Settings(Path("/"), max_concurrency=1, max_queue=1))
        service.load(lambda: backend)
        started, go_on = threading.Event(), threading.Event()

        def wait(_: str) -> None:
            started.set()
            assert go_on.wait(10)

        backend.on_predict = wait
        transport = httpx.ASGITransport(create_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://toy") as client:
            body = {"inputs": [[1, 2]]}
            running = asyncio.create_task(client.post("/predict", json=body))
            await asyncio.to_thread(started.wait, 10)
            waiting = asyncio.create_task(client.post("/predict", json=body))
            while service._pending < 2:
                await asyncio.sleep(0.01)
            shed = await client.post("/predict", json=body)
            assert shed.status_code == 503
            assert shed.headers["retry-after"] == "1"
            assert (await client.get("/health")).status_code == 200
            go_on.set()
            assert (await running).status_code == 200
            assert (await waiting).status_code == 200
            assert (await client.post("/predict", json=body)).status_code == 200

    asyncio.run(scenario())


def test_a_request_whose_client_goes_while_it_waits_never_runs(backend: FakeBackend) -> None:
    async def scenario() -> None:
        service = Service(Settings(Path("/"), max_concurrency=1, max_queue=1))
        service.load(lambda: backend)
        backend.calls.clear()
        started, go_on = threading.Event(), threading.Event()

        def wait(_: str) -> None:
            started.set()
            assert go_on.wait(10)

        backend.on_predict = wait
        app = create_app(service)
        goes = asyncio.Event()
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/predict",
            "headers": [],
            "query_string": b"",
        }

        def ask(gone: asyncio.Event) -> tuple[asyncio.Task[None], list[Any]]:
            sent: list[Any] = []
            body = iter([{"type": "http.request", "body": b'{"inputs":[[1,2]]}'}])

            async def receive() -> Any:
                for message in body:
                    return message
                await gone.wait()
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                sent.append(message)

            return asyncio.create_task(app(scope, receive, send)), sent

        running, answer = ask(asyncio.Event())
        await asyncio.to_thread(started.wait, 10)
        waiting, nothing = ask(goes)
        while service._pending < 2:
            await asyncio.sleep(0.01)
        goes.set()
        await waiting
        assert nothing == []
        assert service._pending == 1, "its place is free again"
        again, answer_again = ask(asyncio.Event())
        await asyncio.sleep(0.05)
        go_on.set()
        await running
        await again
        assert answer[0]["status"] == answer_again[0]["status"] == 200
        assert backend.calls == ["serving_default"] * 2, "what was waiting never ran"

    asyncio.run(scenario())


def test_methods_and_paths(client: Client) -> None:
    assert client.get("/health/").status_code == 200
    head = client.request("HEAD", "/ready")
    assert (head.status_code, head.headers["content-type"]) == (200, "application/json")
    wrong = client.get("/predict")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert client.get("/v1/models/toy:predict").status_code == 404
    assert client.get("/v1/models/toy/versions/7/metadata").status_code == 200
    for path in ("/", "//", "/v1/models/", "/v1/models/a/b", "/health/x", "/%00"):
        assert client.get(path).status_code == 404, path


def test_a_stopping_service_is_not_ready(service: Service, client: Client) -> None:
    service.stopping = True
    assert client.get("/ready").status_code == 503
    assert client.get("/ready").json()["state"] == "stopping"
    assert client.get("/health").json()["state"] == "stopping"
    assert client.post("/predict", json={"inputs": [[1, 2]]}).status_code == 200


def test_warm_up_runs_every_size_of_batch(backend: FakeBackend) -> None:
    sizes: list[int] = []
    predict = backend.predict

    def note(signature: str, inputs: Any) -> Any:
        if signature == "serving_default":
            sizes.append(inputs["x"].shape[0])
        return predict(signature, inputs)

    backend.predict = note  # type: ignore[method-assign]
    service = Service(Settings(warmup_batches=(1, 8)))
    service.load(lambda: backend)
    assert sizes == [1, 8]
    assert service.warmup is not None
    assert service.warmup.failed == {}


# --- anything at all ---

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)
_request = st.fixed_dictionaries(
    {},
    optional={
        "inputs": _json,
        "instances": _json,
        "signature": _json,
        "signature_name": st.sampled_from(["two", "total", "spectrum"]) | _json,
    },
)
_fuzz = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@_fuzz
@given(value=_request)
def test_any_json_is_answered_without_a_500(client: Client, value: object) -> None:
    body = json.dumps(value).encode()
    for path in ("/predict", TOY):
        answer = client.post(path, content=body)
        assert answer.status_code < 500, (body, answer.text)
        json.loads(answer.content)


_token = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=30)
_headers = st.dictionaries(
    st.sampled_from(["content-type", "accept", "content-encoding", "x-any", "connection"]),
    st.sampled_from(["application/x-npy", "application/x-npz", "application/json", "gzip"])
    | _token,
)
_path = st.sampled_from(["/predict", "/health", "/ready", TOY, "/v1/models/toy", "/v1/models/"])


@_fuzz
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS"]),
    path=_path | st.builds("{}{}".format, _path, _token.map(lambda text: f"?signature={text}")),
    headers=_headers,
    body=st.binary(max_size=100) | st.just(b'{"inputs":[[1,2]]}'),
)
def test_any_request_is_answered_without_a_500(
    client: Client, method: str, path: str, headers: dict[str, str], body: bytes
) -> None:
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = client.request(method, path, headers=encoded, content=body)
    assert answer.status_code < 500, answer.text


@_fuzz
@given(at=st.integers(0, 400), noise=st.binary(max_size=8), kind=st.sampled_from([NPY, NPZ, {}]))
def test_any_damaged_body_is_answered_without_a_500(
    client: Client, at: int, noise: bytes, kind: dict[str, str]
) -> None:
    x = np.ones((1, 2), np.float32)
    whole = npz(x=x) if kind is NPZ else npy(x) if kind is NPY else b'{"inputs":[[1,2]]}'
    body = whole[:at] + noise + whole[at + len(noise) :]
    answer = client.post("/predict", content=body, headers=kind)
    assert answer.status_code < 500, (body, answer.text)
