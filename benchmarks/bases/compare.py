"""Compare three bases for a Python service, built and packed for real: sizes, packages, what works.

    sudo python benchmarks/bases/compare.py IMAGE --out benchmarks/bases/results

IMAGE is one that `tfslim build inference` left in the engine: its first layer is the root without a
distribution. The two others are made here, of the same Debian packages:

    slim python       what the Dockerfiles name in FROM: a minimal Debian with apt, Python and venv
    debian minimal    essential packages, Python and what it needs; no apt, no pip

All three are packed with zstd level 3. Needs root, a Docker engine, and Debian's mirror.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from tfslim import proc
from tfslim.build import debian
from tfslim.build.bases import ensure_bases
from tfslim.engine import apt
from tfslim.engine.engine import Engine, find_engine
from tfslim.images.inspect import read_image
from tfslim.images.layer_table import Look
from tfslim.ui import Ui

RECORDS = "var/lib/dpkg/status.d/*"
NAME = "python:3.13-slim-trixie"
TAG = "tfslim-bench/{}:latest"
PACKED = (
    "type=docker,oci-mediatypes=true,compression=zstd,compression-level=3,force-compression=true"
)
# libstdc++6: every base needs it for TensorFlow; slim Python has it because of apt.
MINIMAL = "python3.13,ca-certificates,tzdata,netbase,libstdc++6"

WORKS = """
import bz2, ctypes, hashlib, json, locale, lzma, pwd, socket, sqlite3, ssl, uuid, zlib, zoneinfo
assert ssl.create_default_context().cert_store_stats()["x509_ca"] > 100
assert zoneinfo.ZoneInfo("Pacific/Auckland")
assert locale.setlocale(locale.LC_ALL, "C.UTF-8")
assert pwd.getpwuid(0).pw_name == "root"
assert socket.getaddrinfo("localhost", 80)
assert sqlite3.connect(":memory:").execute("select 1").fetchone() == (1,)
ctypes.CDLL("libstdc++.so.6")
print("works")
"""


@dataclass
class Base:
    """One base; bytes are 10^0.

    Attributes:
        pull: Compressed layers, zstd level 3.
        unpacked: Their tars.
        packages: Debian packages with a record, as scanners count them.
        bytecode: Of the standard library: files that have it, of all.
        shell: Whether there is one.
        works: Whether the modules above import and do what they are asked.
    """

    name: str
    pull: int
    unpacked: int
    files: int
    packages: int
    bytecode: str
    shell: bool
    works: bool


def minimal_debian(engine: Engine, work: Path) -> str:
    """Build Debian's essential packages with Python and put them into the engine."""
    recipe = debian.recipes()[NAME]
    archive, tag = work / "minimal.tar", TAG.format("debian-minimal")
    main, security = apt.debian_mirrors() or ("", "")
    signed = f"[signed-by={apt.DEBIAN_KEYRING}]"
    sources = [
        f"deb {signed} {main} {recipe.suite} main",
        f"deb {signed} {security} {recipe.suite}-security main",
    ]
    filters = [f"--dpkgopt=path-exclude={pattern}" for pattern in recipe.excludes]
    filters += [f"--dpkgopt=path-include={pattern}" for pattern in recipe.includes]
    link = 'ln -s /usr/bin/python3.13 "$1"/usr/local/bin/python'
    clean = 'rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/*/* "$1"/var/log/*'
    run(
        ["mmdebstrap", "--mode=root", "--variant=essential", f"--include={MINIMAL}", *filters],
        [f"--customize-hook={hook}" for hook in (link, clean)],
        [recipe.suite, str(archive), *(sources if main else [])],
    )
    done = engine.docker(["import", str(archive), tag])
    if not done.ok:
        sys.exit(done.tail)
    return tag


def run(*parts: list[str]) -> None:
    """Run a command, or end with what it said."""
    done = proc.run([word for part in parts for word in part])
    if not done.ok:
        sys.exit(done.tail)


