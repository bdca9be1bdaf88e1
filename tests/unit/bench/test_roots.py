"""Unpacked images: the driver that is found, the root that is put together, what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from tfslim import proc
from tfslim.bench import driver, enter
from tfslim.bench.device import choose_root_device
from tfslim.bench.driver import Driver, find_driver
from tfslim.bench.rootfs import open_root
from tfslim.bench.sources import is_source, open_subjects
from tfslim.config import BenchConfig
from tfslim.errors import ConfigError, EngineError, InputError, ModelError
from tfslim.gpu import Gpu, Gpus
from tfslim.ui import Ui

H100 = Gpus((Gpu("H100", "9.0", 80 * 2**30, "575.57.08"),))
NONE = Gpus((), "no NVIDIA driver")


def library(folder: Path, name: str, version: str = "575.57.08") -> None:
    """Make a library as drivers are installed: a file with its version, and a link."""
    (folder / f"{name}.{version}").write_bytes(b"")
    (folder / f"{name}.1").symlink_to(f"{name}.{version}")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(driver, "_kernel_version", lambda: "575.57.08")
    folder = tmp_path / "lib"
    folder.mkdir()
    for name in ("libcuda.so", "libnvidia-ml.so", "libnvidia-ptxjitcompiler.so"):
        library(folder, name)
    return folder


def test_libraries_are_found_under_the_names_that_programs_ask_for(installed: Path) -> None:
    found = find_driver([str(installed)])
    assert found.libraries["libcuda.so.1"] == installed / "libcuda.so.575.57.08"
    assert "libnvidia-ptxjitcompiler.so.575.57.08" in found.libraries
    assert found.required == ()
    assert found.missing["libnvidia-nvvm.so"] == "NVVM compiler"
    text = "\n".join(found.describe())
    assert f"bound: libcuda.so.1 from {installed}/libcuda.so.575.57.08" in text
    assert "not on this machine: libnvidia-nvvm.so (NVVM compiler)" in text


def test_libraries_of_another_driver_than_the_kernels_are_passed_over(
    installed: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    old.mkdir()
    library(old, "libcuda.so", "535.1.2")
    found = find_driver([str(old), str(installed)])
    assert found.libraries["libcuda.so.1"].parent == installed
    assert find_driver([str(old)]).required == ("libcuda.so", "libnvidia-ml.so")


def test_what_makes_a_driver_unusable_is_named(tmp_path: Path) -> None:
    found = find_driver([str(tmp_path)])
    assert not found.usable
    assert "no libcuda.so.1 and no libnvidia-ml.so.1" in found.why_not


WHOLE = Driver(
    "575", {"libcuda.so.1": Path("/x/libcuda.so.575")}, {}, (Path("/dev/nvidia0"),), {}, ()
)
BROKEN = Driver("575", {}, {}, (), {"libcuda.so": "the CUDA driver library"}, ("libcuda.so",))


def test_a_gpu_is_found_and_never_assumed() -> None:
    there = choose_root_device("auto", lambda: WHOLE, lambda: H100)
    assert (there.gpu, there.driver) == (True, WHOLE)
    assert "H100 (driver 575.57.08)" in there.text
    assert not choose_root_device("auto", lambda: WHOLE, lambda: NONE).gpu
    assert "no libcuda.so.1" in choose_root_device("auto", lambda: BROKEN, lambda: H100).text
    assert "switched off" in choose_root_device("off", lambda: WHOLE, lambda: H100).text


@pytest.mark.parametrize(("found", "gpus"), [(WHOLE, NONE), (BROKEN, H100)])
def test_a_required_gpu_that_is_not_there_is_an_error(found: Driver, gpus: Gpus) -> None:
    with pytest.raises(EngineError, match="a GPU is required") as caught:
        choose_root_device("required", lambda: found, lambda: gpus)
    assert caught.value.why
    assert "tfslim doctor" in caught.value.way_out


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root that borrows this machine's programs: all of /usr, and links as Debian has them."""
    root = tmp_path / "root"
    (root / "app").mkdir(parents=True)
    (root / "usr").mkdir()
    (root / "lib").symlink_to("usr/lib")
    return root


def test_a_root_is_put_together_without_writing_into_it(tree: Path, tmp_path: Path) -> None:
    entries = enter.layout(tree, WHOLE, {"/.tfslim/job": (tmp_path, True)})
    by_place = {entry.at: entry for entry in entries}
    assert by_place["/app"] == enter.Entry("bind", "/app", str(tree / "app"))
    assert by_place["/lib"] == enter.Entry("link", "/lib", "usr/lib")
    assert by_place["/.tfslim/driver/libcuda.so.1"].source == "/x/libcuda.so.575"
    assert by_place["/.tfslim/job"].writable
    assert not by_place["/usr"].writable
    assert "/dev/nvidia0" in by_place
    without = {entry.at for entry in enter.layout(tree, None, {})}
    assert not any("nvidia" in at or "driver" in at for at in without)


def test_a_model_is_bound_over_the_one_in_the_image(tree: Path, tmp_path: Path) -> None:
    (tree / "model").mkdir()
    entries = enter.layout(tree, None, {"/model": (tmp_path, False)})
    assert [entry.source for entry in entries if entry.at == "/model"] == [str(tmp_path)]


