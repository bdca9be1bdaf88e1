"""`tfslim slim --aot`, `--recompress zstd` and `tfslim inspect` as a person uses them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import fake_ptxas
import pytest
from synthetic import CUBIN, PTX, Library, container, entry

from tfslim.cli_slim import Request, dockerfile_stage
from tfslim.errors import ConfigError

TEXT = b".version 8.5\n.target sm_90\n.visible .entry k(\n)\n{ ret; }\n"


def tfslim(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tfslim", *map(str, arguments)],
        env={**os.environ, "DOCKER_HOST": "unix:///nowhere.sock", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A library with two modules of PTX for 9.0."""
    tree = tmp_path / "tree"
    tree.mkdir()
    module = container(
        entry(CUBIN, 80, fake_ptxas.cubin(80, ["k"], pad=1000)), entry(PTX, 90, TEXT)
    )
    data = module + bytes(-len(module) % 64) + module
    (tree / "libgpu.so").write_bytes(Library(data=data).build())
    return tree


def test_the_summary_says_what_was_compiled(tree: Path, ptxas: Path, tmp_path: Path) -> None:
    options = ("--aot", "--ptxas", ptxas, "--aot-cache", tmp_path / "cache", "--keep", "guard")
    done = tfslim("slim", tree, "--cuda-arch", "90", *options, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (
        "ahead of time for sm_90 (ptxas 12.9.86): 2 modules, 1 compiled, 0 from the cache, 0 failed"
    ) in done.stdout
    assert "Compiling 1 modules for sm_90" in done.stderr


def test_the_summary_warns_without_it(tree: Path, tmp_path: Path) -> None:
    done = tfslim("slim", tree, "--cuda-arch", "90", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "sm_90: 2 modules would be compiled from PTX at first use" in done.stdout
    assert "--aot compiles them now" in done.stdout


def test_inspect_says_what_each_gpu_finds(tree: Path) -> None:
    shown = tfslim("inspect", tree).stdout
    (row,) = (line.split() for line in shown.splitlines() if line.startswith("sm_90 "))
    assert row == ["sm_90", "0", "2", "0", "0"]
    data = json.loads(tfslim("inspect", tree, "--json", "--cuda-arch", "75,80,90").stdout)
    expected = {
        "sm_75": {"code": 0, "jit": 0, "none": 2, "picked": 0},
        "sm_80": {"code": 2, "jit": 0, "none": 0, "picked": 0},
        "sm_90": {"code": 0, "jit": 2, "none": 0, "picked": 0},
    }
    assert data["gpu"]["by_gpu"] == expected
    assert data["gpu"]["by_library"]["libgpu.so"]["by_gpu"] == expected


def test_options_of_their_own_mean_the_optional_rules() -> None:
    request = Request("tree", "90", "arch", aot=True, recompress="zstd", also=("zstd",))
    assert request.optional == ("zstd", "aot")


def test_the_emitted_stage_keeps_what_is_compiled(tree: Path) -> None:
    stage = dockerfile_stage(Request(str(tree), "90", "arch", aot=True, recompress="zstd"))
    assert "--mount=type=cache,target=/var/cache/tfslim-aot" in stage
    assert "--aot --recompress zstd --aot-cache /var/cache/tfslim-aot" in stage


def test_a_program_of_an_image_is_not_run_here_unasked() -> None:
    with pytest.raises(ConfigError, match="--ptxas own"):
        Request("some/image:1", "90", "arch", aot=True).policy()
    assert Request("some/image:1", "90", "arch", aot=True, ptxas="own").settings().ptxas is None
