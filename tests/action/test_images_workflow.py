"""The reusable workflow, run as it is by act: its plumbing, with a stand-in for the action.

The stand-in notes what each job gives it and leaves the artifact that the action would; so what is
tested is the workflow: who runs, with which inputs, on which machine, and what reaches the report.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from act_runner import Act, ActRun, UserRepo

pytestmark = pytest.mark.action

REPOSITORY = Path(__file__).resolve().parents[2]
UPLOAD = next(
    line.split("uses:")[1].strip()
    for line in (REPOSITORY / "action.yml").read_text().splitlines()
    if "actions/upload-artifact@" in line
)
MATRIX = {"include": [{"variant": "stock"}, {"variant": "inference"}]}
STAND_IN = """\
python3 - <<'PY'
import json, os, pathlib
given = {k[6:].lower(): v for k, v in os.environ.items() if k.startswith("GIVEN_") and v}
folder = pathlib.Path("report")
folder.mkdir(exist_ok=True)
parts = sorted(p.parent.name for p in pathlib.Path(".").glob("tfslim-parts/*/given.json"))
given["parts"] = parts
(folder / "given.json").write_text(json.dumps(given))
PY
if [ "$GIVEN_MODE" = plan ]; then printf 'matrix=%s\\n' "$MATRIX" >> "$GITHUB_OUTPUT"; fi
echo "verdict=good" >> "$GITHUB_OUTPUT"
[ "$GIVEN_ID" != "$FAILS" ]
"""


def _stand_in(folder: Path) -> Path:
    """Make an action with the real one's inputs and outputs that only notes what it is given."""
    own = yaml.safe_load((REPOSITORY / "action.yml").read_text())
    given = {
        f"GIVEN_{name.upper().replace('-', '_')}": f"${{{{ inputs.{name} }}}}"
        for name in own["inputs"]
    }
    given.pop("GIVEN_TOKEN")
    run = {"id": "run", "shell": "bash", "run": STAND_IN, "env": given}
    upload = {
        "if": "always() && inputs.mode != 'plan'",
        "uses": UPLOAD.split(" #")[0],
        "with": {"name": "tfslim-report-${{ inputs.id }}", "path": "report"},
    }
    outputs = {
        name: {"value": f"${{{{ steps.run.outputs.{name} }}}}"} for name in ("matrix", "verdict")
    }
    own |= {"runs": {"using": "composite", "steps": [run, upload]}, "outputs": outputs}
    folder.mkdir()
    (folder / "action.yml").write_text(yaml.safe_dump(own, sort_keys=False))
    workflows = folder / ".github" / "workflows"
    workflows.mkdir(parents=True)
    shutil.copy(REPOSITORY / ".github/workflows/images.yml", workflows)
    return folder


@pytest.fixture
def act(act_program: Path, tmp_path: Path) -> Act:
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(
        f"#!/bin/bash\ncd {tmp_path}\n"
        'echo "$@" >> docker-calls\n[ "$1" != login ] || cat > password\n'
    )
    docker.chmod(0o755)
    env = {"MATRIX": json.dumps(MATRIX), "FAILS": "nothing"}
    path = f"{docker.parent}:{os.environ['PATH']}"
    (tmp_path / "act").mkdir()
    return Act(
        act_program,
        action=_stand_in(tmp_path / "action"),
        scratch=tmp_path / "act",
        env=env,
        path=path,
        home=tmp_path / "home",
    )


def _call(
    act: Act, folder: Path, inputs: Mapping[str, str], *, fork: bool = False, **more: Any
) -> tuple[ActRun, dict[str, dict[str, Any]]]:
    """Run a workflow that calls images.yml; return the run and what each job was given."""
    template = yaml.safe_load((REPOSITORY / "docs/workflows/matrix.yml").read_text())
    template["on"] = template.pop(True)
    template["jobs"]["images"]["with"] |= inputs
    repository = UserRepo(folder / "demo")
    repository.commit({".github/workflows/matrix.yml": yaml.safe_dump(template, sort_keys=False)})
    head = {"repo": {"full_name": "stranger/demo" if fork else "octo-org/demo"}, "sha": "1" * 40}
    payload = {"pull_request": {"number": 7, "head": head, "base": {"sha": "2" * 40}}}
    # A job that calls a workflow has no result of its own in act.
    run = act.run(repository, "matrix.yml", "pull_request", payload, skipped=["images"], **more)
    given = {
        name.removeprefix("tfslim-report-"): json.loads(
            (run.artifact(name) / "given.json").read_text()
        )
        for name in run.artifacts
    }
    return run, given


