"""Scripts run in trees and root file systems: what they see, how they end, what is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from engine_fakes import program
from tfslim.errors import InputError
from tfslim.parity.locate import find_target
from tfslim.parity.target import Ended, Script
from tfslim.parity.trees import RootTarget, TreeTarget


def no_engine() -> None:
    raise AssertionError("no engine is needed")


@pytest.fixture
def job(tmp_path: Path) -> Path:
    (tmp_path / "job" / "out").mkdir(parents=True)
    return tmp_path / "job"


def tree(folder: Path, script: str) -> str:
    program(folder / "bin", "python", script)
    return str(folder)


def run(source: str, job: Path, *, limit: float = 30, env: dict[str, str] | None = None) -> Ended:
    target = find_target(source, no_engine)  # type: ignore[arg-type]
    return target.run(job, Script(["probe.py", "a b"], limit, env or {}), lambda line: None)


def test_a_tree_sees_nothing_of_the_callers_environment(
    tmp_path: Path, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("LD_PRELOAD_NOT", "x")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/elsewhere")
    libraries = tmp_path / "tree/lib/python3.11/site-packages/nvidia/cufft/lib"
    libraries.mkdir(parents=True)
    ended = run(tree(tmp_path / "tree", "pwd; env; echo $*"), job, env={"TF_X": "1"})
    seen = ended.tail.splitlines()
    assert ended.ok
    assert seen[0] == str(job)
    assert seen[-1] == "-I -B probe.py a b"
    assert {"TF_X=1", f"HOME={job}", f"LD_LIBRARY_PATH={libraries}"} <= set(seen)
    assert not any("elsewhere" in line or "NOT" in line for line in seen)


def test_the_driver_of_the_callers_search_path_stays_in_reach(
    tmp_path: Path, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "driver", "libcuda.so.1", "")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{tmp_path / 'driver'}:/elsewhere:")
    ended = run(tree(tmp_path / "tree", "echo $LD_LIBRARY_PATH"), job)
    assert ended.tail == str(tmp_path / "driver")


def test_a_signal_is_named(tmp_path: Path, job: Path) -> None:
    assert run(tree(tmp_path / "tree", "kill -SEGV $$"), job).how == "ended by SIGSEGV"
    assert Ended(139, "").how == "ended by SIGSEGV"
    assert Ended(3, "").how == "exit status 3"


def test_a_script_that_hangs_is_ended(tmp_path: Path, job: Path) -> None:
    ended = run(tree(tmp_path / "tree", "echo before; sleep 600"), job, limit=1)
    assert not ended.ok
    assert ended.tail == "before"


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda folder: None, "neither a virtual environment"),
        (lambda folder: (folder / "bin").mkdir(), "no folder"),
        (
            lambda folder: ((folder / "bin").mkdir(), (folder / "bin/python").symlink_to("/gone")),
            "links to a Python that is gone: /gone",
        ),
        (lambda folder: (folder / "usr").mkdir(), "no Python with TensorFlow"),
        (lambda folder: (folder / "oci-layout").touch(), "nothing can run in it"),
    ],
)
def test_what_cannot_run_is_refused(tmp_path: Path, make: object, word: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    make(folder)  # type: ignore[operator]
    with pytest.raises(InputError, match=word):
        find_target(str(folder), no_engine)  # type: ignore[arg-type]


def test_a_path_that_does_not_exist_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no"):
        find_target(str(tmp_path / "nothing"), no_engine)  # type: ignore[arg-type]


def test_a_tree_of_a_virtual_environment_is_a_tree_even_with_a_usr_folder(tmp_path: Path) -> None:
    source = tree(tmp_path / "tree", "")
    (tmp_path / "tree/usr").mkdir()
    (tmp_path / "tree/pyvenv.cfg").touch()
    assert isinstance(find_target(source, no_engine), TreeTarget)  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root file system with a shell, and a `python` that is a script of it."""
    if subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("namespaces are not allowed here")
    root = tmp_path / "root"
    shell = Path("/bin/sh").resolve()
    listed = subprocess.run(["ldd", str(shell)], capture_output=True, text=True, check=True)
    needed = [word for word in listed.stdout.split() if word.startswith("/")]
    for path in (str(shell), *needed):
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, place)
    for name in ("tmp", "proc"):
        (root / name).mkdir()
    (root / "usr").mkdir(exist_ok=True)
    (root / "bin").mkdir(exist_ok=True)
    (root / "bin/sh").exists() or shutil.copy2(shell, root / "bin/sh")
    script = "pwd; echo $* $LD_LIBRARY_PATH; ls_out() { echo /*; }; ls_out; echo made > out/result"
    program(root / "opt/venv/bin", "python", script)
    package = root / "opt/venv/lib/python3.13/site-packages/tensorflow"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    return root


def test_a_root_file_system_is_entered_and_left_as_it_was(root: Path, job: Path) -> None:
    target = find_target(str(root), no_engine)  # type: ignore[arg-type]
    assert isinstance(target, RootTarget)
    assert target.python == "/opt/venv/bin/python"
    before = sorted(path for path in root.rglob("*"))
    ended = target.run(job, Script(["probe.py"], 30), lambda line: None)
    assert ended.ok, ended.tail
    where, arguments, listing = ended.tail.splitlines()
    assert (where, arguments) == ("/tmp", "-B probe.py")
    assert "/opt" in listing
    assert "/home" not in listing
    assert (job / "out/result").read_text() == "made\n"
    assert sorted(path for path in root.rglob("*")) == before
    assert os.listdir(root / "tmp") == []  # noqa: PTH208


def test_a_root_file_system_that_cannot_be_entered_says_so(root: Path, job: Path) -> None:
    (root / "opt/venv/bin/python").unlink()
    (root / "opt/venv/bin/python").symlink_to("/gone")
    with pytest.raises(InputError, match="cannot be entered"):
        run(str(root), job)
    (root / "tmp").rmdir()
    with pytest.raises(InputError, match="no folder that the job can be mounted over"):
        run(str(root), job)
