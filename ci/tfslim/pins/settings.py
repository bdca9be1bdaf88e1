"""Which package index and which CA: what pip is set to use, so that there is nothing to set twice.

Only pip's main index is asked. Folders of wheels (`find-links`) and extra indexes may hold other
files under the same names, and a lock is to hold the hashes of what everybody gets.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass

from tfslim import proc

__all__ = ["IndexSettings", "index_settings"]

_DEFAULT = "https://pypi.org/simple"
_LINE = re.compile(r"(?P<section>[^.]*)\.(?P<key>[a-z-]+)='(?P<value>.*)'")


@dataclass(frozen=True)
class IndexSettings:
    """Where packages come from.

    Attributes:
        url: The index (its "simple" address); may hold a login.
        ca: A file of certificates to trust; empty for the client's own.
    """

    url: str = _DEFAULT
    ca: str = ""

    def environment(self) -> dict[str, str]:
        """Return the variables that make another program trust the same CA."""
        return {"SSL_CERT_FILE": self.ca, "PIP_CERT": self.ca} if self.ca else {}


def index_settings() -> IndexSettings:
    """Return the index that pip would ask: its variables, then its files, then PyPI."""
    done = proc.run([sys.executable, "-m", "pip", "config", "list"])
    files = _parse(done.stdout) if done.ok else {}
    url = os.environ.get("PIP_INDEX_URL") or files.get("index-url") or _DEFAULT
    ca = os.environ.get("PIP_CERT") or files.get("cert") or os.environ.get("SSL_CERT_FILE") or ""
    return IndexSettings(url.rstrip("/"), ca)


def _parse(listing: str) -> dict[str, str]:
    """Read `pip config list`; settings of `pip install` win over global ones."""
    found: dict[str, str] = {}
    matches = [match for line in listing.splitlines() if (match := _LINE.fullmatch(line))]
    for match in sorted(matches, key=lambda item: item["section"] == "install"):
        if match["section"] in ("global", "install"):
            found[match["key"]] = match["value"]
    return found
