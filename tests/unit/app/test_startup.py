"""The service as a process: settings, bad models, signals, the health check. No TensorFlow."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tfserve_app.errors import ModelLoadError, SettingsError
from tfserve_app.savedmodel import locate
from tfserve_app.settings import Settings

APP = Path(__file__).parents[3] / "dockerfiles" / "app"


def run(env: dict[str, str], *, cwd: Path = APP) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tfserve_app"],
        cwd=cwd,
        env={**os.environ, "PORT": "0", "HOST": "127.0.0.1", **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def error_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("tfserve: ")]


def saved_model(path: Path) -> Path:
    (path / "variables").mkdir(parents=True)
    (path / "saved_model.pb").write_bytes(b"not really")
    return path


# --- settings ---


def test_settings_from_the_environment() -> None:
    assert Settings.from_env({}) == Settings()
    assert Settings.from_env({"PORT": "", "MODEL_NAME": ""}) == Settings()
    changed = Settings.from_env(
        {"TFSLIM_MODEL_PATH": "/m", "MODEL_NAME": "toy-1.2", "PORT": "0", "MAX_BODY_BYTES": "10"}
    )
    assert changed == Settings(Path("/m"), "toy-1.2", port=0, max_body_bytes=10)
    assert changed.held_limit == 80
    assert Settings.from_env({"WARMUP_BATCHES": "1, 8"}).warmup_batches == (1, 8)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("PORT", "http"),
        ("PORT", "65536"),
        ("MAX_BODY_BYTES", "0"),
        ("MODEL_NAME", "a/b"),
        ("WARMUP_BATCHES", "1,0"),
        ("READ_SECONDS", "-1"),
    ],
)
def test_a_bad_setting_is_named(key: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{key}='{value}'"):
        Settings.from_env({key: value})


def test_a_bad_setting_ends_the_process_with_2() -> None:
    done = run({"PORT": "http"})
    assert done.returncode == 2
    assert error_lines(done) == ["tfserve: PORT='http': a whole number from 0 to 65535 is expected"]
    assert "Traceback" not in done.stderr


# --- finding the model ---


def test_locate_takes_a_model_or_its_highest_version(tmp_path: Path) -> None:
    plain = saved_model(tmp_path / "plain")
    assert (locate(plain).path, locate(plain).version) == (plain, "1")
    for version in ("2", "10", "not-a-version"):
        saved_model(tmp_path / "many" / version)
    (tmp_path / "many" / "11").mkdir()
    assert locate(tmp_path / "many").version == "10"


def test_locate_says_what_is_there_instead(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="does not exist; mount a SavedModel"):
        locate(tmp_path / "gone")
    (tmp_path / "m.keras").touch()
    with pytest.raises(ModelLoadError, match=r"is a Keras file.*model\.export"):
        locate(tmp_path / "m.keras")
    with pytest.raises(ModelLoadError, match=r"no saved_model\.pb in it; found: m\.keras"):
        locate(tmp_path)


def test_no_model_ends_the_process_with_3_at_once(tmp_path: Path) -> None:
    start = time.monotonic()
    done = run({"TFSLIM_MODEL_PATH": str(tmp_path)})
    assert done.returncode == 3
    assert error_lines(done) == [
        f"tfserve: model cannot be served: {tmp_path}: is not a SavedModel (no saved_model.pb in "
        "it; found: nothing); export it with model.export('/path/to/folder') in Keras"
    ]
    assert time.monotonic() - start < 5, "nothing heavy is imported before the model is found"


def test_a_failure_while_loading_ends_the_process_with_3(tmp_path: Path) -> None:
    model = saved_model(tmp_path / "model")
    (tmp_path / "tensorflow.py").write_text("raise ImportError('libcudart.so.12 is missing')")
    done = run({"TFSLIM_MODEL_PATH": str(model), "PYTHONPATH": f"{tmp_path}:{APP}"})
    assert done.returncode == 3
    assert error_lines(done) == [
        "tfserve: model cannot be served: TensorFlow cannot be imported: libcudart.so.12 is missing"
    ]


def test_a_taken_port_ends_the_process_with_4(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run({"TFSLIM_MODEL_PATH": str(saved_model(tmp_path / "m")), "PORT": port})
    assert done.returncode == 4
    assert f"cannot listen on 127.0.0.1:{port}" in error_lines(done)[0]


def test_the_collector_rests_while_the_model_loads(tmp_path: Path) -> None:
    (tmp_path / "tensorflow.py").write_text(
        "import gc; raise ImportError(f'the collector is on: {gc.isenabled()}')"
    )
    model = saved_model(tmp_path / "model")
    done = run({"TFSLIM_MODEL_PATH": str(model), "PYTHONPATH": f"{tmp_path}:{APP}"})
    assert "the collector is on: False" in done.stderr


# --- alive while loading; stopping ---

_SLOW_TENSORFLOW = "import time; time.sleep(60)"


def test_health_answers_while_tensorflow_loads_and_sigterm_exits_0(tmp_path: Path) -> None:
    (tmp_path / "tensorflow.py").write_text(_SLOW_TENSORFLOW)
    env = {
        **os.environ,
        "TFSLIM_MODEL_PATH": str(saved_model(tmp_path / "model")),
        "PYTHONPATH": f"{tmp_path}:{APP}",
        "HOST": "127.0.0.1",
        "PORT": "0",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "tfserve_app"], env=env, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        listening = json.loads(child.stdout.readline())
        assert listening["event"] == "listening"
        health = healthcheck(listening["port"])
        assert health.returncode == 1
        assert "503" in health.stdout
        start = time.monotonic()
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=10) == 0
        assert time.monotonic() - start < 3


# --- health check ---


def healthcheck(port: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-IS", str(APP / "healthcheck.py")],
        env={"PORT": str(port), "HOST": "0.0.0.0"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(("status", "code"), [("200 OK", 0), ("503 Service Unavailable", 1)])
def test_healthcheck_follows_ready(status: str, code: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        asked: list[bytes] = []

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                asked.append(connection.recv(1000))
                connection.sendall(f"HTTP/1.1 {status}\r\n\r\n".encode())

        thread = threading.Thread(target=answer)
        thread.start()
        done = healthcheck(server.getsockname()[1])
        thread.join()
    assert done.returncode == code
    assert asked[0].startswith(b"GET /ready ")


def test_healthcheck_without_a_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = healthcheck(port)
    assert done.returncode == 1
    assert "not reachable" in done.stdout
    assert "Traceback" not in done.stderr
