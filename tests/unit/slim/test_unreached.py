from __future__ import annotations

from pathlib import Path

import pytest

from tfslim.errors import SlimError
from tfslim.slim.archs import parse_targets
from tfslim.slim.planning import make_plan
from tfslim.slim.rules import Margin, make_policy
from tfslim.slim.trace import Trace

SITE = "venv/lib/python3.11/site-packages"
REACHED = ("tensorflow/__init__.py", "tensorflow/ops/used.py", "keras/__init__.py")
UNREACHED = {
    "tensorflow/gone/__init__.py": "a package of which nothing stays",
    "tensorflow/gone/deep/__init__.py": "and all below it",
    "tensorflow/ops/unused.py": "beside something that was reached",
    "tensorflow/ops/__pycache__/unused.cpython-311.pyc": "its bytecode",
    "tensorflow/far/away.py": "in a folder of which nothing was reached",
    "tensorflow/far/__pycache__/away.cpython-311.pyc": "its bytecode",
    "tensorflow/far/_away.cpython-311-x86_64-linux-gnu.so": "an extension module",
}
NEVER_TOUCHED = (
    "tensorflow/far/LICENSE",
    "tensorflow/far/__init__.py",  # without it, what is left could be imported, empty
    "tensorflow/far/data.json",
    "tensorflow/libtensorflow_cc.so.2",
    "tensorflow/core/framework/types_pb2.py",
    "numpy/fft/unused.py",
    "certifi/cacert.pem",
    "service/unused.py",
    "_tfslim.py",
    "nvidia/cufft/lib/libcufft.so.11",
)
DISTRIBUTIONS = ("tensorflow-2.21.0", "keras-3.15.1", "numpy-2.4.6")


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    site = tmp_path / SITE
    for name in (*REACHED, *UNREACHED, *NEVER_TOUCHED):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(name)
    for name in DISTRIBUTIONS:
        (site / f"{name}.dist-info").mkdir()
        (site / f"{name}.dist-info" / "METADATA").write_text(name)
    standard = site.parent / "unused.py"
    standard.write_text("the standard library is not touched")
    return tmp_path


def a_trace(*, tensorflow: str = "2.21.0", python: str = "3.11") -> Trace:
    packages = dict(name.split("-") for name in DISTRIBUTIONS)
    return Trace(
        tensorflow=tensorflow,
        python=python,
        packages={**packages, "tensorflow": tensorflow},
        ops=frozenset({"Conv2D"}),
        opened=frozenset(f"site-packages/{name}" for name in REACHED),
    )


def removed(
    tree: Path, margin: Margin = "package", trace: Trace | None = None, keep: tuple[str, ...] = ()
) -> set[str]:
    """Names that the rule removes, relative to site-packages."""
    policy = make_policy(
        "workload", parse_targets("90"), trace=trace or a_trace(), margin=margin, keep=keep
    )
    plan = make_plan(tree, policy, jobs=1)
    return {
        item.path.removeprefix(f"{SITE}/")
        for item in plan.files
        if item.action == "delete" and item.removals[0].rule == "unreached-modules"
    }


def test_by_default_whole_folders_go_that_nothing_was_reached_of(environment: Path) -> None:
    assert removed(environment) == {name for name in UNREACHED if "/ops/" not in name}


def test_margin_file_keeps_exactly_what_was_reached(environment: Path) -> None:
    assert removed(environment, "file") == set(UNREACHED)


def test_margin_none_and_keep_leave_modules_alone(environment: Path) -> None:
    assert removed(environment, "none") == set()
    assert removed(environment, keep=("unreached",)) == set()


def test_without_sources_the_bytecode_counts(environment: Path) -> None:
    ops = environment / SITE / "tensorflow" / "ops"
    (ops / "used.py").rename(ops / "used.pyc")
    assert "tensorflow/ops/used.pyc" not in removed(environment, "file")


def test_what_stands_in_for_a_reached_extension_module_stays(environment: Path) -> None:
    ops = environment / SITE / "tensorflow" / "ops"
    (ops / "used.py").rename(ops / "used.cpython-311-x86_64-linux-gnu.so")
    (ops / "used.py").write_text("a stand-in")
    assert not [name for name in removed(environment, "file") if "ops/used" in name]


def test_a_hard_link_stays_while_one_of_its_names_is_needed(environment: Path) -> None:
    site = environment / SITE
    (site / "service" / "shared.py").hardlink_to(site / "tensorflow" / "far" / "away.py")
    assert "tensorflow/far/away.py" not in removed(environment)


@pytest.mark.parametrize(
    ("trace", "says"),
    [
        (a_trace(tensorflow="2.20.0"), "tensorflow: traced 2.20.0, here 2.21.0"),
        (a_trace(python="3.13"), "python: traced 3.13, here 3.11"),
    ],
)
def test_a_trace_of_other_versions_is_refused(trace: Trace, says: str, environment: Path) -> None:
    with pytest.raises(SlimError, match="other versions") as caught:
        removed(environment, trace=trace)
    assert says in caught.value.why


def test_a_tree_without_tensorflow_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SlimError) as caught:
        removed(tmp_path)
    assert "not installed here" in caught.value.why


def test_another_environment_in_the_tree_is_left_alone(environment: Path) -> None:
    other = environment / "other" / "lib" / "python3.9" / "site-packages" / "keras" / "far"
    other.mkdir(parents=True)
    (other / "away.py").write_text("")
    assert not [name for name in removed(environment, "file") if name.startswith("other")]


def test_the_profile_needs_a_trace() -> None:
    with pytest.raises(SlimError, match="none was traced") as caught:
        make_policy("workload", parse_targets("90"))
    assert "--model" in caught.value.way_out
