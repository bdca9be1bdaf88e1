"""The HTTP interface. It knows requests and answers, and a backend only by its interface."""

from __future__ import annotations

import asyncio
import platform
import re
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from tfserve_app import tensors, tfserving
from tfserve_app.asgi import (
    ABORT,
    BodyTooLargeError,
    ClientGoneError,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    TooSlowError,
    send_response,
)
from tfserve_app.backend import Array, Signature
from tfserve_app.errors import BackendBusyError, InputRejectedError
from tfserve_app.memory import Memory, MemoryFullError
from tfserve_app.service import NotReadyError, OverloadedError, Service, StoppingError
from tfserve_app.tensors import RequestError

__all__ = ["App", "create_app"]

_JSON = "application/json"
_NPY = "application/x-npy"
_NPZ = "application/x-npz"
# curl -d sends a form's content type with whatever it is given.
_JSON_TYPES = ("", _JSON, "text/plain", "application/x-www-form-urlencoded")
_RETRY = {"retry-after": "1"}
_MODEL = r"/v1/models/(?P<model>[^/]+?)(?:/versions/(?P<version>[^/]+?))?"
_T = TypeVar("_T")

_Handler = Callable[..., Awaitable[Response]]


def create_app(service: Service) -> App:
    """Return the ASGI application that serves one model."""
    return App(service)


