"""The service with BACKEND=capi: start, answers, refusals, frozen models, memory. Minutes.

TFSLIM_STOCK_TREE=/path/to/venv pytest -m slow tests/slow/test_native_service.py
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
APP = ROOT / "dockerfiles" / "app"
STOCK = os.environ.get("TFSLIM_STOCK_TREE", "")
BACKENDS = ("tensorflow", "capi")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not STOCK, reason="TFSLIM_STOCK_TREE (a venv with TensorFlow) is not set"),
]


@pytest.fixture(scope="session")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the stock interpreter finds the service and its requirements."""
    beside = tmp_path_factory.mktemp("requirements")
    pip = [f"{STOCK}/bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    pip += ["--no-deps", "--only-binary", ":all:", "--target", str(beside)]
    subprocess.run([*pip, "-r", str(APP / "requirements.txt")], check=True)
    return {
        **os.environ,
        "PYTHONPATH": f"{beside}:{APP}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def run(env: dict[str, str], *argv: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [f"{STOCK}/bin/python", *map(str, argv)],
        env={**env, **more},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The one line in which the service, or the freezer, says why it ends."""
    assert done.returncode == 3, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("tfserve: ")]
    return line


def refusal(env: dict[str, str], model: Path, backend: str) -> str:
    more = {"BACKEND": backend, "PORT": "0", "TFSLIM_MODEL_PATH": str(model)}
    return said(run(env, "-m", "tfserve_app", **more))


@pytest.fixture(scope="session")
def models(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models")
    for source in (ROOT / "ci/tfslim/parity/zoo.py", HERE / "native_models.py"):
        names = ("text", "rnn") if source.name == "zoo.py" else ()
        done = run(env, source, out, *names)
        assert done.returncode == 0, done.stderr[-3000:]
    return out


@contextmanager
def serving(env: dict[str, str], model: Path, **more: str) -> Iterator[tuple[httpx.Client, Any]]:
    """A running service: a client of it, and its `ready` event."""
    process = subprocess.Popen(
        [f"{STOCK}/bin/python", "-m", "tfserve_app"],
        env={**env, "TFSLIM_MODEL_PATH": str(model), "HOST": "127.0.0.1", "PORT": "0", **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    stderr: list[str] = []
    drain = threading.Thread(target=stderr.extend, args=(process.stderr,))
    drain.start()
    try:
        events = {}
        for line in process.stdout:
            events[json.loads(line)["event"]] = json.loads(line)
            if "ready" in events:
                break
        else:
            pytest.fail("".join(stderr))
        base = f"http://127.0.0.1:{events['listening']['port']}"
        with httpx.Client(base_url=base, timeout=60) as client:
            yield client, events["ready"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
    finally:
        process.kill()
        process.wait()
        drain.join()
        process.stdout.close()
        process.stderr.close()


def ask(client: httpx.Client, signature: str, inputs: object) -> httpx.Response:
    return client.post("/predict", json={"signature": signature, "inputs": inputs})


def test_clients_see_no_difference(env: dict[str, str], models: Path) -> None:
    """Answers, status codes and texts of errors, byte for byte."""
    requests: list[tuple[str, str, object]] = [
        ("types", "strings", {"text": [["ä", {"b64": "/w=="}, ""]], "end": "!"}),
        ("types", "type_bfloat16", {"x": [[1.1, 3]], "one": 1}),
        ("types", "type_int64", {"x": [[2**62, -1]], "one": 1}),
        ("types", "type_bool", {"x": [True, False]}),
        ("types", "type_complex64", {"x": [[1, 2]], "one": 1}),
        ("types", "type_uint8", {"x": [[256, 0]], "one": 1}),
        ("shapes", "any_rank", [[1.5]]),
        ("shapes", "constant", {}),
        ("shapes", "picky", [1, 2]),
        ("shapes", "checked", [9]),
        ("shapes", "far", [7]),
        ("shapes", "nothing", [7]),
        ("shapes", "some", [1]),
    ]
    seen: dict[str, list[tuple[int, bytes]]] = {}
    for backend in BACKENDS:
        seen[backend] = []
        for model in ("types", "shapes"):
            with serving(env, models / model, BACKEND=backend) as (client, ready):
                assert list(ready["warmup_failed"]) == (["picky"] if model == "shapes" else [])
                assert ready["marks"].keys() >= {"tensorflow_imported", "model_loaded"}
                assert client.get("/health").json()["backend"] == backend
                answers = [ask(client, *rest) for name, *rest in requests if name == model]
                seen[backend] += [(answer.status_code, answer.content) for answer in answers]
    assert seen["capi"] == seen["tensorflow"]
    assert {status for status, _ in seen["capi"]} >= {200, 400}


def test_many_clients_at_once(env: dict[str, str], models: Path) -> None:
    more = {"BACKEND": "capi", "MAX_CONCURRENCY": "4", "MAX_QUEUE": "100", "GRAPPLER": "off"}
    with serving(env, models / "text", **more) as (client, _):
        words = ["the", "fox", "été", "nobody"]
        expected = ask(client, "strings", words).json()
        answers: list[Any] = []

        def many() -> None:
            answers.extend(ask(client, "strings", words).json() for _ in range(50))

        threads = [threading.Thread(target=many) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 400
        assert all(answer == expected for answer in answers)


def test_models_that_cannot_be_loaded(env: dict[str, str], models: Path, tmp_path: Path) -> None:
    damaged, lost, odd = (tmp_path / name for name in ("damaged", "lost", "odd"))
    shutil.copytree(models / "shapes", damaged)
    (damaged / "saved_model.pb").write_bytes(b"\xff" * 1000)
    assert f"{damaged}: TensorFlow 2." in (line := refusal(env, damaged, "capi"))
    assert "cannot load this SavedModel: WireError" in line

    shutil.copytree(models / "shapes", lost)
    shutil.rmtree(lost / "variables")
    line = refusal(env, lost, "capi")
    assert "variables.index is missing" in line
    assert "is the copy complete" in line

    shutil.copytree(models / "types", odd)
    graph = (odd / "saved_model.pb").read_bytes()
    (odd / "saved_model.pb").write_bytes(graph.replace(b"LogicalNot", b"LogicalNay"))
    line = refusal(env, odd, "capi")
    assert "Op type not registered 'LogicalNay'" in line
    assert "custom op" in line

    assert "has no serving signatures" in refusal(env, models / "mute", "capi")
    keras = tmp_path / "model.keras"
    keras.touch()
    assert "is a Keras file" in refusal(env, keras, "capi")


# --- frozen models ---


def test_a_frozen_model_says_what_it_is(env: dict[str, str], models: Path, tmp_path: Path) -> None:
    out = tmp_path / "frozen"
    given = tmp_path / "given.npz"
    steps = np.random.default_rng(3).normal(size=(2, 12, 8)).astype(np.float32)
    np.savez(given, steps=steps)
    done = run(env, "-m", "tfserve_app.freeze", models / "rnn", out, "--input", given)
    assert done.returncode == 0, done.stderr
    drift = json.loads(done.stdout)
    assert drift["serving_default"]["output_0"]["max_abs"] < 1e-5
    assert drift["serving_default"]["output_0"]["elements"] == 4 * (2 + 5 * (1 + 4))
    told = json.loads((out / "freeze.json").read_text())
    assert told["measured_on"]["given_inputs"] == ["steps"]

    answers = []
    for model in (models / "rnn", out):
        with serving(env, model, BACKEND="capi") as (client, _):
            frozen = client.get("/health").json().get("frozen")
            assert frozen == (None if model != out else {"tensorflow": "2.21.0", "drift": drift})
            found = ask(client, "serving_default", steps.tolist()).json()
            answers.append(np.asarray(found["outputs"]["output_0"]))
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-5)

    assert "only BACKEND=capi serves" in refusal(env, out, "tensorflow")
    assert "is there already" in said(run(env, "-m", "tfserve_app.freeze", models / "rnn", out))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("text", "lookup tables, or variables that a call writes (HashTableV2"),
        ("shapes", "(AssignAddVariableOp)"),
        ("old", "lookup tables"),
        ("mute", "has no serving signatures"),
    ],
)
def test_what_cannot_be_frozen(
    env: dict[str, str], models: Path, tmp_path: Path, name: str, reason: str
) -> None:
    done = run(env, "-m", "tfserve_app.freeze", models / name, tmp_path / "out")
    assert reason in said(done)
    assert not list(tmp_path.iterdir()), "nothing is left behind"


# --- memory ---


def test_calls_leave_no_memory_behind(env: dict[str, str], models: Path) -> None:
    """75,000 calls from four threads, two sevenths of them refused."""
    done = run(env, HERE / "native_leaks.py", models / "types", models / "shapes")
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout)
    # A round makes and frees some 200 MB of tensors; the allocators settle within the first.
    assert max(seen[5:]) - min(seen[1:5]) < 8 * 1024, seen
