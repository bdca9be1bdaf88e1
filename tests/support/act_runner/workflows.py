"""The workflow a user writes: a checkout and one step with the action."""

from __future__ import annotations

from typing import Any

import yaml

__all__ = ["checkout", "step", "workflow"]


def checkout(**inputs: Any) -> dict[str, Any]:
    """Return the step that checks the user's repository out."""
    return {"uses": "actions/checkout@v7", **({"with": inputs} if inputs else {})}


def step(id_: str = "tfslim", /, **inputs: Any) -> dict[str, Any]:
    """Return a step with the action; inputs are written with `_` for `-`."""
    given = {name.replace("_", "-"): value for name, value in inputs.items()}
    return {"id": id_, "uses": "org/tfslim-action@v1", "with": given}


def workflow(*steps: dict[str, Any], on: Any = ("push", "pull_request"), **jobs: Any) -> str:
    """Return a workflow of one job `measure` with these steps, or of the jobs given."""
    measure = {"runs-on": "ubuntu-latest", "steps": list(steps)}
    return yaml.safe_dump(
        {
            "name": "tfslim",
            "on": list(on) if isinstance(on, tuple) else on,
            "jobs": jobs or {"measure": measure},
        },
        sort_keys=False,
    )
