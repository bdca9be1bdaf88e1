"""gate.py: what it asks for, what it refuses, what it leaves in the image."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import gate

VERDICT = {
    "outcome": "passed",
    "tfslim": "1.0",
    "seconds": 3.5,
    "models": [{"name": "cnn", "outcome": "passed"}],
}


@pytest.fixture(autouse=True)
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which `tfslim verify` writes a verdict and remembers its arguments."""
    tfslim = tmp_path / "tfslim"
    tfslim.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, sys\n"
        "with open('asked', 'a') as asked: asked.write(' '.join(sys.argv[1:]))\n"
        f"pathlib.Path('verdict.json').write_text({json.dumps(VERDICT)!r})\n"
        "sys.exit(int(pathlib.Path('status').read_text()))\n"
    )
    tfslim.chmod(0o755)
    (tmp_path / "status").write_text("0")
    (tmp_path / "check_cuda.py").touch()
    for name in ("model", "served"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gate, "TFSLIM", str(tfslim))
    monkeypatch.setattr(gate, "MODEL", tmp_path / "model")
    monkeypatch.setattr(gate, "SERVED", tmp_path / "served")
    monkeypatch.setattr(gate, "__file__", str(tmp_path / "gate.py"))
    return tmp_path


def run(
    monkeypatch: pytest.MonkeyPatch, what: str, profile: str = "inference", state: str = "on"
) -> dict[str, object]:
    monkeypatch.setenv("PROFILE", profile)
    monkeypatch.setenv("GATE", state)
    monkeypatch.setattr(sys, "argv", ["gate.py", what, "out"])
    gate.main()
    record: dict[str, object] = json.loads(
        Path(f"out/usr/share/tfslim/gate-{what}.json").read_text()
    )
    return record


def test_an_image_for_any_model_is_compared_by_the_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    record = run(monkeypatch, "zoo")
    assert record == {"outcome": "passed", "tfslim": "1.0", "models": {"cnn": "passed"}}
    assert Path("asked").read_text().startswith("verify /stock /opt/venv --gpu off")


def test_the_model_is_compared_too(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (image / "model" / "saved_model.pb").touch()
    assert run(monkeypatch, "model")["outcome"] == "passed"
    assert Path("asked").read_text().endswith(f"--model {image / 'model'}")


def test_a_model_that_the_build_froze_is_compared_in_both_forms(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (image / "model" / "saved_model.pb").touch()
    (image / "served" / "freeze.json").touch()
    assert run(monkeypatch, "model")["models"] == {"cnn": "passed"}
    asked = Path("asked").read_text().split("verify ")[1:]
    names = [text.rpartition("--model ")[2] for text in asked]
    assert names == [str(image / "model"), str(image / "served")]


def test_a_model_that_came_frozen_is_compared_once(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model", "served"):
        (image / name / "freeze.json").touch()
        (image / name / "frozen_graph.pb").touch()
    assert run(monkeypatch, "model")["outcome"] == "passed"
    assert Path("asked").read_text().count("verify") == 1


def test_an_image_for_one_model_is_not_asked_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "zoo", profile="workload")["outcome"] == "not asked"
    assert not Path("asked").exists()


def test_an_image_for_one_model_has_to_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "model")["outcome"] == "not asked"
    with pytest.raises(SystemExit, match="no model to try"):
        run(monkeypatch, "model", profile="workload")


@pytest.mark.parametrize("status", ["11", "21"])
def test_a_failed_or_inconclusive_comparison_ends_the_build(
    monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    Path("status").write_text(status)
    with pytest.raises(SystemExit, match="there will be no image"):
        run(monkeypatch, "zoo")
    assert not Path("out").exists()


def test_a_missing_library_ends_the_build_even_without_the_gate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("check_cuda.py").write_text("import sys; sys.exit('no GPU')")
    with pytest.raises(SystemExit, match="there will be no image"):
        run(monkeypatch, "zoo", state="off")


def test_a_gate_that_is_off_says_so_loudly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "zoo", state="off") == {"outcome": "off"}
    assert run(monkeypatch, "model", profile="workload", state="off") == {"outcome": "off"}
    assert "GATE=off: nothing shows" in capsys.readouterr().out


def test_what_was_not_slimmed_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    record = run(monkeypatch, "zoo", profile="none")
    assert record == {"outcome": "not asked", "why": "nothing was slimmed"}
    assert not Path("asked").exists()


def test_an_image_is_asked_as_it_will_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "zoo")
    assert "--backend tensorflow" in Path("asked").read_text()
    monkeypatch.setenv("BACKEND", "capi")
    run(monkeypatch, "zoo")
    assert "--backend capi" in Path("asked").read_text()
