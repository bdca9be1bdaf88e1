"""The harness itself: what act hides from a test has to come to light."""

from __future__ import annotations

import pytest

from act_runner import World

pytestmark = pytest.mark.action

TWO_JOBS = """\
on: [push]
jobs:
  first:
    runs-on: ubuntu-latest
    outputs:
      found: ${{ steps.say.outputs.found }}
    steps:
      - uses: actions/checkout@v7
      - id: say
        run: |
          echo "found=$(wc -c < data.bin)" >> "$GITHUB_OUTPUT"
          echo "# A summary" >> "$GITHUB_STEP_SUMMARY"
          echo "::error file=Dockerfile,line=3,title=Too large::One%0ATwo"
          mkdir -p out/deep && echo yes > out/deep/file.txt && echo no > out/.hidden
      - uses: actions/upload-artifact@v7
        with:
          name: things
          path: out
  second:
    needs: first
    runs-on: LABEL
    steps:
      - uses: actions/download-artifact@v8
        with:
          pattern: thing*
          path: got
      - run: test "$(cat got/things/deep/file.txt) ${{ needs.first.outputs.found }}" = "yes 300000"
"""


def test_two_jobs_with_an_artifact(world: World) -> None:
    world.repository.commit({".github/workflows/two.yml": TWO_JOBS.replace("LABEL", "gpu")})
    run = world.push("two.yml")
    assert run.jobs == {"first": "success", "second": "success"}, run
    (annotation,) = run.annotations
    assert (annotation.file, annotation.line, annotation.message) == ("Dockerfile", 3, "One\nTwo")
    assert run.summary == "# A summary\n"
    assert run.outputs("say") == {"found": "300000"}
    assert [path.name for path in run.artifact("things").rglob("*")] == ["deep", "file.txt"]
    assert [one.name for one in world.fake.state.repository(world.name).artifacts] == ["things"]


def test_a_job_that_no_machine_takes_is_no_success(world: World) -> None:
    world.repository.commit({".github/workflows/two.yml": TWO_JOBS.replace("LABEL", "mainframe")})
    with pytest.raises(AssertionError, match=r"have no result: \{'second'\}"):
        world.push("two.yml")


def test_an_action_of_somebody_else_is_refused(world: World) -> None:
    text = TWO_JOBS.replace("actions/checkout@v7", "someone/checkout@v7")
    world.repository.commit({".github/workflows/two.yml": text})
    with pytest.raises(AssertionError, match="no stand-in"):
        world.push("two.yml")
