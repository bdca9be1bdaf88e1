"""GitHub's own description of its API, used three ways: to find an operation, check, and fill.

`github-openapi.json` is made by `reduce.py` and never edited.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from openapi_core import OpenAPI
from openapi_core.exceptions import OpenAPIError
from openapi_core.testing import MockRequest, MockResponse

__all__ = ["Asked", "Description", "Operation"]

HOST: Final = "https://api.github.com"
FILE: Final = Path(__file__).with_name("github-openapi.json")
# What is answered to any operation; the description names them for some operations only.
ALWAYS: Final = frozenset({400, 401, 403, 404, 406, 409, 422, 429, 500, 502, 503, 504})
_PLAIN: Final = {"integer": 1, "number": 1, "boolean": False, "object": {}, "array": []}
_FORMATS: Final = {
    "uri": "https://api.github.com/x",
    "date-time": "2026-01-01T00:00:00Z",
    "email": "octocat@example.com",
}


@dataclass(frozen=True)
class Asked:
    """A request as it came, `path` without the query."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    body: bytes
    content_type: str


@dataclass(frozen=True)
class Operation:
    """An operation of the description and the values of its path."""

    method: str
    template: str
    values: dict[str, str]


class Description:
    """The description, loaded once."""

    def __init__(self) -> None:
        self.document: dict[str, Any] = json.loads(FILE.read_text())
        self._api = OpenAPI.from_dict(self.document)
        self._templates = {
            template: re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", template))
            for template in self.document["paths"]
        }

    def operation(self, method: str, path: str) -> Operation | None:
        """Find the operation of a path that is still percent-encoded."""
        for template, pattern in self._templates.items():
            found = pattern.fullmatch(path)
            if found and method.lower() in self.document["paths"][template]:
                return Operation(method, template, found.groupdict())
        return None

    def problem_of_request(self, asked: Asked, operation: Operation) -> str:
        """Say what the description does not allow in a request; "" where it is as described."""
        known = self._query_names(operation)
        unknown = sorted({name for name, _ in asked.query} - known)
        if unknown:
            return f"{asked.method} {operation.template} has no query parameter {unknown[0]!r}"
        try:
            self._api.validate_request(_request(asked))
        except OpenAPIError as error:
            return _told(asked, error)
        return ""

    def problem_of_answer(self, asked: Asked, status: int, body: bytes, kind: str) -> str:
        """Say what the description does not allow in an answer."""
        operation = self.operation(asked.method, asked.path)
        if operation is None:
            return ""
        listed = self._at(operation)["responses"]
        if str(status) not in listed:
            return "" if status in ALWAYS else f"{operation.template} never answers {status}"
        if not body:
            return ""
        try:
            answer = MockResponse(body, status_code=status, content_type=kind)
            self._api.validate_response(_request(asked), answer)
        except OpenAPIError as error:
            return f"answer {status}: {_told(asked, error)}"
        return ""

    def filled(self, schema: str, **known: Any) -> dict[str, Any]:
        """Return an object of a schema: what is known, and fillers for what else it requires."""
        wanted = self._resolved({"$ref": f"#/components/schemas/{schema}"})
        return {**self._fill({**wanted, "nullable": False}), **known}

    def _query_names(self, operation: Operation) -> set[str]:
        found = [self._resolved(item) for item in self._at(operation).get("parameters", [])]
        return {item["name"] for item in found if item["in"] == "query"}

    def _at(self, operation: Operation) -> dict[str, Any]:
        found: dict[str, Any] = self.document["paths"][operation.template][operation.method.lower()]
        return found

    def _resolved(self, node: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in node:
            place: Any = self.document
            for step in node["$ref"].removeprefix("#/").split("/"):
                place = place[step]
            node = place
        return node

    def _fill(self, schema: dict[str, Any]) -> Any:
        schema = self._resolved(schema)
        if schema.get("nullable"):
            return None
        for several in ("oneOf", "anyOf"):
            if several in schema:
                return self._fill(schema[several][0])
        if "allOf" in schema:
            return {k: v for part in schema["allOf"] for k, v in self._fill(part).items()}
        if "enum" in schema:
            return schema["enum"][0]
        if "properties" in schema:
            inside = schema["properties"]
            return {name: self._fill(inside[name]) for name in schema.get("required", [])}
        kind = schema.get("type", "string")
        return _FORMATS.get(schema.get("format", ""), "x") if kind == "string" else _PLAIN[kind]


def _request(asked: Asked) -> MockRequest:
    return MockRequest(
        HOST,
        asked.method.lower(),
        asked.path,
        args=dict(asked.query),
        data=asked.body or None,
        content_type=asked.content_type.split(";")[0] or "application/json",
    )


def _told(asked: Asked, error: Exception) -> str:
    causes = getattr(error.__cause__, "schema_errors", None) or [error.__cause__ or error]
    first = "; ".join(
        f"{'.'.join(map(str, getattr(item, 'absolute_path', ())))} {item}".splitlines()[0]
        for item in list(causes)[:3]
    )
    return f"{asked.method} {asked.path}: {error}: {first}"[:2000]
