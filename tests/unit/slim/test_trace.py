from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tfslim.errors import InputError, SlimError
from tfslim.slim.trace import Trace, TracedModel, load, merge, module_name, package_path


def a_trace(**other: Any) -> Trace:
    values: dict[str, Any] = {
        "tensorflow": "2.21.0",
        "python": "3.11",
        "machine": "x86_64",
        "packages": {"tensorflow": "2.21.0", "numpy": "2.4.6"},
        "models": (a_model(),),
        "ops": {"Conv2D", "Relu"},
        "kernels": {"CPU Conv2D T=float32"},
        "libraries": {"libtensorflow_cc.so.2"},
        "opened": {"site-packages/tensorflow/__init__.py"},
    }
    return Trace(**{**values, **other})


def a_model(name: str = "cnn", **other: Any) -> TracedModel:
    values = {"name": name, "sha256": "ab", "calls": {"serving_default": {"batch 1, seed 0"}}}
    return TracedModel(**{**values, **other})


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    place = tmp_path / "trace.json"
    a_trace().save(place)
    assert load(place) == a_trace()
    assert [entry.name for entry in tmp_path.iterdir()] == ["trace.json"]


def test_a_new_op_is_one_new_line(tmp_path: Path) -> None:
    before, after = tmp_path / "a.json", tmp_path / "b.json"
    a_trace(ops={"Conv2D", "Relu"}).save(before)
    a_trace(ops={"FFT", "Relu", "Conv2D"}).save(after)
    old, new = before.read_text().splitlines(), after.read_text().splitlines()
    assert [line.strip() for line in new if line not in old] == ['"FFT",']
    assert [line for line in new if line in old] == old


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("not json", "Invalid JSON"),
        ("{}", "ops"),
        ('{"version": 2, "ops": [], "opened": []}', "version"),
        ('{"ops": ["a\\u001b[31m"], "opened": []}', "not a name"),
        ('{"ops": [], "opened": [], "execute": "rm"}', "execute"),
        ('{"ops": [1], "opened": []}', "ops"),
    ],
)
def test_what_is_no_trace_is_refused(content: str, says: str, tmp_path: Path) -> None:
    place = tmp_path / "trace.json"
    place.write_text(content)
    with pytest.raises(InputError, match="not a trace") as caught:
        load(place)
    assert says in caught.value.why
    assert "\x1b" not in str(caught.value)
    assert "tfslim trace" in caught.value.way_out


def test_a_trace_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "none.json")


def test_merging_keeps_everything_of_both() -> None:
    other = a_trace(
        models=(a_model("fft"), a_model(calls={"serving_default": {"batch 3, seed 0"}})),
        ops={"FFT", "Relu"},
        opened={"site-packages/tensorflow/signal.py"},
        packages={"tensorflow": "2.21.0", "rich": "15.0.0"},
    )
    both = merge([a_trace(), other])
    assert both.ops == {"Conv2D", "Relu", "FFT"}
    assert len(both.opened) == 2
    assert both.packages == {"tensorflow": "2.21.0", "numpy": "2.4.6", "rich": "15.0.0"}
    assert [model.name for model in both.models] == ["cnn", "fft"]
    assert both.models[0].calls["serving_default"] == {"batch 1, seed 0", "batch 3, seed 0"}
    assert merge([other, a_trace()]) == both
    assert merge([both, both]) == both


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"tensorflow": "2.20.0"}, "TensorFlow: 2.21.0 and 2.20.0"),
        ({"python": "3.13"}, "Python: 3.11 and 3.13"),
        ({"machine": "aarch64"}, "x86_64 and aarch64"),
        ({"packages": {"numpy": "1.26.4"}}, "numpy: 2.4.6 and 1.26.4"),
    ],
)
def test_traces_of_different_versions_do_not_merge(other: dict[str, Any], says: str) -> None:
    with pytest.raises(SlimError, match="different versions") as caught:
        merge([a_trace(), a_trace(**other)])
    assert says in caught.value.why


def test_an_environment_of_other_versions_is_refused() -> None:
    a_trace().check_fits({"tensorflow": "2.21.0", "python": "3.11", "unknown": "1"})
    for packages, says in (
        ({"tensorflow": "2.20.0"}, "tensorflow: traced 2.21.0, here 2.20.0"),
        ({"tensorflow": "2.21.0", "python": "3.13"}, "python: traced 3.11, here 3.13"),
        ({}, "not installed here"),
    ):
        with pytest.raises(SlimError, match="other versions") as caught:
            a_trace().check_fits(packages)
        assert says in caught.value.why


def test_the_description_says_when_no_gpu_was_there() -> None:
    assert "no GPU" in a_trace().describe()[-1]
    on_gpu = a_trace(models=(a_model(gpus={"NVIDIA H100, sm_90"}),))
    assert "H100" in "\n".join(on_gpu.describe())
    assert "not traced" not in "\n".join(on_gpu.describe())


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/__pycache__/b.cpython-311.pyc", "a/b.py"),
        ("a/__pycache__/b.cpython-313.opt-1.pyc", "a/b.py"),
        ("__pycache__/six.cpython-311.pyc", "six.py"),
        ("a/b.pyc", "a/b.py"),
        ("a/b.py", "a/b.py"),
        ("a/b.cpython-311-x86_64-linux-gnu.so", "a/b.cpython-311-x86_64-linux-gnu.so"),
    ],
)
def test_bytecode_goes_by_the_name_of_its_source(path: str, name: str) -> None:
    assert module_name(path) == name


def test_paths_are_relative_to_site_packages() -> None:
    assert package_path("lib/python3.11/site-packages/a/b.py") == "a/b.py"
    assert package_path("usr/lib/python3/dist-packages/six.py") == "six.py"
    assert package_path("lib/python3.11/encodings/utf_8.py") is None


def test_the_document_is_plain_json(tmp_path: Path) -> None:
    a_trace().save(tmp_path / "trace.json")
    data = json.loads((tmp_path / "trace.json").read_text())
    assert data["ops"] == ["Conv2D", "Relu"]
    assert data["models"][0]["calls"] == {"serving_default": ["batch 1, seed 0"]}