def test_bubblewrap_gets_the_same_root_as_words(tree: Path) -> None:
    entries = enter.layout(tree, WHOLE, {})
    line = enter.command(
        "bubblewrap",
        entries,
        ["python", "-V"],
        env={"PATH": "/usr/bin"},
        workdir="/app",
        new_root=Path("/unused"),
    )
    text = " ".join(line)
    assert f"--ro-bind {tree}/usr /usr" in text
    assert "--dev-bind /dev/nvidia0 /dev/nvidia0" in text
    assert "--symlink usr/lib /lib" in text
    assert text.endswith(
        "--clearenv --setenv PATH /usr/bin --chdir /app --die-with-parent -- python -V"
    )


def test_where_nothing_can_enter_a_root_the_ways_out_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(enter, "_works", lambda _: False)
    with pytest.raises(InputError, match="cannot be run on this machine") as caught:
        enter.choose_tool()
    assert "bubblewrap" in caught.value.way_out
    assert "--runtime docker" in caught.value.way_out


def test_what_is_no_root_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="is not an unpacked image"),
        open_root(str(tmp_path), Ui(quiet=True)),
    ):
        pass
    with (
        pytest.raises(InputError, match="no folder and no archive") as caught,
        open_root("my/image:1", Ui(quiet=True)),
    ):
        pass
    assert "docker save my/image:1" in caught.value.way_out


def test_an_archive_says_itself_how_it_is_run(tmp_path: Path) -> None:
    layer = tmp_path / "layer.tar"
    (tmp_path / "python3").write_text("")
    with tarfile.open(layer, "w") as tar:
        tar.add(tmp_path / "python3", "usr/bin/python3")
    digest = hashlib.sha256(layer.read_bytes()).hexdigest()
    config = {
        "os": "linux",
        "architecture": "amd64",
        "config": {"Env": ["PATH=/usr/bin", "A=b"], "Cmd": ["python3", "-V"], "WorkingDir": "/usr"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    manifest = [{"Config": "config.json", "RepoTags": ["x:1"], "Layers": ["layer.tar"]}]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    archive = tmp_path / "image.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("config.json", "layer.tar", "manifest.json"):
            tar.add(tmp_path / name, name)
    with open_root(str(archive), Ui(quiet=True)) as root:
        assert (root.argv, root.workdir) == (("python3", "-V"), "/usr")
        assert root.env == {"PATH": "/usr/bin", "A": "b"}
        assert root.python == "python3"
        where = root.path
    assert not where.exists()


def test_arguments_are_variants_or_sources() -> None:
    assert not is_source("inference")
    assert all(map(is_source, ("./root", "my/image", "image:1", "image.tar", "a=my/image:1")))


@pytest.mark.parametrize(
    ("runtime", "source", "message"),
    [
        ("rootfs", "my/image:1", "the runtime is rootfs"),
        ("docker", "ROOT", "the runtime is docker"),
    ],
)
def test_a_runtime_that_cannot_run_a_source_says_so(
    runtime: str, source: str, message: str, tree: Path
) -> None:
    settings = BenchConfig(runtime=runtime)
    given = source.replace("ROOT", str(tree))
    with (
        pytest.raises(ConfigError, match=message),
        open_subjects([given], settings, model=None, engine=pytest.fail, ui=Ui(quiet=True)),
    ):
        pass


def test_a_tree_needs_a_model(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").touch()
    settings = BenchConfig(gpu="off")
    with (
        pytest.raises(ModelError, match="holds no model"),
        open_subjects([str(tmp_path)], settings, model=None, engine=pytest.fail, ui=Ui(quiet=True)),
    ):
        pass


# ---- for real, where this machine lets a root be entered ----


def _tools() -> list[str]:
    """Return the tools that work here."""
    found = ["bubblewrap"] if shutil.which("bwrap") else []
    namespace = list(enter._NAMESPACE)
    if os.geteuid() == 0 and proc.run([*namespace, "true"]).ok:
        found.append("chroot")
    if proc.run([*namespace, "--user", "--map-root-user", "true"]).ok:
        found.append("user namespace")
    return found


@pytest.mark.parametrize("tool", _tools())
def test_a_script_sees_the_root_the_job_and_its_variables_only(
    tool: enter.Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEAKED", "yes")
    root = tmp_path / "own"
    root.mkdir()
    for name in ("lib", "lib64", "bin"):
        if Path("/", name).is_symlink():
            (root / name).symlink_to(Path("/", name).readlink())
    if not Path("/usr/bin/python3").exists():
        pytest.skip("needs a Python in /usr/bin")
    # A folder that leads to this machine's /usr stands for an image that has a Python.
    entries = enter.layout(root, None, {"/usr": (Path("/usr"), False)})
    (tmp_path / "new").mkdir()
    script = "import os; print(sorted(os.environ), sorted(os.listdir('/')), os.getcwd())"
    line = enter.command(
        tool,
        entries,
        ["python3", "-c", script],
        env={"PATH": "/usr/bin"},
        workdir="/tmp",
        new_root=tmp_path / "new",
    )
    done = proc.run(line, timeout=60)
    assert done.ok, done.tail
    assert "'LEAKED'" not in done.stdout
    assert "'usr'" in done.stdout
    assert done.stdout.rstrip().endswith("/tmp")
    assert "'home'" not in done.stdout  # nothing of this machine but what was bound
    assert sorted(path.name for path in root.iterdir()) == sorted(
        name for name in ("lib", "lib64", "bin") if Path("/", name).is_symlink()
    )
