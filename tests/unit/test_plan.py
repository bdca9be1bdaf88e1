from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tfslim.compat import check, compat
from tfslim.config import Config, ModelConfig
from tfslim.errors import ConfigError
from tfslim.plan import Build, disk_bytes, grouped, make_plan, matrix, model_name

ROOT = Path(__file__).resolve().parents[2]


def plan(*only: str, **changes: Any) -> list[Build]:
    return make_plan(Config().model_copy(update=changes), only)


def test_the_default_plan_has_all_five_variants_with_their_from_names() -> None:
    bases = {build.variant: build.bases for build in plan()}
    assert list(bases) == ["stock", "approach-a", "approach-b", "training", "inference"]
    assert bases["approach-a"] == (
        "nvidia/cuda:12.4.1-runtime-ubuntu22.04",
        "nvidia/cuda:12.4.1-devel-ubuntu22.04",
    )
    assert bases["inference"] == ("python:3.13-slim-trixie",)


def test_an_unknown_variant_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'inference'"):
        plan("infrence")


def test_tensorflow_2_16_1_is_planned_with_numpy_1_26() -> None:
    (build,) = plan("approach-b", tensorflow="2.16.1", python="3.11")
    assert "numpy==1.26.4" in build.variables["CONSTRAINTS"]
    assert build.bases == ("python:3.11-slim-bookworm",)


def test_tensorflow_2_16_1_does_not_exist_for_python_3_13() -> None:
    with pytest.raises(ConfigError, match=r"does not exist for Python 3\.13") as caught:
        plan("inference", tensorflow="2.16.1")
    assert "'3.12'" in caught.value.way_out


def test_an_unknown_tensorflow_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"did you mean '2\.21\.0'"):
        plan("stock", tensorflow="2.21.1")


def test_debian_cannot_make_what_debian_does_not_have() -> None:
    with pytest.raises(ConfigError, match="cannot be built from Debian packages"):
        plan("stock", python="3.12", base_source="debian")
    with pytest.raises(ConfigError, match=r"CUDA 12\.5\.1 bases cannot be built from Debian"):
        plan("approach-a", cuda="12.5.1", base_source="debian")
    assert plan("stock", python="3.12", base_source="auto")


def test_approach_a_with_a_tensorflow_too_old_for_the_bases_python_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"brings Python 3\.13"):
        plan("approach-a", tensorflow="2.16.1", python="3.11", base_source="debian")
    assert check("approach-a", "2.16.1", "3.11", "12.4.1", "registry") == "3.11"


def test_a_cuda_that_tensorflow_does_not_work_with_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"does not work with CUDA 12\.3\.2"):
        plan("approach-a", cuda="12.3.2")


def test_missing_paths_are_refused_before_anything_is_built(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="app folder"):
        plan("stock", app=tmp_path / "gone")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("demo:basic-pitch", "basic-pitch"),
        ("/models/my model", "my-model"),
        ("/models/ranker/3", "ranker"),
        ("/models/v1.2", "v1.2"),
        ("/1", "model"),
    ],
)
def test_a_model_gets_a_name_that_a_url_takes(source: str, name: str) -> None:
    config = Config().model_copy(update={"model": ModelConfig(source=source)})
    assert model_name(config) == name


def test_the_matrix_is_what_github_actions_takes() -> None:
    rows = matrix(plan("stock", "approach-a"))["include"]
    assert [row["variant"] for row in rows] == ["stock", "approach-a"]
    assert rows[1]["cuda"] == "12.4.1"
    assert rows[1]["cuda-archs"] == "90"
    assert json.dumps(rows)


def test_groups_fit_on_the_disk_and_each_has_stock_to_compare_with() -> None:
    builds = plan()
    assert [len(group) for group in grouped(builds, None)] == [5]
    tight = max(disk_bytes([builds[0], build]) for build in builds)
    groups = grouped(builds, tight)
    assert all(group[0].variant == "stock" for group in groups)
    assert all(disk_bytes(group) <= tight for group in groups)
    others = [build.variant for group in groups for build in group[1:]]
    assert others == ["approach-a", "approach-b", "training", "inference"]


def test_without_stock_groups_hold_what_was_asked_for() -> None:
    builds = plan("approach-b", "inference")
    assert [[b.variant for b in g] for g in grouped(builds, 1)] == [["approach-b"], ["inference"]]


def test_stock_alone_is_a_group() -> None:
    (group,) = grouped(plan("stock"), 1)
    assert [build.variant for build in group] == ["stock"]


def test_the_bake_files_defaults_are_those_of_the_plan() -> None:
    text = (ROOT / "dockerfiles" / "docker-bake.hcl").read_text()
    defaults = dict(re.findall(r'variable "(\w+)" \{ default = "(.*)" \}', text))
    for build in plan():
        for name, value in build.variables.items():
            if name != "MODEL_NAME":
                assert defaults[name] == value, name


def test_every_variant_of_the_table_has_a_target_and_its_dockerfile() -> None:
    text = (ROOT / "dockerfiles" / "docker-bake.hcl").read_text()
    for variant in compat().variants:
        target = text.partition(f'\ntarget "{variant}" {{')[2].partition("\n}")[0]
        (context,) = re.findall(r'^  context  = "(.+)"$', target, re.MULTILINE)
        assert (ROOT / context / "Dockerfile").is_file()