def packed(engine: Engine, source: str, name: str, work: Path) -> str:
    """Pack an image anew, so that all are compressed alike."""
    (work / "Dockerfile").write_text(f"FROM {source}\nCMD []\n")
    tag = TAG.format(f"{name}-packed")
    done = engine.buildx(["build", "--output", f"{PACKED},name={tag}", "-t", tag, str(work)])
    if not done.ok:
        sys.exit(done.tail)
    return tag


def measure(engine: Engine, name: str, image: str, *, layers: int | None = None) -> Base:
    """Measure an image, or its first layers."""
    look = Look(keep=lambda path: path == "var/lib/dpkg/status")
    read = read_image(image, look, client=engine.client).layers[:layers]
    members = [member for layer in read for member in layer.members if member.kind == "file"]
    paths = {member.path for member in members}
    status = b"".join(layer.kept.get("var/lib/dpkg/status", b"") for layer in read)
    records = sum(PurePosixPath(path).match(RECORDS) for path in paths if "md5sums" not in path)
    sources = {p for p in paths if p.startswith("usr/lib/python3.13/") and p.endswith(".py")}
    return Base(
        name=name,
        pull=sum(layer.blob_bytes for layer in read),
        unpacked=sum(layer.unpacked_bytes for layer in read),
        files=len(paths),
        packages=status.count(b"\nStatus: install ok") or records,
        bytecode=f"{sum(cached(source) in paths for source in sources)}/{len(sources)}",
        shell=bool(paths & {"usr/bin/sh", "usr/bin/dash", "usr/bin/bash"}),
        works=works(engine, image),
    )


def cached(source: str) -> str:
    """Return where the bytecode of a file is kept."""
    folder, _, name = source.rpartition("/")
    return f"{folder}/__pycache__/{name.removesuffix('.py')}.cpython-313.pyc"


def works(engine: Engine, image: str) -> bool:
    """Run Python in an image as a service does: read-only, and as nobody in particular."""
    options = ["--rm", "--read-only", "--user", "10001:10001"]
    done = engine.docker(["run", *options, image, "/usr/local/bin/python", "-c", WORKS])
    return done.ok and "works" in done.stdout


def table(bases: list[Base]) -> str:
    """Return the figures as Markdown."""
    lines = [
        "| base | pull (zstd 3) | unpacked | files | packages | bytecode | shell | works |",
        "|---|---:|---:|---:|---:|---:|---|---|",
    ]
    for base in bases:
        shell, good = ("yes" if yes else "no" for yes in (base.shell, base.works))
        sizes = f"{base.pull / 1e6:.1f} MB | {base.unpacked / 1e6:.1f} MB | {base.files}"
        lines.append(
            f"| {base.name} | {sizes} | {base.packages} | {base.bytecode} | {shell} | {good} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Build, measure, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("image")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    ui = Ui()
    engine = find_engine(ui, setup=False)
    slim = ensure_bases(engine, [NAME], "debian", ui)[NAME].context.removeprefix("docker-image://")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        work = Path(folder)
        minimal = minimal_debian(engine, work)
        (work / "minimal.tar").unlink()
        bases = [
            measure(engine, "slim Python", packed(engine, slim, "slim", work)),
            measure(engine, "Debian minimal", packed(engine, minimal, "minimal", work)),
            measure(engine, "no distribution", options.image, layers=1),
        ]
    command = f"python benchmarks/bases/compare.py {options.image} --out benchmarks/bases/results"
    found = {"command": command, "bases": [asdict(base) for base in bases]}
    (options.out / "bases.json").write_text(json.dumps(found, indent=1) + "\n")
    text = f"# Three bases\n\n{table(bases)}\n\nMade with `{command}` on {platform.machine()}.\n"
    (options.out / "README.md").write_text(text)
    for name in ("slim-packed", "minimal-packed", "debian-minimal"):
        engine.docker(["image", "rm", TAG.format(name)])
    print(text)


if __name__ == "__main__":
    main()
