"""Sessions a person types; each is one line over the `tfslim` command or a tool."""

from __future__ import annotations

import nox

nox.options.sessions = ["lint", "tests"]
nox.options.reuse_existing_virtualenvs = True
nox.options.default_venv_backend = "venv"


def _install(session: nox.Session, extra: str = "") -> None:
    session.install("-e", f".{extra}")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types, Dockerfiles, YAML and shell scripts."""
    _install(session, "[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("bash", "ci/lint-files.sh", external=True)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the unit tests, in seconds; arguments go to pytest."""
    _install(session, "[dev]")
    session.run(
        "pytest", "-m", "not image and not gpu and not slow and not action", *session.posargs
    )


@nox.session
def build(session: nox.Session) -> None:
    """Build the images: all, or the variants given after --."""
    _install(session)
    session.run("tfslim", "build", "--setup-engine", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Run the main job: build, inspect, measure, report; arguments go to `tfslim bench`."""
    _install(session, "[gpu]")
    session.run("tfslim", "bench", "--setup-engine", *session.posargs)


@nox.session
def micro(session: nox.Session) -> None:
    """Run the micro-benchmarks with pytest-benchmark, in a minute; arguments go to pytest."""
    _install(session, "[dev]")
    session.run("pytest", "benchmarks", *session.posargs)


@nox.session
def report(session: nox.Session) -> None:
    """Show the last run again."""
    _install(session)
    session.run("tfslim", "report", *session.posargs)


@nox.session
def e2e(session: nox.Session) -> None:
    """Build and run images and the action for real; needs root or a Docker engine, and minutes."""
    _install(session, "[dev]")
    session.run("pytest", "-m", "image or action", "-v", *session.posargs)


@nox.session
def action(session: nox.Session) -> None:
    """Run the GitHub Action end to end, offline, in a runner of its own; minutes."""
    _install(session, "[dev]")
    session.run("pytest", "-m", "action", "-v", *session.posargs)


@nox.session(name="gpu-proof")
def gpu_proof(session: nox.Session) -> None:
    """Prove slimmed trees on this machine's GPU; arguments go to benchmarks/gpu/prove.py."""
    if session.venv_backend != "none":  # with --no-venv all that is needed is there
        _install(session, "[gpu]")
    session.run("python", "benchmarks/gpu/prove.py", *session.posargs)
