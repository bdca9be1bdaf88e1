"""What a slim tree does to start faster: real interpreters, a stand-in for TensorFlow."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
from site_tree import SITE, install, python

from tfslim.slim.apply import apply_plan
from tfslim.slim.archs import parse_targets
from tfslim.slim.planning import make_plan
from tfslim.slim.rules import make_policy

MODULES = Path(__file__).parents[3] / "ci" / "tfslim" / "slim" / "guard" / "site"
SHOW = "print(gc.isenabled(), gc.get_threshold()[0], gc.get_freeze_count() > 0)"
DEFAULT = str(__import__("gc").get_threshold()[0])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A slim tree whose TensorFlow says what the collector does while it is imported."""
    says = "import gc, os\nprint(gc.isenabled(), gc.get_threshold()[0])\nexec(os.environ['THEN'])\n"
    install(tmp_path, "tensorflow", {"tensorflow/__init__.py": says})
    apply_plan(make_plan(tmp_path, make_policy("arch", parse_targets("90"))), tmp_path)
    return tmp_path


def imported(tree: Path, before: str = "", then: str = "", **environment: str) -> list[str]:
    """Import TensorFlow; return what the collector did meanwhile, and does afterwards."""
    code = f"import gc\n{before}\ntry:\n    import tensorflow\nexcept OSError: pass\n{SHOW}"
    done = python(tree, code, THEN=then, **environment)
    assert not done.stderr
    return done.stdout.splitlines()


def test_the_collector_rests_during_the_import_and_works_afterwards(tree: Path) -> None:
    assert imported(tree) == ["True 0", f"True {DEFAULT} True"]


def test_it_can_be_switched_off(tree: Path) -> None:
    assert imported(tree, TFSLIM_GC="off") == [f"True {DEFAULT}", f"True {DEFAULT} False"]


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("gc.disable()", [f"False {DEFAULT}", f"False {DEFAULT} False"]),
        ("gc.set_threshold(0)", ["True 0", "True 0 False"]),
        ("gc.set_threshold(9999)", ["True 0", "True 9999 True"]),
        # Whatever a program has made before may become garbage: it is not set aside.
        ("many = [[] for _ in range(300000)]", ["True 0", f"True {DEFAULT} False"]),
    ],
)
def test_a_program_that_sets_the_collector_up_is_respected(
    before: str, expected: list[str], tree: Path
) -> None:
    assert imported(tree, before) == expected


@pytest.mark.parametrize(
    ("then", "after"),
    [
        ("gc.set_threshold(55)", "True 55 True"),
        ("gc.disable()", f"False {DEFAULT} True"),
        ("raise OSError('half-imported')", f"True {DEFAULT} False"),
    ],
)
def test_what_happens_during_the_import_is_respected(then: str, after: str, tree: Path) -> None:
    assert imported(tree, then=then) == ["True 0", after]


def test_nothing_can_be_seen_of_it_afterwards(tree: Path) -> None:
    code = (
        "import tensorflow as tf, importlib, inspect\n"
        "print(type(tf.__loader__).__name__, 'exec_module' in vars(tf.__loader__))\n"
        "print(tf.__spec__.loader is tf.__loader__, inspect.getsource(tf)[:6])\n"
        "importlib.reload(tf)"
    )
    done = python(tree, code, THEN="")
    lines = done.stdout.splitlines()
    assert lines[1:3] == ["SourceFileLoader False", "True import"]
    assert lines[3] == f"True {DEFAULT}", "a reload is nothing special"


def test_a_second_attempt_after_a_failure_works(tree: Path) -> None:
    code = (
        "import os\ntry: import tensorflow\nexcept OSError: os.environ['THEN'] = ''\n"
        "import tensorflow; print('there')"
    )
    assert python(tree, code, THEN="raise OSError").stdout.splitlines()[-1] == "there"


@pytest.mark.parametrize("damage", ["", "raise RuntimeError", "def wants_rest(): return 1 / 0"])
def test_a_damaged_lever_breaks_nothing(damage: str, tree: Path) -> None:
    (tree / SITE / "_tfslim_start.py").write_text(damage)
    assert imported(tree) == [f"True {DEFAULT}", f"True {DEFAULT} False"]


# ---- read ahead ----


@pytest.fixture
def prefetch() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "_tfslim_prefetch", MODULES / "_tfslim_prefetch.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A list of three files: as recorded, gone, and changed since."""
    lines = ["tfslim prefetch 1"]
    for name in ("same", "gone", "changed"):
        path = tmp_path / name
        path.write_bytes(b"x" * 9000)
        os.utime(path, (5, 5))
        lines.append(f"{path}\t9000\t5\t0+1 2+1")
    (tmp_path / "gone").unlink()
    (tmp_path / "changed").write_bytes(b"y" * 9000)
    (tmp_path / "list").write_text("\n".join(lines) + "\n")
    return tmp_path / "list"


