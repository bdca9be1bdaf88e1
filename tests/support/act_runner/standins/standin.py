"""What the stand-ins for GitHub's own actions do: the same inputs and outputs, on a folder.

They are here because the real ones talk to services of GitHub that no test has. Behaviour is that
of the versions that the action pins, as far as a user can run into it: hidden files stay out of
artifacts, an artifact's name is taken once, a checkout has one commit unless asked for more.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from fnmatch import fnmatch
from pathlib import Path

STORE = Path(os.environ["ACT_STORE"])
RUN = os.environ["GITHUB_RUN_ID"]


def given(name: str, default: str = "") -> str:
    return os.environ.get("INPUT_" + name.upper().replace("-", "_"), "").strip() or default


def output(name: str, value: object) -> None:
    with Path(os.environ["GITHUB_OUTPUT"]).open("a") as file:
        file.write(f"{name}={value}\n")


def say(message: str) -> None:
    sys.stdout.write(f"{message}\n")


def fail(message: str) -> None:
    say(f"::error::{message}")
    sys.exit(1)


def git(*args: str, cwd: Path) -> None:
    subprocess.run(["git", *args], cwd=cwd, check=True, stdout=subprocess.DEVNULL)


def checkout() -> None:
    """One commit of the user's repository, in the job's folder."""
    known = json.loads((STORE / "checkout.json").read_text())
    wanted = given("repository", known["repository"])
    if wanted not in known.get("repositories", [known["repository"], "stranger/demo"]):
        fail(f"checkout of {wanted}: not known here")
    place = Path(os.environ["GITHUB_WORKSPACE"]) / given("path", ".")
    place.mkdir(parents=True, exist_ok=True)
    git("init", "-q", cwd=place)
    depth = given("fetch-depth", "1")
    limit = [] if depth == "0" else [f"--depth={depth}"]
    source = f"file://{known['folder']}"
    ref = given("ref", "HEAD")
    everything = (
        ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"] if depth == "0" else []
    )
    git("fetch", "-q", *limit, source, ref, cwd=place)
    git("checkout", "-q", "--force", "FETCH_HEAD", cwd=place)
    if everything:
        git("fetch", "-q", source, *everything, cwd=place)
    git("remote", "add", "origin", source, cwd=place)


def hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def found_files(patterns: list[str]) -> tuple[Path, list[Path]]:
    """Return the root that names in the artifact are relative to, and the files."""
    roots, files, without = [], [], []
    for pattern in patterns:
        if pattern.startswith("!"):
            without.append(pattern[1:])
            continue
        fixed = Path(re.split(r"[*?\[]", pattern)[0])
        is_pattern = str(fixed) != pattern.rstrip("/") and re.search(r"[*?\[]", pattern)
        start = fixed if fixed.is_dir() or not is_pattern else fixed.parent
        matches = Path().glob(pattern) if is_pattern and not fixed.is_absolute() else [start]
        for match in matches:
            inside = [match] if match.is_file() else sorted(match.rglob("*"))
            new = [one for one in inside if one.is_file()]
            if given("include-hidden-files", "false") != "true":
                new = [one for one in new if not hidden(one.relative_to(start.parent))]
            files += new
            roots.append(start.parent if start.is_file() else start)
    files = [one for one in files if not any(fnmatch(str(one), p) for p in without)]
    absolute = [root.absolute() for root in roots]
    return Path(os.path.commonpath(absolute)) if absolute else Path.cwd(), files


def upload_artifact() -> None:
    name = given("name", "artifact")
    if re.search(r'["":<>|*?\r\n\\/]', name):
        fail(f"The artifact name is not valid: {name}.")
    patterns = [line.strip() for line in given("path").splitlines() if line.strip()]
    root, files = found_files(patterns)
    if not files:
        message = f"No files were found with the provided path: {given('path')}."
        how = given("if-no-files-found", "warn")
        if how == "error":
            fail(f"{message} No artifacts will be uploaded.")
        if how == "warn":
            say(f"::warning::{message} No artifacts will be uploaded.")
        return
    folder = STORE / "artifacts" / RUN / name
    if folder.exists():
        if given("overwrite", "false") != "true":
            fail(f"Conflict: an artifact with this name already exists on the workflow run: {name}")
        shutil.rmtree(folder)
    for one in files:
        place = folder / one.absolute().relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(one, place)
    archive = folder.with_name(f"{name}.zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        for one in sorted(folder.rglob("*")):
            if one.is_file():
                zipped.write(one, one.relative_to(folder).as_posix())
    number = len(list((STORE / "artifacts").rglob("*.zip")))
    server, repository = os.environ["GITHUB_SERVER_URL"], os.environ["GITHUB_REPOSITORY"]
    output("artifact-id", number)
    output("artifact-url", f"{server}/{repository}/actions/runs/{RUN}/artifacts/{number}")
    output("artifact-digest", hashlib.sha256(archive.read_bytes()).hexdigest())


def download_artifact() -> None:
    source = STORE / "artifacts" / given("run-id", RUN)
    target = Path(given("path", "."))
    name, pattern = given("name"), given("pattern", "*")
    folders = [path for path in sorted(source.glob("*")) if path.is_dir()]
    chosen = [one for one in folders if (one.name == name if name else fnmatch(one.name, pattern))]
    if name and not chosen:
        fail(f"Unable to download artifact(s): Artifact not found for name: {name}")
    flat = bool(name) or given("merge-multiple", "false") == "true"
    target.mkdir(parents=True, exist_ok=True)
    for one in chosen:
        shutil.copytree(one, target if flat else target / one.name, dirs_exist_ok=True)
    say(f"Total of {len(chosen)} artifact(s) downloaded")
    output("download-path", target.absolute())


def slot(key: str) -> Path:
    return STORE / "caches" / hashlib.sha256(key.encode()).hexdigest()[:16]


def restore() -> None:
    """Copy the newest cache whose key is the one asked for, or begins with another."""
    key, target = given("key"), Path(given("path").splitlines()[0])
    others = [line.strip() for line in given("restore-keys").splitlines() if line.strip()]
    names = sorted(
        (STORE / "caches").glob("*.key"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    keys = [path.read_text() for path in names]
    prefixes = [key, *others]
    match = next((k for p in prefixes for k in keys if k == key or k.startswith(p)), "")
    if match:
        shutil.copytree(slot(match), target, dirs_exist_ok=True)
    output("cache-primary-key", key)
    output("cache-matched-key", match)
    output("cache-hit", str(match == key).lower() if match else "")


def cache() -> None:
    """Restore, and have what is written into the folder kept under the key.

    The real one keeps it in a step after the job. A composite action has none, so the folder is a
    link to the place where it is kept, unless the key is taken: keys are never written twice.
    """
    key, target = given("key"), Path(given("path").splitlines()[0])
    restore()
    if not slot(key).exists():
        save() if target.is_dir() else slot(key).mkdir(parents=True)
        slot(key).with_suffix(".key").write_text(key)
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(slot(key))


def save() -> None:
    """Keep a folder under a key; one that is taken is left as it is."""
    key, source = given("key"), Path(given("path").splitlines()[0])
    if source.is_dir() and not slot(key).exists():
        shutil.copytree(source, slot(key), symlinks=True)
        slot(key).with_suffix(".key").write_text(key)


if __name__ == "__main__":
    {
        "checkout": checkout,
        "upload-artifact": upload_artifact,
        "download-artifact": download_artifact,
        "cache": cache,
        "restore": restore,
        "save": save,
    }[sys.argv[1]]()
