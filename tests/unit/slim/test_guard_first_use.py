"""The guard's line about kernels that the driver compiles at first use: when, once, silenced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from site_tree import SITE, install, python
from synthetic import CUBIN, PTX, Library, container, entry

from tfslim.slim.apply import apply_plan
from tfslim.slim.archs import parse_targets
from tfslim.slim.planning import make_plan
from tfslim.slim.rules import make_policy

RUN = "import tensorflow; print('computes')"
TWICE = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import tensorflow'])"
LINE = "modules with kernels are compiled from PTX at first use"


def make(tree: Path, arch: str) -> None:
    """Slim a tree whose library has two modules of PTX for 9.0 and machine code for 8.0."""
    install(tree, "tensorflow", {"tensorflow/__init__.py": ""})
    module = container(entry(CUBIN, 80, bytes(3000)), entry(PTX, 90, b".version 8.5"))
    library = tree / SITE / "tensorflow" / "libgpu.so"
    library.write_bytes(Library(data=module + bytes(-len(module) % 64) + module).build())
    plan = make_plan(tree, make_policy("arch", parse_targets(arch)))
    apply_plan(plan, tree)


def error(tree: Path, driver: str, code: str = RUN, **environment: str) -> str:
    done = python(tree, code, LD_LIBRARY_PATH=driver, **environment)
    assert done.returncode == 0
    return str(done.stderr.strip())


def test_one_line_names_the_gpu_and_the_way_out(tmp_path: Path, driver: str) -> None:
    make(tmp_path, "80,90")
    assert json.loads((tmp_path / SITE / "_tfslim.json").read_text())["jit"] == {"90": 2}
    said = error(tmp_path, driver, FAKE_GPUS="9.0")
    assert f"GPU 0 (Fake GPU for tests, sm_90): 2 {LINE}" in said
    assert "slim with --cuda-arch 90 --aot" in said
    assert "\n" not in said


def test_nothing_is_said_where_machine_code_is_there(tmp_path: Path, driver: str) -> None:
    make(tmp_path, "80,90")
    assert error(tmp_path, driver, FAKE_GPUS="8.6") == ""


@pytest.mark.parametrize(
    "environment",
    [{"TFSLIM_GUARD": "off"}, {"CUDA_VISIBLE_DEVICES": ""}, {"NVIDIA_VISIBLE_DEVICES": "void"}],
)
def test_it_can_be_silenced(environment: dict[str, str], tmp_path: Path, driver: str) -> None:
    make(tmp_path, "90")
    assert error(tmp_path, driver, FAKE_GPUS="9.0", **environment) == ""


def test_processes_that_this_one_starts_do_not_say_it_again(tmp_path: Path, driver: str) -> None:
    make(tmp_path, "90")
    assert error(tmp_path, driver, f"import tensorflow; {TWICE}", FAKE_GPUS="9.0").count(LINE) == 1


def test_a_newer_gpu_compiles_everything_from_the_ptx_that_was_kept(
    tmp_path: Path, driver: str
) -> None:
    make(tmp_path, "90+PTX")
    said = error(tmp_path, driver, FAKE_GPUS="12.0")
    assert "sm_120): all its kernels are compiled from PTX at first use" in said
