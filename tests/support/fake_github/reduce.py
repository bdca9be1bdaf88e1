"""Make `github-openapi.json`: GitHub's own description of its REST API, cut to what is used here.

Nothing in the result is written by hand: operations are chosen by method and path, what they refer
to comes along, and what no validator reads (prose, examples, tags) is left out.

    python tests/support/fake_github/reduce.py            # fetches the npm package with `npm pack`
    python tests/support/fake_github/reduce.py FILE.tgz   # a package that is there
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

PACKAGE: Final = "@octokit/openapi"
VERSION: Final = "23.0.2"
SOURCE: Final = "package/generated/api.github.com.json"
HERE: Final = Path(__file__).parent
OPERATIONS: Final = (
    ("get", "/user"),
    ("get", "/repos/{owner}/{repo}"),
    ("get", "/repos/{owner}/{repo}/compare/{basehead}"),
    ("get", "/repos/{owner}/{repo}/commits/{commit_sha}/pulls"),
    ("get", "/repos/{owner}/{repo}/contents/{path}"),
    ("get", "/repos/{owner}/{repo}/pulls"),
    ("get", "/repos/{owner}/{repo}/pulls/{pull_number}"),
    ("get", "/repos/{owner}/{repo}/issues/{issue_number}/comments"),
    ("post", "/repos/{owner}/{repo}/issues/{issue_number}/comments"),
    ("get", "/repos/{owner}/{repo}/issues/comments/{comment_id}"),
    ("patch", "/repos/{owner}/{repo}/issues/comments/{comment_id}"),
    ("delete", "/repos/{owner}/{repo}/issues/comments/{comment_id}"),
    ("get", "/repos/{owner}/{repo}/actions/runs"),
    ("get", "/repos/{owner}/{repo}/actions/runs/{run_id}"),
    ("get", "/repos/{owner}/{repo}/actions/runs/{run_id}/artifacts"),
    ("get", "/repos/{owner}/{repo}/actions/workflows/{workflow_id}/runs"),
    ("get", "/repos/{owner}/{repo}/actions/artifacts"),
    ("get", "/repos/{owner}/{repo}/actions/artifacts/{artifact_id}"),
    ("get", "/repos/{owner}/{repo}/actions/artifacts/{artifact_id}/{archive_format}"),
)  # fmt: skip
# The error that every operation may answer with, which not every operation says.
ALWAYS: Final = ("#/components/schemas/basic-error",)
PROSE: Final = frozenset(
    {"description", "example", "examples", "summary", "tags", "externalDocs", "title"}
)
_NAMES: Final = frozenset({"properties", "schemas", "parameters", "headers", "responses"})


def main() -> None:
    """Write the reduced description, and the licence of its source beside it."""
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(sys.argv[1]) if len(sys.argv) > 1 else fetched(Path(scratch))
        with tarfile.open(package) as archive:
            whole = json.load(_member(archive, SOURCE))
            said = json.load(_member(archive, "package/package.json"))
            licence = _member(archive, "package/LICENSE").read()
    if said["version"] != VERSION:
        raise SystemExit(f"{package} is version {said['version']}, not {VERSION}")
    document = reduced(whole)
    document["info"]["x-source"] = {
        "package": f"{PACKAGE}@{VERSION}",
        "file": SOURCE.removeprefix("package/"),
        "license": said["license"],
        "made-by": "reduce.py",
    }
    text = json.dumps(document, separators=(",", ":"), sort_keys=True) + "\n"
    (HERE / "github-openapi.json").write_text(text)
    (HERE / "github-openapi.LICENSE").write_bytes(licence)
    sys.stdout.write(f"{len(OPERATIONS)} operations, {len(text)} bytes\n")


def fetched(folder: Path) -> Path:
    """Fetch the npm package."""
    command = ["npm", "pack", "--silent", f"{PACKAGE}@{VERSION}"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("*.tgz"))


def reduced(whole: dict[str, Any]) -> dict[str, Any]:
    """Return the description with the operations alone, and what they refer to."""
    paths: dict[str, Any] = {}
    for method, path in OPERATIONS:
        paths.setdefault(path, {})[method] = _without_prose(whole["paths"][path][method])
    components: dict[str, Any] = {}
    wanted = [*ALWAYS, *_references(paths)]
    while wanted:
        reference = wanted.pop()
        kind, name = reference.removeprefix("#/components/").split("/", 1)
        if name not in components.setdefault(kind, {}):
            found = _without_prose({name: whole["components"][kind][name]}, inside=kind)[name]
            components[kind][name] = found
            wanted += _references(found)
    info = {key: whole["info"][key] for key in ("title", "version", "license")}
    return {
        "openapi": whole["openapi"],
        "info": info,
        "servers": whole["servers"],
        "paths": paths,
        "components": components,
    }


def _without_prose(node: Any, inside: str = "") -> Any:
    """Drop what no validator reads; the keys inside some objects are names that somebody chose."""
    if isinstance(node, list):
        return [_without_prose(item) for item in node]
    if not isinstance(node, dict):
        return node
    if inside in _NAMES:
        kept = {key: _without_prose(value) for key, value in node.items()}
        if inside == "responses":
            return {key: _described(value) for key, value in kept.items()}
        return kept
    chosen = {k: v for k, v in node.items() if not (k in PROSE or k.startswith("x-"))}
    return {key: _without_prose(value, inside=key) for key, value in chosen.items()}


def _described(answer: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI wants a description of every answer."""
    return answer if "$ref" in answer else {"description": "", **answer}


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for item in node:
            yield from _references(item)


def _member(archive: tarfile.TarFile, name: str) -> Any:
    found = archive.extractfile(name)
    if found is None:
        raise SystemExit(f"{name} is not in the package")
    return found


if __name__ == "__main__":
    main()
