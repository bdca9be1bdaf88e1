"""The HTTP interface. It knows requests and answers, and a backend only by its interface."""

from __future__ import annotations

import asyncio
import importlib.metadata
import platform
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tfserve_app import tensors, tfserving
from tfserve_app.backend import Array, Signature
from tfserve_app.errors import BackendBusyError, InputRejectedError
from tfserve_app.service import NotReadyError, OverloadedError, Service
from tfserve_app.tensors import RequestError

__all__ = ["create_app"]

_JSON = "application/json"
_NPY = "application/x-npy"
_NPZ = "application/x-npz"
# curl -d sends a form's content type with whatever it is given.
_JSON_TYPES = ("", _JSON, "text/plain", "application/x-www-form-urlencoded")
_RETRY = {"Retry-After": "1"}
_T = TypeVar("_T")


class BodyTooLargeError(Exception):
    """The request is larger than MAX_BODY_BYTES."""


def create_app(service: Service) -> FastAPI:
    """Return the application that serves one model."""
    app = FastAPI(title="tfserve", docs_url=None, redoc_url=None)
    _add_error_handlers(app, service)
    _add_state_routes(app, service)
    _add_predict_route(app, service)
    _add_tensorflow_serving_routes(app, service)
    return app


def _add_state_routes(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> Response:
        """Alive: answered from the first moment, while the model still loads."""
        return _json(_health(service))

    @app.get("/ready")
    async def ready() -> Response:
        """Ready: 200 once the model is loaded and warm, 503 before."""
        if not service.ready:
            raise NotReadyError
        return _json(_ready(service))


def _add_predict_route(app: FastAPI, service: Service) -> None:
    @app.post("/predict")
    async def predict(request: Request) -> Response:
        """Predict from JSON, .npy or .npz; the answer is what Accept asks for."""
        backend = service.backend  # before the body is read: 503 while loading
        kind = _content_kind(request)
        accept = request.headers.get("accept", "")
        name = request.query_params.get("signature")
        body = await _read_body(request, service.settings.max_body_bytes)

        def work() -> Response:
            asked, inputs = _plain_inputs(service, kind, body, name)
            return _plain_answer(backend.predict(asked, inputs), asked, accept, kind)

        return await _in_thread(service, work)


def _add_tensorflow_serving_routes(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models/{model}")
    @app.get("/v1/models/{model}/versions/{version}")
    async def status(model: str, version: str | None = None) -> Response:
        """Model status, as TensorFlow Serving gives it."""
        _check_model(service, model, version)
        return _json(tfserving.status(service.version, available=service.ready))

    @app.get("/v1/models/{model}/metadata")
    @app.get("/v1/models/{model}/versions/{version}/metadata")
    async def metadata(model: str, version: str | None = None) -> Response:
        """Signatures with types and shapes."""
        _check_model(service, model, version)
        signatures = service.backend.signatures
        default = service.default_signature
        return _json(tfserving.metadata(model, service.version, signatures, default))

    @app.post("/v1/models/{model}:predict")
    @app.post("/v1/models/{model}/versions/{version}:predict")
    async def predict(request: Request, model: str, version: str | None = None) -> Response:
        """Predict from rows or columns; the content type is not looked at, as in TF Serving."""
        _check_model(service, model, version)
        backend = service.backend
        body = await _read_body(request, service.settings.max_body_bytes)

        def work() -> Response:
            parsed = tensors.load_json(body)
            asked, signature = _signature(service, parsed.get("signature_name"))
            with_inputs = _explained(lambda: tfserving.parse_inputs(parsed, signature), signature)
            outputs = backend.predict(asked, with_inputs.inputs)
            return _json(tfserving.render(outputs, rows=with_inputs.rows))

        return await _in_thread(service, work)


async def _in_thread(service: Service, work: Callable[[], Response]) -> Response:
    """Parse, predict and serialise in a prediction thread; the event loop stays free."""
    return await asyncio.wrap_future(service.submit(work))


async def _read_body(request: Request, limit: int) -> bytes:
    """Read the request's body, never keeping more than `limit` bytes of it.

    What a client still sends after an early answer is read and dropped by Uvicorn, so that the
    client gets to see the answer.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RequestError("compressed request bodies are not supported", status=415)
    if int(request.headers.get("content-length", "0")) > limit:
        raise BodyTooLargeError
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise BodyTooLargeError
        chunks.append(chunk)
    return b"".join(chunks)


def _content_kind(request: Request) -> str:
    """Return the kind of body: JSON, npy or npz."""
    content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if content_type in (_NPY, _NPZ):
        return content_type
    if content_type in _JSON_TYPES:
        return _JSON
    raise RequestError(
        f"content type {content_type!r} is not supported; send {_JSON}, {_NPY} or {_NPZ}",
        status=415,
    )


def _plain_inputs(
    service: Service, kind: str, body: bytes, name: object
) -> tuple[str, Mapping[str, Array]]:
    """Read the tensors of a /predict request and the signature they are for."""
    if kind == _JSON:
        parsed = tensors.load_json(body)
        asked, signature = _signature(service, parsed.get("signature", name))
        if "inputs" not in parsed:
            raise RequestError("the key 'inputs' is missing", signature=signature)
        return asked, _explained(
            lambda: tfserving.column_inputs(parsed["inputs"], signature), signature
        )
    asked, signature = _signature(service, name)
    limit = service.settings.max_body_bytes
    return asked, _explained(lambda: _raw_inputs(kind, body, signature, limit), signature)


def _raw_inputs(kind: str, body: bytes, signature: Signature, limit: int) -> Mapping[str, Array]:
    """Read one .npy tensor for the only input, or the named tensors of a .npz."""
    if kind == _NPZ:
        arrays = tensors.read_npz(body, limit)
    elif len(signature.inputs) == 1:
        arrays = {next(iter(signature.inputs)): tensors.read_npy(body)}
    else:
        raise RequestError(f"this signature has {len(signature.inputs)} inputs; send {_NPZ}")
    tfserving.check_names(arrays, signature, "the body")
    return {
        name: tensors.tensor_from_array(arrays[name], spec, name)
        for name, spec in signature.inputs.items()
    }


def _plain_answer(outputs: Mapping[str, Array], signature: str, accept: str, kind: str) -> Response:
    """Return the outputs of /predict as Accept asks; without a wish, as the request came."""
    if _JSON in accept or (kind == _JSON and _NPY not in accept and _NPZ not in accept):
        values = {name: tensors.json_value(array, name) for name, array in outputs.items()}
        return _json({"signature": signature, "outputs": values})
    if len(outputs) == 1 and _NPZ not in accept:
        ((name, array),) = outputs.items()
        return Response(tensors.write_npy(array, name), media_type=_NPY)
    return Response(tensors.write_npz(outputs), media_type=_NPZ)


def _signature(service: Service, name: object) -> tuple[str, Signature]:
    return tensors.pick_signature(service.backend.signatures, name, service.default_signature)


def _explained(read: Callable[[], _T], signature: Signature) -> _T:
    """Add the whole signature to an error about a request's tensors."""
    try:
        return read()
    except RequestError as error:
        raise RequestError(str(error), status=error.status, signature=signature) from None


def _check_model(service: Service, model: str, version: str | None) -> None:
    known = service.settings.model_name
    if model != known:
        raise RequestError(f"unknown model {model!r}; this service has {known!r}", status=404)
    if version not in (None, service.version):
        message = f"unknown version {version!r} of {known!r}; this service has {service.version}"
        raise RequestError(message, status=404)


def _health(service: Service) -> dict[str, object]:
    info = service.loaded.info if service.loaded else None
    return {
        "status": "alive",
        "state": "ready" if service.ready else "loading",
        "model": service.settings.model_name,
        "backend": info.name if info else None,
        "tensorflow": info.tensorflow_version if info else _installed_tensorflow(),
        "gpus": list(info.gpus) if info else None,
        "python": platform.python_version(),
        "uptime_seconds": round(time.monotonic() - service.started, 3),
    }


def _ready(service: Service) -> dict[str, object]:
    timings = service.backend.timings
    warmup = service.warmup
    return {
        "status": "ready",
        "import_seconds": timings.get("import_s"),
        "load_seconds": timings.get("load_s"),
        "warmup_seconds": warmup.seconds if warmup else None,
        "warmup_failed": warmup.failed if warmup else {},
    }


def _installed_tensorflow() -> str | None:
    """Return TensorFlow's version without importing it; None where its metadata is missing."""
    try:
        return importlib.metadata.version("tensorflow")
    except importlib.metadata.PackageNotFoundError:
        return None


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(tensors.dump_json(value), status, headers, _JSON)


def _add_error_handlers(app: FastAPI, service: Service) -> None:
    """Give every error TensorFlow Serving's form: a JSON object with the key `error`."""

    @app.exception_handler(RequestError)
    async def bad_request(_: Request, error: RequestError) -> Response:
        body: dict[str, object] = {"error": str(error)}
        if error.signature is not None:
            body["expected"] = error.signature.as_dict()
        return _json(body, error.status)

    @app.exception_handler(InputRejectedError)
    async def rejected(_: Request, error: InputRejectedError) -> Response:
        return _json({"error": f"the model refused these inputs: {error}"}, 400)

    @app.exception_handler(BodyTooLargeError)
    async def too_large(_: Request, __: BodyTooLargeError) -> Response:
        limit = service.settings.max_body_bytes
        text = f"the body is larger than {limit} bytes (MAX_BODY_BYTES)"
        return _json({"error": text}, 413)

    @app.exception_handler(NotReadyError)
    async def not_ready(_: Request, __: NotReadyError) -> Response:
        body = {"error": "the model is still loading", "state": "loading"}
        return _json(body, 503, _RETRY)

    @app.exception_handler(OverloadedError)
    @app.exception_handler(BackendBusyError)
    async def busy(_: Request, error: Exception) -> Response:
        return _json({"error": f"too busy, try again: {error}".rstrip(": ")}, 503, _RETRY)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=400)  # nobody is there to read it

    @app.exception_handler(HTTPException)
    async def not_found(_: Request, error: HTTPException) -> Response:
        return _json({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        # Uvicorn logs the traceback.
        return _json({"error": f"the prediction failed: {type(error).__name__}"}, 500)