def test_the_lock_for_the_versions_and_gpus_is_found() -> None:
    (build,) = plan("inference")
    assert build.lock == "tensorflow-2.21.0-py3.13-sm90.txt"
    assert build.variables["LOCK"] == build.lock
    assert plan("stock")[0].lock is None, "stock is what pip finds"


def test_without_a_lock_or_with_newest_pip_is_left_to_choose() -> None:
    assert plan("inference", cuda_archs=("37",))[0].variables["LOCK"] == ""
    assert plan("inference", pins="newest")[0].variables["LOCK"] == ""


def test_a_lock_or_trace_of_ones_own_is_named_by_its_path(tmp_path: Path) -> None:
    for name in ("my.txt", "trace.json"):
        (tmp_path / name).touch()
    (build,) = plan("workload", pins=tmp_path / "my.txt", trace=tmp_path / "trace.json")
    assert (build.variables["LOCK"], build.variables["TRACE"]) == ("my.txt", "trace.json")
    with pytest.raises(ConfigError, match=r"smalest is not a file \(did you mean 'smallest'"):
        plan("inference", pins=Path("smalest"))
    with pytest.raises(ConfigError, match="trace: "):
        plan("workload", trace=tmp_path / "none.json")


def test_what_is_kept_goes_to_the_profiles_that_have_a_rule_for_it() -> None:
    builds = plan(
        "approach-b", "inference", "workload", keep=("unreached", "profiler"), also=("zstd",)
    )
    options = {build.variant: build.variables["SLIM_OPTIONS"] for build in builds}
    assert options == {
        "approach-b": "",
        "inference": "--keep=profiler --also=zstd",
        "workload": "--keep=unreached --keep=profiler --also=zstd",
    }


def test_a_word_that_no_rule_has_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'profiler'"):
        plan("inference", keep=("profilers",))
    with pytest.raises(ConfigError, match="also: no rule is called 'zstdd'"):
        plan("inference", also=("zstdd",))


def test_workload_and_debug_are_built_when_asked_for() -> None:
    assert [build.variant for build in plan("workload", "inference-debug")] == [
        "inference-debug",
        "workload",
    ]


def test_the_native_images_are_what_they_are_whatever_serves_in_the_others() -> None:
    for backend in ("tensorflow", "capi"):
        native, plain = plan("inference-native", "inference", backend=backend)[::-1]
        assert plain.variables["BACKEND"] == backend
        assert native.variables["BACKEND"] == backend  # the bake file sets capi for this target
        assert native.tag == "tfslim/inference-native:2.21.0-py3.13"
        assert native.lock == plain.lock


def test_a_model_is_frozen_where_the_c_api_serves_it() -> None:
    def freezes(name: str, **changes: Any) -> str:
        (build,) = plan(name, model=ModelConfig(freeze=True), **changes)
        return build.variables["FREEZE"]

    assert freezes("inference-native") == "on"
    assert freezes("inference") == "off"
    assert freezes("inference", backend="capi") == "on"
    assert freezes("approach-b", backend="capi") == "off"
    with pytest.raises(ConfigError, match=r"model\.freeze"):
        plan("inference-native", model=ModelConfig(freeze=True, mode="mount"))


@pytest.fixture
def frozen(tmp_path: Path) -> str:
    (tmp_path / "freeze.json").touch()
    return str(tmp_path)


def test_a_frozen_model_is_for_the_c_api_and_not_frozen_again(frozen: str) -> None:
    model = ModelConfig(source=frozen, freeze=True)
    (build,) = plan("inference-native", model=model)
    assert build.variables["FREEZE"] == "off"
    plan("inference", "approach-b", "inference-native", model=model, backend="capi")
    for variant, changes in (("inference", {}), ("stock", {"backend": "capi"})):
        with pytest.raises(ConfigError, match="only TensorFlow's C API serves") as caught:
            plan(variant, "inference-native", model=model, **changes)
        assert caught.value.why == f"Python's TensorFlow serves in: {variant}."
        assert "model.freeze: true" in caught.value.way_out


def test_a_frozen_model_needs_a_trace_of_the_one_before(frozen: str, tmp_path: Path) -> None:
    model = ModelConfig(source=frozen)
    with pytest.raises(ConfigError, match="workload-native would trace it"):
        plan("workload-native", model=model)
    (tmp_path / "trace.json").touch()
    (build,) = plan("workload-native", model=model, trace=tmp_path / "trace.json")
    assert build.variables["TRACE"] == "trace.json"


def test_python_s_tensorflow_cannot_go_where_it_serves() -> None:
    with pytest.raises(ConfigError, match="also: native"):
        plan("inference", also=("native",))
    (build,) = plan("inference", also=("native",), backend="capi")
    assert build.variables["SLIM_OPTIONS"] == "--also=native"
    with pytest.raises(ConfigError, match="keep: native"):
        plan("inference-native", keep=("native",))
