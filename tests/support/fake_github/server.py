"""The servers: one speaks GitHub's REST API, one gives out what it redirects to."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from fake_github.description import Asked, Description
from fake_github.routes import (
    ROUTES,
    Answer,
    Call,
    Refusal,
    account,
    fork,
    permitted,
    run_json,
    simple_pull,
)
from fake_github.state import Fault, State, Token

__all__ = ["FakeGitHub", "Request"]

JSON: Final = "application/json"
_MESSAGES: Final = {
    401: "Bad credentials",
    403: "Resource not accessible by integration",
    404: "Not Found",
    422: "Validation Failed",
    429: "You have exceeded a secondary rate limit.",
    502: "Server Error",
}
_LOGGED: Final = ("accept", "user-agent", "x-github-api-version", "content-type")


@lru_cache
def description() -> Description:
    """Return GitHub's description, read once."""
    return Description()


@dataclass(frozen=True)
class Request:
    """A request as it was logged; never the token itself.

    Attributes:
        server: "api", "blob" or "graphql".
        token: Whose token it was; "" where there was none, "unknown:HASH" where nobody's.
        status: Of the answer; 0 where the connection was closed.
    """

    server: str
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    token: str
    body: str
    status: int


class FakeGitHub:
    """GitHub's REST API on loopback, with a memory.

    Attributes:
        state: What it remembers; change it at will between requests.
        requests: All that was asked, in order.
        violations: What GitHub's description does not allow, of requests and of our own answers.
        save_to: A file that the state and the log are written to after every request.
    """

    def __init__(
        self,
        state: State | None = None,
        *,
        port: int = 0,
        prefix: str = "",
        save_to: Path | None = None,
    ) -> None:
        self.state = state or State()
        self.requests: list[Request] = []
        self.violations: list[str] = []
        self.lock = threading.RLock()
        self.prefix = prefix
        self.save_to = save_to
        self._api = _server(_Api, self, port)
        self._blob = _server(_Blob, self, 0)

    def __enter__(self) -> FakeGitHub:
        for server in (self._api, self._blob):
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        for server in (self._api, self._blob):
            server.shutdown()
            server.server_close()

    @property
    def url(self) -> str:
        """What GITHUB_API_URL is set to."""
        return f"http://127.0.0.1:{self._api.server_address[1]}{self.prefix}"

    @property
    def blob_url(self) -> str:
        """Where artifacts are downloaded from: another host, as far as tokens go."""
        return f"http://127.0.0.1:{self._blob.server_address[1]}"

    def asked(self, method: str = "", path: str = "") -> list[Request]:
        """Return the logged requests of a method whose path matches a regular expression."""
        return [
            item
            for item in self.requests
            if method in ("", item.method) and re.search(path, item.path)
        ]

    # ── events, as GitHub would send them ────────────────────────────────────────────────────

    def workflow_run_event(self, full_name: str, run_id: int) -> dict[str, Any]:
        """Return the payload of `workflow_run`, `completed`."""
        call = self._call(full_name)
        run = call.here.run(run_id)
        assert run is not None, run_id
        return {
            "action": "completed",
            "workflow_run": run_json(call, run),
            "workflow": {"id": run.workflow_id, "name": "images", "path": run.path},
            "repository": fork(call, full_name, "full-repository"),
            "sender": account(call, full_name.partition("/")[0]),
        }

    def pull_request_event(
        self, full_name: str, number: int, action: str = "synchronize"
    ) -> dict[str, Any]:
        """Return the payload of `pull_request`."""
        call = self._call(full_name)
        pull = call.here.pull(number)
        assert pull is not None, number
        return {
            "action": action,
            "number": number,
            "pull_request": simple_pull(call, pull, "pull-request"),
            "repository": fork(call, full_name, "full-repository"),
            "sender": account(call, pull.head_repository.partition("/")[0]),
        }

    def _call(self, full_name: str) -> Call:
        owner, _, name = full_name.partition("/")
        values = {"owner": owner, "repo": name}
        return Call(self.state, description(), self.url, values, {}, None, Token("", ""))

    # ── what handlers use ────────────────────────────────────────────────────────────────────

    def log(self, request: Request) -> None:
        """Remember a request, and write everything down where a file is named."""
        self.requests.append(request)
        if self.save_to is not None:
            self.state.save(self.save_to)
            told = {"requests": [asdict(r) for r in self.requests], "violations": self.violations}
            aside = self.save_to.with_suffix(".log.new")
            aside.write_text(json.dumps(told, indent=1) + "\n")
            aside.replace(self.save_to.with_suffix(".log.json"))

    def violation(self, text: str) -> None:
        """Remember what the description does not allow."""
        if text:
            self.violations.append(text)


