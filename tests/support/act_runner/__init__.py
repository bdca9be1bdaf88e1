"""Runs workflows with `act` in host mode, offline, with stand-ins for GitHub's own actions."""

from __future__ import annotations

from act_runner.outcome import ActRun, Annotation
from act_runner.runner import ACTION, PROGRAMS, TOKEN, Act, export_action
from act_runner.userrepo import UserRepo
from act_runner.workflows import checkout, step, workflow
from act_runner.world import FORK, FORK_TOKEN, World

__all__ = [
    "ACTION",
    "FORK",
    "FORK_TOKEN",
    "PROGRAMS",
    "TOKEN",
    "Act",
    "ActRun",
    "Annotation",
    "UserRepo",
    "World",
    "checkout",
    "export_action",
    "step",
    "workflow",
]
