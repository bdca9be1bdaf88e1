"""The service with the real TensorFlow: real models, real dtypes, broken models, a real stop.

Needs `TFSLIM_STOCK_TREE`, a virtual environment with TensorFlow 2.21 in it; it is only read. The
service's own requirements are installed beside it, without dependencies, which proves that
requirements.txt is complete and touches nothing of TensorFlow's.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tfslim.models import mobilenet_command, resolve_model
from tfslim.ui import Ui

APP = Path(__file__).parents[2] / "dockerfiles" / "app"
STOCK = os.environ.get("TFSLIM_STOCK_TREE", "")
NPY = {"content-type": "application/x-npy"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not STOCK, reason="TFSLIM_STOCK_TREE (a venv with TensorFlow) is not set"),
]


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the stock interpreter finds the service and its requirements."""
    beside = tmp_path_factory.mktemp("requirements")
    pip = [f"{STOCK}/bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    pip += ["--no-deps", "--only-binary", ":all:", "--target", str(beside)]
    subprocess.run([*pip, "-r", str(APP / "requirements.txt")], check=True)
    return {**os.environ, "PYTHONPATH": f"{beside}:{APP}", "PYTHONDONTWRITEBYTECODE": "1"}


@dataclass
class Server:
    """A running service."""

    process: subprocess.Popen[str]
    client: httpx.Client
    events: list[dict[str, Any]]
    stderr: list[str] = field(default_factory=list)

    def event(self, name: str) -> dict[str, Any]:
        return next(event for event in self.events if event["event"] == name)


@contextmanager
def serving(python: dict[str, str], model: Path, **env: str) -> Iterator[Server]:
    process = subprocess.Popen(
        [f"{STOCK}/bin/python", "-m", "tfserve_app"],
        env={**python, "TFSLIM_MODEL_PATH": str(model), "HOST": "127.0.0.1", "PORT": "0", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    server = Server(process, httpx.Client(timeout=60), [])
    drain = threading.Thread(target=server.stderr.extend, args=(process.stderr,))
    drain.start()
    try:
        for line in process.stdout:
            server.events.append(json.loads(line))
            if server.events[-1]["event"] == "ready":
                port = server.event("listening")["port"]
                server.client.base_url = httpx.URL(f"http://127.0.0.1:{port}")
                break
        else:
            pytest.fail("".join(server.stderr))
        yield server
    finally:
        process.kill()
        process.wait()
        drain.join()
        process.stdout.close()
        process.stderr.close()


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def load(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return np.load(io.BytesIO(answer.content), allow_pickle=False)


def script(python: dict[str, str], source: str, *args: str) -> str:
    done = subprocess.run(
        [f"{STOCK}/bin/python", "-c", source, *args],
        env={**python, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- basic-pitch ---


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


_LITE = """
import sys, numpy as np, tensorflow as tf
interpreter = tf.lite.Interpreter(sys.argv[1])
run = interpreter.get_signature_runner()
np.savez(sys.argv[3], **run(input_2=np.load(sys.argv[2])))
"""


def test_basic_pitch_answers_as_its_tensorflow_lite_twin_does(
    python: dict[str, str], models: Path, tmp_path: Path
) -> None:
    path = resolve_model("demo:basic-pitch", models, Ui(quiet=True)).path
    x = np.random.default_rng(1).normal(size=(1, 43844, 1)).astype(np.float32)
    with serving(python, path, MODEL_NAME="basic-pitch") as server:
        assert "loading without it" in server.event("note")["message"]
        ready = server.event("ready")
        assert ready["tensorflow"].startswith("2.")
        assert all(
            ready[phase] > 0 for phase in ("interpreter_s", "import_s", "load_s", "warmup_s")
        )
        order = ["process_start", "first_line", "http_imported", "tensorflow_imported"]
        order += ["gpu_initialised", "model_loaded", "warm"]
        assert sorted(ready["marks"], key=ready["marks"].__getitem__) == order
        outputs = load(server.client.post("/predict", content=npy(x), headers=NPY))
        assert {name: outputs[name].shape for name in outputs} == {
            "contour": (1, 172, 264),
            "note": (1, 172, 88),
            "onset": (1, 172, 88),
        }
        by_json = server.client.post("/predict", json={"inputs": x.tolist()}).json()["outputs"]
        by_rows = server.client.post(
            "/v1/models/basic-pitch:predict", json={"instances": x.tolist()}
        ).json()["predictions"]
        for name in outputs:
            np.testing.assert_array_equal(np.asarray(by_json[name], np.float32), outputs[name])
            np.testing.assert_array_equal(np.asarray([by_rows[0][name]], np.float32), outputs[name])
        wrong = server.client.post("/predict", json={"inputs": [[1.0]]})
        assert wrong.status_code == 400
        assert "expected float32[?,43844,1], got shape [1, 1]" in wrong.json()["error"]
    assert not any("Traceback" in line for line in server.stderr)

    np.save(tmp_path / "x.npy", x)
    wheel = next(path.parent.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        twin = "basic_pitch/saved_models/icassp_2022/nmp.tflite"
        (tmp_path / "nmp.tflite").write_bytes(archive.read(twin))
    files = [str(tmp_path / name) for name in ("nmp.tflite", "x.npy", "lite.npz")]
    script(python, _LITE, *files)
    lite = np.load(tmp_path / "lite.npz")
    for name in outputs:
        np.testing.assert_allclose(outputs[name], lite[name], atol=1e-3)


# --- a generated MobileNetV2; stopping ---


@pytest.fixture(scope="session")
def mobilenet(python: dict[str, str], models: Path) -> Path:
    command = [f"{STOCK}/bin/python", str(APP / "make_mobilenet.py")]
    subprocess.run([*command, mobilenet_command(str(models))[-1]], env=python, check=True)
    return resolve_model("demo:mobilenet", models, Ui(quiet=True)).path


def test_mobilenet_by_row_by_batch_and_by_json(python: dict[str, str], mobilenet: Path) -> None:
    x = np.random.default_rng(2).normal(size=(4, 224, 224, 3)).astype(np.float32)
    with serving(python, mobilenet) as server:
        batch = load(server.client.post("/predict", content=npy(x), headers=NPY))
        assert batch.shape == (4, 1000)
        np.testing.assert_allclose(batch.sum(axis=1), 1, rtol=1e-5)
        assert np.ptp(batch, axis=0).max() > 1e-4  # it looks at its input
        one = load(server.client.post("/predict", content=npy(x[:1]), headers=NPY))
        np.testing.assert_allclose(one[0], batch[0], rtol=1e-3)
        rows = server.client.post(
            "/v1/models/model:predict", json={"instances": x[:1].tolist()}
        ).json()["predictions"]
        np.testing.assert_array_equal(np.asarray(rows, np.float32), one)


def test_a_client_sees_413_although_it_is_still_sending(
    python: dict[str, str], mobilenet: Path
) -> None:
    with serving(python, mobilenet) as server:
        parts = (b"x" * 2**20 for _ in range(100))
        for body in (b"x" * 100 * 2**20, parts):
            answer = server.client.post("/predict", content=body)
            assert answer.status_code == 413
        assert server.client.get("/ready").status_code == 200


def test_sigterm_finishes_what_is_in_flight_and_exits_0_quickly(
    python: dict[str, str], mobilenet: Path
) -> None:
    x = npy(np.zeros((64, 224, 224, 3), np.float32))
    grace = {"GRACE_SECONDS": "120"}  # on a busy machine such a call may take longer than the 8 s
    with serving(python, mobilenet, **grace) as server, ThreadPoolExecutor() as pool:
        answer = pool.submit(server.client.post, "/predict", content=x, headers=NPY)
        time.sleep(0.4)  # it takes longer than this
        assert not answer.done()
        server.process.send_signal(signal.SIGTERM)
        assert load(answer.result()).shape == (64, 1000)
        assert server.process.wait(timeout=10) == 0, "it does not wait for the rest of its grace"


def test_joined_calls_answer_as_single_ones(python: dict[str, str], mobilenet: Path) -> None:
    x = np.random.default_rng(3).normal(size=(8, 224, 224, 3)).astype(np.float32)
    with serving(python, mobilenet, MAX_BATCH="8", BATCH_WAIT_MS="200") as server:

        def ask(row: int) -> Any:
            body = npy(x[row : row + 1])
            return load(server.client.post("/predict", content=body, headers=NPY))

        alone = [ask(row) for row in range(8)]
        with ThreadPoolExecutor(8) as pool:
            joined = list(pool.map(ask, range(8)))
        wrong = server.client.post("/predict", content=npy(x[0]), headers=NPY)
        assert wrong.status_code == 400
    # Another batch size may take another kernel: the last bits can differ.
    np.testing.assert_allclose(np.concatenate(joined), np.concatenate(alone), rtol=1e-3, atol=1e-6)


# --- every dtype that can travel ---

_ZOO = """
import sys, tensorflow as tf
spec = tf.TensorSpec
class Zoo(tf.Module):
    @tf.function(input_signature=[spec([None], tf.string), spec([], tf.string)])
    def strings(self, words, end):
        return {"joined": words + end, "first": words[0], "raw_bytes": words}
    @tf.function(input_signature=[spec([None], tf.bfloat16), spec([None], tf.float16)])
    def halves(self, b, h):
        return {"b": b * 2, "h": h * 2}
    @tf.function(input_signature=[spec([None], tf.int64), spec([None], tf.uint8),
                                  spec([None], tf.bool)])
    def whole(self, i, u, t):
        return {"i": i + 1, "u": u + 1, "t": tf.logical_not(t)}
    @tf.function(input_signature=[spec(None, tf.float32)])
    def any_rank(self, x):
        return {"sum": tf.reduce_sum(x)}
    @tf.function(input_signature=[spec([None], tf.float32)])
    def picky(self, x):
        return {"y": tf.reshape(x, [3, 2])}
    @tf.function(input_signature=[spec([None], tf.complex64)])
    def spectrum(self, z):
        return {"z": tf.math.conj(z)}
    @tf.function(input_signature=[])
    def constant(self):
        return {"answer": tf.constant(42)}
zoo = Zoo()
names = ["strings", "halves", "whole", "any_rank", "picky", "spectrum", "constant"]
tf.saved_model.save(zoo, sys.argv[1], signatures={name: getattr(zoo, name) for name in names})
"""


def test_every_kind_of_tensor(python: dict[str, str], tmp_path: Path) -> None:
    script(python, _ZOO, str(tmp_path / "zoo"))
    with serving(python, tmp_path / "zoo") as server:

        def ask(signature: str, inputs: object) -> Any:
            answer = server.client.post("/predict", json={"signature": signature, "inputs": inputs})
            assert answer.status_code == 200, answer.text
            return answer.json()["outputs"]

        # One zero cannot be reshaped to 3 x 2; the signature is served all the same.
        assert list(server.event("ready")["warmup_failed"]) == ["picky"]
        assert ask("strings", {"words": ["ä", {"b64": "/w=="}], "end": "!"}) == {
            "joined": ["ä!", {"b64": "/yE="}],
            "first": "ä",
            "raw_bytes": [{"b64": "w6Q="}, {"b64": "/w=="}],
        }
        assert ask("halves", {"b": [1.5, 3], "h": [0.5]}) == {"b": [3.0, 6.0], "h": [1.0]}
        assert ask("whole", {"i": [2**62], "u": [254], "t": [True]}) == {
            "i": [2**62 + 1],
            "u": [255],
            "t": [False],
        }
        assert ask("any_rank", [[1, 2], [3, 4]]) == {"sum": 10.0}
        assert ask("any_rank", 5) == {"sum": 5.0}
        assert ask("constant", {}) == {"answer": 42}
        z = np.array([1 + 2j], np.complex64)
        raw = server.client.post("/predict?signature=spectrum", content=npy(z), headers=NPY)
        assert load(raw).tolist() == [1 - 2j]
        assert ask("picky", [1, 2, 3, 4, 5, 6]) == {"y": [[1, 2], [3, 4], [5, 6]]}
        refused = server.client.post("/predict", json={"signature": "picky", "inputs": [1, 2]})
        assert refused.status_code == 400
        assert "the model refused these inputs" in refused.json()["error"]
        assert server.client.get("/ready").status_code == 200


# --- broken models ---


def broken(python: dict[str, str], model: Path) -> list[str]:
    done = subprocess.run(
        [f"{STOCK}/bin/python", "-m", "tfserve_app"],
        env={**python, "TFSLIM_MODEL_PATH": str(model), "PORT": "0"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("tfserve: ")]


def test_a_damaged_graph_and_lost_variables(
    python: dict[str, str], mobilenet: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(mobilenet, damaged)
    (damaged / "saved_model.pb").write_bytes(b"\xff" * 1000)
    (line,) = broken(python, damaged)
    assert f"{damaged}: TensorFlow 2." in line
    assert "cannot load this SavedModel" in line

    lost = tmp_path / "lost"
    shutil.copytree(mobilenet, lost)
    shutil.rmtree(lost / "variables")
    (line,) = broken(python, lost)
    assert "is the copy complete" in line


def test_a_model_without_signatures(python: dict[str, str], tmp_path: Path) -> None:
    source = "import sys, tensorflow as tf; tf.saved_model.save(tf.Module(), sys.argv[1])"
    script(python, source, str(tmp_path / "mute"))
    (line,) = broken(python, tmp_path / "mute")
    assert "has no serving signatures" in line