def _server(handler: type[_Handler], fake: FakeGitHub, port: int) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", port), type("Bound", (handler,), {"fake": fake}))
    server.daemon_threads = True
    return server


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    fake: FakeGitHub
    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing; there is a log."""

    def do_GET(self) -> None:
        """Answer."""
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        with self.fake.lock:
            try:
                self.handle_one(body)
            except Exception as error:
                # A defect of the fake is not a passing test.
                self.fake.violation(f"the fake broke: {error!r}")
                raise

    do_POST = do_PATCH = do_DELETE = do_PUT = do_GET  # noqa: N815

    def handle_one(self, body: bytes) -> None:
        """Answer one request."""
        raise NotImplementedError

    @property
    def sent_token(self) -> str:
        """The token that came along."""
        return self.headers.get("authorization", "").partition(" ")[2].strip()

    def token_name(self) -> str:
        """Return whose token it is."""
        sent = self.sent_token
        if not sent:
            return ""
        known = self.fake.state.tokens.get(sent)
        return known.login if known else f"unknown:{hashlib.sha256(sent.encode()).hexdigest()[:8]}"

    def send(self, status: int, body: bytes, kind: str, headers: dict[str, str]) -> None:
        """Send an answer."""
        self.send_response(status)
        if body or status not in (204, 302):
            self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def logged(self, server: str, body: bytes, status: int) -> None:
        """Put a request into the log."""
        parts = urlsplit(self.path)
        headers = {name: self.headers[name] for name in _LOGGED if name in self.headers}
        self.fake.log(
            Request(
                server,
                self.command,
                parts.path,
                dict(parse_qsl(parts.query, keep_blank_values=True)),
                headers,
                self.token_name(),
                body.decode("utf-8", "replace")[:200_000],
                status,
            )
        )

    def fault(self, path: str) -> Fault | None:
        """Return what is to go wrong with this request."""
        for item in self.fake.state.faults:
            if item.times > 0 and item.method in ("", self.command) and re.search(item.path, path):
                item.times -= 1
                return item
        return None


class _Api(_Handler):
    def handle_one(self, body: bytes) -> None:
        parts = urlsplit(self.path)
        if parts.path.startswith("/_fake/"):
            self._control(parts.path, dict(parse_qsl(parts.query)), body)
            return
        fault = self.fault(parts.path)
        if fault is not None and not fault.after:
            status, data, headers = fault.status, fault.body, fault.headers
            if data is None:
                data = {"message": _MESSAGES.get(status, "Server Error")}
            if isinstance(data, dict):
                data = {"documentation_url": "https://docs.github.com/rest", **data}
        elif parts.path == self._graphql_path():
            status, data, headers = self._graphql(body)
        else:
            status, data, headers = self._answer(parts.path, parts.query, body)
            if fault is not None:  # done, and its answer is lost
                status, data, headers = fault.status, {"message": "Server Error"}, fault.headers
        server = "graphql" if parts.path == self._graphql_path() else "api"
        self.logged(server, body, status)
        if status == 0:
            self.close_connection = True
            self.connection.close()
            return
        text = b"" if data is None else json.dumps(data).encode()
        self.send(status, text, f"{JSON}; charset=utf-8", {**self._rate(), **headers})

    def _graphql_path(self) -> str:
        return "/api/graphql" if self.fake.prefix else "/graphql"

    def _graphql(self, body: bytes) -> tuple[int, Any, dict[str, str]]:
        """Answer who is asking; the one question of GraphQL, which the description leaves out."""
        token = self.fake.state.tokens.get(self.sent_token)
        if token is None:
            return 401, {"message": "Bad credentials"}, {}
        if "viewer" not in json.loads(body).get("query", ""):
            return 200, {"errors": [{"message": "only viewer is known here"}]}, {}
        return 200, {"data": {"viewer": {"login": token.login}}}, {}

    def _rate(self) -> dict[str, str]:
        state = self.fake.state
        return {
            "x-ratelimit-limit": "5000",
            "x-ratelimit-remaining": str(max(0, state.remaining)),
            "x-ratelimit-reset": str(state.reset or int(time.time()) + 3600),
            "x-github-request-id": "FAKE:1",
        }

    def _answer(self, path: str, query: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        """Do what is asked; requests and answers are held against the description."""
        inside = path.removeprefix(self.fake.prefix)
        pairs = tuple(parse_qsl(query, keep_blank_values=True))
        kind = self.headers.get("content-type", "")
        asked = Asked(self.command, inside, pairs, body, kind)
        operation = description().operation(self.command, inside)
        if operation is None or not path.startswith(self.fake.prefix):
            self.fake.violation(f"{self.command} {path} is not in the description")
            return 404, {"message": "Not Found"}, {}
        problem = description().problem_of_request(asked, operation)
        if problem:
            self.fake.violation(problem)
            return 422, {"message": "Validation Failed", "errors": [problem]}, {}
        act, needed = ROUTES[self.command, operation.template]
        try:
            token = self._allowed(needed)
            data = json.loads(body) if body else None
            call = Call(
                self.fake.state, description(), self.fake.url, operation.values, dict(pairs),
                data, token,
            )  # fmt: skip
            answer = act(call)
        except Refusal as refusal:
            said = {"x-accepted-github-permissions": needed} if refusal.status == 403 else {}
            self._check(asked, refusal.status, refusal.data)
            return refusal.status, refusal.data, said
        data, headers = self._paged(answer, dict(pairs), inside)
        self._check(asked, answer.status, data)
        return answer.status, data, headers

    def _check(self, asked: Asked, status: int, data: Any) -> None:
        text = b"" if data is None else json.dumps(data).encode()
        self.fake.violation(description().problem_of_answer(asked, status, text, JSON))

    def _allowed(self, needed: str) -> Token | None:
        """Return the sender's token, or refuse as GitHub does."""
        state, sent = self.fake.state, self.sent_token
        if not self.headers.get("user-agent"):
            raise Refusal(403, "Request forbidden by administrative rules.")
        state.remaining -= 1
        if state.remaining < 0:
            raise Refusal(403, "API rate limit exceeded for installation.")
        if not sent:
            if "write" in needed:
                raise Refusal(401, "Requires authentication")
            return None
        token = state.tokens.get(sent)
        if token is None:
            raise Refusal(401, "Bad credentials")
        if not permitted(token, needed):
            raise Refusal(403, "Resource not accessible by integration")
        return token

    def _paged(
        self, answer: Answer, query: dict[str, str], path: str
    ) -> tuple[Any, dict[str, str]]:
        if answer.location:
            return None, {"location": self.fake.blob_url + answer.location}
        if answer.whole is None:
            return answer.data, {}
        size = min(100, int(query.get("per_page", "30")))
        page = int(query.get("page", "1"))
        found = list(answer.whole[(page - 1) * size : page * size])
        data = {"total_count": len(answer.whole), answer.key: found} if answer.key else found
        if page * size >= len(answer.whole):
            return data, {}
        following = urlencode({**query, "page": page + 1})
        return data, {"link": f'<{self.fake.url}{path}?{following}>; rel="next"'}

    def _control(self, path: str, query: dict[str, str], body: bytes) -> None:
        """What tests ask of the fake itself, for jobs that run in another process."""
        fake, answer = self.fake, b"{}"
        if path == "/_fake/artifacts" and self.command == "POST":
            run_id = int(query["run_id"])
            made = fake.state.artifact(query["repository"], run_id, query["name"], body)
            answer = json.dumps({"id": made.id}).encode()
        elif path == "/_fake/state":
            answer = json.dumps(asdict(fake.state)).encode()
        elif path == "/_fake/requests":
            told = {"requests": [asdict(r) for r in fake.requests], "violations": fake.violations}
            answer = json.dumps(told).encode()
        self.send(200, answer, JSON, {})


class _Blob(_Handler):
    def handle_one(self, body: bytes) -> None:
        """Give out an artifact; a token has no business here, and the store refuses it."""
        found = re.fullmatch(r"/blob/([^/]+/[^/]+)/(\d+)\.zip", urlsplit(self.path).path)
        content, status = b"", 404
        if found and "authorization" in self.headers:
            self.fake.violation("a token was sent to another host")
            status = 403
        elif found:
            here = self.fake.state.repositories[found.group(1)]
            wanted = int(found.group(2))
            content, status = next(
                ((item.content, 200) for item in here.artifacts if item.id == wanted), (b"", 404)
            )
        fault = self.fault(urlsplit(self.path).path)
        if fault is not None:
            content, status = b"", fault.status
        self.logged("blob", body, status)
        if status == 0:
            self.close_connection = True
            self.connection.close()
            return
        self.send(status, content, "application/zip", {})
