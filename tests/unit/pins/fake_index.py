"""A package index of small wheels, as `conftest.py` serves it on this machine."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any


def make_wheel(
    name: str,
    version: str,
    files: dict[str, bytes] | None = None,
    requires: tuple[str, ...] = (),
) -> bytes:
    """Return a wheel that installers accept."""
    distribution = name.replace("-", "_")
    info = f"{distribution}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {line}\n" for line in requires)
    if any("extra" in line for line in requires):
        metadata += "Provides-Extra: and-cuda\n"
    content = {
        **(files or {}),
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in content.items():
            archive.writestr(path, data)
    return out.getvalue()


@dataclass
class FakeIndex:
    """What the index serves; tests change it as they like.

    Attributes:
        pages: Project → its answer to the simple API.
        files: Path → content of a file.
        asked: Paths that were asked for.
    """

    url: str = ""
    pages: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def add(
        self,
        name: str,
        version: str,
        *,
        tag: str = "py3-none-manylinux2014_x86_64",
        metadata: bool = True,
        **content: Any,
    ) -> dict[str, Any]:
        """Offer a wheel and return its entry in the list."""
        wheel = make_wheel(name, version, **content)
        filename = f"{name.replace('-', '_')}-{version}-{tag}.whl"
        self.files[f"/files/{filename}"] = wheel
        if metadata:
            with zipfile.ZipFile(BytesIO(wheel)) as archive:
                inside = next(item for item in archive.namelist() if item.endswith("METADATA"))
                self.files[f"/files/{filename}.metadata"] = archive.read(inside)
        entry: dict[str, Any] = {
            "filename": filename,
            "url": f"{self.url}/files/{filename}",
            "hashes": {"sha256": hashlib.sha256(wheel).hexdigest()},
            "size": len(wheel),
            "upload-time": "2025-01-01T00:00:00Z",
        }
        page = self.pages.setdefault(
            name, {"meta": {"api-version": "1.1"}, "name": name, "files": [], "versions": []}
        )
        page["files"].append(entry)
        if version not in page["versions"]:
            page["versions"].append(version)
        return entry

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Return status, content type and body for a path."""
        self.asked.append(path)
        if path in self.files:
            return 200, "application/octet-stream", self.files[path]
        page = self.pages.get(path.removeprefix("/simple/").rstrip("/"))
        if page is None or not path.startswith("/simple/"):
            return 404, "text/plain", b"no"
        body = page if isinstance(page, bytes) else json.dumps(page).encode()
        return 200, "application/vnd.pypi.simple.v1+json", body
