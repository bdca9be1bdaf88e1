"""Each variant, built and tried for real: it serves, it is safe, and it holds what it promises."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest
from conftest import launch_of, run

from tfslim.bench.container import Service, launch
from tfslim.bench.load import make_request
from tfslim.build.bake import BuiltImage
from tfslim.errors import ServiceError
from tfslim.pipeline import Line

if TYPE_CHECKING:
    import docker

pytestmark = pytest.mark.image

NATIVE = ("inference-native", "workload-native")
MINIMAL = ("inference", "workload", *NATIVE)
OURS = ("approach-a", "approach-b", "training", *MINIMAL)
LIST_GPUS = "import tensorflow as tf; print('GPUS', len(tf.config.list_physical_devices('GPU')))"


def only(variant: str, *wanted: str) -> None:
    if variant not in wanted:
        pytest.skip(f"about {', '.join(wanted)}")


def test_the_image_came_out_of_the_build(image: BuiltImage) -> None:
    assert image.digest.startswith("sha256:")
    assert image.steps > 0
    assert all(base.pin for base in image.bases.values())


def test_it_serves_the_demonstration_model(service: Service, image: BuiltImage) -> None:
    health = service.http.get("/health").json()
    assert health["tensorflow"] == image.build.tensorflow
    assert health["gpus"] == []
    assert health["backend"] == ("capi" if image.build.variant in NATIVE else "tensorflow")
    request = make_request(service.http, "basic-pitch", 2)
    answer = service.http.post(
        "/predict", content=request.content, headers={"Content-Type": request.content_type}
    )
    assert answer.status_code == httpx.codes.OK, answer.text
    outputs = np.load(io.BytesIO(answer.content))
    assert all(outputs[name].shape[0] == 2 for name in outputs.files)
    assert all(np.isfinite(outputs[name]).all() for name in outputs.files)


def test_it_answers_in_tensorflow_servings_form(service: Service) -> None:
    body = {"inputs": np.zeros((1, 43844, 1)).tolist()}
    answer = service.http.post("/v1/models/basic-pitch:predict", json=body)
    assert answer.status_code == httpx.codes.OK
    assert set(answer.json()["outputs"]) == {"contour", "note", "onset"}


def test_a_wrong_shape_is_refused_with_what_was_expected(service: Service) -> None:
    answer = service.http.post("/predict", json={"inputs": [[1.0, 2.0]]})
    assert answer.status_code == httpx.codes.BAD_REQUEST
    assert "43844" in answer.text


def test_it_logs_its_own_phases(service: Service) -> None:
    event = service.ready_event()
    assert event["import_s"] > 0
    assert event["load_s"] > 0


def test_it_does_not_run_as_root(service: Service, variant: str) -> None:
    only(variant, *OURS)
    whoami = ["python", "-c", "import os; print(os.getuid(), os.getgid())"]
    assert service.container.exec_run(whoami).output.decode().strip() == "10001 10001"


def test_docker_sees_it_healthy(service: Service, variant: str) -> None:
    only(variant, *OURS)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        service.container.reload()
        if service.container.health == "healthy":
            return
        time.sleep(1)
    pytest.fail(f"health is {service.container.health}")


def test_it_stops_cleanly_when_asked(image: BuiltImage, client: docker.DockerClient) -> None:
    with launch(client, launch_of(image.build)) as service:
        service.container.stop(timeout=30)
        assert service.container.wait()["StatusCode"] == 0


def test_tensorflow_lists_a_gpu_where_a_driver_says_there_is_one(
    image: BuiltImage, variant: str, client: docker.DockerClient, fake_driver: Path
) -> None:
    if variant in NATIVE:
        pytest.skip("the stand-in cannot give TensorFlow a session; check_cuda.py ran in the build")
    status, said = run(
        client,
        image.build.tag,
        ["python", "-c", LIST_GPUS],
        volumes={str(fake_driver): {"bind": "/driver", "mode": "ro"}},
        environment={"LD_LIBRARY_PATH": "/driver"},
    )
    assert status == 0, said
    # The stock wheel does not find its own cuSOLVER: that is the bug the others mend.
    assert ("GPUS 0" if variant == "stock" else "GPUS 1") in said, said


def test_a_model_that_is_none_ends_it_with_the_reason(
    image: BuiltImage, client: docker.DockerClient, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    with (
        pytest.raises(ServiceError) as caught,
        launch(client, launch_of(image.build, model=tmp_path)),
    ):
        pytest.fail("it served a folder without a model")
    assert "exited with status 3" in caught.value.what
    assert "model cannot be served" in caught.value.why


def test_a_second_build_finds_everything_in_the_cache(line: Line, image: BuiltImage) -> None:
    (again,) = line.build([image.build])
    assert again.cached_steps == again.steps
    assert again.digest == image.digest


def test_a_model_can_be_mounted_instead(
    image: BuiltImage, variant: str, line: Line, client: docker.DockerClient
) -> None:
    only(variant, "inference")
    with launch(client, launch_of(image.build, model=line.model.path)) as service:
        assert service.http.get("/ready").status_code == httpx.codes.OK


def test_the_smallest_hold_bytecode_for_everything_and_no_development_files(
    image: BuiltImage, variant: str, client: docker.DockerClient
) -> None:
    only(variant, *MINIMAL)
    script = (
        "import importlib.util as u, pathlib, sysconfig\n"
        "site = pathlib.Path(sysconfig.get_path('purelib'))\n"
        "stdlib = pathlib.Path(sysconfig.get_path('stdlib'))\n"
        "code = [pathlib.Path(u.cache_from_source(str(p)))\n"
        "        for tree in (site, stdlib, pathlib.Path('/app')) for p in tree.rglob('*.py')]\n"
        "missing = [p for p in code if not p.exists()]\n"
        "flags = {p.read_bytes()[4] for p in code if p.exists()}\n"
        "left = [n for n in ('pip', 'clang', 'tensorflow/include/Eigen') if (site / n).exists()]\n"
        "print(len(code), 'missing', missing, 'flags', flags, 'left', left)\n"
    )
    _, said = run(client, image.build.tag, ["python", "-c", script])
    # Flags of a .pyc (PEP 552): 1 is a hash that is not checked at import.
    count, rest = said.strip().split(" ", 1)
    assert int(count) > (700 if variant in NATIVE else 3000)
    assert rest == "missing [] flags {1} left []"


def test_the_smallest_have_no_shell_and_no_package_manager(
    image: BuiltImage, variant: str, client: docker.DockerClient
) -> None:
    only(variant, *MINIMAL)
    script = (
        "import os, shutil\n"
        "print([name for name in ('sh', 'bash', 'busybox', 'apt', 'dpkg', 'perl', 'env')\n"
        "       if shutil.which(name)], sorted(os.listdir('/usr/bin')), os.listdir('/usr/sbin'))\n"
    )
    _, said = run(client, image.build.tag, ["python", "-c", script])
    assert said.strip() == "[] ['python3.13'] []"


WORKS = """
import bz2, ctypes, curses, hashlib, locale, lzma, multiprocessing, os, pwd, readline, socket
import sqlite3, ssl, tempfile, time, uuid, zlib, zoneinfo
assert ssl.create_default_context().cert_store_stats()["x509_ca"] > 100
assert zoneinfo.ZoneInfo("Pacific/Auckland").utcoffset(__import__("datetime").datetime(2026, 1, 1))
assert locale.setlocale(locale.LC_ALL, "") == "C.UTF-8"
assert pwd.getpwuid(os.getuid()).pw_name == "app"
assert socket.getaddrinfo("localhost", "https")[0][4][1] == 443
assert sqlite3.connect(":memory:").execute("select 1").fetchone() == (1,)
try:
    socket.getaddrinfo("name.invalid", 80)
