"""The shell of single steps, run as it stands in the file, with stand-ins for docker and gh."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import run_records
from lint import workflows
from tfslim.cli_report import read_history

REPOSITORY = Path(__file__).resolve().parents[3]


def _step(path: str, name: str) -> str:
    """Return the shell of the step that has these words in it."""
    document = workflows.read(REPOSITORY / path)
    (body,) = [body.text for body in workflows.run_bodies(document) if name in body.text]
    return body


def _run(
    text: str, folder: Path, env: dict[str, str], *, fails: bool = False
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        ["bash", "-e", "-c", text],  # as GitHub runs a step without `shell:`
        cwd=folder,
        env={"PATH": f"{folder}/bin:{os.environ['PATH']}", "HOME": str(folder), **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done


def _program(folder: Path, name: str, text: str) -> Path:
    """Put a program into the steps' PATH that logs how it is called."""
    (folder / "bin").mkdir(exist_ok=True)
    path = folder / "bin" / name
    path.write_text(f'#!/bin/bash\necho "$@" >> "{folder}/calls"\n{text}\n')
    path.chmod(0o755)
    return folder / "calls"


@pytest.mark.parametrize(
    ("to", "registry"),
    [
        ("ghcr.io/me/tensorflow", "ghcr.io"),
        ("localhost:5000/me", "localhost:5000"),
        ("localhost/me", "localhost"),
        ("me/tensorflow", "docker.io"),
    ],
)
def test_a_login_is_to_the_registry_that_is_pushed_to(
    tmp_path: Path, to: str, registry: str
) -> None:
    calls = _program(tmp_path, "docker", f'cat > "{tmp_path}/password"')
    env = {
        "PUSH_TO": to,
        "REGISTRY_USER": "me",
        "REGISTRY_TOKEN": "se cret$",
        "GITHUB_ENV": str(tmp_path / "env"),
    }
    done = _run(_step(".github/workflows/images.yml", "docker login"), tmp_path, env)
    assert calls.read_text() == f"login {registry} --username me --password-stdin\n"
    assert (tmp_path / "password").read_text() == "se cret$"
    assert (tmp_path / "env").read_text() == f"REGISTRY={registry}\n"
    assert "se cret$" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("there", "wanted"),
    [
        ("exit 0", "repos/o/r/git/refs/tags/v1 --method PATCH --field sha=abc --field force=true"),
        ("exit 1", "repos/o/r/git/refs --method POST --field ref=refs/tags/v1 --field sha=abc"),
    ],
    ids=["moved", "made"],
)
def test_the_major_tag_is_moved_or_made(tmp_path: Path, there: str, wanted: str) -> None:
    calls = _program(tmp_path, "gh", f'case "$*" in *git/ref/tags*) {there} ;; esac')
    env = {"GITHUB_REPOSITORY": "o/r", "GITHUB_SHA": "abc", "MAJOR": "v1"}
    _run(_step(".github/workflows/release.yml", "git/refs/tags"), tmp_path, env)
    assert calls.read_text().splitlines() == [
        "api repos/o/r/git/ref/tags/v1 --silent",
        f"api {wanted} --silent",
    ]


@pytest.mark.parametrize(("answer", "fails"), [("true", False), ("false", True), ("null", True)])
def test_a_release_that_can_be_changed_fails(tmp_path: Path, answer: str, fails: bool) -> None:
    _program(tmp_path, "gh", f"echo {answer}")
    env = {"GITHUB_REPOSITORY": "o/r", "GITHUB_REF_NAME": "v1.2.3"}
    done = _run(_step(".github/workflows/release.yml", "immutable="), tmp_path, env, fails=fails)
    assert ("::error" in done.stdout) == fails


