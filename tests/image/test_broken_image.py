"""The parity gate on images: one that is broken on purpose, and looks whole, has to fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest

from tfslim.config import Config
from tfslim.parity.gate import Request, verify
from tfslim.parity.verdict import Verdict
from tfslim.pipeline import Line
from tfslim.plan import make_plan
from tfslim.ui import Ui

pytestmark = pytest.mark.image

# One layer of Keras computes what differs in the last bits; the bytecode is made anew, too.
BREAK = """
import pathlib, py_compile, sysconfig
layer = pathlib.Path(sysconfig.get_path("purelib"), "keras/src/layers/preprocessing/rescaling.py")
broken = '''
_call = Rescaling.call
Rescaling.call = lambda self, inputs: _call(self, inputs) * 1.0000002
'''
layer.write_text(layer.read_text() + broken)
py_compile.compile(str(layer), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
"""


@contextmanager
def broken(client: docker.DockerClient, image: str) -> Iterator[str]:
    """Give an image that computes something else than this one; it is removed afterwards."""
    repository, tag = "tfslim-test/broken", "1"
    config = client.images.get(image).attrs["Config"]
    container = client.containers.create(image, ["python", "-c", BREAK], user="0:0")
    try:
        container.start()
        assert container.wait(timeout=300)["StatusCode"] == 0, container.logs().decode()
        kept = {name: config.get(name) for name in ("Cmd", "Entrypoint", "User")}
        container.commit(repository, tag, conf=kept)
    finally:
        container.remove(force=True, v=True)
    try:
        yield f"{repository}:{tag}"
    finally:
        client.images.remove(f"{repository}:{tag}", force=True)


def judged(client: docker.DockerClient, stock: str, slim: str) -> Verdict:
    return verify(Request(stock, slim, gpu="off"), lambda: client, Ui(quiet=True))


def test_a_slim_image_that_is_broken_on_purpose_fails(
    line: Line,
    client: docker.DockerClient,
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stock, slim = (
        line.build(make_plan(config, [name]))[0].build.tag for name in ("stock", "inference")
    )
    monkeypatch.chdir(tmp_path)  # where the zoo is kept
    with broken(client, slim) as image:
        verdict = judged(client, stock, image)
    assert verdict.outcome == "failed"
    failed = {model.name for model in verdict.models if model.outcome == "failed"}
    assert failed == {"two-ways.keras"}, "what the layer is not in answers as before"
    (model,) = [model for model in verdict.models if model.name in failed]
    assert "values differ" in "\n".join(call.reason for call in model.calls) + model.reason
