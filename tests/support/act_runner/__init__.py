"""Runs workflows with `act` in host mode, offline, with stand-ins for GitHub's own actions."""

from __future__ import annotations

from act_runner.outcome import ActRun, Annotation
from act_runner.runner import ACTION, TOKEN, Act, export_action
from act_runner.userrepo import UserRepo
from act_runner.world import World

__all__ = ["ACTION", "TOKEN", "Act", "ActRun", "Annotation", "UserRepo", "World", "export_action"]