except socket.gaierror as error:
    assert error.errno in (socket.EAI_NONAME, socket.EAI_AGAIN), error
with tempfile.TemporaryFile() as file:
    file.write(b"x")
with multiprocessing.Pool(1) as pool:
    assert pool.map(abs, [-1]) == [1]
"""
WITH_PYTHON = """
import tensorflow as tf
assert tf.constant([1.0, 2.0]).numpy().sum() == 3.0
print("all works")
"""
WITHOUT_PYTHON = """
import pathlib, sys, sysconfig
sys.path.insert(0, "/app")
from tfserve_app.capi.library import open_library
assert open_library().version.startswith("2.")
packages = pathlib.Path(sysconfig.get_path("purelib"))
left = {path.name for path in (packages / "tensorflow").iterdir()} - {"__pycache__", "include"}
assert left == {"__init__.py", "libtensorflow_cc.so.2", "libtensorflow_framework.so.2"}, left
assert not any((packages / name).exists() for name in ("keras", "google", "absl", "h5py"))
try:
    import tensorflow
except ImportError as error:
    assert "rule native); slim with --keep native to have it" in str(error)
    print("all works")
"""


def test_the_smallest_are_whole_with_a_read_only_root_and_no_rights(
    image: BuiltImage, variant: str, client: docker.DockerClient
) -> None:
    only(variant, *MINIMAL)
    more = WITHOUT_PYTHON if variant in NATIVE else WITH_PYTHON
    status, said = run(
        client,
        image.build.tag,
        ["python", "-c", WORKS + more],
        read_only=True,
        tmpfs={"/tmp": ""},
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true"],
    )
    assert (status, said.splitlines()[-1]) == (0, "all works"), said


def test_the_smallest_carry_what_let_them_pass_and_what_scanners_read(
    image: BuiltImage, variant: str, client: docker.DockerClient
) -> None:
    only(variant, *MINIMAL)
    script = (
        "import json, pathlib\n"
        "gate = {path.stem: json.loads(path.read_text())['outcome']\n"
        "        for path in pathlib.Path('/usr/share/tfslim').glob('gate-*.json')}\n"
        "status = pathlib.Path('/var/lib/dpkg/status.d')\n"
        "print(gate['gate-zoo'], gate['gate-model'], sep=', ')\n"
        "print('Version: ' in (status / 'libc6').read_text(),\n"
        "      pathlib.Path('/usr/share/doc/libc6/copyright').exists())\n"
    )
    _, said = run(client, image.build.tag, ["python", "-c", script])
    zoo = "not asked" if variant.startswith("workload") else "passed"
    assert said.splitlines() == [f"{zoo}, passed", "True True"]


def test_layers_come_by_how_rarely_they_change(image: BuiltImage, variant: str, line: Line) -> None:
    only(variant, *MINIMAL)
    layers = line.inspect(image.build.tag).layers
    made = [layer.created_by.split()[1] for layer in layers if layer.files]
    assert made == [
        "/layers/root",
        "/layers/cuda",
        "/layers/tensorflow",
        "/layers/python",
        "/out",
        "/layers/root",
        "/out",
        "/served",
    ]
    assert not any(layer.wasted_bytes for layer in layers)


def test_training_has_a_compiled_op_and_tensorboard_but_no_compiler(
    image: BuiltImage, variant: str, client: docker.DockerClient
) -> None:
    only(variant, "training")
    status, said = run(client, image.build.tag, ["python", "/opt/op/scale_shift.py"])
    assert status == 0, said
    assert "op and gradient agree with TensorFlow on the CPU" in said
    shell = (
        "grep -c __cudaRegisterFatBinary /opt/op/scale_shift.so; tensorboard --version; "
        "for c in gcc g++ cc nvcc; do command -v $c; done; true"
    )
    _, said = run(client, image.build.tag, ["sh", "-c", shell])
    lines = [line for line in said.splitlines() if "oneDNN" not in line]
    assert lines[0] != "0", "the op has no CUDA part"
    assert lines[-1][0].isdigit(), f"a compiler is in the image: {lines}"


def test_approach_a_uses_the_systems_cuda_and_no_wheels_beside_it(
    image: BuiltImage, variant: str, client: docker.DockerClient
) -> None:
    only(variant, "approach-a")
    script = (
        "import pathlib, sysconfig; site = pathlib.Path(sysconfig.get_path('purelib'))\n"
        "print(sorted(p.name for p in (site / 'nvidia').iterdir() if p.is_dir()))"
    )
    _, said = run(client, image.build.tag, ["python", "-c", script])
    assert "cublas" not in said.replace("cublasmp", "")
    assert "cudnn" in said
