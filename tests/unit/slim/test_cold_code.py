"""Code that is put aside comes back when it is touched: in threads, children, with other handlers.

A real library of a few megabytes of code is compiled, put aside, and run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tfslim.errors import SlimError
from tfslim.slim.cold import apply, sidefile
from tfslim.slim.cold.apply import put_aside
from tfslim.slim.elf import PAGE, FormatRefusedError
from tfslim.ui import Ui

LIBRARY = "libtensorflow_cc.so.2"
FUNCTIONS = 600
SHOW = (
    "import sys; from tfslim.slim.cold.runtime import compiled; "
    "sys.stdout.buffer.write(compiled()[:4])"
)
PATHS = ":".join(["$ORIGIN"] * 8)  # named several times, as TensorFlow 2.21's build does
BUILT = "$ORIGIN/../_solib_local/_Utensorflow:$ORIGIN/:$ORIGIN/../nvidia/cublas/lib"  # 2.16's

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None or not list(Path("/usr/lib").glob("*/libzstd.a")),
    reason="needs a C compiler and libzstd-dev, as --host-code cold itself",
)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with functions of a page and more each, and a hole for its program headers."""
    folder = tmp_path_factory.mktemp("compiled")
    functions = "\n".join(
        f"__attribute__((aligned(4096))) int f{i}(int x) {{ {filler(i)} return x * {i} + 1; }}"
        for i in range(FUNCTIONS)
    )
    table = ", ".join(f"f{i}" for i in range(FUNCTIONS))
    source = folder / "code.c"
    source.write_text(
        f"{functions}\nint (*const all[])(int) = {{{table}}};\n"
        "int call(int i, int x) { return all[i](x); }\n"
    )
    return link(source, PATHS)


def link(source: Path, paths: str) -> Path:
    """Make the library, with a path on which others are searched."""
    library = source.with_name(LIBRARY)
    flags = ["-shared", "-fPIC", "-O0", "-Wl,-z,now", f"-Wl,-rpath,{paths}", "-Wl,--hash-style=gnu"]
    subprocess.run(["cc", *flags, "-o", library, source], check=True)
    return library


def filler(i: int) -> str:
    return " ".join(f"if (x == {1000 + k * 7 + i}) x += {k};" for k in range(40))


