"""Inputs: read, checked, named when wrong, put over the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from tfslim.errors import ConfigError
from tfslim.github.inputs import INPUTS, Inputs, configuration, read_inputs, variable


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")


def _inputs(**given: str) -> Inputs:
    return read_inputs({variable(name.replace("_", "-")): text for name, text in given.items()})


def _told(**given: str) -> str:
    with pytest.raises(ConfigError) as told:
        configuration(_inputs(**given))
    assert told.value.exit_code == 2
    assert told.value.way_out
    return str(told.value)


def test_nothing_given_and_everything_empty_are_the_defaults() -> None:
    empty = _inputs(**{one.field: "" for one in INPUTS})
    assert empty == _inputs()
    assert (empty.mode, empty.id, empty.bench, empty.artifact) == (
        "run",
        "tfslim",
        "sizes",
        "tfslim-report-tfslim",
    )
    assert not empty.own_image


def test_lists_are_by_comma_or_line() -> None:
    found = _inputs(variants="stock, inference", cuda_archs="80\n90\n")
    assert found.variants == ("stock", "inference")
    assert found.cuda_archs == ("80", "90")


def test_build_args_are_by_line_and_keep_their_commas() -> None:
    found = _inputs(dockerfile="Dockerfile", build_args="A=1,2\n B=x=y \n")
    assert found.build_args == ("A=1,2", "B=x=y")


@pytest.mark.parametrize(
    ("given", "named", "said"),
    [
        ({"bench": "size"}, "bench", "did you mean 'sizes'"),
        ({"mode": "Run"}, "mode", "run, plan, join, publish"),
        ({"id": "My Report"}, "id", "a-z"),
        ({"max_pull": "a lot"}, "max-pull", "800 MB"),
        ({"max_disk": "-1"}, "max-disk", "begins with '-'"),
        ({"max_growth": "two"}, "max-growth", "not a size"),
        ({"variants": "inferenze"}, "variants", "inference"),
        ({"cuda_archs": "sm_90"}, "cuda-archs", "sm_90"),
        ({"tensorflow": "2.21"}, "tensorflow", "2.21"),
        ({"launches": "0"}, "launches", "1 to 100"),
        ({"image": "--privileged"}, "image", "option"),
        ({"image": "a\nb"}, "image", "several lines"),
        ({"build_args": "no value", "dockerfile": "Dockerfile"}, "build-args", "NAME=VALUE"),
        ({"dockerfile": "none/Dockerfile"}, "dockerfile", "checked out"),
        ({"dockerfile": "Dockerfile", "context": "none"}, "context", "not a folder"),
        ({"image": "a", "dockerfile": "Dockerfile"}, "image", "name one"),
        ({"image": "a", "variants": "stock"}, "variants", "belongs to variants"),
        ({"slim": "true"}, "slim", "needs `dockerfile` or `image`"),
        ({"image": "a", "slim": "true", "profile": "workload"}, "model", "workload"),
        ({"mode": "join"}, "records", "folder"),
        ({"mode": "join", "records": ".", "baseline": "build"}, "baseline", "builds nothing"),
        ({"tags": "1.2"}, "tags", "needs `push`"),
        ({"trace_input": "none.npz"}, "trace-input", "not a file"),
        ({"push": "ghcr.io/Me/APP"}, "push", "pattern"),
        ({"config": "none.yaml"}, "none.yaml", "cannot read"),
    ],
)
def test_what_cannot_be_used_is_named_with_what_it_may_be(
    given: dict[str, str], named: str, said: str
) -> None:
    told = _told(**given)
    assert named in told
    assert said in told


def test_all_wrong_inputs_are_told_at_once() -> None:
    told = _told(bench="x", gpu="y", fail_on="z")
    assert all(name in told for name in ("bench", "gpu", "fail-on"))


def test_inputs_go_over_the_configuration() -> None:
    Path("tfslim.yaml").write_text(
        "variants: [stock]\nbudgets:\n  inference: {max-pull: 9 GB, max-disk: 8 GB}\n"
        "bench: {gpu: required, launches: 2}\n"
    )
    found = configuration(
        _inputs(variants="inference", max_pull="700 MB", cuda_archs="80", launches="9")
    )
    assert found.variants == ("inference",)
    assert found.cuda_archs == ("80",)
    assert found.budgets["inference"].max_pull == 700_000_000
    assert found.budgets["inference"].max_disk == 8_000_000_000
    assert found.budgets["default"].max_pull == 700_000_000
    assert (found.bench.gpu, found.bench.launches, found.bench.cold_launches) == ("required", 9, 9)


def test_a_limit_holds_for_stock_where_nothing_else_is_built() -> None:
    found = configuration(_inputs(variants="stock", max_pull="1 GB"))
    assert found.budgets["stock"].max_pull == 10**9


def test_without_inputs_the_configuration_is_as_it_was() -> None:
    Path("tfslim.yaml").write_text("budgets:\n  stock: {max-pull: 1 GB}\n")
    assert list(configuration(_inputs()).budgets) == ["stock"]


def test_the_cache_is_off_or_in_a_folder() -> None:
    assert not configuration(_inputs(cache="off")).cache.local
    assert configuration(_inputs(cache="here")).cache.dir == Path("here").absolute()


def test_a_push_goes_where_the_inputs_say() -> None:
    found = configuration(_inputs(image="a", push="ghcr.io/me/app", tags="1.2, 1"))
    assert (found.push.repository, found.push.tags) == ("ghcr.io/me/app", ("1.2", "1"))
