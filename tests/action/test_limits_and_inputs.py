"""What fails a job, and where people see why; inputs that cannot be used; inputs that attack."""

from __future__ import annotations

from typing import Any

import pytest

from act_runner import World, step, workflow

pytestmark = pytest.mark.action


def test_a_broken_limit_fails_the_job_at_the_line_of_the_dockerfile(world: World) -> None:
    world.use(step(dockerfile="Dockerfile", max_disk="200 kB"))
    run = world.push().expect(measure="failure")
    (error,) = [one for one in run.annotations if one.level == "error"]
    assert (error.file, error.line) == ("Dockerfile", 3)  # the COPY
    assert "max-disk" in error.message
    assert run.outputs("tfslim")["verdict"] == "bad"
    assert "❌" in run.summary
    # The report is there all the same.
    assert (run.artifact("tfslim-report-tfslim") / "report.html").is_file()


def test_a_limit_that_only_warns(world: World) -> None:
    world.use(step(dockerfile="Dockerfile", max_pull="1 kB", fail_on="never"))
    run = world.push().expect(measure="success")
    assert [one.level for one in run.annotations if one.file == "Dockerfile"] == ["warning"]
    assert run.outputs("tfslim")["verdict"] == "bad"


def test_at_most_ten_annotations(world: World) -> None:
    libraries = "".join(f"      lib{number}.so: 1 B\n" for number in range(14))
    copies = "".join(f"COPY data.bin /lib/lib{number}.so\n" for number in range(14))
    world.repository.write(
        {
            "Dockerfile": f"FROM scratch\n{copies}",
            "tfslim.yaml": f"budgets:\n  default:\n    libraries:\n{libraries}",
        }
    )
    world.use(step(dockerfile="Dockerfile"))
    run = world.push().expect(measure="failure")
    assert len([one for one in run.annotations if one.level == "error"]) == 10
    assert all(f"lib{number}.so" in run.summary for number in range(14))


def test_a_dockerfile_that_does_not_build(world: World) -> None:
    world.repository.write({"Dockerfile": "FROM scratch\nCOPY nothing /\n"})
    world.use(step(dockerfile="Dockerfile"))
    run = world.push().expect(measure="failure")
    assert "the build of Dockerfile failed" in run.errors_of("tfslim")
    assert '"/nothing": not found' in run.errors_of("tfslim")
    assert run.outputs("tfslim")["verdict"] == "error"
    assert "COPY nothing" in run.summary
    assert (run.artifact("tfslim-report-tfslim") / "action.json").is_file()


WRONG: list[tuple[dict[str, Any], list[str]]] = [
    (
        {
            "id": "My Report!",
            "launches": "many",
            "build_args": "no value",
            "bench": "size",
            "comment": "perhaps",
        },
        [
            *("id: 'My Report!'", "launches: 'many'", "build-args: 'no value'"),
            *("bench: 'size'", "did you mean 'sizes'", "comment: 'perhaps'"),
        ],
    ),
    ({"mode": "runn"}, ["mode", "runn", "did you mean 'run'"]),
    ({"dockerfile": "Dockerfil"}, ["dockerfile: Dockerfil"]),
    ({"max_pull": "800 potatoes"}, ["max-pull", "800 potatoes", "800 MB"]),
    ({"variants": "stoc", "dockerfile": ""}, ["variants", "stoc"]),
    ({"python": "/nowhere/python"}, ["python", "/nowhere/python"]),
    ({"report_dir": "."}, ["report-dir"]),
]


def test_inputs_that_cannot_be_used_are_named(world: World) -> None:
    """All at once: each in a step of its own, which may fail."""
    steps = [
        {
            **step(f"wrong-{number}", **{"dockerfile": "Dockerfile", **inputs}),
            "continue-on-error": True,
        }
        for number, (inputs, _) in enumerate(WRONG)
    ]
    world.use(*steps)
    run = world.push().expect(measure="success")
    for number, (inputs, words) in enumerate(WRONG):
        told = run.errors_of(f"wrong-{number}")
        missing = [word for word in words if word not in told]
        assert not missing, f"{inputs}: {missing} not in: {told!r}"