def test_a_release_is_a_draft_until_all_of_it_is_there(tmp_path: Path) -> None:
    calls = _program(tmp_path, "gh", "")
    (tmp_path / "release").mkdir()
    for name in ("tfslim-action-1.2.3.tar.gz", "SHA256SUMS", "notes.md"):
        (tmp_path / "release" / name).touch()
    env = {"GITHUB_REPOSITORY": "o/r", "GITHUB_REF_NAME": "v1.2.3"}
    _run(_step(".github/workflows/release.yml", "gh release create"), tmp_path, env)
    made, shown = calls.read_text().splitlines()
    assert made.startswith(
        "release create v1.2.3 release/tfslim-action-1.2.3.tar.gz release/SHA256SUMS --repo o/r"
    )
    assert "--draft --verify-tag" in made
    assert shown == "release edit v1.2.3 --repo o/r --draft=false"


def test_the_package_is_the_same_for_the_same_commit(tmp_path: Path) -> None:
    text = _step(".github/workflows/release.yml", "git archive")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / "action.yml").write_text("name: x\n")
    _commit(tmp_path)
    sums = []
    for _ in range(2):
        (tmp_path / "notes.md").touch()
        _run(text, tmp_path, {"GITHUB_REF_NAME": "v1.2.3"})
        sums.append((tmp_path / "release" / "SHA256SUMS").read_text())
        subprocess.run(["rm", "-r", "release"], cwd=tmp_path, check=True)
    assert sums[0] == sums[1]
    assert sums[0].endswith("  tfslim-action-1.2.3.tar.gz\n")


def test_history_gets_a_folder_for_each_push(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, clone = tmp_path / "remote", tmp_path / "clone"
    subprocess.run(["git", "init", "--quiet", "--bare", str(remote)], check=True)
    subprocess.run(["git", "clone", "--quiet", str(remote), str(clone)], check=True)
    (clone / "Dockerfile").write_text("FROM scratch\n")
    _commit(clone)
    subprocess.run(["git", "push", "--quiet", "origin", "HEAD:main"], cwd=clone, check=True)
    report = tmp_path / "temp" / "report"
    report.mkdir(parents=True)
    text = _step("docs/workflows/history.yml", "tfslim-history")
    for number in (1, 2):
        run_records.make(started=f"2026-01-0{number}T00:00:00Z").save(report / "report.json")
        env = {"RUNNER_TEMP": str(tmp_path / "temp"), "GITHUB_SHA": f"{number}" * 40}
        _run(text, clone, env)
    files = _git(remote, "ls-tree", "-r", "--name-only", "tfslim-history").split()
    runs = [name.partition("-")[2] for name in files]
    assert runs == ["111111111111/report.json", "222222222222/report.json"]
    assert _git(remote, "log", "--format=%s", "tfslim-history").split() == ["2" * 40, "1" * 40]
    assert _git(remote, "ls-tree", "-r", "--name-only", "main").split() == ["Dockerfile"]
    subprocess.run(["git", "fetch", "--quiet"], cwd=clone, check=True)
    monkeypatch.chdir(clone)
    assert read_history("git:origin/tfslim-history:runs").records == 2


def test_history_says_where_there_is_no_record(tmp_path: Path) -> None:
    text = _step("docs/workflows/history.yml", "tfslim-history")
    env = {"RUNNER_TEMP": str(tmp_path), "GITHUB_SHA": "1" * 40}
    assert "::error::There is no record" in _run(text, tmp_path, env, fails=True).stdout


def test_the_label_goes(tmp_path: Path) -> None:
    calls = _program(tmp_path, "gh", "")
    env = {"GITHUB_REPOSITORY": "o/r", "NUMBER": "12"}
    _run(_step("docs/workflows/fork-gpu.yml", "labels/gpu-ok"), tmp_path, env)
    assert calls.read_text() == "api --method DELETE repos/o/r/issues/12/labels/gpu-ok\n"


def _commit(folder: Path) -> None:
    subprocess.run(["git", "add", "."], cwd=folder, check=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *identity, "commit", "-qm", "first"], cwd=folder, check=True)


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout
