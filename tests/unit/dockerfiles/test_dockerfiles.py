"""What the Dockerfiles promise each other and their readers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCKERFILES = Path(__file__).resolve().parents[3] / "dockerfiles"
OURS = ["approach-a", "approach-b", "training", "inference"]


def text(variant: str) -> str:
    return (DOCKERFILES / variant / "Dockerfile").read_text()


def section(variant: str, name: str) -> str:
    match = re.search(rf"# ---- {name}.*?# ---- end of {name} ----", text(variant), re.DOTALL)
    assert match, f"{variant} has no section {name}"
    return match[0]


def test_variants_with_wheels_share_one_environment_stage() -> None:
    venv = section("approach-b", "venv")
    assert section("training", "venv") == venv
    assert section("inference", "venv") == venv


def test_approach_b_and_training_share_their_runtime_layers() -> None:
    assert section("approach-b", "runtime") == section("training", "runtime")


def test_approach_b_and_training_pass_one_gate() -> None:
    assert section("approach-b", "gate") == section("training", "gate")


@pytest.mark.parametrize("variant", OURS)
def test_no_image_of_ours_is_finished_without_the_gate(variant: str) -> None:
    last = text(variant).rpartition("\nFROM ")[2]
    assert "COPY --link --from=gate /out /" in last


@pytest.mark.parametrize("variant", OURS)
def test_images_run_as_a_user_of_their_own_and_say_whether_they_are_well(variant: str) -> None:
    assert re.search(r"^USER 10001:10001$", text(variant), re.MULTILINE)
    assert "HEALTHCHECK" in text(variant)
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in text(variant)


@pytest.mark.parametrize("variant", [*OURS, "stock"])
def test_each_begins_with_a_header_that_teaches(variant: str) -> None:
    header = text(variant).split("\nARG ", 1)[0]
    assert header.startswith(f"# {variant}: ")
    assert len(header.splitlines()) >= 6


def test_the_image_without_a_distribution_begins_with_nothing_and_ends_with_its_model() -> None:
    assert "FROM scratch AS base-minimal" in text("inference")
    copied = re.findall(r"^COPY --link --from=(\S+)", text("inference"), re.MULTILINE)
    assert copied == ["split"] * 4 + ["gate", "service", "prefetch", "served"]


@pytest.mark.parametrize("variant", OURS)
def test_bytecode_is_never_removed_or_forbidden(variant: str) -> None:
    instructions = "\n".join(
        line for line in text(variant).splitlines() if not line.lstrip().startswith("#")
    )
    assert "PYTHONDONTWRITEBYTECODE" not in instructions
    assert "__pycache__" not in instructions
