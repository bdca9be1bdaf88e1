"""The guard as it runs in a slim tree: real interpreters, a stand-in for the driver."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from site_tree import SITE, install, python

from tfslim.slim import guard
from tfslim.slim.apply import apply_plan
from tfslim.slim.archs import parse_targets
from tfslim.slim.planning import make_plan
from tfslim.slim.rules import make_policy

HERE = Path(__file__).parent
MODULES = HERE.parents[2] / "ci" / "tfslim" / "slim" / "guard" / "site"
RUN = "import tensorflow; print('computes')"


def make(
    tree: Path, arch: str = "90", profile: str = "arch", *keep: str, also: tuple[str, ...] = ()
) -> None:
    """Slim a tree that holds a TensorFlow and a CUDA runtime."""
    if not (tree / SITE).exists():
        install(
            tree,
            "tensorflow",
            {
                "tensorflow/__init__.py": "",
                "tensorflow/lite/__init__.py": "",
                "tensorflow/lite/gone.py": "",
            },
        )
        runtime = tree / SITE / "nvidia" / "cuda_runtime" / "lib" / "libcudart.so.12"
        runtime.parent.mkdir(parents=True)
        runtime.write_text("native")
    policy = make_policy(profile, parse_targets(arch), keep=keep, also=also)
    apply_plan(make_plan(tree, policy), tree)


def run(tree: Path, driver: str, code: str = RUN, **environment: str) -> tuple[int, str, str]:
    done = python(tree, code, LD_LIBRARY_PATH=driver, **environment)
    return done.returncode, done.stdout.strip(), done.stderr.strip()


COMPUTES = (0, "computes", "")


@pytest.mark.parametrize(
    ("arch", "gpus"),
    [("90", "9.0"), ("80", "8.6"), ("80,90", "8.0"), ("75,90", "7.5,9.0")],
)
def test_a_gpu_that_is_served(arch: str, gpus: str, tmp_path: Path, driver: str) -> None:
    make(tmp_path, arch)
    assert run(tmp_path, driver, FAKE_GPUS=gpus) == COMPUTES


@pytest.mark.parametrize(
    ("arch", "gpu", "rebuild"),
    [
        ("90", "7.5", "75,90"),
        ("86", "8.0", "80,86"),
        ("90", "10.0", "90,100"),
        ("90+PTX", "8.0", "80,90"),
    ],
)
def test_a_gpu_that_is_not_served_ends_with_one_line(
    arch: str, gpu: str, rebuild: str, tmp_path: Path, driver: str
) -> None:
    make(tmp_path, arch)
    status, out, error = run(tmp_path, driver, FAKE_GPUS=gpu)
    assert (status, out) == (78, "")
    served = arch.removesuffix("+PTX")
    assert error.startswith(
        f"tfslim: this image serves sm_{served}; GPU 0 (Fake GPU for tests, "
        f"sm_{gpu.replace('.', '')}) cannot run it: slim with --cuda-arch {rebuild}"
    )
    assert "\n" not in error


def test_settings(tmp_path: Path, driver: str) -> None:
    make(tmp_path)
    old = {"FAKE_GPUS": "7.5"}
    status, out, error = run(tmp_path, driver, TFSLIM_GUARD="warn", **old)
    assert (status, out) == (0, "computes")
    assert error.startswith("tfslim: this image serves sm_90")
    assert run(tmp_path, driver, TFSLIM_GUARD="off", **old) == COMPUTES
    assert run(tmp_path, driver, TFSLIM_GUARD="exit", **old)[0] == 78


@pytest.mark.parametrize(
    "environment",
    [
        {"CUDA_VISIBLE_DEVICES": ""},
        {"CUDA_VISIBLE_DEVICES": "-1"},
        {"CUDA_VISIBLE_DEVICES": "MIG-1234"},
        {"CUDA_VISIBLE_DEVICES": "7"},
        {"CUDA_VISIBLE_DEVICES": "GPU-99999999"},
        {"NVIDIA_VISIBLE_DEVICES": "void"},
        {"NVIDIA_VISIBLE_DEVICES": "none"},
        {"FAKE_GPUS": ""},
    ],
)
def test_where_no_gpu_is_used_or_nobody_can_tell_nothing_is_said(
    environment: dict[str, str], tmp_path: Path, driver: str
) -> None:
    make(tmp_path)
    assert run(tmp_path, driver, **{"FAKE_GPUS": "7.5", **environment}) == COMPUTES


@pytest.mark.parametrize(
    ("visible", "status", "says"),
    [
        ({}, 0, "GPU 0 (Fake GPU for tests, sm_75) cannot run"),  # one of two: a warning
        ({"CUDA_VISIBLE_DEVICES": "GPU-00000000"}, 78, "GPU 0"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-00000001"}, 0, ""),
        ({"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, 78, "GPU 0"),
        ({"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, 0, ""),
        # CUDA's own order is by speed, which NVML does not know: a warning.
        ({"CUDA_VISIBLE_DEVICES": "0"}, 0, "GPU 0"),
    ],
)
def test_different_gpus(
    visible: dict[str, str], status: int, says: str, tmp_path: Path, driver: str
) -> None:
    make(tmp_path)
    result = run(tmp_path, driver, FAKE_GPUS="7.5,9.0", **visible)
    assert result[0] == status, result
    assert says in result[2]
    assert bool(says) == bool(result[2])


def test_several_gpus_of_a_kind_are_one_line(tmp_path: Path, driver: str) -> None:
    make(tmp_path)
    status, _, error = run(tmp_path, driver, FAKE_GPUS="7.0,7.0,7.0")
    assert status == 78
    assert "sm_70) and 2 more cannot run it" in error
    status, _, error = run(
        tmp_path, driver, FAKE_GPUS="7.0,7.0,7.0", CUDA_VISIBLE_DEVICES="1,2,9,0"
    )
    assert "GPU 1 (Fake GPU for tests, sm_70) and 1 more" in error


def test_a_driver_that_is_too_old(tmp_path: Path, driver: str) -> None:
    make(tmp_path)
    status, out, error = run(tmp_path, driver, FAKE_CUDA="11080", FAKE_DRIVER="520.61.05")
    assert (status, out) == (78, "")
    assert "needs a driver for CUDA 12 (525.60.13 or newer)" in error
    assert "driver 520.61.05 is for CUDA 11.8" in error
    assert run(tmp_path, driver, FAKE_CUDA="12000", FAKE_DRIVER="525.60.13") == COMPUTES
    assert run(tmp_path, driver, FAKE_CUDA="13000", FAKE_DRIVER="580.65.06") == COMPUTES


def test_code_stored_with_zstd_needs_a_driver_that_reads_it(tmp_path: Path, driver: str) -> None:
    make(tmp_path, also=("zstd",))
    status, out, error = run(tmp_path, driver, FAKE_CUDA="12070", FAKE_DRIVER="565.57.01")
    assert (status, out) == (78, "")
    assert "with zstd, for driver 570.26 or newer; driver 565.57.01 is older" in error
    assert run(tmp_path, driver, FAKE_CUDA="12080", FAKE_DRIVER="570.26") == COMPUTES
    make(tmp_path)  # what was stored so stays so
    assert run(tmp_path, driver, FAKE_CUDA="12070", FAKE_DRIVER="565.57.01")[0] == 78


def test_without_a_driver_nothing_is_said(tmp_path: Path) -> None:
    make(tmp_path)
    assert run(tmp_path, "/nowhere") == COMPUTES


def test_in_another_thread_the_process_ends_too(tmp_path: Path, driver: str) -> None:
    """As in a service that loads its model while it answers already; and it catches everything."""
    make(tmp_path)
    code = (
        "import threading, time\n"
        "def load():\n"
        "    try:\n        import tensorflow\n"
        "    except BaseException as error: print('caught', error, flush=True)\n"
        "threading.Thread(target=load).start()\n"
        "time.sleep(20)\n"
    )
    status, out, error = run(tmp_path, driver, code, FAKE_GPUS="7.5")
    assert (status, out) == (78, "")
    assert error.count("\n") == 0


def test_looking_for_tensorflow_is_not_importing_it(tmp_path: Path, driver: str) -> None:
    make(tmp_path)
    code = "import importlib.util as u; print(bool(u.find_spec('tensorflow')))"
    assert run(tmp_path, driver, code, FAKE_GPUS="7.5") == (0, "True", "")


def test_what_is_gone(tmp_path: Path) -> None:
    make(tmp_path, "90", "inference")
    done = python(tmp_path, "import tensorflow.lite.gone")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: No module named 'tensorflow.lite.gone': tfslim")
    assert last.endswith("(rule tensorflow-lite); slim with --keep lite to have it")


def test_what_is_gone_with_all_that_was_beside_it(tmp_path: Path) -> None:
    tool = tmp_path / SITE / "numpy" / "f2py" / "deep" / "tool.py"
    tool.parent.mkdir(parents=True)
    tool.touch()
    install(tmp_path, "tensorflow", {"tensorflow/__init__.py": "", "numpy/__init__.py": ""})
    make(tmp_path, "90", "inference")
    last = python(tmp_path, "import numpy.f2py.deep.tool").stderr.splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: No module named 'numpy.f2py': tfslim")


def test_programs_that_look_first_are_told_that_it_is_not_there(tmp_path: Path) -> None:
    make(tmp_path, "90", "inference")
    code = (
        "import importlib.util as u, tensorflow.lite\n"
        "print(u.find_spec('tensorflow.lite.gone'), u.find_spec('never_there'))\n"
        "try:\n    import tensorflow.lite.gone\n"
        "except ModuleNotFoundError as error: print(error.name)\n"
    )
    assert python(tmp_path, code).stdout.split() == ["None", "None", "tensorflow.lite.gone"]


def test_a_finder_that_came_later_may_know_it(tmp_path: Path) -> None:
    """As those of six.moves and of editable installs."""
    make(tmp_path, "90", "inference")
    code = (
        "import sys, importlib.machinery as m\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        known = name == 'tensorflow.lite.gone'\n"
        "        return m.ModuleSpec(name, self, origin='later') if known else None\n"
        "    def create_module(self, spec): return None\n"
        "    def exec_module(self, module): pass\n"
        "sys.meta_path.append(Finder())\n"
        "import tensorflow.lite.gone as gone; print(gone.__spec__.origin)\n"
        "import tensorflow.lite.gone.deeper\n"
    )
    done = python(tmp_path, code)
    assert done.stdout == "later\n", done.stderr
    assert "not a package" in done.stderr


def test_python_dash_m(tmp_path: Path) -> None:
    make(tmp_path, "90", "inference")
    site = str(tmp_path / SITE)
    code = "import sys; sys.argv = ['x']; import runpy; runpy.run_module('NAME')"
    gone = python(tmp_path, code.replace("NAME", "tensorflow.lite.gone"), PYTHONPATH=site)
    assert "--keep lite" in gone.stderr
    told = python(
        tmp_path, code.replace("run_module('NAME')", "run_module('_tfslim', run_name='__main__')")
    )
    assert "profile inference. GPUs served: sm_90; driver 525.60.13 or newer." in told.stdout
    assert "tensorflow-lite (--keep lite)" in told.stdout
    assert "Gone: tensorflow.lite.gone" in told.stdout


@pytest.mark.parametrize("damage", ["missing", "empty", "not JSON", "[]", '{"served": 5}'])
def test_a_damaged_guard_breaks_nothing(damage: str, tmp_path: Path, driver: str) -> None:
    make(tmp_path)
    data = tmp_path / SITE / "_tfslim.json"
    if damage == "missing":
        data.unlink()
    else:
        data.write_text("" if damage == "empty" else damage)
    assert run(tmp_path, driver, FAKE_GPUS="7.5") == COMPUTES
    code = "try:\n    import tensorflow.nothing\nexcept ModuleNotFoundError as error: print(error)"
    assert run(tmp_path, driver, code)[1] == "No module named 'tensorflow.nothing'"


def test_a_driver_that_cannot_be_asked_breaks_nothing(tmp_path: Path, driver: str) -> None:
    make(tmp_path)
    strange = tmp_path / "driver"
    strange.mkdir()
    (strange / "libnvidia-ml.so.1").write_text("not a library")
    assert run(tmp_path, str(strange)) == COMPUTES
    (tmp_path / "empty.c").write_text("int nothing;")
    library = str(strange / "libnvidia-ml.so.1")
    command = ["gcc", "-shared", "-fPIC", "-o", library, str(tmp_path / "empty.c")]
    subprocess.run(command, check=True)
    assert run(tmp_path, str(strange)) == COMPUTES


def test_without_the_guard(tmp_path: Path, driver: str) -> None:
    make(tmp_path, "90", "inference", "guard")
    assert not list((tmp_path / SITE).glob("_tfslim*"))
    assert run(tmp_path, driver, FAKE_GPUS="7.5") == COMPUTES


def test_a_tree_that_was_slimmed_before(tmp_path: Path) -> None:
    """What went stays known, and only what both runs served is served."""
    make(tmp_path, "80,90", "inference")
    before = json.loads((tmp_path / SITE / "_tfslim.json").read_text())
    make(tmp_path, "90")
    after = json.loads((tmp_path / SITE / "_tfslim.json").read_text())
    assert (before["served"], after["served"]) == ([80, 90], [90])
    assert after["modules"] == before["modules"] != {}
    policy = make_policy("arch", parse_targets("90"))
    assert make_plan(tmp_path, policy).files == ()


@pytest.mark.parametrize("ptx", ["", "+PTX"])
def test_where_two_runs_left_nothing_each_gpu_is_named(
    ptx: str, tmp_path: Path, driver: str
) -> None:
    make(tmp_path, f"80{ptx}")
    make(tmp_path, f"90{ptx}")
    for gpu in ("8.0", "9.0"):
        status, out, error = run(tmp_path, driver, FAKE_GPUS=gpu)
        assert (status, out) == (78, "")
        number = gpu.replace(".", "")
        assert error.startswith(
            f"tfslim: this image serves no GPU that was named; GPU 0 (Fake GPU for tests, "
            f"sm_{number}) cannot run it: slim with --cuda-arch {number}"
        )
        assert "\n" not in error
    told = python(tmp_path, "import _tfslim_guard; _tfslim_guard.tell()").stdout
    assert "GPUs served: none" in told


def test_a_gpu_newer_than_all_that_were_named_has_the_ptx_of_both_runs(
    tmp_path: Path, driver: str
) -> None:
    make(tmp_path, "80+PTX")
    make(tmp_path, "90+PTX")
    status, out, error = run(tmp_path, driver, FAKE_GPUS="10.0")
    assert (status, out) == (0, "computes")
    assert "all its kernels are compiled from PTX at first use" in error


@pytest.mark.parametrize("ptx", [False, True])
def test_where_no_gpu_was_ever_named_all_are_served(ptx: bool, tmp_path: Path, driver: str) -> None:
    make(tmp_path)
    data = tmp_path / SITE / "_tfslim.json"
    known = {**json.loads(data.read_text()), "served": [], "newest": 0, "ptx": ptx}
    data.write_text(json.dumps(known))
    assert run(tmp_path, driver, FAKE_GPUS="7.5") == COMPUTES


def test_profile_safe_has_no_guard(tmp_path: Path) -> None:
    install(tmp_path, "tensorflow", {"tensorflow/__init__.py": ""})
    assert make_plan(tmp_path, make_policy("safe")).files == ()


def test_at_start_next_to_nothing_is_loaded(tmp_path: Path) -> None:
    """Every interpreter of the image pays for it, most of them without TensorFlow."""
    make(tmp_path)
    code = "import sys; print(sorted(set(sys.modules) - before))"
    started = "import sys; before = set(sys.modules)\n"
    plain = [sys.executable, "-S", "-B", "-c"]
    add = f"import site\nbefore = set(sys.modules)\nsite.addsitedir({str(tmp_path / SITE)!r})\n"
    done = subprocess.run(
        [*plain, started + add + code], capture_output=True, text=True, check=True
    )
    assert ast.literal_eval(done.stdout) == ["_tfslim"]


@pytest.mark.parametrize("module", sorted(path.name for path in MODULES.glob("*.py")))
def test_it_runs_on_the_oldest_python_that_tensorflow_had(module: str) -> None:
    ast.parse((MODULES / module).read_text(), feature_version=(3, 9))


def test_the_modules_are_those_that_are_put_in_place() -> None:
    assert sorted(guard._MODULES) == sorted(p.name for p in MODULES.iterdir() if p.is_file())


def test_every_cuda_version_that_tensorflow_was_built_with_has_a_driver() -> None:
    drivers = guard._drivers()
    assert {11, 12, 13} <= set(drivers)
    assert all(text.count(".") == 2 for text in drivers.values())


def test_files_are_readable_by_any_user(tmp_path: Path) -> None:
    make(tmp_path)
    for path in (tmp_path / SITE).glob("_tfslim*"):
        assert path.stat().st_mode & 0o777 == 0o644


def test_the_service_ends_with_the_guards_line(tmp_path: Path, driver: str) -> None:
    """It imports TensorFlow in a thread, and answers /health already."""
    make(tmp_path)
    model = tmp_path / "model"
    model.mkdir()
    (model / "saved_model.pb").write_bytes(b"")
    app = HERE.parents[2] / "dockerfiles" / "app"
    code = (
        "import runpy, sys\n"
        f"sys.path += [{str(app)!r}, *{[p for p in sys.path if 'site-packages' in p]!r}]\n"
        "runpy.run_module('tfserve_app', run_name='__main__')\n"
    )
    status, _, error = run(
        tmp_path, driver, code, FAKE_GPUS="7.5", TFSLIM_MODEL_PATH=str(model), PORT="0"
    )
    assert status == 78, error
    assert error.startswith("tfslim: this image serves sm_90; GPU 0")
    assert "\n" not in error