GPUS = '[["self-hosted", "gpu", "sm80"], ["self-hosted", "gpu", "sm90"]]'


def test_builds_are_measured_and_joined(act: Act, tmp_path: Path) -> None:
    run, given = _call(act, tmp_path, {"gpu-runners": GPUS, "builder": "tcp://buildkit:1234"})
    assert run.jobs == dict.fromkeys(["plan", "build", "bench", "report"], "success")
    parts = [
        "tfslim--inference",
        "tfslim--self-hosted-gpu-sm80",
        "tfslim--self-hosted-gpu-sm90",
        "tfslim--stock",
    ]
    assert sorted(given) == ["tfslim", *parts]
    assert given["tfslim"]["parts"] == [f"tfslim-report-{part}" for part in parts]
    assert given["tfslim"]["mode"] == "join"
    assert given["tfslim"]["max_pull"] == "4 GB"
    assert given["tfslim--stock"]["variants"] == "stock"
    assert given["tfslim--stock"]["max_pull"] == "4 GB"
    assert given["tfslim--stock"]["gpu"] == "off"
    gpu = given["tfslim--self-hosted-gpu-sm90"]
    assert gpu["variants"] == "stock, inference, inference-native"  # in turn, on one machine
    assert (gpu["gpu"], gpu["bench"]) == ("required", "full")
    assert {given[part]["builder"] for part in parts} == {"tcp://buildkit:1234"}
    assert {given[part]["comment"] for part in parts} == {"never"}
    assert not (tmp_path / "docker-calls").exists()


def test_without_gpus_the_sizes_are_joined(act: Act, tmp_path: Path) -> None:
    run, given = _call(act, tmp_path, {})
    assert run.jobs.get("bench", "skipped") == "skipped"
    assert run.jobs["report"] == "success"
    assert given["tfslim"]["parts"] == [
        "tfslim-report-tfslim--inference",
        "tfslim-report-tfslim--stock",
    ]


def test_images_are_pushed_with_a_login_that_does_not_stay(act: Act, tmp_path: Path) -> None:
    inputs = {"push": "ghcr.io/me/tensorflow", "tags": "1.2"}
    _, given = _call(act, tmp_path, inputs, token="a-token-of-the-job")
    calls = (tmp_path / "docker-calls").read_text().splitlines()
    assert sorted(calls) == sorted(
        2 * ["login ghcr.io --username mona --password-stdin", "logout ghcr.io"]
    )
    assert (tmp_path / "password").read_text() == "a-token-of-the-job"
    assert given["tfslim--inference"]["push"] == "ghcr.io/me/tensorflow"
    assert given["tfslim--inference"]["tags"] == "1.2"
    assert "push" not in given["tfslim"]


def test_a_fork_gets_no_gpu_and_pushes_nothing(act: Act, tmp_path: Path) -> None:
    inputs = {"push": "ghcr.io/me/tensorflow", "tags": "1.2", "gpu-runners": GPUS}
    run, given = _call(act, tmp_path, inputs, fork=True)
    assert run.jobs.get("bench", "skipped") == "skipped"
    assert run.jobs["report"] == "success"
    assert sorted(given) == ["tfslim", "tfslim--inference", "tfslim--stock"]
    assert "push" not in given["tfslim--inference"]
    assert not (tmp_path / "docker-calls").exists()


def test_a_build_that_fails_is_in_the_report_and_takes_no_gpu(act: Act, tmp_path: Path) -> None:
    env = {"FAILS": "tfslim--inference"}
    run, given = _call(act, tmp_path, {"gpu-runners": GPUS}, env=env)
    assert not run.ok
    assert run.jobs["build"] == "failure"
    assert run.jobs.get("bench", "skipped") == "skipped"
    assert run.jobs["report"] == "success"  # the stand-in's; the action would say what is missing
    assert len(given["tfslim"]["parts"]) == 2