@pytest.fixture
def tree(compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The library in a tree; its program headers were moved to pages of their own before."""
    tree = tmp_path / "tree"
    tree.mkdir()
    shutil.copy2(compiled, tree)
    move_headers(tree / LIBRARY)
    return tree


def move_headers(library: Path) -> None:
    """Do what slimming GPU code does: give the program headers whole pages, with room to grow."""
    import struct  # noqa: PLC0415

    data = bytearray(library.read_bytes())
    phoff, phnum = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<H", data, 56)[0]
    headers = [list(struct.unpack_from("<IIQQQQQQ", data, phoff + 56 * i)) for i in range(phnum)]
    end = max(h[3] + h[6] for h in headers if h[0] == 1)
    address = -(-end // PAGE) * PAGE
    data += bytes(-len(data) % PAGE)
    offset = len(data)
    spare = next(h for h in headers if h[0] in (4, 0x6474E551))  # a note or the stack's
    headers.remove(spare)
    headers.append([1, 4, offset, address, address, PAGE, PAGE, PAGE])
    headers.sort(key=lambda h: (h[0] != 6, h[0] != 1, h[3]))
    packed = b"".join(struct.pack("<IIQQQQQQ", *h) for h in headers)
    data += packed.ljust(PAGE, b"\0")
    struct.pack_into("<Q", data, 32, offset)
    struct.pack_into("<H", data, 56, len(headers))
    library.write_bytes(data)


# A mount namespace in which nothing can be written, and a process without any capability.
LOCKED = (
    "unshare",
    "--mount",
    "sh",
    "-c",
    "mount -o remount,bind,ro / && exec setpriv --bounding-set=-all --inh-caps=-all "
    '--no-new-privs "$@"',
    "sh",
)


def run(
    tree: Path, code: str, within: tuple[str, ...] = (), **env: str
) -> subprocess.CompletedProcess[str]:
    script = (
        "import ctypes, sys\n"
        f"lib = ctypes.CDLL({str(tree / LIBRARY)!r})\n"
        f"right = lambda i: lib.call(i, 5) == 5 * i + 1\n{code}"
    )
    return subprocess.run(
        [*within, sys.executable, "-c", script],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_all_code_answers_as_before_and_the_files_are_smaller(tree: Path) -> None:
    before = (tree / LIBRARY).stat().st_size
    (became,) = put_aside(tree, None, Ui(quiet=True))
    assert became.restored == ""
    assert became.after + became.packed < before / 2
    assert (became.hot, became.cold > 2 << 20) == (0, True)
    done = run(tree, f"print(all(right(i) for i in range({FUNCTIONS})))")
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_folders_that_only_a_build_has_make_room_too(compiled: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree" / "tensorflow"
    tree.mkdir(parents=True)
    shutil.copy2(compiled.with_name("code.c"), tree)
    move_headers(link(tree / "code.c", BUILT))
    (cold,) = put_aside(tree, None, Ui(quiet=True))
    assert cold.restored == ""
    said = subprocess.run(
        ["readelf", "-d", tree / LIBRARY], capture_output=True, text=True, check=True
    )
    assert "[$ORIGIN/:$ORIGIN/../nvidia/cublas/lib]" in said.stdout
    assert run(tree, "print(all(right(i) for i in range(600)))").stdout == "True\n"


def test_a_search_path_with_nothing_to_spare_is_left_as_it_is(
    compiled: Path, tmp_path: Path
) -> None:
    tree = tmp_path / "tree" / "tensorflow"
    tree.mkdir(parents=True)
    (tmp_path / "tree" / "_solib_local" / "_Utensorflow").mkdir(parents=True)
    shutil.copy2(compiled.with_name("code.c"), tree)
    library = link(tree / "code.c", BUILT)
    move_headers(library)
    before = library.read_bytes()
    (cold,) = put_aside(tree, None, Ui(quiet=True))
    assert "no room for a name" in cold.restored
    assert library.read_bytes() == before


def test_pages_that_were_touched_stay_as_they_are(tree: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def touch() -> set[int]:
        done = run(tree, "print(all(right(i) for i in range(0, 300, 3)))", TFSLIM_COLD_LOG=str(log))
        assert done.stdout == "True\n", done.stderr
        return {int(line, 16) for line in log.read_text().split()}

    (became,) = put_aside(tree, touch, Ui(quiet=True))
    assert became.touched >= 100
    assert 0 < became.hot < became.cold
    log.unlink()
    done = run(tree, "print(all(right(i) for i in range(0, 300, 3)))", TFSLIM_COLD_LOG=str(log))
    assert done.stdout == "True\n", done.stderr
    assert log.read_text() == ""
    done = run(tree, f"print(all(right(i) for i in range({FUNCTIONS})))", TFSLIM_COLD_LOG=str(log))
    assert done.stdout == "True\n", done.stderr
    assert log.read_text() != ""


def test_threads_and_forked_children_find_all_of_it(tree: Path) -> None:
    put_aside(tree, None, Ui(quiet=True))
    done = run(
        tree,
        "import os, threading\n"
        "wrong = []\n"
        f"def walk(): wrong.extend(i for i in range({FUNCTIONS}) if not right(i))\n"
        "threads = [threading.Thread(target=walk) for _ in range(8)]\n"
        "[t.start() for t in threads]\n"
        "child = os.fork()\n"
        "if not child:\n    walk(); os._exit(len(wrong) > 0)\n"
        "[t.join() for t in threads]\n"
        "print(len(wrong), os.waitpid(child, 0)[1])",
    )
    assert (done.stdout, done.returncode) == ("0 0\n", 0), done.stderr


@pytest.mark.skipif(
    shutil.which("setpriv") is None
    or subprocess.run([*LOCKED, "true"], capture_output=True, check=False).returncode != 0,
    reason="needs to be root, in a place where that can make mount namespaces",
)
def test_a_read_only_root_and_no_privileges_are_enough(tree: Path) -> None:
    put_aside(tree, None, Ui(quiet=True))
    done = run(
        tree,
        f"print(all(right(i) for i in range({FUNCTIONS})))\nopen({str(tree / 'written')!r}, 'w')",
        within=LOCKED,
    )
    assert done.stdout == "True\n", done.stderr
    assert "Read-only file system" in done.stderr


@pytest.mark.parametrize("when", ["before", "after"])
def test_pythons_faulthandler_and_the_code_do_not_disturb_each_other(tree: Path, when: str) -> None:
    put_aside(tree, None, Ui(quiet=True))
    enable = "import faulthandler; faulthandler.enable()\n"
    env = {"PYTHONFAULTHANDLER": "1"} if when == "before" else {}
    code = f"{'' if env else enable}print(all(right(i) for i in range({FUNCTIONS})), flush=True)\n"
    done = run(tree, code, **env)
    assert (done.stdout, done.stderr) == ("True\n", "")
    done = run(tree, f"{code}ctypes.string_at(8)", **env)
    assert done.stdout == "True\n"
    assert done.returncode == -11
    assert "Segmentation fault" in done.stderr


def test_a_fault_that_is_not_ours_ends_the_process_as_always(tree: Path) -> None:
    put_aside(tree, None, Ui(quiet=True))
    assert run(tree, "ctypes.string_at(8)").returncode == -11
    assert run(tree, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)").returncode == -11


@pytest.mark.parametrize("harm", ["gone", "cut", "other"])
def test_a_damaged_side_file_is_told_in_one_line(tree: Path, harm: str) -> None:
    put_aside(tree, None, Ui(quiet=True))
    side = tree / f"{LIBRARY}.cold"
    if harm == "gone":
        side.unlink()
    elif harm == "cut":
        side.write_bytes(b"")
    else:
        with (tree / LIBRARY).open("ab") as file:
            file.write(b"x")
    done = run(tree, "print(right(3))")
    assert done.returncode == 79
    assert done.stderr.startswith("tfslim: code that was put aside (--host-code cold) cannot be")
    assert done.stderr.count("\n") == 1


def test_whatever_goes_wrong_the_library_comes_back(tree: Path) -> None:
    before = {path.name: path.read_bytes() for path in tree.iterdir()}

    def fail() -> set[int]:
        raise RuntimeError("the models do not run")

    with pytest.raises(RuntimeError):
        put_aside(tree, fail, Ui(quiet=True))
    assert {path.name: path.read_bytes() for path in tree.iterdir()} == before


def test_a_second_time_there_is_nothing_left_to_do(tree: Path) -> None:
    put_aside(tree, None, Ui(quiet=True))
    before = {path.name: path.read_bytes() for path in tree.iterdir()}
    with pytest.raises(SlimError, match="has no TensorFlow library"):
        put_aside(tree, None, Ui(quiet=True))
    assert {path.name: path.read_bytes() for path in tree.iterdir()} == before


def test_without_a_compiler_it_says_what_to_install(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SlimError, match="needs a C compiler"):
        put_aside(tree, None, Ui(quiet=True))


def test_what_was_compiled_before_needs_no_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Path(apply.__file__).parents[2]
    shutil.copytree(package, tmp_path / "tfslim", ignore=shutil.ignore_patterns("__pycache__"))
    module = "tfslim.slim.cold.runtime"
    for code, path in ((["-m", module], os.environ["PATH"]), (["-c", SHOW], "/nowhere")):
        done = subprocess.run(
            [sys.executable, *code],
            env={"PATH": path, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            check=True,
        )
    assert done.stdout == b"\x7fELF"


def test_a_library_without_room_is_left_as_it_is(compiled: Path, tmp_path: Path) -> None:
    library = tmp_path / LIBRARY
    shutil.copy2(compiled, library)
    (became,) = apply.put_aside(tmp_path, None, Ui(quiet=True))
    assert "no room" in became.restored
    assert library.read_bytes() == compiled.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [LIBRARY]


def test_runs_of_cold_pages_leave_out_what_lies_close_to_hot_ones() -> None:
    runs = sidefile.cold_runs(0, 20 * PAGE, [4 * PAGE, 6 * PAGE, 12 * PAGE, 99 * PAGE])
    assert runs == ((0, 4 * PAGE), (7 * PAGE, 5 * PAGE), (13 * PAGE, 7 * PAGE))


@pytest.mark.parametrize(
    "hot", [[], [0], [3 * PAGE, 4 * PAGE], [9 * PAGE], range(0, 10 * PAGE, PAGE)]
)
def test_a_side_file_gives_back_what_it_was_given(tmp_path: Path, hot: list[int]) -> None:
    code = os.urandom(10 * PAGE)
    place = tmp_path / "side"
    runs = sidefile.cold_runs(7 * PAGE, len(code), [7 * PAGE + page for page in hot])
    sidefile.write(place, code, 7 * PAGE, runs, library_size=1, chunk=2 * PAGE)
    assert sidefile.read_code(place) == (7 * PAGE, code)


def test_cold_code_that_resembles_hot_code_takes_little_room(tmp_path: Path) -> None:
    once = os.urandom(64 * PAGE)
    code = once + os.urandom(64 * PAGE) + once
    hot = range(0, 64 * PAGE, PAGE)
    runs = sidefile.cold_runs(0, len(code), hot)
    place = tmp_path / "side"
    sized = sidefile.write(place, code, 0, runs, library_size=1)
    assert sized.cold == 128 * PAGE
    assert sized.packed < 66 * PAGE
    assert sidefile.read_code(place) == (0, code)


@pytest.mark.parametrize("length", [0, 10, 70, 5000])
def test_a_side_file_that_is_cut_off_is_refused(tmp_path: Path, length: int) -> None:
    place = tmp_path / "side"
    runs = sidefile.cold_runs(0, 4 * PAGE, [])
    sidefile.write(place, os.urandom(4 * PAGE), 0, runs, library_size=1)
    place.write_bytes(place.read_bytes()[:length])
    with pytest.raises(FormatRefusedError):
        sidefile.read_code(place)
