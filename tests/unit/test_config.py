from __future__ import annotations

import json
from pathlib import Path

import pytest

from tfslim.config import Config, json_schema, load_config
from tfslim.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "tfslim.yaml"
    path.write_text(text)
    return path


def why(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "")) == Config().model_copy(
        update={"cache": Config().cache.model_copy(update={"dir": tmp_path / ".tfslim/cache"})}
    )


def test_the_example_in_the_repository_is_exactly_the_defaults() -> None:
    config = load_config(ROOT / "tfslim.yaml")
    expected = Config()
    assert config.model_dump(exclude={"cache": {"dir"}}) == expected.model_dump(
        exclude={"cache": {"dir"}}
    )


def test_the_committed_schema_is_the_one_the_code_makes() -> None:
    committed = json.loads((ROOT / "docs" / "tfslim.schema.json").read_text())
    assert committed == json_schema(), "run: tfslim config schema > docs/tfslim.schema.json"


def test_an_unknown_key_is_named_with_its_line_and_the_nearest_known_one(tmp_path: Path) -> None:
    text = "variants: [stock]\ntensorfow: '2.21.0'\n"
    assert "line 2: unknown key 'tensorfow' (did you mean 'tensorflow'?)" in why(tmp_path, text)


def test_an_unknown_key_deep_inside_is_found(tmp_path: Path) -> None:
    text = "budgets:\n  inference:\n    max-pul: 3 GB\n"
    assert "unknown key 'budgets.inference.max-pul' (did you mean 'max-pull'?)" in why(
        tmp_path, text
    )


def test_an_unknown_variant_gets_the_nearest_name(tmp_path: Path) -> None:
    text = "variants: [stock, inferense]"
    assert "did you mean 'inference'?" in why(tmp_path, text)


def test_a_version_without_quotes_is_refused_because_yaml_reads_3_10_as_3_1(tmp_path: Path) -> None:
    assert "write the version in quotes: '3.13'" in why(tmp_path, "python: 3.13")


def test_text_that_is_not_yaml_is_said_to_be(tmp_path: Path) -> None:
    assert "is not valid YAML" in why(tmp_path, "variants: [stock\nmodel: {")


def test_a_list_instead_of_keys_is_refused(tmp_path: Path) -> None:
    assert "the file" in why(tmp_path, "- stock\n")


def test_a_missing_file_is_an_error_only_when_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(None) == Config()
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2.5 GB", 2_500_000_000), ("800MB", 800_000_000), ("1 GiB", 2**30), ("123", 123)],
)
def test_sizes_are_bytes_or_text_with_a_unit(tmp_path: Path, text: str, expected: int) -> None:
    path = write(tmp_path, f"budgets: {{stock: {{max-pull: {text}}}}}")
    assert load_config(path).budgets["stock"].max_pull == expected


def test_a_size_without_sense_is_refused(tmp_path: Path) -> None:
    assert "'3 XB' is not a size" in why(tmp_path, "budgets: {stock: {max-pull: 3 XB}}")


def test_relative_paths_are_taken_from_the_files_folder(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "app: service\nmodel: {source: models/a}\n"))
    assert config.app == tmp_path / "service"
    assert config.model.source == str(tmp_path / "models/a")