def test_only_files_that_are_those_recorded_are_read_ahead(
    prefetch: ModuleType, listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(prefetch, "is_warm", lambda lines: False)
    monkeypatch.setattr(os, "posix_fadvise", lambda number, *what: asked.append(what[:2]))
    assert prefetch.replay(str(listed)) == 1
    assert asked == [(0, 4096), (8192, 4096)]


def test_what_is_in_memory_is_not_asked_for(
    prefetch: ModuleType, listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed.write_text("\n".join(listed.read_text().splitlines()[:2]) + "\n")
    monkeypatch.setattr(prefetch, "_CACHED_SECONDS", 10.0)
    assert prefetch.replay(str(listed)) == 0
    monkeypatch.setattr(prefetch, "_CACHED_SECONDS", 0.0)
    assert prefetch.replay(str(listed)) == 1


@pytest.mark.parametrize("text", ["", "another list\n", "tfslim prefetch 1\nnonsense\n", "\0"])
def test_a_damaged_list_is_nobodys_trouble(prefetch: ModuleType, text: str, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(text)
    prefetch._quietly_replay(str(tmp_path / "list"))
    prefetch._quietly_replay(str(tmp_path / "no such list"))


@pytest.mark.parametrize(
    ("parent", "setting", "begins"),
    [(0, "on", True), (1, "", True), (1, "OFF", False), (4711, "on", False)],
)
def test_the_first_process_of_a_container_reads_ahead(
    parent: int, setting: str, begins: bool, tree: Path, listed: Path
) -> None:
    """It has no parent there, or the runtime's `--init`."""
    code = (
        f"import os, sys, _tfslim\nos.getppid = lambda: {parent}\n"
        f"_tfslim._PREFETCH = {str(listed)!r}\n_tfslim._read_ahead()\n"
        "print('_tfslim_prefetch' in sys.modules)"
    )
    done = python(tree, code, TFSLIM_PREFETCH=setting)
    assert (done.stdout, done.stderr) == (f"{begins}\n", "")


def test_it_leaves_no_process_behind_and_no_module(tree: Path, listed: Path) -> None:
    code = (
        "import os, sys, _tfslim\nos.getppid = lambda: 0\n"
        f"_tfslim._PREFETCH = {str(listed)!r}\nbefore = set(sys.modules)\n_tfslim._read_ahead()\n"
        "print(sorted(set(sys.modules) - before))\n"
        "try: os.waitpid(-1, 0)\nexcept ChildProcessError: print('no child')"
    )
    assert python(tree, code).stdout == "['_tfslim_prefetch']\nno child\n"


@pytest.fixture
def with_keras(tmp_path: Path) -> Path:
    """A slim tree whose TensorFlow asks for Keras and for second copies of its names."""
    api = "tensorflow/_api/v2"
    files = {
        "tensorflow/__init__.py": "from tensorflow._api.v2 import compat, lite\n"
        "import importlib.util\nassert importlib.util.find_spec('keras').origin\n"
        "try: importlib.import_module('keras.src.optimizers')\n"
        "except ImportError: pass\n",
        f"{api}/__init__.py": "",
        "tensorflow/_api/__init__.py": "",
        f"{api}/compat/__init__.py": "print('compat')\nname = 'tf.compat'\n",
        f"{api}/lite/__init__.py": "print('lite')\n",
        "keras/__init__.py": "print('keras')\n",
        "keras/src/__init__.py": "",
        "keras/src/optimizers.py": "",
    }
    install(tmp_path, "tensorflow", files)
    apply_plan(make_plan(tmp_path, make_policy("arch", parse_targets("90"))), tmp_path)
    return tmp_path


def said(tree: Path, code: str, **environment: str) -> list[str]:
    done = python(tree, code, **environment)
    assert not done.stderr
    return done.stdout.splitlines()


def test_keras_is_imported_when_it_is_used(with_keras: Path) -> None:
    code = "import tensorflow\nprint('done')\nimport keras.src.optimizers"
    assert [line for line in said(with_keras, code) if line in ("done", "keras")] == [
        "done",
        "keras",
    ]


@pytest.mark.skipif(sys.version_info < (3, 13), reason="lazy modules are not for threads before")
def test_second_copies_of_names_are_imported_when_they_are_used(with_keras: Path) -> None:
    code = "import tensorflow as tf\nprint('done')\nprint(tf.compat.name)"
    assert said(with_keras, code) == ["lite", "done", "compat", "tf.compat"]


def test_what_was_imported_before_and_what_is_asked_later_is_as_ever(with_keras: Path) -> None:
    code = "import keras, tensorflow, sys\nprint([f for f in sys.meta_path if 'Later' in str(f)])"
    lines = said(with_keras, code)
    assert (lines[0], lines[-1]) == ("keras", "[]")


@pytest.mark.parametrize("switch", [{"TFSLIM_LAZY": "off"}, {"TF_USE_LEGACY_KERAS": "1"}])
def test_later_can_be_switched_off(with_keras: Path, switch: dict[str, str]) -> None:
    assert said(with_keras, "import tensorflow\nprint('done')", **switch) == [
        "compat",
        "lite",
        "keras",
        "done",
    ]


def test_what_is_registered_by_a_module_that_comes_later_is_found_when_it_is_looked_up(
    tmp_path: Path,
) -> None:
    registry = "tensorflow/python/saved_model/revived_types.py"
    optimizers = "tensorflow/python/keras/optimizer_v2/optimizer_v2.py"
    packages = ("python", "python/saved_model", "python/keras", "python/keras/optimizer_v2")
    files = {
        "tensorflow/__init__.py": "import tensorflow.python.saved_model.revived_types\n",
        **{f"tensorflow/{one}/__init__.py": "" for one in packages},
        registry: "_REVIVED_TYPE_REGISTRY = {}\n",
        optimizers: "print('optimizers')\n"
        "from tensorflow.python.saved_model.revived_types import _REVIVED_TYPE_REGISTRY as all\n"
        "all['tf_deprecated_optimizer'] = (bool, ['version 1'])\n",
    }
    install(tmp_path, "tensorflow", files)
    apply_plan(make_plan(tmp_path, make_policy("arch", parse_targets("90"))), tmp_path)
    look = "all['tf_deprecated_optimizer']"
    code = (
        "import tensorflow\n"
        "from tensorflow.python.saved_model.revived_types import _REVIVED_TYPE_REGISTRY as all\n"
        f"print('done', {look}[0](None))\nprint(list({look}[1]), {look}[0] is bool)"
    )
    assert said(tmp_path, code) == ["done False", "optimizers", "['version 1'] True"]
