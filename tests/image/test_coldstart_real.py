"""Cold starts on the real engine: a small service of ours and a foreign one, and a real pull."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tfslim.bench.coldfind import Find
from tfslim.bench.coldstart import Subject, Wish, cold_starts
from tfslim.bench.registry import find_tools, measure_pull
from tfslim.bench.results import ColdStarts
from tfslim.build.bases import ensure_bases
from tfslim.config import BenchConfig
from tfslim.engine.engine import Engine, find_engine
from tfslim.ui import Ui

pytestmark = pytest.mark.image

PYTHON = "python:3.13-slim-trixie"
TAG = "tfslim-test/cold:1"
DATA = 24 << 20  # bytes that a start reads, and that a cold start reads from storage
SERVICE = """
import hashlib, http.server, json, sys, time
first = time.monotonic()
hashlib.sha256(open("/data", "rb").read())
read = time.monotonic()
print("half of what it says is not for us")

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass

server = http.server.HTTPServer(("0.0.0.0", 8080), Handler)
if sys.argv[1:] != ["foreign"]:
    marks = {"process_start": first, "first_line": first, "tensorflow_imported": first,
             "gpu_initialised": first, "model_loaded": read, "warm": time.monotonic()}
    print(json.dumps({"event": "ready", "marks": marks}), flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def engine() -> Engine:
    return find_engine(Ui(), setup=os.geteuid() == 0)


@pytest.fixture(scope="module")
def client(
    engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[docker.DockerClient]:
    """An engine with two small images: one that gives marks, and one that does not."""
    folder = tmp_path_factory.mktemp("service")
    (folder / "data").write_bytes(os.urandom(DATA))
    (folder / "service.py").write_text(SERVICE)
    (folder / "Dockerfile").write_text(
        f"FROM {PYTHON} AS ours\nCOPY data service.py /\nEXPOSE 8080\n"
        'CMD ["python3", "-u", "/service.py"]\n'
        'FROM ours AS foreign\nCMD ["python3", "-u", "/service.py", "foreign"]\n'
    )
    base = ensure_bases(engine, [PYTHON], "auto", Ui())[PYTHON]
    for target in ("ours", "foreign"):
        args = ["build", "--load", f"--build-context={PYTHON}={base.context}"]
        args += [f"--target={target}", "-t", f"{TAG}-{target}", str(folder)]
        done = engine.buildx(args)
        assert done.ok, done.tail
    client = engine.client()
    yield client
    for target in ("ours", "foreign"):
        client.images.remove(f"{TAG}-{target}", force=True)
    client.close()


@pytest.fixture(scope="module")
def result(client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> ColdStarts:
    # evict, not drop: other programs on the machine keep their files in memory.
    return cold_starts(
        client,
        [Subject("ours", f"{TAG}-ours"), Subject("foreign", f"{TAG}-foreign")],
        BenchConfig(),
        Wish(2, "evict", Find(path="/")),
        gpu=False,
        folder=tmp_path_factory.mktemp("out"),
        ui=Ui(interactive=False),
    )


def test_every_image_in_every_state(result: ColdStarts) -> None:
    told = {(one.subject, one.page_cache, one.round) for one in result.launches}
    states = ["warm"] if result.cold_cache.startswith("not measured") else ["cold", "warm"]
    assert told == {(s, p, n) for s in ("ours", "foreign") for p in states for n in (0, 1)}


def test_marks_inside_and_clock_outside_are_one(result: ColdStarts) -> None:
    for one in (one for one in result.launches if one.subject == "ours"):
        assert set(one.phases_s) >= {"create", "model_load", "first_answer", "second_answer"}
        assert one.phases_s["create"] > 0
        assert one.phases_s["model_load"] > 0
        first = sum(s for name, s in one.phases_s.items() if name != "second_answer")
        assert first == pytest.approx(one.first_answer_s, abs=1e-4)
        assert one.ready_s < one.first_answer_s
    assert not any("another machine" in note for note in result.notes)


def test_a_foreign_image_says_less_and_the_notes_say_so(result: ColdStarts) -> None:
    foreign = [one for one in result.launches if one.subject == "foreign"]
    assert all(set(one.phases_s) == {"create", "first_answer", "second_answer"} for one in foreign)
    assert any("foreign" in note and "no marks" in note for note in result.notes)


def test_cold_starts_read_what_warm_ones_find_in_memory(result: ColdStarts) -> None:
    if result.cold_cache.startswith("not measured"):
        pytest.skip(result.cold_cache)
    for one in result.launches:
        if one.read_bytes is None:
            pytest.skip("bytes read are not counted here")
        if one.page_cache == "cold":
            assert one.read_bytes >= DATA
        else:
            assert one.read_bytes < DATA


def test_pull_from_a_registry_on_loopback(client: docker.DockerClient) -> None:
    if os.geteuid() != 0:
        pytest.skip("a pull into a store of its own needs root")
    ui = Ui(interactive=False)
    tools = find_tools(ui)
    before = {tag for image in client.images.list() for tag in image.tags}
    with ui.step("pull") as step:
        pull = measure_pull(tools, client, f"{TAG}-ours", subject="ours", turn=0, step=step)
    assert pull.pull_bytes > DATA  # it does not compress
    assert pull.layers >= 2
    assert pull.pull_s > 0
    assert pull.unpack_s > 0
    assert {tag for image in client.images.list() for tag in image.tags} == before
    assert not tools.folder.exists()
    assert str(tools.folder) not in Path("/proc/self/mounts").read_text()
