"""Asking GitHub: patient with what passes, clear about what does not, silent about the token.

What fails for a while (429, a rate limit's 403, 5xx, a lost connection) is asked again, after the
pause that GitHub names or a growing one, until the patience of the whole client is used up. A
request that may have taken effect is only repeated after a look whether it did.

Source: "Best practices for using the REST API" and "Rate limits for the REST API" in GitHub's
documentation.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import count
from typing import Any, Final, TypeVar
from urllib.parse import urljoin, urlsplit

import httpx

from tfslim import __version__
from tfslim.errors import ConfigError, NetworkError
from tfslim.report.inert import plain

__all__ = ["PATIENCE_S", "ApiError", "Ask", "Clock", "Reply", "Rest", "not_understood", "too_large"]

PATIENCE_S: Final = 150.0
"""Seconds that one client waits altogether, over all its requests."""

_ATTEMPTS: Final = 6
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0
_SECONDARY_PAUSE_S: Final = 60.0  # GitHub's advice where a secondary limit names no time
_TIMEOUT: Final = httpx.Timeout(30.0, connect=10.0)
_MOST_JSON: Final = 32 << 20  # bytes, unpacked
_MOST_REDIRECTS: Final = 5
_PAGE: Final = 100
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_Found = TypeVar("_Found")


class ApiError(NetworkError):
    """GitHub refused or could not be reached.

    Attributes:
        status: Of the answer; 0 where there was none.
    """

    label = "github"

    def __init__(self, what: str, *, why: str = "", way_out: str = "", status: int = 0) -> None:
        super().__init__(what, why=why, way_out=way_out)
        self.status = status


@dataclass(frozen=True)
class Clock:
    """Time, as the client sees it; tests put their own here.

    Attributes:
        sleep: Waits for seconds.
        now: Seconds since 1970, which rate limits are told in.
        jitter: A number from 0 to 1, so that jobs which failed together do not come back together.
    """

    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], float] = time.time
    jitter: Callable[[], float] = random.random


@dataclass(frozen=True)
class Ask:
    """One request.

    Attributes:
        permission: What the token needs, as a workflow's `permissions:` name it.
        repeatable: Asking twice does no more than asking once.
    """

    method: str
    path: str
    permission: str
    query: Mapping[str, str | int] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    repeatable: bool = True

    @property
    def told(self) -> str:
        """What messages call it."""
        return f"{self.method} {urlsplit(self.path).path}"


@dataclass(frozen=True)
class Reply:
    """An answer, read whole, and unpacked."""

    status: int
    headers: httpx.Headers
    content: bytes


class Rest:
    """One GitHub: github.com, or a server of an enterprise.

    Args:
        base_url: As in GITHUB_API_URL: https://api.github.com, https://HOST/api/v3.
        token: Sent to that host alone; no message, log line or repr has it. Empty asks as nobody.
        say: Told, in a sentence, whenever something is asked again.
        clock: Time.
        patience_s: Seconds to wait altogether, over all requests.

    Raises:
        ConfigError: The address is not https, and not of this machine.
    """

    def __init__(
        self,
        base_url: str,
        token: str,
        *,
        say: Callable[[str], None] = lambda _text: None,
        clock: Clock | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        if not _safe(self.base_url):
            raise ConfigError(
                f"GITHUB_API_URL is {plain(base_url)}, where a token would be readable on its way",
                way_out="It begins with https://, such as https://api.github.com.",
            )
        self._token = token
        self._say = say
        self._clock = clock or Clock()
        self._patience_s = patience_s
        agent = {"user-agent": f"tfslim/{__version__}"}
        self._client = httpx.Client(headers=agent, timeout=_TIMEOUT, follow_redirects=False)

    def __repr__(self) -> str:
        """Return the address alone."""
        return f"{type(self).__name__}({self.base_url!r})"

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def pages(self, ask: Ask, *, key: str = "", limit: int) -> Iterator[Any]:
        """Yield a list's items, page by page, up to a limit; `key` holds the list, if anything."""
        for page in range(1, -(-limit // _PAGE) + 1):
            asked = replace(ask, query={**ask.query, "per_page": _PAGE, "page": page})
            data = self.json(asked)
            items = data.get(key) if key and isinstance(data, dict) else data
            if not isinstance(items, list):
                raise not_understood(asked.told)
            yield from items
            if len(items) < _PAGE:
                return

    def json(self, ask: Ask) -> Any:
        """Ask, and return the answer's JSON; None for an empty one."""
        return _decoded(self.asked(ask).content, ask.told)

    def send_once(self, ask: Ask, there: Callable[[], _Found | None]) -> Any | _Found:
        """Send what must not be sent twice.

        Args:
            ask: The request.
            there: Looks whether it took effect; asked after a pause where the answer was lost.

        Returns:
            The answer's JSON, or what `there` found.
        """
        for attempt in count(1):
            try:
                return self.json(ask)
            except _LostError as lost:
                failure = lost.error
            waited = self._waited(failure, self._growing(attempt), ask, attempt)
            found = there()
            if found is not None:
                return found
            if not waited:
                break
        raise failure

    def asked(self, ask: Ask, most: int = _MOST_JSON) -> Reply:
        """Ask until there is an answer that asking again would not change.

        Raises:
            ApiError: The answer is a refusal, or there was none.
            _LostError: It is unknown whether a request took effect that must not be repeated.
        """
        for attempt in count(1):
            pause: float | None = self._growing(attempt)
            try:
                reply = self._followed(ask, most)
            except httpx.RequestError as error:
                failure = _unreachable(self.base_url, error)
                unsent = isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
            else:
                if reply.status < 300:
                    return reply
                failure, pause = self._refused(ask, reply), self._pause(reply, attempt)
                unsent = reply.status < 500
            if not (pause is None or ask.repeatable or unsent):
                raise _LostError(failure)
            if pause is None or not self._waited(failure, pause, ask, attempt):
                break
        raise failure

    def _waited(self, failure: ApiError, pause: float, ask: Ask, attempt: int) -> bool:
        """Wait before the next attempt; False where no patience or attempt is left."""
        if attempt >= _ATTEMPTS or pause > self._patience_s:
            return False
        self._patience_s -= pause
        self._say(f"{failure.what} ({ask.told}); again in {pause:.0f} s")
        self._clock.sleep(pause)
        return True

    def _growing(self, attempt: int) -> float:
        """Return seconds: 1, 2, 4 and so on, each between half of it and one and a half."""
        pause = min(_FIRST_PAUSE_S * 2.0 ** (attempt - 1), _LONGEST_PAUSE_S)
        return pause * (0.5 + self._clock.jitter())

    def _pause(self, reply: Reply, attempt: int) -> float | None:
        """Return the seconds to wait before asking again; None where it would not help."""
        if _limited(reply) or (reply.status >= 500 and "retry-after" in reply.headers):
            named = _named_pause(reply.headers, self._clock.now())
            # Not all at once when a limit ends.
            return named + self._clock.jitter() if named is not None else _SECONDARY_PAUSE_S
        return self._growing(attempt) if reply.status >= 500 else None

    def _followed(self, ask: Ask, most: int) -> Reply:
        """Ask, and go where GitHub sends us: a moved repository, an artifact's store."""
        method, query = ask.method, dict(ask.query)
        url = ask.path if ask.path.startswith("http") else self.base_url + ask.path
        for _ in range(_MOST_REDIRECTS):
            reply = self._once(method, url, query, ask.body, most)
            place = reply.headers.get("location", "")
            may = method == "GET" or reply.status in (307, 308)
            if reply.status not in (301, 302, 303, 307, 308) or not place or not may:
                return reply
            url, query = urljoin(url, place), {}
            if not _safe(url) or (method != "GET" and not self._own(url)):
                raise ApiError(f"GitHub sends {ask.told} to a place that is not safe")
        raise ApiError(f"GitHub sends {ask.told} from one place to the next")

    def _once(
        self,
        method: str,
        url: str,
        query: Mapping[str, str | int],
        body: Mapping[str, Any] | None,
        most: int,
    ) -> Reply:
        """Send one request; the token goes to the API's own host alone."""
        headers = {"accept-encoding": "identity"}
        if self._own(url):
            headers = {
                "accept-encoding": "gzip",
                "accept": "application/vnd.github+json",
                "x-github-api-version": "2022-11-28",
            }
            if self._token:
                headers["authorization"] = f"Bearer {self._token}"
        with self._client.stream(
            method, url, params=query or None, json=body, headers=headers
        ) as answer:
            content = bytearray()
            for piece in answer.iter_bytes(1 << 16):
                content += piece
                if len(content) > most:
                    raise too_large(urlsplit(url).path, most)
            return Reply(answer.status_code, answer.headers, bytes(content))

    def _own(self, url: str) -> bool:
        """True for an address of the API's own host and port."""
        return _origin(url) == _origin(self.base_url)

    def _refused(self, ask: Ask, reply: Reply) -> ApiError:
        """Return the error for an answer that is none, with what to do about it."""
        said = self._hidden(_message(reply))
        if _limited(reply):
            what, way_out = _told_limit(reply, self._clock.now())
        else:
            what, way_out = _told_status(ask, reply)
        return ApiError(what, why=said, way_out=way_out, status=reply.status)

    def _hidden(self, text: str) -> str:
        return text.replace(self._token, "***") if self._token else text


class _LostError(Exception):
    """It is unknown whether a request took effect."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(str(error))
        self.error = error


def _safe(url: str) -> bool:
    """True for an address over TLS, or of this machine."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    default = {"https": 443, "http": 80}.get(parts.scheme)
    return parts.scheme, parts.hostname or "", parts.port or default


def _decoded(content: bytes, told: str) -> Any:
    try:
        return json.loads(content) if content else None
    except (ValueError, RecursionError) as error:
        raise not_understood(told) from error


def not_understood(told: str) -> ApiError:
    """Return the error for an answer that is not what GitHub would say."""
    return ApiError(
        f"GitHub's answer is not understood ({told})",
        way_out="Is GITHUB_API_URL the API's address, and does a proxy answer in its place?",
    )


def too_large(name: str, most: int) -> ApiError:
    """Return the error for what has more than `most` bytes."""
    return ApiError(f"{plain(name)} is larger than {most >> 20} MiB, and was not taken")


def _unreachable(base_url: str, error: httpx.RequestError) -> ApiError:
    return ApiError(
        f"{base_url} cannot be reached",
        why=plain(f"{type(error).__name__}: {error}", 300),
        way_out="Proxies are taken from HTTPS_PROXY and NO_PROXY, certificates from SSL_CERT_FILE.",
    )


def _message(reply: Reply) -> str:
    """Return what GitHub says, on one line."""
    try:
        data = json.loads(reply.content)
        errors = data.get("errors") or []
        parts = [data.get("message"), *(e.get("message") if isinstance(e, dict) else e
                                        for e in errors)]  # fmt: skip
    except (ValueError, AttributeError, TypeError, RecursionError):
        return f"HTTP {reply.status}"
    told = "; ".join(str(part) for part in parts if part)
    return plain(f"HTTP {reply.status}: {told}", 300)


def _limited(reply: Reply) -> bool:
    """True for an answer that means: not so many requests."""
    if reply.status == 429:
        return True
    if reply.status != 403:
        return False
    if reply.headers.get("x-ratelimit-remaining") == "0" or "retry-after" in reply.headers:
        return True
    said = _message(reply).lower()
    return "rate limit" in said or "abuse detection" in said


def _named_pause(headers: httpx.Headers, now: float) -> float | None:
    """Return the seconds that GitHub asks to wait."""
    after = headers.get("retry-after", "")
    if after.isdigit():
        return float(after)
    if after:
        try:
            return max(0.0, parsedate_to_datetime(after).timestamp() - now)
        except ValueError:
            return None
    reset = headers.get("x-ratelimit-reset", "")
    if headers.get("x-ratelimit-remaining") == "0" and reset.isdigit():
        return max(1.0, float(reset) - now)
    return None


def _told_limit(reply: Reply, now: float) -> tuple[str, str]:
    """Return what to say of a rate limit."""
    pause = _named_pause(reply.headers, now)
    until = ""
    if pause is not None:
        until = f" until {datetime.fromtimestamp(now + pause, UTC):%H:%M} UTC"
    return (
        f"GitHub's rate limit is used up{until}",
        "A job's own token has 1000 requests an hour for a repository; a token of an app or a "
        "user has its own.",
    )


def _told_status(ask: Ask, reply: Reply) -> tuple[str, str]:
    """Return what to say of a refusal, and the way out."""
    needed = _needed(ask, reply)
    if reply.status == 401:
        return (
            "GitHub does not accept the token",
            "Leave the input `token` out to use the job's own, or give one that has not expired.",
        )
    if reply.status == 403:
        return (
            f"the token may not do this: it needs the permission `{needed}`",
            f"Add it to the job:\npermissions:\n  {needed}\n"
            "A pull request from a fork, or by Dependabot, never gets more than reading: "
            "docs/workflows/pr-comment.yml comments there.",
        )
    if reply.status in (404, 410):
        return (
            f"GitHub has no {urlsplit(ask.path).path}, or hides it from this token",
            f"In a private repository the token needs `{needed}` to see it.",
        )
    if reply.status == 422:
        return f"GitHub refuses what was sent ({ask.told})", ""
    if reply.status >= 500:
        return f"GitHub answers {reply.status}", "See https://www.githubstatus.com."
    return f"GitHub answers {reply.status} ({ask.told})", ""


def _needed(ask: Ask, reply: Reply) -> str:
    """Return the permission that is missing: ours, unless GitHub names others only."""
    accepted = reply.headers.get("x-accepted-github-permissions", "")
    named = [part.strip().replace("_", "-").replace("=", ": ") for part in accepted.split(";")]
    named = [name for name in named if re.fullmatch(r"[a-z-]{1,40}: (read|write)", name)]
    return ask.permission if not named or ask.permission in named else named[0]