class App:
    """The application: finds what a request is for, answers it, and names every error.

    Args:
        service: The model that is served.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._memory = Memory(service.settings.held_limit)
        routes: list[tuple[str, str, _Handler]] = [
            ("GET", "/health", self._health),
            ("GET", "/ready", self._ready),
            ("POST", "/predict", self._predict),
            ("POST", f"{_MODEL}:predict", self._tensorflow_predict),
            ("GET", f"{_MODEL}/metadata", self._metadata),
            ("GET", _MODEL, self._status),
        ]
        self._routes = [(method, re.compile(path), handler) for method, path, handler in routes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        with self._memory.hold(scope.get("state", {}).get(ABORT, _nothing)) as hold:
            request = Request(scope, receive, hold)
            try:
                response = await self._answer(request)
                hold.answer(len(response.body))
            except ClientGoneError:
                return
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 (none goes unanswered)
                hold.drop()
                response = _error(error, self._service)
            await send_response(send, response, close=response.status == 408)

    async def _answer(self, request: Request) -> Response:
        path = request.path.rstrip("/") or "/"
        allowed = set()
        for method, pattern, handler in self._routes:
            match = pattern.fullmatch(path)
            if match and (request.method == method or (request.method, method) == ("HEAD", "GET")):
                return await handler(request, **match.groupdict())
            if match:
                allowed.add(method)
        if allowed:
            headers = {"allow": ", ".join(sorted(allowed))}
            return _json({"error": "Method Not Allowed"}, 405, headers)
        raise RequestError("Not Found", status=404)

    async def _health(self, _: Request) -> Response:
        """Alive: answered from the first moment, while the model still loads."""
        return _json(_health(self._service))

    async def _ready(self, _: Request) -> Response:
        """Ready: 200 once the model is loaded and warm, 503 before and while stopping."""
        if self._service.stopping:
            raise StoppingError
        return _json(_ready(self._service))

    async def _predict(self, request: Request) -> Response:
        """Predict from JSON, .npy or .npz; the answer is what Accept asks for."""
        service = self._service
        backend = service.backend  # before the body is read: 503 while loading
        kind = _content_kind(request)
        accept = request.headers.get("accept", "")
        name = request.query("signature")
        body = await self._body(request)

        def work() -> Response:
            asked, inputs = _plain_inputs(service, kind, body, name)
            return _plain_answer(backend.predict(asked, inputs), asked, accept, kind)

        return await self._run(request, work)

    async def _tensorflow_predict(
        self, request: Request, model: str, version: str | None
    ) -> Response:
        """Predict from rows or columns; the content type is not looked at, as in TF Serving."""
        service = self._service
        _check_model(service, model, version)
        backend = service.backend
        body = await self._body(request)

        def work() -> Response:
            parsed = tensors.load_json(body)
            asked, signature = _signature(service, parsed.get("signature_name"))
            with_inputs = _explained(lambda: tfserving.parse_inputs(parsed, signature), signature)
            outputs = backend.predict(asked, with_inputs.inputs)
            return _json(tfserving.render(outputs, rows=with_inputs.rows))

        return await self._run(request, work)

    async def _status(self, _: Request, model: str, version: str | None) -> Response:
        """Model status, as TensorFlow Serving gives it."""
        service = self._service
        _check_model(service, model, version)
        return _json(tfserving.status(service.version, available=service.ready))

    async def _metadata(self, _: Request, model: str, version: str | None) -> Response:
        """Signatures with types and shapes."""
        service = self._service
        _check_model(service, model, version)
        signatures = service.backend.signatures
        default = service.default_signature
        return _json(tfserving.metadata(model, service.version, signatures, default))

    async def _body(self, request: Request) -> bytearray:
        """Read the body, unless the queue is full already."""
        self._service.check_room()
        settings = self._service.settings
        return await request.body(settings.max_body_bytes, settings.read_seconds)

    async def _run(self, request: Request, work: Callable[[], Response]) -> Response:
        """Parse, predict and serialise in a prediction thread; the event loop stays free.

        Raises:
            ClientGoneError: The client went; what had not begun never does.
        """
        result = asyncio.ensure_future(self._service.run(work))
        gone = asyncio.ensure_future(request.gone())
        try:
            await asyncio.wait((result, gone), return_when=asyncio.FIRST_COMPLETED)
            if not result.done():
                raise ClientGoneError
            return result.result()
        finally:
            result.cancel()
            gone.cancel()


def _nothing() -> None:
    """End a connection that is not there: the application was called without a server."""


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
    service: Service, kind: str, body: bytearray, name: object
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


def _raw_inputs(
    kind: str, body: bytearray, signature: Signature, limit: int
) -> Mapping[str, Array]:
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
        return Response(tensors.write_npy(array, name), content_type=_NPY)
    return Response(tensors.write_npz(outputs), content_type=_NPZ)


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
    state = "stopping" if service.stopping else "ready" if service.ready else "loading"
    return {
        "status": "alive",
        "state": state,
        "model": service.settings.model_name,
        "backend": info.name if info else None,
        "tensorflow": info.tensorflow_version if info else _installed_tensorflow(),
        "gpus": list(info.gpus) if info else None,
        "python": platform.python_version(),
        "uptime_seconds": round(time.monotonic() - service.started, 3),
        **(info.details if info else {}),
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
    import importlib.metadata  # noqa: PLC0415 (asked for while loading, if ever)

    try:
        return importlib.metadata.version("tensorflow")
    except importlib.metadata.PackageNotFoundError:
        return None


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(tensors.dump_json(value), status, _JSON, headers or {})


def _error(error: BaseException, service: Service) -> Response:
    """Give every error TensorFlow Serving's form: a JSON object with the key `error`."""
    match error:
        case RequestError():
            body: dict[str, object] = {"error": str(error)}
            if error.signature is not None:
                body["expected"] = error.signature.as_dict()
            return _json(body, error.status)
        case InputRejectedError():
            return _json({"error": f"the model refused these inputs: {error}"}, 400)
        case TooSlowError():
            text = f"the body took longer than {service.settings.read_seconds} s (READ_SECONDS)"
            return _json({"error": text}, 408)
        case BodyTooLargeError():
            limit = service.settings.max_body_bytes
            text = f"the body is larger than {limit} bytes (MAX_BODY_BYTES)"
            return _json({"error": text}, 413)
        case _:
            return _unavailable(error)


def _unavailable(error: BaseException) -> Response:
    """Answer 503 where the client may try again, and 500 where the fault is in here."""
    match error:
        case NotReadyError():
            body = {"error": "the model is still loading", "state": "loading"}
            return _json(body, 503, _RETRY)
        case OverloadedError() | BackendBusyError() | MemoryFullError():
            return _json({"error": f"too busy, try again: {error}".rstrip(": ")}, 503, _RETRY)
        case StoppingError() | asyncio.CancelledError():  # cancelled after GRACE_SECONDS
            return _json({"error": "the service is stopping", "state": "stopping"}, 503, _RETRY)
        case _:
            traceback.print_exception(error, file=sys.stderr)
            return _json({"error": f"the prediction failed: {type(error).__name__}"}, 500)