# What breaks out of a shell, of a workflow command, of Markdown or of a file of outputs.
EVIL = "$(touch pwned)`touch pwned`; touch pwned #' \" && touch pwned | touch pwned > pwned ${IFS}"
LINES = """\
x
::set-output name=verdict::good
::error::made up
::set-env name=PATH::/evil
EOF
verdict=good"""


@pytest.mark.parametrize("text", [EVIL, LINES], ids=["shell", "commands"])
def test_inputs_are_data_and_nothing_else(world: World, text: str) -> None:
    names = [
        *("mode", "id", "config", "image", "dockerfile", "context", "target", "build_args"),
        *("variants", "slim", "profile", "model", "trace_input", "cuda_archs", "tensorflow"),
        *("python", "baseline", "max_pull", "max_disk", "max_growth", "gpu", "bench", "launches"),
        *("fail_on", "comment", "cache", "push", "tags", "builder", "records", "report_dir"),
        "upload",
    ]
    # Those that decide whether there is anything to read, on their own; then all at once.
    alone = ("python", "mode", "report_dir")
    steps = [
        {
            **step(f"evil-{name}", **{"dockerfile": "Dockerfile", name: text}),
            "continue-on-error": True,
        }
        for name in alone
    ]
    everything = {name: text for name in names if name not in ("python", "mode")}
    steps.append({**step("evil", **everything), "continue-on-error": True})
    world.use(*steps, {"run": 'ls -A; echo "PATH is $PATH"; test ! -e pwned'})
    run = world.push().expect(measure="success")
    assert not run.commands("set-env")
    assert not run.commands("add-path")
    assert "/evil" not in run.log.rpartition("PATH is ")[2].partition("\n")[0]
    assert not [one for one in run.annotations if one.message.strip() == "made up"]
    for name in ("evil", "evil-python", "evil-mode"):
        assert run.outputs(name).get("verdict", "") in ("", "error"), name


def test_a_build_argument_reaches_the_build_as_it_is(world: World) -> None:
    """Quotes, dollars and commas are part of the value; nothing of it is run."""
    value = """$(touch /pwned) "a', b,c=d $HOME `id`"""
    world.repository.write(
        {"Dockerfile": 'FROM scratch\nARG TEXT\nLABEL text="${TEXT}"\nCOPY data.bin /\n'}
    )
    check = 'docker image inspect --format \'{{index .Config.Labels "text"}}\' "$IMAGE" > label'
    world.use(
        step(dockerfile="Dockerfile", build_args=f"TEXT={value}\nOTHER=1"),
        {"run": check, "env": {"IMAGE": "${{ steps.tfslim.outputs.image }}"}},
        {"run": 'test "$(cat label)" = "$WANTED"', "env": {"WANTED": value}},
    )
    world.push().expect(measure="success")


def test_reports_of_one_job_do_not_mix(world: World) -> None:
    """Two uses with ids of their own: two artifacts, two summaries, outputs of each."""
    world.repository.write({"Second.Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
    world.use(
        step("one", dockerfile="Dockerfile", id="one", report_dir="reports/one"),
        step("two", dockerfile="Second.Dockerfile", id="two", report_dir="reports/two"),
    )
    run = world.push().expect(measure="success")
    assert run.artifacts == ["tfslim-report-one", "tfslim-report-two"]
    assert run.outputs("one")["disk-bytes"] == "300000"
    dockerfile = world.repository.folder / "Dockerfile"
    assert run.outputs("two")["disk-bytes"] == str(dockerfile.stat().st_size)
    assert "tfslim-report:one" in run.summary
    assert "tfslim-report:two" in run.summary


def test_a_checkout_that_is_missing_is_said(world: World) -> None:
    world.repository.commit(
        {".github/workflows/tfslim.yml": workflow(step(dockerfile="Dockerfile"))}
    )
    run = world.push().expect(measure="failure")
    assert any("checked out" in one.message for one in run.annotations)
